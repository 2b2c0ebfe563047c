//! What happens to workers, and to the pool as a whole.

use std::time::Duration;

use super::{MS, Pool, answered, failed, run, task, worker};
use crate::error::ErrorKind::*;
use crate::event::{Leave, Status};
use crate::sched::{Action, Answer, End, Input, Notice, Readiness, Strength, Tally};

fn closed(finished: u64, closed: u64, failed: u64, killed: u64) -> Action {
    Action::Closed(Tally { finished, closed, failed, killed })
}

fn gone(n: u32, seat: u32, end: End) -> Notice {
    Notice::Gone { worker: worker(n, seat), end }
}

#[test]
fn a_worker_that_takes_too_long_to_start_is_killed() {
    let mut pool = Pool::starting(2, 1);
    pool.put(Input::Ready { worker: worker(2, 1) });
    pool.pass(10_000 * MS);
    pool.wants(&[Action::Kill { worker: worker(1, 0) }]);
    pool.lost(worker(1, 0), 0);
    pool.wants(&[Action::Launch { worker: worker(3, 0) }]);
    pool.opens(worker(3, 0));
    pool.wants(&[Action::Started { ok: true }]);
    pool.pass(50_000 * MS);
    pool.wants(&[Action::Kill { worker: worker(2, 1) }]);
}

#[test]
fn a_pool_that_cannot_start_says_so_and_probes() {
    let mut pool = Pool::starting(1, 1);
    pool.submit([1]);
    pool.lost(worker(1, 0), 0);
    pool.wants(&[Action::Launch { worker: worker(2, 0) }]);
    pool.lost(worker(2, 0), 0);
    pool.wants(&[]);
    pool.pass(120 * MS);
    pool.wants(&[Action::Launch { worker: worker(3, 0) }]);
    pool.lost(worker(3, 0), 0);
    pool.wants(&[failed(1, Launch, Some(worker(3, 0)), 0, false), Action::Started { ok: false }]);
    pool.submit([2]);
    pool.wants(&[failed(2, Launch, Some(worker(3, 0)), 0, false)]);
    pool.pass(120 * MS);
    pool.wants(&[Action::Launch { worker: worker(4, 0) }]);
    pool.submit([3]);
    pool.wants(&[]);
    pool.opens(worker(4, 0));
    pool.wants(&[Action::Started { ok: true }, run(3, worker(4, 0), 1)]);
}

#[test]
fn a_start_that_need_not_be_tried_again_is_the_last_for_now() {
    let mut pool = Pool::starting(2, 1);
    pool.submit([1]);
    pool.put(Input::Futile { worker: worker(1, 0) });
    pool.lost(worker(1, 0), 0);
    // There is hope as long as the other one is on its way.
    pool.pass(1000 * MS);
    pool.wants(&[]);
    pool.put(Input::Futile { worker: worker(2, 1) });
    pool.lost(worker(2, 1), 0);
    pool.wants(&[failed(1, Launch, Some(worker(2, 1)), 0, false), Action::Started { ok: false }]);
    // What was in the way may go: it is looked for that, more and more rarely.
    pool.pass(300 * MS);
    pool.wants(&[Action::Launch { worker: worker(3, 0) }]);
    pool.opens(worker(3, 0));
    pool.wants(&[Action::Started { ok: true }, Action::Launch { worker: worker(4, 1) }]);
    // One that has taken tasks has shown that it can be done.
    pool.opens(worker(4, 1));
    pool.put(Input::Futile { worker: worker(4, 1) });
    pool.lost(worker(4, 1), 0);
    pool.pass(200 * MS);
    pool.wants(&[Action::Launch { worker: worker(5, 1) }]);
}

#[test]
fn a_draining_pool_has_no_hope_left_either_when_the_last_start_was_not_wanted_any_more() {
    let mut pool = Pool::starting(2, 1);
    pool.submit([1]);
    pool.put(Input::Resize { least: 1, most: 1 });
    pool.wants(&[Action::Kill { worker: worker(1, 0) }]);
    pool.put(Input::Drain);
    pool.put(Input::Futile { worker: worker(2, 1) });
    pool.lost(worker(2, 1), 0);
    pool.wants(&[]);
    pool.lost(worker(1, 0), 0);
    assert!(pool.wanted.contains(&failed(1, Launch, Some(worker(1, 0)), 0, false)), "{:?}", pool.wanted);
}

#[test]
fn probes_get_rarer_and_never_stop() {
    let mut pool = Pool::starting(8, 1);
    for seat in 0..8 {
        pool.lost(worker(seat + 1, seat), 0);
    }
    let (mut launches, start) = (0, pool.now);
    while pool.now < start + Duration::from_secs(600) {
        for action in std::mem::take(&mut pool.wanted) {
            if let Action::Launch { worker } = action {
                launches += 1;
                pool.lost(worker, 0);
            }
        }
        pool.pass(10 * MS);
    }
    assert!((20..45).contains(&launches), "{launches}");
}

