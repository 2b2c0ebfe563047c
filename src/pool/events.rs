//! How a pool is doing, from the caller's side: snapshots, and a stream of what happens to its workers. It changes
//! nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{FusedStream, Stream, StreamExt};

use super::Pool;
use crate::driver::Driver;
use crate::error::Error;
use crate::event::{Event, Health, Stats};

impl Pool {
    /// A snapshot of the queue and the workers.
    ///
    /// Cheap enough for once a second with a thousand workers: it reads one small file per worker, for its memory, while the
    /// pool goes on.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// let stats = pool.stats();
    /// println!("{} tasks wait, {} run", stats.queued, stats.in_flight);
    /// for worker in stats.workers {
    ///     for task in worker.tasks {
    ///         println!("{} (pid {:?}): {} for {:?}", worker.id, worker.pid, task.name, task.since);
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn stats(&self) -> Stats {
        self.driver().stats()
    }

    /// Whether the pool takes tasks, and if it is not well, why not. Made for readiness probes, and cheap.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// let health = pool.health();
    /// let code = if health.is_ready() { 200 } else { 503 };
    /// println!("{code} {health}"); // "503 failed: 0 of 4 workers take tasks; the last one that could not be started: …"
    /// # Ok(()) }
    /// ```
    pub fn health(&self) -> Health {
        self.driver().health()
    }

    /// Resolves when all workers that the pool is to have take tasks; [`build`](crate::PoolBuilder::build) waits for the
    /// first of them only. At once if they do already.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder().workers(8).build().await?;
    /// pool.ready().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Launch`](crate::ErrorKind::Launch), with the reason, while starting workers is given up because three starts in a
    /// row have failed, even if others take tasks; [`Closed`](crate::ErrorKind::Closed) once the pool was told to end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self) -> Result<(), Error> {
        // Everything that changes the answer is told as an event too. Subscribed first, so that none is missed.
        let mut events = self.events();
        loop {
            match self.driver().readiness() {
                Some(ready) => return ready,
                None => _ = events.next().await,
            }
        }
    }

    /// What happens to the pool and its workers from now on, as a stream that ends after [`Event::Closed`].
    ///
    /// It has the semantics of `tokio::sync::broadcast`: everybody who listens gets every event, in one order. Of those that
    /// are not read the last 1 024 are kept; a slower listener loses the oldest and is told how many by
    /// [`Event::Lagged`]. While nobody listens, events cost nothing. It does not keep the pool alive.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// use futures::StreamExt;
    /// use procpool::Event;
    ///
    /// let mut events = pool.events();
    /// tokio::spawn(async move {
    ///     while let Some(event) = events.next().await {
    ///         match event {
    ///             Event::Lost { error, .. } | Event::Failed { error, .. } => eprintln!("{error}"),
    ///             Event::Degraded { .. } => eprintln!("short of workers"),
    ///             _ => {}
    ///         }
    ///     }
    /// });
    /// # Ok(()) }
    /// ```
    pub fn events(&self) -> Events {
        let driver = self.driver().clone();
        Events { key: driver.listen(), driver, over: false }
    }
}

/// A stream of [`Event`]s; from [`Pool::events`]. Dropping it costs nothing but what it would have told.
///
/// It ends when the pool has, and stays ended ([`FusedStream`]).
///
/// ```no_run
/// # async fn example(pool: procpool::Pool) {
/// use futures::StreamExt;
///
/// // Listen before something happens: what happened before is not told.
/// let mut events = pool.events();
/// tokio::spawn(async move {
///     while let Some(event) = events.next().await {
///         println!("{event:?}");
///     }
/// });
/// # }
/// ```
#[must_use = "streams do nothing unless polled"]
pub struct Events {
    driver: Driver,
    key: usize,
    over: bool,
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.over {
            return Poll::Ready(None);
        }
        let event = ready!(self.driver.poll_event(self.key, cx));
        self.over = event.is_none();
        Poll::Ready(event)
    }
}

impl FusedStream for Events {
    fn is_terminated(&self) -> bool {
        self.over
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.driver.leave(self.key);
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("over", &self.over).finish_non_exhaustive()
    }
}
