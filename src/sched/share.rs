//! The share of a pool in the budgets of its tree: places, for workers that have something to do, and processes. The root
//! lends what its own workers leave; a pool below grows and shrinks with what it is lent. The books are kept in `lease`.
//!
//! Nobody waits for a lease while it holds something that another one needs: the first worker of a pool below has a place
//! in any case, its parent's own, whose task waits for it; more workers are a gain and no need. A process that is refused
//! is an error at once, unless the pool has another. So there is no deadlock, however small the budgets are. A place that
//! comes back is offered to as many as there are places, to those first who have fewest, and kept for them for a moment: or
//! whoever has the shortest way to the root would have them all.
//!
//! ```text
//!  a seat below    vacant ── a process ──▶ Starting ──▶ Open with a place ◀── a place ── Open without
//!                     ▲                                  │  └─ idle for a moment ──▶ (the place goes back) ─┘ │
//!                     └─────────── (the process goes back) ◀── idle for long ─────────────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::event::{Budget, Leave};
use crate::id::WorkerId;
use crate::sched::Action;
use crate::sched::clock::{Alarm, Time};
use crate::sched::lease::{Asker, KINDS, Leases};
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::worker::{Cause, Worker};
use crate::wire::frame::LeaseKind as Kind;

/// How long a worker may be idle until the pool gives a place back. Shorter asks again between the bursts of one job; longer
/// keeps others from working.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a worker without a place is kept for the next burst. Shorter starts more processes; longer keeps memory, and
/// processes that others may need.
const WARM: Duration = Duration::from_secs(1);

/// How long the processes below a dead worker are still counted: they see its death by themselves, and die of that.
const GRIEF: Duration = Duration::from_secs(1);

/// What a pool has and lends.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) leases: Leases,
    /// What a pool below was lent for its own workers, by kind.
    held: [u32; 2],
    /// Whether what was asked for was refused, by kind. Until something comes free it is not asked for again.
    refused: [bool; 2],
    /// Whether a worker is started although there is no task: one will come.
    pub(super) eager: bool,
    /// Processes of pools whose worker has died, and until when they count.
    mourned: VecDeque<(Time, u32)>,
    /// When to look for what can be given back; at the root, for what is still kept for somebody who does not ask for it.
    pub(super) look: Option<Time>,
    pub(super) grief: Option<Time>,
    /// What was counted, as long as it is so: a pool that has many workers is not to look at each of them in every call.
    pub(super) counts: Option<Counts>,
    /// Whether the root may have come to have something to lend, and whose worker may have come to have nothing to do.
    pub(super) freed: bool,
    pub(super) rested: Option<u32>,
}

/// How many workers are wanted, how many there are, and how many of them have a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    wanted: u32,
    workers: u32,
    placed: u32,
}

impl Scheduler {
    /// The pool below a worker asks.
    pub(super) fn lease(&mut self, worker: WorkerId, kind: Kind, n: u32) {
        if self.config.below {
            self.share.leases.ask(kind, Asker::Worker(worker), n);
            return self.act(Action::Ask { kind, n });
        }
        let kept = self.share.leases.kept(kind, Some(worker));
        let left = self.left(kind).saturating_sub(kept);
        let n = self.share.leases.lend(kind, worker, n, left);
        self.act(Action::Lend { worker, kind, n });
    }

    /// The pool below a worker gives something back.
    pub(super) fn given_back(&mut self, seat: u32, worker: WorkerId, kind: Kind, n: u32) {
        if !self.share.leases.returned(kind, worker, n) {
            return self.doom(seat, Cause::Violation);
        }
        self.give_up_lease(kind, n);
    }

    /// Hands back what nobody below needs any more.
    fn give_up_lease(&mut self, kind: Kind, n: u32) {
        if self.config.below && n > 0 {
            self.act(Action::Return { kind, n });
        }
        self.share.freed = true;
    }

    /// The answer from above to the oldest question.
    pub(super) fn granted(&mut self, kind: Kind, n: u32) {
        match self.share.leases.granted(kind, n) {
            Some(Asker::Own) => {
                self.share.held[kind as usize] += n;
                self.share.refused[kind as usize] = n == 0;
                self.share.eager &= n > 0;
            }
            Some(Asker::Worker(worker)) => self.act(Action::Lend { worker, kind, n }),
            Some(Asker::Nobody) | None => self.give_up_lease(kind, n),
        }
    }

