//! The scheduler's front: takes inputs in, hands actions out, and moves tasks between the queue and the workers with
//! room. How tasks are stopped, workers watched, seats filled and the pool closed is told in its sibling files.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::error::ErrorKind;
use crate::event::Leave;
use crate::id::{TaskId, WorkerId};
use crate::sched::ahead::WORTH;
use crate::sched::clock::{Alarm, Clock, Due, Time};
use crate::sched::close::Tally;
use crate::sched::flow::Flow;
use crate::sched::forecast::Forecast;
use crate::sched::lanes::Queue;
use crate::sched::levels::Levels;
use crate::sched::places::Places;
use crate::sched::queue::{List, Sent, Stand, Task, Tasks};
use crate::sched::share::Share;
use crate::sched::size::Size;
use crate::sched::staff::Staff;
use crate::sched::supervise::WATCH;
use crate::sched::worker::{Cause, Seat, Worker};
use crate::sched::{Action, Answer, Config, Input, Outcome};

/// Who runs what, when, and what a loss means. See the room's door for the rules that it keeps.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(super) config: Config,
    pub(super) mode: Mode,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
    /// The tasks that wait.
    pub(super) queue: Queue,
    /// Those that wait for a place in the queue, and places that are kept free.
    pub(super) places: Places,
    /// The tasks that wait to run alone.
    pub(super) alone: List,
    pub(super) seats: Vec<Seat>,
    /// The seats whose worker can be given tasks, or asked for some back, by how much it has to do.
    pub(super) ready: Levels,
    pub(super) forecast: Forecast,
    /// The seat that has to be listed anew before anything is decided.
    pub(super) touched: Option<u32>,
    /// Whether a worker has given something back. What is urgent may still wait.
    pub(super) returned: bool,
    /// When to see whether something has to be recalled.
    pub(super) rebalance: Option<Time>,
    pub(super) staff: Staff,
    pub(super) size: Size,
    /// When to look for workers that are too old, on the wall's clock.
    pub(super) aging: Option<Time>,
    pub(super) share: Share,
    /// When `Shutdown`'s limit is over.
    pub(super) limit: Option<Time>,
    pub(super) tally: Tally,
    pub(super) finished: u64,
    actions: VecDeque<Action>,
    #[cfg(test)]
    pub(super) bug: Option<crate::sched::sim::Bug>,
}

/// The shortest time after which a worker is idle or old. Shorter ones would only start processes.
const SHORTEST: Duration = Duration::from_millis(10);

/// What the pool is up to. It only ever gets further down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Running,
    /// Finishes what was submitted.
    Draining,
    /// Finishes what was sent.
    Closing,
    Closed,
}

impl Scheduler {
    /// A scheduler that does nothing yet: `Start` comes first.
    pub(crate) fn new(config: Config) -> Self {
        let Config { workers, most_workers, slots, queue_limit, idle, most_age, most_tasks, .. } = config;
        let size = Size::new(workers, most_workers);
        let (slots, queue_limit, most_tasks) = (slots.max(1), queue_limit.max(1), most_tasks.max(1));
        let [idle, most_age] = [idle, most_age].map(|limit| limit.map(|limit| limit.max(SHORTEST)));
        let config = Config { slots, queue_limit, idle, most_age, most_tasks, ..config };
        Self {
            mode: Mode::Running,
            clock: Clock::default(),
            tasks: Tasks::default(),
            queue: Queue::default(),
            places: Places::default(),
            alone: List::default(),
            seats: (0..size.first()).map(|_| Seat::default()).collect(),
            ready: Self::levels(config.slots),
            forecast: Forecast::default(),
            touched: None,
            returned: false,
            rebalance: None,
            staff: Staff::new(size.most),
            size,
            aging: None,
            share: Share::default(),
            limit: None,
            tally: Tally::default(),
            finished: 0,
            actions: VecDeque::new(),
            #[cfg(test)]
            bug: None,
            config,
        }
    }

    /// Takes in what happened, and decides what comes of it.
    pub(crate) fn handle(&mut self, now: Instant, input: Input) {
        self.take_in(now, input);
        self.conclude();
    }

