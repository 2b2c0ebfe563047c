//! How many workers there are, who goes, and who follows.

use std::time::Duration;

use super::{MS, Pool, answered, run, task, worker};
use crate::event::Leave;
use crate::sched::{Action, Config, End, Input, Notice, Strength};

fn launch(n: u32, seat: u32) -> Action {
    Action::Launch { worker: worker(n, seat) }
}

fn drain(n: u32, seat: u32) -> Action {
    Action::Drain { worker: worker(n, seat) }
}

fn leaving(n: u32, seat: u32, reason: Leave) -> Notice {
    Notice::Leaving { worker: worker(n, seat), reason }
}

/// A pool whose first workers, as many as said, are open.
fn open(config: Config, workers: u32) -> Pool {
    Pool::configured(Config { ahead: 0, ..config }, workers).opened(workers)
}

/// Has the workers finish whatever they are sent.
fn finish(pool: &mut Pool) {
    while let Some(at) = pool.wanted.iter().position(|action| matches!(action, Action::Run { .. })) {
        if let Action::Run { worker, task, attempt, .. } = pool.wanted.remove(at) {
            pool.done(task.serial, worker, attempt);
        }
    }
}

fn resize(pool: &mut Pool, least: u32, most: u32) {
    pool.put(Input::Resize { least, most });
}

#[test]
fn a_pool_grows_at_once_and_is_whole_when_all_are_open() {
    let mut pool = Pool::open(1, 1);
    resize(&mut pool, 3, 3);
    pool.wants(&[launch(2, 1), launch(3, 2)]);
    assert_eq!(pool.scheduler.stats(pool.now).wanted, 3);
    pool.submit([1, 2]);
    pool.opens(worker(3, 2));
    pool.wants(&[run(1, worker(1, 0), 1), run(2, worker(3, 2), 1)]);
    // What is lost is replaced, on the new places too.
    pool.lost(worker(3, 2), 0);
    pool.wants(&[launch(4, 2)]);
}

#[test]
fn a_pool_shrinks_by_those_who_have_nothing_to_do_first() {
    let mut pool = Pool::open(3, 1);
    pool.submit([1, 2]);
    resize(&mut pool, 4, 4);
    pool.wants(&[run(1, worker(1, 0), 1), run(2, worker(2, 1), 1), launch(4, 3)]);
    pool.told.clear();
    resize(&mut pool, 1, 1);
    // One that was not there yet, an idle one, and then one of the busy.
    pool.wants(&[Action::Kill { worker: worker(4, 3) }, drain(3, 2)]);
    let surplus = Leave::Surplus;
    pool.tells(&[leaving(4, 3, surplus), leaving(3, 2, surplus), leaving(1, 0, surplus)]);
    pool.submit([3]);
    pool.done(1, worker(1, 0), 1);
    pool.wants(&[answered(1), drain(1, 0)]);
    pool.done(2, worker(2, 1), 1);
    pool.done(3, worker(2, 1), 1);
    pool.wants(&[answered(2), run(3, worker(2, 1), 1), answered(3)]);
    for (n, seat) in [(4, 3), (3, 2), (1, 0)] {
        pool.lost(worker(n, seat), 1);
        pool.tells(&[Notice::Gone { worker: worker(n, seat), end: End::Left(surplus) }]);
    }
    pool.pass(60_000 * MS);
    pool.wants(&[]);
    // Places that were left are taken again, for nothing.
    resize(&mut pool, 3, 3);
    pool.wants(&[launch(5, 0), launch(6, 2)]);
}

#[test]
fn what_a_surplus_worker_was_sent_ahead_comes_back() {
    let mut pool = Pool::sent_ahead(2, 1, 4).opened(2);
    pool.submit(1..=4);
    pool.wanted.clear();
    resize(&mut pool, 1, 1);
    pool.wants(&[Action::Recall { worker: worker(1, 0), tasks: vec![task(3)] }]);
    pool.put(Input::Recalled { worker: worker(1, 0), tasks: vec![task(3)] });
    pool.wants(&[]);
    pool.done(2, worker(2, 1), 1);
    pool.done(4, worker(2, 1), 1);
    assert!(pool.wanted.contains(&run(3, worker(2, 1), 1)), "{:?}", pool.wanted);
}

