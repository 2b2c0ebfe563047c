//! Single rules by example. That they hold together, whatever happens, is the simulator's to show.

use std::time::{Duration, Instant};

use crate::error::ErrorKind::{self, *};
use crate::id::{TaskId, WorkerId};
use crate::sched::{Action, Answer, Config, Input, Outcome, Scheduler};

const MS: Duration = Duration::from_millis(1);

/// A scheduler, its time, and what it has wanted since it was last asked.
struct Pool {
    scheduler: Scheduler,
    now: Instant,
    wanted: Vec<Action>,
}

fn task(n: u32) -> TaskId {
    TaskId::new(n, n)
}

/// The n-th worker launched, which sits in this seat.
fn worker(n: u32, seat: u32) -> WorkerId {
    WorkerId::new(n, seat)
}

fn failed(n: u32, kind: ErrorKind, by: Option<WorkerId>, attempts: u32, may_have_run: bool) -> Action {
    Action::Resolve { task: task(n), outcome: Outcome::Failed { kind, worker: by, attempts, may_have_run } }
}

fn answered(n: u32) -> Action {
    Action::Resolve { task: task(n), outcome: Outcome::Answered }
}

fn run(n: u32, by: WorkerId, attempt: u32) -> Action {
    Action::Run { worker: by, task: task(n), attempt }
}

impl Pool {
    /// As many workers as wanted, not open yet.
    fn starting(workers: u32, slots: u32) -> Self {
        let scheduler = Scheduler::new(Config { workers, slots, ..Config::default() });
        let mut pool = Self { scheduler, now: Instant::now(), wanted: Vec::new() };
        pool.put(Input::Start);
        let launches: Vec<_> =
            (0..workers).map(|seat| Action::Launch { worker: worker(seat + 1, seat) }).collect();
        pool.wants(&launches);
        pool
    }

    /// As many open workers as wanted.
    fn open(workers: u32, slots: u32) -> Self {
        let mut pool = Self::starting(workers, slots);
        for seat in (0..workers).rev() {
            pool.opens(worker(seat + 1, seat));
        }
        pool.wants(&[Action::Started { ok: true }]);
        pool
    }

    fn put(&mut self, input: Input) {
        self.scheduler.handle(self.now, input);
        self.scheduler.check().unwrap();
        while let Some(action) = self.scheduler.poll_action() {
            self.wanted.push(action);
        }
    }

    #[track_caller]
    fn wants(&mut self, actions: &[Action]) {
        assert_eq!(std::mem::take(&mut self.wanted), actions);
    }

    fn opens(&mut self, worker: WorkerId) {
        self.put(Input::Ready { worker });
        self.put(Input::Open { worker });
    }

    fn submit(&mut self, tasks: impl IntoIterator<Item = u32>) {
        tasks.into_iter().for_each(|n| self.put(Input::Submit { task: task(n) }));
    }

    fn done(&mut self, n: u32, worker: WorkerId, attempt: u32) {
        self.put(Input::Done { worker, task: task(n), attempt, answer: Answer::Finished });
    }

    fn lost(&mut self, worker: WorkerId, begun: u64) {
        self.put(Input::Lost { worker, begun });
    }

    /// Lets time pass, with a call whenever one is due.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.scheduler.poll_timeout().filter(|&at| at <= end) {
            self.now = at;
            self.put(Input::Tick);
        }
        self.now = end;
    }
}

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
    pool.wants(&[answered(3), run(4, two, 2)]);
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
    });
    pool.wants(&[failed(2, Cancelled, Some(one), 1, false)]);
    pool.pass(60_000 * MS);
    pool.wants(&[]);
}

#[test]
fn neighbours_of_a_task_that_does_not_stop_are_collateral_or_go_back() {
    let mut pool = Pool::open(1, 3);
    let one = worker(1, 0);
    pool.submit([1, 2, 3]);
    pool.put(Input::Cancel { task: task(1) });
    pool.pass(1500 * MS);
    pool.submit([4]);
    pool.wanted.clear();
    pool.lost(one, 2);
    pool.wants(&[
        failed(1, Cancelled, Some(one), 1, true),
        failed(2, Collateral, Some(one), 1, true),
        Action::Launch { worker: worker(2, 0) },
    ]);
    pool.opens(worker(2, 0));
    pool.wants(&[run(3, worker(2, 0), 2), run(4, worker(2, 0), 1)]);
}

