//! Everything around the scheduler: a clock that jumps from event to event, users, a driver that does as it is told, and
//! workers that do as they please.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::model::Model;
use super::plan::{Fault, Plan, close};
use super::rng::Rng;
use super::{Bug, Checked, ensure};
use crate::id::{TaskId, WorkerId};
use crate::sched::{Action, Answer, Input, Scheduler};

const MOMENT: Duration = Duration::from_micros(1);

pub(super) struct World {
    rng: Rng,
    plan: Plan,
    scheduler: Scheduler,
    model: Model,
    base: Instant,
    /// What will happen, by time and then by number.
    events: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    /// Until when the parent stands still: what happens meanwhile is seen then.
    frozen: Duration,
    fakes: BTreeMap<WorkerId, Fake>,
    /// Free places in the driver's table, and how many tasks it has seen.
    places: Vec<u32>,
    serial: u32,
    calm: bool,
    /// Whether tables are checked too, not only what can be seen from outside.
    tables: bool,
    trace: bool,
    hash: DefaultHasher,
    pub(super) steps: u64,
}

enum Event {
    Input(Input),
    Submit,
    Stall(Duration),
    Worker(WorkerId, Deed),
}

/// What a worker does.
#[derive(Clone, Copy)]
enum Deed {
    Say(Say),
    Begin(u64),
    Answer(u64, Answer),
    Fail(u64, Fault),
    Die,
}

#[derive(Clone, Copy)]
enum Say {
    Ready,
    Open,
    Pong,
    Bye,
}

