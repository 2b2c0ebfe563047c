//! Packs: many brief tasks of one kind that wait, are sent and are held as one, since keeping the books of each costs more than
//! it takes. Their answers come one by one all the same, and when a worker is lost in the middle of one they part.
//!
//! ```text
//!  0 ──────── done ──────── begun ──────── count
//!    answered      lost, if           given back: to the queue if the worker was lost,
//!                  the worker is      to a pack of its own if those before take long (cut)
//! ```

use crate::error::ErrorKind;
use crate::id::{TaskId, WorkerId};
use crate::sched::forecast::Worth;
use crate::sched::queue::Task;
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::worker::{Cause, Worker};
use crate::sched::{Action, Outcome};

/// How long a pack may be predicted to take. It is many times what sending one costs, and a tenth of what a busy worker is
/// sent ahead, so that packs still balance.
const WORTH: Worth = Worth::micros(100);

/// What takes longer than this is sent by itself: packing would save a tenth of it at most.
const BRIEF: Worth = Worth::micros(20);

/// How many tasks a pack has at most.
const MOST: u32 = 256;

/// How far a pack has come.
#[derive(Debug)]
pub(super) struct Pack {
    /// How many tasks it has.
    pub(super) count: u32,
    /// How many of them are answered.
    pub(super) done: u32,
}

impl Task {
    /// How many tasks it stands for that are not answered.
    pub(super) fn weight(&self) -> u32 {
        self.pack().map_or(1, |pack| pack.count - pack.done)
    }
}

impl Scheduler {
    /// How many tasks of this kind are to be sent together; less than two: each by itself.
    pub(crate) fn pack(&self, kind: u32) -> u32 {
        let config = &self.config;
        // What counts tasks, or has several of them run at once, has to see each.
        if config.slots > 1 || config.most_tasks < u64::MAX || config.queue_limit < u32::MAX {
            return 0;
        }
        match self.forecast.of(kind) {
            Some(each) if each <= BRIEF => {
                (WORTH.as_nanos() / each.as_nanos().max(1)).min(MOST.into()) as u32
            }
            _ => 0,
        }
    }

    /// A worker has answered the next tasks of a pack.
    pub(super) fn answers(&mut self, seat: u32, id: TaskId, attempt: u32, n: u32) {
        let fits = |pack: &&mut Pack| n > 0 && n <= pack.count - pack.done;
        let Some(pack) = self.packed(seat, id, attempt).filter(fits) else {
            return self.doom(seat, Cause::Violation);
        };
        pack.done += n;
        let n = u64::from(n);
        if let Some(worker) = self.worker_mut(seat) {
            worker.finished += n;
        }
        self.finished += n;
        if self.mode > Mode::Running {
            self.tally.count(Outcome::Answered, n);
        }
        self.act(Action::Deliver { task: id });
    }

    /// A worker has given back the end of a pack. What is to stop stops there, too.
    pub(super) fn cut(&mut self, seat: u32, id: TaskId, attempt: u32, from: u32, rest: TaskId) {
        let fits = |pack: &&mut Pack| from > 0 && pack.done <= from && from < pack.count;
        let Some(pack) = self.packed(seat, id, attempt).filter(fits) else {
            return self.doom(seat, Cause::Violation);
        };
        let all = std::mem::replace(&mut pack.count, from);
        let count = all - from;
        let Some(task) = self.tasks.at(id.index) else { return };
        let stop = task.sent.as_ref().and_then(|sent| sent.stop.as_ref()).map(|stop| stop.kind);
        let mut successor = Task::successor(task, rest, count);
        successor.bytes = (u64::from(task.bytes) * u64::from(count) / u64::from(all)) as u32;
        let fresh = self.tasks.insert(successor);
        debug_assert!(fresh, "{rest:?} was given for a rest and is taken");
        self.act(Action::Split { task: id, at: from, rest });
        match stop {
            Some(kind) => self.fail(rest.index, kind, None, false),
            None if self.mode >= Mode::Closing => self.fail(rest.index, ErrorKind::Closed, None, false),
            None => {
                self.queue.put_back(&mut self.tasks, vec![rest.index]);
                self.call_back_for_rest();
            }
        }
    }

    /// A pack is in no list, and its worker ran it up to `begun`. What is not answered of that has failed; the rest can go on.
    /// Whether there is any.
    pub(super) fn part(&mut self, index: u32, begun: u32, worker: WorkerId, kind: ErrorKind) -> bool {
        let Some(task) = self.tasks.at_mut(index) else { return false };
        let (id, attempts) = (task.id, task.attempts);
        let Some(pack) = task.pack_mut() else { return false };
        let begun = begun.clamp(pack.done, pack.count);
        let failed = begun - pack.done;
        *pack = Pack { count: pack.count - begun, done: 0 };
        let rest = pack.count > 0;
        let outcome = Outcome::Failed { kind, worker: Some(worker), attempts, may_have_run: true };
        if self.mode > Mode::Running {
            self.tally.count(outcome, failed.into());
        }
        self.act(Action::Part { task: id, begun, outcome });
        rest
    }

    /// A task has stopped, and is in no list. Whether anything of it is left to be resolved.
    pub(super) fn stopped(
        &mut self,
        index: u32,
        began: bool,
        worker: Option<WorkerId>,
        kind: ErrorKind,
    ) -> bool {
        let done = self.tasks.at(index).and_then(|task| Some(task.pack()?.done));
        match (done, worker) {
            (Some(done), Some(worker)) => self.part(index, done + u32::from(began), worker, kind),
            _ => true,
        }
    }

    /// The worker of a task that is in no list is lost, and had begun so many. Whether anything is left of a pack that parts;
    /// `None` for what does not.
    pub(super) fn fall_apart(&mut self, index: u32, begun: u64, worker: &Worker) -> Option<bool> {
        let task = self.tasks.at(index)?;
        let (pack, sent) = (task.pack()?, task.sent.as_ref()?);
        let begun = begun.saturating_sub(sent.sequence - 1).min(pack.count.into()) as u32;
        let begun = begun.max(pack.done);
        if begun == 0 || begun == pack.count && pack.done < pack.count {
            return None;
        }
        let kind = sent.stop.as_ref().map_or_else(|| worker.blame(), |stop| stop.kind);
        Some(self.part(index, begun, worker.id, kind))
    }

    /// A pack that the worker holds.
    fn packed(&mut self, seat: u32, id: TaskId, attempt: u32) -> Option<&mut Pack> {
        let known = self.tasks.get(id).is_some_and(|task| task.is_on(seat) && task.attempts == attempt);
        self.tasks.at_mut(id.index).filter(|_| known)?.pack_mut()
    }
}
