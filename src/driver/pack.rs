//! Packs, between their workers and whoever submitted them: the inputs that are still needed, the answers that have come and
//! were not taken. How many tasks are in one, and what becomes of them, is the scheduler's to decide.

use std::any::TypeId;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;

use super::options::Leash;
use super::report::{self, About};
use super::state::{Hand, State};
use super::{Driver, Options, Submitted};
use crate::error::Error;
use crate::id::{TaskId, WorkerId};
use crate::sched::{Input, Outcome, Spec};
use crate::task::{Task, describe};
use crate::wire::frame::{self, Verdict};
use crate::wire::pack;
use crate::wire::payload::Payload;

/// A pack's call.
pub(super) struct Packed {
    /// The inputs from the first task on that was not over when it was sent last.
    inputs: Bytes,
    /// Which of all its tasks that is.
    first: u32,
    /// How many there are from there on, and how many of these are answered.
    count: u32,
    done: u32,
    leash: Option<Arc<Leash>>,
    chunks: Vec<Chunk>,
    /// How it ended, if it has.
    end: Option<Result<(), Error>>,
    /// The packs of what was cut off, and how many tasks are in each, until that was told.
    rests: Vec<(TaskId, u32)>,
    waker: Option<Waker>,
}

/// What became of some tasks of a pack, one after the other.
pub(crate) enum Chunk {
    /// They were answered: those from there on in the body.
    Answers { task: TaskId, worker: WorkerId, attempt: u32, body: Bytes, at: usize },
    /// Each of so many has come to this.
    Failed { task: Option<TaskId>, error: Error, n: u32 },
}

/// What a submitter gets of a pack.
pub(crate) struct Taken {
    pub(crate) chunks: Vec<Chunk>,
    /// Whether nothing will follow.
    pub(crate) over: bool,
    /// Packs that have taken over the end of what this one had, the last of them first, with how many tasks each.
    pub(crate) rests: Vec<(TaskId, u32)>,
}

/// Which id a task of a pack has.
pub(crate) fn nth(pack: TaskId, n: u32) -> TaskId {
    TaskId::new(pack.serial.wrapping_add(n), pack.index)
}

