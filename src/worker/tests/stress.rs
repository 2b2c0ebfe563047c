//! Everything at once, from a seed.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::time::Duration;

use super::parent::{Parent, encode};
use super::tasks::{Block, Compute, Leave, Noop, Polite, Sleep, Spin, Sum, checksum};
use crate::id::TaskId;
use crate::wire::frame::{ToParent, ToWorker, Verdict};

/// A small generator: same seed, same numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// What is still to be answered.
#[derive(Default)]
struct Open {
    /// With the checksum of what comes back, if something does.
    tasks: HashMap<TaskId, Option<u64>>,
    /// Those that only a Cancel ends.
    endless: HashSet<TaskId>,
    pings: HashSet<u64>,
}

/// Adds a random task's frame to `out`.
fn add_run(parent: &mut Parent, random: &mut Random, open: &mut Open, out: &mut Vec<u8>) {
    let mut sum = None;
    let (id, message) = match random.below(1000) {
        0..8 => parent.run_frame(&Block(random.below(20))),
        8..14 => parent.run_frame(&Spin(random.below(20))),
        14..40 => parent.run_frame(&Sleep(random.below(3))),
        40..44 => parent.run_frame(&Leave(random.below(15))),
        44..48 => parent.run_frame(&Compute()),
        48..52 => parent.run_frame(&Polite(random.below(3))),
        52..400 => parent.run_frame(&Noop()),
        _ => {
            let payload: Vec<u8> = (0..random.below(400)).map(|_| random.below(256) as u8).collect();
            sum = Some(checksum(&payload));
            parent.run_frame(&Sum(payload))
        }
    };
    let endless = matches!(&message.frame, ToWorker::Run(run)
        if ["Compute", "Polite"].contains(&&*parent.ready.tasks[run.index as usize].name));
    if endless {
        open.endless.insert(id);
    }
    open.tasks.insert(id, sum);
    out.extend_from_slice(&encode(message));
}

fn hear(parent: &mut Parent, open: &mut Open) {
    match parent.hear().expect("the worker has gone") {
        message if matches!(message.frame, ToParent::Pong { .. }) => {
            let ToParent::Pong { nonce } = message.frame else { unreachable!() };
            assert!(open.pings.remove(&nonce), "pong {nonce} twice");
        }
        message => {
            let ToParent::Done { task, verdict, .. } = message.frame else { panic!("{message:?}") };
            let sum = open.tasks.remove(&task).unwrap_or_else(|| panic!("{task:?} twice"));
            open.endless.remove(&task);
            match (verdict, sum) {
                (Verdict::Returned, Some(sum)) => {
                    let (theirs, bytes): (u64, Vec<u8>) =
                        crate::wire::payload::Payload::from(message.body.clone()).decode().unwrap();
                    assert_eq!((theirs, checksum(&bytes)), (sum, sum), "{task:?} is torn");
                }
                (Verdict::Returned | Verdict::Cancelled { .. }, _) => {}
                (verdict, _) => panic!("{task:?}: {verdict:?}"),
            }
        }
    }
}

fn stress(seed: u64, runs: u32) {
    println!("seed {seed}");
    let (mut parent, mut random, mut open) = (Parent::start(), Random(seed), Open::default());
    let (mut sent, mut nonce) = (0, 0);
    while sent < runs || !open.tasks.is_empty() || !open.pings.is_empty() {
        let mut out = Vec::new();
        while sent < runs && open.tasks.len() < 300 && random.below(40) > 0 {
            add_run(&mut parent, &mut random, &mut open, &mut out);
            sent += 1;
            if random.below(20) == 0 {
                nonce += 1;
                open.pings.insert(nonce);
                out.extend_from_slice(&encode(ToWorker::Ping { nonce }));
            }
            if random.below(30) == 0 {
                let task = TaskId::new(sent, sent % 64);
                out.extend_from_slice(&encode(ToWorker::Cancel { task, grace_ms: 1000 }));
            }
        }
        for task in open.endless.iter().copied().collect::<Vec<_>>() {
            out.extend_from_slice(&encode(ToWorker::Cancel { task, grace_ms: 1000 }));
        }
        while !out.is_empty() {
            let rest = out.split_off((1 + random.below(900) as usize).min(out.len()));
            parent.link.write_all(&out).unwrap();
            out = rest;
            if random.below(10) == 0 {
                std::thread::sleep(Duration::from_micros(random.below(8000)));
            }
        }
        for _ in 0..random.below(300) {
            if open.tasks.is_empty() && open.pings.is_empty() {
                break;
            }
            if open.tasks.len() == open.endless.len() && !open.endless.is_empty() {
                break;
            }
            hear(&mut parent, &mut open);
        }
    }
    parent.drain();
}

#[test]
fn nothing_is_lost_doubled_or_torn() {
    for seed in [1, 77, 4242] {
        stress(seed, 3000);
    }
}

#[test]
#[ignore = "a minute's worth"]
fn nothing_is_lost_doubled_or_torn_at_length() {
    for seed in 1000..1010 {
        stress(seed, 30_000);
    }
}
