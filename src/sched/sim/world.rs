//! Everything around the scheduler but the workers: a clock that jumps from event to event, users that come and go, a
//! driver that does as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::fakes::{Deed, Fake, Held, Say};
use super::model::Model;
use super::plan::{Plan, close};
use super::rng::Rng;
use super::{Bug, Checked, ensure};
use crate::id::{TaskId, WorkerId};
use crate::sched::{Action, Answer, End, Input, Notice, Outcome, Scheduler, Spec};

/// How late a call may be, and how much more a stop may cost.
const BEAT: Duration = Duration::from_millis(100);

const MOMENT: Duration = Duration::from_micros(1);

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) plan: Plan,
    scheduler: Scheduler,
    pub(super) model: Model,
    base: Instant,
    /// What will happen, by time and then by number.
    events: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    /// Until when the parent stands still: what happens meanwhile is seen then.
    frozen: Duration,
    pub(super) fakes: BTreeMap<WorkerId, Fake>,
    /// Those who have asked for a place, and what it will be for.
    asking: BTreeMap<TaskId, Spec>,
    /// Free places in the driver's table, and how many tasks it has seen.
    places: Vec<u32>,
    serial: u32,
    /// What has come to each consumer and was not read: what it cost.
    pub(super) unread: BTreeMap<TaskId, VecDeque<u32>>,
    pub(super) calm: bool,
    /// The worker of whose words more may be taken in before anything is decided.
    burst: Option<WorkerId>,
    /// Whether tables are checked too, not only what can be seen from outside.
    tables: bool,
    trace: bool,
    hash: DefaultHasher,
    life: Life,
}

/// What a run was like.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// What the trace hashes to.
    pub(super) trace: u64,
    pub(super) steps: u64,
    /// How often which kind of thing was done.
    pub(super) done: BTreeMap<String, u64>,
}

