//! Sending ahead: how much a busy worker is given beyond what it runs, and taking that back when somebody else has
//! nothing to do. It does not decide which task is next.
//!
//! A worker that has to wait for its next task idles for a round trip, which is long beside a short task. So busy workers
//! are sent tasks worth [`WORTH`] of work ahead, and at least one. What has not begun is recalled when another worker is
//! idle: no task waits behind a slow one while someone has nothing to do. Brief tasks do not wake more workers than there are
//! processors, nor than this process can feed.

use std::time::Duration;

use crate::error::ErrorKind;
use crate::id::TaskId;
use crate::sched::Action;
use crate::sched::clock::Alarm;
use crate::sched::forecast::Worth;
use crate::sched::levels::Levels;
use crate::sched::queue::Task;
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::worker::{Cause, Phase, Worker};

/// How much predicted work a worker is sent ahead. Several times a round trip, which takes 20 to 70 us, and answers may
/// gather for a quarter of this before they are seen here; more makes bursts uneven, and what was sent ahead slower to
/// take back.
pub(super) const WORTH: Worth = Worth::micros(1000);

/// What has to be predicted to take longer than this to be worth a recall, which costs two frames and a round trip.
const RECALLED: Worth = Worth::micros(200);

/// What it costs this process to send a task and to take in what comes of it: 330 to 370 ns for a no-op on the processor that
/// the rest was measured on. It does that with one processor at a time.
const FEED: Worth = Worth::nanos(350);

/// How long a worker whose work was predicted to be short may be busy until that is not believed any more.
const STUCK: Duration = Duration::from_millis(1);

/// What has to be predicted to take longer than this to be worth waking an idle worker for, when there are no idle
/// processors: while others have the processors it gains nothing, and each process that takes turns with hundreds runs with
/// cold caches, several times as long.
const BRIEF: Worth = Worth::micros(50);

/// The same for one whose tasks are so brief that others would not be done with them any sooner: longer than a processor is kept
/// from somebody who wants it (3 ms by default since Linux 6.6). Two workers that take turns with this process are slower than
/// one beside it.
const KEPT: Duration = Duration::from_millis(5);

/// Levels of workers that were sent something ahead, by the logarithm of how much: enough for any `Config::ahead`.
const LEVELS: usize = 16;

impl Scheduler {
    /// The lists of workers: by what they run while a slot is free, then by how much they were sent ahead, and at last
    /// those that have no room but something that can be recalled.
    pub(super) fn levels(slots: u32) -> Levels {
        Levels::new(slots as usize + LEVELS + 1)
    }

    /// Where a worker belongs among the lists.
    pub(super) fn level(&self, worker: &Worker) -> Option<u32> {
        let (slots, load) = (self.config.slots, worker.tasks.len());
        let shut = worker.quarantined && !planted!(self, FeedQuarantined);
        let able = worker.phase == Phase::Open && !worker.terminated && worker.placed;
        if !able || worker.alone || shut {
            return None;
        }
        let stays = worker.leave.is_none() || planted!(self, FeedRetired);
        let takes = stays && !self.is_exhausted(worker);
        let Some(ahead) = load.checked_sub(slots) else { return takes.then_some(load) };
        // Those that are to stop may be about to take the worker with them.
        let room = takes
            && ahead < self.config.ahead
            && (ahead == 0 || worker.tasks.backlog(slots) < WORTH)
            && !worker.tasks.is_stopping();
        match (room, ahead) {
            (true, _) => Some(slots + (ahead + 1).ilog2().min(LEVELS as u32 - 1)),
            (false, 0) => None,
            (false, _) => Some(slots + LEVELS as u32),
        }
    }

