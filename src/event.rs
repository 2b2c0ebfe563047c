//! What a pool tells about itself: snapshots, as plain data. They are made by the scheduler and read by users.

use std::time::Duration;

use crate::id::{TaskId, WorkerId};

/// A snapshot of a pool, from `Pool::stats`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks that wait for a worker.
    pub queued: usize,
    /// Tasks that a worker holds.
    pub in_flight: usize,
    /// Every worker that has not gone yet.
    pub workers: Vec<WorkerStats>,
    /// How many workers were started to replace a lost one.
    pub restarts: u64,
    /// How many tasks were answered by a worker, workers that have gone included.
    pub finished: u64,
}

/// A snapshot of one worker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Which worker.
    pub id: WorkerId,
    /// Its process id, once it has one.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: WorkerState,
    /// The tasks that it holds, in the order in which they were sent, each with the time since.
    pub tasks: Vec<(TaskId, Duration)>,
    /// How many tasks it has answered.
    pub finished: u64,
}

/// What a worker is doing.
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
