//! Streams, between their workers and their consumers: what has come and was not read. How much may come is the
//! scheduler's to decide.

use std::any::TypeId;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::options::Leash;
use super::state::{Hand, State};
use super::{Driver, Options, Place, report};
use crate::error::Error;
use crate::id::{TaskId, WorkerId};
use crate::sched::{Input, Spec};
use crate::task::{StreamTask, describe_stream};
use crate::wire::credit::cost;
use crate::wire::payload::Payload;

/// A stream's call.
pub(super) struct Streaming {
    /// Kept until the end is there, as for a task.
    input: Payload,
    leash: Option<Arc<Leash>>,
    /// What has come and was not taken.
    items: VecDeque<Payload>,
    /// How it ended, if it has.
    end: Option<Result<(), Error>>,
    waker: Option<Waker>,
}

impl Streaming {
    pub(super) fn new(input: Payload, leash: Option<Arc<Leash>>) -> Self {
        Self { input, leash, items: VecDeque::new(), end: None, waker: None }
    }

    /// The input, unless it is over.
    pub(super) fn input(&self) -> Option<&Payload> {
        self.end.is_none().then_some(&self.input)
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Notes how it ended. The waker is to be woken when the lock is free, and the input dropped then.
    pub(super) fn end(
        &mut self,
        answer: Result<Payload, Error>,
    ) -> (Option<Waker>, Option<Arc<Leash>>, Payload) {
        self.end = Some(answer.map(drop));
        (self.waker.take(), self.leash.take(), mem::take(&mut self.input))
    }

    /// Nobody will read it: gives out what is to be dropped when the lock is free, and keeps what it needs to be sent.
    pub(super) fn abandon(&mut self) -> Self {
        let (items, waker) = (mem::take(&mut self.items), self.waker.take());
        Self { input: Payload::new(), leash: None, items, end: None, waker }
    }
}

/// What a consumer gets.
pub(crate) type Taken = Option<Result<(), Error>>;

impl Driver {
    /// Submits a stream whose input has been encoded.
    ///
    /// # Errors
    ///
    /// As `submit`.
    pub(crate) fn submit_stream<T: StreamTask>(
        &self,
        input: Payload,
        options: &Options,
        place: Place,
    ) -> Result<TaskId, Error> {
        self.shared.timeless(|state| state.submit_stream::<T>(input, options, place))
    }

    /// Says how much was read, and takes all that has come into `items`, which is empty. `Some(Ok)`: there is something;
    /// otherwise the stream is over, perhaps with an error, and forgotten.
    pub(crate) fn poll_items(
        &self,
        task: TaskId,
        read: u32,
        items: &mut VecDeque<Payload>,
        cx: &Context<'_>,
    ) -> Poll<Taken> {
        // Cloned here, and dropped here if it is not needed: both may be anybody's code.
        let mut waker = Some(cx.waker().clone());
        let mut old = None;
        let taken = self.shared.with(|state, now| {
            if read > 0 {
                state.handle(now, Input::Read { task, cost: read });
            }
            let Some(stream) = state.calls.stream(task) else {
                return Poll::Ready(Some(Err(report::closed())));
            };
            if !stream.items.is_empty() {
                mem::swap(&mut stream.items, items);
                return Poll::Ready(Some(Ok(())));
            }
            let Some(end) = stream.end.take() else {
                old = mem::replace(&mut stream.waker, waker.take());
                return Poll::Pending;
            };
            state.calls.remove(task);
            Poll::Ready(end.err().map(Err))
        });
        drop(old);
        taken
    }

    /// Says how much was read.
    pub(crate) fn read(&self, task: TaskId, cost: u32) {
        self.shared.with(|state, now| state.handle(now, Input::Read { task, cost }));
    }
}

/// Stands for a stream in the table of types: one type may be a task and a stream.
struct Streamed<T>(T);

impl State {
    fn submit_stream<T: StreamTask>(
        &mut self,
        input: Payload,
        options: &Options,
        place: Place,
    ) -> Result<TaskId, Error> {
        let kind = self.kind(TypeId::of::<Streamed<T>>(), T::NAME, describe_stream::<T>)?;
        let spec = Spec { stream: true, ..options.spec(kind, input.len(), false) };
        self.admit(input, options, spec, place).map(|submitted| submitted.task)
    }

    /// An item came. One that nobody reads any more is dropped.
    pub(super) fn receive_item(
        &mut self,
        now: Instant,
        worker: WorkerId,
        task: TaskId,
        attempt: u32,
        body: Payload,
    ) {
        let cost = cost(body.len());
        let mut hand = Hand::Item(body);
        self.take_in(now, Input::Item { worker, task, attempt, cost }, &mut hand);
        if let (Hand::Item(_), Some(port)) = (hand, self.port_mut(worker)) {
            port.fault.get_or_insert_with(|| {
                "it sent an item that its stream had no credit for, or of a stream that it does not run"
                    .to_owned()
            });
        }
    }

    pub(super) fn deliver(&mut self, task: TaskId, item: Payload) {
        if let Some(stream) = self.calls.stream(task) {
            stream.items.push_back(item);
            let waker = stream.waker.take();
            self.woken.extend(waker);
        }
    }
}
