//! Who gets into the queue: its bound, by tasks and by the bytes of their inputs, and the line of those who wait for a
//! place. Which of what is in the queue is next is not decided here.
//!
//! ```text
//!  reserve ─▶ Asking ── admit ─▶ Reserved ── redeem ──┐
//!  submit ──▶ Outside ─────────── admit ──────────────┼─▶ Inside: the queue, and on from there
//!  submit, and there is a place ──────────────────────┘
//! ```
//!
//! The bound is on what waits, not on what runs: a task that was sent to a worker has given its place up. One that comes
//! back from there is let in whatever the bound says.

use crate::error::ErrorKind;
use crate::id::{TaskId, WorkerId};
use crate::sched::queue::{List, Stand, Task};
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::{Action, Outcome, Spec};

/// What a place counts for as long as nobody knows what it is for. Less lets more callers at once exceed the bound by what
/// they send; more keeps callers waiting whose inputs are small.
const NOMINAL: u32 = 64 << 10;

/// Those who are not in the queue and want to be.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// They wait for a place, first come first served.
    pub(super) line: List,
    /// They have one and have not said what for.
    pub(super) reserved: List,
    /// How many tasks have ever come into the queue.
    entered: u64,
}

/// How full a queue is, of how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fullness {
    pub(crate) queued: u32,
    /// Places that are kept free for somebody.
    pub(crate) reserved: u32,
    /// Those who wait for a place.
    pub(crate) line: u32,
    pub(crate) limit: u32,
    pub(crate) bytes: u64,
    pub(crate) bytes_limit: u64,
}

impl Fullness {
    /// Whether there is a place for another task of that size. One that is larger than the bound has a place when
    /// nothing else has.
    fn fits(&self, size: u32) -> bool {
        let taken = self.queued.saturating_add(self.reserved);
        taken < self.limit && (self.bytes == 0 || self.bytes.saturating_add(size.into()) <= self.bytes_limit)
    }
}

impl Scheduler {
    #[inline]
    pub(crate) fn fullness(&self) -> Fullness {
        let reserved = self.places.reserved.len();
        Fullness {
            queued: self.queue.len(),
            reserved,
            line: self.places.line.len(),
            limit: self.config.queue_limit,
            bytes: self.queue.bytes() + u64::from(reserved) * u64::from(NOMINAL),
            bytes_limit: self.config.queue_bytes,
        }
    }

    /// Whether there is a place for another task of that size, and nobody who came before waits for it.
    fn has_place(&self, size: u32) -> bool {
        let ahead = !self.places.line.is_empty() && !planted!(self, JumpLine);
        !ahead && self.fullness().fits(size) || planted!(self, OverFill)
    }

    pub(super) fn submit(&mut self, id: TaskId, spec: Spec) {
        if !self.introduce(id, &spec) {
            return;
        }
        if self.has_place(spec.bytes) {
            if spec.patient {
                self.act(Action::Grant { task: id });
            }
            self.enter(id.index);
        } else {
            self.queue_up(id.index, Stand::Outside, spec.patient);
        }
    }

    /// Takes in a task that will only stand behind those of a worker that has as many as it can run: what time it is matters to
    /// nobody then, and nothing else comes of it. `false`: something may, nothing was done, and it is to be submitted as ever.
    pub(crate) fn submit_behind(&mut self, id: TaskId, spec: &Spec) -> bool {
        let limited = spec.timeout.is_some() || spec.deadline.is_some() || spec.retries > 0;
        let timed = limited && !planted!(self, TimelessLimit);
        let changes = self.size.is_elastic() || self.config.most_tasks < u64::MAX;
        if timed || changes || self.staff.gave_up.is_some() || !self.has_place(spec.bytes) {
            return false;
        }
        let order = self.places.entered + 1;
        let task = Task { stand: Stand::Inside, order, ..Task::new(id, *spec) };
        let Some(seat) = self.free_seat().and_then(|seat| self.behind(&task, seat)) else { return false };
        if !self.tasks.insert(task) {
            return false;
        }
        self.places.entered = order;
        if spec.patient {
            self.act(Action::Grant { task: id });
        }
        self.queue.see(spec.priority);
        self.send(id.index, seat);
        true
    }

    pub(super) fn reserve(&mut self, id: TaskId, spec: Spec) {
        let spec = Spec { bytes: NOMINAL, ..spec };
        if !self.introduce(id, &spec) {
            return;
        }
        if self.has_place(spec.bytes) {
            self.keep_place(id.index);
        } else {
            self.queue_up(id.index, Stand::Asking, spec.patient);
        }
    }

    pub(super) fn redeem(&mut self, id: TaskId, spec: Spec) {
        if !self.tasks.get(id).is_some_and(|task| task.stand == Stand::Reserved) {
            return;
        }
        self.places.reserved.unlink(&mut self.tasks, id.index);
        if let Some(task) = self.tasks.at_mut(id.index) {
            (task.kind, task.bytes) = (spec.kind, spec.bytes);
            task.stream(spec.stream);
        }
        // Its caller may know sooner than the alarm that it is too late.
        if spec.is_late() {
            return self.fail(id.index, ErrorKind::TimedOut, None, false);
        }
        // While it was reserved, starting workers may have been given up.
        match self.staff.gave_up {
            Some(worker) => self.fail(id.index, ErrorKind::Launch, Some(worker), false),
            None => self.enter(id.index),
        }
    }

