//! What happens to tasks.

use super::{MS, Pool, answered, failed, run, task, worker};
use crate::error::ErrorKind::*;
use crate::id::TaskId;
use crate::sched::{Action, Answer, Input};
use std::time::Duration;

#[test]
fn tasks_go_to_idle_workers_first_and_in_order() {
    let mut pool = Pool::open(2, 2);
    let (one, two) = (worker(1, 0), worker(2, 1));
    pool.submit(1..=5);
    pool.wants(&[run(1, one, 1), run(2, two, 1), run(3, two, 1), run(4, one, 1)]);
    pool.done(2, two, 1);
    pool.wants(&[answered(2), run(5, two, 1)]);
}

#[test]
fn a_lost_task_that_had_not_begun_goes_back_to_its_place() {
    let mut pool = Pool::open(2, 2);
    let (one, two) = (worker(1, 0), worker(2, 1));
    pool.submit(1..=6);
    pool.wants(&[run(1, one, 1), run(2, two, 1), run(3, two, 1), run(4, one, 1)]);
    pool.lost(one, 1);
    pool.wants(&[failed(1, Crashed, Some(one), 1, true), Action::Launch { worker: worker(3, 0) }]);
    pool.done(3, two, 1);
    pool.wants(&[answered(3), run(4, two, 1)]);
    pool.done(2, two, 1);
    pool.wants(&[answered(2), run(5, two, 1)]);
}

#[test]
fn an_answer_for_what_is_not_there_kills_its_sender_and_nobody_else() {
    let mut pool = Pool::open(2, 1);
    let (one, two) = (worker(1, 0), worker(2, 1));
    pool.submit([1, 2]);
    pool.wants(&[run(1, one, 1), run(2, two, 1)]);
    pool.done(2, one, 1);
    pool.wants(&[Action::Kill { worker: one }]);
    pool.done(1, one, 1);
    pool.wants(&[]);
    pool.lost(one, 1);
    pool.wants(&[failed(1, Protocol, Some(one), 1, true), Action::Launch { worker: worker(3, 0) }]);
    pool.done(2, two, 1);
    pool.wants(&[answered(2)]);
}

#[test]
fn a_stale_worker_or_task_is_nobody() {
    let mut pool = Pool::open(1, 1);
    pool.submit([1]);
    pool.done(1, worker(1, 0), 1);
    pool.wants(&[run(1, worker(1, 0), 1), answered(1)]);
    pool.put(Input::Cancel { task: task(1) });
    pool.put(Input::Cancel { task: TaskId::new(7, u32::MAX) });
    pool.lost(worker(9, 0), 0);
    pool.lost(worker(1, 7), 0);
    pool.wants(&[]);
}

#[test]
fn cancelling_what_waits_is_immediate() {
    let mut pool = Pool::open(1, 1);
    pool.submit([1, 2, 3]);
    pool.put(Input::Cancel { task: task(2) });
    pool.done(1, worker(1, 0), 1);
    pool.wants(&[
        run(1, worker(1, 0), 1),
        failed(2, Cancelled, None, 0, false),
        answered(1),
        run(3, worker(1, 0), 1),
    ]);
}

#[test]
fn the_ladder_has_four_rungs_and_ends() {
    let mut pool = Pool::open(1, 1);
    let one = worker(1, 0);
    pool.submit([1, 2]);
    pool.put(Input::Cancel { task: task(1) });
    pool.wants(&[run(1, one, 1), Action::Cancel { worker: one, task: task(1), grace: 1000 * MS }]);
    pool.pass(999 * MS);
    pool.wants(&[]);
    pool.pass(MS);
    pool.wants(&[Action::Terminate { worker: one }]);
    pool.pass(1000 * MS);
    pool.wants(&[Action::Kill { worker: one }]);
    pool.pass(1000 * MS);
    pool.wants(&[
        Action::Abandon { worker: one },
        failed(1, Unresponsive, Some(one), 1, true),
        Action::Launch { worker: worker(2, 0) },
    ]);
    pool.lost(one, 1);
    pool.wants(&[]);
    pool.opens(worker(2, 0));
    pool.wants(&[run(2, worker(2, 0), 1)]);
}

#[test]
fn an_answer_that_races_a_cancel_is_delivered_and_a_cancelled_one_says_whether_it_began() {
    let mut pool = Pool::open(1, 1);
    let one = worker(1, 0);
    pool.submit([1, 2]);
    pool.put(Input::Cancel { task: task(1) });
    pool.done(1, one, 1);
    pool.put(Input::Cancel { task: task(2) });
    pool.wanted.clear();
    pool.put(Input::Done {
        worker: one,
        task: task(2),
        attempt: 1,
        answer: Answer::Cancelled { began: false },
        used: Duration::ZERO,
    });
    pool.wants(&[failed(2, Cancelled, Some(one), 0, false)]);
    pool.pass(60_000 * MS);
    pool.wants(&[]);
}

#[test]
fn a_silent_worker_is_pinged_and_then_dead() {
    let mut pool = Pool::open(1, 1);
    let one = worker(1, 0);
    pool.submit([1]);
    pool.pass(1000 * MS);
    pool.wants(&[run(1, one, 1), Action::Ping { worker: one }]);
    pool.put(Input::Heard { worker: one });
    pool.pass(1000 * MS);
    pool.wants(&[Action::Ping { worker: one }]);
    pool.pass(3999 * MS);
    pool.wants(&[]);
    pool.pass(MS);
    pool.wants(&[Action::Kill { worker: one }]);
    pool.lost(one, 1);
    pool.wants(&[failed(1, Unresponsive, Some(one), 1, true), Action::Launch { worker: worker(2, 0) }]);
}

#[test]
fn an_idle_pool_asks_for_no_call() {
    let mut pool = Pool::open(4, 1);
    assert_eq!(pool.scheduler.poll_timeout(), None);
    pool.submit([1]);
    pool.done(1, worker(1, 0), 1);
    pool.pass(1000 * MS);
    assert_eq!(pool.scheduler.poll_timeout(), None);
}

#[test]
fn a_parent_that_stood_still_blames_nobody() {
    let mut pool = Pool::open(2, 1);
    pool.submit([1, 2]);
    pool.put(Input::Cancel { task: task(2) });
    pool.wanted.clear();
    pool.pass(500 * MS);
    pool.now += 8000 * MS;
    pool.put(Input::Tick);
    // Nothing is due but what was due half a second ago; the ladder goes on from there, but for a beat of 100 ms.
    pool.wants(&[]);
    pool.pass(390 * MS);
    pool.wants(&[]);
    pool.pass(110 * MS);
    pool.wants(&[Action::Ping { worker: worker(1, 0) }, Action::Terminate { worker: worker(2, 1) }]);
}

#[test]
fn a_worker_that_hangs_up_has_a_moment_to_end() {
    let mut pool = Pool::open(1, 1);
    let one = worker(1, 0);
    pool.submit([1]);
    pool.put(Input::HungUp { worker: one });
    pool.pass(249 * MS);
    pool.wants(&[run(1, one, 1)]);
    pool.pass(MS);
    pool.wants(&[Action::Kill { worker: one }]);
    pool.lost(one, 0);
    pool.wants(&[Action::Launch { worker: worker(2, 0) }]);
}
