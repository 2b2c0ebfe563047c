//! How tasks are stopped and given back.

use std::path::Path;
use std::time::{Duration, Instant};

use super::parent::{Done, Parent, encode, eventually};
use super::path;
use super::tasks::{Block, Compute, Forever, Noop, Polite, Sleep, Stubborn};
use crate::id::TaskId;
use crate::wire::frame::{ToParent, ToWorker, Verdict};

const STOPPED: Verdict = Verdict::Cancelled { began: true };

fn cancel(parent: &mut Parent, task: TaskId, grace_ms: u32) {
    parent.say(ToWorker::Cancel { task, grace_ms });
}

#[test]
fn a_queued_task_that_is_cancelled_never_begins() {
    let mut parent = Parent::start();
    let first = parent.run(&Sleep(50));
    let (second, third) = (parent.run(&Noop()), parent.run(&Noop()));
    parent.await_begun(1);
    cancel(&mut parent, second, 1000);
    let done = parent.done();
    assert_eq!((done.task, done.verdict), (second, Verdict::Cancelled { began: false }));
    assert_eq!(parent.done().task, first);
    assert_eq!(parent.done().task, third);
    // Cancelling what is answered, or was never sent, means nothing.
    cancel(&mut parent, third, 1000);
    cancel(&mut parent, TaskId::new(999, 0), 1000);
    assert_eq!(parent.call(&Noop()).verdict, Verdict::Returned);
    parent.drain();
}

#[test]
fn a_task_that_is_cancelled_in_the_same_breath_never_begins() {
    let mut parent = Parent::start();
    let (id, run) = parent.run_frame(&Block(10_000));
    let mut bytes = encode(run);
    bytes.extend_from_slice(&encode(ToWorker::Cancel { task: id, grace_ms: 0 }));
    std::io::Write::write_all(&mut parent.link, &bytes).unwrap();
    assert_eq!(parent.done().verdict, Verdict::Cancelled { began: false });
    parent.drain();
}

#[test]
fn a_computation_sees_its_cancellation_soon() {
    let mut parent = Parent::start();
    let mut worst = Duration::ZERO;
    for _ in 0..5 {
        let id = parent.run(&Compute());
        parent.await_begun(u64::from(id.serial));
        cancel(&mut parent, id, 60_000);
        let said = Instant::now();
        let done = parent.done();
        worst = worst.max(said.elapsed());
        assert_eq!(done.task, id);
        done.value::<Compute>();
    }
    println!("cancel to answer in a CPU loop: at most {worst:?}");
    assert!(worst < Duration::from_secs(5), "{worst:?}");
    parent.drain();
}

#[test]
fn a_task_that_never_asked_is_dropped_at_its_await() {
    let mut parent = Parent::start();
    let mark = path("forever");
    let id = parent.run(&Forever(mark.clone()));
    parent.await_begun(1);
    cancel(&mut parent, id, 60_000);
    assert_eq!(parent.done(), Done { task: id, attempt: 1, verdict: STOPPED, body: bytes::Bytes::new() });
    eventually("its drop has run", || Path::new(&mark).exists());
    std::fs::remove_file(mark).unwrap();
    assert_eq!(parent.call(&Noop()).verdict, Verdict::Returned);
    parent.drain();
}

#[test]
fn a_task_that_asked_may_clean_up_within_its_grace() {
    let mut parent = Parent::start();
    let id = parent.run(&Polite(100));
    parent.await_begun(1);
    cancel(&mut parent, id, 60_000);
    assert_eq!(parent.done().value::<Polite>(), "cleaned up");
    parent.drain();
}

#[test]
fn a_task_that_cleans_up_too_long_is_dropped_when_its_grace_ends() {
    let mut parent = Parent::start();
    let id = parent.run(&Polite(60_000));
    parent.await_begun(1);
    let said = Instant::now();
    cancel(&mut parent, id, 200);
    assert_eq!(parent.done().verdict, STOPPED);
    assert!(said.elapsed() >= Duration::from_millis(200), "{:?}", said.elapsed());
    // A cancel that comes after the end does not reach the next task, which awaits just as long.
    let next = parent.run(&Polite(0));
    parent.await_begun(2);
    cancel(&mut parent, id, 0);
    cancel(&mut parent, next, 60_000);
    assert_eq!(parent.done().value::<Polite>(), "cleaned up");
    parent.drain();
}

/// Each of these tasks is too short for the watcher to step in, and all of them together too long to wait for.
#[test]
fn a_cancel_is_heard_between_tasks_of_a_few_milliseconds() {
    let mut parent = Parent::start();
    let ids: Vec<_> = (0..400).map(|_| parent.run(&Block(3))).collect();
    parent.await_begun(1);
    let tasks = ids[1..].to_vec();
    parent.say(ToWorker::Recall { tasks });
    let answered = std::iter::from_fn(|| match parent.frame() {
        ToParent::Done { .. } => Some(()),
        ToParent::Recalled { tasks } => {
            assert!(tasks.len() > 300, "only {} came back", tasks.len());
            None
        }
        other => panic!("{other:?}"),
    });
    assert!(answered.count() < 100);
    // The one that ran meanwhile is still to be answered.
    parent.say(ToWorker::Drain);
    while parent.frame() != ToParent::Bye {}
    assert!(parent.hear().is_none());
    assert!(parent.end().0.success());
}

#[test]
fn recall_gives_back_what_has_not_begun_even_behind_a_stubborn_task() {
    let mut parent = Parent::start();
    let busy = parent.run(&Stubborn());
    let queued = [parent.run(&Noop()), parent.run(&Noop())];
    parent.await_begun(1);
    let kept = parent.run(&Noop());
    parent.say(ToWorker::Recall { tasks: vec![busy, queued[1], queued[0], TaskId::new(999, 0)] });
    assert_eq!(parent.frame(), ToParent::Recalled { tasks: vec![queued[1], queued[0]] });
    parent.say(ToWorker::Recall { tasks: vec![busy] });
    assert_eq!(parent.frame(), ToParent::Recalled { tasks: vec![] });
    cancel(&mut parent, kept, 0);
    assert_eq!(parent.done().task, kept);
    assert_eq!(parent.page.begun().load(std::sync::atomic::Ordering::SeqCst), 1);
}