#[test]
fn a_crash_is_made_good_at_once_and_a_second_one_later() {
    let mut pool = Pool::open(1, 1);
    pool.lost(worker(1, 0), 0);
    pool.wants(&[Action::Launch { worker: worker(2, 0) }]);
    pool.opens(worker(2, 0));
    pool.lost(worker(2, 0), 0);
    pool.pass(79 * MS);
    pool.wants(&[]);
    pool.pass(42 * MS);
    pool.wants(&[Action::Launch { worker: worker(3, 0) }]);
    pool.opens(worker(3, 0));
    pool.pass(10_000 * MS);
    pool.lost(worker(3, 0), 0);
    pool.wants(&[Action::Launch { worker: worker(4, 0) }]);
}

#[test]
fn shutdown_lets_run_what_runs_until_its_limit() {
    let mut pool = Pool::open(3, 1);
    let (one, two, three) = (worker(1, 0), worker(2, 1), worker(3, 2));
    pool.submit([1, 2]);
    pool.wants(&[run(1, one, 1), run(2, two, 1)]);
    pool.put(Input::Shutdown { limit: 500 * MS });
    pool.wants(&[Action::Drain { worker: three }]);
    pool.submit([3]);
    pool.wants(&[failed(3, Closed, None, 0, false)]);
    pool.done(1, one, 1);
    pool.wants(&[answered(1), Action::Drain { worker: one }]);
    pool.pass(500 * MS);
    pool.wants(&[Action::Cancel { worker: two, task: task(2), grace: 1000 * MS }]);
    pool.put(Input::Done {
        worker: two,
        task: task(2),
        attempt: 1,
        answer: Answer::Cancelled { began: true },
        used: Duration::ZERO,
    });
    pool.wants(&[failed(2, Closed, Some(two), 1, true), Action::Drain { worker: two }]);
    pool.lost(one, 1);
    pool.lost(two, 1);
    pool.wants(&[]);
    pool.pass(4500 * MS);
    pool.wants(&[Action::Kill { worker: three }]);
    pool.lost(three, 0);
    pool.wants(&[closed(1, 1, 0, 1)]);
    assert_eq!(pool.scheduler.poll_timeout(), None);
}

#[test]
fn shutdown_does_not_forget_who_is_being_started() {
    let mut pool = Pool::starting(2, 1);
    pool.submit([1]);
    pool.put(Input::Shutdown { limit: Duration::MAX });
    pool.wants(&[
        failed(1, Closed, None, 0, false),
        Action::Kill { worker: worker(1, 0) },
        Action::Kill { worker: worker(2, 1) },
    ]);
    pool.opens(worker(1, 0));
    pool.lost(worker(1, 0), 0);
    pool.wants(&[]);
    pool.pass(1000 * MS);
    pool.wants(&[Action::Abandon { worker: worker(2, 1) }, closed(0, 1, 0, 0)]);
}

#[test]
fn drain_finishes_what_waits_and_what_comes_back() {
    let mut pool = Pool::open(2, 1);
    let (one, two) = (worker(1, 0), worker(2, 1));
    pool.submit([1, 2]);
    pool.put(Input::Drain);
    pool.done(2, two, 1);
    pool.wants(&[run(1, one, 1), run(2, two, 1), answered(2), Action::Drain { worker: two }]);
    pool.lost(two, 1);
    pool.wants(&[]);
    pool.lost(one, 0);
    pool.wants(&[Action::Launch { worker: worker(3, 0) }, Action::Launch { worker: worker(4, 1) }]);
    pool.opens(worker(3, 0));
    pool.done(1, worker(3, 0), 1);
    pool.wants(&[
        run(1, worker(3, 0), 1),
        answered(1),
        Action::Drain { worker: worker(3, 0) },
        Action::Kill { worker: worker(4, 1) },
    ]);
}

#[test]
fn a_drain_that_can_start_nobody_still_ends() {
    let mut pool = Pool::starting(1, 1);
    pool.submit([1]);
    pool.put(Input::Drain);
    for n in 1..=3 {
        pool.lost(worker(n, 0), 0);
        pool.pass(120 * MS);
    }
    assert!(pool.wanted.contains(&failed(1, Launch, Some(worker(3, 0)), 0, false)));
    assert_eq!(pool.wanted.last(), Some(&closed(0, 0, 1, 0)));
}