    /// Takes in one of many things that have happened by now. What comes of them together is for `conclude` to decide, which
    /// has to follow: deciding costs more than most of them do.
    pub(crate) fn take_in(&mut self, now: Instant, input: Input) {
        self.clock.advance(now, !planted!(self, CountStops));
        match input {
            Input::Start => self.start(),
            Input::Submit { task, spec } => self.submit(task, spec),
            Input::Reserve { task, spec } => self.reserve(task, spec),
            Input::Redeem { task, spec } => self.redeem(task, spec),
            Input::Cancel { task } => self.cancel(task),
            Input::Read { task, cost } => self.read(task, cost),
            Input::Shutdown { limit } => self.shutdown(limit),
            Input::Drain => self.drain(),
            Input::Abort => self.abort(),
            Input::Resize { least, most } => self.resize(least, most),
            Input::Granted { kind, n } => self.granted(kind, n),
            Input::Nudged => self.nudged(),
            Input::Tick => {}
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
            | Input::Bye { worker }
            | Input::Weighed { worker, .. }
            | Input::Violated { worker }
            | Input::HungUp { worker }
            | Input::Scarce { worker }
            | Input::Futile { worker }
            | Input::Lost { worker, .. } => {
                if let Some(seat) = self.seat(worker) {
                    self.handle_worker(seat, input);
                }
            }
        }
    }

    /// Decides what comes of what was taken in. Time that has passed counts only now: an answer is heard before its limit is.
    pub(crate) fn conclude(&mut self) {
        self.relist();
        if self.clock.strikes() {
            self.strike();
        }
        if self.config.below {
            self.grow();
        }
        self.dispatch();
        while self.admit() {
            if self.config.below {
                self.grow();
            }
            self.dispatch();
        }
        if std::mem::take(&mut self.returned)
            && let Some(priority) = self.queue.highest()
        {
            self.make_way(priority);
        }
        self.rebalance();
        self.fit();
        if self.staff.changed {
            self.assess();
        }
        self.wind_down();
        self.share();
        self.clock.rest();
    }

    /// Sees to everything that is due.
    fn strike(&mut self) {
        while let Some(due) = self.clock.expire() {
            self.expire(due);
        }
        while let Some(alarm) = self.clock.fire() {
            self.ring(alarm);
        }
    }

