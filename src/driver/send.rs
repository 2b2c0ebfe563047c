//! What leaves the state: frames into the outboxes of links, and what is left to do when the lock is free.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::Life;
use super::port::Port;
use super::state::State;
use crate::id::{TaskId, WorkerId};
use crate::link::Outbox;
use crate::uplink::Line;
use crate::wire::frame::{Run, ToWorker};
use crate::wire::payload::Payload;

/// What is left to do when the lock is free. The rest is dropped then.
pub(super) struct Late {
    pub(super) woken: Vec<Waker>,
    pub(super) launches: Vec<WorkerId>,
    pub(super) news: Option<Life>,
    pub(super) speaker: Option<Arc<Line>>,
    _spent: (Vec<Payload>, Vec<Outbox>),
}

impl State {
    /// Takes out what is to be done when the lock is free. Mostly, that is nothing, and costs nothing to hand on.
    #[inline]
    pub(super) fn late(&mut self) -> Option<Box<Late>> {
        let Self { woken, launches, news, speaker, spent, unsent, .. } = self;
        let told = news.is_none() && speaker.is_none();
        if told && woken.is_empty() && launches.is_empty() && spent.is_empty() && unsent.is_empty() {
            return None;
        }
        let (woken, launches) = (std::mem::take(woken), std::mem::take(launches));
        let _spent = (std::mem::take(spent), std::mem::take(unsent));
        Some(Box::new(Late { woken, launches, news: news.take(), speaker: speaker.take(), _spent }))
    }

    /// Puts a frame into a worker's outbox and sees to it that its link's task looks there.
    pub(super) fn send(&mut self, worker: WorkerId, frame: &ToWorker) {
        let Some(port) = find(&mut self.ports, worker) else { return };
        port.outbox.add(&self.codec, frame, &[]);
        self.woken.extend(port.call());
    }

    pub(super) fn send_run(&mut self, worker: WorkerId, task: TaskId, attempt: u32, left: Option<Duration>) {
        let Some((index, input)) = self.calls.input(task) else {
            return self.send_pack(worker, task, attempt);
        };
        let Some(port) = find(&mut self.ports, worker) else { return };
        let remaining_us = left.map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX));
        let frame = ToWorker::Run(Run { task, attempt, index, remaining_us, trace: None });
        match input.small() {
            Some(input) => port.outbox.add(&self.codec, &frame, input),
            // Copied, if at all, by the link's task and not under the lock.
            None => port.outbox.add_bulk(frame, input.clone()),
        }
        if let Some(waker) = port.given(self.slots as usize) {
            self.woken.push(waker);
        }
    }
}

/// The port of a worker that has not gone.
pub(super) fn find(ports: &mut [Option<Port>], worker: WorkerId) -> Option<&mut Port> {
    ports.get_mut(worker.slot())?.as_mut().filter(|port| port.worker == worker)
}
