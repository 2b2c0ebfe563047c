//! Several slots: tasks that run at once, each woken, cancelled and failed by itself.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::parent::{Parent, encode, hello, myself};
use super::path;
use super::tasks::{Block, Forever, Gather, Idle, Noop, Panic, Polite, Polls, Sleep, Where, Yield};
use crate::id::TaskId;
use crate::wire::SLOTS_LIMIT;
use crate::wire::frame::{ToParent, ToWorker, Verdict};

fn start(slots: u32) -> Parent {
    let mut hello = hello(vec![myself()]);
    hello.limits.slots = slots;
    Parent::start_at("__procpool_worker", hello)
}

/// Several messages in one write.
fn say_at_once(parent: &mut Parent, frames: impl IntoIterator<Item = ToWorker>) {
    let bytes: Vec<u8> = frames.into_iter().flat_map(|frame| encode(frame).to_vec()).collect();
    std::io::Write::write_all(&mut parent.link, &bytes).unwrap();
}

fn cancel(task: TaskId, grace_ms: u32) -> ToWorker {
    ToWorker::Cancel { task, grace_ms }
}

#[test]
fn a_worker_says_how_many_slots_it_has() {
    for (asked, has) in [(0, 1), (1, 1), (1000, 1000), (u32::MAX, SLOTS_LIMIT)] {
        let parent = start(asked);
        assert_eq!(parent.ready.slots, has);
        parent.drain();
    }
}

#[test]
fn as_many_tasks_run_as_there_are_slots_and_no_more() {
    let mut parent = start(3);
    let met: BTreeSet<_> = (0..3).map(|_| parent.run(&Gather(3))).collect();
    let ended: BTreeSet<_> = (0..3).map(|_| parent.done().task).collect();
    assert_eq!(ended, met);
    let held = [parent.run(&Polite(0)), parent.run(&Polite(0)), parent.run(&Polite(0))];
    let late = parent.run(&Noop());
    parent.await_begun(6);
    parent.say(ToWorker::Ping { nonce: 1 });
    assert_eq!(parent.frame(), ToParent::Pong { nonce: 1 });
    assert_eq!(parent.page.begun().load(Ordering::SeqCst), 6);
    parent.say(cancel(held[1], 60_000));
    assert_eq!((parent.done().task, parent.done().task), (held[1], late));
    say_at_once(&mut parent, [cancel(held[0], 60_000), cancel(held[2], 60_000)]);
    let ended: BTreeSet<_> = (0..2).map(|_| parent.done().task).collect();
    assert_eq!(ended, [held[0], held[2]].into());
    parent.drain();
}

#[test]
fn what_wakes_one_task_polls_no_other() {
    let mut parent = start(1000);
    let idle: Vec<_> = (0..900).map(|_| parent.run(&Idle())).collect();
    let busy = parent.run(&Yield(2000));
    assert_eq!(parent.done().task, busy);
    // Each was polled when it began, and then there was nothing to poll it for.
    let polls = parent.run(&Polls());
    let done = parent.done();
    assert_eq!((done.task, done.value::<Polls>()), (polls, 900));
    say_at_once(&mut parent, idle.iter().map(|&task| cancel(task, 60_000)));
    let stopped: BTreeSet<_> = idle.iter().map(|_| parent.done().task).collect();
    assert_eq!(stopped, idle.into_iter().collect());
    parent.drain();
}

#[test]
fn a_task_that_yields_without_end_does_not_keep_others_from_beginning_and_ending() {
    let mut parent = start(3);
    let busy = parent.run(&Yield(u64::MAX));
    for _ in 0..20 {
        let slow = parent.run(&Sleep(1));
        let fast = parent.run(&Noop());
        let ended: BTreeSet<_> = [parent.done().task, parent.done().task].into();
        assert_eq!(ended, [slow, fast].into());
    }
    parent.say(cancel(busy, 0));
    assert_eq!(parent.done().task, busy);
    parent.drain();
}

#[test]
fn a_panic_fails_its_own_task_only() {
    let mut parent = start(10);
    let first = parent.run(&Gather(2));
    for place in [Where::Run, Where::AfterAwait, Where::Poisonous, Where::TaskDrop, Where::OutputSerialize] {
        let failed = parent.run(&Panic(place));
        let done = parent.done();
        assert_eq!(done.task, failed);
        assert!(matches!(done.verdict, Verdict::Panicked { .. }), "{place:?}: {:?}", done.verdict);
    }
    let second = parent.run(&Gather(2));
    let ended: BTreeSet<_> = [parent.done().task, parent.done().task].into();
    assert_eq!(ended, [first, second].into());
    parent.drain();
}