#[test]
fn a_drain_probes_again_for_what_comes_back() {
    let mut pool = Pool::open(2, 1);
    let (one, two) = (worker(1, 0), worker(2, 1));
    pool.submit([1]);
    pool.lost(two, 0);
    for n in 3..=5 {
        pool.pass(250 * MS);
        pool.lost(worker(n, 1), 0);
    }
    pool.put(Input::Drain);
    pool.pass(500 * MS);
    pool.wanted.clear();
    // No probe was wanted any more; now it is.
    pool.lost(one, 0);
    pool.wants(&[Action::Launch { worker: worker(6, 0) }]);
}

#[test]
fn abort_is_now_and_only_gets_stricter() {
    let mut pool = Pool::open(1, 1);
    let one = worker(1, 0);
    pool.submit([1, 2]);
    pool.put(Input::Drain);
    pool.wants(&[run(1, one, 1)]);
    pool.put(Input::Shutdown { limit: 9000 * MS });
    pool.wants(&[failed(2, Closed, None, 0, false)]);
    pool.put(Input::Abort);
    pool.wants(&[failed(1, Closed, Some(one), 1, true), Action::Kill { worker: one }]);
    pool.put(Input::Drain);
    pool.put(Input::Shutdown { limit: 9000 * MS });
    pool.done(1, one, 1);
    pool.wants(&[]);
    pool.lost(one, 1);
    pool.wants(&[closed(0, 2, 0, 1)]);
    pool.put(Input::Abort);
    pool.wants(&[]);
}

#[test]
fn statistics_are_what_can_be_seen() {
    let mut pool = Pool::open(1, 1);
    pool.submit([1, 2, 3]);
    pool.done(1, worker(1, 0), 1);
    pool.pass(700 * MS);
    let stats = pool.scheduler.stats(pool.now);
    assert_eq!((stats.queued, stats.in_flight, stats.finished, stats.restarts), (1, 1, 1, 0));
    let first = &stats.workers[0];
    assert_eq!((first.tasks[0].id, first.tasks[0].since, first.ahead), (task(2), 700 * MS, 0));
    assert_eq!((first.finished, first.age, first.restarts), (1, 700 * MS, 0));
    assert_eq!((stats.wanted, stats.held_back, stats.next_start), (1, 0, None));
    for n in [1, 2] {
        pool.lost(worker(n, 0), 1);
        pool.opens(worker(2, 0));
    }
    let stats = pool.scheduler.stats(pool.now);
    assert_eq!((stats.workers.len(), stats.wanted, stats.held_back, stats.restarts), (0, 1, 1, 1));
    assert!(stats.next_start.is_some_and(|wait| wait >= 80 * MS && wait <= 120 * MS), "{stats:?}");
}

#[test]
fn what_becomes_of_workers_is_told() {
    let mut pool = Pool::open(3, 1);
    let opened = |n, seat| Notice::Opened { worker: worker(n, seat) };
    pool.tells(&[opened(3, 2), opened(2, 1), opened(1, 0)]);
    pool.submit([1]);
    pool.lost(worker(1, 0), 1);
    pool.lost(worker(4, 0), 0);
    pool.tells(&[
        gone(1, 0, End::Lost(Crashed)),
        gone(4, 0, End::Unstarted),
        Notice::Strength(Strength::Weak),
    ]);
    pool.put(Input::Violated { worker: worker(2, 1) });
    pool.lost(worker(2, 1), 0);
    pool.pass(300 * MS);
    pool.opens(worker(6, 0));
    pool.tells(&[gone(2, 1, End::Lost(Protocol)), opened(6, 0)]);
    pool.opens(worker(5, 1));
    pool.tells(&[opened(5, 1), Notice::Strength(Strength::Full)]);
    pool.put(Input::Drain);
    pool.put(Input::Abort);
    for (n, seat) in [(6, 0), (5, 1), (3, 2)] {
        pool.lost(worker(n, seat), 0);
    }
    let left = End::Left(Leave::Closing);
    pool.tells(&[Notice::Closing, gone(6, 0, left), gone(5, 1, left), gone(3, 2, left)]);
}

#[test]
fn a_pool_is_ready_when_all_are_open_and_well_until_starts_are_held_back() {
    let mut pool = Pool::starting(2, 1);
    let is = |pool: &Pool, status, open, readiness| {
        assert_eq!(pool.scheduler.health(), (status, open, 2));
        assert_eq!(pool.scheduler.readiness(), readiness);
    };
    pool.opens(worker(1, 0));
    is(&pool, Status::Ready, 1, Readiness::Pending);
    pool.opens(worker(2, 1));
    is(&pool, Status::Ready, 2, Readiness::Ready);
    pool.lost(worker(2, 1), 0);
    is(&pool, Status::Ready, 1, Readiness::Pending);
    for n in 3..=5 {
        pool.pass(250 * MS);
        pool.lost(worker(n, 1), 0);
    }
    is(&pool, Status::Degraded, 1, Readiness::GivenUp);
    pool.lost(worker(1, 0), 0);
    pool.pass(500 * MS);
    pool.told.clear();
    pool.lost(worker(6, 0), 0);
    pool.tells(&[gone(6, 0, End::Unstarted), Notice::Strength(Strength::None)]);
    is(&pool, Status::Failed, 0, Readiness::GivenUp);
    pool.pass(1000 * MS);
    is(&pool, Status::Failed, 0, Readiness::GivenUp);
    pool.opens(worker(7, 0));
    is(&pool, Status::Degraded, 1, Readiness::Pending);
    pool.opens(worker(8, 1));
    is(&pool, Status::Ready, 2, Readiness::Ready);
    pool.put(Input::Drain);
    is(&pool, Status::Closed, 0, Readiness::Closed);
}

