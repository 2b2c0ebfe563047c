//! Who is tried again, and where: the bystander's idea of retries.

use super::model::{Model, State};
use super::{Checked, ensure};
use crate::error::ErrorKind;
use crate::id::{TaskId, WorkerId};

impl Model {
    /// A task that was sent in vain goes back to its place.
    pub(super) fn wait_again(&mut self, task: TaskId) {
        let Some(record) = self.tasks.get_mut(&task) else { return };
        record.again = true;
        if record.suspect {
            record.state = State::Alone;
            return;
        }
        record.state = State::Waiting;
        self.waiting.insert((record.order, task));
        self.turns.forgive(record.spec);
    }

    /// What waits for a worker of its own.
    pub(super) fn alone(&self) -> Vec<TaskId> {
        let alone = self.tasks.iter().filter(|(_, record)| matches!(record.state, State::Alone));
        alone.map(|(&task, _)| task).collect()
    }

    /// Judges what is told of an attempt that is not the last.
    pub(super) fn retry(&self, task: TaskId, worker: WorkerId, kind: ErrorKind, attempts: u32) -> Checked {
        let record = self.tasks.get(&task).ok_or("a resolved task is tried again")?;
        // It may be too late for it at once.
        let waits = matches!(record.state, State::Waiting | State::Alone | State::Must(_));
        ensure!(record.again && record.begun && waits, "{task:?} is tried again, unasked");
        ensure!(record.attempts == attempts, "{task:?} had {} attempts, not {attempts}", record.attempts);
        let death = [ErrorKind::Crashed, ErrorKind::Collateral, ErrorKind::Protocol, ErrorKind::Unresponsive];
        ensure!(death.contains(&kind), "{task:?} is tried again on {worker:?} after {kind:?}");
        Ok(())
    }

    /// Whoever waits for a worker of its own gets one if it is there; otherwise there has to be a seat that may come to
    /// have one.
    pub(super) fn is_somebody_fresh(&self) -> Checked {
        let Some(&task) = self.alone().first() else { return Ok(()) };
        let mut used = 0;
        for (worker, known) in self.workers.iter().filter(|(_, known)| known.takes_tasks()) {
            ensure!(known.sent > 0, "{task:?} waits for a fresh worker, and {worker:?} is one");
            used += 1;
        }
        let most = self.sizes.most as usize + self.spent();
        ensure!(used < most, "{task:?} waits for a fresh worker, and none is to come");
        Ok(())
    }
}