    /// What is to be done next, until there is nothing.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`handle`](Self::handle) at the latest. Always later than the last call.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.clock.timeout()
    }

    /// Whether it takes tasks.
    pub(crate) fn is_running(&self) -> bool {
        self.mode == Mode::Running
    }

    /// What a worker runs, as far as can be known here, and for how long.
    pub(crate) fn running_for(&self, now: Instant, id: WorkerId) -> Vec<(TaskId, Duration)> {
        let Some(worker) = self.seat(id).and_then(|seat| self.worker(seat)) else { return Vec::new() };
        let now = self.clock.at(now);
        let running = worker.tasks.running(&self.tasks).filter_map(|index| self.tasks.at(index));
        running.filter_map(|task| Some((task.id, now.saturating_sub(task.begun()?)))).collect()
    }

    fn handle_worker(&mut self, seat: u32, input: Input) {
        match input {
            Input::Lost { begun, .. } => return self.lost(seat, begun),
            Input::Scarce { .. } => return self.refused(seat),
            Input::Futile { .. } => return self.discouraged(seat),
            Input::HungUp { .. } => return self.hung_up(seat),
            Input::Weighed { bytes, .. } => return self.weighed(seat, bytes),
            Input::Violated { .. } => return self.doom(seat, Cause::Violation),
            _ => {}
        }
        if !self.hear(seat) {
            return;
        }
        match input {
            Input::Ready { .. } => self.greeted(seat),
            Input::Open { .. } => self.opened(seat),
            Input::Done { task, attempt, answer, used, .. } => {
                self.learn(task, answer, used);
                self.done(seat, task, attempt, answer);
            }
            Input::Item { task, attempt, cost, .. } => self.item(seat, task, attempt, cost),
            Input::Answers { task, attempt, n, .. } => self.answers(seat, task, attempt, n),
            Input::Cut { task, attempt, from, rest, .. } => self.cut(seat, task, attempt, from, rest),
            Input::Recalled { tasks, .. } => self.recalled(seat, &tasks),
            Input::Bye { .. } => self.parted(seat),
            Input::Lease { worker, kind, n } => self.lease(worker, kind, n),
            Input::Returned { worker, kind, n } => self.given_back(seat, worker, kind, n),
            _ => {}
        }
    }

    fn cancel(&mut self, id: TaskId) {
        if self.tasks.get(id).is_some() {
            self.give_up(id.index, ErrorKind::Cancelled);
        }
    }

    fn done(&mut self, seat: u32, id: TaskId, attempt: u32, answer: Answer) {
        let legal =
            |task: &Task| task.is_on(seat) && (task.attempts == attempt || planted!(self, AcceptStale));
        let Some(task) = self.tasks.get(id).filter(|&task| legal(task)) else {
            return self.doom(seat, Cause::Violation);
        };
        let stop = task.sent.as_ref().and_then(|sent| sent.stop.as_ref());
        let kind = stop.map_or(ErrorKind::Cancelled, |stop| stop.kind);
        let (stops, packed) = (stop.is_some(), task.pack().is_some());
        // Of a pack that is to stop the worker may come to the end of what it has not given back.
        let answer = match (answer, packed && task.weight() > 0) {
            (Answer::Finished, true) if stops => Answer::Cancelled { began: false },
            (Answer::Finished, true) => return self.doom(seat, Cause::Violation),
            (answer, _) => answer,
        };
        self.take_back(seat, id.index);
        match answer {
            Answer::Finished => {
                if let Some(worker) = self.worker_mut(seat).filter(|_| !packed) {
                    worker.finished += 1;
                }
                self.finished += u64::from(!packed);
                if planted!(self, DoubleResolve) && self.finished.is_multiple_of(16) {
                    self.act(Action::Resolve { task: id, outcome: Outcome::Answered });
                }
                self.resolve(id.index, Outcome::Answered);
            }
            Answer::Cancelled { began } => {
                let worker = self.worker(seat).map(|worker| worker.id);
                let rest = self.stopped(id.index, began, worker, kind);
                let began = (began || self.tasks.at(id.index).is_some_and(Task::came)) && !packed;
                let ran = self.tasks.take(id.index, began).is_some_and(|(ran, _)| ran);
                match rest {
                    true => self.fail(id.index, kind, worker, ran),
                    false => self.resolve(id.index, Outcome::Answered),
                }
            }
        }
        self.settle(seat);
    }

    /// Gives the tasks that are next to the emptiest workers.
    fn dispatch(&mut self) {
        if !self.alone.is_empty() {
            self.isolate();
        }
        while !self.queue.is_empty() {
            let Some(emptiest) = self.roomy() else { return };
            let Some(index) = self.queue.pop(&mut self.tasks, planted!(self, StarveLane)) else { return };
            self.give(index, emptiest);
        }
    }

    /// The best worker with room, if nothing has to be decided before a task is sent there.
    pub(super) fn free_seat(&mut self) -> Option<u32> {
        if self.waits() || self.config.below || self.mode > Mode::Running || self.clock.strikes() {
            return None;
        }
        self.relist();
        self.roomy()
    }

    /// Sends a task that is in no list to the emptiest worker, or to one that comes to it as soon.
    pub(super) fn give(&mut self, index: u32, emptiest: u32) {
        let Some(task) = self.tasks.at(index) else { return };
        let seat = self.at_work(task, emptiest).unwrap_or(emptiest);
        self.send(index, seat);
    }

    pub(super) fn send(&mut self, index: u32, seat: u32) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let spare = self.tasks.spare();
        let place = &mut self.seats[seat as usize];
        let (Some(worker), Some(task)) = (&mut place.worker, self.tasks.at_mut(index)) else { return };
        // One of which nothing is known fills the room that there is.
        let count = task.weight();
        let mut worth = self.forecast.of(task.kind).unwrap_or(WORTH);
        if count > 1 {
            worth = worth.times(count);
        }
        if worker.tasks.is_empty() {
            (worker.heard, worker.pinged) = (now, false);
        }
        let sequence = worker.sent + 1;
        worker.sent += u64::from(count);
        worker.alone = task.stand == Stand::Alone;
        worker.given += u64::from(count);
        let last = worker.given >= self.config.most_tasks;
        task.attempts += 1;
        let sent = Sent { seat, sequence, worth, recalled: false, begun: None, due: None, stop: None };
        task.sent = Some(sent.boxed(spare));
        if let Some(flow) = task.flow_mut() {
            *flow = Flow::default();
        }
        let left = task.deadline().map(|at| at.saturating_sub(wall));
        let timed = task.extras.is_some();
        let run = Action::Run { worker: worker.id, task: task.id, attempt: task.attempts, left };
        let begun = worker.tasks.add(&mut self.tasks, index, self.config.slots, now);
        if timed && (begun || planted!(self, TimeAhead)) {
            self.begin(index);
        }
        if self.seats[seat as usize].watch.is_none() {
            self.clock.arm(Alarm::Watch(seat), &mut self.seats[seat as usize].watch, WATCH);
        }
        self.list(seat);
        self.act(run);
        if last {
            self.spend(seat, Leave::Tasks);
        }
    }

    /// Takes a task from its worker and off its ladder. It is then in no list.
    pub(super) fn take_back(&mut self, seat: u32, index: u32) {
        if let Some(worker) = &mut self.seats[seat as usize].worker {
            worker.tasks.remove(&mut self.tasks, index);
            worker.alone = false;
        }
        self.forget_ladder(index);
    }

    /// After a task has left a worker: the worker has room, or nothing to stay for.
    pub(super) fn settle(&mut self, seat: u32) {
        self.share.rested = Some(seat);
        self.begin_next(seat);
        if self.worker(seat).is_some_and(|worker| worker.quarantined) {
            self.review(seat);
        }
        self.touch(seat);
        self.release(seat);
    }

    /// Whether anything waits for a worker.
    pub(super) fn waits(&self) -> bool {
        !self.queue.is_empty() || !self.alone.is_empty()
    }

    /// Learns from an answer how long tasks of its kind take.
    fn learn(&mut self, id: TaskId, answer: Answer, used: Duration) {
        if let Some(task) = self.tasks.get(id).filter(|_| answer == Answer::Finished) {
            let tasks = task.pack().map_or(1, |pack| pack.count.max(1));
            self.forecast.learn(task.kind, used, tasks);
        }
    }

    /// Resolves a task that is in no list.
    pub(super) fn resolve(&mut self, index: u32, outcome: Outcome) {
        if let Some(task) = self.tasks.remove(index) {
            if let Some(at) = task.deadline() {
                self.clock.forget(at, Due::Task(index));
            }
            if self.mode > Mode::Running {
                self.tally.count(outcome, task.weight().into());
            }
            self.act(Action::Resolve { task: task.id, outcome });
        }
    }

    /// Resolves a task that is in no list, with an error.
    pub(super) fn fail(&mut self, index: u32, kind: ErrorKind, worker: Option<WorkerId>, may_have_run: bool) {
        let attempts = self.tasks.at(index).map_or(0, |task| task.attempts);
        self.resolve(index, Outcome::Failed { kind, worker, attempts, may_have_run });
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// The seat of a worker that has not gone.
    fn seat(&self, id: WorkerId) -> Option<u32> {
        self.worker(id.index).is_some_and(|worker| worker.id == id).then_some(id.index)
    }

    pub(super) fn worker(&self, seat: u32) -> Option<&Worker> {
        self.seats.get(seat as usize)?.worker.as_ref()
    }

    pub(super) fn worker_mut(&mut self, seat: u32) -> Option<&mut Worker> {
        self.seats.get_mut(seat as usize)?.worker.as_mut()
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.seats.iter().filter_map(|seat| seat.worker.as_ref())
    }

    /// The seats whose worker is like that.
    pub(super) fn seats_where(&self, is: impl Fn(&Seat) -> bool) -> Vec<u32> {
        (0..).zip(&self.seats).filter(|(_, seat)| is(seat)).map(|(index, _)| index).collect()
    }
}
