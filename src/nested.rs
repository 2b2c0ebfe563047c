//! Pools within pools: gives a task the pool that its worker is the parent of, and a worker the words to configure it. The
//! pool is as any other; what holds for the tree is decided elsewhere.
//!
//! ```text
//!  task ── cx.pool() ──▶ a view: its owner is the task, its deadline the task's
//!                          │                    (the first call in a worker starts the pool)
//!                          ▼
//!                        Nest ──▶ thread procpool-nested: a runtime ──▶ driver ──▶ workers, one level down
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use std::{io, thread};

use futures::future::{BoxFuture, join_all};

use crate::context::Context;
use crate::error::{Error, ErrorKind};
use crate::id::WorkerId;
use crate::pool::{Pool, PoolBuilder};
use crate::uplink::{Below, Uplink};
use crate::worker::Worker;

/// How the author of a worker wants its pools.
type Wish = Box<dyn Fn(PoolBuilder) -> PoolBuilder + Send + Sync>;

/// How long a worker waits for its pool to end, measured by how long it gives each of its own workers to leave: a moment more,
/// in which those that have not left are killed, and less than its own parent gives it.
const WAIT: f64 = 1.1;

impl Worker {
    /// Configures the pools that this worker's tasks get from [`Context::pool`]. Default: the builder as it is.
    ///
    /// The builder's defaults are those of [`PoolBuilder`], save where it says otherwise. Workers below a worker run the same
    /// program, with the same arguments and environment.
    ///
    /// ```
    /// # use procpool::{Context, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// use procpool::Worker;
    ///
    /// let worker = Worker::new().task::<Square>().nested(|pool| pool.workers(2));
    /// ```
    pub fn nested(mut self, configure: impl Fn(PoolBuilder) -> PoolBuilder + Send + Sync + 'static) -> Self {
        let wish: Wish = Box::new(configure);
        self.nested = Some(Box::new(wish));
        self
    }
}

impl Context {
    /// The pool of this task's worker, one level down: a task can hand parts of its work to processes below its own, as often
    /// and as deep as it likes, and wait for them. Also when it blocks, with `futures::executor::block_on` for example.
    ///
    /// The worker's first call starts the pool, of the same program and with the same tasks and states; all the worker's
    /// tasks share it. Nothing waits for that: what is submitted at once runs as soon as a process is there.
    ///
    /// What is submitted through it belongs to this task and does not outlive it: when this task is cancelled, fails or
    /// returns, what it still has under way is cancelled, detached or not. Its deadline is that of this task, or sooner.
    /// Draining, shutting down or aborting it ends it for all tasks of the worker; the next call starts another.
    ///
    /// ```
    /// use futures::TryStreamExt;
    /// use procpool::{Context, Error, Task};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Fibonacci(u32);
    ///
    /// impl Task for Fibonacci {
    ///     const NAME: &'static str = "fibonacci";
    ///     type Output = Result<u64, Error>;
    ///
    ///     async fn run(self, cx: Context) -> Result<u64, Error> {
    ///         if self.0 < 2 {
    ///             return Ok(self.0.into());
    ///         }
    ///         let pool = cx.pool()?;
    ///         let (a, b) = futures::try_join!(pool.run(Self(self.0 - 1)), pool.run(Self(self.0 - 2)))?;
    ///         Ok(a? + b?)
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`LimitExceeded`](ErrorKind::LimitExceeded) when this worker is as deep as workers may be
    ///   ([`PoolBuilder::depth_limit`]), or may not have as many descriptors open as the workers need that
    ///   [`Worker::nested`] asks for.
    /// * [`Cancelled`](ErrorKind::Cancelled) when this task is to stop, or has ended.
    /// * [`Launch`](ErrorKind::Launch) when what the pool needs cannot be had. That its workers cannot be started is told by
    ///   the tasks' own errors.
    pub fn pool(&self) -> Result<Pool, Error> {
        let token = self.leash();
        if token.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "this task is to stop, or has ended"));
        }
        let pool = self.uplink().ok_or_else(homeless).and_then(nest)?;
        Ok(pool.owned(token, self.deadline()))
    }

    /// The workers from the root's own down to the one that this task runs on: [`depth`](Self::depth) many.
    ///
    /// ```
    /// # use procpool::Context;
    /// fn who(cx: &Context) -> String {
    ///     cx.path().iter().map(ToString::to_string).collect::<Vec<_>>().join(" > ")
    /// }
    /// ```
    pub fn path(&self) -> Vec<WorkerId> {
        self.uplink().map_or_else(|| vec![self.worker_id()], |uplink| uplink.path())
    }

    /// How many threads this task had better use: its share of the machine's processors, when all the places of the tree are
    /// taken. At least 1.
    ///
    /// ```
    /// # use procpool::Context;
    /// fn sum(cx: &Context, numbers: &[u64]) -> u64 {
    ///     let part = numbers.len().div_ceil(cx.parallelism()).max(1);
    ///     std::thread::scope(|scope| {
    ///         let threads: Vec<_> = numbers.chunks(part).map(|part| scope.spawn(|| part.iter().sum::<u64>())).collect();
    ///         threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    ///     })
    /// }
    /// ```
    pub fn parallelism(&self) -> usize {
        self.uplink().map_or(1, |uplink| uplink.hello().tree.cores as usize)
    }

    fn uplink(&self) -> Option<&Arc<Uplink>> {
        self.try_state()
    }
}

