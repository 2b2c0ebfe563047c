//! Launches that were refused for want of something: when they may have counted as failed starts. The scheduler's time passes
//! no faster than ours, so a bystander knows when they can't have.

use super::model::{Known, Model};
use crate::id::WorkerId;

impl Model {
    /// A worker could not be launched for want of something. It counts when that has lasted for long, in the scheduler's time,
    /// which passes no faster than ours, and when starting has been given up.
    pub(super) fn refused(&mut self, worker: WorkerId) {
        let Some(known) = self.workers.remove(&worker) else { return };
        let since = *self.want.get_or_insert(self.now);
        self.ended(worker, &known, Vec::new());
        self.vacated(worker, &known, true);
        let counts = self.now - since >= self.config.start_limit || self.may_have_given_up();
        self.doubtful += u32::from(counts && known.retired.is_none());
        self.despair();
    }

    /// A worker has greeted: whatever it needed was there. Once is enough.
    pub(super) fn greets(&mut self, known: &mut Known) {
        known.violated |= std::mem::replace(&mut known.ready, true);
        self.want = self.want.filter(|_| known.violated);
    }

    /// Whether too many starts may have failed in a row.
    pub(super) fn may_have_given_up(&self) -> bool {
        self.failures + self.doubtful >= 3
    }
}
