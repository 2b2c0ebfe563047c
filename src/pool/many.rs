//! Many tasks, from the caller's side: started lazily, within bounds, their outputs in order or as they come. Which worker runs which is not its
//! business.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{FuturesUnordered, Stream, StreamExt};
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

/// Many tasks, of which some are under way.
pub(super) struct Many<O> {
    /// Starts the task of the next input; `None` when there is none.
    next: Option<Next<O>>,
    started: u64,
    ahead_bytes: usize,
    running: Running<O>,
    /// The last one that was started, while it waits for a place in the queue.
    waiting: Option<Indexed<O>>,
}

/// Asks for the next input and starts its task.
type Next<O> = Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<Run<O>>> + Send>;

/// In which order outputs are given.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// That of the inputs.
    Inputs,
    /// As they come.
    Outputs,
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

impl<O: DeserializeOwned> Many<O> {
    pub(super) fn start<T: Task<Output = O>>(
        driver: Driver,
        options: Options,
        mut tasks: impl Iterator<Item = T> + Send + 'static,
        order: Order,
    ) -> Self {
        Self::new(driver, options, move |_: &mut Context<'_>| Poll::Ready(tasks.next()), order)
    }

    /// The same, with inputs that come when they like.
    pub(super) fn start_stream<T: Task<Output = O>>(
        driver: Driver,
        options: Options,
        tasks: impl Stream<Item = T> + Send + 'static,
        order: Order,
    ) -> Self {
        let mut tasks = Box::pin(tasks);
        Self::new(driver, options, move |cx: &mut Context<'_>| tasks.as_mut().poll_next(cx), order)
    }

    fn new<T: Task<Output = O>>(
        driver: Driver,
        options: Options,
        mut tasks: impl FnMut(&mut Context<'_>) -> Poll<Option<T>> + Send + 'static,
        order: Order,
    ) -> Self {
        let mut over = false;
        let next = Box::new(move |cx: &mut Context<'_>| {
            // The first input that comes too late says so, and stands for the rest: there may be no end of them.
            if over {
                return Poll::Ready(None);
            }
            let task = ready!(tasks(cx));
            over = options.is_over();
            Poll::Ready(task.map(|task| Run::start(&driver, &options, &task, Place::Awaited)))
        });
        let running = match order {
            Order::Inputs => Running::Ordered(VecDeque::new()),
            Order::Outputs => Running::Unordered(FuturesUnordered::new()),
        };
        Self { next: Some(next), started: 0, ahead_bytes: 0, running, waiting: None }
    }

    /// Starts tasks until enough are under way, no input is there, or one has to wait for a place in the queue. That one is
    /// submitted: it needs nobody to poll it, and keeps no place from others while nobody does.
    fn fill(&mut self, cx: &mut Context<'_>) {
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
            let run = match next(cx) {
                Poll::Ready(Some(run)) => run,
                Poll::Ready(None) => {
                    self.next = None;
                    return;
                }
                Poll::Pending => return,
            };
            self.ahead_bytes += run.bytes;
            self.waiting = Some(Indexed { run, index: self.started });
            self.started += 1;
        }
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<O, Error>>> {
        self.fill(cx);
        match ready!(self.running.poll_next(cx)) {
            Some((bytes, result)) => {
                self.ahead_bytes -= bytes;
                Poll::Ready(Some(result))
            }
            // Nothing has its place, but something waits for one, or there may be inputs to come.
            None if !self.is_terminated() => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    pub(super) fn size_hint(&self) -> (usize, Option<usize>) {
        (self.under_way(), self.next.is_none().then_some(self.under_way()))
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.next.is_none() && self.under_way() == 0
    }
}

impl<O> Many<O> {
    fn under_way(&self) -> usize {
        self.running.len() + usize::from(self.waiting.is_some())
    }
}

impl<O> std::fmt::Debug for Many<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Items")
            .field("started", &self.started)
            .field("under_way", &self.under_way())
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