/// A worker.
#[derive(Default)]
struct Fake {
    /// The tasks that it has not answered: sequence, id, attempt.
    held: Vec<(u64, TaskId, u32)>,
    sent: u64,
    begun: u64,
    silent: bool,
    ignores_cancel: bool,
    ignores_term: bool,
    ignores_drain: bool,
    immortal: bool,
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng);
        let mut scheduler = Scheduler::new(plan.config.clone());
        scheduler.bug = bug;
        Self {
            model: Model::new(plan.config.clone()),
            rng,
            plan,
            scheduler,
            base: Instant::now(),
            events: BTreeMap::new(),
            scheduled: 0,
            frozen: Duration::ZERO,
            fakes: BTreeMap::new(),
            places: Vec::new(),
            serial: 0,
            calm: false,
            tables: bug.is_none(),
            trace,
            hash: DefaultHasher::new(),
            steps: 0,
        }
    }

    /// Lives through the whole plan and says what the trace hashes to.
    pub(super) fn run(mut self) -> Result<(u64, u64), String> {
        self.feed(Input::Start)?;
        for _ in 0..self.plan.tasks {
            let at = self.rng.millis(0..self.plan.chaos.as_millis() as u64 + 500);
            // Some come in a bunch.
            let at = if self.rng.percent(30) { at / 1_000_000_000 * 1_000_000_000 } else { at };
            self.at(at, Event::Submit);
        }
        for (at, length) in self.plan.stalls.clone() {
            self.at(at, Event::Stall(length));
        }
        for (at, input) in self.plan.closes.clone() {
            self.at(at, Event::Input(input));
        }
        let chaos = self.plan.chaos + Duration::from_millis(500);
        self.until(chaos, |_| false)?;
        self.settle_down();
        self.until(self.model.now + Duration::from_secs(120), |world| world.model.unresolved() == 0)?;
        ensure!(self.model.unresolved() == 0, "{:?} never resolved", self.model.live());
        if !self.model.is_closing() {
            let input = close(&mut self.rng);
            self.model.now = self.model.now.max(self.frozen);
            self.feed(input)?;
        }
        self.until(self.model.now + Duration::from_secs(30), |world| world.model.closed)?;
        ensure!(self.model.closed, "it never closed");
        self.submit()?;
        ensure!(self.model.unresolved() == 0, "a late task is not refused");
        Ok((self.hash.finish(), self.steps))
    }

    fn until(&mut self, end: Duration, done: impl Fn(&Self) -> bool) -> Checked {
        while !done(self) {
            let next = self.events.first_key_value().map(|(&(at, _), _)| at);
            let timeout = self.scheduler.poll_timeout().map(|at| at - self.base);
            let late = match self.rng.within(0..50) {
                0 => self.rng.millis(0..900),
                1..10 => self.rng.millis(0..5),
                _ => Duration::ZERO,
            };
            // After a stall the timer and the links race.
            let first = self.rng.percent(50) || next.is_none_or(|next| next > self.frozen);
            let tick = timeout
                .map(|at| at + late)
                .filter(|&at| first && next.is_none_or(|next| at.max(self.frozen) <= next.max(self.frozen)));
            let Some(at) = tick.or(next) else { break };
            if at > end {
                self.model.now = end.max(self.model.now);
                break;
            }
            self.model.now = at.max(self.frozen).max(self.model.now);
            match (tick, self.events.first_entry()) {
                (None, Some(entry)) => {
                    let event = entry.remove();
                    self.happen(event)?;
                }
                _ => self.feed(Input::Tick)?,
            }
        }
        Ok(())
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((at, self.scheduled), event);
    }

    fn after(&mut self, delay: Duration, worker: WorkerId, deed: Deed) {
        self.at(self.model.now + delay, Event::Worker(worker, deed));
    }

    fn soon(&mut self, most: u64, worker: WorkerId, deed: Deed) {
        let delay = self.rng.millis(0..most) + MOMENT;
        self.after(delay, worker, deed);
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Input(input) => self.feed(input),
            Event::Submit => self.submit(),
            Event::Stall(length) => {
                if self.trace {
                    eprintln!("{:>12?}  the parent stands still for {length:?}", self.model.now);
                }
                self.frozen = self.model.now + length;
                // Up to a beat before it does not count either.
                self.model.stalled += length + Duration::from_secs(1);
                Ok(())
            }
            Event::Worker(worker, deed) if self.fakes.contains_key(&worker) => self.perform(worker, deed),
            Event::Worker(..) => Ok(()),
        }
    }

    fn submit(&mut self) -> Checked {
        let place = self
            .places
            .pop()
            .unwrap_or_else(|| self.model.live().iter().map(|id| id.index + 1).max().unwrap_or(0));
        self.serial += 1;
        let task = TaskId::new(self.serial, place);
        if self.rng.percent(self.plan.cancels) {
            let at = self.model.now + self.rng.millis(0..1000);
            self.at(at, Event::Input(Input::Cancel { task }));
        }
        self.feed(Input::Submit { task })
    }

    /// One call of the scheduler, and everything that comes of it.
    fn feed(&mut self, input: Input) -> Checked {
        self.steps += 1;
        let now = self.base + self.model.now;
        (self.model.now, &input).hash(&mut self.hash);
        if self.trace {
            eprintln!("{:>12?}  {input:?}", self.model.now);
        }
        self.model.input(&input);
        self.scheduler.handle(now, input);
        while let Some(action) = self.scheduler.poll_action() {
            action.hash(&mut self.hash);
            if self.trace {
                eprintln!("              -> {action:?}");
            }
            self.model.action(&action)?;
            self.obey(&action);
        }
        self.model.after()?;
        ensure!(self.scheduler.poll_timeout().is_none_or(|at| at > now), "it spins");
        if self.tables {
            self.scheduler.check()?;
            self.compare()?;
        }
        Ok(())
    }

    /// The statistics must be what can be seen.
    fn compare(&self) -> Checked {
        let stats = self.scheduler.stats(self.base + self.model.now);
        ensure!(stats.workers.len() == self.model.workers.len(), "{stats:?}");
        ensure!(stats.queued + stats.in_flight == self.model.unresolved(), "{stats:?}");
        Ok(())
    }

    /// The driver's part, and how the workers take it.
    fn obey(&mut self, action: &Action) {
        match *action {
            Action::Launch { worker } => self.launch(worker),
            Action::Run { worker, task, attempt } => self.take(worker, task, attempt),
            Action::Resolve { task, .. } => self.places.push(task.index),
            Action::Cancel { worker, task, .. } => {
                let Some(fake) = self.fakes.get(&worker) else { return };
                let held = fake.held.iter().find(|held| held.1 == task);
                if let Some(&(sequence, ..)) = held.filter(|_| !fake.silent && !fake.ignores_cancel) {
                    let answer = match self.rng.within(0..5) {
                        0 => Answer::Finished,
                        _ => Answer::Cancelled { began: true },
                    };
                    self.soon(500, worker, Deed::Answer(sequence, answer));
                }
            }
            Action::Ping { worker } if self.fakes.get(&worker).is_some_and(|fake| !fake.silent) => {
                self.soon(30, worker, Deed::Say(Say::Pong));
            }
            Action::Terminate { worker } => {
                let Some(fake) = self.fakes.get(&worker) else { return };
                if !fake.ignores_term && self.rng.percent(60) {
                    self.soon(300, worker, Deed::Die);
                } else if let Some(&(sequence, ..)) =
                    self.fakes[&worker].held.first().filter(|_| self.rng.percent(70))
                {
                    self.soon(80, worker, Deed::Answer(sequence, Answer::Cancelled { began: true }));
                }
            }
            Action::Kill { worker } => {
                let Some(fake) = self.fakes.get(&worker) else { return };
                match (fake.immortal, self.rng.percent(50)) {
                    (false, _) => self.soon(20, worker, Deed::Die),
                    (true, true) => self.soon(4000, worker, Deed::Die),
                    (true, false) => {}
                }
            }
            Action::Drain { worker } => self.leave(worker),
            _ => {}
        }
    }

    fn launch(&mut self, worker: WorkerId) {
        let bad = |rng: &mut Rng, percent| !self.calm && rng.percent(percent);
        let stubborn = self.plan.stubborn;
        let fake = Fake {
            ignores_cancel: bad(&mut self.rng, stubborn),
            ignores_term: bad(&mut self.rng, stubborn),
            ignores_drain: bad(&mut self.rng, stubborn),
            immortal: bad(&mut self.rng, self.plan.immortal),
            ..Fake::default()
        };
        let black = !self.calm && self.plan.is_black(self.model.now);
        let fails = black || bad(&mut self.rng, self.plan.bad_start);
        self.accuse(worker, fails || fake.ignores_drain);
        self.fakes.insert(worker, fake);
        let (ready, open) = (self.rng.millis(0..50) + MOMENT, self.rng.millis(50..150));
        let stage = if fails { self.rng.within(0..5) } else { 9 };
        if stage > 0 && !(black && self.rng.percent(50)) {
            self.after(ready, worker, Deed::Say(Say::Ready));
            if stage == 4 {
                let twice = self.rng.pick(&[Say::Ready, Say::Bye]);
                self.after(ready + MOMENT, worker, Deed::Say(twice));
            }
        }
        if stage > 4 {
            self.after(open, worker, Deed::Say(Say::Open));
        } else if stage < 3 {
            // The others hang.
            self.soon(200, worker, Deed::Die);
        }
    }

    /// Notes that from now on there is a reason to kill this worker.
    fn accuse(&mut self, worker: WorkerId, guilty: bool) {
        if let Some(known) = self.model.workers.get_mut(&worker) {
            known.guilty |= guilty;
        }
    }

    fn take(&mut self, worker: WorkerId, task: TaskId, attempt: u32) {
        let Some(fake) = self.fakes.get_mut(&worker) else { return };
        fake.sent += 1;
        let sequence = fake.sent;
        fake.held.push((sequence, task, attempt));
        let wait = match self.rng.within(0..40) {
            0 => self.rng.millis(1000..9000),
            1..5 => self.rng.millis(80..1000),
            _ => self.rng.millis(1..80),
        };
        let faulty = !self.calm && !self.plan.faults.is_empty() && self.rng.percent(self.plan.faulty);
        let fault = faulty.then(|| self.rng.pick(&self.plan.faults));
        if fault == Some(Fault::Die) && self.rng.percent(40) {
            return self.soon(2, worker, Deed::Die);
        }
        self.soon(2, worker, Deed::Begin(sequence));
        match fault {
            None => self.after(wait, worker, Deed::Answer(sequence, Answer::Finished)),
            Some(fault) => {
                self.after(wait.min(Duration::from_millis(500)), worker, Deed::Fail(sequence, fault))
            }
        }
    }

    fn leave(&mut self, worker: WorkerId) {
        let Some(fake) = self.fakes.get(&worker) else { return };
        let stays = fake.ignores_drain && !self.calm;
        if !stays || self.rng.percent(50) {
            self.soon(50, worker, Deed::Say(Say::Bye));
        }
        if !stays {
            let delay = self.rng.millis(50..120);
            self.after(delay, worker, Deed::Die);
        }
    }

    fn perform(&mut self, worker: WorkerId, deed: Deed) -> Checked {
        let Some(fake) = self.fakes.get_mut(&worker) else { return Ok(()) };
        match deed {
            Deed::Begin(sequence) => fake.begun = fake.begun.max(sequence),
            Deed::Die => return self.die(worker),
            Deed::Say(_) | Deed::Answer(..) if fake.silent => {}
            Deed::Say(Say::Ready) => return self.feed(Input::Ready { worker }),
            Deed::Say(Say::Open) => return self.feed(Input::Open { worker }),
            Deed::Say(Say::Pong) => return self.feed(Input::Heard { worker }),
            Deed::Say(Say::Bye) => return self.feed(Input::Bye { worker }),
            Deed::Answer(sequence, answer) => {
                let Some(at) = fake.held.iter().position(|held| held.0 == sequence) else { return Ok(()) };
                let began = fake.begun >= sequence;
                let (_, task, attempt) = fake.held.remove(at);
                let answer = match answer {
                    Answer::Cancelled { .. } => Answer::Cancelled { began },
                    Answer::Finished => answer,
                };
                return self.feed(Input::Done { worker, task, attempt, answer });
            }
            Deed::Fail(sequence, fault) => return self.misbehave(worker, sequence, fault),
        }
        Ok(())
    }

    fn misbehave(&mut self, worker: WorkerId, sequence: u64, fault: Fault) -> Checked {
        let Some(fake) = self.fakes.get(&worker).filter(|fake| !fake.silent) else { return Ok(()) };
        let Some(&(_, task, attempt)) = fake.held.iter().find(|held| held.0 == sequence) else {
            return Ok(());
        };
        let done = Input::Done { worker, task, attempt, answer: Answer::Finished };
        self.accuse(worker, !matches!(fault, Fault::Die | Fault::Quit));
        match fault {
            Fault::Die => self.die(worker),
            Fault::Hang => {
                if self.rng.percent(50) {
                    self.fall_silent(worker);
                }
                Ok(())
            }
            Fault::Twice => {
                self.feed(done.clone())?;
                self.feed(done)
            }
            Fault::Stranger => {
                let others: Vec<_> = self.model.live().into_iter().filter(|&other| other != task).collect();
                let task = match others.is_empty() || self.rng.percent(30) {
                    true => TaskId::new(self.rng.next() as u32, self.rng.next() as u32),
                    false => self.rng.pick(&others),
                };
                self.feed(Input::Done { worker, task, attempt, answer: Answer::Finished })
            }
            Fault::Stale => {
                let attempt = self.rng.pick(&[attempt.wrapping_sub(1), attempt + 1, 0, u32::MAX]);
                self.feed(Input::Done { worker, task, attempt, answer: Answer::Cancelled { began: false } })
            }
            Fault::HangUp => {
                self.fall_silent(worker);
                self.feed(Input::HungUp { worker })?;
                if self.rng.percent(70) {
                    self.soon(400, worker, Deed::Die);
                }
                Ok(())
            }
            Fault::Garble => self.feed(Input::Violated { worker }),
            Fault::Bye => {
                self.feed(Input::Bye { worker })?;
                match self.rng.within(0..3) {
                    0 => self.perform(worker, Deed::Answer(sequence, Answer::Finished)),
                    1 => self.die(worker),
                    _ => Ok(self.fall_silent(worker)),
                }
            }
            Fault::Quit => self.perform(worker, Deed::Answer(sequence, Answer::Cancelled { began: true })),
            Fault::Greet => {
                let greeting = self.rng.pick(&[Say::Ready, Say::Open]);
                self.perform(worker, Deed::Say(greeting))
            }
        }
    }

    fn fall_silent(&mut self, worker: WorkerId) {
        if let Some(fake) = self.fakes.get_mut(&worker) {
            fake.silent = true;
        }
        if let Some(known) = self.model.workers.get_mut(&worker) {
            known.deaf = true;
        }
    }

    /// It may have begun more in its last moment, and over a relay nobody knows.
    fn die(&mut self, worker: WorkerId) -> Checked {
        let Some(fake) = self.fakes.remove(&worker) else { return Ok(()) };
        let begun = match self.rng.within(0..10) {
            0 => u64::MAX,
            _ => self.rng.within(fake.begun..fake.sent + 1),
        };
        self.feed(Input::Lost { worker, begun })
    }

    /// The bad times are over: what hung goes on, and who comes is well.
    fn settle_down(&mut self) {
        self.calm = true;
        for worker in self.fakes.keys().copied().collect::<Vec<_>>() {
            for (sequence, ..) in self.fakes[&worker].held.clone() {
                self.soon(500, worker, Deed::Answer(sequence, Answer::Finished));
            }
        }
    }
}
