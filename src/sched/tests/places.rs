//! Who gets into the queue.

use std::time::Duration;

use super::{MS, Pool, answered, failed, run, task, worker};
use crate::error::ErrorKind::*;
use crate::sched::{Action, Config, Input, Scheduler, Spec};

fn grant(n: u32) -> Action {
    Action::Grant { task: task(n) }
}

/// One open worker that is sent nothing ahead, and whose queue has so many places.
fn bounded(queue_limit: u32, queue_bytes: u64) -> Pool {
    let config = Config { ahead: 0, queue_limit, queue_bytes, ..Config::default() };
    let mut pool = Pool {
        scheduler: Scheduler::new(config),
        now: std::time::Instant::now(),
        wanted: vec![],
        told: vec![],
    };
    pool.put(Input::Start);
    pool.wanted.clear();
    pool.opened(1)
}

fn submit(pool: &mut Pool, n: u32, bytes: u32, patient: bool) {
    pool.put(Input::Submit { task: task(n), spec: Spec { bytes, patient, ..Spec::default() } });
}

fn reserve(pool: &mut Pool, n: u32) {
    pool.put(Input::Reserve { task: task(n), spec: Spec { patient: true, ..Spec::default() } });
}

fn redeem(pool: &mut Pool, n: u32) {
    pool.put(Input::Redeem { task: task(n), spec: Spec::default() });
}

#[test]
fn what_waits_is_bounded_and_what_runs_does_not_count() {
    let mut pool = bounded(2, 1 << 30);
    (1..=4).for_each(|n| submit(&mut pool, n, 0, false));
    pool.wants(&[run(1, worker(1, 0), 1), failed(4, Overloaded, None, 0, false)]);
    pool.done(1, worker(1, 0), 1);
    submit(&mut pool, 5, 0, false);
    submit(&mut pool, 6, 0, false);
    pool.wants(&[answered(1), run(2, worker(1, 0), 1), failed(6, Overloaded, None, 0, false)]);
}

#[test]
fn places_are_given_out_in_the_order_in_which_they_were_asked_for() {
    let mut pool = bounded(1, 1 << 30);
    let one = worker(1, 0);
    submit(&mut pool, 1, 0, false);
    submit(&mut pool, 2, 0, false);
    reserve(&mut pool, 3);
    submit(&mut pool, 4, 0, true);
    pool.wants(&[run(1, one, 1)]);
    pool.done(1, one, 1);
    pool.wants(&[answered(1), run(2, one, 1), grant(3)]);
    // Who comes now has to wait, although nothing is in the queue.
    submit(&mut pool, 5, 0, false);
    pool.wants(&[failed(5, Overloaded, None, 0, false)]);
    redeem(&mut pool, 3);
    pool.done(2, one, 1);
    pool.wants(&[answered(2), run(3, one, 1), grant(4)]);
}

#[test]
fn a_place_that_is_given_back_is_the_next_ones() {
    let mut pool = bounded(1, 1 << 30);
    reserve(&mut pool, 1);
    reserve(&mut pool, 2);
    reserve(&mut pool, 3);
    pool.wants(&[grant(1)]);
    pool.put(Input::Cancel { task: task(2) });
    pool.put(Input::Cancel { task: task(1) });
    pool.wants(&[failed(2, Cancelled, None, 0, false), failed(1, Cancelled, None, 0, false), grant(3)]);
    redeem(&mut pool, 1);
    redeem(&mut pool, 3);
    pool.wants(&[run(3, worker(1, 0), 1)]);
}

#[test]
fn bytes_are_bounded_and_a_giant_goes_alone() {
    let mut pool = bounded(u32::MAX, 1000);
    let one = worker(1, 0);
    submit(&mut pool, 1, 5000, false);
    submit(&mut pool, 2, 5000, false);
    submit(&mut pool, 3, 1, false);
    pool.wants(&[run(1, one, 1), failed(3, Overloaded, None, 0, false)]);
    // A small one does not overtake who waits for more.
    pool.done(1, one, 1);
    submit(&mut pool, 4, 600, false);
    submit(&mut pool, 5, 600, true);
    submit(&mut pool, 6, 1, false);
    pool.wants(&[answered(1), run(2, one, 1), failed(6, Overloaded, None, 0, false)]);
    pool.done(2, one, 1);
    pool.wants(&[answered(2), run(4, one, 1), grant(5)]);
}

#[test]
fn what_comes_back_is_let_in_and_the_line_waits_for_it() {
    let mut pool = bounded(1, 1 << 30);
    let one = worker(1, 0);
    submit(&mut pool, 1, 0, false);
    submit(&mut pool, 2, 0, false);
    reserve(&mut pool, 3);
    pool.lost(one, 0);
    pool.opens(worker(2, 0));
    pool.wants(&[run(1, one, 1), Action::Launch { worker: worker(2, 0) }, run(1, worker(2, 0), 1)]);
    pool.done(1, worker(2, 0), 1);
    pool.wants(&[answered(1), run(2, worker(2, 0), 1), grant(3)]);
}

#[test]
fn a_place_is_waited_for_until_the_deadline_and_not_beyond_the_end() {
    let mut pool = bounded(1, 1 << 30);
    let late = Spec { patient: true, deadline: Some(10 * MS), ..Spec::default() };
    pool.put(Input::Reserve { task: task(1), spec: late });
    pool.put(Input::Reserve { task: task(2), spec: late });
    reserve(&mut pool, 3);
    pool.wants(&[grant(1)]);
    pool.pass(10 * MS);
    pool.wants(&[failed(1, TimedOut, None, 0, false), failed(2, TimedOut, None, 0, false), grant(3)]);
    reserve(&mut pool, 4);
    submit(&mut pool, 5, 0, true);
    pool.put(Input::Drain);
    // Who has submitted is served to the end.
    pool.wants(&[
        failed(3, Closed, None, 0, false),
        failed(4, Closed, None, 0, false),
        grant(5),
        run(5, worker(1, 0), 1),
    ]);
}

#[test]
fn a_place_that_is_used_too_late_is_not_used_although_its_alarm_has_not_gone_off() {
    let mut pool = bounded(1, 1 << 30);
    let spec = |left| Spec { deadline: Some(left), ..Spec::default() };
    pool.put(Input::Reserve { task: task(1), spec: spec(10 * MS) });
    pool.put(Input::Redeem { task: task(1), spec: spec(Duration::ZERO) });
    pool.wants(&[grant(1), failed(1, TimedOut, None, 0, false)]);
    pool.put(Input::Reserve { task: task(2), spec: spec(10 * MS) });
    pool.put(Input::Redeem { task: task(2), spec: spec(MS) });
    let left = Some(10 * MS);
    pool.wants(&[grant(2), Action::Run { worker: worker(1, 0), task: task(2), attempt: 1, left }]);
}
