//! Many tasks, from the caller's side: a lazy, bounded stream of their outputs. Which worker runs which is not its
//! business.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{FusedStream, FuturesUnordered, Stream, StreamExt};
use serde::de::DeserializeOwned;

use super::run::Run;
use crate::driver::{Driver, Options, Place};
use crate::error::Error;
use crate::task::Task;

/// How many tasks a stream keeps ahead of its consumer. Fewer starve the workers when tasks are short; more cost memory
/// and make a dropped stream cancel more.
const AHEAD: usize = 1024;

/// How many bytes of encoded input it keeps ahead. One input may always be under way, however large.
const AHEAD_BYTES: usize = 4 << 20;

/// A stream of outputs, each a `Result`; from [`Pool::map`](crate::Pool::map). Dropping it cancels the tasks that are
/// under way.
///
/// It ends when its inputs have ended and every task is done, and stays ended ([`FusedStream`]).
#[must_use = "streams do nothing unless polled"]
pub struct Items<O> {
    /// Starts the task of the next input; `None` when there is none.
    next: Option<Box<dyn FnMut() -> Option<Run<O>> + Send>>,
    started: u64,
    ahead_bytes: usize,
    running: Running<O>,
    /// The last one that was started, while it waits for a place in the queue.
    waiting: Option<Indexed<O>>,
}

enum Running<O> {
    Ordered(VecDeque<Indexed<O>>),
    Unordered(FuturesUnordered<Indexed<O>>),
}

/// A task that knows its place among the inputs.
struct Indexed<O> {
    run: Run<O>,
    index: u64,
}

impl<O: DeserializeOwned> Items<O> {
    pub(super) fn ordered<T: Task<Output = O>>(
        driver: Driver,
        options: Options,
        tasks: impl Iterator<Item = T> + Send + 'static,
    ) -> Self {
        Self::new(driver, options, tasks, Running::Ordered(VecDeque::new()))
    }

    pub(super) fn unordered<T: Task<Output = O>>(
        driver: Driver,
        options: Options,
        tasks: impl Iterator<Item = T> + Send + 'static,
    ) -> Self {
        Self::new(driver, options, tasks, Running::Unordered(FuturesUnordered::new()))
    }

    fn new<T: Task<Output = O>>(
        driver: Driver,
        options: Options,
        mut tasks: impl Iterator<Item = T> + Send + 'static,
        running: Running<O>,
    ) -> Self {
        let mut over = false;
        let next = Box::new(move || {
            // The first input that comes too late says so, and stands for the rest: there may be no end of them.
            if over {
                return None;
            }
            over = options.is_over();
            tasks.next().map(|task| Run::start(&driver, &options, &task, Place::Awaited))
        });
        Self { next: Some(next), started: 0, ahead_bytes: 0, running, waiting: None }
    }

    /// Starts tasks until enough are under way, or one has to wait for a place in the queue. That one is submitted: it needs
    /// nobody to poll it, and keeps no place from others while nobody does.
    fn fill(&mut self, cx: &Context<'_>) {
        loop {
            if let Some(waiting) = self.waiting.take() {
                if waiting.run.poll_place(cx).is_pending() {
                    self.waiting = Some(waiting);
                    return;
                }
                self.running.push(waiting);
            }
            if self.running.len() >= AHEAD || self.ahead_bytes >= AHEAD_BYTES {
                return;
            }
            let Some(next) = &mut self.next else { return };
            let Some(run) = next() else {
                self.next = None;
                return;
            };
            self.ahead_bytes += run.bytes;
            self.waiting = Some(Indexed { run, index: self.started });
            self.started += 1;
        }
    }

    fn under_way(&self) -> usize {
        self.running.len() + usize::from(self.waiting.is_some())
    }
}

impl<O: DeserializeOwned> Stream for Items<O> {
    type Item = Result<O, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.fill(cx);
        match ready!(this.running.poll_next(cx)) {
            Some((bytes, result)) => {
                this.ahead_bytes -= bytes;
                Poll::Ready(Some(result))
            }
            None if this.waiting.is_some() => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.under_way(), self.next.is_none().then_some(self.under_way()))
    }
}

impl<O: DeserializeOwned> FusedStream for Items<O> {
    fn is_terminated(&self) -> bool {
        self.next.is_none() && self.under_way() == 0
    }
}

impl<O> std::fmt::Debug for Items<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Items")
            .field("started", &self.started)
            .field("under_way", &(self.running.len() + usize::from(self.waiting.is_some())))
            .finish_non_exhaustive()
    }
}

impl<O> Running<O> {
    fn len(&self) -> usize {
        match self {
            Self::Ordered(runs) => runs.len(),
            Self::Unordered(runs) => runs.len(),
        }
    }
}

impl<O: DeserializeOwned> Running<O> {
    fn push(&mut self, run: Indexed<O>) {
        match self {
            Self::Ordered(runs) => runs.push_back(run),
            Self::Unordered(runs) => runs.push(run),
        }
    }

    /// The next output, with the size of its input.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Result<O, Error>)>> {
        match self {
            Self::Ordered(runs) => {
                let Some(first) = runs.front_mut() else { return Poll::Ready(None) };
                let result = ready!(Pin::new(first).poll(cx));
                runs.pop_front();
                Poll::Ready(Some(result))
            }
            Self::Unordered(runs) => runs.poll_next_unpin(cx),
        }
    }
}

impl<O: DeserializeOwned> Future for Indexed<O> {
    type Output = (usize, Result<O, Error>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.run).poll(cx));
        let index = self.index;
        Poll::Ready((self.run.bytes, result.map_err(|error| error.with(|report| report.index = Some(index)))))
    }
}
