//! What every frame looks like as bytes, and what becomes of bytes that are no frames.

use std::borrow::Cow;
use std::fmt::Debug;
use std::iter::repeat_with;

use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::codec::{Decoder, Encoder};

use super::codec::{self, Codec, Message, Unsendable, Violation, take_magic};
use super::frame::{
    Ancestor, Hello, LeaseKind, Limits, Open, Pack, Placed, Ready, Run, Sandbox, Shape, TaskType, ToParent,
    ToWorker, Tree, Verdict,
};
use super::payload::Payload;
use super::{HEADER_LIMIT, MESSAGE_LIMIT, PREAMBLE_LIMIT, TO_PARENT_MAGIC, TO_WORKER_MAGIC};
use crate::arena::Span;
use crate::id::{TaskId, WorkerId};

/// Names each variant. A variant that is missing here is a compile error; one without an example fails a test.
macro_rules! variants {
    ($name:ident, $type:ident: $($variant:ident)*) => {
        fn $name(value: &$type) -> &'static str {
            match value { $($type::$variant { .. } => stringify!($variant),)* }
        }
        impl Named for $type {
            const NAMES: &'static [&'static str] = &[$(stringify!($variant)),*];
            fn name(&self) -> &'static str { $name(self) }
        }
    };
}

trait Named {
    const NAMES: &'static [&'static str];
    fn name(&self) -> &'static str;
}

variants!(to_worker, ToWorker: Hello Run Pack Recall Credit Cancel Chunk Drain Ping Pong Nudge Lease Granted Returned
    Spans Released);
variants!(to_parent, ToParent: Ready Open Started Recalled Item Done Chunk Log Usage Bye Ping Pong Nudge Lease Granted
    Returned Spans Released Answers Cut);
variants!(verdict, Verdict: Returned Panicked Cancelled UnknownTask BadInput BadOutput TooLarge);
variants!(lease, LeaseKind: Place Process);
variants!(sandbox, Sandbox: Contain);

fn task(serial: u32) -> TaskId {
    TaskId::new(serial, 2)
}

/// A frame, its body, and the bytes of both with the length before them.
type Golden<F> = (F, &'static [u8], &'static str);

fn placed() -> Vec<Placed> {
    let span = |offset, length| Span { offset, length };
    vec![Placed { at: 5, span: span(0, 40_000) }, Placed { at: 300, span: span(20_480, 1 << 20) }]
}

fn golden_to_worker() -> Vec<Golden<ToWorker>> {
    let hello = Hello {
        version: 1,
        worker: WorkerId::new(7, 3),
        nonce: *b"0123456789abcdef",
        ancestors: vec![Ancestor { pid: 300, start: 70_000 }, Ancestor { pid: 1, start: 2 }],
        depth: 2,
        tree: Tree {
            path: vec![WorkerId::new(9, 1)],
            deepest: 8,
            places: 16,
            cores: 2,
            graces_ms: (800, 640),
        },
        limits: Limits { message: 256 << 20, slots: 4 },
        sandbox: Sandbox::Contain,
        log: 3,
        looks: true,
    };
    let run = Run { task: task(1), attempt: 1, index: 5, remaining_us: None, trace: None };
    let traced = Run { remaining_us: Some(1_000_000), trace: Some((1 << 127, 255, 1)), ..run };
    vec![
        (
            ToWorker::Hello(hello),
            b"",
            "30000000000107033031323334353637383961626364656602ac02f0a204010202010901081002a0068005808080800104000301",
        ),
        (ToWorker::Run(run), b"input", "0c00000001010201050000696e707574"),
        (
            ToWorker::Run(traced),
            b"",
            "20000000010102010501c0843d0180808080808080808080808080808080808002ff0101",
        ),
        (
            ToWorker::Pack(Pack { task: task(1), attempt: 3, index: 5, first: 300, count: 2 }),
            b"\x01\0a\0\0",
            "0d0000000201020305ac02020100610000",
        ),
        (ToWorker::Recall { tasks: vec![task(1), task(300)] }, b"", "0700000003020102ac0202"),
        (ToWorker::Credit { task: task(1), credit: 16 }, b"", "0400000004010210"),
        (ToWorker::Cancel { task: task(1), grace_ms: 1000 }, b"", "05000000050102e807"),
        (ToWorker::Chunk { task: task(1), last: false }, b"part", "080000000601020070617274"),
        (ToWorker::Drain, b"", "0100000007"),
        (ToWorker::Ping { nonce: u64::MAX }, b"", "0b00000008ffffffffffffffffff01"),
        (ToWorker::Pong { nonce: 1 }, b"", "020000000901"),
        (ToWorker::Nudge, b"", "010000000a"),
        (ToWorker::Lease { kind: LeaseKind::Place, n: 1 }, b"", "030000000b0001"),
        (ToWorker::Granted { kind: LeaseKind::Process, n: 2 }, b"", "030000000c0102"),
        (ToWorker::Returned { kind: LeaseKind::Place, n: 3 }, b"", "030000000d0003"),
        (ToWorker::Spans { placed: placed() }, b"", "0f0000000e020500c0b802ac0280a001808040"),
        (ToWorker::Released { offsets: vec![0, 4096] }, b"", "050000000f02008020"),
    ]
}