    /// What was refused may be there now.
    pub(super) fn nudged(&mut self) {
        self.share.refused = [false; 2];
        // How much is there only the root knows.
        for kind in KINDS {
            self.feed(kind, usize::MAX);
        }
    }

    /// Tells so many of those who were refused that there is some now.
    fn feed(&mut self, kind: Kind, n: usize) {
        for worker in self.share.leases.feed(kind, n, planted!(self, StarveAsker)) {
            if !self.config.below && kind == Kind::Place {
                self.share.leases.call(kind, worker);
            }
            self.act(Action::Nudge { worker });
        }
    }

    /// A worker is gone: what its pool was lent comes back.
    pub(super) fn inherit(&mut self, worker: WorkerId) {
        self.share.freed = true;
        let places = self.share.leases.lost(Kind::Place, worker);
        let processes = self.share.leases.lost(Kind::Process, worker);
        if planted!(self, LeakOnDeath) {
            return;
        }
        self.give_up_lease(Kind::Place, places);
        if processes > 0 {
            self.share.mourned.push_back((self.clock.now() + GRIEF, processes));
            if self.share.grief.is_none() {
                self.clock.arm(Alarm::Grief, &mut self.share.grief, GRIEF);
            }
        }
    }

    /// The processes below a worker that died have had their time to die.
    pub(super) fn grieved(&mut self) {
        while let Some(&(until, n)) = self.share.mourned.front() {
            let wait = until.saturating_sub(self.clock.now());
            if !wait.is_zero() {
                return self.clock.arm(Alarm::Grief, &mut self.share.grief, wait);
            }
            self.share.mourned.pop_front();
            self.give_up_lease(Kind::Process, n);
        }
    }

    /// How much the root can lend. What its own workers need is theirs: they wait for nobody, and the budget may be
    /// overdrawn until enough has come back.
    fn left(&self, kind: Kind) -> u32 {
        let (total, own) = match kind {
            Kind::Place => (self.config.places, self.busy()),
            Kind::Process => (self.config.processes, self.own() + self.mourned()),
        };
        let lent = if planted!(self, LendTwice) { 0 } else { self.share.leases.lent(kind) };
        total.saturating_sub(own).saturating_sub(lent)
    }

    /// How many processes the root keeps for its own workers, those included that go while others follow them.
    fn own(&self) -> u32 {
        self.size.most.max(self.workers().count() as u32)
    }

    /// How many of its own workers have something to do.
    fn busy(&self) -> u32 {
        self.workers().filter(|worker| !worker.tasks.is_empty()).count() as u32
    }

    fn mourned(&self) -> u32 {
        self.share.mourned.iter().map(|(_, n)| n).sum()
    }

    /// The budgets as they are: of the tree at its root, of what it has itself in a pool below.
    pub(super) fn budgets(&self) -> [Budget; 2] {
        let lent = |kind| self.share.leases.lent(kind) as usize;
        let own = self.workers().count();
        if self.config.below {
            let placed = self.workers().filter(|worker| worker.placed && !worker.tasks.is_empty()).count();
            let held = |kind: Kind| self.share.held[kind as usize] as usize + lent(kind);
            return [
                Budget { limit: held(Kind::Place) + 1, used: placed + lent(Kind::Place) },
                Budget { limit: held(Kind::Process), used: own + lent(Kind::Process) },
            ];
        }
        let processes = own + lent(Kind::Process) + self.mourned() as usize;
        [
            Budget { limit: self.config.places as usize, used: self.busy() as usize + lent(Kind::Place) },
            Budget { limit: self.config.processes as usize, used: processes },
        ]
    }

    /// Whether a question is under way above: until it is answered, something may come that has to be given back.
    pub(crate) fn asks(&self) -> bool {
        KINDS.iter().any(|kind| self.share.leases.is_asking(*kind))
    }