/// The pools of a worker: the last one is in use, those before it were ended by a task and are on their way out.
struct Nest {
    pools: Mutex<Vec<Pool>>,
    limit: Duration,
}

impl Nest {
    fn pools(&self) -> MutexGuard<'_, Vec<Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Below for Nest {
    fn end(&self) -> BoxFuture<'static, ()> {
        let pools = self.pools().clone();
        let limit = self.limit;
        Box::pin(async move {
            // All tasks have ended; what they have left behind is on its ladder. Who even survives that sees this process end.
            let ending = join_all(pools.iter().map(|pool| pool.shutdown(Duration::ZERO)));
            let _ = tokio::time::timeout(limit, ending).await;
        })
    }
}

/// The pool below this worker, started if need be.
fn nest(uplink: &Arc<Uplink>) -> Result<Pool, Error> {
    let hello = uplink.hello();
    let deepest = hello.tree.deepest;
    if hello.depth >= deepest {
        let message = format!("a pool here would have workers more than {deepest} levels below the root");
        return Err(Error::new(ErrorKind::LimitExceeded, message).with(|report| {
            report.path = uplink.path();
            report.advice =
                Some("is there an end to the recursion? PoolBuilder::depth_limit allows more".into());
        }));
    }
    let nest = {
        let mut below = uplink.below();
        let new = || {
            let limit = PoolBuilder::below(uplink).leave_limit().mul_f64(WAIT);
            Arc::new(Nest { pools: Mutex::default(), limit }) as Arc<dyn Below>
        };
        Arc::clone(below.get_or_insert_with(new))
    };
    let nest: &dyn std::any::Any = &*nest;
    let Some(nest) = nest.downcast_ref::<Nest>() else { return Err(homeless()) };
    let mut pools = nest.pools();
    pools.retain(|pool| !pool.driver().is_closed());
    if let Some(pool) = pools.last().filter(|pool| pool.driver().is_running()) {
        return Ok(pool.clone());
    }
    let builder = PoolBuilder::below(uplink);
    let builder = match uplink.wish::<Wish>() {
        Some(configure) => configure(builder),
        None => builder,
    };
    let pool = start(builder, Arc::clone(uplink))?;
    pools.push(pool.clone());
    Ok(pool)
}

/// Starts a pool on a thread and a runtime of its own, so that whoever waits for it may block.
fn start(builder: PoolBuilder, uplink: Arc<Uplink>) -> Result<Pool, Error> {
    let (built, pool) = mpsc::channel();
    let path = uplink.path();
    let thread = thread::Builder::new().name("procpool-nested".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(built.send(Err(refused(&error)))),
        };
        runtime.block_on(async move {
            let pool = builder.build_below(uplink);
            let closed = pool.as_ref().ok().map(|pool| pool.driver().closed());
            let _ = built.send(pool);
            if let Some(closed) = closed {
                closed.await;
            }
        });
    });
    let pool = thread.map_err(|error| refused(&error)).and_then(|_| {
        pool.recv().unwrap_or_else(|_| Err(refused(&io::Error::other("its thread has failed"))))
    });
    pool.map_err(|error| error.with(|report| report.path = path))
}

fn refused(error: &io::Error) -> Error {
    Error::new(ErrorKind::Launch, format!("the pool of a worker could not be started: {error}"))
        .with(|report| report.advice = Some("look at `ulimit -u`, `ulimit -n` and memory".into()))
}

fn homeless() -> Error {
    Error::new(ErrorKind::Launch, "this worker is not a process of its own and has no pool")
}
