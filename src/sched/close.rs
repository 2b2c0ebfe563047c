//! Closing a pool, in its three degrees, down to "no tasks, no workers". A second call only ever makes it stricter or
//! sooner.

use std::time::Duration;

use crate::error::ErrorKind;
use crate::event::Leave;
use crate::sched::clock::Alarm;
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::worker::{Cause, Worker};
use crate::sched::{Action, Notice, Outcome};

/// What became of tasks and workers since the pool was told to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tally {
    /// Tasks that were answered.
    pub(crate) finished: u64,
    /// Tasks that resolved `Closed`, late ones excepted.
    pub(crate) closed: u64,
    /// Tasks that resolved with another error.
    pub(crate) failed: u64,
    /// Workers that had taken tasks and went after they were sent a signal, be it before.
    pub(crate) killed: u64,
}

impl Tally {
    pub(super) fn count(&mut self, outcome: Outcome, tasks: u64) {
        match outcome {
            Outcome::Answered => self.finished += tasks,
            Outcome::Failed { kind: ErrorKind::Closed, .. } => self.closed += tasks,
            Outcome::Failed { .. } => self.failed += tasks,
        }
    }
}

impl Scheduler {
    pub(super) fn drain(&mut self) {
        self.begin_to_end();
        self.mode = self.mode.max(Mode::Draining);
        self.call_in();
    }

    /// Tells, the first time, that the pool ends.
    fn begin_to_end(&mut self) {
        if self.mode == Mode::Running {
            self.act(Action::Tell(Notice::Closing));
        }
    }

    pub(super) fn shutdown(&mut self, limit: Duration) {
        self.begin_to_end();
        let sooner = match self.mode {
            Mode::Running | Mode::Draining => true,
            // No limit set any more: it is over.
            Mode::Closing => self.limit.is_some_and(|due| self.clock.now().saturating_add(limit) < due),
            Mode::Closed => false,
        };
        if sooner {
            self.mode = Mode::Closing;
            self.fail_queue(ErrorKind::Closed, None);
            self.call_in();
            self.clock.arm(Alarm::Limit, &mut self.limit, limit);
            // What was sent ahead waits as much as the queue did.
            for seat in self.seats_where(|seat| seat.worker.is_some()) {
                self.recall(seat, 1);
            }
            self.kill_starting();
        }
    }

    pub(super) fn abort(&mut self) {
        if self.mode == Mode::Closed {
            return;
        }
        self.begin_to_end();
        self.mode = Mode::Closing;
        self.fail_queue(ErrorKind::Closed, None);
        self.call_in();
        self.clock.disarm(Alarm::Limit, &mut self.limit);
        for seat in self.seats_where(|seat| seat.worker.is_some()) {
            while let Some(index) = self.worker(seat).and_then(|worker| worker.tasks.first()) {
                self.take_back(seat, index);
                let worker = self.worker(seat).map(|worker| worker.id);
                self.fail(index, ErrorKind::Closed, worker, true);
            }
            self.doom(seat, Cause::Closing);
        }
    }

    /// Sends away who has nothing left to do, and says so when nobody is left.
    pub(super) fn wind_down(&mut self) {
        if !matches!(self.mode, Mode::Draining | Mode::Closing) || self.waits() {
            return;
        }
        while let Some(seat) = self.ready.list(0).first() {
            self.dismiss(seat, Leave::Closing);
        }
        if self.config.below {
            self.dismiss_unplaced();
        }
        if self.workers().any(|worker| !worker.tasks.is_empty()) {
            return;
        }
        self.kill_starting();
        let forgotten = |worker: &Worker| planted!(self, ForgetStarting) && worker.is_starting();
        if self.workers().all(forgotten) {
            self.mode = Mode::Closed;
            self.clock.clear();
            self.act(Action::Closed(self.tally));
        }
    }

    /// Workers that have not opened yet will not be needed.
    fn kill_starting(&mut self) {
        for seat in self.seats_where(|seat| seat.worker.as_ref().is_some_and(Worker::is_starting)) {
            self.doom(seat, Cause::Closing);
        }
    }
}
