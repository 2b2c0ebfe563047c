//! Places and processes in a tree of pools.

use super::*;
use crate::wire::frame::LeaseKind::{self, Place, Process};

/// The pool of a worker, that may grow to so many workers.
fn below(workers: u32) -> Pool {
    let config = Config { workers, ahead: 0, below: true, ..Config::default() };
    let mut pool = Pool::new(config);
    pool.put(Input::Start);
    pool.wants(&[ask(Process)]);
    pool
}

/// The same with one open worker.
fn begun(workers: u32) -> Pool {
    let mut pool = below(workers);
    pool.granted(Process, 1);
    pool.wants(&[Action::Launch { worker: worker(1, 0) }]);
    pool.opens(worker(1, 0));
    pool.wants(&[Action::Started { ok: true }]);
    pool
}

/// A root with open workers and these budgets.
fn root(workers: u32, places: u32, processes: u32) -> Pool {
    let config = Config { workers, ahead: 0, places, processes, ..Config::default() };
    let mut pool = Pool::new(config);
    pool.put(Input::Start);
    pool.wanted.clear();
    pool.opened(workers)
}

fn ask(kind: LeaseKind) -> Action {
    Action::Ask { kind, n: 1 }
}

fn back(kind: LeaseKind) -> Action {
    Action::Return { kind, n: 1 }
}

fn grant(kind: LeaseKind, by: WorkerId, n: u32) -> Action {
    Action::Lend { worker: by, kind, n }
}

impl Pool {
    fn new(config: Config) -> Self {
        Self { scheduler: Scheduler::new(config), now: Instant::now(), wanted: Vec::new(), told: Vec::new() }
    }

    fn granted(&mut self, kind: LeaseKind, n: u32) {
        self.put(Input::Granted { kind, n });
    }

    fn asks(&mut self, worker: WorkerId, kind: LeaseKind, n: u32) {
        self.put(Input::Lease { worker, kind, n });
    }
}

#[test]
fn the_first_worker_needs_a_process_and_no_place() {
    let mut pool = begun(4);
    pool.submit([1]);
    pool.wants(&[run(1, worker(1, 0), 1)]);
}

#[test]
fn a_further_worker_needs_a_place_and_then_a_process() {
    let mut pool = begun(4);
    pool.submit([1, 2]);
    pool.wants(&[run(1, worker(1, 0), 1), ask(Place)]);
    pool.granted(Place, 1);
    pool.wants(&[ask(Process)]);
    pool.granted(Process, 1);
    pool.wants(&[Action::Launch { worker: worker(2, 1) }]);
    pool.opens(worker(2, 1));
    pool.wants(&[run(2, worker(2, 1), 1)]);
}

#[test]
fn a_place_that_was_refused_is_asked_for_again_when_there_may_be_one() {
    let mut pool = begun(2);
    pool.submit([1, 2]);
    pool.granted(Place, 0);
    pool.wanted.clear();
    pool.submit([3]);
    pool.wants(&[]);
    pool.put(Input::Nudged);
    pool.wants(&[ask(Place)]);
}

#[test]
fn without_a_process_what_waits_fails_at_once_and_the_next_one_asks_again() {
    let mut pool = below(2);
    pool.submit([1]);
    pool.wants(&[]);
    pool.granted(Process, 0);
    pool.wants(&[failed(1, ErrorKind::LimitExceeded, None, 0, false)]);
    pool.submit([2]);
    pool.wants(&[ask(Process)]);
    pool.granted(Process, 1);
    pool.wants(&[Action::Launch { worker: worker(1, 0) }]);
}

#[test]
fn with_a_process_left_a_refused_one_is_no_failure_and_its_place_goes_back() {
    let mut pool = begun(2);
    pool.submit([1, 2]);
    pool.wanted.clear();
    pool.granted(Place, 1);
    pool.granted(Process, 0);
    pool.wants(&[ask(Process), back(Place)]);
    pool.done(1, worker(1, 0), 1);
    pool.wants(&[answered(1), run(2, worker(1, 0), 1)]);
}

#[test]
fn an_idle_worker_gives_its_place_back_soon_and_its_process_later() {
    let mut pool = begun(2);
    pool.submit([1, 2]);
    pool.granted(Place, 1);
    pool.granted(Process, 1);
    pool.opens(worker(2, 1));
    pool.done(1, worker(1, 0), 1);
    pool.done(2, worker(2, 1), 1);
    pool.wanted.clear();
    pool.pass(20 * MS);
    pool.wants(&[back(Place)]);
    pool.pass(2000 * MS);
    pool.wants(&[Action::Drain { worker: worker(1, 0) }, Action::Drain { worker: worker(2, 1) }]);
    pool.lost(worker(1, 0), 0);
    pool.lost(worker(2, 1), 0);
    pool.wants(&[back(Process), back(Process)]);
    // The next task finds nobody, and is not kept waiting by a back-off.
    pool.submit([3]);
    pool.wants(&[ask(Process)]);
    pool.granted(Process, 1);
    pool.wants(&[Action::Launch { worker: worker(3, 0) }]);
}

