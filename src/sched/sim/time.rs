//! When a task's time is over: the bystander's idea of timeouts and deadlines.

use std::time::Duration;

use super::judge::TICK;
use super::model::{Held, Known, Model, State};
use super::{Checked, ensure};
use crate::error::ErrorKind;
use crate::id::TaskId;

/// A moment, and how long the parent had stood still by then.
#[derive(Clone, Copy)]
pub(super) struct Since {
    pub(super) at: Duration,
    pub(super) stalled: Duration,
}

impl Held {
    /// For how long its timeout has been over, at most.
    pub(super) fn over(&self, now: Duration) -> Option<Duration> {
        now.checked_sub(self.begun?.at.saturating_add(self.timeout?))
    }

    /// What it may resolve to besides: its timeout may be over without a word to a worker that cannot hear.
    pub(super) fn unseen(&self, now: Duration) -> Option<ErrorKind> {
        self.over(now).filter(|_| !self.told).map(|_| ErrorKind::TimedOut)
    }
}

impl Model {
    pub(super) fn since(&self) -> Since {
        Since { at: self.now, stalled: self.stalled }
    }

    /// For how long this has been so, at least, while the parent ran.
    pub(super) fn age(&self, since: Since) -> Duration {
        (self.now - since.at).saturating_sub(self.stalled - since.stalled)
    }

    /// What the time obliges the scheduler to, after it has heard the input and before it does anything.
    pub(super) fn tell_time(&mut self) {
        let since = self.since();
        let slots = self.config.slots as usize;
        for known in self.workers.values() {
            for task in known.held.iter().take(slots) {
                if let Some(State::On(held)) = self.tasks.get_mut(task).map(|record| &mut record.state) {
                    held.begun.get_or_insert(since);
                }
            }
        }
        let late = |deadline: Option<Duration>| deadline.is_some_and(|at| at <= since.at);
        let mut waiting = Vec::new();
        for (task, record) in self.tasks.iter_mut().filter(|(_, record)| late(record.deadline)) {
            match &mut record.state {
                State::Outside { .. } | State::Reserved | State::Waiting | State::Alone => {
                    waiting.push(*task);
                }
                State::On(held) => _ = held.stop.get_or_insert((ErrorKind::TimedOut, since)),
                State::Must(_) => {}
            }
        }
        for task in waiting {
            self.demand(task, &[Some(ErrorKind::TimedOut)]);
        }
    }

    /// Judges what a worker is told of a task's deadline.
    pub(super) fn is_in_time(&self, task: TaskId, left: Option<Duration>) -> Checked {
        let deadline = self.tasks.get(&task).and_then(|record| record.deadline);
        ensure!(deadline.is_none_or(|at| at > self.now), "{task:?} is sent after its deadline");
        let known = deadline.map(|at| at - self.now);
        ensure!(left == known, "{task:?} is told that {left:?} is left of {known:?}");
        Ok(())
    }

    /// Nobody who can be told runs on after his timeout.
    pub(super) fn are_in_time(&self) -> Checked {
        for (task, record) in &self.tasks {
            let State::On(held) = &record.state else { continue };
            let (Some(begun), Some(timeout), None) = (held.begun, held.timeout, held.stop) else { continue };
            let reachable = self.workers.get(&held.worker).is_some_and(Known::is_reachable);
            let over = self.age(begun).checked_sub(timeout).is_some_and(|over| over > TICK);
            ensure!(!over || !reachable, "{task:?} runs on after its timeout");
        }
        Ok(())
    }
}
