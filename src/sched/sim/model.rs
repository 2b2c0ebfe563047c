//! What a bystander knows who sees all inputs and actions, and what they oblige the scheduler to. Nothing of how it works.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::flow::Account;
use super::notices::News;
use super::order::Turns;
use super::seats::Past;
use super::sizes::Sizes;
use super::time::Since;
use crate::error::ErrorKind;
use crate::event::Leave;
use crate::id::{TaskId, WorkerId};
use crate::sched::{Answer, Config, Input, Spec};

pub(super) struct Model {
    pub(super) config: Config,
    pub(super) now: Duration,
    /// How long the parent stood still, all in all.
    pub(super) stalled: Duration,
    pub(super) tasks: BTreeMap<TaskId, Record>,
    /// By the order in which they came into the queue.
    pub(super) waiting: BTreeSet<(u64, TaskId)>,
    /// Those before the queue, first come first served, and those who have a place there and have not used it.
    pub(super) line: VecDeque<TaskId>,
    pub(super) reserved: BTreeSet<TaskId>,
    pub(super) turns: Turns,
    pub(super) workers: BTreeMap<WorkerId, Known>,
    pub(super) seats: BTreeMap<u32, Past>,
    pub(super) entered: u64,
    pub(super) closing: Option<Closing>,
    pub(super) closed: bool,
    pub(super) started: Option<bool>,
    /// Starts that failed in a row; since when there are too many.
    pub(super) failures: u32,
    /// Launches that were refused for want and may have counted; since when there is want.
    pub(super) doubtful: u32,
    pub(super) want: Option<Duration>,
    pub(super) probing: Option<Duration>,
    pub(super) launches: u64,
    pub(super) free: u64,
    pub(super) news: News,
    pub(super) sizes: Sizes,
    /// Whose item has come and is not delivered.
    pub(super) due: Option<TaskId>,
}

pub(super) struct Record {
    pub(super) order: u64,
    pub(super) spec: Spec,
    /// When it is too late for it.
    pub(super) deadline: Option<Duration>,
    pub(super) attempts: u32,
    /// Whether any attempt may have begun.
    pub(super) begun: bool,
    /// How often it may still be tried again, and whether it may be now.
    pub(super) retries: u32,
    pub(super) again: bool,
    /// Whether it has died with a worker.
    pub(super) suspect: bool,
    /// What it may resolve to because its timeout may have been over, unseen, when it was sent back.
    pub(super) doubts: Vec<ErrorKind>,
    /// Whether it came after the pool was told to end.
    pub(super) late: bool,
    pub(super) state: State,
}

pub(super) enum State {
    /// Before the queue. `asks`: for a place, and nothing is known of the task yet.
    Outside {
        asks: bool,
    },
    /// A place in the queue is kept for it.
    Reserved,
    Waiting,
    /// For a worker of its own.
    Alone,
    On(Held),
    /// Has to be resolved before the call is over, to one of these; `None` is an answer.
    Must(Vec<Option<ErrorKind>>),
}

pub(super) struct Held {
    pub(super) worker: WorkerId,
    pub(super) sequence: u64,
    /// Since when it is one of those that its worker runs, as far as one can know.
    pub(super) begun: Option<Since>,
    pub(super) timeout: Option<Duration>,
    /// The caller's or the pool's wish that it stop.
    pub(super) stop: Option<(ErrorKind, Since)>,
    /// Whether `Cancel` was sent.
    pub(super) told: bool,
    /// Whether it was asked for, and the answer has not come.
    pub(super) recalled: bool,
    pub(super) account: Account,
}

pub(super) struct Known {
    pub(super) sent: u64,
    pub(super) held: Vec<TaskId>,
    /// How many recalls it has not answered.
    pub(super) recalls: u32,
    /// How many tasks it was sent and has not given back.
    pub(super) given: u64,
    /// Whether that ever was all that it may: somebody may have been started for it.
    pub(super) used_up: bool,
    /// Whether it was found to be too large.
    pub(super) heavy: bool,
    /// Why it is to go, once that was told.
    pub(super) retired: Option<Leave>,
    /// Whether it has finished a task.
    pub(super) useful: bool,
    /// Whether it was given a task that shares it with nobody, and still holds it.
    pub(super) alone: bool,
    /// Since when something waits here beside an idle worker.
    pub(super) unfair: Option<Since>,
    pub(super) ready: bool,
    /// Whether the next one will start no better, unless this one has opened.
    pub(super) futile: bool,
    pub(super) opened: Option<Duration>,
    /// Whether that was told.
    pub(super) announced: bool,
    pub(super) heard: Since,
    pub(super) parted: bool,
    pub(super) hung: bool,
    pub(super) violated: bool,
    pub(super) drained: bool,
    /// Whether it was so for a task that is to run alone, perhaps.
    pub(super) terminated: bool,
    pub(super) killed: Option<Duration>,
    /// Whether it has done, or left undone, what a worker may be killed for.
    pub(super) guilty: bool,
    /// Whether it does not even answer pings.
    pub(super) deaf: bool,
}