#[test]
fn each_is_cancelled_by_itself_even_if_several_are_in_one_breath() {
    let mut parent = start(5);
    let mark = path("slots-forever");
    let polite = [parent.run(&Polite(0)), parent.run(&Polite(0)), parent.run(&Polite(0))];
    let rude = parent.run(&Forever(mark.clone()));
    parent.await_begun(4);
    say_at_once(&mut parent, [cancel(polite[0], 60_000), cancel(rude, 60_000), cancel(polite[2], 60_000)]);
    let mut stopped = BTreeSet::new();
    for _ in 0..3 {
        let done = parent.done();
        match done.task == rude {
            true => assert_eq!(done.verdict, Verdict::Cancelled { began: true }),
            false => assert_eq!(done.value::<Polite>(), "cleaned up"),
        }
        stopped.insert(done.task);
    }
    assert_eq!(stopped, [polite[0], polite[2], rude].into());
    std::fs::remove_file(mark).unwrap();
    // The slots are used again; what is late does not reach their new tasks.
    let next: BTreeSet<_> = (0..4).map(|_| parent.run(&Sleep(20))).collect();
    parent.await_begun(8);
    say_at_once(&mut parent, [cancel(polite[0], 0), cancel(rude, 0)]);
    let ended: BTreeSet<_> = (0..4)
        .map(|_| parent.done())
        .map(|done| (done.task, done.verdict))
        .map(|(task, verdict)| {
            assert_eq!(verdict, Verdict::Returned);
            task
        })
        .collect();
    assert_eq!(ended, next);
    parent.say(cancel(polite[1], 60_000));
    assert_eq!(parent.done().value::<Polite>(), "cleaned up");
    parent.drain();
}

#[test]
fn each_has_its_own_grace() {
    let mut parent = start(3);
    let [short, long] = [parent.run(&Polite(60_000)), parent.run(&Polite(1))];
    parent.await_begun(2);
    let said = Instant::now();
    say_at_once(&mut parent, [cancel(short, 200), cancel(long, 60_000)]);
    let done = parent.done();
    assert_eq!((done.task, done.value::<Polite>().as_str()), (long, "cleaned up"));
    let done = parent.done();
    assert_eq!((done.task, done.verdict), (short, Verdict::Cancelled { began: true }));
    assert!(said.elapsed() >= Duration::from_millis(200), "{:?}", said.elapsed());
    parent.drain();
}

#[test]
fn a_task_that_blocks_stalls_its_neighbours_but_no_pings_recalls_or_cancels() {
    let mut parent = start(3);
    let waits = parent.run(&Polite(0));
    let blocks = parent.run(&Block(3000));
    parent.await_begun(2);
    let queued = [parent.run(&Noop()), parent.run(&Noop()), parent.run(&Noop())];
    let said = Instant::now();
    parent.say(ToWorker::Ping { nonce: 5 });
    assert_eq!(parent.frame(), ToParent::Pong { nonce: 5 });
    say_at_once(
        &mut parent,
        [
            ToWorker::Recall { tasks: vec![waits, blocks, queued[0]] },
            cancel(queued[1], 1000),
            cancel(waits, 60_000),
            ToWorker::Drain,
        ],
    );
    assert_eq!(parent.frame(), ToParent::Recalled { tasks: vec![queued[0]] });
    let done = parent.done();
    assert_eq!((done.task, done.verdict), (queued[1], Verdict::Cancelled { began: false }));
    assert!(said.elapsed() < Duration::from_millis(2500), "it was heard only after {:?}", said.elapsed());
    let ended: BTreeSet<_> = (0..3).map(|_| parent.done().task).collect();
    assert_eq!(ended, [waits, blocks, queued[2]].into());
    parent.drained();
}

#[test]
fn a_drain_waits_for_every_task_that_has_begun() {
    let mut parent = start(8);
    let tasks: BTreeSet<_> = (1..20).map(|n| parent.run(&Sleep(n))).collect();
    parent.say(ToWorker::Drain);
    let ended: BTreeSet<_> = tasks.iter().map(|_| parent.done().task).collect();
    assert_eq!(ended, tasks);
    parent.drained();
}

#[test]
fn tens_of_thousands_of_tasks_pass_through_a_thousand_slots() {
    let mut parent = start(1000);
    let mut link = parent.link.try_clone().unwrap();
    let mut sent = BTreeSet::new();
    let frames: Vec<_> = (0..20_000)
        .map(|n| {
            let (id, message) = match n % 3 {
                0 => parent.run_frame(&Noop()),
                1 => parent.run_frame(&Yield(n % 7)),
                _ => parent.run_frame(&Sleep(n % 5)),
            };
            sent.insert(id);
            encode(message)
        })
        .collect();
    let writer = std::thread::spawn(move || {
        for chunk in frames.chunks(500) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|frame| frame.to_vec()).collect();
            std::io::Write::write_all(&mut link, &bytes).unwrap();
        }
    });
    for _ in 0..20_000 {
        let done = parent.done();
        assert!(sent.remove(&done.task), "{:?} was answered twice", done.task);
        assert_eq!(done.verdict, Verdict::Returned);
    }
    writer.join().unwrap();
    parent.drain();
}
