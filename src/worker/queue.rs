//! The tasks that have come over the link and have not begun, in the order in which they came. Who begins them is not its
//! business.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::id::TaskId;
use crate::wire::codec::Violation;
use crate::wire::frame::{Batch, Run};
use crate::wire::payload::Payload;

#[derive(Debug, Default)]
pub(super) struct Queue {
    tasks: VecDeque<Queued>,
    /// How many tasks have come over the link. The parent counts them too.
    received: u64,
}

/// A task that has not begun.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) task: TaskId,
    pub(super) attempt: u32,
    pub(super) index: u32,
    pub(super) deadline: Option<Instant>,
    pub(super) input: Payload,
    /// Which task of the link it is, counted from 1.
    pub(super) position: u64,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn first(&self) -> Option<&Queued> {
        self.tasks.front()
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        self.tasks.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.tasks.clear();
    }

    pub(super) fn add(&mut self, run: Run, input: Payload) {
        let left = run.remaining_us.map(Duration::from_micros);
        let deadline = left.and_then(|left| Instant::now().checked_add(left));
        let Run { task, attempt, index, .. } = run;
        self.received += 1;
        let position = self.received;
        self.tasks.push_back(Queued { task, attempt, index, deadline, input, position });
    }

    /// # Errors
    ///
    /// When the inputs are not those that the frame announces.
    pub(super) fn add_batch(&mut self, batch: Batch, mut body: Bytes) -> Result<(), Violation> {
        for (task, attempt, length) in batch.tasks {
            let length = length as usize;
            if length > body.len() {
                return Err(Violation::Malformed { reason: "a batch with too few inputs".into() });
            }
            let input = body.split_to(length).into();
            self.received += 1;
            let (index, position) = (batch.index, self.received);
            self.tasks.push_back(Queued { task, attempt, index, deadline: None, input, position });
        }
        match body.len() {
            0 => Ok(()),
            bytes => Err(Violation::Leftover { bytes }),
        }
    }

    /// Takes a task out of the middle. A scan, but of at most a prefetch's length.
    pub(super) fn take(&mut self, task: TaskId) -> Option<Queued> {
        let at = self.tasks.iter().position(|queued| queued.task == task)?;
        self.tasks.remove(at)
    }
}
