//! What is heard and said whatever user code does, and how a worker leaves.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use super::parent::{PATIENCE, Parent, encode};
use super::tasks::{Big, Block, Leave, Noop, Sleep, Spin, Stubborn, Sum};
use crate::id::TaskId;
use crate::wire::frame::{LeaseKind, ToParent, ToWorker, Verdict};
use crate::worker::leave;

fn ping(parent: &mut Parent, nonce: u64) -> Duration {
    let said = Instant::now();
    parent.say(ToWorker::Ping { nonce });
    assert_eq!(parent.frame(), ToParent::Pong { nonce });
    said.elapsed()
}

#[test]
fn a_ping_is_answered_idle_awaiting_computing_and_blocked() {
    let mut parent = Parent::start();
    println!("ping while idle: {:?}", ping(&mut parent, 1));
    let awaiting = parent.run(&Sleep(100));
    parent.await_begun(1);
    println!("ping while awaiting: {:?}", ping(&mut parent, 2));
    assert_eq!(parent.done().task, awaiting);
    parent.run(&Stubborn());
    parent.await_begun(2);
    let times: Vec<_> = (3..13).map(|nonce| ping(&mut parent, nonce)).collect();
    println!("pings while computing: {times:?}");
    assert!(times.iter().all(|time| *time < PATIENCE / 4), "{times:?}");
}

#[test]
fn answers_that_wait_behind_a_long_task_are_written_meanwhile() {
    let mut parent = Parent::start();
    let mut bytes = encode(parent.run_frame(&Noop()).1);
    bytes.extend_from_slice(&encode(parent.run_frame(&Noop()).1));
    bytes.extend_from_slice(&encode(parent.run_frame(&Stubborn()).1));
    parent.link.write_all(&bytes).unwrap();
    assert_eq!((parent.done().task.serial, parent.done().task.serial), (1, 2));
}

/// The bytes of a Run that the watcher has read are gone from the socket: nothing but the watcher tells the main thread.
#[test]
fn a_run_that_the_watcher_reads_is_run() {
    for _ in 0..3 {
        let mut parent = Parent::start();
        assert_eq!(parent.call(&Leave(300)).verdict, Verdict::Returned);
        // Answered by the watcher, since the subtask blocks the runtime; so it is the reader now.
        ping(&mut parent, 1);
        let id = parent.run(&Noop());
        let done = parent.done();
        assert_eq!((done.task, done.verdict), (id, Verdict::Returned));
        parent.drain();
    }
}

#[test]
fn frames_may_be_cut_anywhere_and_their_parts_read_by_either_thread() {
    let mut parent = Parent::start();
    for at in 1..12 {
        let blocked = parent.run(&Block(at % 4 * 8));
        let payload = vec![at as u8; 3 + at as usize];
        let (id, message) = parent.run_frame(&Sum(payload.clone()));
        let mut bytes = encode(message);
        bytes.extend_from_slice(&encode(ToWorker::Ping { nonce: at }));
        for piece in bytes.chunks(at as usize) {
            parent.link.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(at % 3));
        }
        let (mut pongs, mut order) = (0, vec![]);
        for _ in 0..3 {
            match parent.hear().unwrap() {
                message if message.frame == (ToParent::Pong { nonce: at }) => pongs += 1,
                message => {
                    let ToParent::Done { task, .. } = message.frame else { panic!("{message:?}") };
                    order.push(task);
                }
            }
        }
        assert_eq!((pongs, order), (1, vec![blocked, id]));
    }
    parent.drain();
}

#[test]
fn frames_that_mean_nothing_yet_are_passed_over() {
    let mut parent = Parent::start();
    let (kind, task) = (LeaseKind::Place, TaskId::new(1, 1));
    for frame in [
        ToWorker::Credit { task, credit: 3 },
        ToWorker::Chunk { task, last: true },
        ToWorker::Pong { nonce: 1 },
        ToWorker::Nudge,
        ToWorker::Lease { kind, n: 1 },
        ToWorker::Granted { kind, n: 1 },
        ToWorker::Returned { kind, n: 1 },
    ] {
        parent.say(frame);
    }
    assert_eq!(parent.call(&Noop()).verdict, Verdict::Returned);
    parent.drain();
}