#[test]
fn a_warm_worker_is_used_again() {
    let mut pool = begun(1);
    pool.pass(500 * MS);
    pool.wants(&[]);
    pool.submit([1]);
    pool.wants(&[run(1, worker(1, 0), 1)]);
}

#[test]
fn a_crash_below_keeps_its_process_for_the_next_worker() {
    let mut pool = begun(1);
    pool.submit([1, 2]);
    pool.wanted.clear();
    pool.lost(worker(1, 0), 1);
    pool.wants(&[
        failed(1, ErrorKind::Crashed, Some(worker(1, 0)), 1, true),
        Action::Launch { worker: worker(2, 0) },
    ]);
}

#[test]
fn a_pool_that_ends_gives_everything_back_and_waits_for_answers() {
    let mut pool = begun(2);
    pool.submit([1, 2]);
    pool.wanted.clear();
    pool.put(Input::Abort);
    pool.lost(worker(1, 0), 1);
    let closed = |action: &Action| matches!(action, Action::Closed(_));
    assert!(pool.wanted.iter().any(closed) && pool.wanted.ends_with(&[back(Process)]));
    assert!(pool.scheduler.asks());
    pool.wanted.clear();
    pool.granted(Place, 1);
    pool.wants(&[back(Place)]);
    assert!(!pool.scheduler.asks());
}

#[test]
fn questions_from_below_are_handed_on_and_answered_in_their_order() {
    let mut pool = begun(1);
    let by = worker(1, 0);
    pool.asks(by, Place, 2);
    pool.asks(by, Place, 1);
    pool.wants(&[Action::Ask { kind: Place, n: 2 }, ask(Place)]);
    pool.granted(Place, 2);
    pool.granted(Place, 0);
    pool.wants(&[grant(Place, by, 2), grant(Place, by, 0)]);
    pool.put(Input::Returned { worker: by, kind: Place, n: 1 });
    pool.wants(&[back(Place)]);
    pool.put(Input::Nudged);
    pool.wants(&[Action::Nudge { worker: by }]);
}

#[test]
fn the_root_lends_what_its_own_tasks_leave_and_they_never_wait() {
    let mut pool = root(2, 2, 10);
    let [first, second] = [worker(1, 0), worker(2, 1)];
    pool.submit([1]);
    pool.wants(&[run(1, first, 1)]);
    pool.asks(first, Place, 1);
    pool.asks(first, Place, 1);
    pool.wants(&[grant(Place, first, 1), grant(Place, first, 0)]);
    // The budget is overdrawn, and the place that comes back goes to nobody else.
    pool.submit([2]);
    pool.wants(&[run(2, second, 1)]);
    pool.put(Input::Returned { worker: first, kind: Place, n: 1 });
    pool.wants(&[]);
    pool.done(2, second, 1);
    pool.wants(&[answered(2), Action::Nudge { worker: first }]);
}

#[test]
fn processes_below_a_dead_worker_count_until_they_have_seen_it() {
    let mut pool = root(2, 8, 3);
    let [first, second] = [worker(1, 0), worker(2, 1)];
    pool.asks(first, Process, 1);
    pool.asks(second, Process, 1);
    pool.wants(&[grant(Process, first, 1), grant(Process, second, 0)]);
    pool.lost(first, 0);
    pool.wants(&[Action::Launch { worker: worker(3, 0) }]);
    pool.asks(second, Process, 1);
    pool.wants(&[grant(Process, second, 0)]);
    pool.pass(1100 * MS);
    pool.wants(&[Action::Nudge { worker: second }]);
}

#[test]
fn a_worker_that_gives_back_what_it_never_had_is_killed() {
    let mut pool = root(1, 2, 10);
    pool.put(Input::Returned { worker: worker(1, 0), kind: Place, n: 1 });
    pool.wants(&[Action::Kill { worker: worker(1, 0) }]);
}

