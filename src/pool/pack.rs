//! A pack, from the caller's side: the answers of many brief tasks one by one, in their order. That its end may have become a pack
//! of its own is not seen from outside.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

use serde::de::DeserializeOwned;

use crate::driver::{Chunk, Driver, Options, Taken, nth};
use crate::error::{Error, ErrorKind};
use crate::id::{TaskId, WorkerId};
use crate::task::Task;
use crate::wire::frame::Verdict;
use crate::wire::{pack, payload};

/// Tasks that were submitted together. Dropping it cancels those that are not answered.
pub(super) struct Pack<O> {
    driver: Driver,
    name: &'static str,
    explain: fn(&Driver, TaskId, WorkerId, u32, Verdict) -> Error,
    /// The pack that is under way, until it is over.
    task: Option<TaskId>,
    chunks: VecDeque<Chunk>,
    /// Which of all inputs is the next, and which the first that is not among these.
    index: u64,
    end: u64,
    /// What was taken out of its end, the last of it first.
    rests: Vec<Self>,
    /// How many bytes its inputs have.
    pub(super) bytes: usize,
    placed: bool,
    output: PhantomData<fn() -> O>,
}

impl<O: DeserializeOwned> Pack<O> {
    /// Submits so many tasks, of which the first is at `index` among all inputs.
    pub(super) fn start<T: Task<Output = O>>(
        driver: &Driver,
        options: &Options,
        (inputs, count): (Vec<u8>, u32),
        index: u64,
    ) -> Self {
        let bytes = inputs.len();
        let (mut chunks, mut task, mut placed) = (VecDeque::new(), None, true);
        match driver.submit_pack::<T>(inputs.into(), count, options) {
            Ok(submitted) => (task, placed) = (Some(submitted.task), submitted.placed),
            Err(error) => {
                let error = error.with(|report| report.task_name = Some(T::NAME.into()));
                chunks.push_back(Chunk::Failed { task: None, error, n: count });
            }
        }
        let (driver, explain) = (driver.clone(), Driver::unanswered::<T>);
        let end = index + u64::from(count);
        let rests = Vec::new();
        let output = PhantomData;
        Self { driver, name: T::NAME, explain, task, chunks, index, end, rests, bytes, placed, output }
    }

    /// As [`Run::poll_place`](super::run::Run::poll_place).
    pub(super) fn poll_place(&self, cx: &Context<'_>) -> Poll<()> {
        match self.task {
            Some(task) if !self.placed => self.driver.poll_place(task, cx).map(drop),
            _ => Poll::Ready(()),
        }
    }

    /// Ready when the next answer is there, or there will be none any more.
    pub(super) fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<()> {
        while self.chunks.is_empty() {
            if self.task.is_some() {
                ready!(self.poll_more(cx));
                continue;
            }
            let Some(mut next) = self.rests.pop() else { break };
            self.task = next.task.take();
            (self.index, self.end) = (next.index, next.end);
            self.rests.append(&mut next.rests);
        }
        Poll::Ready(())
    }

    /// Ready when something has come, or nothing will any more. It may be that others have taken its end.
    pub(super) fn poll_more(&mut self, cx: &Context<'_>) -> Poll<()> {
        if let (true, Some(task)) = (self.chunks.is_empty(), self.task) {
            let Taken { chunks, over, rests } = ready!(self.driver.poll_pack(task, cx));
            self.chunks.extend(chunks);
            if over {
                self.task = None;
            }
            for (rest, n) in rests {
                let end = self.end;
                self.end -= u64::from(n);
                let rest = self.rest(rest, end);
                self.rests.push(rest);
            }
        }
        Poll::Ready(())
    }

    /// A pack that begins where this one ends now.
    fn rest(&self, task: TaskId, end: u64) -> Self {
        Self {
            driver: self.driver.clone(),
            name: self.name,
            explain: self.explain,
            task: Some(task),
            chunks: VecDeque::new(),
            index: self.end,
            end,
            rests: Vec::new(),
            bytes: 0,
            placed: true,
            output: PhantomData,
        }
    }

    /// What others have taken of its end.
    pub(super) fn take_rests(&mut self) -> Vec<Self> {
        std::mem::take(&mut self.rests)
    }

    /// The next answer of those that are there, with its size.
    pub(super) fn next(&mut self) -> Option<(usize, Result<O, Error>)> {
        let (size, result) = self.first()?;
        let index = self.index;
        self.index += 1;
        Some((size, result.map_err(|error| error.with(|report| report.index = Some(index)))))
    }

    fn first(&mut self) -> Option<(usize, Result<O, Error>)> {
        // Whose last one could not be taken out without a panic.
        let spent = |chunk: &Chunk| matches!(chunk, Chunk::Answers { body, at, .. } if *at >= body.len());
        while self.chunks.front().is_some_and(spent) {
            self.chunks.pop_front();
        }
        match self.chunks.front_mut()? {
            Chunk::Answers { task, worker, attempt, body, at } => {
                let (id, worker, attempts) = (*task, *worker, *attempt);
                let (answer, failed) = pack::split(&body[*at..]).unwrap_or_default();
                // First: decoding may panic, and is not to do so again.
                *task = nth(id, 1);
                *at += pack::ANSWER + answer.len();
                let (size, over) = (answer.len(), *at >= body.len());
                let result = match failed {
                    false => payload::decode(answer).map_err(Err),
                    true => Err(payload::decode(answer)),
                };
                if over {
                    self.chunks.pop_front();
                }
                let result = result.map_err(|failure: Result<Verdict, postcard::Error>| match failure {
                    Ok(verdict) => (self.explain)(&self.driver, id, worker, attempts, verdict),
                    Err(error) => self.undecodable((id, worker, attempts), &error),
                });
                Some((size, result))
            }
            Chunk::Failed { task, error, n } => {
                let (id, error) = (*task, error.clone());
                (*task, *n) = (id.map(|id| nth(id, 1)), *n - 1);
                if *n == 0 {
                    self.chunks.pop_front();
                }
                Some((0, Err(error.with(|report| report.task = id.or(report.task)))))
            }
        }
    }

    fn undecodable(
        &self,
        (task, worker, attempts): (TaskId, WorkerId, u32),
        error: &postcard::Error,
    ) -> Error {
        Error::new(ErrorKind::Codec, format!("its output could not be decoded: {error}")).with(|report| {
            report.task = Some(task);
            report.task_name = Some(self.name.into());
            report.worker = Some(worker);
            report.attempts = attempts;
            report.may_have_run = true;
        })
    }

    /// Whether nothing will follow what is there.
    pub(super) fn is_over(&self) -> bool {
        self.task.is_none() && self.rests.is_empty()
    }
}

impl<O> Drop for Pack<O> {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.driver.release_pack(task);
        }
    }
}