pub(super) struct Closing {
    pub(super) since: Since,
    pub(super) limit: Option<Duration>,
    pub(super) shut: bool,
    pub(super) aborted: bool,
}

impl Model {
    pub(super) fn new(config: Config) -> Self {
        Self {
            now: Duration::ZERO,
            stalled: Duration::ZERO,
            tasks: BTreeMap::new(),
            waiting: BTreeSet::new(),
            line: VecDeque::new(),
            reserved: BTreeSet::new(),
            turns: Turns::default(),
            workers: BTreeMap::new(),
            seats: BTreeMap::new(),
            entered: 0,
            closing: None,
            closed: false,
            started: None,
            failures: 0,
            doubtful: 0,
            want: None,
            probing: None,
            launches: 0,
            free: 0,
            news: News::default(),
            sizes: Sizes::new(&config),
            config,
            due: None,
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

    pub(super) fn demand(&mut self, task: TaskId, kinds: &[Option<ErrorKind>]) {
        if let Some(record) = self.tasks.get_mut(&task) {
            self.waiting.remove(&(record.order, task));
            self.line.retain(|other| *other != task);
            self.reserved.remove(&task);
            record.state = State::Must(kinds.to_vec());
        }
    }

    /// What an input means, before the scheduler has seen it.
    pub(super) fn input(&mut self, input: &Input) {
        match *input {
            Input::Submit { task, spec } => self.comes(task, spec, false),
            Input::Reserve { task, spec } => self.comes(task, spec, true),
            Input::Redeem { task, spec } => self.redeems(task, spec),
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
            Input::Resize { least, most } => self.resized(least, most),
            Input::Weighed { worker, bytes } => self.weighed(worker, bytes),
            Input::Read { task, cost } => self.has_read(task, cost),
            // The tree's own simulation is in `tree`.
            Input::Granted { .. } | Input::Nudged | Input::Start | Input::Tick => {}
            Input::Lost { worker, begun } => self.lost(worker, Some(begun)),
            Input::Scarce { worker } => self.refused(worker),
            Input::Futile { worker } => self.futile(worker),
            Input::Ready { worker }
            | Input::Open { worker }
            | Input::Done { worker, .. }
            | Input::Item { worker, .. }
            | Input::Answers { worker, .. }
            | Input::Cut { worker, .. }
            | Input::Recalled { worker, .. }
            | Input::Lease { worker, .. }
            | Input::Returned { worker, .. }
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
            Input::Ready { .. } if !killed => self.greets(known),
            Input::Open { .. } if !killed => {
                known.violated |= !known.ready || known.opened.is_some();
                if !known.violated {
                    known.opened = Some(self.now);
                    (self.failures, self.doubtful) = (0, 0);
                    self.probing = self.probing.map(|_| self.now);
                }
            }
            Input::Bye { .. } if !killed => known.parted = true,
            Input::Done { task, attempt, answer, .. } => {
                self.answered(worker, known, (*task, *attempt), *answer)
            }
            Input::Item { task, attempt, cost, .. } => {
                self.emitted(worker, known, (*task, *attempt), *cost);
            }
            Input::Recalled { tasks, .. } => self.returned(worker, known, tasks),
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
        let unreachable = !known.is_reachable() && self.is_out_of_time(Duration::ZERO);
        let began = answer != Answer::Cancelled { began: false };
        match self.tasks.get_mut(&task) {
            Some(Record { attempts, begun, state: State::On(held), .. })
                if held.worker == worker && *attempts == attempt =>
            {
                let kind = held.stop.map_or(ErrorKind::Cancelled, |(kind, _)| kind);
                let unseen = held.unseen(self.now);
                known.held.retain(|&held| held != task);
                known.alone = false;
                *begun |= began;
                *attempts -= u32::from(!began);
                known.useful |= answer == Answer::Finished;
                let mut kinds = vec![Some(kind)];
                kinds.extend(unreachable.then_some(Some(ErrorKind::Closed)));
                kinds.extend(unseen.map(Some));
                match answer {
                    Answer::Finished => self.demand(task, &[None]),
                    Answer::Cancelled { .. } => self.demand(task, &kinds),
                }
            }
            _ => known.violated = true,
        }
    }

    fn returned(&mut self, worker: WorkerId, known: &mut Known, tasks: &[TaskId]) {
        let shut = self.closing.as_ref().is_some_and(|closing| closing.shut);
        let mut left: BTreeSet<TaskId> = known.held.iter().copied().collect();
        let asked = |task: &TaskId| match self.tasks.get(task) {
            Some(Record { state: State::On(held), .. }) => {
                held.worker == worker && held.recalled && !held.account.has_begun()
            }
            _ => false,
        };
        if known.recalls == 0 || !tasks.iter().all(|task| left.remove(task) && asked(task)) {
            known.violated = true;
            return;
        }
        known.recalls -= 1;
        known.given -= tasks.len() as u64;
        // The pool's wish may have come first, unseen.
        let unseen = !known.is_reachable() && self.is_out_of_time(Duration::ZERO);
        for &task in tasks {
            known.held.retain(|&held| held != task);
            let Some(record) = self.tasks.get_mut(&task) else { continue };
            let State::On(held) = &record.state else { continue };
            record.attempts -= 1;
            match held.stop {
                Some((kind, _)) => {
                    let mut kinds = vec![Some(kind)];
                    kinds.extend(unseen.then_some(Some(ErrorKind::Closed)));
                    kinds.extend(held.unseen(self.now).map(Some));
                    self.demand(task, &kinds);
                }
                None if shut => self.demand(task, &[Some(ErrorKind::Closed)]),
                None => self.wait_again(task),
            }
        }
        for task in known.held.iter().filter(|_| known.recalls == 0) {
            if let Some(Record { state: State::On(held), .. }) = self.tasks.get_mut(task) {
                held.recalled = false;
            }
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
        self.call_in();
        if shut {
            let waiting: Vec<_> = self.waiting.iter().map(|&(_, task)| task).collect();
            for task in waiting.into_iter().chain(self.line.clone()).chain(self.alone()) {
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
    pub(super) fn lost(&mut self, worker: WorkerId, begun: Option<u64>) {
        let Some(known) = self.workers.remove(&worker) else { return };
        let blame = match begun {
            None => ErrorKind::Unresponsive,
            Some(_) if known.violated => ErrorKind::Protocol,
            Some(_) if known.terminated => ErrorKind::Collateral,
            Some(_) if known.killed.is_some() && known.deaf => ErrorKind::Unresponsive,
            Some(_) => ErrorKind::Crashed,
        };
        let shut = self.closing.as_ref().is_some_and(|closing| closing.shut);
        let unreachable = !known.is_reachable() && self.is_out_of_time(Duration::ZERO);
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
            let ran = begun.is_none_or(|begun| held.sequence <= begun) || held.account.has_begun();
            let stop = held.stop.filter(|_| begun.is_some()).map(|(kind, _)| kind);
            let quiet = begun.is_some() && (held.stop.is_some() || !known.is_reachable());
            let unseen = held.unseen(self.now).filter(|_| quiet).map(Some);
            record.begun |= ran;
            record.attempts -= u32::from(!ran);
            let again = record.retries > 0 && !held.account.has_begun();
            if ran && again && !shut && held.stop.is_none() {
                if held.unseen(self.now).is_some() {
                    record.doubts = vec![ErrorKind::TimedOut, ErrorKind::Unresponsive];
                }
                record.retries -= 1;
                record.suspect |= !known.terminated || known.violated;
                self.wait_again(task);
                continue;
            }
            let mut kinds = match stop {
                Some(kind) => vec![Some(kind)],
                None if ran => blames.clone(),
                None if shut => vec![Some(ErrorKind::Closed)],
                None => {
                    record.doubts.extend(unseen.flatten());
                    self.wait_again(task);
                    continue;
                }
            };
            // The pool's wish may have come first, unseen, and so may the timeout.
            kinds.extend((unreachable && stop.is_some()).then_some(Some(ErrorKind::Closed)));
            kinds.extend(unseen);
            self.demand(task, &kinds);
        }
        self.ended(worker, &known, blames.into_iter().flatten().collect());
        self.vacated(worker, &known, begun.is_some());
        self.missed(&known);
    }
}

impl Known {
    /// Whether it can read and answer, as far as one knows.
    pub(super) fn is_reachable(&self) -> bool {
        !self.parted && !self.hung && self.killed.is_none()
    }

    /// Whether others than a task that it shares with nobody can be sent to it.
    pub(super) fn takes_tasks(&self) -> bool {
        self.is_open() && !self.alone
    }

    pub(super) fn is_open(&self) -> bool {
        let leaving = self.violated || self.drained || self.terminated || self.retired.is_some();
        self.opened.is_some() && !leaving && self.is_reachable()
    }
}
