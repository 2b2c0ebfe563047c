//! What a bystander knows who sees every input and every action, and what he may demand. He knows nothing of how the
//! scheduler works.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Checked, ensure};
use crate::error::ErrorKind;
use crate::id::{TaskId, WorkerId};
use crate::sched::{Action, Answer, Config, Input, Outcome};

const SECOND: Duration = Duration::from_secs(1);

/// How much later than on paper things may happen: ticks come late, and three of them in a row make a ladder.
const SLACK: Duration = Duration::from_millis(3500);

pub(super) struct Model {
    config: Config,
    pub(super) now: Duration,
    /// How long the parent stood still, all in all.
    pub(super) stalled: Duration,
    tasks: BTreeMap<TaskId, Record>,
    /// By order of submission.
    waiting: BTreeSet<(u64, TaskId)>,
    pub(super) workers: BTreeMap<WorkerId, Known>,
    seats: BTreeMap<u32, Past>,
    submitted: u64,
    closing: Option<Closing>,
    pub(super) closed: bool,
    started: Option<bool>,
    /// Starts that failed in a row; since when there are too many.
    failures: u32,
    probing: Option<Duration>,
    launches: u64,
    free: u64,
}

struct Record {
    order: u64,
    attempts: u32,
    /// Whether any attempt may have begun.
    begun: bool,
    state: State,
}

enum State {
    Waiting,
    On(Held),
    /// Has to be resolved before the call is over, to one of these; `None` is an answer.
    Must(Vec<Option<ErrorKind>>),
}

struct Held {
    worker: WorkerId,
    sequence: u64,
    /// The caller's or the pool's wish that it stop.
    stop: Option<(ErrorKind, Since)>,
    /// Whether `Cancel` was sent.
    told: bool,
}

/// A moment, and how long the parent had stood still by then.
#[derive(Clone, Copy)]
struct Since {
    at: Duration,
    stalled: Duration,
}

/// What happened in a seat.
#[derive(Default)]
struct Past {
    failures: u32,
    lost: Duration,
    /// Whether the last worker was sent away by us.
    free: bool,
}

pub(super) struct Known {
    sent: u64,
    held: Vec<TaskId>,
    ready: bool,
    opened: Option<Duration>,
    heard: Since,
    parted: bool,
    hung: bool,
    violated: bool,
    drained: bool,
    terminated: bool,
    killed: Option<Duration>,
    /// Whether it has done, or left undone, what a worker may be killed for.
    pub(super) guilty: bool,
    /// Whether it does not even answer pings.
    pub(super) deaf: bool,
}

struct Closing {
    since: Since,
    limit: Option<Duration>,
    shut: bool,
    aborted: bool,
}