fn golden_to_parent() -> Vec<Golden<ToParent>> {
    let kind = TaskType {
        name: Cow::Borrowed("square"),
        version: 0,
        input: Cow::Borrowed("demo::Square"),
        output: Cow::Borrowed("u64"),
        stream: true,
    };
    let ready = Ready {
        version: 1,
        nonce: *b"0123456789abcdef",
        pid: 4711,
        slots: 1,
        tasks: vec![kind],
        build: "demo 0.1".to_owned(),
        bulk: true,
    };
    let done = |verdict| ToParent::Done { task: task(1), attempt: 1, used_us: 130, verdict };
    let panicked = |location: Option<&str>| Verdict::Panicked {
        message: "no \u{e4}".to_owned(),
        location: location.map(ToOwned::to_owned),
    };
    vec![
        (
            ToParent::Ready(ready),
            b"",
            "3a000000000130313233343536373839616263646566e724010106737175617265000c64656d6f3a3a53717561726503753634010864656d6f20302e3101",
        ),
        (ToParent::Open(Open { enforced: vec!["group".to_owned()] }), b"", "0800000001010567726f7570"),
        (ToParent::Started { task: task(1) }, b"", "03000000020102"),
        (ToParent::Recalled { tasks: vec![] }, b"", "020000000300"),
        (ToParent::Item { task: task(1), attempt: 3 }, b"item", "08000000040102036974656d"),
        (done(Verdict::Returned), b"\x51", "080000000501020182010051"),
        (
            done(panicked(Some("src/main.rs:3:5"))),
            b"",
            "1e00000005010201820101056e6f20c3a4010f7372632f6d61696e2e72733a333a35",
        ),
        (done(panicked(None)), b"", "0e00000005010201820101056e6f20c3a400"),
        (done(Verdict::Cancelled { began: true }), b"", "080000000501020182010201"),
        (done(Verdict::UnknownTask), b"", "0700000005010201820103"),
        (done(Verdict::BadInput { reason: "in".to_owned() }), b"", "0a0000000501020182010402696e"),
        (done(Verdict::BadOutput { reason: "out".to_owned() }), b"", "0b00000005010201820105036f7574"),
        (done(Verdict::TooLarge { bytes: 300_000_000 }), b"", "0c0000000501020182010680c6868f01"),
        (ToParent::Chunk { task: task(1), last: true }, b"part", "080000000601020170617274"),
        (
            ToParent::Log { level: 3, target: "demo".to_owned(), message: "hi".to_owned() },
            b"",
            "0a00000007030464656d6f026869",
        ),
        (ToParent::Usage { resident_bytes: 1 << 20, cpu_us: 5 }, b"", "050000000880804005"),
        (ToParent::Bye, b"", "0100000009"),
        (ToParent::Ping { nonce: 0 }, b"", "020000000a00"),
        (ToParent::Pong { nonce: 128 }, b"", "030000000b8001"),
        (ToParent::Nudge, b"", "010000000c"),
        (ToParent::Lease { kind: LeaseKind::Process, n: 1 }, b"", "030000000d0101"),
        (ToParent::Granted { kind: LeaseKind::Place, n: 2 }, b"", "030000000e0002"),
        (ToParent::Returned { kind: LeaseKind::Process, n: 3 }, b"", "030000000f0103"),
        (ToParent::Spans { placed: placed() }, b"", "0f00000010020500c0b802ac0280a001808040"),
        (ToParent::Released { offsets: vec![300] }, b"", "040000001101ac02"),
        (ToParent::Answers { task: task(1), attempt: 1 }, b"\x02\0\0\0\x07", "09000000120102010200000007"),
        (ToParent::Cut { task: task(1), attempt: 1, from: 300 }, b"", "0600000013010201ac02"),
    ]
}

