//! Filling seats: launching workers, following them until they are open, and deciding what a loss means, for their tasks
//! and for their seats. It does not decide who gets which task.
//!
//! ```text
//!  seat   vacant ── launch ──▶ Starting ── Ready ──▶ Ready ── Open ──▶ Open ──▶ …
//!          ▲ ▲                    └──────────────┴─ lost ─┐           lost
//!          │ │                                            ▼            ▼
//!          │ └──── back-off, then the bucket ───── start failure     crash
//!          │                                              │ third in a row, none opened in between, or a futile one
//!          └───────── probe, one at a time ◀────────── given up: the seats wait, the queue fails
//!
//!  A launch that was refused for want of something is no start failure until the want has lasted as long as a start may take.
//! ```

use std::time::Duration;

use crate::error::ErrorKind;
use crate::event::Leave;
use crate::id::WorkerId;
use crate::sched::clock::{Alarm, Time};
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::strength::Strength;
use crate::sched::worker::{Bucket, Cause, Phase, Worker, back_off};
use crate::sched::{Action, Notice, Outcome};

/// How many starts have to fail in a row before starting is given up for now. Fewer makes a pool fail on a hiccup; more
/// lets the user wait for what will not come.
const PATIENCE: u32 = 3;

/// The longest pause between two launches that are refused for want of something: trying costs little, and nothing tells when
/// it can be had again.
const SCARCE: Duration = Duration::from_secs(1);

/// What is known about starting workers, the pool as a whole.
#[derive(Debug)]
pub(super) struct Staff {
    /// The last worker's number.
    serial: u32,
    /// How many starts have failed since one succeeded.
    failures: u32,
    /// When the next probe is due, if starting has been given up.
    pub(super) probe: Option<Time>,
    /// The worker that failed last, if that left nobody open, nobody starting and no more patience.
    pub(super) gave_up: Option<WorkerId>,
    bucket: Bucket,
    /// Since when no worker has greeted and launches were refused for want of something.
    scarce: Option<Time>,
    /// What `Started` has told.
    told: Option<bool>,
    /// What has been told of the pool's strength, and whether it may be another by now.
    pub(super) strength: Strength,
    pub(super) changed: bool,
    pub(super) restarts: u64,
}

impl Staff {
    pub(super) fn new(workers: u32) -> Self {
        let bucket = Bucket::new(workers);
        Self {
            serial: 0,
            failures: 0,
            probe: None,
            gave_up: None,
            bucket,
            scarce: None,
            told: None,
            strength: Strength::Full,
            changed: false,
            restarts: 0,
        }
    }

    pub(super) fn resize(&mut self, workers: u32) {
        self.bucket.resize(workers);
    }

    /// Whether any worker has ever opened.
    pub(super) fn has_opened(&self) -> bool {
        self.told == Some(true)
    }

    /// Whether workers are only started one by one, to see whether one can be.
    pub(super) fn is_probing(&self) -> bool {
        self.failures >= PATIENCE
    }

    /// How long to wait for the next probe.
    fn pause(&self) -> Duration {
        let wait = back_off(u32::MAX, self.failures - PATIENCE + 2);
        if self.scarce.is_some() { wait.min(SCARCE) } else { wait }
    }
}

impl Scheduler {
    pub(super) fn start(&mut self) {
        // A pool below starts its workers when it knows that it may.
        self.share.eager = self.config.below;
        if self.mode <= Mode::Draining && !self.config.below {
            for seat in self.seats_where(|seat| seat.launches == 0 && !seat.closed) {
                self.launch(seat);
            }
        }
    }

    pub(super) fn greeted(&mut self, seat: u32) {
        let Some(worker) = self.worker_mut(seat) else { return };
        match worker.phase {
            Phase::Starting => {
                worker.phase = Phase::Ready;
                self.staff.scarce = None;
                self.limit_phase(seat, self.config.init_limit);
            }
            // A greeting may cross the end of the patience for it.
            Phase::Doomed(_) => {}
            _ => self.doom(seat, Cause::Violation),
        }
    }

    pub(super) fn opened(&mut self, seat: u32) {
        let now = self.clock.now();
        let Some(worker) = self.worker_mut(seat) else { return };
        match worker.phase {
            Phase::Ready => {
                worker.phase = Phase::Open;
                worker.opened = Some(now);
                let worker = worker.id;
                self.staff.changed = true;
                self.act(Action::Tell(Notice::Opened { worker }));
            }
            Phase::Doomed(_) => return,
            _ => return self.doom(seat, Cause::Violation),
        }
        let place = &mut self.seats[seat as usize];
        self.clock.disarm(Alarm::Seat(seat), &mut place.due);
        self.list(seat);
        if self.staff.told != Some(true) {
            self.staff.told = Some(true);
            self.act(Action::Started { ok: true });
        }
        let probing = self.staff.is_probing();
        self.staff.failures = 0;
        self.staff.gave_up = None;
        if probing {
            self.clock.disarm(Alarm::Probe, &mut self.staff.probe);
            self.call_back();
        }
        self.relieve();
        self.age();
    }

