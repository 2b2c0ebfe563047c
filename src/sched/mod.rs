//! Who runs what, when, and what a loss means. Decisions only: no clock, no randomness, no I/O, no payload bytes.
//!
//! The driver tells the scheduler what happened ([`Scheduler::handle`]), performs what it wants done
//! ([`Scheduler::poll_action`]) and calls it again at the time that it names ([`Scheduler::poll_timeout`]).
//!
//! ```text
//!  task    Queued ──▶ Sent ──▶ (Begun) ──▶ resolved, exactly once
//!            │ ▲        │         │
//!     cancel │ └─ lost ─┤         ├─ lost ─────────▶ Crashed
//!            ▼          ▼         ▼
//!         resolved   Stopping ── answers in time ──▶ Cancelled
//!                        └── Cancel, 1 s, SIGTERM to the group, 1 s, SIGKILL ──▶ its lost path
//!
//!  worker  Starting ──▶ Ready ──▶ Open ──▶ Leaving ──▶ gone
//!              └──────────┴─────────┴── lost ──▶ gone ──▶ relaunch after back-off, within an intensity
//! ```

#[macro_use]
mod plant;

mod clock;
mod close;
mod queue;
mod scheduler;
#[cfg(test)]
mod sim;
mod staff;
mod supervise;
mod worker;

use std::time::Duration;

use crate::error::ErrorKind;
use crate::id::{TaskId, WorkerId};
pub(crate) use crate::sched::scheduler::Scheduler;

/// How a pool is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// How many workers to keep.
    pub(crate) workers: u32,
    /// How many tasks may be on a worker at once.
    pub(crate) slots: u32,
    /// From the launch to `Ready`.
    pub(crate) start_limit: Duration,
    /// From `Ready` to `Open`.
    pub(crate) init_limit: Duration,
    /// From `Cancel` to SIGTERM: the grace that the worker is told.
    pub(crate) cancel_grace: Duration,
    /// From SIGTERM to SIGKILL.
    pub(crate) term_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 1,
            slots: 1,
            start_limit: Duration::from_secs(10),
            init_limit: Duration::from_secs(60),
            cancel_grace: Duration::from_secs(1),
            term_grace: Duration::from_secs(1),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    /// Keep the configured number of workers from now on. First, once.
    Start,
    /// A caller wants this task run. The driver chose the id: its index is free in the driver's table.
    Submit { task: TaskId },
    /// A caller no longer wants this task. Stale ids are ignored.
    Cancel { task: TaskId },
    /// The worker greeted.
    Ready { worker: WorkerId },
    /// The worker takes tasks.
    Open { worker: WorkerId },
    /// The worker says that a task has ended. `answer` is what the driver holds in its hand for `Resolve`.
    Done { worker: WorkerId, task: TaskId, attempt: u32, answer: Answer },
    /// A frame came that needs no decision, `Pong` for example: the worker lives.
    Heard { worker: WorkerId },
    /// The worker broke a rule that the driver checks (an undecodable frame, say). It has to die.
    Violated { worker: WorkerId },
    /// The link's end was reached but the process has not been seen to end. It gets a moment to do so by itself.
    HungUp { worker: WorkerId },
    /// The worker said `Bye`: what comes now is a planned exit.
    Bye { worker: WorkerId },
    /// The worker is gone and every complete frame from it has been handled; or it could not be launched. Of the tasks
    /// sent to it, in the order of sending and counted from 1, those up to `begun` may have begun (`u64::MAX`: all).
    Lost { worker: WorkerId, begun: u64 },
    /// Refuse new work, fail what is queued with `Closed`, let what was sent run for `limit`, then the ladder.
    Shutdown { limit: Duration },
    /// Refuse new work, finish everything that was submitted, however long it takes.
    Drain,
    /// Refuse new work, resolve everything `Closed`, kill every worker.
    Abort,
    /// Nothing but that time has passed.
    Tick,
}

/// How a worker says that a task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// With an output, a panic or an error of its own: whatever it is, the caller gets it.
    Finished,
    /// It was stopped. `began` says whether its code ever ran.
    Cancelled { began: bool },
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Bring this new worker to life and say `Hello`.
    Launch { worker: WorkerId },
    /// Send the task. Runs of one worker are sent in the order of their actions: both sides count them.
    Run { worker: WorkerId, task: TaskId, attempt: u32 },
    /// Send `Cancel`.
    Cancel { worker: WorkerId, task: TaskId, grace: Duration },
    /// Send `Drain`.
    Drain { worker: WorkerId },
    /// Send `Ping`.
    Ping { worker: WorkerId },
    /// SIGTERM to the worker's group.
    Terminate { worker: WorkerId },
    /// SIGKILL to the worker's group, or give up starting it. `Lost` must follow.
    Kill { worker: WorkerId },
    /// Even SIGKILL did not help: let go of the worker. `Lost` need not follow and is ignored.
    Abandon { worker: WorkerId },
    /// Give this to the task's caller and forget the task. Exactly once per task.
    Resolve { task: TaskId, outcome: Outcome },
    /// The first worker opened (`ok`), or starting them has been given up for now.
    Started { ok: bool },
    /// After `Shutdown`, `Drain` or `Abort`: no tasks, no workers. Once, last.
    Closed,
}

/// What a task's caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// The answer that the driver holds in its hand.
    Answered,
    /// An error.
    Failed { kind: ErrorKind, worker: Option<WorkerId>, attempts: u32, may_have_run: bool },
}
