//! What is tried again after a loss, and where.

use super::{MS, Pool, answered, failed, run, task, worker};
use crate::error::ErrorKind::{self, *};
use crate::id::WorkerId;
use crate::sched::{Action, Input, Spec};

fn again(n: u32, by: WorkerId, kind: ErrorKind) -> Action {
    Action::Retry { task: task(n), worker: by, kind, attempts: 1 }
}

fn submit(pool: &mut Pool, n: u32, retries: u32) {
    pool.put(Input::Submit { task: task(n), spec: Spec { retries, ..Spec::default() } });
}

#[test]
fn who_has_died_with_its_worker_is_tried_again_alone_and_so_often() {
    let mut pool = Pool::open(2, 3);
    let (one, two) = (worker(1, 0), worker(2, 1));
    (1..=3).for_each(|n| submit(&mut pool, n, 1));
    pool.wants(&[run(1, one, 1), run(2, two, 1), run(3, two, 1)]);
    pool.lost(one, 1);
    pool.wants(&[again(1, one, Crashed), Action::Launch { worker: worker(3, 0) }]);
    // The other worker has room, but not for this one; the new one has it for nobody else.
    pool.opens(worker(3, 0));
    pool.submit([4, 5]);
    pool.wants(&[run(1, worker(3, 0), 2), run(4, two, 1)]);
    pool.lost(worker(3, 0), 1);
    pool.wants(&[failed(1, Crashed, Some(worker(3, 0)), 2, true)]);
}

#[test]
fn suspects_are_tried_one_by_one_on_workers_that_nobody_has_used() {
    let mut pool = Pool::open(1, 2);
    let one = worker(1, 0);
    submit(&mut pool, 1, 1);
    submit(&mut pool, 2, 1);
    submit(&mut pool, 3, 0);
    pool.lost(one, 2);
    pool.opens(worker(2, 0));
    pool.wants(&[
        run(1, one, 1),
        run(2, one, 1),
        again(1, one, Crashed),
        again(2, one, Crashed),
        Action::Launch { worker: worker(2, 0) },
        run(1, worker(2, 0), 2),
    ]);
    pool.done(1, worker(2, 0), 2);
    pool.wants(&[answered(1), Action::Drain { worker: worker(2, 0) }]);
    pool.put(Input::Bye { worker: worker(2, 0) });
    pool.lost(worker(2, 0), 1);
    pool.opens(worker(3, 0));
    pool.wants(&[Action::Launch { worker: worker(3, 0) }, run(2, worker(3, 0), 2)]);
    pool.done(2, worker(3, 0), 2);
    // It is a worker like any other now.
    pool.wants(&[answered(2), run(3, worker(3, 0), 1)]);
}

#[test]
fn a_death_that_we_caused_makes_nobody_a_suspect() {
    let mut pool = Pool::open(2, 2);
    let (one, two) = (worker(1, 0), worker(2, 1));
    (1..=3).for_each(|n| submit(&mut pool, n, 1));
    pool.wants(&[run(1, one, 1), run(2, two, 1), run(3, two, 1)]);
    pool.put(Input::Cancel { task: task(2) });
    pool.pass(2000 * MS);
    pool.wanted.clear();
    pool.lost(two, 2);
    // The one is not asked for any more, and the other goes to whoever has room.
    pool.wants(&[
        again(3, two, Collateral),
        failed(2, Cancelled, Some(two), 1, true),
        Action::Launch { worker: worker(3, 1) },
        run(3, one, 2),
    ]);
    pool.lost(one, 2);
    pool.opens(worker(3, 1));
    pool.wants(&[
        again(1, one, Crashed),
        failed(3, Crashed, Some(one), 2, true),
        Action::Launch { worker: worker(4, 0) },
        run(1, worker(3, 1), 2),
    ]);
}

#[test]
fn what_is_given_up_for_silence_is_tried_again_too() {
    let mut pool = Pool::open(1, 1);
    let one = worker(1, 0);
    submit(&mut pool, 1, 1);
    pool.pass(6000 * MS);
    pool.wants(&[
        run(1, one, 1),
        Action::Ping { worker: one },
        Action::Kill { worker: one },
        Action::Abandon { worker: one },
        again(1, one, Unresponsive),
        Action::Launch { worker: worker(2, 0) },
    ]);
    pool.opens(worker(2, 0));
    pool.wants(&[run(1, worker(2, 0), 2)]);
}

#[test]
fn an_attempt_that_had_not_begun_does_not_count() {
    let mut pool = Pool::open(1, 1);
    submit(&mut pool, 1, 1);
    pool.lost(worker(1, 0), 1);
    pool.opens(worker(2, 0));
    pool.lost(worker(2, 0), 0);
    pool.pass(200 * MS);
    pool.opens(worker(3, 0));
    pool.wants(&[
        run(1, worker(1, 0), 1),
        again(1, worker(1, 0), Crashed),
        Action::Launch { worker: worker(2, 0) },
        run(1, worker(2, 0), 2),
        Action::Launch { worker: worker(3, 0) },
        run(1, worker(3, 0), 2),
    ]);
    pool.lost(worker(3, 0), 1);
    pool.wants(&[failed(1, Crashed, Some(worker(3, 0)), 2, true)]);
}

#[test]
fn a_retry_ends_with_its_deadline_with_the_pool_and_when_nobody_can_be_started() {
    let spec = Spec { retries: 9, deadline: Some(500 * MS), ..Spec::default() };
    let dies = |spec: Spec| {
        let mut pool = Pool::open(2, 1);
        pool.put(Input::Submit { task: task(1), spec });
        pool.submit([2]);
        pool.lost(worker(1, 0), 1);
        pool.wanted.clear();
        pool
    };
    let mut pool = dies(spec);
    pool.pass(500 * MS);
    pool.wants(&[failed(1, TimedOut, None, 1, true)]);

    let mut pool = dies(Spec { retries: 9, ..Spec::default() });
    pool.put(Input::Shutdown { limit: 1000 * MS });
    pool.wanted.truncate(1);
    pool.wants(&[failed(1, Closed, None, 1, true)]);

    // The second worker is well all the time, and of no use here.
    let mut pool = dies(Spec { retries: 9, ..Spec::default() });
    for n in 3..=5 {
        pool.lost(worker(n, 0), 0);
        pool.pass(1000 * MS);
    }
    assert!(pool.wanted.contains(&failed(1, Launch, Some(worker(5, 0)), 1, true)), "{:?}", pool.wanted);
}