#[test]
fn what_is_brief_is_found_alike() {
    let done = ToParent::Done { task: task(300), attempt: 1, used_us: 9, verdict: Verdict::Returned };
    let mut seen = 0;
    for limit in [8, 20, MESSAGE_LIMIT] {
        let codec = Codec::<ToParent>::new(limit);
        for frame in [done.clone(), ToParent::Item { task: task(1), attempt: 1 }, ToParent::Bye] {
            for length in 0..80 {
                let body = if frame.has_body() { vec![7; length] } else { vec![] };
                let mut bytes = encoded(&frame, &body);
                bytes.extend_from_slice(b"next");
                for end in 0..=bytes.len() {
                    let Some((brief, body, next)) = codec.brief(&bytes[..end]) else { continue };
                    let found = codec.find(&bytes[..end]).unwrap().unwrap();
                    assert_eq!(
                        (brief, body, next),
                        (found.frame, &bytes[found.body.clone()], found.body.end)
                    );
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 500, "{seen}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encode<F: Serialize + Shape + Clone>(frame: &F, body: &[u8], out: &mut BytesMut) {
    let message = Message { frame: frame.clone(), body: Bytes::copy_from_slice(body) };
    Codec::<ToWorker>::new(MESSAGE_LIMIT).encode(message, out).unwrap();
}

fn encoded<F: Serialize + Shape + Clone>(frame: &F, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    encode(frame, body, &mut out);
    out
}

/// All messages in these bytes, and the violation that ended them.
fn decode<F: DeserializeOwned + Shape>(bytes: &mut BytesMut) -> (Vec<Message<F>>, Option<Violation>) {
    let (mut codec, mut messages) = (Codec::<F>::new(MESSAGE_LIMIT), Vec::new());
    loop {
        match codec.decode(bytes) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, None),
            Err(violation) => return (messages, Some(violation)),
        }
    }
}

fn check_golden<F>(table: Vec<Golden<F>>)
where
    F: Serialize + DeserializeOwned + Shape + Named + PartialEq + Debug + Clone,
{
    let mut wrong = Vec::new();
    for (frame, body, expected) in &table {
        let mut bytes = encoded(frame, body);
        if hex(&bytes) != *expected {
            wrong.push(format!("{} {expected} {}", frame.name(), hex(&bytes)));
        }
        let (messages, violation) = decode::<F>(&mut bytes);
        assert_eq!(messages, [Message { frame: frame.clone(), body: Bytes::from_static(body) }]);
        assert_eq!((violation, bytes.len()), (None, 0));
    }
    assert!(wrong.is_empty(), "the bytes of frames have changed:\n{}", wrong.join("\n"));
    let shown: Vec<_> = table.iter().map(|(frame, ..)| frame.name()).collect();
    assert!(F::NAMES.iter().all(|name| shown.contains(name)), "of {:?} only {shown:?}", F::NAMES);
}

#[test]
fn frames_to_a_worker_have_their_golden_bytes() {
    check_golden(golden_to_worker());
}

#[test]
fn frames_to_a_parent_have_their_golden_bytes() {
    check_golden(golden_to_parent());
    let verdicts: Vec<_> = golden_to_parent()
        .iter()
        .filter_map(|(frame, ..)| match frame {
            ToParent::Done { verdict, .. } => Some(verdict.name()),
            _ => None,
        })
        .collect();
    assert!(Verdict::NAMES.iter().all(|name| verdicts.contains(name)), "{verdicts:?}");
    assert_eq!((LeaseKind::NAMES.len(), Sandbox::NAMES.len()), (2, 1), "give the new one a golden frame");
}

/// Splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.u64() % n as u64) as usize
    }

    fn bool(&mut self) -> bool {
        self.below(2) == 0
    }

    /// As likely short as long, with the ends of the range among them.
    fn word(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            _ => self.u64() >> self.below(64),
        }
    }

    fn placed(&mut self) -> Placed {
        Placed { at: self.half(), span: Span { offset: self.word(), length: self.half() } }
    }

    fn half(&mut self) -> u32 {
        self.word() as u32
    }

    fn bytes(&mut self, below: usize) -> Vec<u8> {
        let n = self.below(below);
        repeat_with(|| self.u64() as u8).take(n).collect()
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.bytes(20)).into_owned()
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(5)).map(|_| one(self)).collect()
    }

    fn option<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.bool() { Some(one(self)) } else { None }
    }

    fn nonce(&mut self) -> [u8; 16] {
        (u128::from(self.u64()) << 64 | u128::from(self.u64())).to_le_bytes()
    }

    fn task(&mut self) -> TaskId {
        TaskId::new(self.half(), self.half())
    }

    fn kind(&mut self) -> LeaseKind {
        if self.bool() { LeaseKind::Place } else { LeaseKind::Process }
    }

    fn down(&mut self) -> ToWorker {
        match self.below(ToWorker::NAMES.len()) {
            0 => ToWorker::Hello(Hello {
                version: self.half() as u16,
                worker: WorkerId::new(self.half(), self.half()),
                nonce: self.nonce(),
                ancestors: self.list(|r| Ancestor { pid: r.half(), start: r.word() }),
                depth: self.u64() as u8,
                tree: Tree {
                    path: self.list(|r| WorkerId::new(r.half(), r.half())),
                    deepest: self.u64() as u8,
                    places: self.half(),
                    cores: self.half(),
                    graces_ms: (self.half(), self.half()),
                },
                limits: Limits { message: self.half(), slots: self.half() },
                sandbox: Sandbox::Contain,
                log: self.u64() as u8,
                looks: self.bool(),
            }),
            1 => ToWorker::Run(Run {
                task: self.task(),
                attempt: self.half(),
                index: self.half(),
                remaining_us: self.option(Self::word),
                trace: self.option(|r| (u128::from_le_bytes(r.nonce()), r.u64(), r.u64() as u8)),
            }),
            2 => ToWorker::Pack(Pack {
                task: self.task(),
                attempt: self.half(),
                index: self.half(),
                first: self.half(),
                count: self.half(),
            }),
            3 => ToWorker::Recall { tasks: self.list(Self::task) },
            4 => ToWorker::Credit { task: self.task(), credit: self.half() },
            5 => ToWorker::Cancel { task: self.task(), grace_ms: self.half() },
            6 => ToWorker::Chunk { task: self.task(), last: self.bool() },
            7 => ToWorker::Drain,
            8 => ToWorker::Ping { nonce: self.word() },
            9 => ToWorker::Pong { nonce: self.word() },
            10 => ToWorker::Nudge,
            11 => ToWorker::Lease { kind: self.kind(), n: self.half() },
            12 => ToWorker::Granted { kind: self.kind(), n: self.half() },
            13 => ToWorker::Returned { kind: self.kind(), n: self.half() },
            14 => ToWorker::Spans { placed: self.list(Self::placed) },
            _ => ToWorker::Released { offsets: self.list(Self::word) },
        }
    }

    fn up(&mut self) -> ToParent {
        match self.below(ToParent::NAMES.len()) {
            0 => ToParent::Ready(Ready {
                version: self.half() as u16,
                nonce: self.nonce(),
                pid: self.half(),
                slots: self.half(),
                tasks: self.list(|r| TaskType {
                    name: r.text().into(),
                    version: r.half(),
                    input: r.text().into(),
                    output: r.text().into(),
                    stream: r.below(2) == 1,
                }),
                build: self.text(),
                bulk: self.bool(),
            }),
            1 => ToParent::Open(Open { enforced: self.list(Self::text) }),
            2 => ToParent::Started { task: self.task() },
            3 => ToParent::Recalled { tasks: self.list(Self::task) },
            4 => ToParent::Item { task: self.task(), attempt: self.half() },
            5 => ToParent::Done {
                task: self.task(),
                attempt: self.half(),
                used_us: self.half(),
                verdict: self.verdict(),
            },
            6 => ToParent::Chunk { task: self.task(), last: self.bool() },
            7 => ToParent::Log { level: self.u64() as u8, target: self.text(), message: self.text() },
            8 => ToParent::Usage { resident_bytes: self.word(), cpu_us: self.word() },
            9 => ToParent::Bye,
            10 => ToParent::Ping { nonce: self.word() },
            11 => ToParent::Pong { nonce: self.word() },
            12 => ToParent::Nudge,
            13 => ToParent::Lease { kind: self.kind(), n: self.half() },
            14 => ToParent::Granted { kind: self.kind(), n: self.half() },
            15 => ToParent::Returned { kind: self.kind(), n: self.half() },
            16 => ToParent::Spans { placed: self.list(Self::placed) },
            _ => ToParent::Released { offsets: self.list(Self::word) },
        }
    }

    fn verdict(&mut self) -> Verdict {
        match self.below(Verdict::NAMES.len()) {
            0 => Verdict::Returned,
            1 => Verdict::Panicked { message: self.text(), location: self.option(Self::text) },
            2 => Verdict::Cancelled { began: self.bool() },
            3 => Verdict::UnknownTask,
            4 => Verdict::BadInput { reason: self.text() },
            5 => Verdict::BadOutput { reason: self.text() },
            _ => Verdict::TooLarge { bytes: self.word() },
        }
    }

    /// A frame with a body where it may have one.
    fn message<F: Shape>(&mut self, frame: F) -> Message<F> {
        let body = if frame.has_body() { self.bytes(300) } else { Vec::new() };
        Message { frame, body: body.into() }
    }
}

