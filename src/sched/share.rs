//! The share of a pool in the budgets of its tree: places, for workers that have something to do, and processes. The root
//! lends what its own workers leave; a pool below grows and shrinks with what it is lent. The books are kept in `lease`.
//!
//! Nobody waits for a lease while it holds something that another one needs: the first worker of a pool below has a place
//! in any case, its parent's own, whose task waits for it; more workers are a gain and no need. A process that is refused
//! is an error at once, unless the pool has another. So there is no deadlock, however small the budgets are.
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
    /// When to look for what can be given back.
    pub(super) look: Option<Time>,
    pub(super) grief: Option<Time>,
}

impl Scheduler {
    /// The pool below a worker asks.
    pub(super) fn lease(&mut self, worker: WorkerId, kind: Kind, n: u32) {
        if self.config.below {
            self.share.leases.ask(kind, Asker::Worker(worker), n);
            return self.act(Action::Ask { kind, n });
        }
        let left = self.left(kind);
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
        for kind in KINDS {
            self.feed(kind);
        }
    }

    fn feed(&mut self, kind: Kind) {
        for worker in self.share.leases.feed(kind) {
            self.act(Action::Nudge { worker });
        }
    }

    /// A worker is gone: what its pool was lent comes back.
    pub(super) fn inherit(&mut self, worker: WorkerId) {
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
        if self.share.leases.is_hungry() {
            for kind in KINDS {
                if self.left(kind) > 0 {
                    self.feed(kind);
                }
            }
        }
    }

    /// How many workers would have something to do.
    fn demand(&self) -> u32 {
        if self.mode >= Mode::Closing {
            return 0;
        }
        let held: u32 = self.workers().map(|worker| worker.tasks.len()).sum();
        let least = u32::from(self.share.eager);
        (self.queue.len() + self.alone.len() + held).max(least).min(self.wanted())
    }

    fn placed(&self) -> u32 {
        self.workers().filter(|worker| worker.placed).count() as u32
    }

    /// How many workers may have a place.
    fn places(&self) -> u32 {
        let free = u32::from(!planted!(self, HoldAndWait));
        free + self.share.held[Kind::Place as usize]
    }

    /// Brings a pool below to the size that it needs and may have: gives places to workers, and workers to places.
    pub(super) fn grow(&mut self) {
        let demand = self.demand();
        let mut placed = self.placed();
        while placed < demand {
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
    fn has_process(&self) -> bool {
        self.share.held[Kind::Process as usize] > self.workers().count() as u32
    }

    /// Whether no process is there or may come.
    fn is_hopeless(&self) -> bool {
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

    /// Asks for one more. One question at a time: what there is goes round.
    fn want(&mut self, kind: Kind) {
        if !self.share.refused[kind as usize] && !self.share.leases.asks(kind) {
            self.share.leases.ask(kind, Asker::Own, 1);
            self.act(Action::Ask { kind, n: 1 });
        }
    }

    /// Without any process and any hope for one, what waits would wait for ever.
    fn despair(&mut self) {
        if self.is_hopeless() && self.workers().next().is_none() {
            // Whoever comes next asks again.
            self.share.refused[Kind::Process as usize] = false;
            if !planted!(self, HoldAndWait) {
                self.fail_queue(ErrorKind::LimitExceeded, None);
            }
        }
    }

    /// Gives back what is not needed: at once what stands for no worker, after a while what an idle one has.
    fn unburden(&mut self) {
        let (demand, placed) = (self.demand(), self.placed());
        // One that may be about to get a worker is kept, be it after a back-off.
        let coming = demand > placed && !self.is_hopeless();
        let places = if coming { demand } else { placed }.saturating_sub(1);
        let processes = self.workers().count() as u32 + u32::from(coming && placed < self.places());
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
        if !soon && self.idlers(demand).next().is_some() {
            self.clock.arm(Alarm::Look, &mut self.share.look, wait);
        }
    }

    /// The seats whose worker keeps a place or a process that is not needed.
    fn idlers(&self, demand: u32) -> impl Iterator<Item = u32> {
        let surplus = self.placed() > demand && self.queue.is_empty();
        let idle =
            move |worker: &Worker| worker.is_open() && worker.tasks.is_empty() && (!worker.placed || surplus);
        (0..)
            .zip(&self.seats)
            .filter(move |(_, seat)| seat.worker.as_ref().is_some_and(idle))
            .map(|(seat, _)| seat)
    }

    /// Looks for workers that have been idle for long: of a place first, later of the process.
    pub(super) fn look(&mut self) {
        let demand = self.demand();
        let mut surplus = self.placed().saturating_sub(demand);
        let now = self.clock.now();
        for seat in self.idlers(demand).collect::<Vec<_>>() {
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
