//! What becomes of a task whose worker died while it may have been running: whether it is tried again, and where. How
//! often its caller allows that is told with the task.
//!
//! Whoever has died with its worker is suspected of having killed it. It is tried again on a worker that nobody has used,
//! and shares that with nobody, so that the next death has one cause and one victim. A worker which we ended for the sake
//! of another task makes nobody a suspect.

use crate::error::ErrorKind;
use crate::event::Leave;
use crate::id::WorkerId;
use crate::sched::Action;
use crate::sched::queue::Stand;
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::worker::{Seat, Worker};

impl Scheduler {
    /// Has a task tried again that may have begun and is in no list, if that is wanted: alone, or with those that go `back`
    /// to the queue. `kind`: what it would be resolved to.
    pub(super) fn retry(
        &mut self,
        index: u32,
        stop: Option<ErrorKind>,
        (worker, kind): (&Worker, ErrorKind),
        back: &mut Vec<u32>,
    ) -> bool {
        let stopped = stop.is_some() && !planted!(self, RetryStopped);
        let endless = planted!(self, RetryForever);
        let shares = worker.blame() == ErrorKind::Collateral || planted!(self, TrustSuspect);
        let lax = planted!(self, RetryStream);
        // Of a stream of which items came the caller would get these twice.
        let Some(task) = self.tasks.at_mut(index).filter(|task| !task.came() || lax) else { return false };
        let left = task.extras.as_mut().map(|extras| &mut extras.retries).filter(|left| **left > 0);
        let Some(left) = left.filter(|_| !stopped && self.mode < Mode::Closing) else { return false };
        *left -= u32::from(!endless);
        if !shares {
            task.stand = Stand::Alone;
        }
        let (task, attempts) = (task.id, task.attempts);
        self.act(Action::Retry { task, worker: worker.id, kind, attempts });
        self.give_back(index, back);
        true
    }

    /// Puts a task that was sent among those that wait to run alone, or among those that go `back` to the queue.
    pub(super) fn give_back(&mut self, index: u32, back: &mut Vec<u32>) {
        match self.tasks.at(index).map(|task| task.stand) {
            Some(Stand::Alone) => self.alone.push_back(&mut self.tasks, index),
            _ => back.push(index),
        }
    }

    /// Sends what is to run alone to workers that nobody has used, and sees to it that there will be more of these.
    pub(super) fn isolate(&mut self) {
        while let Some(index) = self.alone.first() {
            let fresh = |worker: &Worker| {
                worker.is_open() && worker.placed && (worker.sent == 0 || planted!(self, ReuseWorker))
            };
            let Some(seat) = self.seat_where(fresh) else { break };
            self.alone.unlink(&mut self.tasks, index);
            self.send(index, seat);
        }
        // The others shall not suffer: no more than half of the places are kept for this.
        let wanted = self.alone.len().min((self.wanted() / 2).max(1)) as usize;
        let used = |seat: &Seat| seat.worker.as_ref().is_some_and(|worker| worker.is_open() && !worker.alone);
        // A pool below fills its seats only when it may.
        let coming =
            |seat: &&Seat| !(seat.closed || used(seat) || self.config.below && seat.worker.is_none());
        let coming = self.seats.iter().filter(coming).count();
        for _ in coming..wanted {
            if planted!(self, ForgetAlone) {
                return;
            }
            if self.may_grow() {
                self.open_place();
                continue;
            }
            let open = (0..).zip(&self.seats).filter(|(_, seat)| !seat.closed && used(seat));
            // One that was never sent anything is what is waited for: it only lacks a place.
            let loads = open.filter_map(|(index, seat)| {
                let worker = seat.worker.as_ref().filter(|worker| worker.sent > 0)?;
                Some((worker.tasks.len(), index))
            });
            let Some((_, seat)) = loads.min() else { return };
            self.retire(seat, Leave::Replaced);
        }
    }

    fn seat_where(&self, is: impl Fn(&Worker) -> bool) -> Option<u32> {
        (0..).zip(&self.seats).find(|(_, seat)| seat.worker.as_ref().is_some_and(&is)).map(|(seat, _)| seat)
    }

    /// Fails what waits to run alone.
    pub(super) fn fail_alone(&mut self, kind: ErrorKind, worker: Option<WorkerId>) {
        while let Some(index) = self.alone.pop_front(&mut self.tasks) {
            self.fail(index, kind, worker, true);
        }
    }
}
