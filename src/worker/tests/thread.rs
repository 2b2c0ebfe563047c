//! A worker that is a thread, seen from the other end of its link: what it ends with, and that the process stays.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::parent::{PATIENCE, encode, hello};
use super::worker;
use crate::id::TaskId;
use crate::wire::TO_WORKER_MAGIC;
use crate::wire::frame::{Hello, Run, ToWorker};
use crate::worker::thread;

/// A thread that was sent the magic and this.
fn start(frames: Vec<ToWorker>) -> (UnixStream, JoinHandle<Result<(), String>>) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let theirs = Arc::new(OwnedFd::from(theirs));
    let thread = std::thread::spawn(move || thread::run(worker, Box::new(()), theirs));
    ours.write_all(&TO_WORKER_MAGIC).unwrap();
    for frame in frames {
        ours.write_all(&encode(frame)).unwrap();
    }
    (ours, thread)
}

fn run(kind: &str) -> ToWorker {
    let index = worker().table.kinds().iter().position(|task| task.name == kind).unwrap();
    let index = index.try_into().unwrap();
    ToWorker::Run(Run { task: TaskId::new(1, 1), attempt: 1, index, remaining_us: None, trace: None })
}

#[test]
fn the_end_of_the_link_is_a_quiet_end_at_any_time() {
    let hello = || ToWorker::Hello(hello(vec![]));
    // Before the greeting, behind it, and while tasks run that await, look up and compute.
    for frames in [vec![], vec![hello()], vec![hello(), run("Forever")], vec![hello(), run("Compute")]] {
        let (link, thread) = start(frames);
        drop(link);
        assert_eq!(thread.join().unwrap(), Ok(()));
    }
}

#[test]
fn a_worker_that_is_told_to_leave_says_bye_and_closes_its_end() {
    let (mut link, thread) = start(vec![ToWorker::Hello(hello(vec![])), ToWorker::Drain]);
    let mut said = Vec::new();
    link.read_to_end(&mut said).unwrap();
    assert_eq!(thread.join().unwrap(), Ok(()));
    let bye = postcard::to_stdvec(&crate::wire::frame::ToParent::Bye).unwrap();
    assert!(said.ends_with(&bye), "{said:?}");
}

#[test]
fn a_parent_that_cannot_be_understood_is_told_why() {
    let (_link, other) = start(vec![ToWorker::Hello(Hello { version: 99, ..hello(vec![]) })]);
    let words = other.join().unwrap().unwrap_err();
    assert!(words.contains("the parent speaks version 99"), "{words}");

    let (mut link, torn) = start(vec![ToWorker::Hello(hello(vec![])), run("Forever")]);
    link.write_all(&[1, 0, 0, 0, 255]).unwrap();
    let words = torn.join().unwrap().unwrap_err();
    assert!(words.starts_with("the parent can't be understood: "), "{words}");

    let (mut link, stranger) = {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = Arc::new(OwnedFd::from(theirs));
        (ours, std::thread::spawn(move || thread::run(worker, Box::new(()), theirs)))
    };
    link.write_all(b"hello").unwrap();
    let words = stranger.join().unwrap().unwrap_err();
    assert!(words.contains("begins with \"hello\""), "{words}");
}