    /// Puts a seat among those with the same room, or among none. Of idle workers the one that was used last is used
    /// first, since it is warm; busy ones take turns.
    pub(super) fn list(&mut self, seat: u32) {
        let level = match self.worker(seat) {
            Some(worker) if self.feeds(worker) => Some(0),
            Some(worker) => self.level(worker),
            None => None,
        };
        let listed = std::mem::replace(&mut self.seats[seat as usize].listed, level);
        if listed == level {
            return;
        }
        if let Some(level) = listed {
            self.ready.unlink(&mut self.seats, level, seat);
        }
        match level {
            Some(level) if level < self.config.slots => {
                self.ready.push_front(&mut self.seats, level, seat);
            }
            Some(level) => self.ready.push_back(&mut self.seats, level, seat),
            None => {}
        }
    }

    /// Whether a planted bug treats this leaving worker as an idle one.
    fn feeds(&self, worker: &Worker) -> bool {
        planted!(self, FeedLeaving) && self.mode == Mode::Running && worker.phase == Phase::Leaving
    }

    /// Notes that a seat has to be listed anew: once for all that its worker answers at one time.
    pub(super) fn touch(&mut self, seat: u32) {
        if self.touched != Some(seat) {
            self.relist();
            self.touched = Some(seat);
        }
    }

    pub(super) fn relist(&mut self) {
        if let Some(seat) = self.touched.take().filter(|_| !planted!(self, ForgetRoom)) {
            self.list(seat);
        }
    }

    /// The worker for a task if it only stands behind others there: the emptiest, if that one has as many as it can run; or one
    /// that is at work, as long as it will be seen whether it comes to them.
    pub(super) fn behind(&self, task: &Task, emptiest: u32) -> Option<u32> {
        let is_full = |seat: &u32| {
            let seat = &self.seats[*seat as usize];
            seat.listed >= Some(self.config.slots) && seat.watch.is_some()
        };
        let at_work = || self.at_work(task, emptiest).filter(|_| self.rebalance.is_some());
        Some(emptiest).filter(is_full).or_else(at_work).filter(is_full)
    }

    /// The best worker with room.
    pub(super) fn roomy(&self) -> Option<u32> {
        let level = self.ready.lowest().filter(|&level| level < self.ready.top())?;
        self.ready.list(level).first()
    }

    /// A worker that is at work and comes to brief tasks before another could have them, since all processors are taken, or
    /// this one, which feeds them all. The fullest of them: so those that are not needed come to their end. A thousand workers
    /// with a trickle of brief tasks each would do little but take turns.
    pub(super) fn at_work(&self, task: &Task, emptiest: u32) -> Option<u32> {
        let idle = self.worker(emptiest).is_some_and(|worker| worker.tasks.is_empty());
        let others = self.ready.above() + u32::from(idle);
        if self.pays(others, task) {
            return None;
        }
        let worth = self.forecast.of(task.kind)?.times(task.weight());
        if worth > BRIEF {
            return None;
        }
        let (slots, fed) = (self.config.slots, self.is_fed(task));
        let limit = if fed && !self.queue.is_first(task.priority) { WORTH } else { RECALLED };
        let patience = if fed { KEPT } else { STUCK };
        let fits = |worker: &Worker| {
            let room = worker.recalls == 0 && worker.tasks.len() < slots + self.config.ahead;
            room && worker.tasks.backlog(slots).plus(worth) < limit && self.silence(worker) < patience
        };
        // Of those with as much, the one that came there last was heard last.
        let mut fullest = (1..self.ready.top()).rev().filter_map(|level| self.ready.list(level).last());
        fullest.find(|&seat| self.worker(seat).is_some_and(fits))
    }

    /// Whether tasks like this one are done with sooner by that many workers than by one less: if there are processors for them
    /// beside what this process needs to feed them, and if it can feed as many.
    fn pays(&self, workers: u32, task: &Task) -> bool {
        if workers <= 1 {
            return true;
        }
        let Some(worth) = self.forecast.of_many(task.kind) else { return true };
        let (worth, feed) = (worth.times(task.weight()).as_nanos(), FEED.as_nanos());
        let (workers, processors, both) =
            (u64::from(workers), u64::from(self.config.processors), worth.saturating_add(feed));
        let room = workers.saturating_mul(both) <= processors.saturating_mul(worth).saturating_add(both / 2);
        room && (workers - 1) * feed < worth
    }

