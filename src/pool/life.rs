//! How many workers a pool has and how long they stay: options of the builder, and resizing while it runs. What they mean
//! is decided by the scheduler.

use std::time::Duration;

use super::Pool;
use super::builder::{PoolBuilder, cores, count, refused};
use crate::error::Error;
use crate::launch::local::fits;

impl PoolBuilder {
    /// How many workers the pool keeps. Default: as many as the process may use processors, at least 1.
    ///
    /// They are all started at once; one that is lost is replaced. [`Pool::resize`] changes the number later.
    ///
    /// Tasks go to whoever is idle, but for those of up to 50 us: more workers at once than there are processors, or than this
    /// process can send such tasks to, would only take turns, so the others are left asleep.
    ///
    /// In the [pool of a worker](crate::Context::pool) it is how many it may grow to, when it has so many tasks and is lent the
    /// [`places`](Self::places) for them. Default there: as many as there are places in the tree, and
    /// descriptors for.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some((workers, workers));
        self
    }

    /// Has the pool grow and shrink with what there is to do, instead of keeping a fixed number of
    /// [`workers`](Self::workers).
    ///
    /// The pool starts with `min` workers. When tasks wait for longer than a moment and nobody is idle, more are started, one
    /// for each [`slots`](Self::slots) of tasks that wait, up to `max` in all. They stay unless there is an
    /// [`idle_timeout`](Self::idle_timeout).
    ///
    /// `min` may be 0. Even then [`build`](Self::build) starts one worker and waits until it takes tasks, so that a program
    /// that cannot be started is found there and not by the first task.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// use std::time::Duration;
    ///
    /// let pool = Pool::builder().workers_between(1, 16).idle_timeout(Duration::from_secs(60)).build().await?;
    /// # Ok(()) }
    /// ```
    pub fn workers_between(mut self, min: usize, max: usize) -> Self {
        self.workers = Some((min, max));
        self
    }

    /// How long a worker beyond the minimum of [`workers_between`](Self::workers_between) may have nothing to do until it
    /// leaves. Default: for ever; at least 10 ms.
    ///
    /// Of idle workers the one that was idle last is given the next task, so those that are not needed do get idle. A short
    /// timeout starts a process for every pause in the work.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// use std::time::Duration;
    ///
    /// let pool = Pool::builder().workers_between(1, 16).idle_timeout(Duration::from_secs(30)).build().await?;
    /// # drop(pool);
    /// # Ok(()) }
    /// ```
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle = Some(timeout);
        self
    }

    /// How many tasks a worker runs until it is replaced. Default: without limit; at least 1.
    ///
    /// For tasks that leave something behind: memory that a library leaks, state that it does not reset. The next worker is
    /// started as soon as the last of these tasks is on its way, the old one leaves when they are done, and its states are
    /// dropped. Being planned, it costs none of the restarts that a pool has for workers that crash.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder().workers(4).max_tasks_per_worker(1000).max_memory(512 << 20).build().await?;
    /// # Ok(()) }
    /// ```
    pub fn max_tasks_per_worker(mut self, tasks: u64) -> Self {
        self.config.most_tasks = tasks;
        self
    }

    /// How long a worker takes tasks until it is replaced. Default: for ever; at least 10 ms.
    ///
    /// The next one is started first; when it takes tasks the old one gets no more, finishes what it runs, however long that
    /// takes, and leaves. At most one in eight workers, and always one, is replaced at a time.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.config.most_age = Some(age);
        self
    }

    /// How much resident memory a worker may have, in bytes, until it is replaced as by [`max_age`](Self::max_age). Default:
    /// without limit.
    ///
    /// It is looked at about once a second while a worker answers tasks, so it is no bound for what a task may use. A limit
    /// that is too low for any worker does not stop the pool: each of them answers tasks first.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// use std::time::Duration;
    ///
    /// let pool = Pool::builder().max_memory(512 << 20).max_age(Duration::from_secs(3600)).build().await?;
    /// # drop(pool);
    /// # Ok(()) }
    /// ```
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.config.most_memory = bytes;
        self
    }

    /// The least and the largest number of workers.
    pub(super) fn size(&self) -> Result<(u32, u32), Error> {
        let cores = cores() as usize;
        match self.workers.unwrap_or((cores, cores)) {
            (min, max) if min > max => {
                let message = format!("a pool cannot have at least {min} and at most {max} workers");
                Err(refused(message, "give PoolBuilder::workers_between the smaller number first"))
            }
            (0, max) => Ok((0, count(max)?)),
            (min, max) => Ok((count(min)?, count(max)?)),
        }
    }
}

impl Pool {
    /// Sets the number of workers while the pool runs, also of one that was built with
    /// [`workers_between`](PoolBuilder::workers_between): from now on it is fixed.
    ///
    /// It acts at once. More workers are started right away; [`ready`](Self::ready) waits for them. When there are too many,
    /// those that are not there yet and idle ones go first; a busy one gets no more tasks, gives back what it was sent ahead,
    /// finishes what it runs, however long that takes, and leaves. No task is lost, and none runs twice.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// pool.resize(16)?;
    /// pool.ready().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Launch`](crate::ErrorKind::Launch) for 0 workers, or more than the process may open descriptors for;
    /// [`Closed`](crate::ErrorKind::Closed) once the pool was told to end. Nothing is changed then.
    pub fn resize(&self, workers: usize) -> Result<(), Error> {
        let workers = count(workers)?;
        fits(workers, self.driver().descriptors())?;
        self.driver().resize(workers)
    }
}