fn check_stream<F>(seed: u64, one: fn(&mut Random) -> F)
where
    F: Serialize + DeserializeOwned + Shape + PartialEq + Debug + Clone,
{
    let mut random = Random(seed);
    let sent: Vec<Message<F>> = (0..100)
        .map(|_| {
            let frame = one(&mut random);
            random.message(frame)
        })
        .collect();
    let mut stream = BytesMut::new();
    for message in &sent {
        encode(&message.frame, &message.body, &mut stream);
    }
    let stream = stream.freeze();
    assert_eq!(decode::<F>(&mut stream.clone().into()), (sent.clone(), None), "seed {seed}");
    // Cut once, at every place; then byte by byte.
    for cut in 0..stream.len() {
        let mut buffer = BytesMut::from(&stream[..cut]);
        let (mut received, violation) = decode::<F>(&mut buffer);
        assert_eq!(violation, None, "seed {seed}, cut at {cut}");
        buffer.extend_from_slice(&stream[cut..]);
        received.extend(decode::<F>(&mut buffer).0);
        assert!(received == sent && buffer.is_empty(), "seed {seed}, cut at {cut}");
    }
    let (mut buffer, mut received) = (BytesMut::new(), Vec::new());
    for byte in &stream {
        buffer.extend_from_slice(&[*byte]);
        received.extend(decode::<F>(&mut buffer).0);
    }
    assert_eq!(received, sent, "seed {seed}");
}