    /// Whether as many are at work on tasks like this one as it pays, though there are more processors.
    fn is_fed(&self, task: &Task) -> bool {
        !self.pays(self.ready.above() + 1, task) && !self.pays(self.config.processors, task)
    }

    /// Whether a worker will come to what it was sent ahead before it could be had back.
    fn comes_soon(&self, worker: &Worker) -> bool {
        worker.tasks.backlog(self.config.slots) < RECALLED && self.silence(worker) < STUCK
    }

    /// For how long a worker has not been heard.
    fn silence(&self, worker: &Worker) -> Duration {
        self.clock.now().saturating_sub(worker.heard)
    }

    /// Recalls something for an idle worker from one that will not come to it soon.
    pub(super) fn rebalance(&mut self) {
        let slots = self.config.slots;
        let (lowest, highest) = (self.ready.lowest(), self.ready.highest());
        let uneven = lowest.is_some_and(|lowest| lowest < slots) && highest > Some(slots);
        if !uneven || !self.queue.is_empty() || self.mode >= Mode::Closing {
            return;
        }
        let mut later = false;
        // Those below the top have room, so it is little that waits there: one look at them until the alarm is enough, or in
        // bursts each answer would cost a look at all workers.
        let lowest = if self.rebalance.is_some() { self.ready.top() } else { slots + 1 };
        let busy = (lowest..=self.ready.top()).rev();
        let rich = busy.flat_map(|level| self.ready.list(level).iter(&self.seats)).find(|&seat| {
            let Some(worker) = self.worker(seat).filter(|worker| worker.recalls == 0) else { return false };
            let Some(task) = self.recallable(worker).next().and_then(|index| self.tasks.at(index)) else {
                return false;
            };
            let soon = self.comes_soon(worker) || self.silence(worker) < KEPT && self.is_fed(task);
            later |= soon;
            !soon
        });
        if let Some(seat) = rich.filter(|_| !planted!(self, NeverRecall)) {
            self.recall(seat, 2);
        } else if later && self.rebalance.is_none() {
            self.clock.arm(Alarm::Rebalance, &mut self.rebalance, STUCK);
        }
    }

    /// Has a worker that will not come to it soon give back what it was sent ahead, so that a task of this priority goes before
    /// it: the one that was heard last, which is the first to have room. If more are needed they are asked when it has done so,
    /// since all that is given back has to be sent again.
    pub(super) fn make_way(&mut self, priority: i8) {
        // While somebody has room, nothing waits.
        if self.roomy().is_some() {
            return;
        }
        let slow = |seat: u32| {
            let worker =
                self.worker(seat).filter(|worker| worker.recalls == 0 && !self.comes_soon(worker))?;
            let below = |index: u32| self.tasks.at(index).is_some_and(|task| task.priority < priority);
            self.recallable(worker).any(below).then_some((worker.heard, seat))
        };
        let rich = self.ready.list(self.ready.top()).iter(&self.seats);
        if let Some((_, seat)) = rich.filter_map(slow).max() {
            self.recall_below(seat, 1, Some(priority));
        }
    }

    /// Asks a worker to give back the last of what it was sent ahead: all of it, half, a third …
    pub(super) fn recall(&mut self, seat: u32, part: usize) {
        self.recall_below(seat, part, None);
    }

    /// The same, of priorities lower than that.
    fn recall_below(&mut self, seat: u32, part: usize, priority: Option<i8>) {
        let Some(worker) = self.worker(seat) else { return };
        let below = |task: &Task| priority.is_none_or(|priority| task.priority < priority);
        let mut can: Vec<u32> =
            self.recallable(worker).filter(|&index| self.tasks.at(index).is_some_and(below)).collect();
        self.ask_back(seat, can.split_off(can.len() - can.len().div_ceil(part)));
    }

