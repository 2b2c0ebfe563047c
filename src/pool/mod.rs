//! The typed front: encodes inputs, submits, decodes outputs, cancels on drop. It never touches a process.

mod builder;
mod bulk;
mod closing;
mod events;
mod items;
mod life;
mod many;
mod one;
mod pack;
mod permit;
mod run;
#[cfg(test)]
mod tests;
mod tree;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::Stream;
use tokio_util::sync::CancellationToken;

pub use builder::PoolBuilder;
pub use closing::Closing;
pub use events::Events;
pub use items::Items;
pub use permit::Permit;
pub use run::{AbortHandle, Run};

use crate::driver::{self, Driver, Options, Place};
use crate::task::{StreamTask, Task};
use many::{Many, Order};
use one::One;

/// A pool of worker processes. Dropping the last clone ends it: tasks that are not done resolve as
/// [`Closed`](crate::ErrorKind::Closed), the workers are killed, and nothing is left behind.
///
/// Clones are cheap and are the same pool. Each clone is a caller of its own: callers take turns, task by task, so that
/// many tasks of one do not keep a few of another waiting. What [`with_priority`](Self::with_priority) and the other
/// `with_` methods give is a view: the same pool and the same caller, with options for what is submitted through it.
///
/// A [`Run`] or [`Items`] does not keep its pool alive. The pool lives on the
/// runtime that built it, current-thread or multi-thread, and ends with it; its handles can be awaited on any runtime.
///
/// ```no_run
/// # use procpool::{Context, Pool, Task, Worker};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Square(u64);
/// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
/// #[tokio::main]
/// async fn main() -> Result<(), procpool::Error> {
///     Worker::new().task::<Square>().init();
///     let pool = Pool::builder().workers(4).build().await?;
///     assert_eq!(pool.run(Square(12)).await?, 144);
///     pool.drain().await;
///     Ok(())
/// }
/// ```
pub struct Pool {
    owner: Arc<Owner>,
    options: Options,
}

/// Ends the pool when the last clone goes.
struct Owner {
    driver: Driver,
}

impl Pool {
    /// Configures a new pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    /// Runs one task. It is on its way at once, whether or not the returned [`Run`] is polled: as soon as the pool's
    /// runtime gets to it. Dropping the `Run` cancels it.
    ///
    /// ```no_run
    /// # use procpool::{Context, Pool, Task, Error};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// assert_eq!(pool.run(Square(12)).await?, 144);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// All of them come out of the `Run`: see [`ErrorKind`](crate::ErrorKind). When the queue is full
    /// ([`queue_limit`](PoolBuilder::queue_limit), [`queue_bytes`](PoolBuilder::queue_bytes)), the task is refused with
    /// [`Overloaded`](crate::ErrorKind::Overloaded); [`reserve`](Self::reserve) waits instead.
    ///
    /// # Panics
    ///
    /// Never, save where the task's own `Serialize` does.
    pub fn run<T: Task>(&self, task: T) -> Run<T::Output> {
        Run::start(self.driver(), &self.options, &task, Place::Free)
    }

    /// Runs a task for every input and gives the outputs in the order of the inputs.
    ///
    /// Lazy: inputs are taken while the stream is polled, at most 1 024 or 4 MiB of encoded input ahead of what has been
    /// taken out of it, so endless iterators are welcome. Of tasks that take less than 20 µs and give back little it is up to
    /// 32 768: these are sent together, so many at a time as take 100 µs. Nothing else is different about them: each has its
    /// own outcome, and when one turns out to take long, those behind it go elsewhere. Tasks with a timeout, a deadline or
    /// retries, and those of a pool with several slots, a [queue limit](PoolBuilder::queue_limit) or a
    /// [number of tasks a worker](PoolBuilder::max_tasks_per_worker), are always sent one by one.
    ///
    /// When the pool's queue is full it waits for places there, in turn with everybody else who does. An error is one item
    /// and does not end the stream; only when the view's deadline has passed or its token is cancelled, the next input's
    /// error is the last item and stands for all inputs that were not taken.
    /// [`Error::index`](crate::Error::index) names an error's input. Dropping the stream cancels what is under way.
    ///
    /// ```no_run
    /// # use procpool::{Context, Pool, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), procpool::Error> {
    /// use futures::TryStreamExt;
    ///
    /// let squares: Vec<u64> = pool.map((0..1000).map(Square)).try_collect().await?;
    /// # Ok(()) }
    /// ```
    pub fn map<T, I>(&self, tasks: I) -> Items<T::Output>
    where
        T: Task,
        I: IntoIterator<Item = T, IntoIter: Send + 'static>,
    {
        self.start_many(tasks, Order::Inputs)
    }

