//! What is sent ahead, and what is taken back.

use std::time::Duration;

use super::{MS, Pool, answered, run, task, worker};
use crate::error::ErrorKind;
use crate::id::WorkerId;
use crate::sched::{Action, Answer, Config, Input, Spec};

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

/// Who was sent what the pool has wanted since it was last asked.
fn by(pool: &mut Pool) -> Vec<WorkerId> {
    let runs = std::mem::take(&mut pool.wanted).into_iter().filter_map(|action| match action {
        Action::Run { worker, .. } => Some(worker),
        _ => None,
    });
    runs.collect()
}

#[test]
fn brief_tasks_wake_as_many_workers_as_there_are_processors() {
    let config = Config { workers: 3, slots: 1, processors: 2, ..Config::default() };
    let (one, two, three) = (worker(1, 0), worker(2, 1), worker(3, 2));
    let mut pool = Pool::configured(config.clone(), 3).opened(3);
    taught(&mut pool, one, Duration::from_micros(10));
    pool.submit(1..5);
    assert_eq!(by(&mut pool), [one, two, two, two]);
    // What they have is not brief any more.
    pool.submit(5..30);
    assert!(!by(&mut pool).contains(&three));
    pool.submit(30..50);
    assert!(by(&mut pool).contains(&three));

    // One that has waited for its processor does not make the others long.
    let mut pool = Pool::configured(config.clone(), 3).opened(3);
    taught(&mut pool, one, Duration::from_micros(10));
    taught(&mut pool, one, 20 * MS);
    pool.submit(1..5);
    assert_eq!(by(&mut pool), [one, two, two, two]);

    let mut pool = Pool::configured(config.clone(), 3).opened(3);
    taught(&mut pool, one, Duration::from_micros(10));
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
fn tasks_so_brief_that_they_cannot_be_sent_faster_wake_no_more_workers_than_can_be_fed() {
    let (one, two) = (worker(1, 0), worker(2, 1));
    let begun = |processors: u32, used: u64, tasks: u32| {
        let mut pool = Pool::configured(Config { workers: 8, processors, ..Config::default() }, 8).opened(8);
        taught(&mut pool, one, Duration::from_micros(used));
        pool.submit(0..tasks);
        let mut by = by(&mut pool);
        by.sort_unstable();
        by.dedup();
        (pool, by.len())
    };
    // This process needs half of two processors for no-ops, and cannot feed more than two workers however many there are.
    for (processors, used, workers) in [(1, 0, 1), (2, 0, 1), (8, 0, 2), (8, 1, 3), (8, 2, 6), (8, 40, 8)] {
        assert_eq!(begun(processors, used, 16).1, workers, "{processors} processors, {used} us");
    }
    // Whatever they have, until it takes so long that the next is not idle meanwhile.
    assert_eq!(begun(2, 0, 1000).1, 1);
    let (mut pool, workers) = begun(2, 1, 1500);
    assert_eq!(workers, 2);
    // They are recalled only if the first is not heard of.
    pool.put(Input::Heard { worker: one });
    pool.put(Input::Heard { worker: two });
    let recalls = |pool: &mut Pool| {
        let wanted = std::mem::take(&mut pool.wanted);
        wanted.iter().filter(|action| matches!(action, Action::Recall { .. })).count()
    };
    for (later, recalled) in [(2 * MS, 0), (2 * MS, 0), (MS, 1)] {
        pool.now += later;
        pool.put(Input::Tick);
        assert_eq!(recalls(&mut pool), recalled);
    }
    // A kind of which few take long keeps all workers busy.
    let mut pool = Pool::configured(Config { workers: 2, processors: 2, ..Config::default() }, 2).opened(2);
    (0..200).for_each(|n| taught(&mut pool, one, if n % 100 == 10 { MS } else { Duration::ZERO }));
    pool.submit(0..2);
    assert_eq!(by(&mut pool), [one, two]);
    // What is urgent does not wait behind so many.
    let (mut pool, _) = begun(2, 0, 500);
    pool.put(Input::Submit { task: task(500), spec: Spec { priority: 1, ..Spec::default() } });
    assert_eq!(by(&mut pool), [two]);
}

#[test]
fn what_is_sent_behind_others_whatever_the_time_is_missed_when_it_does_not_run() {
    let one = worker(1, 0);
    let mut pool = Pool::configured(Config { workers: 2, processors: 2, ..Config::default() }, 2).opened(2);
    taught(&mut pool, one, Duration::ZERO);
    let behind = |pool: &mut Pool, n: u32| pool.scheduler.submit_behind(task(n), &Spec::default());
    assert!(!behind(&mut pool, 1), "nobody is at work");
    pool.submit([1]);
    assert!(!behind(&mut pool, 2), "nobody would look whether it runs");
    pool.submit([2]);
    assert!(behind(&mut pool, 3) && behind(&mut pool, 4));
    pool.now += 5 * MS;
    pool.put(Input::Tick);
    let ahead = [task(3), task(4)].to_vec();
    pool.wants(&[
        run(1, one, 1),
        run(2, one, 1),
        run(3, one, 1),
        run(4, one, 1),
        Action::Recall { worker: one, tasks: ahead },
    ]);
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
