//! A task that does not stop, and those beside it.

use std::time::Duration;

use super::{MS, Pool, answered, failed, run, task, worker};
use crate::error::ErrorKind::{Cancelled, Collateral};
use crate::id::{TaskId, WorkerId};
use crate::sched::{Action, Answer, Input};

fn stopped(pool: &mut Pool, n: u32, by: WorkerId) {
    pool.put(Input::Done {
        worker: by,
        task: task(n),
        attempt: 1,
        answer: Answer::Cancelled { began: true },
        used: Duration::ZERO,
    });
}

fn recall(by: WorkerId, tasks: &[u32]) -> Action {
    Action::Recall { worker: by, tasks: tasks.iter().map(|&n| task(n)).collect::<Vec<TaskId>>() }
}

/// Two workers with three slots, the first with three tasks, of which the first was cancelled a grace ago; the second with
/// none.
fn quarantined() -> (Pool, WorkerId, WorkerId) {
    let mut pool = Pool::open(2, 3);
    let (one, two) = (worker(1, 0), worker(2, 1));
    pool.submit([1, 2, 3, 4, 5]);
    pool.wants(&[run(1, one, 1), run(2, two, 1), run(3, two, 1), run(4, one, 1), run(5, one, 1)]);
    pool.done(2, two, 1);
    pool.done(3, two, 1);
    pool.put(Input::Cancel { task: task(1) });
    pool.pass(999 * MS);
    pool.wanted.clear();
    pool.pass(MS);
    pool.wants(&[recall(one, &[4, 5])]);
    (pool, one, two)
}

#[test]
fn a_worker_with_a_task_that_does_not_stop_gets_nothing_and_gives_back_what_it_has_not_begun() {
    let (mut pool, one, two) = quarantined();
    pool.put(Input::Recalled { worker: one, tasks: vec![task(5)] });
    // The first has room, too, and less to do than the second comes to have.
    pool.submit([6, 7, 8]);
    pool.wants(&[run(5, two, 1), run(6, two, 1), run(7, two, 1)]);
    pool.done(6, two, 1);
    pool.wants(&[answered(6), run(8, two, 1)]);
}

#[test]
fn neighbours_have_a_grace_before_their_worker_is_terminated() {
    let (mut pool, one, _) = quarantined();
    pool.put(Input::Recalled { worker: one, tasks: vec![] });
    pool.pass(999 * MS);
    pool.wanted.clear();
    pool.pass(MS);
    pool.wants(&[Action::Terminate { worker: one }]);
    pool.pass(999 * MS);
    pool.wanted.clear();
    pool.pass(MS);
    pool.wants(&[Action::Kill { worker: one }]);
    pool.lost(one, 3);
    pool.wants(&[
        failed(4, Collateral, Some(one), 1, true),
        failed(5, Collateral, Some(one), 1, true),
        failed(1, Cancelled, Some(one), 1, true),
        Action::Launch { worker: worker(3, 0) },
    ]);
}

#[test]
fn when_the_neighbours_are_done_nothing_is_waited_for() {
    let (mut pool, one, _) = quarantined();
    pool.put(Input::Recalled { worker: one, tasks: vec![] });
    pool.done(4, one, 1);
    pool.wants(&[answered(4)]);
    pool.done(5, one, 1);
    pool.wants(&[answered(5), Action::Terminate { worker: one }]);
    pool.pass(1000 * MS);
    assert_eq!(pool.wanted.pop(), Some(Action::Kill { worker: one }));
}

#[test]
fn one_that_stops_after_all_sets_its_worker_free_and_costs_nothing() {
    let (mut pool, one, two) = quarantined();
    pool.put(Input::Recalled { worker: one, tasks: vec![] });
    pool.submit([6, 7, 8, 9]);
    pool.wants(&[run(6, two, 1), run(7, two, 1), run(8, two, 1)]);
    stopped(&mut pool, 1, one);
    pool.wants(&[failed(1, Cancelled, Some(one), 1, true), run(9, one, 1)]);
    pool.pass(999 * MS);
    pool.wants(&[]);
}