    /// The worker has gone. What it had not begun goes back to its place, the rest is resolved.
    pub(super) fn lost(&mut self, seat: u32, begun: u64) {
        let Some(mut worker) = self.vacate(seat) else { return };
        let mut back = Vec::new();
        while let Some(index) = worker.tasks.pop_front(&mut self.tasks) {
            self.forget_ladder(index);
            let rest = self.fall_apart(index, begun, &worker);
            if rest == Some(false) {
                self.resolve(index, Outcome::Answered);
                continue;
            }
            let rerun = planted!(self, RerunBegun);
            let Some(task) = self.tasks.at(index) else { continue };
            let came = task.came() && !planted!(self, RerunStream);
            let in_time = task.sent.as_ref().is_some_and(|sent| sent.sequence <= begun);
            let begun = (in_time || came) && rest.is_none() && !rerun;
            let Some((ran, stop)) = self.tasks.take(index, begun) else { continue };
            if begun && self.retry(index, stop, (&worker, worker.blame()), &mut back) {
                continue;
            }
            if begun {
                self.fail(index, stop.unwrap_or_else(|| worker.blame()), Some(worker.id), true);
            } else if let Some(kind) = stop {
                self.fail(index, kind, Some(worker.id), ran);
            } else if self.mode >= Mode::Closing {
                self.fail(index, ErrorKind::Closed, Some(worker.id), ran);
            } else if planted!(self, RequeueLast) {
                self.queue.push(&mut self.tasks, index);
            } else if !planted!(self, ForgetLost) {
                self.give_back(index, &mut back);
            }
        }
        let requeued = !back.is_empty();
        self.queue.put_back(&mut self.tasks, back);
        if !(requeued && planted!(self, HideLoss)) {
            self.act(Action::Tell(Notice::Gone { worker: worker.id, end: worker.end() }));
        }
        self.replace(seat, &worker, true);
        self.call_back_for_rest();
    }

    /// When draining, seats are filled only while something waits; now it may do so again.
    pub(super) fn call_back_for_rest(&mut self) {
        if self.mode == Mode::Draining && self.waits() {
            self.call_back();
        }
    }

    /// The worker could not be launched for want of something that may be there again in a moment.
    pub(super) fn refused(&mut self, seat: u32) {
        let now = self.clock.now();
        let lasted = now.saturating_sub(*self.staff.scarce.get_or_insert(now));
        let patient = lasted < self.config.start_limit && !self.staff.is_probing();
        let wanted = self.worker(seat).is_some_and(|worker| !worker.is_doomed() && !worker.was_sent_away());
        let wanted = wanted && !self.seats[seat as usize].closed;
        if !patient || !wanted || planted!(self, CountWant) {
            return self.lost(seat, 0);
        }
        let Some(worker) = self.vacate(seat) else { return };
        self.act(Action::Tell(Notice::Gone { worker: worker.id, end: worker.end() }));
        let wait = self.seats[seat as usize].back_off(seat, now, &worker);
        self.limit_phase(seat, wait.min(SCARCE));
    }

    /// To try again as it was tried is of no use.
    pub(super) fn discouraged(&mut self, seat: u32) {
        let planted = planted!(self, TryFutile);
        if let Some(worker) = self.worker_mut(seat) {
            worker.futile = !planted;
        }
    }

    /// Takes the worker out of its seat.
    pub(super) fn vacate(&mut self, seat: u32) -> Option<Worker> {
        let place = &mut self.seats[seat as usize];
        let worker = place.worker.take()?;
        self.clock.disarm(Alarm::Seat(seat), &mut place.due);
        self.clock.disarm(Alarm::Watch(seat), &mut place.watch);
        let killed = (worker.terminated || worker.is_doomed()) && !worker.is_starting();
        self.tally.killed += u64::from(killed && self.mode > Mode::Running && !planted!(self, HideKill));
        self.recount();
        self.list(seat);
        self.inherit(worker.id);
        Some(worker)
    }

    /// Sees to it that a seat is filled again. `gone`: the last one has gone, and was not merely given up.
    pub(super) fn replace(&mut self, seat: u32, last: &Worker, gone: bool) {
        let place = &mut self.seats[seat as usize];
        let (now, away) = (self.clock.now(), last.was_sent_away());
        place.free = gone && away;
        let wait =
            if away && (gone || last.is_starting()) { Time::ZERO } else { place.back_off(seat, now, last) };
        let wait = if self.staff.scarce.is_some() && last.is_starting() { wait.min(SCARCE) } else { wait };
        let closed = place.closed;
        if last.is_starting() && self.mode <= Mode::Draining {
            let least = if last.futile { PATIENCE } else { 0 };
            let failures = self.staff.failures.saturating_add(u32::from(!away));
            self.staff.failures = if away { failures } else { failures.max(least) };
            self.start_failed(last.id);
        }
        if !self.staff.is_probing() && !closed {
            let wait = if planted!(self, NoBackOff) { Time::ZERO } else { wait };
            self.limit_phase(seat, wait);
        }
        if self.mode == Mode::Running {
            self.see_to_probe();
        }
    }

