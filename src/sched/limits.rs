//! The time that callers give their tasks: timeouts, which count from the beginning of an attempt, and deadlines, which
//! count from the submission. What becomes of a task that is to stop is told in `supervise`.

use std::time::Duration;

use crate::error::ErrorKind;
use crate::sched::Spec;
use crate::sched::clock::{Alarm, Due};
use crate::sched::scheduler::Scheduler;

/// The shortest timeout. What begins now cannot be over now, or the next call would be due before this one has ended.
const LEAST: Duration = Duration::from_nanos(1);

impl Scheduler {
    /// Takes note of the limits of a new task.
    pub(super) fn limit(&mut self, index: u32, spec: &Spec) {
        let Spec { timeout, deadline, retries, .. } = *spec;
        if timeout.is_none() && deadline.is_none() && retries == 0 {
            return;
        }
        let deadline = deadline.map(|left| self.clock.wall().saturating_add(left));
        if let Some(task) = self.tasks.at_mut(index) {
            let extras = task.extras.get_or_insert_default();
            (extras.timeout, extras.deadline, extras.retries) = (timeout, deadline, retries);
        }
        if let Some(at) = deadline {
            self.clock.expect(at, Due::Task(index));
        }
    }

    /// A time on the wall's clock has come.
    pub(super) fn expire(&mut self, due: Due) {
        let index = match due {
            Due::Task(index) => index,
            Due::Age => {
                self.aging = None;
                return self.age();
            }
            Due::Idle => return self.thin_out(),
        };
        let waits = self.tasks.at(index).is_some_and(|task| task.sent.is_none());
        if !(waits && planted!(self, IgnoreDeadline)) {
            self.give_up(index, ErrorKind::TimedOut);
        }
    }

    /// Nobody wants this task any more: one that waits is resolved, one that was sent is stopped.
    pub(super) fn give_up(&mut self, index: u32, kind: ErrorKind) {
        let Some(task) = self.tasks.at(index) else { return };
        if task.sent.is_some() {
            return self.stop(index, kind);
        }
        let ran = task.ran();
        self.withdraw(index);
        self.fail(index, kind, None, ran);
    }

    /// After a task has left a worker, the next of those that were sent ahead begins, as far as can be known here.
    pub(super) fn begin_next(&mut self, seat: u32) {
        let (slots, now) = (self.config.slots, self.clock.now());
        while let Some(worker) = &mut self.seats[seat as usize].worker
            && let Some(index) = worker.tasks.promote(&mut self.tasks, slots, now)
        {
            if self.tasks.at(index).is_some_and(|task| task.extras.is_some()) {
                self.begin(index);
            }
        }
    }

    /// An attempt begins: its timeout counts from here.
    pub(super) fn begin(&mut self, index: u32) {
        let Some(task) = self.tasks.at_mut(index) else { return };
        let (Some(timeout), Some(sent)) = (task.timeout(), &mut task.sent) else { return };
        if sent.stop.is_none() {
            self.clock.arm(Alarm::Task(index), &mut sent.due, timeout.max(LEAST));
        }
    }
}