#[test]
fn want_is_waited_out_with_pauses_of_a_second_at_most() {
    let mut pool = Pool::starting(1, 1);
    pool.submit([1]);
    // At once, 100 ms, 200 ms, 400 ms, 800 ms, give or take a fifth, and then a second.
    for (n, pause) in [0, 120, 240, 480, 960, 1000, 1000, 1000].into_iter().enumerate() {
        let serial = n as u32 + 1;
        pool.put(Input::Scarce { worker: worker(serial, 0) });
        pool.pass(pause * MS);
        pool.wants(&[Action::Launch { worker: worker(serial + 1, 0) }]);
    }
    pool.opens(worker(9, 0));
    pool.wants(&[Action::Started { ok: true }, run(1, worker(9, 0), 1)]);
}

#[test]
fn want_that_lasts_as_long_as_a_start_may_take_counts_as_failed_starts() {
    let mut pool = Pool::starting(1, 1);
    pool.submit([1]);
    let (start, mut serial) = (pool.now, 1);
    loop {
        pool.put(Input::Scarce { worker: worker(serial, 0) });
        pool.pass(1000 * MS);
        let actions = std::mem::take(&mut pool.wanted);
        if actions.contains(&Action::Started { ok: false }) {
            assert!(actions.contains(&failed(1, Launch, Some(worker(serial, 0)), 0, false)));
            break;
        }
        serial += 1;
        assert!(actions.contains(&Action::Launch { worker: worker(serial, 0) }), "{actions:?}");
    }
    // Ten seconds, and three more starts.
    let lasted = pool.now - start;
    assert!(lasted >= Duration::from_secs(12) && lasted <= Duration::from_secs(14), "{lasted:?}");
    // It is still looked for, each second.
    serial += 1;
    pool.pass(1000 * MS);
    pool.wants(&[]);
    for _ in 0..10 {
        pool.put(Input::Scarce { worker: worker(serial, 0) });
        pool.pass(1000 * MS);
        serial += 1;
        assert!(std::mem::take(&mut pool.wanted).contains(&Action::Launch { worker: worker(serial, 0) }));
    }
}

#[test]
fn workers_that_are_open_do_not_notice_want() {
    let mut pool = Pool::starting(2, 1);
    pool.opens(worker(1, 0));
    for serial in 2..40 {
        pool.put(Input::Scarce { worker: worker(serial, 1) });
        pool.pass(1000 * MS);
    }
    std::mem::take(&mut pool.wanted);
    pool.submit([1]);
    pool.wants(&[run(1, worker(1, 0), 1)]);
}

#[test]
fn who_was_sent_a_signal_before_the_end_and_goes_after_it_is_counted_once() {
    let mut pool = Pool::open(2, 1);
    let [one, two] = [worker(1, 0), worker(2, 1)];
    pool.submit([1, 2]);
    pool.put(Input::Cancel { task: task(1) });
    pool.pass(1500 * MS);
    pool.put(Input::Shutdown { limit: Duration::ZERO });
    pool.pass(1000 * MS);
    pool.wanted.clear();
    pool.lost(one, 1);
    pool.put(Input::Abort);
    pool.wanted.clear();
    pool.lost(two, 1);
    pool.wants(&[closed(0, 1, 1, 2)]);
}

#[test]
fn a_task_has_run_since_it_was_sent_or_what_was_before_it_was_done() {
    let mut pool = Pool::sent_ahead(1, 2, 1).opened(1);
    let one = worker(1, 0);
    pool.submit([1, 2, 3]);
    pool.pass(100 * MS);
    let ran = |pool: &Pool| pool.scheduler.running_for(pool.now, one);
    assert_eq!(ran(&pool), [(task(1), 100 * MS), (task(2), 100 * MS)]);
    pool.done(2, one, 1);
    pool.pass(30 * MS);
    assert_eq!(ran(&pool), [(task(1), 130 * MS), (task(3), 30 * MS)]);
    let tasks = &pool.scheduler.stats(pool.now).workers[0].tasks;
    assert_eq!((tasks[1].id, tasks[1].since), (task(3), 30 * MS));
}