    /// Has a place filled that was opened.
    pub(super) fn fill(&mut self, seat: u32) {
        if self.staff.is_probing() {
            return self.see_to_probe();
        }
        let wait = self.seats[seat as usize].wait(seat);
        if wait.is_zero() {
            self.recruit(seat);
        } else {
            self.limit_phase(seat, wait);
        }
    }

    /// While probing, sees to it that there is a next probe, if there is somewhere to try it.
    fn see_to_probe(&mut self) {
        let vacant = self.seats.iter().any(|seat| !seat.closed && seat.worker.is_none());
        let waits = self.staff.probe.is_some() || self.workers().any(Worker::is_starting);
        if self.staff.is_probing() && vacant && !waits {
            let wait = self.staff.pause();
            self.clock.arm(Alarm::Probe, &mut self.staff.probe, wait);
        }
    }

    /// A start has failed, or was not wanted any more. As long as another one is under way there is hope; the last one
    /// decides.
    fn start_failed(&mut self, worker: WorkerId) {
        if !self.staff.is_probing() || self.workers().any(Worker::is_starting) {
            return;
        }
        let wait = self.staff.pause();
        self.clock.arm(Alarm::Probe, &mut self.staff.probe, wait);
        // What waits for a fresh one would wait as long as this lasts, whoever else is open.
        self.fail_alone(ErrorKind::Launch, Some(worker));
        if self.workers().any(Worker::is_open) {
            return;
        }
        self.staff.gave_up = Some(worker);
        self.fail_queue(ErrorKind::Launch, Some(worker));
        if self.staff.told.is_none() {
            self.staff.told = Some(false);
            self.act(Action::Started { ok: false });
        }
    }

    /// Whether a vacant seat is to be filled at all.
    fn wants_workers(&self) -> bool {
        match self.mode {
            Mode::Running => true,
            Mode::Draining => self.waits(),
            Mode::Closing | Mode::Closed => false,
        }
    }

    /// Fills a vacant seat whose back-off is over, if one is wanted and the bucket has one. While probing, seats wait
    /// for the probe; when draining, for something to do: [`call_back`](Self::call_back) ends both.
    pub(super) fn recruit(&mut self, seat: u32) {
        if !self.wants_workers() || self.staff.is_probing() || self.config.below {
            return;
        }
        if self.is_superfluous() {
            self.close_place(seat, Leave::Idle);
        } else if self.pay(seat, Alarm::Seat(seat)) {
            self.launch(seat);
        }
    }

    /// Starts one worker to see whether starting works again. No other one is being started.
    pub(super) fn probe(&mut self) {
        let vacant = (0..).zip(&self.seats).find(|(_, seat)| seat.worker.is_none() && !seat.closed);
        let Some((seat, _)) = vacant else { return };
        if self.wants_workers() && !self.config.below && self.pay(seat, Alarm::Probe) {
            self.staff.gave_up = None;
            self.launch(seat);
        }
    }

    /// Pays for the next worker of a seat, or sets `alarm` for when that can be done.
    pub(super) fn pay(&mut self, seat: u32, alarm: Alarm) -> bool {
        let place = &mut self.seats[seat as usize];
        let free = place.free || place.launches == 0;
        let paid = if free { Ok(()) } else { self.staff.bucket.take(self.clock.now()) };
        let Err(wait) = paid else { return true };
        let due = if alarm == Alarm::Probe { &mut self.staff.probe } else { &mut place.due };
        self.clock.arm(alarm, due, wait);
        false
    }

    /// Sets those seats in motion again that wait for nothing but this.
    fn call_back(&mut self) {
        if self.staff.is_probing() {
            if self.staff.probe.is_none() && !self.workers().any(Worker::is_starting) {
                self.clock.arm(Alarm::Probe, &mut self.staff.probe, Time::ZERO);
            }
            return;
        }
        for seat in self.seats_where(|seat| seat.worker.is_none() && seat.due.is_none() && !seat.closed) {
            self.limit_phase(seat, Time::ZERO);
        }
    }

    pub(super) fn launch(&mut self, seat: u32) {
        self.staff.serial = self.staff.serial.wrapping_add(1);
        let worker = WorkerId::new(self.staff.serial, seat);
        self.share.eager = false;
        let place = &mut self.seats[seat as usize];
        place.worker = Some(Worker::new(worker, self.clock.now()));
        let again = place.launches > 0 && !place.fresh && !(self.config.below && place.free);
        self.staff.restarts += u64::from(again);
        place.restarts = place.restarts.saturating_add(u32::from(again));
        place.launches = place.launches.saturating_add(1);
        place.fresh = false;
        place.free = false;
        self.recount();
        self.limit_phase(seat, self.config.start_limit);
        self.act(Action::Launch { worker });
    }
}
