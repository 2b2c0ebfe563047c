//! What a pool tells about itself: snapshots, and what happens to its workers, as plain data. It is made by the scheduler
//! and the driver and read by users.

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::id::{TaskId, WorkerId};

/// A snapshot of a pool, from [`Pool::stats`](crate::Pool::stats).
///
/// ```no_run
/// # fn example(pool: procpool::Pool) {
/// let stats = pool.stats();
/// println!("{} wait ({} bytes), {} under way", stats.queued, stats.queued_bytes, stats.in_flight);
/// println!("{} of {} places, {} processes", stats.places.used, stats.places.limit, stats.processes.used);
/// for worker in &stats.workers {
///     println!("{} {:?} {:?}: {} done, {:?} bytes", worker.id, worker.pid, worker.state, worker.finished, worker.memory);
///     for task in &worker.tasks {
///         println!("    {} {} for {:?}", task.id, task.name, task.since);
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks that wait for a worker. Brief ones that are sent [together](crate::Pool::map) count as one.
    pub queued: usize,
    /// The size of their inputs, in bytes, as they are sent.
    pub queued_bytes: u64,
    /// Tasks that a worker holds, counted in the same way.
    pub in_flight: usize,
    /// How many workers the pool is to have.
    pub wanted: usize,
    /// How many of them are missing because starting them is held back: by back-off, by the limit on restarts, or because
    /// it has been given up for now.
    pub held_back: usize,
    /// How long until the next of those is started, unless something else comes first.
    pub next_start: Option<Duration>,
    /// Every worker that has not gone yet.
    pub workers: Vec<WorkerStats>,
    /// How many workers were started to replace a lost one.
    pub restarts: u64,
    /// How many tasks were answered by a worker, workers that have gone included.
    pub finished: u64,
    /// The places of the tree of pools: how many of its workers have something to do, or have a place for it, and may. More
    /// than that are used when tasks come to the root's own workers while all places are lent: those never wait.
    ///
    /// In the pool of a worker: its own part of them, with what it has passed on to pools below.
    pub places: Budget,
    /// The worker processes of the tree, in the same way. There are never more.
    pub processes: Budget,
}

/// How much there may be of something, and how much there is.
///
/// ```no_run
/// # fn example(pool: procpool::Pool) {
/// let places = pool.stats().places;
/// println!("{} of {} places are free", places.limit.saturating_sub(places.used), places.limit);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budget {
    /// How much there may be.
    pub limit: usize,
    /// How much is in use or lent.
    pub used: usize,
}

/// A snapshot of one worker.
///
/// ```no_run
/// # fn example(pool: procpool::Pool) {
/// let largest = pool.stats().workers.into_iter().max_by_key(|worker| worker.memory);
/// # drop(largest);
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Which worker.
    pub id: WorkerId,
    /// Its process id, once it has one.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: WorkerState,
    /// The tasks that it runs, in the order in which they were sent.
    pub tasks: Vec<TaskStats>,
    /// How many more it was sent ahead, to begin when it has done those.
    pub ahead: usize,
    /// How many tasks it has answered.
    pub finished: u64,
    /// The time since it was started.
    pub age: Duration,
    /// Its resident memory in bytes, memory that it shares with other processes included. `None` when it has no process yet,
    /// or `/proc` does not tell.
    pub memory: Option<u64>,
    /// How many lost workers have been replaced in its place, up to this one.
    pub restarts: u32,
}

/// A snapshot of one task that a worker runs.
///
/// ```no_run
/// # fn example(pool: procpool::Pool) {
/// let stats = pool.stats();
/// let oldest = stats.workers.iter().flat_map(|worker| &worker.tasks).max_by_key(|task| task.since);
/// if let Some(task) = oldest {
///     println!("{} ({}) has run for {:?}", task.id, task.name, task.since);
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskStats {
    /// Which task.
    pub id: TaskId,
    /// Its [`NAME`](crate::Task::NAME).
    pub name: &'static str,
    /// The time since the worker may have begun it: since it was sent there, or what it was sent behind was done.
    pub since: Duration,
}

/// What a worker is doing.
///
/// ```no_run
/// # fn example(pool: procpool::Pool) {
/// use procpool::WorkerState;
///
/// let open = pool.stats().workers.iter().filter(|worker| worker.state == WorkerState::Open).count();
/// # drop(open);
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerState {
    /// Its process is being started and greeted.
    Starting,
    /// It has greeted and initialises itself.
    Ready,
    /// It takes tasks.
    Open,
    /// It takes no more tasks and will go.
    Leaving,
}

