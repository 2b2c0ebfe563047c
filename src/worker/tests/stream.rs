//! Streams, frame by frame: credit is kept to, whoever hears of it, and items are written in time.

use std::io::Write;
use std::os::fd::AsRawFd;

use bytes::Bytes;
use nix::sys::socket::{MsgFlags, recv};

use super::parent::{Parent, encode, eventually};
use super::path;
use super::tasks::{Noop, Numbers, Pace, Spawned};
use crate::id::TaskId;
use crate::wire::credit::FIRST;
use crate::wire::frame::{ToParent, ToWorker, Verdict};
use crate::wire::payload::Payload;

const STOPPED: Verdict = Verdict::Cancelled { began: true };

fn number(item: Bytes) -> u32 {
    let bytes: Vec<u8> = Payload::from(item).decode().unwrap();
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

fn numbers(parent: &mut Parent, stream: TaskId, range: std::ops::Range<u32>) {
    for n in range {
        assert_eq!(number(parent.item(stream)), n);
    }
}

fn credit(task: TaskId, credit: u32) -> ToWorker {
    ToWorker::Credit { task, credit }
}

/// Nothing comes until something is said: a ping is answered first.
fn nothing_follows(parent: &mut Parent, nonce: u64) {
    parent.say(ToWorker::Ping { nonce });
    assert_eq!(parent.frame(), ToParent::Pong { nonce });
}

#[test]
fn a_stream_sends_what_it_has_credit_for_and_waits() {
    let mut parent = Parent::start();
    for (round, pace) in [Pace::Await, Pace::Block].into_iter().enumerate() {
        let note = path(&format!("credit-{round}"));
        let stream = parent.stream(&Numbers(pace, 4, note.clone()));
        numbers(&mut parent, stream, 0..FIRST);
        nothing_follows(&mut parent, 1);
        parent.say(credit(stream, 10));
        numbers(&mut parent, stream, FIRST..FIRST + 10);
        // Credit for others, and none at all, means nothing.
        parent.say(credit(TaskId::new(999, 7), 10));
        parent.say(credit(stream, 0));
        nothing_follows(&mut parent, 2);
        parent.say(credit(stream, 1000));
        numbers(&mut parent, stream, FIRST + 10..FIRST + 1010);
        nothing_follows(&mut parent, 3);
        parent.say(ToWorker::Cancel { task: stream, grace_ms: 60_000 });
        let done = parent.done();
        assert_eq!((done.task, done.verdict), (stream, STOPPED));
        // Credit that comes too late means nothing.
        parent.say(credit(stream, 1000));
        assert!(std::fs::read_to_string(&note).unwrap().contains("is to stop"));
        std::fs::remove_file(note).unwrap();
    }
    assert_eq!(parent.call(&Noop()).verdict, Verdict::Returned);
    parent.drain();
}

#[test]
fn large_items_cost_by_their_size() {
    let mut parent = Parent::start();
    // Ten pieces of 4 KiB and a little.
    let stream = parent.stream(&Numbers(Pace::Await, 40 << 10, path("large")));
    numbers(&mut parent, stream, 0..FIRST.div_ceil(11));
    nothing_follows(&mut parent, 1);
    // Six of them have cost 66. Two more pay the debt.
    parent.say(credit(stream, 2));
    nothing_follows(&mut parent, 2);
    parent.say(credit(stream, 1));
    numbers(&mut parent, stream, 6..7);
    nothing_follows(&mut parent, 3);
}

#[test]
fn items_that_wait_behind_a_computation_are_written_meanwhile() {
    let mut parent = Parent::start();
    let stream = parent.stream(&Numbers(Pace::Then(20), 4, path("behind")));
    numbers(&mut parent, stream, 0..20);
    nothing_follows(&mut parent, 1);
}

#[test]
fn items_of_a_subtask_are_written_while_everything_awaits() {
    let mut parent = Parent::start();
    let stream = parent.stream(&Spawned(200));
    for n in 0..FIRST {
        assert_eq!(Payload::from(parent.item(stream)).decode::<u32>().unwrap(), n);
    }
    parent.say(credit(stream, 500));
    for n in FIRST..200 {
        assert_eq!(Payload::from(parent.item(stream)).decode::<u32>().unwrap(), n);
    }
    parent.say(ToWorker::Cancel { task: stream, grace_ms: 60_000 });
    assert_eq!(parent.done().verdict, STOPPED);
    parent.drain();
}

/// The credit wakes the producer; before it comes to run it is told to stop, and must not be taken for one that never asked.
#[test]
fn a_producer_that_is_woken_and_stopped_in_one_breath_is_told() {
    let mut parent = Parent::start();
    for (round, pace) in [Pace::Await, Pace::Block, Pace::Await, Pace::Block].into_iter().enumerate() {
        let note = path(&format!("breath-{round}"));
        let stream = parent.stream(&Numbers(pace, 4, note.clone()));
        numbers(&mut parent, stream, 0..FIRST);
        let mut bytes = encode(credit(stream, 64));
        bytes.extend_from_slice(&encode(ToWorker::Cancel { task: stream, grace_ms: 60_000 }));
        parent.link.write_all(&bytes).unwrap();
        loop {
            match parent.frame() {
                ToParent::Item { .. } => {}
                ToParent::Done { verdict, .. } => break assert_eq!(verdict, STOPPED),
                other => panic!("{other:?}"),
            }
        }
        eventually("it was told", || std::path::Path::new(&note).exists());
        std::fs::remove_file(note).unwrap();
    }
    parent.drain();
}

/// How many bytes of the worker's lie in the socket.
fn unread(parent: &Parent) -> usize {
    let mut bytes = vec![0; 1 << 20];
    recv(parent.link.as_raw_fd(), &mut bytes, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).unwrap_or(0)
}

#[test]
fn a_parent_that_does_not_read_gets_everything_when_it_does() {
    let mut parent = Parent::start();
    for (round, pace) in [Pace::Await, Pace::Block].into_iter().enumerate() {
        let note = path(&format!("unread-{round}"));
        let stream = parent.stream(&Numbers(pace, 10_000, note.clone()));
        numbers(&mut parent, stream, 0..1);
        parent.say(credit(stream, 3 * 200));
        eventually("the socket has taken what it takes", || unread(&parent) >= 100_000);
        numbers(&mut parent, stream, 1..(FIRST + 600).div_ceil(3));
        nothing_follows(&mut parent, 1);
        parent.say(ToWorker::Cancel { task: stream, grace_ms: 60_000 });
        assert_eq!(parent.done().verdict, STOPPED);
        eventually("it was told", || std::path::Path::new(&note).exists());
        std::fs::remove_file(note).unwrap();
    }
    parent.drain();
}
