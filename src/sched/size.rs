//! How many places the pool has: resizing, more when tasks wait, fewer when workers idle. How a place is filled is told in
//! `staff`, how a worker goes while others work on, in `recycle`.
//!
//! ```text
//!  place   open: filled, and filled again ── close_place ──▶ closed: whoever sits here goes, nobody follows
//!            ▲───────────────────────── open_place ◀──────────┘ once nobody sits here
//! ```

use std::time::Duration;

use crate::event::Leave;
use crate::sched::Action;
use crate::sched::Notice;
use crate::sched::clock::{Alarm, Due, Time};
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::worker::{Cause, Phase, Seat, Worker};

/// For how long tasks have to wait while nobody is idle until there are more workers. Shorter starts processes for bursts
/// that are over before the process is there; longer delays what has to wait for it anyway.
const PRESSED: Duration = Duration::from_millis(1);

/// When to look again after that. Shorter costs more looks while workers start; longer sees later that they do not suffice.
const AGAIN: Duration = Duration::from_millis(20);

/// How many places the pool has. Between the two, tasks decide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) least: u32,
    pub(super) most: u32,
    /// When to see whether tasks still wait.
    pub(super) pressed: Option<Time>,
    /// When to look for workers that have idled for long, on the wall's clock.
    pub(super) idling: Option<Time>,
}

impl Size {
    /// A pool has room for one at least.
    pub(super) fn new(least: u32, most: u32) -> Self {
        Self { least, most: most.max(least).max(1), pressed: None, idling: None }
    }

    /// How many places there are in the beginning: one worker shows that workers can be started.
    pub(super) fn first(&self) -> u32 {
        self.least.max(1)
    }

    pub(super) fn is_elastic(&self) -> bool {
        self.least < self.most
    }
}

impl Scheduler {
    /// How many places are open.
    pub(super) fn wanted(&self) -> u32 {
        self.seats.iter().filter(|seat| !seat.closed).count() as u32
    }

    pub(super) fn resize(&mut self, least: u32, most: u32) {
        if self.mode > Mode::Running {
            return;
        }
        let Size { pressed, idling, .. } = self.size;
        self.size = Size { pressed, idling, ..Size::new(least, most) };
        self.staff.resize(self.size.most);
        self.share.freed = true;
        for _ in self.wanted()..self.size.least {
            self.open_place();
        }
        for _ in self.size.most..self.wanted() {
            self.close_one(Leave::Surplus);
        }
        self.relieve();
    }

    /// Opens one more place and has it filled, as soon as that may be.
    pub(super) fn open_place(&mut self) {
        let vacant = |seat: &Seat| seat.closed && seat.worker.is_none();
        let cheap = |seat: &Seat| vacant(seat) && (seat.free || seat.launches == 0);
        let at = self.seats.iter().position(cheap).or_else(|| self.seats.iter().position(vacant));
        let at = at.unwrap_or_else(|| {
            self.seats.push(Seat::default());
            self.seats.len() - 1
        });
        let place = &mut self.seats[at];
        (place.closed, place.fresh, place.restarts) = (false, true, 0);
        self.recount();
        self.fill(at as u32);
    }

    /// Closes the place that will be missed least: one that is vacant anyway, then one that is about to be, one whose worker
    /// is not there yet, an idle one, one with little to do.
    fn close_one(&mut self, reason: Leave) {
        let rank = |seat: &Seat| match &seat.worker {
            None => (0, 0),
            Some(worker) if worker.is_open() => (3, worker.tasks.len()),
            Some(worker) if matches!(worker.phase, Phase::Starting | Phase::Ready) => (2, 0),
            Some(_) => (1, 0),
        };
        let open = (0..).zip(&self.seats).filter(|(_, seat)| !seat.closed);
        if let Some((seat, _)) = open.min_by_key(|(_, seat)| rank(seat)) {
            self.close_place(seat, reason);
        }
    }

    /// Closes a place. Its worker finishes what it runs; one that is not there yet is not needed any more.
    pub(super) fn close_place(&mut self, seat: u32, reason: Leave) {
        self.recount();
        let place = &mut self.seats[seat as usize];
        place.closed = true;
        let Some(worker) = &mut place.worker else {
            return self.clock.disarm(Alarm::Seat(seat), &mut place.due);
        };
        if worker.is_open() {
            let busy = reason == Leave::Surplus && !worker.tasks.is_empty();
            if !(busy && planted!(self, KeepBusy)) {
                self.retire(seat, reason);
            }
        } else if matches!(worker.phase, Phase::Starting | Phase::Ready) {
            worker.leave = Some(reason);
            let worker = worker.id;
            self.act(Action::Tell(Notice::Leaving { worker, reason }));
            self.doom(seat, Cause::Closing);
        }
    }

