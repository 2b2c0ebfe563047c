//! A place in the pool's queue, from the caller's side: waited for, used or given back. When there is one is decided by
//! the scheduler.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use super::one::One;
use super::{Items, Pool, Run};
use crate::driver::{Driver, Options, Place};
use crate::error::Error;
use crate::id::TaskId;
use crate::task::{StreamTask, Task};

/// A place in the pool's queue, kept free for one task; from [`Pool::reserve`]. Dropping it gives the place back.
///
/// Its task has the options of the view that reserved it. It does not keep the pool alive.
///
/// ```no_run
/// # use procpool::{Context, Pool, Task, Error};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Square(u64);
/// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
/// # async fn example(pool: Pool) -> Result<(), Error> {
/// let permit = pool.reserve().await?;
/// // Made only now that there is a place for it.
/// let square = permit.run(Square(12)).await?;
/// # drop(square);
/// # Ok(()) }
/// ```
#[must_use = "dropping a Permit gives its place back"]
pub struct Permit {
    driver: Driver,
    options: Options,
    /// `None` when it is used.
    task: Option<TaskId>,
}

impl Pool {
    /// Waits until the queue has a place, and keeps it free for one task.
    ///
    /// This is how to submit no faster than the pool works: where [`run`](Self::run) refuses, this waits. Places are given
    /// out first come, first served, whatever the priorities; as long as somebody waits for one, `run` refuses. A place
    /// that is kept free is missing to everybody else, a [`map`](Self::map) of this caller included: do not hold one while
    /// waiting for other tasks of the same pool. What bounds the queue is told at
    /// [`queue_limit`](crate::PoolBuilder::queue_limit).
    ///
    /// ```no_run
    /// # use procpool::{Context, Error, Pool, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder().queue_limit(100).build().await?;
    /// for n in 0..1_000_000 {
    ///     pool.reserve().await?.run(Square(n)).detach();
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) when the pool closes meanwhile, [`TimedOut`](crate::ErrorKind::TimedOut) at the
    /// view's deadline, [`Cancelled`](crate::ErrorKind::Cancelled) when its token is, and
    /// [`Launch`](crate::ErrorKind::Launch) while no worker can be started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the caller's turn, and the place if it has come to one; nothing is lost.
    pub fn reserve(&self) -> impl Future<Output = Result<Permit, Error>> + Send + use<> {
        let (driver, options) = (self.driver().clone(), self.options.clone());
        async move {
            let permit = Permit::request(driver, options, true)?;
            poll_fn(|cx| permit.poll_place(cx)).await?;
            Ok(permit)
        }
    }

    /// As [`reserve`](Self::reserve), but does not wait.
    ///
    /// ```no_run
    /// # use procpool::{Context, Pool, Task, Error};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// match pool.try_reserve() {
    ///     Ok(permit) => drop(permit.run(Square(12)).await?),
    ///     Err(error) if error.is_overloaded() => println!("come back later"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As there; [`Overloaded`](crate::ErrorKind::Overloaded) when the queue is full.
    pub fn try_reserve(&self) -> Result<Permit, Error> {
        let permit = Permit::request(self.driver().clone(), self.options.clone(), false)?;
        match permit.poll_place(&Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) => Err(error),
            // Whoever is not patient is answered at once.
            Poll::Ready(Ok(())) | Poll::Pending => Ok(permit),
        }
    }
}

impl Permit {
    fn request(driver: Driver, options: Options, patient: bool) -> Result<Self, Error> {
        let task = Some(driver.reserve(&options, patient)?);
        Ok(Self { driver, options, task })
    }

    fn poll_place(&self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let Some(task) = self.task else { return Poll::Ready(Ok(())) };
        match self.driver.poll_place(task, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(true) => Poll::Ready(Ok(())),
            Poll::Ready(false) => {
                // There is no task yet that it could be about.
                let plain = |error: Error| error.with(|report| report.task = None);
                self.driver.poll_answer(task, cx).map(|answer| answer.map(drop).map_err(plain))
            }
        }
    }

    /// Runs a task in this place, as [`Pool::run`] does. It is never refused for a full queue, however large its input.
    pub fn run<T: Task>(mut self, task: T) -> Run<T::Output> {
        let place = self.task.map_or(Place::Free, Place::Reserved);
        let run = Run::start(&self.driver, &self.options, &task, place);
        if run.id().is_some() {
            self.task = None;
        }
        run
    }

    /// Runs a stream in this place, as [`Pool::stream`] does. It is never refused for a full queue either.
    pub fn stream<T: StreamTask>(mut self, task: T) -> Items<T::Item> {
        let place = self.task.map_or(Place::Free, Place::Reserved);
        let one = One::start(&self.driver, &self.options, &task, place);
        if one.is_running() {
            self.task = None;
        }
        one.into()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.driver.release(task, true);
        }
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
