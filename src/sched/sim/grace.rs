//! Who is to be spared: the bystander's idea of a worker in quarantine, because of a task on it that does not stop.

use super::model::{Held, Model, Record, State};
use super::{Checked, ensure};
use crate::id::{TaskId, WorkerId};

impl Model {
    /// Whether a worker may be in quarantine: the grace of one of its tasks may be over, for all that one can know here.
    pub(super) fn may_be_shut(&self, worker: WorkerId) -> bool {
        self.holds_stopping(worker, self.config.cancel_grace)
    }

    /// Whether it is, for certain.
    pub(super) fn must_be_shut(&self, worker: WorkerId) -> bool {
        let grace = self.config.cancel_grace;
        let stuck = |held: &Held| held.stop.is_some_and(|(_, since)| self.age(since) > grace);
        self.held_by(worker).any(stuck)
    }

    /// Judges SIGTERM: whoever runs there and was not told to stop, or has only just been, has the grace as well.
    pub(super) fn are_neighbours_spared(&self, worker: WorkerId) -> Checked {
        let grace = self.config.cancel_grace;
        let can_finish = self.workers.get(&worker).is_some_and(|known| known.is_reachable());
        let neighbour = |held: &Held| match held.stop {
            Some((_, since)) => self.now - since.at < grace,
            None => held.over(self.now).is_none(),
        };
        let neighbours = can_finish && self.held_by(worker).take(self.config.slots as usize).any(neighbour);
        ensure!(
            !neighbours || self.holds_stopping(worker, 2 * grace),
            "{worker:?} is terminated, and others run on it"
        );
        Ok(())
    }

    pub(super) fn held_by(&self, worker: WorkerId) -> impl Iterator<Item = &Held> {
        let held: &[TaskId] = self.workers.get(&worker).map_or(&[], |known| &known.held);
        held.iter().filter_map(|task| match self.tasks.get(task) {
            Some(Record { state: State::On(held), .. }) => Some(held),
            _ => None,
        })
    }
}