#[test]
fn a_neighbour_that_is_cancelled_keeps_its_own_grace_but_not_for_longer_than_the_others() {
    let (mut pool, one, _) = quarantined();
    pool.put(Input::Recalled { worker: one, tasks: vec![] });
    pool.pass(500 * MS);
    pool.put(Input::Cancel { task: task(4) });
    pool.done(5, one, 1);
    pool.wanted.clear();
    pool.pass(499 * MS);
    assert!(!pool.wanted.contains(&Action::Terminate { worker: one }));
    pool.pass(MS);
    assert!(pool.wanted.contains(&Action::Terminate { worker: one }));
}

#[test]
fn tasks_that_were_cancelled_together_wait_for_no_one() {
    let mut pool = Pool::open(1, 1000);
    let one = worker(1, 0);
    pool.submit(1..=1000);
    for n in 1..=1000 {
        pool.put(Input::Cancel { task: task(n) });
    }
    pool.wanted.clear();
    pool.pass(1000 * MS);
    pool.wants(&[Action::Terminate { worker: one }]);
}

#[test]
fn neighbours_of_a_task_that_does_not_stop_are_collateral_or_go_back() {
    let mut pool = Pool::open(1, 3);
    let one = worker(1, 0);
    pool.submit([1, 2, 3]);
    pool.put(Input::Cancel { task: task(1) });
    pool.pass(2500 * MS);
    pool.submit([4]);
    pool.wanted.clear();
    pool.lost(one, 2);
    pool.wants(&[
        failed(2, Collateral, Some(one), 1, true),
        failed(1, Cancelled, Some(one), 1, true),
        Action::Launch { worker: worker(2, 0) },
    ]);
    pool.opens(worker(2, 0));
    pool.wants(&[run(3, worker(2, 0), 1), run(4, worker(2, 0), 1)]);
}

#[test]
fn a_worker_that_survives_sigterm_is_drained_when_it_is_idle() {
    let mut pool = Pool::open(1, 2);
    let one = worker(1, 0);
    pool.submit([1, 2]);
    pool.put(Input::Cancel { task: task(1) });
    pool.pass(2000 * MS);
    pool.wanted.clear();
    stopped(&mut pool, 1, one);
    pool.wants(&[failed(1, Cancelled, Some(one), 1, true)]);
    pool.done(2, one, 1);
    pool.wants(&[answered(2), Action::Drain { worker: one }]);
    pool.put(Input::Bye { worker: one });
    pool.lost(one, 2);
    pool.wants(&[Action::Launch { worker: worker(2, 0) }]);
}

#[test]
fn what_has_begun_is_not_asked_for_again_when_another_task_does_not_stop() {
    let mut pool = Pool::open(1, 3);
    let one = worker(1, 0);
    pool.submit([1, 2, 3]);
    pool.put(Input::Cancel { task: task(1) });
    pool.pass(500 * MS);
    pool.put(Input::Cancel { task: task(2) });
    pool.wanted.clear();
    pool.pass(500 * MS);
    pool.wants(&[recall(one, &[3])]);
    pool.put(Input::Recalled { worker: one, tasks: vec![] });
    pool.pass(600 * MS);
    pool.wants(&[]);
}

#[test]
fn what_was_sent_ahead_is_asked_for_by_the_first_that_is_to_stop() {
    let mut pool = Pool::sent_ahead(1, 2, 1024).opened(1);
    let one = worker(1, 0);
    pool.submit([1, 2, 3]);
    pool.wanted.clear();
    pool.put(Input::Cancel { task: task(1) });
    pool.put(Input::Cancel { task: task(2) });
    let cancel = |n| Action::Cancel { worker: one, task: task(n), grace: 1000 * MS };
    pool.wants(&[cancel(1), recall(one, &[3]), cancel(2)]);
}
