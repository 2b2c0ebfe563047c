//! The tasks that have begun, each in its slot, as the link knows them: which it speaks of, and until when one that is to
//! stop may clean up. It stops none.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::flow::Flow;
use crate::id::TaskId;

#[derive(Debug)]
pub(super) struct Running {
    slots: Box<[Current]>,
    /// The slots whose task was told to stop since the main thread asked last; with one slot it does not ask.
    told: Vec<usize>,
}

/// What is in a slot. Written word by word where it is: made elsewhere and copied, it would cost a brief task more than the lock
/// under which that is done.
#[derive(Debug, Default)]
struct Current {
    /// `None` if there is nothing; then there is nothing else here either.
    task: Option<TaskId>,
    /// Until when it may clean up, once it was cancelled.
    cancelled: Option<Instant>,
    /// Its account, if it is a stream.
    flow: Option<Arc<Flow>>,
}

impl Running {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| Current::default()).collect(), told: Vec::new() }
    }

    pub(super) fn begin(&mut self, slot: usize, task: TaskId) {
        self.slots[slot].task = Some(task);
    }

    /// The task in a slot is a stream. It may have been told to stop before that was known.
    pub(super) fn open_stream(&mut self, slot: usize, flow: &Arc<Flow>) {
        let current = &mut self.slots[slot];
        if current.cancelled.is_some() {
            flow.stop(&mut Vec::new());
        }
        current.flow = Some(Arc::clone(flow));
    }

    pub(super) fn has_stream(&self) -> bool {
        self.slots.iter().any(|current| current.flow.is_some())
    }

    /// A stream is granted credit. One that is over needs none. The wakers are to be woken when the link's lock is free.
    pub(super) fn grant(&self, task: TaskId, credit: u32, wakers: &mut Vec<Waker>) {
        if let Some(flow) = self.find(task).and_then(|slot| self.slots[slot].flow.as_ref()) {
            flow.grant(credit, wakers);
        }
    }

    pub(super) fn end(&mut self, slot: usize) {
        let current = &mut self.slots[slot];
        (current.task, current.cancelled) = (None, None);
        if current.flow.is_some() {
            current.flow = None;
        }
    }

    /// Where a task is. A scan, of a thousand at most as a rule, which takes less than a microsecond.
    pub(super) fn find(&self, task: TaskId) -> Option<usize> {
        self.slots.iter().position(|current| current.task == Some(task))
    }

    /// Where there is a task.
    pub(super) fn taken(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|&slot| self.slots[slot].task.is_some()).collect()
    }

    /// The task in a slot is to stop. Saying it again changes nothing. The wakers are as for [`grant`](Self::grant).
    pub(super) fn cancel(&mut self, slot: usize, until: Instant, wakers: &mut Vec<Waker>) {
        let many = self.slots.len() > 1;
        let current = &mut self.slots[slot];
        if current.task.is_some() && current.cancelled.is_none() {
            current.cancelled = Some(until);
            if let Some(flow) = &current.flow {
                flow.stop(wakers);
            }
            self.told.extend(many.then_some(slot));
        }
    }

    /// Until when the task in a slot may clean up, if it was cancelled.
    pub(super) fn cancelled(&self, slot: usize) -> Option<Instant> {
        self.slots[slot].cancelled
    }

    /// All slots whose task was cancelled and has not ended.
    pub(super) fn all_told(&self) -> Vec<(usize, Instant)> {
        self.taken().into_iter().filter_map(|slot| Some((slot, self.cancelled(slot)?))).collect()
    }

    /// The slots whose task was cancelled since this was asked last, save those that have ended.
    pub(super) fn take_told(&mut self) -> Vec<(usize, Instant)> {
        let told = std::mem::take(&mut self.told);
        // Some may have another task by now, which was not cancelled.
        told.into_iter().filter_map(|slot| Some((slot, self.cancelled(slot)?))).collect()
    }
}
