//! The ways into a worker, and what stays out.

use std::io::Write;
use std::process::Stdio;

use super::parent::{Parent, command, hello, myself};
use super::tasks::{Meet, Noop, Sum};
use super::worker;
use crate::wire::TO_WORKER_MAGIC;
use crate::wire::frame::{Hello, ToParent, ToWorker, Verdict};
use crate::worker::{Entry, entry, leave, parent};

/// Begins as a program does whose `main` is a task of a runtime: does nothing in an ordinary run.
#[test]
fn within_a_runtime() {
    if parent().is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { worker().init_in_test() });
    }
}

/// A dedicated worker program, if it is started under that name: does nothing in an ordinary run.
#[test]
fn dedicated_program() {
    if std::env::args_os().next().is_some_and(|name| name == "dedicated") {
        worker().serve();
    }
}

#[test]
fn a_worker_may_begin_within_a_runtime() {
    let mut parent = Parent::start_at("entry::within_a_runtime", hello(vec![myself()]));
    assert_eq!(parent.call(&Meet()).value::<Meet>(), 42);
    assert_eq!(parent.call(&Sum(vec![1])).value::<Sum>().1, [1]);
    parent.drain();
}

#[test]
fn an_ordinary_program_passes_init_and_says_so() {
    assert_eq!(entry(), Entry::NotPassed);
    worker().init_in_test();
    assert_eq!(entry(), Entry::NotPassed);
    worker().init();
    assert_eq!(entry(), Entry::Main);
}

#[test]
#[should_panic(expected = "two tasks are named \"Noop\"")]
fn two_tasks_of_one_name_are_refused_at_once() {
    let _ = worker().task::<Noop>();
}

#[test]
fn a_dedicated_program_serves_over_two_pipes() {
    let mut child = command("entry::dedicated_program", "dedicated")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&TO_WORKER_MAGIC).unwrap();
    stdin.write_all(&super::parent::encode(ToWorker::Hello(hello(vec![])))).unwrap();
    for _ in 0..3 {
        stdin.write_all(&super::parent::encode(ToWorker::Ping { nonce: 1 })).unwrap();
    }
    stdin.write_all(&super::parent::encode(ToWorker::Drain)).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut bytes = bytes::BytesMut::from(&output.stdout[..]);
    crate::wire::codec::take_magic(&mut bytes).unwrap().unwrap();
    let mut codec = crate::wire::codec::Codec::<ToParent>::new(1 << 20);
    let frames: Vec<_> =
        std::iter::from_fn(|| tokio_util::codec::Decoder::decode(&mut codec, &mut bytes).unwrap())
            .map(|message| message.frame)
            .collect();
    assert!(matches!(frames[..], [ToParent::Ready(_), .., ToParent::Bye]), "{frames:?}");
    assert_eq!(frames.iter().filter(|frame| matches!(frame, ToParent::Open(_))).count(), 1);
    assert_eq!(frames.iter().filter(|frame| matches!(frame, ToParent::Pong { .. })).count(), 3);
}

#[test]
fn a_dedicated_program_that_no_pool_started_explains_itself() {
    for input in ["", "hello\n"] {
        let mut child = command("entry::dedicated_program", "dedicated")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(leave::NOT_A_POOL));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("this program is a worker of a procpool pool"), "{stderr}");
    }
}

#[test]
fn a_parent_of_another_version_is_told_on_standard_error() {
    let (mut child, mut link, _page) = super::parent::spawn("__procpool_worker");
    let other = Hello { version: 99, ..hello(vec![]) };
    link.write_all(&super::parent::encode(ToWorker::Hello(other))).unwrap();
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(crate::wire::OTHER_VERSION));
    assert!(stderr.contains("version 99"), "{stderr}");
}

#[test]
fn a_worker_whose_parent_is_another_ends_without_a_word() {
    let name = crate::wire::arg0::format(1, 1);
    let mut command = command("__procpool_worker", &name);
    let output = command.stdin(Stdio::piped()).stdout(Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_worker_greets_with_what_it_is() {
    let mut parent = Parent::start();
    assert!(parent.ready.build.contains("procpool"), "{:?}", parent.ready);
    assert_eq!(parent.ready.slots, 1);
    assert_eq!(parent.open.enforced, ["no new privileges", "own process group"]);
    assert_eq!(parent.call(&Noop()).verdict, Verdict::Returned);
    parent.drain();
}
