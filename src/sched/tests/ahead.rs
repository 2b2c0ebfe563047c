//! What is sent ahead, and what is taken back.

use std::time::Duration;

use super::{MS, Pool, answered, run, task, worker};
use crate::error::ErrorKind;
use crate::id::WorkerId;
use crate::sched::{Action, Answer, Config, Input};

fn pool(workers: u32) -> Pool {
    Pool::sent_ahead(workers, 1, 1024).opened(workers)
}

fn done(pool: &mut Pool, by: WorkerId, n: u32, used: Duration) {
    pool.put(Input::Done { worker: by, task: task(n), attempt: 1, answer: Answer::Finished, used });
}

/// Has the pool learn that tasks take so long.
fn taught(pool: &mut Pool, by: WorkerId, used: Duration) {
    pool.submit([1000]);
    done(pool, by, 1000, used);
    pool.wants(&[run(1000, by, 1), answered(1000)]);
}

#[test]
fn of_what_is_not_known_yet_one_is_sent_ahead() {
    let mut pool = pool(1);
    pool.submit(1..5);
    pool.wants(&[run(1, worker(1, 0), 1), run(2, worker(1, 0), 1)]);
}

#[test]
fn what_is_short_is_sent_ahead_by_time() {
    let mut pool = pool(1);
    taught(&mut pool, worker(1, 0), Duration::from_micros(100));
    pool.submit(1..20);
    // A millisecond: the one that runs, and nine more.
    assert_eq!(pool.wanted.len(), 10);
    pool.wanted.clear();
    done(&mut pool, worker(1, 0), 1, Duration::from_micros(100));
    pool.wants(&[answered(1), run(11, worker(1, 0), 1)]);
}

#[test]
fn idle_workers_come_first_and_busy_ones_take_turns() {
    let mut pool = pool(2);
    taught(&mut pool, worker(1, 0), Duration::from_micros(10));
    pool.submit(1..5);
    let (one, two) = (worker(1, 0), worker(2, 1));
    pool.wants(&[run(1, one, 1), run(2, two, 1), run(3, one, 1), run(4, two, 1)]);
}

#[test]
fn brief_tasks_wake_as_many_workers_as_there_are_processors() {
    let config = Config { workers: 3, slots: 1, processors: 2, ..Config::default() };
    let (one, two, three) = (worker(1, 0), worker(2, 1), worker(3, 2));
    let by = |pool: &mut Pool| -> Vec<WorkerId> {
        let runs = std::mem::take(&mut pool.wanted).into_iter().filter_map(|action| match action {
            Action::Run { worker, .. } => Some(worker),
            _ => None,
        });
        runs.collect()
    };
    let mut pool = Pool::configured(config.clone(), 3).opened(3);
    taught(&mut pool, one, Duration::from_micros(1));
    pool.submit(1..5);
    assert_eq!(by(&mut pool), [one, two, two, two]);
    // What they have is not brief any more.
    pool.submit(5..300);
    assert!(!by(&mut pool).contains(&three));
    pool.submit(300..500);
    assert!(by(&mut pool).contains(&three));

    // One that has waited for its processor does not make the others long.
    let mut pool = Pool::configured(config.clone(), 3).opened(3);
    taught(&mut pool, one, Duration::from_micros(1));
    taught(&mut pool, one, 20 * MS);
    pool.submit(1..5);
    assert_eq!(by(&mut pool), [one, two, two, two]);

    let mut pool = Pool::configured(config.clone(), 3).opened(3);
    taught(&mut pool, one, Duration::from_micros(1));
    pool.submit(1..4);
    by(&mut pool);
    // Whoever is not heard of for a while may be at something long.
    pool.now += 2 * MS;
    pool.submit(4..5);
    assert_eq!(by(&mut pool), [three]);

    let mut pool = Pool::configured(config, 3).opened(3);
    taught(&mut pool, one, Duration::from_micros(51));
    pool.submit(1..4);
    assert_eq!(by(&mut pool), [one, two, three]);
}

#[test]
fn an_idle_worker_gets_what_waits_behind_a_slow_one() {
    let mut pool = pool(2);
    pool.submit(1..5);
    let (one, two) = (worker(1, 0), worker(2, 1));
    pool.wants(&[run(1, one, 1), run(2, two, 1), run(3, one, 1), run(4, two, 1)]);
    done(&mut pool, two, 2, 50 * MS);
    done(&mut pool, two, 4, 50 * MS);
    pool.wants(&[answered(2), answered(4), Action::Recall { worker: one, tasks: vec![task(3)] }]);
    pool.put(Input::Recalled { worker: one, tasks: vec![task(3)] });
    pool.wants(&[run(3, two, 1)]);
    // It had begun the task after all.
    pool.submit([5]);
    done(&mut pool, two, 3, 50 * MS);
    pool.wanted.clear();
}

#[test]
fn short_tasks_are_recalled_only_when_they_turn_out_to_be_long() {
    let mut pool = pool(2);
    let (one, two) = (worker(1, 0), worker(2, 1));
    taught(&mut pool, one, Duration::from_micros(10));
    pool.submit(1..5);
    pool.wanted.clear();
    done(&mut pool, two, 2, Duration::from_micros(10));
    done(&mut pool, two, 4, Duration::from_micros(10));
    pool.wants(&[answered(2), answered(4)]);
    pool.now += MS;
    pool.put(Input::Tick);
    pool.wants(&[Action::Recall { worker: one, tasks: vec![task(3)] }]);
    // Nothing was left to give back: it is not asked again before it was heard.
    pool.put(Input::Recalled { worker: one, tasks: vec![] });
    pool.wants(&[]);
}

#[test]
fn nothing_waits_behind_a_task_that_is_to_stop() {
    let mut pool = pool(1);
    let one = worker(1, 0);
    pool.submit(1..4);
    pool.wants(&[run(1, one, 1), run(2, one, 1)]);
    pool.put(Input::Cancel { task: task(1) });
    let grace = Duration::from_secs(1);
    let cancel = Action::Cancel { worker: one, task: task(1), grace };
    pool.wants(&[cancel, Action::Recall { worker: one, tasks: vec![task(2)] }]);
    pool.put(Input::Recalled { worker: one, tasks: vec![task(2)] });
    pool.wants(&[]);
    let answer = Answer::Cancelled { began: true };
    pool.put(Input::Done { worker: one, task: task(1), attempt: 1, answer, used: MS });
    pool.wants(&[super::failed(1, ErrorKind::Cancelled, Some(one), 1, true), run(2, one, 1), run(3, one, 1)]);
}

#[test]
fn who_gives_back_what_it_was_not_asked_for_breaks_a_rule() {
    for tasks in [vec![], vec![task(1)], vec![task(77)], vec![task(2), task(2)]] {
        let mut pool = pool(1);
        let one = worker(1, 0);
        pool.submit(1..3);
        if tasks.len() == 2 {
            pool.put(Input::Shutdown { limit: Duration::from_secs(9) });
        }
        pool.wanted.clear();
        pool.put(Input::Recalled { worker: one, tasks });
        pool.wants(&[Action::Kill { worker: one }]);
    }
}
