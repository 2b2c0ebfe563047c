//! Workers that go while the pool works on: those that are old, large or have done enough, once somebody else is there for
//! them. It does not decide how many workers there are.
//!
//! ```text
//!  Open ── spend ──▶ spent: its place is closed, another one is opened for its successor; it works on
//!    │                 │ relieve: the successor has opened
//!    └── retire ───────┴──▶ retired: it gets nothing more, finishes what it runs ── dismiss, when it holds nothing ──▶ Leaving
//! ```
//!
//! All of that is planned and costs no crash budget: a successor sits down for nothing where nobody has sat before, or where
//! the last one was sent away. Where one crashed the next is paid for; so workers that crash over the one task that they may
//! run are not replaced for ever.

use std::time::Duration;

use crate::event::Leave;
use crate::sched::clock::Due;
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::worker::{Phase, Worker};
use crate::sched::{Action, Notice};

/// One in so many workers at a time is replaced for its age or memory. More at a time starts many processes at once in a
/// pool whose workers are of one age; fewer lets them get older.
const SHARE: u32 = 8;

/// When to look again for those that are too old while others are being replaced.
const LOOK: Duration = Duration::from_secs(1);

impl Scheduler {
    /// Whether a worker was given as many tasks as it may.
    pub(super) fn is_exhausted(&self, worker: &Worker) -> bool {
        worker.given >= self.config.most_tasks && !planted!(self, OverGive)
    }

    /// A worker has had its time: another one is started for it, and meanwhile it works on. In a pool that may be smaller
    /// and has nothing to do nobody follows.
    pub(super) fn spend(&mut self, seat: u32, reason: Leave) {
        let needed = self.mode == Mode::Running || self.mode == Mode::Draining && self.waits();
        let superfluous = self.open() > self.size.least && self.is_superfluous();
        let place = &mut self.seats[seat as usize];
        let Some(worker) = place.worker.as_mut().filter(|it| it.is_open() && it.spent.is_none()) else {
            return;
        };
        if superfluous {
            self.close_place(seat, reason);
        } else if needed {
            (worker.spent, place.closed) = (Some(reason), true);
            self.recount();
            if !planted!(self, ForgetSuccessor) {
                self.open_place();
            }
        }
    }

    /// Sends those away whose successors have opened.
    pub(super) fn relieve(&mut self) {
        loop {
            if self.open() <= self.wanted() {
                return;
            }
            let spent = |worker: &Worker| worker.spent.filter(|_| worker.is_open());
            let spent = (0..).zip(&self.seats).filter_map(|(index, seat)| {
                let worker = seat.worker.as_ref()?;
                Some((worker.tasks.len(), index, spent(worker)?))
            });
            let Some((_, seat, reason)) = spent.min_by_key(|&(load, index, _)| (load, index)) else { return };
            self.retire(seat, reason);
        }
    }

    /// Has a worker go when it has finished what it runs. What it was sent ahead is asked back, unless it is the last that
    /// it may do.
    pub(super) fn retire(&mut self, seat: u32, reason: Leave) {
        let Some(worker) = self.worker_mut(seat).filter(|worker| worker.is_open()) else { return };
        worker.leave = Some(reason);
        let (idle, worker) = (worker.tasks.is_empty(), worker.id);
        self.staff.changed = true;
        self.act(Action::Tell(Notice::Leaving { worker, reason }));
        if idle {
            return self.dismiss(seat, reason);
        }
        self.list(seat);
        if reason != Leave::Tasks {
            self.recall(seat, 1);
        }
    }

    /// Whether another worker may be replaced for its age or memory.
    fn may_spend(&self) -> bool {
        let planned = |worker: &&Worker| matches!(worker.spent, Some(Leave::Age | Leave::Memory));
        let under_way = self.workers().filter(|worker| worker.is_open()).filter(planned).count();
        under_way < (self.wanted() / SHARE).max(1) as usize
    }

    /// A worker that has answered a task was found to be that large.
    pub(super) fn weighed(&mut self, seat: u32, bytes: u64) {
        let useful = self.worker(seat).is_some_and(|worker| worker.finished > 0);
        if useful && bytes > self.config.most_memory && self.may_spend() {
            self.spend(seat, Leave::Memory);
        }
    }

    /// Replaces those that are too old, and sees to it that the next one is found.
    pub(super) fn age(&mut self) {
        let Some(limit) = self.config.most_age.filter(|_| self.mode == Mode::Running) else { return };
        let now = self.clock.now();
        let age = |worker: &Worker| match (worker.opened, worker.spent) {
            (Some(opened), None) if worker.is_open() => Some(now.saturating_sub(opened)),
            _ => None,
        };
        let oldest = |this: &Self| {
            let ages =
                (0..).zip(&this.seats).filter_map(|(index, seat)| Some((age(seat.worker.as_ref()?)?, index)));
            // Of the same age, the first.
            ages.max_by_key(|&(age, index): &(Duration, u32)| (age, std::cmp::Reverse(index)))
        };
        while let Some((_, seat)) = oldest(self).filter(|&(age, _)| age >= limit && self.may_spend()) {
            self.spend(seat, Leave::Age);
        }
        if let Some(due) = self.aging.take() {
            self.clock.forget(due, Due::Age);
        }
        if let Some((age, _)) = oldest(self) {
            let left = limit.saturating_sub(age);
            let due = self.clock.wall().saturating_add(if left.is_zero() { LOOK } else { left });
            self.clock.expect(due, Due::Age);
            self.aging = Some(due);
        }
    }

    /// Tells a worker that holds nothing to go, if it has nothing to stay for.
    pub(super) fn release(&mut self, seat: u32) {
        let Some(worker) = self.worker(seat).filter(|it| it.phase == Phase::Open && it.tasks.is_empty())
        else {
            return;
        };
        if let Some(reason) = worker.leave {
            self.dismiss(seat, reason);
        } else if worker.terminated {
            self.dismiss(seat, Leave::Stopped);
        } else if self.is_exhausted(worker) {
            self.retire(seat, Leave::Tasks);
        }
    }
}
