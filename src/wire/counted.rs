//! What frames and values cost in instructions. `benches/instructions.py` counts them and compares.

use std::hint::black_box;

use bytes::BytesMut;
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::codec::Decoder;

use super::MESSAGE_LIMIT;
use super::codec::Codec;
use super::frame::{Pack, Run, Shape, ToParent, ToWorker, Verdict};
use super::pack;
use super::payload::Gather;
use crate::blob::{Blob, LARGE};
use crate::id::TaskId;

const ROUNDS: u32 = 2000;

/// Does the work once to warm up and once to be counted. The script divides the count by `operations`.
pub(crate) fn count(name: &str, operations: u32, mut work: impl FnMut()) {
    work();
    measured(&mut work);
    println!("counted {operations} {name}");
}

/// The script knows this function by its name: what happens in here is counted.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
    black_box(()); // A tail call would leave the function too early.
}

/// Encodes the frame and its body, then decodes both.
fn frame<F: Serialize + DeserializeOwned + Shape>(name: &str, frame: &F, body: &[u8]) {
    let mut codec = Codec::<F>::new(MESSAGE_LIMIT);
    let encode = |codec: &Codec<F>, out: &mut BytesMut| {
        let put = |out: &mut BytesMut| {
            out.extend_from_slice(body);
            Ok(())
        };
        codec.encode_with(black_box(frame), out, put).unwrap();
    };
    let mut out = BytesMut::with_capacity(1 << 20);
    count(&format!("wire: encode {name}"), ROUNDS, || {
        for _ in 0..ROUNDS {
            out.clear();
            encode(&codec, &mut out);
        }
    });
    let mut stream = BytesMut::new();
    (0..2 * ROUNDS).for_each(|_| encode(&codec, &mut stream));
    count(&format!("wire: decode {name}"), ROUNDS, || {
        for _ in 0..ROUNDS {
            let message = codec.decode(black_box(&mut stream)).unwrap().unwrap();
            assert_eq!(black_box(message).body.len(), body.len());
        }
    });
}

/// Encodes a value, then decodes it.
fn value<T: Serialize + DeserializeOwned + PartialEq>(name: &str, value: &T) {
    let mut gather = Gather::with_capacity(1 << 10);
    count(&format!("wire: encode {name}"), ROUNDS, || {
        for _ in 0..ROUNDS {
            gather.append(black_box(value)).unwrap();
            drop(black_box(gather.take()));
        }
    });
    gather.append(value).unwrap();
    let payload = gather.take();
    assert!(payload.decode::<T>().unwrap() == *value);
    count(&format!("wire: decode {name}"), ROUNDS, || {
        for _ in 0..ROUNDS {
            drop(black_box(black_box(&payload).decode::<T>().unwrap()));
        }
    });
}

#[test]
#[ignore = "a measurement, for release builds"]
fn counted() {
    let task = TaskId::new(70_000, 300);
    let run = Run { task, attempt: 1, index: 5, remaining_us: Some(1_000_000), trace: None };
    frame("Run", &ToWorker::Run(run), &[7; 24]);
    let pack = Pack { task, attempt: 1, index: 5, first: 0, count: 64 };
    frame("Pack of 64", &ToWorker::Pack(pack), &[7; 64 * 8]);
    let mut inputs = Vec::new();
    count("inputs of a pack, in and out", ROUNDS, || {
        inputs.clear();
        for _ in 0..ROUNDS {
            black_box(pack::put_input(&mut inputs, black_box(&mut [7; pack::INPUT + 8])));
        }
        let mut rest = &inputs[..];
        while !rest.is_empty() {
            black_box(pack::take_input(&mut rest).unwrap());
        }
    });
    let done = ToParent::Done { task, attempt: 1, used_us: 130, verdict: Verdict::Returned };
    frame("Done", &done, &[7; 24]);
    value("small value", &(70_000_u64, "a path of some length".to_owned(), vec![Some(3_u32), None]));
    value("1000 numbers", &(0..1000_u64).map(|n| n * n).collect::<Vec<_>>());
    value("blob", &(7_u8, Blob::from(vec![1; 2 * LARGE]), "behind".to_owned()));
}
