//! What a caller's view asks for: priorities, turns, timeouts, deadlines.

use std::time::Duration;

use super::{MS, Pool, answered, failed, run, task, worker};
use crate::error::ErrorKind::*;
use crate::sched::{Action, Answer, Input, Spec};

fn submit(pool: &mut Pool, n: u32, spec: Spec) {
    pool.put(Input::Submit { task: task(n), spec });
}

fn cancel(n: u32) -> Action {
    Action::Cancel { worker: worker(1, 0), task: task(n), grace: 1000 * MS }
}

fn stopped(pool: &mut Pool, n: u32, began: bool) {
    let answer = Answer::Cancelled { began };
    let used = Duration::ZERO;
    pool.put(Input::Done { worker: worker(1, 0), task: task(n), attempt: 1, answer, used });
}

#[test]
fn higher_goes_first_and_callers_take_turns() {
    let mut pool = Pool::open(1, 1);
    let spec = |priority, lane| Spec { priority, lane, ..Spec::default() };
    pool.submit([1]);
    for (n, spec) in (2..).zip([spec(0, 1), spec(0, 1), spec(0, 2), spec(-1, 3), spec(9, 1)]) {
        submit(&mut pool, n, spec);
    }
    pool.wants(&[run(1, worker(1, 0), 1)]);
    for (before, next) in [(1, 6), (6, 2), (2, 4), (4, 3), (3, 5)] {
        pool.done(before, worker(1, 0), 1);
        pool.wants(&[answered(before), run(next, worker(1, 0), 1)]);
    }
}

#[test]
fn what_was_sent_ahead_makes_way_for_a_higher_priority() {
    let mut pool = Pool::sent_ahead(1, 1, 1024).opened(1);
    let one = worker(1, 0);
    pool.submit([1, 2, 3]);
    pool.wants(&[run(1, one, 1), run(2, one, 1)]);
    submit(&mut pool, 4, Spec { priority: 1, ..Spec::default() });
    pool.wants(&[Action::Recall { worker: one, tasks: vec![task(2)] }]);
    submit(&mut pool, 5, Spec { priority: 1, ..Spec::default() });
    pool.put(Input::Recalled { worker: one, tasks: vec![task(2)] });
    pool.wants(&[run(4, one, 1)]);
    for (before, next, attempt) in [(1, 5, 1), (4, 2, 1), (5, 3, 1)] {
        let (task, used) = (task(before), 50 * MS);
        pool.put(Input::Done { worker: one, task, attempt: 1, answer: Answer::Finished, used });
        pool.wants(&[answered(before), run(next, one, attempt)]);
    }
}

#[test]
fn one_worker_makes_way_at_a_time_the_one_that_was_heard_last_first() {
    let mut pool = Pool::sent_ahead(2, 1, 1024).opened(2);
    let (one, two) = (worker(1, 0), worker(2, 1));
    pool.submit(1..7);
    pool.wants(&[run(1, one, 1), run(2, two, 1), run(3, one, 1), run(4, two, 1)]);
    pool.now += MS;
    pool.put(Input::Heard { worker: one });
    let urgent = Spec { priority: 1, ..Spec::default() };
    (11..13).for_each(|n| submit(&mut pool, n, urgent));
    let recall = |worker, n| Action::Recall { worker, tasks: vec![task(n)] };
    pool.wants(&[recall(one, 3)]);
    // The second one that is urgent still waits.
    pool.put(Input::Recalled { worker: one, tasks: vec![task(3)] });
    pool.wants(&[run(11, one, 1), recall(two, 4)]);
    pool.put(Input::Recalled { worker: two, tasks: vec![task(4)] });
    pool.wants(&[run(12, two, 1)]);
    // Nothing that is urgent waits any more.
    pool.put(Input::Done { worker: two, task: task(2), attempt: 1, answer: Answer::Finished, used: 50 * MS });
    pool.wants(&[answered(2), run(3, two, 1)]);
}

#[test]
fn a_timeout_counts_from_the_beginning_and_ends_on_the_ladder() {
    let mut pool = Pool::sent_ahead(1, 1, 1).opened(1);
    let one = worker(1, 0);
    let timed = Spec { timeout: Some(100 * MS), ..Spec::default() };
    pool.submit([1]);
    submit(&mut pool, 2, timed);
    pool.wants(&[run(1, one, 1), run(2, one, 1)]);
    pool.pass(500 * MS);
    pool.wants(&[]);
    pool.done(1, one, 1);
    pool.pass(99 * MS);
    pool.wants(&[answered(1)]);
    pool.pass(MS);
    pool.wants(&[cancel(2)]);
    pool.pass(1000 * MS);
    pool.wants(&[Action::Terminate { worker: one }]);
    pool.lost(one, 2);
    pool.wants(&[failed(2, TimedOut, Some(one), 1, true), Action::Launch { worker: worker(2, 0) }]);
}