#[test]
fn a_worker_that_survives_sigterm_is_drained_when_it_is_idle() {
    let mut pool = Pool::open(1, 2);
    let one = worker(1, 0);
    pool.submit([1, 2]);
    pool.put(Input::Cancel { task: task(1) });
    pool.pass(1000 * MS);
    pool.wanted.clear();
    pool.put(Input::Done {
        worker: one,
        task: task(1),
        attempt: 1,
        answer: Answer::Cancelled { began: true },
    });
    pool.wants(&[failed(1, Cancelled, Some(one), 1, true)]);
    pool.done(2, one, 1);
    pool.wants(&[answered(2), Action::Drain { worker: one }]);
    pool.put(Input::Bye { worker: one });
    pool.lost(one, 2);
    pool.wants(&[Action::Launch { worker: worker(2, 0) }]);
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
    // Nothing is due but what was due half a second ago; the ladder goes on from there.
    pool.wants(&[]);
    pool.pass(999 * MS);
    pool.wants(&[]);
    pool.pass(MS);
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
    });
    pool.wants(&[failed(2, Closed, Some(two), 1, true), Action::Drain { worker: two }]);
    pool.lost(one, 1);
    pool.lost(two, 1);
    pool.wants(&[]);
    pool.pass(4500 * MS);
    pool.wants(&[Action::Kill { worker: three }]);
    pool.lost(three, 0);
    pool.wants(&[Action::Closed]);
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
    pool.wants(&[Action::Abandon { worker: worker(2, 1) }, Action::Closed]);
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
    pool.done(1, worker(3, 0), 2);
    pool.wants(&[
        run(1, worker(3, 0), 2),
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
    assert_eq!(pool.wanted.last(), Some(&Action::Closed));
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
    pool.wants(&[Action::Closed]);
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
    assert_eq!(stats.workers[0].tasks, [(task(2), 700 * MS)]);
    assert_eq!(stats.workers[0].finished, 1);
}

/// How fast it is: `cargo test --release --lib sched::tests::speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, for release builds"]
fn speed() {
    for (workers, slots, waiting) in
        [(1, 1, 0), (8, 1, 1000), (64, 4, 100_000), (1000, 1, 0), (1000, 16, 100_000)]
    {
        let mut pool = Pool::starting(workers, slots);
        (0..workers).for_each(|seat| pool.opens(worker(seat + 1, seat)));
        pool.wanted.clear();
        let mut sent = std::collections::VecDeque::new();
        let (mut serial, rounds) = (0, 2_000_000);
        let mut free: Vec<u32> = (0..waiting + workers * slots).rev().collect();
        let start = Instant::now();
        for _ in 0..rounds {
            // As many calls of `now` as a driver makes that takes single events.
            while let Some(place) = free.pop() {
                serial += 1;
                pool.scheduler.handle(Instant::now(), Input::Submit { task: TaskId::new(serial, place) });
                if waiting == 0 {
                    break;
                }
            }
            loop {
                while let Some(action) = pool.scheduler.poll_action() {
                    match action {
                        Action::Run { worker, task, attempt } => sent.push_back((worker, task, attempt)),
                        Action::Resolve { task, .. } => free.push(task.index),
                        _ => {}
                    }
                }
                if !free.is_empty() {
                    break;
                }
                let Some((worker, task, attempt)) = sent.pop_front() else { break };
                let done = Input::Done { worker, task, attempt, answer: Answer::Finished };
                pool.scheduler.handle(Instant::now(), done);
            }
        }
        let cycle = start.elapsed() / serial;
        let rate = 1e3 / cycle.as_nanos() as f64;
        println!(
            "{workers:>4} workers, {slots:>2} slots, {waiting:>6} waiting: {cycle:?} per cycle, {rate:.1} M/s"
        );
    }
}
