//! Single rules by example. That they hold together, whatever happens, is the simulator's to show.

mod ahead;
mod counted;
mod flow;
mod pack;
mod places;
mod quarantine;
mod retry;
mod share;
mod size;
mod speed;
mod staff;
mod tasks;
mod views;

use std::time::{Duration, Instant};

use crate::error::ErrorKind;
use crate::id::{TaskId, WorkerId};
use crate::sched::{Action, Answer, Config, Input, Notice, Outcome, Scheduler, Spec};

pub(super) const MS: Duration = Duration::from_millis(1);

/// A scheduler, its time, and what it has wanted since it was last asked.
pub(super) struct Pool {
    pub(super) scheduler: Scheduler,
    pub(super) now: Instant,
    pub(super) wanted: Vec<Action>,
    pub(super) told: Vec<Notice>,
}

pub(super) fn task(n: u32) -> TaskId {
    TaskId::new(n, n)
}

/// The n-th worker launched, which sits in this seat.
pub(super) fn worker(n: u32, seat: u32) -> WorkerId {
    WorkerId::new(n, seat)
}

pub(super) fn failed(
    n: u32,
    kind: ErrorKind,
    by: Option<WorkerId>,
    attempts: u32,
    may_have_run: bool,
) -> Action {
    Action::Resolve { task: task(n), outcome: Outcome::Failed { kind, worker: by, attempts, may_have_run } }
}

pub(super) fn answered(n: u32) -> Action {
    Action::Resolve { task: task(n), outcome: Outcome::Answered }
}

pub(super) fn run(n: u32, by: WorkerId, attempt: u32) -> Action {
    Action::Run { worker: by, task: task(n), attempt, left: None }
}

impl Pool {
    /// As many workers as wanted, not open yet, that are sent nothing ahead.
    pub(super) fn starting(workers: u32, slots: u32) -> Self {
        Self::sent_ahead(workers, slots, 0)
    }

    /// As many workers as wanted, not open yet, that may be sent so much ahead.
    pub(super) fn sent_ahead(workers: u32, slots: u32, ahead: u32) -> Self {
        Self::configured(Config { workers, slots, ahead, ..Config::default() }, workers)
    }

    /// So many workers, not open yet, which are all that the pool begins with.
    pub(super) fn configured(config: Config, workers: u32) -> Self {
        let scheduler = Scheduler::new(config);
        let mut pool = Self { scheduler, now: Instant::now(), wanted: Vec::new(), told: Vec::new() };
        pool.put(Input::Start);
        let launches: Vec<_> =
            (0..workers).map(|seat| Action::Launch { worker: worker(seat + 1, seat) }).collect();
        pool.wants(&launches);
        pool
    }

    /// As many open workers as wanted, that are sent nothing ahead.
    pub(super) fn open(workers: u32, slots: u32) -> Self {
        Self::starting(workers, slots).opened(workers)
    }

    /// The same with all workers open.
    pub(super) fn opened(mut self, workers: u32) -> Self {
        let pool = &mut self;
        for seat in (0..workers).rev() {
            pool.opens(worker(seat + 1, seat));
        }
        pool.wants(&[Action::Started { ok: true }]);
        self
    }

    pub(super) fn put(&mut self, input: Input) {
        self.scheduler.handle(self.now, input);
        self.scheduler.check().unwrap();
        while let Some(action) = self.scheduler.poll_action() {
            // What is told has rules of its own.
            match action {
                Action::Tell(notice) => self.told.push(notice),
                action => self.wanted.push(action),
            }
        }
    }

    #[track_caller]
    pub(super) fn wants(&mut self, actions: &[Action]) {
        assert_eq!(std::mem::take(&mut self.wanted), actions);
    }

    #[track_caller]
    pub(super) fn tells(&mut self, notices: &[Notice]) {
        assert_eq!(std::mem::take(&mut self.told), notices);
    }

    pub(super) fn opens(&mut self, worker: WorkerId) {
        self.put(Input::Ready { worker });
        self.put(Input::Open { worker });
    }

    pub(super) fn submit(&mut self, tasks: impl IntoIterator<Item = u32>) {
        tasks.into_iter().for_each(|n| self.put(Input::Submit { task: task(n), spec: Spec::default() }));
    }

    pub(super) fn done(&mut self, n: u32, worker: WorkerId, attempt: u32) {
        self.put(Input::Done {
            worker,
            task: task(n),
            attempt,
            answer: Answer::Finished,
            used: Duration::ZERO,
        });
    }

    pub(super) fn lost(&mut self, worker: WorkerId, begun: u64) {
        self.put(Input::Lost { worker, begun });
    }

    /// Lets time pass, with a call whenever one is due.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.scheduler.poll_timeout().filter(|&at| at <= end) {
            self.now = at;
            self.put(Input::Tick);
        }
        self.now = end;
    }
}