#[test]
fn a_stream_decodes_the_same_wherever_it_is_cut() {
    check_stream(1, Random::down);
    check_stream(2, Random::up);
}

#[test]
fn random_frames_survive_the_journey() {
    for seed in 0..2000 {
        let mut random = Random(seed);
        let (there, back) = (random.down(), random.up());
        let (there, back) = (random.message(there), random.message(back));
        let mut bytes = encoded(&there.frame, &there.body);
        assert_eq!(decode(&mut bytes), (vec![there], None), "seed {seed}");
        let mut bytes = encoded(&back.frame, &back.body);
        assert_eq!(decode(&mut bytes), (vec![back], None), "seed {seed}");
    }
}

#[test]
fn an_announced_length_is_refused_at_once_or_costs_nothing() {
    for length in [MESSAGE_LIMIT + 1, u32::MAX] {
        let mut bytes = BytesMut::from(&length.to_le_bytes()[..]);
        let refused = Violation::TooLong { length, limit: MESSAGE_LIMIT };
        assert_eq!(decode::<ToParent>(&mut bytes), (vec![], Some(refused)));
    }
    // The longest that is allowed: one waits for it, and no memory does.
    let mut bytes = BytesMut::from(&MESSAGE_LIMIT.to_le_bytes()[..]);
    bytes.extend_from_slice(&encoded(&ToParent::Item { task: task(1), attempt: 1 }, b"beginning")[4..]);
    let (before, at) = (bytes.capacity(), bytes.as_ptr());
    assert_eq!(decode::<ToParent>(&mut bytes), (vec![], None));
    assert_eq!((bytes.capacity(), bytes.as_ptr()), (before, at));
}