    /// Ends a call: lends what has come free, gives back what a pool below does not need.
    pub(super) fn share(&mut self) {
        if self.config.below {
            return self.unburden();
        }
        if !self.share.leases.is_hungry() {
            return;
        }
        let rested = self.share.rested.take();
        let idle = rested.is_some_and(|seat| self.worker(seat).is_none_or(|it| it.tasks.is_empty()));
        if !(std::mem::take(&mut self.share.freed) || idle) {
            return;
        }
        let places = self.left(Kind::Place).saturating_sub(self.share.leases.kept(Kind::Place, None));
        self.feed(Kind::Place, places as usize);
        if self.left(Kind::Process) > 0 {
            self.feed(Kind::Process, usize::MAX);
        }
        // Whoever does not ask for a place that is kept for him leaves it to the next.
        if self.share.leases.kept(Kind::Place, None) > 0 && self.share.look.is_none() {
            self.clock.arm(Alarm::Look, &mut self.share.look, PAUSE);
        }
    }

    /// How many workers would have something to do.
    fn demand(&mut self) -> u32 {
        if self.mode >= Mode::Closing {
            return 0;
        }
        // All that have come into the queue, wherever they are now.
        let outside = self.places.line.len() + self.places.reserved.len();
        let inside = self.tasks.len().saturating_sub(outside);
        inside.max(u32::from(self.share.eager)).min(self.counts().wanted)
    }

    fn count(&self) -> Counts {
        let placed = self.workers().filter(|worker| worker.placed).count() as u32;
        Counts { wanted: self.wanted(), workers: self.workers().count() as u32, placed }
    }

    fn counts(&mut self) -> Counts {
        let counts = self.share.counts.unwrap_or_else(|| self.count());
        *self.share.counts.insert(counts)
    }

    /// Whether what was counted is still so, and nobody is refused what there is.
    #[cfg(test)]
    pub(super) fn is_shared(&self) -> bool {
        let kept = self.share.leases.kept(Kind::Place, None) > 0;
        let left = KINDS.iter().any(|kind| self.left(*kind) > 0 && self.share.leases.is_hungry_for(*kind));
        self.share.counts.is_none_or(|counts| counts == self.count()) && (self.config.below || kept || !left)
    }

    /// How many workers may have a place.
    fn places(&self) -> u32 {
        let free = u32::from(!planted!(self, HoldAndWait));
        free + self.share.held[Kind::Place as usize]
    }

    /// Brings a pool below to the size that it needs and may have: gives places to workers, and workers to places.
    pub(super) fn grow(&mut self) {
        let demand = self.demand();
        let mut placed = self.counts().placed;
        while placed < demand {
            // While there is nothing to be had and nothing to ask for nobody need be looked for.
            if placed >= self.places() && !self.may_ask(Kind::Place) {
                break;
            }
            let idle = |worker: &Worker| worker.is_open() && !worker.placed;
            let idle = self.seats_where(|seat| seat.worker.as_ref().is_some_and(idle)).pop();
            // A place is of no use to a worker that there cannot be.
            if idle.is_none() && self.is_hopeless() {
                break;
            }
            if placed >= self.places() {
                self.want(Kind::Place);
                break;
            }
            match idle {
                Some(seat) => self.seat_down(seat, true),
                None if !self.hire() => break,
                None => {}
            }
            placed += 1;
        }
        self.despair();
    }

    /// Whether it was lent a process that is not there yet.
    fn has_process(&mut self) -> bool {
        self.share.held[Kind::Process as usize] > self.counts().workers
    }

    /// Whether no process is there or may come.
    fn is_hopeless(&mut self) -> bool {
        self.share.refused[Kind::Process as usize] && !self.has_process()
    }

    /// Starts one more worker, if there may be one now.
    fn hire(&mut self) -> bool {
        let probing = self.staff.is_probing();
        if probing && (self.staff.probe.is_some() || self.workers().any(Worker::is_starting)) {
            return false;
        }
        let vacant = |seat: &u32| {
            let seat = &self.seats[*seat as usize];
            seat.worker.is_none() && !seat.closed && (seat.due.is_none() || probing)
        };
        let Some(seat) = (0..self.seats.len() as u32).find(vacant) else { return false };
        if !self.has_process() {
            self.want(Kind::Process);
            return false;
        }
        let alarm = if probing { Alarm::Probe } else { Alarm::Seat(seat) };
        if !self.pay(seat, alarm) {
            return false;
        }
        self.staff.gave_up = None;
        self.launch(seat);
        true
    }