#[test]
fn a_place_that_crashes_gets_no_faster_by_closing_and_opening_it() {
    let mut pool = Pool::open(2, 1);
    for n in [2, 3] {
        pool.lost(worker(n, 1), 0);
        pool.opens(worker(3, 1));
    }
    pool.wanted.clear();
    for size in [1, 2, 1, 2] {
        resize(&mut pool, size, size);
    }
    pool.wants(&[]);
    pool.pass(121 * MS);
    pool.wants(&[launch(4, 1)]);
}

#[test]
fn a_pool_that_ends_is_not_resized() {
    let mut pool = Pool::open(1, 1);
    pool.submit([1]);
    pool.wanted.clear();
    pool.put(Input::Drain);
    resize(&mut pool, 4, 4);
    pool.wants(&[]);
}

#[test]
fn what_waits_brings_more_workers_and_idleness_fewer() {
    let idle = Some(Duration::from_secs(5));
    let mut pool = open(Config { workers: 1, most_workers: 3, idle, ..Config::default() }, 1);
    pool.submit(1..=2);
    pool.wants(&[run(1, worker(1, 0), 1)]);
    pool.pass(MS);
    pool.wants(&[launch(2, 1)]);
    // No more than there are tasks for, and no more than there may be.
    pool.pass(100 * MS);
    pool.wants(&[]);
    pool.submit(3..=20);
    pool.pass(21 * MS);
    pool.wants(&[launch(3, 2)]);
    pool.opens(worker(2, 1));
    pool.opens(worker(3, 2));
    pool.done(1, worker(1, 0), 1);
    finish(&mut pool);
    pool.told.clear();
    pool.wanted.clear();
    pool.pass(4900 * MS);
    pool.wants(&[]);
    pool.pass(200 * MS);
    // Who was idle last stays.
    let left: Vec<_> = std::mem::take(&mut pool.told);
    let idle = |notice: &Notice| matches!(notice, Notice::Leaving { reason: Leave::Idle, .. });
    assert!(left.len() == 2 && left.iter().all(idle), "{left:?}");
    assert_eq!(std::mem::take(&mut pool.wanted).len(), 2);
    pool.pass(60_000 * MS);
    assert_eq!(pool.scheduler.stats(pool.now).wanted, 1);
}

#[test]
fn an_empty_pool_starts_no_more_than_is_needed_and_proves_itself_first() {
    let idle = Some(Duration::from_secs(1));
    let mut pool = open(Config { workers: 0, most_workers: 8, slots: 2, idle, ..Config::default() }, 1);
    pool.pass(1100 * MS);
    pool.wants(&[drain(1, 0)]);
    pool.lost(worker(1, 0), 0);
    pool.pass(10_000 * MS);
    pool.wants(&[]);
    pool.submit([1]);
    pool.wants(&[launch(2, 0)]);
    pool.submit([2, 3]);
    pool.pass(2 * MS);
    pool.wants(&[launch(3, 1)]);
    pool.pass(100 * MS);
    pool.wants(&[]);
    pool.opens(worker(2, 0));
    pool.wants(&[run(1, worker(2, 0), 1), run(2, worker(2, 0), 1)]);
}

#[test]
fn a_worker_is_given_so_many_tasks_and_its_successor_is_started_with_the_last() {
    let mut pool = open(Config { most_tasks: 2, ..Config::default() }, 1);
    pool.submit(1..=3);
    pool.wants(&[run(1, worker(1, 0), 1)]);
    pool.done(1, worker(1, 0), 1);
    pool.wants(&[answered(1), run(2, worker(1, 0), 1), launch(2, 1)]);
    pool.done(2, worker(1, 0), 1);
    pool.wants(&[answered(2), drain(1, 0)]);
    pool.opens(worker(2, 1));
    pool.wants(&[run(3, worker(2, 1), 1)]);
    pool.lost(worker(1, 0), 2);
    pool.done(3, worker(2, 1), 1);
    pool.submit([4]);
    pool.wants(&[answered(3), run(4, worker(2, 1), 1), launch(3, 0)]);
    assert!(!pool.told.contains(&Notice::Strength(Strength::Weak)), "{:?}", pool.told);
    assert_eq!(pool.scheduler.stats(pool.now).restarts, 0);
}