#[test]
fn a_header_takes_memory_for_what_has_arrived_and_not_for_what_it_announces() {
    // `Recalled`, the number of its tasks, and then too few of them: each claim is checked against the bytes.
    for claimed in [1_u64 << 20, 1 << 32, u64::MAX] {
        let mut header = BytesMut::from(&[3_u8][..]);
        codec::append(&claimed, &mut header).unwrap();
        header.extend_from_slice(&[1; 64]);
        assert!(malformed(&header), "{claimed}");
    }
    // A text whose length is a lie.
    assert!(malformed(&[7, 3, 0xff, 0xff, 0xff, 0xff, 0x0f, b'x']));
    // Numbers that never end.
    assert!(malformed(&[0xff; 64]));
    assert!(malformed(&[10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]));
    // A list that is really there but larger than any honest header.
    let mut header = BytesMut::from(&[1_u8][..]);
    codec::append(&(HEADER_LIMIT * 2), &mut header).unwrap();
    header.resize(3 * HEADER_LIMIT as usize, 0);
    assert!(malformed(&header));
}

fn malformed(header: &[u8]) -> bool {
    let mut bytes = BytesMut::from(&(header.len() as u32).to_le_bytes()[..]);
    bytes.extend_from_slice(header);
    matches!(decode::<ToParent>(&mut bytes), (messages, Some(Violation::Malformed { .. })) if messages.is_empty())
}

#[test]
fn garbage_ends_in_a_violation_or_in_waiting_and_never_in_a_panic() {
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let garbage = match random.below(3) {
            // Anything.
            0 => random.bytes(200),
            // A length that fits, and then anything.
            1 => {
                let rest = random.bytes(200);
                [&(rest.len() as u32).to_le_bytes()[..], &rest].concat()
            }
            // An honest frame with one bit flipped.
            _ => {
                let frame = random.up();
                let message = random.message(frame);
                let mut bytes = encoded(&message.frame, &message.body).to_vec();
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
                bytes
            }
        };
        let length = garbage.len();
        let (messages, violation) = decode::<ToParent>(&mut garbage.as_slice().into());
        assert!(messages.len() <= length / 4, "seed {seed}");
        let _ = (decode::<ToWorker>(&mut garbage.as_slice().into()), violation);
        let _ = take_magic(&mut garbage.as_slice().into());
    }
}