    /// As [`map`](Self::map), but gives each output as soon as it is there.
    ///
    /// ```no_run
    /// # use procpool::{Context, Pool, Task, Error};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// use futures::TryStreamExt;
    ///
    /// let sum = pool.map_unordered((0..1000).map(Square)).try_fold(0, async |sum, square| Ok(sum + square)).await?;
    /// # drop(sum);
    /// # Ok(()) }
    /// ```
    pub fn map_unordered<T, I>(&self, tasks: I) -> Items<T::Output>
    where
        T: Task,
        I: IntoIterator<Item = T, IntoIter: Send + 'static>,
    {
        self.start_many(tasks, Order::Outputs)
    }

    fn start_many<T: Task>(
        &self,
        tasks: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
        order: Order,
    ) -> Items<T::Output> {
        Many::start(self.driver().clone(), self.options.clone(), tasks.into_iter(), order).into()
    }

    /// As [`map`](Self::map), for inputs that come as a [`Stream`], in their own time: from a channel, from a socket, from
    /// another pool. Its bounds hold here too, so what the inputs come from is not read faster than tasks are done and
    /// outputs are taken.
    ///
    /// ```no_run
    /// # use procpool::{Context, Pool, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), procpool::Error> {
    /// use futures::{StreamExt, TryStreamExt};
    ///
    /// let (sender, receiver) = futures::channel::mpsc::channel(16);
    /// # drop(sender);
    /// let mut squares = pool.map_stream(receiver.map(Square));
    /// while let Some(square) = squares.try_next().await? {
    ///     println!("{square}");
    /// }
    /// # Ok(()) }
    /// ```
    pub fn map_stream<T: Task>(&self, tasks: impl Stream<Item = T> + Send + 'static) -> Items<T::Output> {
        self.start_many_of_stream(tasks, Order::Inputs)
    }

    /// As [`map_stream`](Self::map_stream), but gives each output as soon as it is there.
    pub fn map_stream_unordered<T: Task>(
        &self,
        tasks: impl Stream<Item = T> + Send + 'static,
    ) -> Items<T::Output> {
        self.start_many_of_stream(tasks, Order::Outputs)
    }

    fn start_many_of_stream<T: Task>(
        &self,
        tasks: impl Stream<Item = T> + Send + 'static,
        order: Order,
    ) -> Items<T::Output> {
        Many::start_stream(self.driver().clone(), self.options.clone(), tasks, order).into()
    }

    /// Runs one task that gives back many items, and gives them as they come. It is on its way at once, as with
    /// [`run`](Self::run); dropping the [`Items`] cancels it.
    ///
    /// A consumer that is slow stops its producer, and nobody else: what the producer may be ahead is bounded by count and
    /// by bytes (see [`Emitter`](crate::Emitter)). It then keeps its worker while it waits.
    ///
    /// When the task has returned, the stream ends. When it panics, when its worker dies, when its time is over (which the
    /// view's timeout and deadline count for the whole stream) or its token is cancelled, the items that had arrived come
    /// first, then one error, and then the stream ends. A stream that had not begun when its worker died is sent again, and
    /// nobody notices.
    ///
    /// # Errors
    ///
    /// All of them come out of the stream: see [`ErrorKind`](crate::ErrorKind). When the queue is full, it is refused as by
    /// [`run`](Self::run).
    ///
    /// ```no_run
    /// # use procpool::{Context, Emitter, Pool, StreamTask};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Count(u64);
    /// # impl StreamTask for Count { const NAME: &'static str = "count"; type Item = u64; async fn run(self, _: Context, _: Emitter<u64>) {} }
    /// # async fn example(pool: Pool) -> Result<(), procpool::Error> {
    /// use futures::TryStreamExt;
    ///
    /// let mut numbers = pool.stream(Count(1_000_000));
    /// while let Some(number) = numbers.try_next().await? {
    ///     println!("{number}");
    /// }
    /// # Ok(()) }
    /// ```
    pub fn stream<T: StreamTask>(&self, task: T) -> Items<T::Item> {
        One::start(self.driver(), &self.options, &task, Place::Free).into()
    }