/// What happens to a pool and its workers, from [`Pool::events`](crate::Pool::events).
///
/// ```no_run
/// # async fn example(pool: procpool::Pool) {
/// use futures::StreamExt;
/// use procpool::Event;
///
/// let mut events = pool.events();
/// while let Some(event) = events.next().await {
///     match event {
///         Event::Lost { worker, error, tasks, .. } => eprintln!("{worker} and {} tasks: {error}", tasks.len()),
///         Event::Degraded { .. } | Event::Failed { .. } => eprintln!("short of workers"),
///         Event::Lagged(missed) => eprintln!("{missed} events were missed"),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A worker was started.
    #[non_exhaustive]
    Started {
        /// Which worker.
        worker: WorkerId,
        /// Its process id; that of its guardian if it is [contained](crate::PoolBuilder::contained). `None`
        /// for a worker that is a thread of this process.
        pid: Option<u32>,
    },
    /// A worker takes tasks.
    #[non_exhaustive]
    Opened {
        /// Which worker.
        worker: WorkerId,
    },
    /// A worker never took tasks.
    #[non_exhaustive]
    StartFailed {
        /// Which worker.
        worker: WorkerId,
        /// Why not.
        error: Error,
    },
    /// A worker takes no more tasks and will leave when it has finished what it runs. When the pool is being closed, which
    /// all workers leave for, this is not told of each.
    #[non_exhaustive]
    Leaving {
        /// Which worker.
        worker: WorkerId,
        /// Why.
        reason: Leave,
    },
    /// A worker has gone because it was told to.
    #[non_exhaustive]
    Left {
        /// Which worker.
        worker: WorkerId,
        /// Why it was told to.
        reason: Leave,
    },
    /// A worker that had taken tasks has gone by itself, or was killed.
    #[non_exhaustive]
    Lost {
        /// Which worker.
        worker: WorkerId,
        /// How it ended; [`Error::exit`] knows its exit code or signal, [`Error::stderr`] its last words.
        error: Error,
        /// The tasks that may have been running on it and were lost with it.
        tasks: Vec<TaskId>,
    },
    /// The pool is short of workers: starting them is held back, since too many went or failed to start.
    #[non_exhaustive]
    Degraded {
        /// Why a worker could not be started, the last time that one could not.
        error: Option<Error>,
    },
    /// The pool has no worker, and starting them has been given up for now: tasks are refused, and single starts are tried
    /// again from time to time.
    #[non_exhaustive]
    Failed {
        /// Why the last worker could not be started.
        error: Error,
    },
    /// All workers that the pool is to have take tasks, after it was degraded or had failed.
    Recovered,
    /// The pool was told to end: it takes no new tasks.
    Closing,
    /// No task and no worker is left. The last event.
    Closed,
    /// So many events were dropped here, the oldest ones, since they were not read in time.
    Lagged(u64),
}

/// Why a worker was told to go.
///
/// ```no_run
/// # async fn example(pool: procpool::Pool) {
/// use futures::StreamExt;
/// use procpool::{Event, Leave};
///
/// let mut events = pool.events();
/// while let Some(event) = events.next().await {
///     if let Event::Leaving { worker, reason: Leave::Memory, .. } = event {
///         eprintln!("{worker} has got too large and is replaced");
///     }
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Leave {
    /// The pool is being closed.
    Closing,
    /// The pool was made smaller.
    Surplus,
    /// It had nothing to do for the pool's [idle timeout](crate::PoolBuilder::idle_timeout).
    Idle,
    /// It has run [as many tasks](crate::PoolBuilder::max_tasks_per_worker) as it may.
    Tasks,
    /// It has got [too old](crate::PoolBuilder::max_age).
    Age,
    /// It has got [too large](crate::PoolBuilder::max_memory).
    Memory,
    /// It had been sent `SIGTERM` over a task that would not stop, and survived that.
    Stopped,
    /// A fresh one was wanted in its place, for a task that is tried again after it has died with its worker.
    Replaced,
}

/// How well a pool is, from [`Pool::health`](crate::Pool::health). In words with [`Display`](fmt::Display).
///
/// ```no_run
/// # fn example(pool: procpool::Pool) {
/// let health = pool.health();
/// let status = if health.is_ready() { 200 } else { 503 };
/// println!("{status} {health}");
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Health {
    /// In a word.
    pub status: Status,
    /// How many workers take tasks.
    pub open: usize,
    /// How many workers the pool is to have.
    pub wanted: usize,
    /// Why a worker could not be started, the last time that one could not; told while the pool is degraded or has failed.
    pub error: Option<Error>,
}

/// How well a pool is, in a word.
///
/// ```no_run
/// # fn example(pool: procpool::Pool) {
/// use procpool::Status;
///
/// if matches!(pool.health().status, Status::Failed | Status::Closed) {
///     eprintln!("somebody should look");
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// It takes tasks. Some of its workers may still be on their way.
    Ready,
    /// It takes tasks and is short of workers: starting them is held back, since too many went or failed to start.
    Degraded,
    /// It has no worker and cannot start one. Tasks are refused until one of the starts that are tried from time to time
    /// succeeds.
    Failed,
    /// It was told to end.
    Closed,
}

impl Health {
    /// Whether the pool takes tasks: what a readiness probe asks.
    pub fn is_ready(&self) -> bool {
        matches!(self.status, Status::Ready | Status::Degraded)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self.status {
            Status::Ready => "ready",
            Status::Degraded => "degraded",
            Status::Failed => "failed",
            Status::Closed => "closed",
        };
        write!(f, "{status}: {} of {} workers take tasks", self.open, self.wanted)?;
        match &self.error {
            Some(error) => write!(f, "; the last one that could not be started: {error}"),
            None => Ok(()),
        }
    }
}

/// What became of a pool's tasks and workers once it was told to end. Whoever waits for the end gets the same.
///
/// ```no_run
/// # async fn example(pool: procpool::Pool) {
/// use std::time::Duration;
///
/// let summary = pool.shutdown(Duration::from_secs(10)).await;
/// println!("{} done, {} refused, {} workers killed", summary.finished, summary.closed, summary.killed);
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Tasks that were answered by a worker since then.
    pub finished: u64,
    /// Tasks that resolved as [`Closed`](crate::ErrorKind::Closed) since then, those refused because they came too late not
    /// included.
    pub closed: u64,
    /// Tasks that resolved with another error since then: cancelled, timed out, lost with their worker.
    pub failed: u64,
    /// Workers that had taken tasks and did not end politely: they were sent `SIGTERM` or `SIGKILL`.
    pub killed: u64,
    /// The process ids of workers that did not even die of `SIGKILL` and were left behind. They may still end.
    pub left_behind: Vec<u32>,
}