#[test]
fn bytes_that_no_frame_has_asked_for_are_a_violation() {
    for (frame, bytes) in
        [(ToParent::Bye, 1), (ToParent::Nudge, 70), (ToParent::Started { task: task(1) }, 3)]
    {
        let mut stream = encoded(&frame, &vec![0; bytes]);
        assert_eq!(decode::<ToParent>(&mut stream), (vec![], Some(Violation::Leftover { bytes })));
    }
    let failed = ToParent::Done { task: task(1), attempt: 1, used_us: 0, verdict: Verdict::UnknownTask };
    assert_eq!(
        decode::<ToParent>(&mut encoded(&failed, b"x")),
        (vec![], Some(Violation::Leftover { bytes: 1 }))
    );
    // An empty message has not even a header.
    assert!(malformed(b""));
}

#[test]
fn a_message_that_is_not_sent_leaves_no_trace() {
    let codec = Codec::<ToParent>::new(100);
    let item = ToParent::Item { task: task(1), attempt: 1 };
    let mut out = BytesMut::from(&b"before"[..]);
    let fill = |n: usize| {
        move |out: &mut BytesMut| {
            out.resize(out.len() + n, 7);
            Ok(())
        }
    };
    let header = encoded(&item, b"").len() - 4;
    let too_large = codec.encode_with(&item, &mut out, fill(101 - header)).unwrap_err();
    assert_eq!(too_large, Unsendable::TooLarge { bytes: 101, limit: 100 });
    let failed = codec.encode_with(&item, &mut out, |out| {
        out.extend_from_slice(b"half of the output");
        Err(Unsendable::Encode(postcard::Error::SerializeSeqLengthUnknown))
    });
    assert_eq!(failed, Err(Unsendable::Encode(postcard::Error::SerializeSeqLengthUnknown)));
    assert_eq!(&out[..], b"before");
    codec.encode_with(&item, &mut out, fill(100 - header)).unwrap();
    assert_eq!(out.len(), "before".len() + 4 + 100);
    // A header may not be long even where a message may be; its body is then not asked for.
    let long = ToParent::Log { level: 1, target: String::new(), message: "x".repeat(HEADER_LIMIT as usize) };
    let before = out.len();
    let refused = Codec::<ToParent>::new(MESSAGE_LIMIT).encode_with(&long, &mut out, |_| panic!("no body"));
    assert!(matches!(refused, Err(Unsendable::TooLarge { limit: HEADER_LIMIT, .. })));
    assert_eq!(out.len(), before);
}

#[test]
fn the_magic_is_found_behind_stray_output_wherever_it_is_cut() {
    let after = encoded(&ToParent::Bye, b"");
    for stray in [&b""[..], b"Welcome!\r\n", b"\0procpool->", b"\0\0\0procpool->p\r\n"] {
        let whole = [stray, &TO_PARENT_MAGIC, &after].concat();
        for cut in 0..whole.len() {
            let mut bytes = BytesMut::from(&whole[..cut]);
            let mut found = take_magic(&mut bytes).unwrap();
            bytes.extend_from_slice(&whole[cut..]);
            if found.is_none() {
                found = take_magic(&mut bytes).unwrap();
            }
            assert_eq!(found.unwrap(), stray, "cut at {cut}");
            assert_eq!(&bytes[..], &after[..], "cut at {cut}");
        }
    }
}

/// What becomes of these bytes when they arrive in pieces of this size.
fn greeting(bytes: &[u8], piece: usize) -> Result<Option<usize>, Violation> {
    let mut buffer = BytesMut::new();
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        if let Some(stray) = take_magic(&mut buffer)? {
            return Ok(Some(stray.len()));
        }
    }
    Ok(None)
}

