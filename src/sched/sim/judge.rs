//! What the bystander demands: of every action, and of the state of things after every call.

use std::time::Duration;

use super::flow::Account;
use super::model::{Held, Known, Model, Record, State};
use super::{Checked, ensure};
use crate::error::ErrorKind;
use crate::id::{TaskId, WorkerId};
use crate::sched::{Action, Outcome};

const SECOND: Duration = Duration::from_secs(1);

/// How much later than on paper things may happen: ticks come late, and three of them in a row make a ladder.
const SLACK: Duration = Duration::from_millis(3500);

/// The same for one tick.
pub(super) const TICK: Duration = Duration::from_millis(500);

impl Model {
    /// Judges what the scheduler wants done.
    pub(super) fn action(&mut self, action: &Action) -> Checked {
        ensure!(!self.closed || matches!(action, Action::Resolve { .. }), "something is done after the end");
        match *action {
            Action::Recall { worker, ref tasks } => self.recall(worker, tasks),
            Action::Launch { worker } => self.launch(worker),
            Action::Deliver { task } => self.deliver(task),
            Action::Credit { worker, task, credit } => self.endow(worker, task, credit),
            Action::Run { worker, task, attempt, left } => {
                self.run(worker, task, attempt)?;
                self.is_in_time(task, left)
            }
            Action::Cancel { worker, task, grace } => self.cancel(worker, task, grace),
            Action::Retry { task, worker, kind, attempts } => self.retry(task, worker, kind, attempts),
            Action::Grant { task } => self.grant(task),
            Action::Part { .. } | Action::Split { .. } => Err("nothing was packed".into()),
            Action::Resolve { task, outcome } => self.resolve(task, outcome),
            Action::Started { ok } => {
                ensure!(self.started != Some(true) && self.started != Some(ok), "started twice");
                let open = self.workers.values().any(|known| known.opened.is_some());
                ensure!(open == ok && (ok || self.may_have_given_up()), "started: {ok}");
                self.started = Some(ok);
                Ok(())
            }
            Action::Tell(ref notice) => self.told(notice),
            Action::Closed(tally) => {
                ensure!(tally == self.news.tally, "{tally:?}, not {:?}", self.news.tally);
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
                let reason = self.closing.is_some() || known.terminated || known.retired.is_some();
                ensure!(reason, "{worker:?} is drained for nothing");
                known.drained = true;
                Ok(())
            }
            Action::Lend { .. } | Action::Nudge { .. } | Action::Ask { .. } | Action::Return { .. } => {
                Err("there is no tree".to_owned())
            }
            Action::Ping { worker } => {
                let known = self.workers.get(&worker).ok_or("a stranger is pinged")?;
                let silent = !known.held.is_empty() && self.now - known.heard.at >= SECOND;
                ensure!(silent && known.is_reachable(), "{worker:?} is pinged");
                Ok(())
            }
            Action::Terminate { worker } => {
                let grace = self.config.cancel_grace;
                ensure!(self.is_stopping(worker, grace), "{worker:?} is terminated early");
                self.are_neighbours_spared(worker)?;
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
    pub(super) fn is_out_of_time(&self, grace: Duration) -> bool {
        let closing = self.closing.as_ref().filter(|closing| !closing.aborted);
        closing.is_some_and(|it| it.limit.is_some_and(|limit| self.now - it.since.at >= limit + grace))
    }

    /// Whether that limit has been over for so long that everybody has to know.
    fn is_overtime(&self) -> bool {
        let closing = self.closing.as_ref();
        closing.is_some_and(|it| it.limit.is_some_and(|limit| self.age(it.since) > limit + SLACK))
    }

    pub(super) fn holds_stopping(&self, worker: WorkerId, grace: Duration) -> bool {
        self.held_by(worker).any(|held| {
            let over = held.over(self.now).is_some_and(|over| over >= grace);
            over || held.stop.is_some_and(|(_, s)| self.now - s.at >= grace)
        })
    }

    fn launch(&mut self, worker: WorkerId) -> Checked {
        let shut = self.closing.as_ref().is_some_and(|closing| closing.shut);
        ensure!(!shut, "{worker:?} is launched after shutdown");
        self.may_launch(worker)?;
        let taken =
            self.workers.keys().any(|other| other.index == worker.index || other.serial == worker.serial);
        ensure!(!taken, "{worker:?} is launched onto another");
        let given_up = self.may_have_given_up();
        let past = self.seats.entry(worker.index).or_default();
        // Probing is another matter, and so are the seats that waited for it to end.
        let probed = given_up || self.probing.is_some_and(|at| at >= past.lost);
        if past.failures > 1 && !past.free && !probed && self.closing.is_none() {
            let least = Duration::from_millis((79 << (past.failures - 2).min(20)).min(24_000));
            let least = if past.brief { least.min(Duration::from_millis(790)) } else { least };
            let waited = self.now - past.lost;
            ensure!(waited >= least, "{worker:?} is launched {waited:?} after a failure");
        }
        if self.failures >= 3 {
            let starting = self.workers.values().any(|known| known.opened.is_none());
            ensure!(!starting, "{worker:?} is a second probe");
        }
        self.launches += 1;
        let workers = u64::from(self.sizes.widest);
        // What sits down where nobody has sat before costs nothing.
        let most = self.sizes.seats() + self.free + (2 * workers).max(5) + self.now.as_secs() + 1;
        ensure!(self.launches <= most, "{} launches after {:?}", self.launches, self.now);
        let known = Known {
            sent: 0,
            held: Vec::new(),
            recalls: 0,
            given: 0,
            used_up: false,
            heavy: false,
            retired: None,
            unfair: None,
            useful: false,
            alone: false,
            ready: false,
            opened: None,
            futile: false,
            announced: false,
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
        let alone = matches!(self.tasks.get(&task), Some(Record { state: State::Alone, .. }));
        if !alone {
            self.is_next(task)?;
        }
        let since = self.since();
        let slots = self.config.slots as usize;
        let sure = self.workers.iter().filter(|(id, known)| self.can_take(known) && !self.may_be_shut(**id));
        let least = sure.map(|(_, known)| known.held.len()).min();
        ensure!(!self.must_be_shut(worker), "{worker:?} is sent {task:?}, another task on it does not stop");
        let risky = self.runs_stopping(worker);
        let known = self.workers.get_mut(&worker).ok_or("a stranger gets a task")?;
        ensure!(known.takes_tasks(), "{worker:?} gets {task:?}");
        ensure!(known.given < self.config.most_tasks, "{worker:?} gets {task:?}, more than it may");
        let load = known.held.len();
        ensure!(load < slots + self.config.ahead as usize, "{worker:?} gets too much");
        ensure!(!alone || known.sent == 0, "{task:?} is to run alone, and {worker:?} was used");
        known.alone = alone;
        ensure!(
            alone || least.is_none_or(|least| load <= least || least >= slots),
            "{worker:?} gets {task:?}, another has more room"
        );
        ensure!(load < slots || !risky, "{worker:?} is sent {task:?} behind one that is to stop");
        if known.held.is_empty() {
            known.heard = since;
        }
        known.sent += 1;
        known.given += 1;
        known.used_up |= known.given >= self.config.most_tasks;
        known.held.push(task);
        let record = self.tasks.get_mut(&task).ok_or("a resolved task runs")?;
        let held = Held {
            worker,
            sequence: known.sent,
            begun: (load < slots).then_some(since),
            timeout: record.spec.timeout,
            stop: None,
            told: false,
            recalled: false,
            account: Account::default(),
        };
        let again = std::mem::take(&mut record.again);
        ensure!(!record.begun || again, "{task:?} is begun again");
        record.attempts += 1;
        ensure!(record.attempts == attempt, "{task:?} is on attempt {}, not {attempt}", record.attempts);
        self.waiting.remove(&(record.order, task));
        record.state = State::On(held);
        Ok(())
    }

    /// Whether what a worker runs, as far as one can know, is to stop.
    fn runs_stopping(&self, worker: WorkerId) -> bool {
        let running = self.workers.get(&worker).into_iter().flat_map(|known| &known.held);
        running.take(self.config.slots as usize).any(|task| {
            matches!(self.tasks.get(task), Some(Record { state: State::On(held), .. }) if held.stop.is_some())
        })
    }

    /// Whether somebody has nothing to do and nobody waits; `sure`: for certain.
    fn is_idle(&self, sure: bool) -> bool {
        let slots = self.config.slots as usize;
        let mut idle = self.workers.iter().filter(|(_, it)| self.can_take(it) && it.held.len() < slots);
        self.waiting.is_empty() && idle.any(|(worker, _)| !sure || !self.may_be_shut(*worker))
    }

    fn recall(&mut self, worker: WorkerId, tasks: &[TaskId]) -> Checked {
        let now = self.now;
        let shut = self.closing.as_ref().is_some_and(|closing| closing.shut);
        let over = self.may_be_shut(worker);
        let reason =
            shut || over || self.is_idle(false) || self.runs_stopping(worker) || self.goes_before(tasks);
        let known = self.workers.get_mut(&worker).ok_or("a stranger is asked to give back")?;
        ensure!(reason || known.retired.is_some(), "{worker:?} is asked to give back, for nothing");
        ensure!(known.is_reachable() && !tasks.is_empty(), "{worker:?} is asked to give back {tasks:?}");
        known.recalls += 1;
        let running = &known.held[..known.held.len().min(self.config.slots as usize)];
        let runs = tasks.iter().any(|task| running.contains(task));
        ensure!(!runs || over, "{worker:?} is asked for what it runs");
        for task in tasks {
            let Some(Record { state: State::On(held), .. }) = self.tasks.get_mut(task) else {
                return Err(format!("{worker:?} is asked for {task:?}, which it does not hold"));
            };
            // What the input set off comes before what the time does.
            let stops = held.stop.is_some_and(|(kind, since)| kind != ErrorKind::TimedOut || since.at < now);
            ensure!(held.worker == worker && !stops, "{worker:?} is asked for {task:?}");
            ensure!(!std::mem::replace(&mut held.recalled, true), "{task:?} is asked for twice");
        }
        Ok(())
    }

    /// Notes who has something waiting while somebody has nothing to do.
    fn compare_loads(&mut self) -> Checked {
        let (idle, since, slots) = (self.is_idle(true), self.since(), self.config.slots as usize);
        let stopping = |task: &TaskId| matches!(self.tasks.get(task), Some(Record { state: State::On(held), .. }) if held.stop.is_some());
        let mut unfair = Vec::new();
        for (worker, known) in &self.workers {
            let waits = known.held.iter().skip(slots).any(|task| !stopping(task));
            unfair.push((*worker, idle && waits && known.recalls == 0 && known.is_reachable()));
        }
        for (worker, is) in unfair {
            let Some(known) = self.workers.get_mut(&worker) else { continue };
            known.unfair = known.unfair.filter(|_| is).or_else(|| is.then_some(since));
            let begun = known.unfair;
            let age = begun.map(|begun| self.age(begun));
            ensure!(age.is_none_or(|age| age <= TICK), "tasks wait on {worker:?}, another is idle");
        }
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
            let late = held.over(since.at).is_some();
            ensure!(over || late, "{task:?} is cancelled unasked");
            held.stop = Some((if over { ErrorKind::Closed } else { ErrorKind::TimedOut }, since));
            // Of two reasons one cannot know which came first.
            held.told = !(over && late);
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
        let surplus = known.opened.is_none() && known.retired.is_some();
        let reason = known.guilty || surplus || known.violated || known.hung || over || closing;
        ensure!(reason, "{worker:?} is killed, innocent");
        known.killed = Some(self.now);
        Ok(())
    }

    /// Whether starting workers may have been given up.
    pub(super) fn is_hopeless(&self) -> bool {
        self.may_have_given_up() && self.workers.values().all(|it| it.opened.is_some() && !it.is_open())
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
                ensure!(may_have_run == (attempts > 0), "{task:?} has run, or not: {outcome:?}");
                Some(kind)
            }
        };
        match &record.state {
            State::Must(kinds) => {
                // What the input set off comes before what the time does.
                let late = kind == Some(ErrorKind::Launch) && kinds == &[Some(ErrorKind::TimedOut)];
                let right = kinds.contains(&kind) || late && self.is_hopeless();
                ensure!(right, "{task:?}: {kinds:?}, not {outcome:?}");
            }
            State::Outside { .. } | State::Reserved | State::Waiting | State::Alone => {
                let alone = matches!(record.state, State::Alone) && self.may_have_given_up();
                let launch = kind == Some(ErrorKind::Launch) && (alone || self.is_hopeless());
                let late = kind.is_some_and(|kind| record.doubts.contains(&kind));
                ensure!(launch || late, "{task:?}, which waits, is resolved: {outcome:?}");
            }
            State::On(_) => return Err(format!("{task:?}, which runs, is resolved: {outcome:?}")),
        }
        let order = record.order;
        if self.closing.is_some() && !record.late {
            self.news.count(outcome);
        }
        // What is to run alone may be given up while others are open.
        self.news.hopeless |= kind == Some(ErrorKind::Launch) && !record.suspect;
        self.waiting.remove(&(order, task));
        self.line.retain(|other| *other != task);
        self.reserved.remove(&task);
        self.tasks.remove(&task);
        Ok(())
    }

    /// What must be true between calls.
    pub(super) fn after(&mut self) -> Checked {
        if self.closing.as_ref().is_none_or(|closing| !closing.shut) {
            self.compare_loads()?;
        }
        self.are_in_time()?;
        self.is_line_served()?;
        self.is_told_all()?;
        self.is_somebody_fresh()?;
        self.is_of_size()?;
        self.flows()?;
        self.end_turns();
        self.tasks.values_mut().for_each(|record| record.doubts.clear());
        let ladder = 2 * self.config.cancel_grace + self.config.term_grace + SECOND + SLACK;
        for (task, record) in &self.tasks {
            match &record.state {
                State::Must(kinds) => return Err(format!("{task:?} is not resolved: {kinds:?}")),
                State::On(Held { stop: Some((_, since)), worker, .. }) => {
                    ensure!(self.age(*since) <= ladder, "{task:?} does not stop on {worker:?}");
                }
                State::On(Held { stop: None, worker, .. }) if self.is_overtime() => {
                    let reachable = self.workers.get(worker).is_some_and(Known::is_reachable);
                    ensure!(!reachable, "{task:?} runs on after the limit");
                }
                _ => {}
            }
        }
        for (worker, known) in &self.workers {
            ensure!(!known.violated || known.killed.is_some(), "{worker:?} gets away with it");
            let slots = self.config.slots as usize;
            // One is always sent ahead, however long those that run are expected to take.
            let one_ahead =
                known.held.len() == slots && self.config.ahead > 0 && !self.runs_stopping(*worker);
            let takes = self.can_take(known) && !self.may_be_shut(*worker);
            let room = takes && (known.held.len() < slots || one_ahead);
            ensure!(!room || self.waiting.is_empty(), "tasks wait, {worker:?} has room");
            let stopping = self.is_stopping(*worker, Duration::ZERO);
            let silent = known.is_reachable() && !known.held.is_empty() && !stopping;
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