pub(super) enum Event {
    Input(Input),
    Read(TaskId),
    Submit,
    Stall(Duration),
    Worker(WorkerId, Deed),
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
            asking: BTreeMap::new(),
            places: Vec::new(),
            serial: 0,
            unread: BTreeMap::new(),
            calm: false,
            burst: None,
            tables: bug.is_none(),
            trace,
            hash: DefaultHasher::new(),
            life: Life::default(),
        }
    }

    /// Lives through the whole plan.
    pub(super) fn run(mut self) -> Result<Life, String> {
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
        for (at, input) in [self.plan.resizes.clone(), self.plan.closes.clone()].concat() {
            self.at(at, Event::Input(input));
        }
        let chaos = self.plan.chaos + Duration::from_millis(500);
        self.until(chaos, |_| false)?;
        self.model.now = self.model.now.max(self.frozen);
        self.settle_down();
        self.until(self.model.now + Duration::from_secs(120), |world| world.model.unresolved() == 0)?;
        ensure!(self.model.unresolved() == 0, "{:?} never resolved", self.model.live());
        if !self.model.is_closing() {
            let input = close(&mut self.rng);
            self.feed(input)?;
        }
        self.until(self.model.now + Duration::from_secs(30), |world| world.model.closed)?;
        ensure!(self.model.closed, "it never closed");
        self.submit()?;
        ensure!(self.model.unresolved() == 0, "a late task is not refused");
        self.life.trace = self.hash.finish();
        Ok(self.life)
    }

    fn until(&mut self, end: Duration, done: impl Fn(&Self) -> bool) -> Checked {
        while self.burst.is_some() || !done(self) {
            if let Some(worker) = self.burst {
                let more = self.rng.percent(70);
                match more.then(|| self.next_of(worker)).flatten() {
                    Some(deed) => self.perform(worker, deed)?,
                    None => self.conclude()?,
                }
                continue;
            }
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

    /// Takes out what a worker does next, if that is to say something of a task. It does so now.
    fn next_of(&mut self, worker: WorkerId) -> Option<Deed> {
        let own = |event: &Event| matches!(event, Event::Worker(it, _) if *it == worker);
        let (&key, event) = self.events.iter().find(|(_, event)| own(event))?;
        let says = matches!(event, Event::Worker(_, Deed::Answer(..) | Deed::Emit(_)));
        match says.then(|| self.events.remove(&key))? {
            Some(Event::Worker(_, deed)) => Some(deed),
            _ => None,
        }
    }

    pub(super) fn at(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((at, self.scheduled), event);
    }

    pub(super) fn after(&mut self, delay: Duration, worker: WorkerId, deed: Deed) {
        self.at(self.model.now + delay, Event::Worker(worker, deed));
    }

    pub(super) fn soon(&mut self, most: u64, worker: WorkerId, deed: Deed) {
        let delay = self.rng.millis(0..most) + MOMENT;
        self.after(delay, worker, deed);
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Input(input) => self.feed(input),
            Event::Submit => self.submit(),
            Event::Read(task) => self.consume(task),
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
        let spec = self.spec();
        if self.rng.percent(self.plan.asks) {
            self.asking.insert(task, spec);
            return self.feed(Input::Reserve { task, spec: Spec { kind: 0, bytes: 0, ..spec } });
        }
        self.feed(Input::Submit { task, spec })
    }

    /// Uses a place, or gives it back.
    fn redeem(&mut self, task: TaskId) {
        let Some(spec) = self.asking.remove(&task) else { return };
        let at = self.model.now + self.rng.millis(0..300) + MOMENT;
        // Some find that it is too late before anybody else does.
        let late = spec.deadline.is_some() && self.rng.percent(20);
        let deadline = if late { Some(Duration::ZERO) } else { spec.deadline };
        let input = match self.rng.percent(20) {
            true => Input::Cancel { task },
            false => Input::Redeem { task, spec: Spec { deadline, ..spec } },
        };
        self.at(at, Event::Input(input));
    }

    fn spec(&mut self) -> Spec {
        let limit = |world: &mut Self| {
            let limited = world.rng.percent(world.plan.timed);
            let most = world.rng.pick(&[1, 100, 1000, 5000]);
            limited.then(|| world.rng.millis(0..most))
        };
        let (timeout, deadline) = (limit(self), limit(self));
        Spec {
            kind: self.rng.within(0..3) as u32,
            lane: self.rng.within(0..self.plan.lanes) as u32,
            priority: self.rng.pick(self.plan.priorities),
            bytes: self.rng.within(0..self.plan.bytes) as u32,
            retries: self.rng.within(0..self.plan.retries + 1) as u32,
            patient: self.rng.percent(self.plan.patient),
            timeout,
            // Some come too late.
            deadline: deadline.map(|left| if self.rng.percent(5) { Duration::ZERO } else { left }),
            stream: self.rng.percent(self.plan.streams),
            // Packs have a simulation of their own.
            pack: 0,
        }
    }

    /// One call of the scheduler, and everything that comes of it.
    pub(super) fn feed(&mut self, input: Input) -> Checked {
        self.life.steps += 1;
        let now = self.base + self.model.now;
        (self.model.now, &input).hash(&mut self.hash);
        if self.trace {
            eprintln!("{:>12?}  {input:?}", self.model.now);
        }
        // A call that comes late is a stop of the parent, however short.
        let late =
            self.scheduler.poll_timeout().map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if late > BEAT {
            self.model.stalled += late + BEAT;
        }
        self.model.input(&input);
        self.model.tell_time();
        let cost = if let Input::Item { cost, .. } = input { cost } else { 0 };
        // What a worker says of its tasks is often read together with what it says next.
        let burst = match input {
            Input::Done { worker, .. } | Input::Item { worker, .. } => Some(worker),
            _ => None,
        };
        self.burst = burst.filter(|_| self.burst.is_some() || self.rng.percent(30));
        if self.burst.is_some() {
            self.scheduler.take_in(now, input);
            return self.act(cost);
        }
        if self.goes_behind(&input) {
            *self.life.done.entry("Behind".to_owned()).or_default() += 1;
            self.act(cost)?;
            return self.after_all();
        }
        self.scheduler.handle(now, input);
        self.act(cost)?;
        self.rests()?;
        self.after_all()
    }

    /// Whether a task was sent behind others, for which nobody asks what time it is.
    fn goes_behind(&mut self, input: &Input) -> bool {
        let &Input::Submit { task, spec } = input else { return false };
        self.rng.percent(70) && self.scheduler.submit_behind(task, &spec)
    }

    /// The end of a burst.
    fn conclude(&mut self) -> Checked {
        self.burst = None;
        if self.trace {
            eprintln!("{:>12?}  and that was all", self.model.now);
        }
        self.scheduler.conclude();
        *self.life.done.entry("Burst".to_owned()).or_default() += 1;
        self.act(0)?;
        self.rests()?;
        self.after_all()
    }

    /// Everything that is to be done.
    fn act(&mut self, cost: u32) -> Checked {
        while let Some(action) = self.scheduler.poll_action() {
            action.hash(&mut self.hash);
            *self.life.done.entry(kind(&action)).or_default() += 1;
            if self.trace {
                eprintln!("              -> {action:?}");
            }
            self.model.action(&action)?;
            self.obey(&action, cost);
        }
        Ok(())
    }

    /// Once it was told what time it is, it has seen to all that was due.
    fn rests(&self) -> Checked {
        let now = self.base + self.model.now;
        ensure!(self.scheduler.poll_timeout().is_none_or(|at| at > now), "it spins");
        Ok(())
    }

    fn after_all(&mut self) -> Checked {
        self.model.after()?;
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
        let before = self.model.line.len() + self.model.reserved.len();
        ensure!(stats.queued + stats.in_flight + before == self.model.unresolved(), "{stats:?}");
        Ok(())
    }

    /// The driver's part, and how the workers take it.
    fn obey(&mut self, action: &Action, cost: u32) {
        match *action {
            Action::Launch { worker } => self.launch(worker),
            Action::Run { worker, task, attempt, .. } => self.take(worker, task, attempt),
            Action::Grant { task } => self.redeem(task),
            Action::Resolve { task, .. } => {
                self.asking.remove(&task);
                self.unread.remove(&task);
                self.places.push(task.index);
            }
            Action::Deliver { task } => self.arrived(task, cost),
            Action::Credit { worker, task, credit } => self.earn(worker, task, credit),
            Action::Cancel { worker, task, .. } => {
                let Some(fake) = self.fakes.get(&worker) else { return };
                let held = fake.held.iter().find(|held| held.task == task);
                if let Some(&Held { sequence, .. }) = held.filter(|_| !fake.silent && !fake.ignores_cancel) {
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
                } else if let Some(&Held { sequence, .. }) =
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
            Action::Recall { worker, ref tasks }
                if self.fakes.get(&worker).is_some_and(|fake| !fake.silent) =>
            {
                self.soon(30, worker, Deed::Return(tasks.clone()));
            }
            Action::Drain { worker } => self.leave(worker),
            _ => {}
        }
    }

    /// The bad times are over: what hung goes on, and who comes is well.
    fn settle_down(&mut self) {
        self.calm = true;
        for worker in self.fakes.keys().copied().collect::<Vec<_>>() {
            self.soon(500, worker, Deed::Unblock);
            for Held { sequence, .. } in self.fakes[&worker].held.clone() {
                self.soon(500, worker, Deed::Answer(sequence, Answer::Finished));
            }
        }
    }
}

/// What kind of thing an action is.
fn kind(action: &Action) -> String {
    match action {
        Action::Resolve { outcome: Outcome::Failed { kind, may_have_run, .. }, .. } => {
            format!("Failed {kind:?}{}", if *may_have_run { ", perhaps run" } else { "" })
        }
        Action::Run { attempt: 2.., .. } => "Run again".to_owned(),
        Action::Started { ok } => format!("Started {ok}"),
        Action::Tell(Notice::Strength(strength)) => format!("Tell {strength:?}"),
        Action::Tell(Notice::Leaving { reason, .. }) => format!("Tell Leaving {reason:?}"),
        Action::Tell(Notice::Gone { end: End::Left(reason), .. }) => format!("Tell Left {reason:?}"),
        Action::Tell(Notice::Gone { end: End::Lost(_), .. }) => "Tell Lost".to_owned(),
        Action::Tell(Notice::Gone { end, .. }) => format!("Tell {end:?}"),
        Action::Tell(notice) => format!("Tell {notice:?}").split(' ').take(2).collect::<Vec<_>>().join(" "),
        Action::Closed(_) => "Closed".to_owned(),
        other => format!("{other:?}").split(' ').next().unwrap_or_default().to_owned(),
    }
}