#[test]
fn stray_output_is_tolerated_up_to_its_limit_however_it_arrives() {
    for piece in [997, 4096, 65_536, usize::MAX] {
        let full = [&vec![b'x'; PREAMBLE_LIMIT][..], &TO_PARENT_MAGIC].concat();
        assert_eq!(greeting(&full, piece), Ok(Some(PREAMBLE_LIMIT)), "pieces of {piece}");
        let over = [&b"<html>\x1b"[..], &vec![b'x'; PREAMBLE_LIMIT], &TO_PARENT_MAGIC].concat();
        let Err(Violation::Stray { stray }) = greeting(&over, piece) else { panic!("pieces of {piece}") };
        assert!(stray.starts_with("\"<html>\\x1bxxx") && stray.len() < 300, "{stray}");
    }
    assert_eq!(greeting(&vec![b'x'; PREAMBLE_LIMIT], 1000), Ok(None));
}

#[test]
fn an_echo_is_recognised_however_it_arrives() {
    let hello = golden_to_worker().remove(0).0;
    let sent = [&TO_WORKER_MAGIC[..], &encoded(&hello, b"")].concat();
    for piece in 1..sent.len() {
        assert_eq!(greeting(&sent, piece), Err(Violation::Echo), "pieces of {piece}");
        // Even if what echoes also starts a worker: everything else would come twice.
        let both = [b"banner\n", &sent[..], &TO_PARENT_MAGIC].concat();
        assert_eq!(greeting(&both, piece), Err(Violation::Echo), "pieces of {piece}");
    }
}

#[test]
fn the_first_frame_of_one_direction_is_not_that_of_the_other() {
    let (hello, ready) = (golden_to_worker().remove(0).0, golden_to_parent().remove(0).0);
    assert!(matches!(decode::<ToParent>(&mut encoded(&hello, b"")), (_, Some(_))));
    assert!(matches!(decode::<ToWorker>(&mut encoded(&ready, b"")), (_, Some(_))));
}

#[test]
fn a_head_and_its_body_are_the_bytes_of_the_whole_frame_or_nothing() {
    let codec = Codec::<ToParent>::new(100);
    let frame = ToParent::Item { task: TaskId::new(1, 2), attempt: 1 };
    let most = 100 - (encoded(&frame, b"").len() - 4);
    for length in [0, 1, most, most + 1, usize::MAX - 8] {
        let mut head = BytesMut::from(&b"before"[..]);
        let added = codec.encode_head(&frame, &mut head, length);
        if length <= most {
            head.extend_from_slice(&vec![7; length]);
            let whole = encoded(&frame, &vec![7; length]);
            assert_eq!((added, &head[6..]), (Ok(()), &whole[..]));
        } else {
            assert!(matches!(added, Err(Unsendable::TooLarge { limit: 100, .. })), "{length}: {added:?}");
            assert_eq!(&head[..], b"before");
        }
    }
}

#[test]
fn a_value_is_decoded_from_all_of_its_bytes_or_not_at_all() {
    let mut bytes = BytesMut::from(&b"before"[..]);
    codec::append(&("text", 300_u32), &mut bytes).unwrap();
    let value = bytes.split_off("before".len());
    let value = Payload::from(value.freeze());
    assert_eq!(value.decode::<(String, u32)>(), Ok(("text".to_owned(), 300)));
    let short = Payload::from(value.join().slice(1..));
    assert!(short.decode::<(String, u32)>().is_err());
    assert!(value.decode::<String>().is_err(), "bytes are left over");
    let unsized_list = std::iter::once(1).filter(|_| true);
    struct Unsized<I>(I);
    impl<I: Iterator<Item = u8> + Clone> Serialize for Unsized<I> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeSeq;
            let mut seq = serializer.serialize_seq(None)?;
            self.0.clone().try_for_each(|item| seq.serialize_element(&item))?;
            seq.end()
        }
    }
    assert_eq!(
        codec::append(&Unsized(unsized_list), &mut bytes),
        Err(postcard::Error::SerializeSeqLengthUnknown)
    );
}
