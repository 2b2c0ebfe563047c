//! What became of the seats whose workers have gone: the bystander's idea of failures, and of when there is no hope.

use std::time::Duration;

use super::model::{Known, Model};
use crate::error::ErrorKind;
use crate::id::WorkerId;

/// How long a worker has to be open for its seat's past to be forgotten.
const HEALTHY: Duration = Duration::from_secs(10);

/// What happened in a seat.
#[derive(Default)]
pub(super) struct Past {
    pub(super) failures: u32,
    pub(super) lost: Duration,
    /// Whether the last worker was sent away by us.
    pub(super) free: bool,
    /// Whether the next need not wait for long.
    pub(super) brief: bool,
}

impl Model {
    pub(super) fn vacated(&mut self, worker: WorkerId, known: &Known, gone: bool) {
        let killed = known.opened.is_some() && (known.terminated || known.killed.is_some());
        self.news.tally.killed += u64::from(killed && self.closing.is_some());
        let past = self.seats.entry(worker.index).or_default();
        past.lost = self.now;
        // One that was told to go and would not is no better than one that crashed.
        let went = known.terminated || known.drained && known.killed.is_none();
        let away = if known.opened.is_some() { went } else { known.retired.is_some() };
        past.free = gone && away && !known.violated;
        self.free += u64::from(past.free);
        // One that was not needed any more before it was there has not failed, even if it could only be given up.
        let unneeded = away && known.opened.is_none() && !known.violated;
        if !past.free && !unneeded {
            if known.useful || known.opened.is_some_and(|opened| self.now - opened >= HEALTHY) {
                past.failures = 0;
            }
            past.failures += 1;
        }
        past.brief = known.opened.is_none() && self.want.is_some();
    }

    /// If it has not opened, the next one need not be tried.
    pub(super) fn futile(&mut self, worker: WorkerId) {
        self.workers.get_mut(&worker).into_iter().for_each(|known| known.futile = true);
    }

    /// Counts a start that came to nothing, if it was one.
    pub(super) fn missed(&mut self, known: &Known) {
        if known.opened.is_none() {
            if known.retired.is_none() || known.violated {
                self.failures = if known.futile { 3.max(self.failures + 1) } else { self.failures + 1 };
            }
            self.despair();
        }
    }

    /// One start too many has failed: what waits has to be given up, unless somebody can still take it.
    pub(super) fn despair(&mut self) {
        if self.may_have_given_up() {
            self.probing = Some(self.now);
        }
        if self.failures < 3 {
            return;
        }
        if !self.workers.values().any(|known| known.opened.is_none()) {
            for task in self.alone() {
                self.demand(task, &[Some(ErrorKind::Launch)]);
            }
        }
        if !self.workers.values().any(|known| known.opened.is_none() || known.is_open()) {
            let waiting: Vec<_> = self.waiting.iter().map(|&(_, task)| task).collect();
            for task in waiting.into_iter().chain(self.line.clone()) {
                self.demand(task, &[Some(ErrorKind::Launch)]);
            }
        }
    }
}