    /// Asks a worker for everything that it can give back: what has a slot may not have begun, as it would know.
    pub(super) fn recall_all(&mut self, seat: u32) {
        let Some(worker) = self.worker(seat) else { return };
        let can = worker.tasks.iter(&self.tasks).filter(|&index| self.can_recall(index)).collect();
        self.ask_back(seat, can);
    }

    fn ask_back(&mut self, seat: u32, indices: Vec<u32>) {
        let open = self.seats[seat as usize].worker.as_mut().filter(|worker| worker.phase == Phase::Open);
        let Some(worker) = open.filter(|_| !indices.is_empty()) else { return };
        let mut tasks = Vec::new();
        for index in indices {
            let Some(task) = self.tasks.at_mut(index) else { continue };
            if let Some(sent) = &mut task.sent {
                sent.recalled = true;
                tasks.push(task.id);
            }
        }
        worker.recalls += 1;
        let worker = worker.id;
        self.act(Action::Recall { worker, tasks });
    }

    /// Whether a task that was sent is neither to stop nor asked for already.
    fn can_recall(&self, index: u32) -> bool {
        let sent = self.tasks.at(index).and_then(|task| task.sent.as_ref());
        sent.is_some_and(|sent| sent.stop.is_none() && !sent.recalled)
    }

    /// What a worker was sent ahead and can be asked for.
    fn recallable(&self, worker: &Worker) -> impl Iterator<Item = u32> {
        let all = planted!(self, RecallRunning).then(|| worker.tasks.iter(&self.tasks));
        let ahead = worker.tasks.ahead(&self.tasks).filter(|_| !planted!(self, RecallRunning));
        all.into_iter().flatten().chain(ahead).filter(|&index| self.can_recall(index))
    }

    /// A worker has given back what it had not begun.
    pub(super) fn recalled(&mut self, seat: u32, tasks: &[TaskId]) {
        let asked = self.worker(seat).is_some_and(|worker| worker.recalls > 0);
        // Each may be given back once, and all of them must be right for any to count.
        if !asked || !tasks.iter().all(|&task| self.take_promise(seat, task)) {
            return self.doom(seat, Cause::Violation);
        }
        let weigh = |task: &TaskId| self.tasks.get(*task).map_or(0, |task| u64::from(task.weight()));
        let given = tasks.iter().map(weigh).sum();
        let Some(worker) = self.worker_mut(seat) else { return };
        worker.recalls -= 1;
        worker.given = worker.given.saturating_sub(given);
        let id = worker.id;
        let mut back = Vec::new();
        for &task in tasks {
            let index = task.index;
            self.take_back(seat, index);
            let Some((ran, stop)) = self.tasks.take(index, false) else { continue };
            match stop {
                Some(kind) => self.fail(index, kind, Some(id), ran),
                None if self.mode >= Mode::Closing => self.fail(index, ErrorKind::Closed, Some(id), ran),
                None if planted!(self, ReturnLast) => self.queue.push(&mut self.tasks, index),
                None => self.give_back(index, &mut back),
            }
        }
        self.queue.put_back(&mut self.tasks, back);
        self.keep(seat);
        self.settle(seat);
        self.returned = true;
    }

    /// Whether the seat's worker was asked for this task and has not given it back.
    fn take_promise(&mut self, seat: u32, task: TaskId) -> bool {
        let known = self.tasks.get(task).is_some_and(|known| known.is_on(seat) && !known.came());
        let sent = self.tasks.at_mut(task.index).filter(|_| known).and_then(|task| task.sent.as_mut());
        sent.is_some_and(|sent| std::mem::take(&mut sent.recalled))
    }

    /// What was not given back has begun, or will.
    fn keep(&mut self, seat: u32) {
        let Some(worker) = self.worker(seat).filter(|worker| worker.recalls == 0) else { return };
        for index in worker.tasks.iter(&self.tasks).collect::<Vec<_>>() {
            if let Some(sent) = self.tasks.at_mut(index).and_then(|task| task.sent.as_mut()) {
                sent.recalled = false;
            }
        }
    }
}