impl Packed {
    pub(super) fn new(inputs: Bytes, count: u32, leash: Option<Arc<Leash>>) -> Self {
        Self {
            inputs,
            first: 0,
            count,
            done: 0,
            leash,
            chunks: Vec::new(),
            end: None,
            rests: Vec::new(),
            waker: None,
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn leash(&self) -> Option<&Arc<Leash>> {
        self.leash.as_ref()
    }

    /// What is to be sent, unless it is over.
    fn to_send(&self, task: TaskId, attempt: u32, index: u32) -> Option<(frame::Pack, &[u8])> {
        let Self { first, count, .. } = *self;
        let frame = frame::Pack { task, attempt, index, first, count };
        self.end.is_none().then_some((frame, &self.inputs[..]))
    }

    /// A pack of the tasks from `at` on.
    pub(super) fn tail(&self, at: u32) -> Option<Self> {
        let inputs = self.inputs.slice(pack::span(&self.inputs, at)..);
        (at > 0 && at < self.count).then(|| Self::new(inputs, self.count - at, self.leash.clone()))
    }

    /// Leaves the tasks from `at` on to another pack.
    fn split(&mut self, at: u32, rest: TaskId) {
        self.inputs.truncate(pack::span(&self.inputs, at));
        self.rests.push((rest, self.count - at));
        self.count = at;
    }

    /// The tasks before `until` that are not answered.
    fn unanswered(&self, task: TaskId, until: u32) -> Vec<TaskId> {
        (self.done..until).map(|n| nth(task, self.first + n)).collect()
    }

    /// What has begun before `begun` and is not answered has failed; it goes on behind that.
    fn part(&mut self, task: TaskId, begun: u32, error: Option<Error>) {
        if let Some(error) = error {
            let (task, n) = (Some(nth(task, self.first + self.done)), begun - self.done);
            self.chunks.push(Chunk::Failed { task, error, n });
        }
        self.inputs = self.inputs.slice(pack::span(&self.inputs, begun)..);
        (self.first, self.count, self.done) = (self.first + begun, self.count - begun, 0);
    }

    /// Notes how it ended. The waker is to be woken when the lock is free.
    pub(super) fn end(&mut self, answer: Result<Payload, Error>) -> (Option<Waker>, Option<Arc<Leash>>) {
        self.end = Some(answer.map(drop));
        (self.waker.take(), self.leash.take())
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn take_waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    pub(super) fn replace_waker(&mut self, waker: Option<Waker>) -> Option<Waker> {
        mem::replace(&mut self.waker, waker)
    }

    fn take(&mut self, task: TaskId) -> Option<Taken> {
        let (mut chunks, rests) = (mem::take(&mut self.chunks), mem::take(&mut self.rests));
        let over = self.end.is_some();
        if let Some(Err(error)) = self.end.take() {
            let n = self.count - self.done;
            if n > 0 {
                let task = Some(nth(task, self.first + self.done));
                chunks.push(Chunk::Failed { task, error, n });
            }
        }
        (over || !chunks.is_empty() || !rests.is_empty()).then_some(Taken { chunks, over, rests })
    }
}

impl Driver {
    /// How many tasks of this type are worth being sent together now. Less than two: each by itself.
    pub(crate) fn pack<T: Task>(&self) -> u32 {
        self.shared.lock(|state| match state.kind(TypeId::of::<T>(), T::NAME, describe::<T>) {
            Ok(kind) => state.sched.pack(kind),
            Err(_) => 0,
        })
    }

    /// Submits so many tasks as one, with inputs that have been encoded. They wait for a place in the queue.
    ///
    /// # Errors
    ///
    /// As `submit`.
    pub(crate) fn submit_pack<T: Task>(
        &self,
        inputs: Bytes,
        count: u32,
        options: &Options,
    ) -> Result<Submitted, Error> {
        self.shared.with(|state, now| state.submit_pack::<T>(now, inputs, count, options))
    }

    /// Takes what has come of a pack. Once that says that it is over, the pack is forgotten.
    pub(crate) fn poll_pack(&self, task: TaskId, cx: &Context<'_>) -> Poll<Taken> {
        // Cloned here, and dropped here if it is not needed: both may be anybody's code.
        let mut waker = Some(cx.waker().clone());
        let (taken, _old) = self.shared.lock(|state| {
            let Some(packed) = state.calls.packed_mut(task) else {
                return (Poll::Ready(Taken { chunks: Vec::new(), over: true, rests: Vec::new() }), None);
            };
            match packed.take(task) {
                None => (Poll::Pending, packed.replace_waker(waker.take())),
                Some(taken) => {
                    if taken.over {
                        state.calls.remove(task);
                    }
                    (Poll::Ready(taken), None)
                }
            }
        });
        taken
    }

    /// Nobody will ask for the answers of a pack any more, nor for those of its rest.
    pub(crate) fn release_pack(&self, task: TaskId) {
        let _old = self.shared.with(|state, now| {
            let (mut all, mut old) = (vec![task], Vec::new());
            while let Some(task) = all.pop() {
                let rests = state.calls.packed_mut(task).map(|packed| mem::take(&mut packed.rests));
                all.extend(rests.into_iter().flatten().map(|(rest, _)| rest));
                let (waits, gone) = state.calls.release(task);
                if waits {
                    state.handle(now, Input::Cancel { task });
                }
                old.push(gone);
            }
            old
        });
    }

    /// The error of a task of a pack that was answered with this.
    pub(crate) fn unanswered<T: Task>(
        &self,
        task: TaskId,
        worker: WorkerId,
        attempts: u32,
        verdict: Verdict,
    ) -> Error {
        self.shared.lock(|state| {
            let (pid, name) = (state.port(worker).and_then(|port| port.pid()), Some(T::NAME.into()));
            let about = About { task, name, worker: Some(worker), pid, attempts, stream: false, ran: None };
            state.place(report::unanswered(about, verdict))
        })
    }
}

impl State {
    fn submit_pack<T: Task>(
        &mut self,
        now: Instant,
        inputs: Bytes,
        count: u32,
        options: &Options,
    ) -> Result<Submitted, Error> {
        if options.is_cancelled() {
            return Err(report::token_cancelled());
        }
        let kind = self.kind(TypeId::of::<T>(), T::NAME, describe::<T>)?;
        let spec = Spec { pack: count, ..options.spec(kind, inputs.len(), true) };
        let task = self.calls.insert_pack(kind, Packed::new(inputs, count, options.leash.clone()))?;
        self.handle(now, Input::Submit { task, spec });
        Ok(Submitted { task, placed: self.calls.is_placed(task) })
    }

    /// Sends a pack, if that is what the task is.
    pub(super) fn send_pack(&mut self, worker: WorkerId, task: TaskId, attempt: u32) {
        let Some((index, packed)) = self.calls.packed(task) else { return };
        let Some((frame, inputs)) = packed.to_send(task, attempt, index) else { return };
        let Some(port) = super::send::find(&mut self.ports, worker) else { return };
        port.outbox.add(&self.codec, &frame::ToWorker::Pack(frame), inputs);
        self.woken.extend(port.given(self.slots as usize));
    }

    /// What goes by the name of a task: many, if it is a pack.
    pub(super) fn all_of(&self, task: TaskId) -> Vec<TaskId> {
        match self.calls.packed(task) {
            Some((_, packed)) => packed.unanswered(task, packed.count),
            None => vec![task],
        }
    }

    /// Answers of a pack came.
    pub(super) fn receive_answers(
        &mut self,
        now: Instant,
        worker: WorkerId,
        task: TaskId,
        attempt: u32,
        body: &Payload,
    ) {
        let body = body.join();
        let n = match pack::count(&body) {
            Ok(n) => n,
            Err(violation) => return self.violated(now, worker, violation.to_string()),
        };
        let mut hand = Hand::Answers { worker, attempt, n, body };
        self.take_in(now, Input::Answers { worker, task, attempt, n }, &mut hand);
        if let (Hand::Answers { .. }, Some(port)) = (hand, self.port_mut(worker)) {
            port.fault.get_or_insert_with(|| "it answered tasks of a pack that it does not run".to_owned());
        }
    }

    pub(super) fn deliver_answers(
        &mut self,
        task: TaskId,
        (worker, attempt): (WorkerId, u32),
        n: u32,
        body: Bytes,
    ) {
        let Some(packed) = self.calls.packed_mut(task) else { return };
        let first = nth(task, packed.first + packed.done);
        packed.done += n;
        packed.chunks.push(Chunk::Answers { task: first, worker, attempt, body, at: 0 });
        let waker = packed.waker.take();
        self.woken.extend(waker);
    }

    /// A worker gives back the end of a pack.
    pub(super) fn receive_cut(
        &mut self,
        now: Instant,
        worker: WorkerId,
        task: TaskId,
        attempt: u32,
        from: u32,
    ) {
        let tail = self.calls.tail(task, from);
        let Some(rest) = tail else {
            return self.violated(now, worker, report::UNASKED.to_owned());
        };
        self.handle(now, Input::Cut { worker, task, attempt, from, rest });
        let packed = self.calls.packed(task).map(|(_, packed)| packed);
        if !packed.is_some_and(|packed| packed.rests.iter().any(|(split, _)| *split == rest)) {
            self.calls.remove(rest);
        }
    }

    pub(super) fn split(&mut self, task: TaskId, at: u32, rest: TaskId) {
        if let Some(packed) = self.calls.packed_mut(task) {
            packed.split(at, rest);
            let waker = packed.waker.take();
            self.woken.extend(waker);
        }
    }

    /// The tasks of a pack part.
    pub(super) fn part(&mut self, task: TaskId, begun: u32, outcome: Outcome, hand: &Hand) {
        let Outcome::Failed { kind, worker, attempts, .. } = outcome else { return };
        let Some((_, packed)) = self.calls.packed(task) else { return };
        let lost = packed.unanswered(task, begun);
        let error = (!lost.is_empty()).then(|| {
            let error = self.failed(kind, task, worker, attempts, hand);
            self.place(error.with(|report| report.may_have_run = true))
        });
        lost.into_iter().for_each(|task| self.fall(task, worker, hand, true));
        if let Some(packed) = self.calls.packed_mut(task) {
            packed.part(task, begun, error);
            let waker = packed.waker.take();
            self.woken.extend(waker);
        }
    }
}