#[test]
fn workers_that_crash_over_their_only_task_are_not_replaced_for_ever() {
    let mut pool = open(Config { most_tasks: 1, ..Config::default() }, 1);
    let mut launches = 0;
    let start = pool.now;
    for n in 1.. {
        pool.submit([n]);
        while !pool.wanted.iter().any(|action| matches!(action, Action::Run { .. })) {
            for action in std::mem::take(&mut pool.wanted) {
                if let Action::Launch { worker } = action {
                    launches += 1;
                    pool.opens(worker);
                }
            }
            pool.pass(10 * MS);
        }
        for action in pool.wanted.clone() {
            if let Action::Run { worker, .. } = action {
                pool.lost(worker, 1);
            }
        }
        pool.wanted.retain(|action| matches!(action, Action::Launch { .. }));
        if pool.now - start > Duration::from_secs(60) {
            break;
        }
    }
    assert!(launches < 75, "{launches}");
}

#[test]
fn the_old_are_replaced_one_by_one_each_when_its_successor_is_there() {
    let most_age = Some(Duration::from_secs(60));
    let mut pool = open(Config { workers: 2, most_age, ..Config::default() }, 2);
    pool.pass(60_000 * MS - 100 * MS);
    pool.submit([1]);
    pool.pass(200 * MS);
    pool.wants(&[run(1, worker(1, 0), 1), launch(3, 2)]);
    pool.submit([2]);
    pool.wants(&[run(2, worker(2, 1), 1)]);
    pool.done(2, worker(2, 1), 1);
    pool.wants(&[answered(2)]);
    pool.told.clear();
    pool.opens(worker(3, 2));
    pool.wants(&[launch(4, 3)]);
    pool.tells(&[Notice::Opened { worker: worker(3, 2) }, leaving(1, 0, Leave::Age)]);
    pool.done(1, worker(1, 0), 1);
    pool.wants(&[answered(1), drain(1, 0)]);
    pool.opens(worker(4, 3));
    pool.wants(&[drain(2, 1)]);
    pool.pass(1000 * MS);
    pool.wants(&[]);
}

#[test]
fn the_large_are_replaced_once_they_have_been_of_use() {
    let mut pool = open(Config { most_memory: 100, ..Config::default() }, 1);
    pool.put(Input::Weighed { worker: worker(1, 0), bytes: 101 });
    pool.submit([1]);
    pool.done(1, worker(1, 0), 1);
    pool.put(Input::Weighed { worker: worker(1, 0), bytes: 100 });
    pool.wants(&[run(1, worker(1, 0), 1), answered(1)]);
    pool.put(Input::Weighed { worker: worker(1, 0), bytes: 101 });
    pool.wants(&[launch(2, 1)]);
    pool.put(Input::Weighed { worker: worker(1, 0), bytes: 102 });
    pool.submit([2]);
    pool.wants(&[run(2, worker(1, 0), 1)]);
    pool.opens(worker(2, 1));
    pool.done(2, worker(1, 0), 1);
    pool.wants(&[answered(2), drain(1, 0)]);
}

#[test]
fn whoever_was_sent_away_costs_nothing_even_if_its_link_ends_first() {
    let mut pool = Pool::open(2, 1);
    for _ in 0..4 {
        resize(&mut pool, 1, 1);
        let Some(Action::Drain { worker }) = pool.wanted.pop() else { panic!("nobody is sent away") };
        pool.put(Input::HungUp { worker });
        pool.lost(worker, 0);
        pool.wants(&[]);
        resize(&mut pool, 2, 2);
        let Some(Action::Launch { worker }) = pool.wanted.pop() else { panic!("nobody comes at once") };
        pool.opens(worker);
    }
}