#[test]
fn a_timeout_counts_anew_for_every_attempt() {
    let mut pool = Pool::open(1, 1);
    submit(&mut pool, 1, Spec { timeout: Some(100 * MS), ..Spec::default() });
    pool.pass(90 * MS);
    pool.lost(worker(1, 0), 0);
    pool.opens(worker(2, 0));
    pool.wanted.clear();
    pool.pass(99 * MS);
    pool.wants(&[]);
    pool.pass(MS);
    pool.wants(&[Action::Cancel { worker: worker(2, 0), task: task(1), grace: 1000 * MS }]);
}

#[test]
fn an_answer_that_races_its_timeout_is_delivered() {
    let mut pool = Pool::open(1, 1);
    submit(&mut pool, 1, Spec { timeout: Some(100 * MS), ..Spec::default() });
    pool.pass(100 * MS);
    pool.wants(&[run(1, worker(1, 0), 1), cancel(1)]);
    pool.done(1, worker(1, 0), 1);
    pool.wants(&[answered(1)]);
    pool.pass(10_000 * MS);
    pool.wants(&[]);
}

#[test]
fn a_deadline_counts_the_waiting_and_what_is_late_is_not_sent() {
    let mut pool = Pool::open(1, 1);
    let within = |ms: u32| Spec { deadline: Some(ms * MS), ..Spec::default() };
    submit(&mut pool, 1, within(0));
    pool.wants(&[failed(1, TimedOut, None, 0, false)]);
    pool.submit([2]);
    submit(&mut pool, 3, within(100));
    submit(&mut pool, 4, within(200));
    pool.wants(&[run(2, worker(1, 0), 1)]);
    pool.pass(99 * MS);
    pool.wants(&[]);
    pool.pass(MS);
    pool.wants(&[failed(3, TimedOut, None, 0, false)]);
    pool.done(2, worker(1, 0), 1);
    let sent = Action::Run { worker: worker(1, 0), task: task(4), attempt: 1, left: Some(100 * MS) };
    pool.wants(&[answered(2), sent]);
    pool.pass(100 * MS);
    pool.wants(&[cancel(4)]);
    stopped(&mut pool, 4, true);
    pool.wants(&[failed(4, TimedOut, Some(worker(1, 0)), 1, true)]);
}

#[test]
fn a_deadline_reaches_what_was_sent_ahead_and_did_not_run() {
    let mut pool = Pool::sent_ahead(1, 1, 1).opened(1);
    pool.submit([1]);
    submit(&mut pool, 2, Spec { deadline: Some(10 * MS), ..Spec::default() });
    pool.wanted.clear();
    pool.pass(10 * MS);
    pool.wants(&[cancel(2)]);
    stopped(&mut pool, 2, false);
    pool.wants(&[failed(2, TimedOut, Some(worker(1, 0)), 0, false)]);
}

#[test]
fn the_earlier_of_timeout_and_deadline_wins() {
    for (timeout, deadline) in [(50, 5000), (5000, 50)] {
        let mut pool = Pool::open(1, 1);
        let (timeout, deadline) = (Some(timeout * MS), Some(deadline * MS));
        submit(&mut pool, 1, Spec { timeout, deadline, ..Spec::default() });
        pool.wanted.clear();
        pool.pass(49 * MS);
        pool.wants(&[]);
        pool.pass(MS);
        pool.wants(&[cancel(1)]);
    }
}

#[test]
fn a_deadline_passes_while_the_parent_stands_still_and_a_timeout_does_not() {
    let mut pool = Pool::open(2, 1);
    submit(&mut pool, 1, Spec { timeout: Some(900 * MS), ..Spec::default() });
    submit(&mut pool, 2, Spec { deadline: Some(900 * MS), ..Spec::default() });
    pool.wanted.clear();
    pool.now += 5000 * MS;
    pool.put(Input::Tick);
    pool.wants(&[Action::Cancel { worker: worker(2, 1), task: task(2), grace: 1000 * MS }]);
    pool.pass(900 * MS);
    pool.wants(&[cancel(1)]);
}