impl Model {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            now: Duration::ZERO,
            stalled: Duration::ZERO,
            tasks: BTreeMap::new(),
            waiting: BTreeSet::new(),
            workers: BTreeMap::new(),
            seats: BTreeMap::new(),
            submitted: 0,
            closing: None,
            closed: false,
            started: None,
            failures: 0,
            probing: None,
            launches: 0,
            free: 0,
        }
    }

    pub(super) fn unresolved(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// What is still to be cancelled, oldest first.
    pub(super) fn live(&self) -> Vec<TaskId> {
        self.tasks.keys().copied().collect()
    }

    fn since(&self) -> Since {
        Since { at: self.now, stalled: self.stalled }
    }

    /// For how long this has been so, at least, while the parent ran.
    fn age(&self, since: Since) -> Duration {
        (self.now - since.at).saturating_sub(self.stalled - since.stalled)
    }

    fn demand(&mut self, task: TaskId, kinds: &[Option<ErrorKind>]) {
        if let Some(record) = self.tasks.get_mut(&task) {
            self.waiting.remove(&(record.order, task));
            record.state = State::Must(kinds.to_vec());
        }
    }

    /// What an input means, before the scheduler has seen it.
    pub(super) fn input(&mut self, input: &Input) {
        match *input {
            Input::Submit { task } => {
                self.submitted += 1;
                let record =
                    Record { order: self.submitted, attempts: 0, begun: false, state: State::Waiting };
                self.waiting.insert((record.order, task));
                self.tasks.insert(task, record);
                if self.closing.is_some() {
                    self.demand(task, &[Some(ErrorKind::Closed)]);
                }
            }
            Input::Cancel { task } => {
                let since = self.since();
                match self.tasks.get_mut(&task).map(|record| &mut record.state) {
                    Some(State::On(held)) => drop(held.stop.get_or_insert((ErrorKind::Cancelled, since))),
                    Some(_) => self.demand(task, &[Some(ErrorKind::Cancelled)]),
                    None => {}
                }
            }
            Input::Drain => self.close(None, false, false),
            Input::Shutdown { limit } => self.close(Some(limit), true, false),
            Input::Abort => self.close(None, true, true),
            Input::Start | Input::Tick => {}
            Input::Lost { worker, begun } => self.lost(worker, Some(begun)),
            Input::Ready { worker }
            | Input::Open { worker }
            | Input::Done { worker, .. }
            | Input::Heard { worker }
            | Input::Violated { worker }
            | Input::HungUp { worker }
            | Input::Bye { worker } => {
                if let Some(mut known) = self.workers.remove(&worker) {
                    self.said(worker, &mut known, input);
                    self.workers.insert(worker, known);
                }
            }
        }
    }

    fn said(&mut self, worker: WorkerId, known: &mut Known, input: &Input) {
        let killed = known.killed.is_some();
        match input {
            Input::Violated { .. } => known.violated = true,
            Input::HungUp { .. } => known.hung = true,
            _ if known.violated => {}
            _ if known.parted && !killed => known.violated = true,
            Input::Ready { .. } if !killed => known.violated |= std::mem::replace(&mut known.ready, true),
            Input::Open { .. } if !killed => {
                known.violated |= !known.ready || known.opened.is_some();
                if !known.violated {
                    known.opened = Some(self.now);
                    (self.failures, self.probing) = (0, self.probing.map(|_| self.now));
                }
            }
            Input::Bye { .. } if !killed => known.parted = true,
            Input::Done { task, attempt, answer, .. } => {
                self.answered(worker, known, (*task, *attempt), *answer)
            }
            _ => {}
        }
        known.heard = self.since();
    }

    fn answered(
        &mut self,
        worker: WorkerId,
        known: &mut Known,
        (task, attempt): (TaskId, u32),
        answer: Answer,
    ) {
        match self.tasks.get_mut(&task) {
            Some(Record { attempts, begun, state: State::On(held), .. })
                if held.worker == worker && *attempts == attempt =>
            {
                let kind = held.stop.map_or(ErrorKind::Cancelled, |(kind, _)| kind);
                known.held.retain(|&held| held != task);
                *begun |= answer != Answer::Cancelled { began: false };
                let outcome = (answer != Answer::Finished).then_some(kind);
                self.demand(task, &[outcome]);
            }
            _ => known.violated = true,
        }
    }

    fn close(&mut self, limit: Option<Duration>, shut: bool, aborted: bool) {
        let since = self.since();
        let closing = self.closing.get_or_insert(Closing { since, limit: None, shut: false, aborted: false });
        let stricter = shut && !closing.shut || aborted && !closing.aborted;
        if stricter {
            (closing.since, closing.limit) = (since, limit);
        } else if let (Some(new), Some(old)) = (limit, &mut closing.limit) {
            *old = (since.at - closing.since.at + new).min(*old);
        }
        closing.shut |= shut;
        closing.aborted |= aborted;
        if shut {
            for (_, task) in self.waiting.clone() {
                self.demand(task, &[Some(ErrorKind::Closed)]);
            }
        }
        if aborted {
            for task in self.live() {
                self.demand(task, &[Some(ErrorKind::Closed)]);
            }
            self.workers.values_mut().for_each(|known| known.held.clear());
        }
    }

    /// A worker is gone, or given up (`begun: None`).
    fn lost(&mut self, worker: WorkerId, begun: Option<u64>) {
        let Some(known) = self.workers.remove(&worker) else { return };
        let blame = match begun {
            None => ErrorKind::Unresponsive,
            Some(_) if known.violated => ErrorKind::Protocol,
            Some(_) if known.terminated => ErrorKind::Collateral,
            Some(_) if known.killed.is_some() && known.deaf => ErrorKind::Unresponsive,
            Some(_) => ErrorKind::Crashed,
        };
        let shut = self.closing.as_ref().is_some_and(|closing| closing.shut);
        let unreachable =
            (known.hung || known.parted || known.killed.is_some()) && self.is_out_of_time(Duration::ZERO);
        let mut blames = vec![Some(blame)];
        // A deaf worker may also have died before anybody noticed, or under the ladder of a neighbour.
        if known.deaf && begun.is_some() {
            blames.extend([Some(ErrorKind::Unresponsive), Some(ErrorKind::Crashed)]);
        }
        if unreachable && begun.is_some() {
            blames.push(Some(ErrorKind::Closed));
        }
        for &task in &known.held {
            let Some(record) = self.tasks.get_mut(&task) else { continue };
            let State::On(held) = &record.state else { continue };
            let ran = begun.is_none_or(|begun| held.sequence <= begun);
            let stop = held.stop.filter(|_| begun.is_some()).map(|(kind, _)| kind);
            record.begun |= ran;
            match stop {
                Some(kind) => self.demand(task, &[Some(kind)]),
                None if ran => self.demand(task, &blames),
                None if shut => self.demand(task, &[Some(ErrorKind::Closed)]),
                None => {
                    record.state = State::Waiting;
                    self.waiting.insert((record.order, task));
                }
            }
        }
        self.vacated(worker, &known, begun.is_some());
    }

    fn vacated(&mut self, worker: WorkerId, known: &Known, gone: bool) {
        let past = self.seats.entry(worker.index).or_default();
        past.lost = self.now;
        past.free = gone && known.opened.is_some() && (known.terminated || known.drained) && !known.violated;
        self.free += u64::from(past.free);
        if !past.free {
            if known.opened.is_some_and(|opened| self.now - opened >= 10 * SECOND) {
                past.failures = 0;
            }
            past.failures += 1;
        }
        if known.opened.is_none() {
            self.failures += 1;
            if self.failures >= 3 {
                self.probing = Some(self.now);
            }
        }
    }

    /// Judges what the scheduler wants done.
    pub(super) fn action(&mut self, action: &Action) -> Checked {
        ensure!(!self.closed || matches!(action, Action::Resolve { .. }), "something is done after the end");
        match *action {
            Action::Launch { worker } => self.launch(worker),
            Action::Run { worker, task, attempt } => self.run(worker, task, attempt),
            Action::Cancel { worker, task, grace } => self.cancel(worker, task, grace),
            Action::Resolve { task, outcome } => self.resolve(task, outcome),
            Action::Started { ok } => {
                ensure!(self.started != Some(true) && self.started != Some(ok), "started twice");
                let open = self.workers.values().any(|known| known.opened.is_some());
                ensure!(open == ok && (ok || self.failures >= 3), "started: {ok}");
                self.started = Some(ok);
                Ok(())
            }
            Action::Closed => {
                ensure!(self.closing.is_some(), "closed unasked");
                ensure!(self.tasks.is_empty() && self.workers.is_empty(), "closed, yet something is left");
                self.closed = true;
                Ok(())
            }
            Action::Drain { worker } => {
                let known = self.workers.get_mut(&worker).ok_or("a stranger is drained")?;
                ensure!(
                    known.held.is_empty() && known.opened.is_some() && !known.drained,
                    "{worker:?} is drained"
                );
                ensure!(self.closing.is_some() || known.terminated, "{worker:?} is drained for nothing");
                known.drained = true;
                Ok(())
            }
            Action::Ping { worker } => {
                let known = self.workers.get(&worker).ok_or("a stranger is pinged")?;
                ensure!(
                    !known.held.is_empty() && self.now - known.heard.at >= SECOND,
                    "{worker:?} is pinged"
                );
                Ok(())
            }
            Action::Terminate { worker } => {
                let grace = self.config.cancel_grace;
                ensure!(self.is_stopping(worker, grace), "{worker:?} is terminated early");
                let known = self.workers.get_mut(&worker).ok_or("a stranger is terminated")?;
                ensure!(!std::mem::replace(&mut known.terminated, true), "{worker:?} is terminated twice");
                Ok(())
            }
            Action::Kill { worker } => self.kill(worker),
            Action::Abandon { worker } => {
                let killed = self.workers.get(&worker).and_then(|known| known.killed);
                ensure!(killed.is_some_and(|at| self.now - at >= SECOND), "{worker:?} is abandoned early");
                self.lost(worker, None);
                Ok(())
            }
        }
    }

    fn is_stopping(&self, worker: WorkerId, grace: Duration) -> bool {
        let known = self.workers.get(&worker);
        self.is_out_of_time(grace) && known.is_some_and(|known| known.parted || known.hung)
            || self.holds_stopping(worker, grace)
    }

    /// Whether `Shutdown`'s limit was over so long ago: a worker that cannot be told so is still put on the ladder.
    fn is_out_of_time(&self, grace: Duration) -> bool {
        let closing = self.closing.as_ref().filter(|closing| !closing.aborted);
        closing.is_some_and(|it| it.limit.is_some_and(|limit| self.now - it.since.at >= limit + grace))
    }

    fn holds_stopping(&self, worker: WorkerId, grace: Duration) -> bool {
        self.tasks.values().any(|record| match &record.state {
            State::On(held) if held.worker == worker => {
                held.stop.is_some_and(|(_, s)| self.now - s.at >= grace)
            }
            _ => false,
        })
    }

    fn launch(&mut self, worker: WorkerId) -> Checked {
        let shut = self.closing.as_ref().is_some_and(|closing| closing.shut);
        ensure!(!shut, "{worker:?} is launched after shutdown");
        ensure!(worker.index < self.config.workers, "{worker:?} has no seat");
        let taken =
            self.workers.keys().any(|other| other.index == worker.index || other.serial == worker.serial);
        ensure!(!taken, "{worker:?} is launched onto another");
        let past = self.seats.entry(worker.index).or_default();
        if past.failures > 1
            && !past.free
            && !self.is_closing()
            && self.probing.is_none_or(|at| at < self.seats[&worker.index].lost)
        {
            let past = &self.seats[&worker.index];
            let least = (79 << (past.failures - 2).min(20)).min(24_000);
            let waited = self.now - past.lost;
            ensure!(
                waited >= Duration::from_millis(least),
                "{worker:?} is launched {waited:?} after a failure"
            );
        }
        if self.failures >= 3 {
            let starting = self.workers.values().any(|known| known.opened.is_none());
            ensure!(!starting, "{worker:?} is a second probe");
        }
        self.launches += 1;
        let workers = u64::from(self.config.workers);
        let most = workers + self.free + (2 * workers).max(5) + self.now.as_secs() + 1;
        ensure!(self.launches <= most, "{} launches after {:?}", self.launches, self.now);
        let known = Known {
            sent: 0,
            held: Vec::new(),
            ready: false,
            opened: None,
            heard: self.since(),
            parted: false,
            hung: false,
            violated: false,
            drained: false,
            terminated: false,
            killed: None,
            guilty: false,
            deaf: false,
        };
        self.workers.insert(worker, known);
        Ok(())
    }

    fn run(&mut self, worker: WorkerId, task: TaskId, attempt: u32) -> Checked {
        ensure!(self.waiting.first().map(|&(_, first)| first) == Some(task), "{task:?} runs out of turn");
        let since = self.since();
        let slots = self.config.slots as usize;
        let least =
            self.workers.values().filter(|known| known.takes_tasks()).map(|known| known.held.len()).min();
        let known = self.workers.get_mut(&worker).ok_or("a stranger gets a task")?;
        ensure!(known.takes_tasks(), "{worker:?} gets {task:?}");
        ensure!(known.held.len() < slots, "{worker:?} gets too much");
        ensure!(Some(known.held.len()) == least, "{worker:?} gets {task:?}, another has more room");
        if known.held.is_empty() {
            known.heard = since;
        }
        known.sent += 1;
        known.held.push(task);
        let held = Held { worker, sequence: known.sent, stop: None, told: false };
        let record = self.tasks.get_mut(&task).ok_or("a resolved task runs")?;
        ensure!(!record.begun, "{task:?} is begun again");
        record.attempts += 1;
        ensure!(record.attempts == attempt, "{task:?} is on attempt {}, not {attempt}", record.attempts);
        self.waiting.remove(&(record.order, task));
        record.state = State::On(held);
        Ok(())
    }

    fn cancel(&mut self, worker: WorkerId, task: TaskId, grace: Duration) -> Checked {
        let (since, over) = (self.since(), self.is_out_of_time(Duration::ZERO));
        let Some(Record { state: State::On(held), .. }) = self.tasks.get_mut(&task) else {
            return Err(format!("{task:?} is cancelled where it is not"));
        };
        ensure!(held.worker == worker && grace == self.config.cancel_grace, "{task:?} is cancelled oddly");
        ensure!(!std::mem::replace(&mut held.told, true), "{task:?} is cancelled twice");
        if held.stop.is_none() {
            ensure!(over, "{task:?} is cancelled unasked");
            held.stop = Some((ErrorKind::Closed, since));
        }
        Ok(())
    }

    fn kill(&mut self, worker: WorkerId) -> Checked {
        let over = self.is_stopping(worker, self.config.cancel_grace + self.config.term_grace);
        let known = self.workers.get_mut(&worker).ok_or("a stranger is killed")?;
        ensure!(known.killed.is_none(), "{worker:?} is killed twice");
        let unneeded = known.opened.is_none()
            && (self.tasks.is_empty() || self.closing.as_ref().is_some_and(|it| it.shut));
        let closing = self.closing.as_ref().is_some_and(|closing| closing.aborted || unneeded);
        let reason = known.guilty || known.violated || known.hung || over || closing;
        ensure!(reason, "{worker:?} is killed, innocent");
        known.killed = Some(self.now);
        Ok(())
    }

    fn resolve(&mut self, task: TaskId, outcome: Outcome) -> Checked {
        let record = self.tasks.get(&task).ok_or_else(|| format!("{task:?} is resolved again"))?;
        let kind = match outcome {
            Outcome::Answered => None,
            Outcome::Failed { kind, attempts, may_have_run, .. } => {
                ensure!(
                    attempts == record.attempts,
                    "{task:?} had {} attempts: {outcome:?}",
                    record.attempts
                );
                ensure!(may_have_run || !record.begun, "{task:?} has begun: {outcome:?}");
                Some(kind)
            }
        };
        match &record.state {
            State::Must(kinds) => ensure!(kinds.contains(&kind), "{task:?}: {kinds:?}, not {outcome:?}"),
            State::Waiting => {
                let hopeless = self.workers.values().all(|it| it.opened.is_some() && !it.takes_tasks());
                let launch = kind == Some(ErrorKind::Launch) && self.failures >= 3 && hopeless;
                ensure!(launch, "{task:?}, which waits, is resolved: {outcome:?}");
            }
            State::On(_) => return Err(format!("{task:?}, which runs, is resolved: {outcome:?}")),
        }
        let order = record.order;
        self.waiting.remove(&(order, task));
        self.tasks.remove(&task);
        Ok(())
    }

    /// What must be true between calls.
    pub(super) fn after(&self) -> Checked {
        let ladder = self.config.cancel_grace + self.config.term_grace + SECOND + SLACK;
        for (task, record) in &self.tasks {
            match &record.state {
                State::Must(kinds) => return Err(format!("{task:?} is not resolved: {kinds:?}")),
                State::On(Held { stop: Some((_, since)), worker, .. }) => {
                    ensure!(self.age(*since) <= ladder, "{task:?} does not stop on {worker:?}");
                }
                _ => {}
            }
        }
        for (worker, known) in &self.workers {
            ensure!(!known.violated || known.killed.is_some(), "{worker:?} gets away with it");
            let room = known.takes_tasks() && known.held.len() < self.config.slots as usize;
            ensure!(!room || self.waiting.is_empty(), "tasks wait, {worker:?} has room");
            let silent = known.killed.is_none()
                && !known.held.is_empty()
                && !self.is_stopping(*worker, Duration::ZERO);
            ensure!(!silent || self.age(known.heard) <= 5 * SECOND + SLACK, "{worker:?} is silent");
        }
        let Some(closing) = &self.closing else { return Ok(()) };
        ensure!(
            self.closed || !self.tasks.is_empty() || !self.workers.is_empty(),
            "nothing is left, yet not closed"
        );
        if closing.shut && !self.closed {
            let limit = closing.limit.map_or(Duration::ZERO, |limit| limit + ladder + 5 * SECOND);
            ensure!(self.age(closing.since) <= limit + SECOND + SLACK, "it does not close");
        }
        Ok(())
    }
}

impl Known {
    fn takes_tasks(&self) -> bool {
        let gone = self.parted || self.hung || self.violated || self.drained || self.terminated;
        self.opened.is_some() && !gone && self.killed.is_none()
    }
}