    /// Whether tasks wait, be it where they were sent ahead.
    pub(super) fn has_backlog(&self) -> bool {
        self.waits() || self.ready.highest() > Some(self.config.slots)
    }

    fn is_pressed(&self) -> bool {
        self.has_backlog() && self.ready.lowest().is_none_or(|level| level >= self.config.slots)
    }

    /// Whether a vacant place need not be filled: the pool may be smaller and nothing waits. Until the first worker has
    /// opened, somebody waits for that.
    pub(super) fn is_superfluous(&self) -> bool {
        let may = self.size.is_elastic() && self.mode == Mode::Running && self.staff.has_opened();
        may && !self.has_backlog() && self.wanted() > self.size.least
    }

    /// Ends a call for a pool whose size is not fixed: sees whether it should have another one, and when to look again.
    pub(super) fn fit(&mut self) {
        if !self.size.is_elastic() {
            return;
        }
        let nobody = self.seats.iter().all(|seat| seat.closed);
        if (nobody || self.size.pressed.is_none()) && self.is_pressed() && !planted!(self, NeverGrow) {
            if nobody {
                self.expand();
            }
            self.clock.arm(Alarm::Pressed, &mut self.size.pressed, PRESSED);
        }
        let Some(limit) = self.config.idle.filter(|_| self.size.idling.is_none()) else { return };
        if let Some(idle) = self.longest_idle().filter(|_| self.mode == Mode::Running) {
            let left = limit.saturating_sub(self.idle_time(idle));
            // It is not needed less than the minimum, and looked at again when it is.
            let left = if left.is_zero() { limit } else { left };
            let due = self.clock.wall().saturating_add(left);
            self.clock.expect(due, Due::Idle);
            self.size.idling = Some(due);
        }
    }

    /// Whether there may be another place.
    pub(super) fn may_grow(&self) -> bool {
        self.size.is_elastic() && self.mode < Mode::Closing && self.wanted() < self.size.most
    }

    /// Tasks have waited for a while.
    pub(super) fn pressed(&mut self) {
        if self.size.is_elastic() && self.is_pressed() {
            self.expand();
            self.clock.arm(Alarm::Pressed, &mut self.size.pressed, AGAIN);
        }
    }

    /// Opens places for what waits and does not go to workers that are on their way.
    fn expand(&mut self) {
        let coming = |seat: &&Seat| !seat.closed && seat.worker.as_ref().is_none_or(Worker::is_starting);
        // While probing, one place is enough, and without any there would be no probe.
        if self.mode >= Mode::Closing || self.staff.is_probing() && self.wanted() > 0 {
            return;
        }
        let room = if self.staff.is_probing() { 1 } else { self.size.most.saturating_sub(self.wanted()) };
        let slots = self.config.slots;
        let ahead: u32 = self.workers().map(|worker| worker.tasks.len().saturating_sub(slots)).sum();
        let coming = self.seats.iter().filter(coming).count() as u32;
        let needed = (self.queue.len() + self.alone.len() + ahead).div_ceil(slots).saturating_sub(coming);
        for _ in 0..needed.min(room) {
            self.open_place();
        }
    }

    /// The worker that has been idle for longest: of idle ones the one that was used last is used first.
    fn longest_idle(&self) -> Option<u32> {
        self.ready.list(0).last()
    }

    fn idle_time(&self, seat: u32) -> Duration {
        self.worker(seat).map_or(Duration::ZERO, |worker| self.clock.now().saturating_sub(worker.heard))
    }

    /// Closes the places of workers that have idled for long. While no others can be started nobody is sent away.
    pub(super) fn thin_out(&mut self) {
        self.size.idling = None;
        let Some(limit) = self.config.idle.filter(|_| self.mode == Mode::Running) else { return };
        let least = if planted!(self, IdleToNone) { 0 } else { self.size.least };
        while self.wanted().min(self.open()) > least
            && !self.staff.is_probing()
            && let Some(seat) = self.longest_idle().filter(|&seat| self.idle_time(seat) >= limit)
        {
            self.close_place(seat, Leave::Idle);
        }
    }
}
