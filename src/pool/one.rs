//! One stream task, from the caller's side: its items as they come, then how it ended. Decoding happens here, on the
//! caller's side of the lock.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

use serde::de::DeserializeOwned;

use super::run::{decode, encode};
use crate::driver::{Driver, Options, Place};
use crate::error::Error;
use crate::id::TaskId;
use crate::task::StreamTask;
use crate::wire::credit::{FIRST, cost};
use crate::wire::payload::Payload;

/// Less than this is not worth telling on its own: it can't be half a window.
const LEAST: u32 = FIRST / 2;

/// A stream task that is under way.
pub(super) struct One<O> {
    driver: Driver,
    name: &'static str,
    state: State,
    /// What was taken from the driver, all at once, and not read. It counts as unread there.
    taken: VecDeque<Payload>,
    /// What was read and not told; and how much of what was taken is told at once, so that the producer gets its credit
    /// while the other half is read.
    read: u32,
    half: u32,
    items: PhantomData<fn() -> O>,
}

#[derive(Debug)]
enum State {
    Running(TaskId),
    /// It could not be submitted.
    Refused(Error),
    Over,
}

impl<O: DeserializeOwned> One<O> {
    pub(super) fn start<T: StreamTask<Item = O>>(
        driver: &Driver,
        options: &Options,
        task: &T,
        place: Place,
    ) -> Self {
        let submitted =
            encode(task, driver.limit()).and_then(|input| driver.submit_stream::<T>(input, options, place));
        let state = match submitted {
            Ok(task) => State::Running(task),
            Err(error) => State::Refused(error.with(|report| report.task_name = Some(T::NAME.into()))),
        };
        let taken = VecDeque::new();
        Self { driver: driver.clone(), name: T::NAME, state, taken, read: 0, half: 0, items: PhantomData }
    }

    pub(super) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<O, Error>>> {
        let State::Running(task) = self.state else {
            return Poll::Ready(match std::mem::replace(&mut self.state, State::Over) {
                State::Refused(error) => Some(Err(error)),
                State::Running(_) | State::Over => None,
            });
        };
        if self.taken.is_empty() {
            let read = std::mem::take(&mut self.read);
            match ready!(self.driver.poll_items(task, read, &mut self.taken, cx)) {
                Some(Ok(())) => {
                    let all = self.taken.iter().fold(0_u32, |sum, item| sum.saturating_add(cost(item.len())));
                    self.half = all.div_ceil(2);
                }
                end => {
                    self.state = State::Over;
                    return Poll::Ready(end.and_then(Result::err).map(Err));
                }
            }
        }
        let Some(item) = self.taken.pop_front() else { return Poll::Ready(None) };
        let decoded = decode(task, self.name, "an item", &item);
        if decoded.is_err() {
            // The next ones will be no better, and who skips some takes a part for the whole.
            self.end();
            return Poll::Ready(Some(decoded));
        }
        self.read = self.read.saturating_add(cost(item.len()));
        let worth = self.read >= self.half || self.taken.is_empty();
        if worth && self.read >= LEAST {
            self.half = u32::MAX;
            self.driver.read(task, std::mem::take(&mut self.read));
        }
        Poll::Ready(Some(decoded))
    }

    pub(super) fn size_hint(&self) -> (usize, Option<usize>) {
        match self.state {
            State::Running(_) => (self.taken.len(), None),
            State::Refused(_) => (1, Some(1)),
            State::Over => (0, Some(0)),
        }
    }

    pub(super) fn is_terminated(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

impl<O> One<O> {
    /// Whether it was submitted and is not over.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// Nothing more will be read.
    fn end(&mut self) {
        self.taken.clear();
        if let State::Running(task) = std::mem::replace(&mut self.state, State::Over) {
            self.driver.release(task, true);
        }
    }
}

impl<O> Drop for One<O> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<O> std::fmt::Debug for One<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Items")
            .field("state", &self.state)
            .field("taken", &self.taken.len())
            .finish_non_exhaustive()
    }
}