    fn may_ask(&self, kind: Kind) -> bool {
        !self.share.refused[kind as usize] && !self.share.leases.asks(kind)
    }

    /// Asks for one more. One question at a time: what there is goes round.
    fn want(&mut self, kind: Kind) {
        if self.may_ask(kind) {
            self.share.leases.ask(kind, Asker::Own, 1);
            self.act(Action::Ask { kind, n: 1 });
        }
    }

    /// Without any process and any hope for one, what waits would wait for ever.
    fn despair(&mut self) {
        if self.is_hopeless() && self.counts().workers == 0 {
            // Whoever comes next asks again.
            self.share.refused[Kind::Process as usize] = false;
            if !planted!(self, HoldAndWait) {
                self.fail_queue(ErrorKind::LimitExceeded, None);
            }
        }
    }

    /// Gives back what is not needed: at once what stands for no worker, after a while what an idle one has.
    fn unburden(&mut self) {
        let demand = self.demand();
        let Counts { workers, placed, .. } = self.counts();
        // One that may be about to get a worker is kept, be it after a back-off.
        let coming = demand > placed && !self.is_hopeless();
        let places = if coming { demand } else { placed }.saturating_sub(1);
        let processes = workers + u32::from(coming && placed < self.places());
        for (kind, needed) in [(Kind::Place, places), (Kind::Process, processes)] {
            let held = &mut self.share.held[kind as usize];
            let spare = held.saturating_sub(needed);
            *held -= spare;
            self.give_up_lease(kind, spare);
        }
        if self.mode == Mode::Closed {
            let mourned = self.share.mourned.drain(..).map(|(_, n)| n).sum();
            return self.give_up_lease(Kind::Process, mourned);
        }
        let wait = if placed > demand { PAUSE } else { WARM / 4 };
        let soon = self.share.look.is_some_and(|at| at <= self.clock.now() + wait);
        let surplus = placed > demand && self.queue.is_empty();
        if !soon && (workers > placed || surplus) && self.idlers(surplus).next().is_some() {
            self.clock.arm(Alarm::Look, &mut self.share.look, wait);
        }
    }

    /// The seats whose worker keeps a place or a process that is not needed; `surplus`: whether there are places too many.
    fn idlers(&self, surplus: bool) -> impl Iterator<Item = u32> {
        let idle =
            move |worker: &Worker| worker.is_open() && worker.tasks.is_empty() && (!worker.placed || surplus);
        (0..)
            .zip(&self.seats)
            .filter(move |(_, seat)| seat.worker.as_ref().is_some_and(idle))
            .map(|(seat, _)| seat)
    }

    /// Looks for workers that have been idle for long: of a place first, later of the process. The root keeps nothing any
    /// more for those who have not asked.
    pub(super) fn look(&mut self) {
        if !self.config.below {
            self.share.freed = true;
            return self.share.leases.forget_called();
        }
        let demand = self.demand();
        let mut surplus = self.counts().placed.saturating_sub(demand);
        let now = self.clock.now();
        let idlers = self.idlers(surplus > 0 && self.queue.is_empty());
        for seat in idlers.collect::<Vec<_>>() {
            let Some(worker) = self.worker(seat) else { continue };
            match worker.placed {
                true if surplus > 0 => {
                    surplus -= 1;
                    self.seat_down(seat, false);
                }
                true => {}
                false if now.saturating_sub(worker.idle) >= WARM => self.dismiss(seat, Leave::Idle),
                false => {}
            }
        }
    }

    /// Gives a worker a place, or takes it from an idle one.
    fn seat_down(&mut self, seat: u32, placed: bool) {
        let now = self.clock.now();
        let Some(worker) = self.worker_mut(seat) else { return };
        (worker.placed, worker.idle) = (placed, now);
        self.share.counts = None;
        self.list(seat);
    }

    /// The workers of a pool below that have no place are nobody's idle workers: they are told to go by this.
    pub(super) fn dismiss_unplaced(&mut self) {
        let idle = |worker: &Worker| worker.is_open() && !worker.placed && worker.tasks.is_empty();
        for seat in self.seats_where(|seat| seat.worker.as_ref().is_some_and(idle)) {
            self.dismiss(seat, Leave::Closing);
        }
    }
}