#[test]
fn drain_finishes_what_there_is_and_exits_well() {
    let mut parent = Parent::start();
    let ids: Vec<_> =
        (0..20).map(|n| if n == 3 { parent.run(&Block(60)) } else { parent.run(&Noop()) }).collect();
    parent.say(ToWorker::Drain);
    for id in ids {
        assert_eq!(parent.done().task, id);
    }
    parent.drained();
}

#[test]
fn drain_is_heard_while_a_subtask_blocks() {
    let mut parent = Parent::start();
    assert_eq!(parent.call(&Leave(50)).verdict, Verdict::Returned);
    parent.drain();
}

#[test]
fn a_worker_whose_parent_does_not_read_begins_no_more_and_loses_nothing() {
    const COUNT: usize = 100;
    let mut parent = Parent::start();
    let ids: Vec<_> = (0..COUNT).map(|_| parent.run(&Big(64 << 10))).collect();
    parent.await_begun(10);
    // Idle but for the pings, which the answers stand in front of: what has begun does not grow any more.
    let mut begun = 0;
    super::parent::eventually("it begins no more", || {
        std::thread::sleep(Duration::from_millis(100));
        std::mem::replace(&mut begun, parent.page.begun().load(std::sync::atomic::Ordering::SeqCst)) == begun
    });
    let begun = parent.page.begun().load(std::sync::atomic::Ordering::SeqCst);
    assert!(begun < COUNT as u64 / 2, "{begun} of {COUNT} have begun");
    for id in ids {
        let done = parent.done();
        assert_eq!((done.task, done.body.len() > 64 << 10), (id, true));
    }
    parent.drain();
}

#[test]
fn the_end_of_the_link_ends_the_worker_idle_awaiting_or_computing_without_a_word() {
    for round in 0..3 {
        let mut parent = Parent::start();
        match round {
            0 => {}
            1 => drop(parent.run(&Sleep(60_000))),
            _ => drop(parent.run(&Stubborn())),
        }
        if round > 0 {
            parent.await_begun(1);
        }
        parent.link.shutdown(Shutdown::Both).unwrap();
        let (status, stderr) = parent.end();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
        assert!(!stderr.contains("procpool"), "{stderr}");
    }
}

#[test]
fn a_frame_that_cannot_be_understood_ends_the_worker_with_a_line() {
    let bytes: [&[u8]; 4] = [
        &[255, 255, 255, 255],
        &[2, 0, 0, 0, 77, 0],
        &[3, 0, 0, 0, 7, 1, 2],
        // A batch of one that promises more than it brings.
        &[7, 0, 0, 0, 2, 0, 1, 1, 1, 1, 9],
    ];
    for bytes in bytes {
        let mut parent = Parent::start();
        parent.run(&Spin(30));
        parent.link.write_all(bytes).unwrap();
        while parent.hear().is_some() {}
        let (status, stderr) = parent.end();
        assert_eq!(status.code(), Some(leave::MISUNDERSTOOD), "{status}: {stderr}");
        assert!(stderr.contains("the parent can't be understood"), "{stderr}");
    }
}

#[test]
fn an_idle_worker_does_not_wake_up_and_watches_again_when_it_is_busy() {
    let mut parent = Parent::start();
    parent.call(&Block(30));
    let pid = parent.pid();
    let switches = || -> Vec<String> {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let status =
            threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
        status
            .flat_map(|status| {
                status.lines().filter(|line| line.contains("ctxt")).map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    };
    super::parent::eventually("both threads sleep", || {
        let before = switches();
        std::thread::sleep(Duration::from_millis(200));
        before == switches()
    });
    parent.run(&Stubborn());
    parent.await_begun(2);
    ping(&mut parent, 1);
}