    /// Takes note of a new task, unless it is refused whatever the bound says.
    fn introduce(&mut self, id: TaskId, spec: &Spec) -> bool {
        if self.mode > Mode::Running {
            // None of those that the end is about.
            let outcome =
                Outcome::Failed { kind: ErrorKind::Closed, worker: None, attempts: 0, may_have_run: false };
            self.act(Action::Resolve { task: id, outcome });
            return false;
        }
        let fresh = self.tasks.insert(Task::new(id, *spec));
        debug_assert!(fresh, "{id:?} was submitted to a place that is taken");
        if !fresh {
            return false;
        }
        let (kind, worker) = if spec.is_late() {
            (ErrorKind::TimedOut, None)
        } else if let Some(worker) = self.staff.gave_up {
            (ErrorKind::Launch, Some(worker))
        } else {
            self.limit(id.index, spec);
            return true;
        };
        self.fail(id.index, kind, worker, false);
        false
    }

    /// Puts a task that is in no list into the queue, or through it if it would be the next to be sent.
    fn enter(&mut self, index: u32) {
        self.places.entered += 1;
        let Some(task) = self.tasks.at_mut(index) else { return };
        (task.stand, task.order) = (Stand::Inside, self.places.entered);
        let priority = task.priority;
        if let Some(emptiest) = self.free_seat() {
            self.queue.see(priority);
            return self.give(index, emptiest);
        }
        let first = self.queue.is_first(priority);
        self.queue.push(&mut self.tasks, index);
        if first {
            self.make_way(priority);
        }
    }

    /// Keeps a place for a task that is in no list.
    fn keep_place(&mut self, index: u32) {
        let Some(task) = self.tasks.at_mut(index) else { return };
        task.stand = Stand::Reserved;
        let task = task.id;
        self.places.reserved.push_back(&mut self.tasks, index);
        self.act(Action::Grant { task });
    }

    /// Has a task that is in no list wait for a place, if it is so patient.
    fn queue_up(&mut self, index: u32, stand: Stand, patient: bool) {
        if !patient {
            return self.fail(index, ErrorKind::Overloaded, None, false);
        }
        if let Some(task) = self.tasks.at_mut(index) {
            task.stand = stand;
        }
        self.places.line.push_back(&mut self.tasks, index);
    }

    /// Lets in those who wait for a place, as far as there are places. Whether any has come into the queue.
    pub(super) fn admit(&mut self) -> bool {
        let mut entered = false;
        while let Some(index) = self.places.line.first() {
            let Some(task) = self.tasks.at(index) else { break };
            let (id, asks) = (task.id, task.stand == Stand::Asking);
            if !self.fullness().fits(task.bytes) || planted!(self, ForgetLine) && !self.queue.is_empty() {
                break;
            }
            self.places.line.unlink(&mut self.tasks, index);
            if asks {
                self.keep_place(index);
            } else {
                self.act(Action::Grant { task: id });
                self.enter(index);
                entered = true;
            }
        }
        entered
    }

    /// Takes out a task that no worker holds from where it waits.
    pub(super) fn withdraw(&mut self, index: u32) {
        match self.tasks.at(index).map(|task| task.stand) {
            Some(Stand::Inside) => self.queue.remove(&mut self.tasks, index),
            Some(Stand::Alone) => self.alone.unlink(&mut self.tasks, index),
            Some(Stand::Reserved) => self.places.reserved.unlink(&mut self.tasks, index),
            Some(Stand::Asking | Stand::Outside) => self.places.line.unlink(&mut self.tasks, index),
            None => {}
        }
    }

    /// Fails everything that waits, be it for a worker or for a place.
    pub(super) fn fail_queue(&mut self, kind: ErrorKind, worker: Option<WorkerId>) {
        while let Some(index) = self.queue.pop(&mut self.tasks, false) {
            let ran = self.tasks.at(index).is_some_and(Task::ran);
            self.fail(index, kind, worker, ran);
        }
        self.fail_alone(kind, worker);
        while let Some(index) = self.places.line.pop_front(&mut self.tasks) {
            self.fail(index, kind, worker, false);
        }
    }

    /// The pool closes: those who have not said what they want a place for come too late.
    pub(super) fn call_in(&mut self) {
        while let Some(index) = self.places.reserved.pop_front(&mut self.tasks) {
            self.fail(index, ErrorKind::Closed, None, false);
        }
        let asks = |index: &u32| self.tasks.at(*index).is_some_and(|task| task.stand == Stand::Asking);
        for index in self.places.line.iter(&self.tasks).filter(asks).collect::<Vec<_>>() {
            self.places.line.unlink(&mut self.tasks, index);
            self.fail(index, ErrorKind::Closed, None, false);
        }
    }
}