    /// Ends the pool politely: from now on new tasks are refused, queued ones resolve as
    /// [`Closed`](crate::ErrorKind::Closed), and running ones may run for `limit` before they are stopped, by force if
    /// need be.
    ///
    /// It acts at once; the returned future resolves when no task and no worker is left, and may be dropped.
    ///
    /// ```no_run
    /// # async fn example(pool: procpool::Pool) {
    /// use std::time::Duration;
    ///
    /// let summary = pool.shutdown(Duration::from_secs(10)).await;
    /// println!("{} tasks were finished", summary.finished);
    /// # }
    /// ```
    pub fn shutdown(&self, limit: Duration) -> Closing {
        self.driver().shutdown(limit);
        Closing::new(self.driver())
    }

    /// Ends the pool when everything that was submitted is done, however long that takes. New tasks are refused from now
    /// on.
    ///
    /// It acts at once; the returned future resolves when no task and no worker is left, and may be dropped. The pool itself
    /// may not: dropping its last clone before that is an [`abort`](Self::abort).
    ///
    /// ```no_run
    /// # use procpool::{Context, Pool, Task, Error};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// pool.run(Square(12)).detach();
    /// pool.drain().await;
    /// # Ok(()) }
    /// ```
    pub fn drain(&self) -> Closing {
        self.driver().drain();
        Closing::new(self.driver())
    }

    /// Ends the pool now: every task resolves as [`Closed`](crate::ErrorKind::Closed), every worker is killed.
    ///
    /// It acts at once; the returned future resolves when no worker is left, and may be dropped.
    ///
    /// ```no_run
    /// # async fn example(pool: procpool::Pool) {
    /// pool.abort().await;
    /// assert!(pool.stats().workers.is_empty());
    /// # }
    /// ```
    pub fn abort(&self) -> Closing {
        self.driver().abort();
        Closing::new(self.driver())
    }

    pub(crate) fn start(driver: Driver) -> Self {
        let options = Options { lane: driver.lane(), ..Options::default() };
        Self { owner: Owner { driver }.into(), options }
    }

    /// A view for one task, which owns what is submitted through it. The token is cancelled when the task is to stop and when
    /// it has ended.
    pub(crate) fn owned(&self, token: CancellationToken, deadline: Option<Instant>) -> Self {
        let leash = self.driver().leash(token, None);
        let owner = Arc::new(driver::Owner { leash: Arc::clone(&leash), deadline });
        let options = Options {
            lane: self.driver().lane(),
            deadline,
            leash: Some(leash),
            owner: Some(owner),
            ..Options::default()
        };
        Self { owner: Arc::clone(&self.owner), options }
    }

    pub(crate) fn driver(&self) -> &Driver {
        &self.owner.driver
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pool").field(&self.stats()).finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

const _: fn() = || {
    fn is_shared<T: Send + Sync + Clone + Unpin + 'static>() {}
    fn is_sent<T: Send + Unpin + 'static>() {}
    is_shared::<Pool>();
    is_shared::<AbortHandle>();
    // Whatever the output is: a handle holds none.
    is_sent::<Run<std::rc::Rc<()>>>();
    is_sent::<Items<u64>>();
    is_sent::<Closing>();
    is_sent::<Permit>();
    is_sent::<Events>();
    is_sent::<PoolBuilder>();
};
