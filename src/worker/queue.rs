//! The tasks that have come over the link and have not begun, in the order in which they came. Who begins them is not its
//! business.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::id::TaskId;
use crate::wire::codec::Violation;
use crate::wire::frame::{Pack, Run};
use crate::wire::pack;
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
    /// Which task of the link it is, counted from 1; of a pack, its first.
    pub(super) position: u64,
    /// What there is to know of it, if it is a pack, whose inputs are the input.
    pub(super) pack: Option<Pack>,
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
        self.tasks.push_back(Queued { task, attempt, index, deadline, input, position, pack: None });
    }

    /// # Errors
    ///
    /// When the inputs are not those that the frame announces.
    pub(super) fn add_pack(&mut self, frame: Pack, body: Bytes) -> Result<(), Violation> {
        let (mut rest, Pack { task, attempt, index, count, .. }) = (&body[..], frame);
        for _ in 0..count {
            pack::take_input(&mut rest)?;
        }
        if count == 0 || !rest.is_empty() {
            return Err(Violation::Leftover { bytes: rest.len() });
        }
        let position = self.received + 1;
        self.received += u64::from(count);
        let (input, pack) = (body.into(), Some(frame));
        self.tasks.push_back(Queued { task, attempt, index, deadline: None, input, position, pack });
        Ok(())
    }

    /// Takes a task out of the middle. A scan, but of at most a prefetch's length.
    pub(super) fn take(&mut self, task: TaskId) -> Option<Queued> {
        let at = self.tasks.iter().position(|queued| queued.task == task)?;
        self.tasks.remove(at)
    }
}
