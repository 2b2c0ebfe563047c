//! Views of a pool: cheap clones with options for everything that is submitted through them. What the options mean is
//! decided by the scheduler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Pool;
use crate::driver::Options;

impl Pool {
    /// A view whose tasks have this priority. Default: 0.
    ///
    /// Of the tasks that wait the highest priority is sent first; what runs is not interrupted. Setting it again replaces
    /// it.
    ///
    /// ```no_run
    /// # use procpool::{Context, Error, Pool, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// let urgent = pool.with_priority(10);
    /// let bulk = pool.with_priority(-10);
    /// let many = bulk.map((0..1_000_000).map(Square));
    /// let one = urgent.run(Square(12)).await?;
    /// # drop(many);
    /// # Ok(()) }
    /// ```
    pub fn with_priority(&self, priority: i8) -> Self {
        self.view(|options| options.priority = priority)
    }

    /// A view whose tasks may take this long.
    ///
    /// It counts from when a task begins, waiting excluded, and anew for every attempt. A task whose time is over is
    /// stopped as if it were cancelled, by force if need be, and resolves as [`TimedOut`](crate::ErrorKind::TimedOut); its
    /// output is delivered if it comes before that. Setting it again replaces it.
    ///
    /// ```no_run
    /// # use procpool::{Context, Error, Pool, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// use std::time::Duration;
    ///
    /// match pool.with_timeout(Duration::from_secs(1)).run(Square(12)).await {
    ///     Err(error) if error.is_timed_out() => println!("it took too long"),
    ///     other => println!("{}", other?),
    /// }
    /// # Ok(()) }
    /// ```
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        self.view(|options| options.timeout = Some(timeout))
    }

    /// A view whose tasks have to be done by then, waiting included.
    ///
    /// A task that still waits at its deadline never runs and resolves as [`TimedOut`](crate::ErrorKind::TimedOut), at once
    /// if it comes too late already; one that runs is stopped as by [`with_timeout`](Self::with_timeout), and the earlier of
    /// the two counts. Tasks see it as [`Context::deadline`](crate::Context::deadline). It bounds a whole
    /// [`map`](Self::map). Setting it again replaces it.
    ///
    /// ```no_run
    /// # use procpool::{Context, Error, Pool, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// use std::time::{Duration, Instant};
    ///
    /// let answer_by = Instant::now() + Duration::from_millis(200);
    /// let request = pool.with_deadline(answer_by);
    /// let (a, b) = futures::future::try_join(request.run(Square(1)), request.run(Square(2))).await?;
    /// # drop((a, b));
    /// # Ok(()) }
    /// ```
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        self.view(|options| {
            let latest = options.owner.as_ref().and_then(|owner| owner.deadline);
            options.deadline = Some(latest.map_or(deadline, |latest| latest.min(deadline)));
        })
    }

    /// A view whose tasks are tried again, so many times, when their worker dies. Default: 0, which is at most once.
    ///
    /// A worker dies of a crash, of breaking the protocol, of not answering, or because another task on it had to be
    /// stopped by force. Only that is retried: a panic, an output, an error, a timeout and a cancelled task are answers.
    /// What the worker had not begun runs elsewhere in any case and does not count. A stream is tried again only as long as
    /// none of its items has come.
    ///
    /// A task that has died with its worker is tried again alone: on a worker that was started for it and runs nothing
    /// else, so that it takes nobody with it a second time. Such a worker is started within the limits on restarting, so
    /// tasks that keep crashing come to be tried more and more slowly. What had been done before the death is not undone:
    /// tasks should stand being run twice ([`Context::attempt`](crate::Context::attempt) tells them). Setting it again
    /// replaces it.
    ///
    /// ```no_run
    /// # use procpool::{Context, Error, Pool, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// match pool.with_retries(2).run(Square(12)).await {
    ///     Err(error) if error.is_crashed() => println!("it has crashed {} workers", error.attempts()),
    ///     other => println!("{}", other?),
    /// }
    /// # Ok(()) }
    /// ```
    pub fn with_retries(&self, retries: u32) -> Self {
        self.view(|options| options.retries = retries)
    }

    /// A view whose tasks are all cancelled when this token is. Once it is, nothing more is sent. Setting it again replaces
    /// it for tasks that are submitted from then on.
    ///
    /// It acts whether or not the tasks' [`Run`](crate::Run)s are polled, and when they are detached. Make such a view once
    /// for many tasks: each is watched by a small task on the pool's runtime.
    ///
    /// ```no_run
    /// # use procpool::{Context, Error, Pool, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// use tokio_util::sync::CancellationToken;
    ///
    /// let token = CancellationToken::new();
    /// let request = pool.with_token(token.clone());
    /// let run = request.run(Square(12));
    /// token.cancel();
    /// assert!(run.await.is_err_and(|error| error.is_cancelled()));
    /// # Ok(()) }
    /// ```
    pub fn with_token(&self, token: CancellationToken) -> Self {
        let leash = self.driver().leash(token, self.options.owner.as_deref());
        self.view(|options| options.leash = Some(leash))
    }

    fn view(&self, set: impl FnOnce(&mut Options)) -> Self {
        let mut options = self.options.clone();
        set(&mut options);
        Self { owner: Arc::clone(&self.owner), options }
    }
}

/// The same pool with the same options, and a caller of its own.
impl Clone for Pool {
    fn clone(&self) -> Self {
        let lane = self.driver().lane();
        self.view(|options| options.lane = lane)
    }
}