#[test]
fn what_has_died_with_its_worker_is_tried_again_on_a_fresh_one_below_too() {
    let mut pool = begun(1);
    let spec = Spec { retries: 1, ..Spec::default() };
    pool.put(Input::Submit { task: task(1), spec });
    pool.wants(&[run(1, worker(1, 0), 1)]);
    pool.lost(worker(1, 0), 1);
    let again = Action::Retry { task: task(1), worker: worker(1, 0), kind: ErrorKind::Crashed, attempts: 1 };
    pool.wants(&[again, Action::Launch { worker: worker(2, 0) }]);
    pool.opens(worker(2, 0));
    pool.wants(&[run(1, worker(2, 0), 2)]);
}

#[test]
fn an_idle_worker_below_makes_room_for_a_fresh_one() {
    let mut pool = begun(2);
    pool.put(Input::Submit { task: task(1), spec: Spec { retries: 1, ..Spec::default() } });
    pool.submit([2]);
    pool.granted(Place, 1);
    pool.granted(Process, 1);
    pool.opens(worker(2, 1));
    pool.done(2, worker(2, 1), 1);
    pool.pass(20 * MS);
    pool.wanted.clear();
    // The other one has lost its place by now, and would do, were it fresh.
    pool.lost(worker(1, 0), 1);
    let mut ran = None;
    for _ in 0..10 {
        pool.pass(20 * MS);
        for action in std::mem::take(&mut pool.wanted) {
            match action {
                Action::Drain { worker } => pool.lost(worker, 0),
                Action::Launch { worker } => pool.opens(worker),
                Action::Ask { kind, n } => pool.granted(kind, n),
                Action::Run { worker, attempt, .. } => ran = Some((worker.serial, attempt)),
                _ => {}
            }
        }
    }
    assert!(ran.is_some_and(|(serial, attempt)| serial > 2 && attempt == 2), "{ran:?}");
}

/// A pool below that has as many open workers that nobody has used, one of them with a place.
fn unused(workers: u32, slots: u32) -> Pool {
    let mut pool = Pool::new(Config { workers, slots, ahead: 0, below: true, ..Config::default() });
    pool.put(Input::Start);
    pool.granted(Process, 1);
    pool.submit(1..=workers);
    for seat in 1..workers {
        pool.granted(Place, 1);
        pool.granted(Process, 1);
        pool.wants_launched(worker(seat + 1, seat));
    }
    (1..=workers).for_each(|n| pool.put(Input::Cancel { task: task(n) }));
    (0..workers).for_each(|seat| pool.opens(worker(seat + 1, seat)));
    pool.pass(100 * MS);
    pool.wanted.clear();
    pool
}

impl Pool {
    #[track_caller]
    fn wants_launched(&mut self, worker: WorkerId) {
        assert!(std::mem::take(&mut self.wanted).contains(&Action::Launch { worker }));
    }
}

#[test]
fn who_was_never_sent_anything_is_not_sent_away_for_somebody_fresh() {
    let mut pool = unused(4, 3);
    for n in 11..=13 {
        pool.put(Input::Submit { task: task(n), spec: Spec { retries: 1, ..Spec::default() } });
    }
    pool.granted(Place, 0);
    let by = pool.wanted.iter().find_map(|action| match action {
        Action::Run { worker, .. } => Some(*worker),
        _ => None,
    });
    pool.wanted.clear();
    pool.lost(by.unwrap(), 3);
    let runs = pool.wanted.iter().filter(|action| matches!(action, Action::Run { attempt: 2, .. })).count();
    let drains = pool.wanted.iter().filter(|action| matches!(action, Action::Drain { .. })).count();
    assert_eq!((runs, drains), (1, 0), "{:?}", pool.wanted);
}

#[test]
fn a_place_that_comes_back_is_kept_for_a_moment_for_who_has_least() {
    let mut pool = root(3, 5, 20);
    let [first, second, third] = [worker(1, 0), worker(2, 1), worker(3, 2)];
    pool.submit([1, 2, 3]);
    pool.asks(first, Place, 2);
    for by in [first, second, third] {
        pool.asks(by, Place, 1);
    }
    pool.wanted.clear();
    pool.put(Input::Returned { worker: first, kind: Place, n: 1 });
    pool.wants(&[Action::Nudge { worker: second }]);
    // Others are told when it has not asked.
    pool.asks(first, Place, 1);
    pool.wants(&[grant(Place, first, 0)]);
    pool.pass(5 * MS);
    pool.wants(&[Action::Nudge { worker: third }]);
    pool.asks(third, Place, 1);
    pool.wants(&[grant(Place, third, 1)]);
    pool.put(Input::Returned { worker: first, kind: Place, n: 1 });
    pool.wants(&[Action::Nudge { worker: first }]);
    pool.asks(first, Place, 1);
    pool.wants(&[grant(Place, first, 1)]);
}
