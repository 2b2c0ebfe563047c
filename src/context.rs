//! What a running task can ask: whether it is to stop, its deadline, its worker's states, who and where it is. It cannot reach the pool or
//! the link.

mod slot;

use std::any::type_name;
use std::ffi::OsStr;
use std::process::Stdio;
use std::sync::{self, Arc};
use std::time::Instant;

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

pub(crate) use self::slot::Slot;
use crate::id::{TaskId, WorkerId};
use crate::state::States;

/// A running task's view of the worker that it runs on.
///
/// Cheap to clone. A clone that outlives its task reads as cancelled.
///
/// ```
/// use procpool::{Context, Task};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Collatz(u64);
///
/// impl Task for Collatz {
///     const NAME: &'static str = "collatz";
///     type Output = Option<u64>;
///
///     async fn run(self, cx: Context) -> Option<u64> {
///         println!("{} on {}, attempt {}, {} deep", cx.task_id(), cx.worker_id(), cx.attempt(), cx.depth());
///         let (mut n, mut steps) = (self.0, 0);
///         while n != 1 {
///             // Mostly free: asked in an inner loop, it makes the task one that can be cancelled politely.
///             if cx.is_cancelled() {
///                 return None;
///             }
///             n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
///             steps += 1;
///         }
///         Some(steps)
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Context {
    seat: Arc<Seat>,
    about: About,
}

/// What is the same for all tasks of a slot, behind one pointer: every task is given a context, and most are done in less time
/// than it takes to count a second one.
pub(crate) struct Seat {
    pub(crate) slot: Arc<Slot>,
    pub(crate) states: Arc<States>,
    pub(crate) worker: WorkerId,
    pub(crate) depth: u32,
}

/// What stays true while a task runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) task: TaskId,
    pub(crate) attempt: u32,
    pub(crate) deadline: Option<Instant>,
    /// Which of the slot's tasks this is; from [`Slot::begin`].
    pub(crate) turn: u64,
}

/// What a context is made of, where it is needed and not before: handing on a whole one costs more than the briefest tasks.
#[derive(Clone, Copy)]
pub(crate) struct Ticket<'a> {
    pub(crate) seat: &'a Arc<Seat>,
    pub(crate) about: &'a About,
}

impl Ticket<'_> {
    #[inline]
    pub(crate) fn context(self) -> Context {
        Context { seat: Arc::clone(self.seat), about: *self.about }
    }
}

impl Context {
    /// Whether this task is to stop: its caller has dropped or cancelled it, its time is over, or it has already ended.
    ///
    /// Costs an atomic load. Long computations should ask now and then; one that never does is stopped by force.
    pub fn is_cancelled(&self) -> bool {
        self.seat.slot.ask(self.about.turn);
        self.seat.slot.is_over(self.about.turn)
    }

    /// Resolves when this task is to stop.
    ///
    /// ```
    /// # use procpool::Context;
    /// # async fn answer() -> u64 { 42 }
    /// # async fn clean_up() {}
    /// async fn run(cx: Context) -> Option<u64> {
    ///     tokio::select! {
    ///         answer = answer() => Some(answer),
    ///         () = cx.cancelled() => {
    ///             clean_up().await;
    ///             None
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Can be dropped and asked for again at any time.
    pub async fn cancelled(&self) {
        self.token().cancelled().await;
    }

    /// A token that is cancelled when this task is to stop, to hand to whatever the task waits for.
    ///
    /// ```
    /// # use procpool::Context;
    /// # async fn fetch() -> u64 { 42 }
    /// async fn run(cx: Context) -> Option<u64> {
    ///     cx.token().run_until_cancelled(fetch()).await
    /// }
    /// ```
    pub fn token(&self) -> CancellationToken {
        self.seat.slot.ask(self.about.turn);
        self.leash()
    }

    /// The same token for what hangs on the task rather than for the task: it does not count as asking.
    pub(crate) fn leash(&self) -> CancellationToken {
        self.seat.slot.token(self.about.turn)
    }

    /// When the task has to be done, if its caller set a deadline.
    ///
    /// ```
    /// # use procpool::Context;
    /// use std::time::{Duration, Instant};
    ///
    /// /// How long a search may go on, with some time left to answer.
    /// fn budget(cx: &Context) -> Option<Duration> {
    ///     let left = cx.deadline()?.saturating_duration_since(Instant::now());
    ///     Some(left.saturating_sub(Duration::from_millis(10)))
    /// }
    /// ```
    pub fn deadline(&self) -> Option<Instant> {
        self.about.deadline
    }

    /// The state of this type, which this worker has built once and all its tasks share: see
    /// [`Worker::state`](crate::Worker::state).
    ///
    /// It is lent. To take it along into something that outlives the task, take a clone of the context along, or declare
    /// a state that is an `Arc`.
    ///
    /// ```
    /// # use procpool::{Context, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # struct Model { bias: f32 }
    /// #[derive(Serialize, Deserialize)]
    /// struct Predict(f32);
    ///
    /// impl Task for Predict {
    ///     const NAME: &'static str = "predict";
    ///     type Output = f32;
    ///
    ///     async fn run(self, cx: Context) -> f32 {
    ///         let model: &Model = cx.state();
    ///         self.0 + model.bias
    ///     }
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// When the worker declares no state of this type. As any panic of a task, that fails the task and not the worker.
    #[track_caller]
    pub fn state<S: Send + Sync + 'static>(&self) -> &S {
        let Some(state) = self.try_state() else {
            let name = type_name::<S>();
            panic!("the worker has no state of the type {name}: add .state(…) that builds one to the Worker");
        };
        state
    }

    /// The state of this type, if the worker declares one.
    ///
    /// ```
    /// # use procpool::Context;
    /// # struct Model { bias: f32 }
    /// fn bias(cx: &Context) -> f32 {
    ///     cx.try_state::<Model>().map_or(0.0, |model| model.bias)
    /// }
    /// ```
    pub fn try_state<S: Send + Sync + 'static>(&self) -> Option<&S> {
        self.seat.states.get()
    }

    /// A command for a program that this task needs: its process ends with the task. It is killed when the command's child
    /// or future is dropped, as it is when the task is cancelled at an await, and when the worker ends, however that ends.
    ///
    /// It is tokio's, with [`kill_on_drop`](tokio::process::Command::kill_on_drop) set and an empty standard input. The
    /// process is in the worker's process group, as are those of any other `Command`, and those that it starts in turn:
    /// that is why they end with the worker. With `process_group` or `setsid` a process leaves the group and outlives a
    /// worker that crashes, unless the pool is [contained](crate::PoolBuilder::contained).
    ///
    /// ```
    /// # use procpool::{Context, Task};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Serialize, Deserialize)]
    /// struct Convert(String);
    ///
    /// impl Task for Convert {
    ///     const NAME: &'static str = "convert";
    ///     type Output = bool;
    ///
    ///     async fn run(self, cx: Context) -> bool {
    ///         let status = cx.command("ffmpeg").args(["-i", &self.0, "out.webm"]).status().await;
    ///         status.is_ok_and(|status| status.success())
    ///     }
    /// }
    /// ```
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.kill_on_drop(true).stdin(Stdio::null());
        command
    }

    /// How deep this worker is in the tree of pools: 1 below the root.
    pub fn depth(&self) -> u32 {
        self.seat.depth
    }

    /// Which attempt this is, counted from 1. At a later one an earlier attempt may have done a part of the work, or all of
    /// it: see [`Pool::with_retries`](crate::Pool::with_retries).
    pub fn attempt(&self) -> u32 {
        self.about.attempt
    }

    /// Which task this is.
    pub fn task_id(&self) -> TaskId {
        self.about.task
    }

    /// Which worker it runs on.
    pub fn worker_id(&self) -> WorkerId {
        self.seat.worker
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Seat { worker, depth, .. } = &*self.seat;
        let mut context = f.debug_struct("Context");
        context.field("about", &self.about).field("worker", worker).field("depth", depth).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(slot: &Arc<Slot>) -> Context {
        let about = About { task: TaskId::new(1, 0), attempt: 1, deadline: None, turn: slot.begin() };
        let (slot, states, worker) = (Arc::clone(slot), Arc::default(), WorkerId::new(1, 0));
        let seat = Arc::new(Seat { slot, states, worker, depth: 1 });
        Ticket { seat: &seat, about: &about }.context()
    }

    fn fire(token: Option<CancellationToken>) {
        if let Some(token) = token {
            token.cancel();
        }
    }

    #[test]
    fn a_cancel_reaches_the_current_turn_and_not_the_next() {
        let slot = Arc::new(Slot::default());
        let first = context(&slot);
        let token = first.token();
        fire(slot.cancel());
        assert!(first.is_cancelled() && token.is_cancelled() && first.token().is_cancelled());
        fire(slot.end());
        let second = context(&slot);
        assert!(!second.is_cancelled() && !second.token().is_cancelled());
        assert!(first.is_cancelled());
    }

    #[test]
    fn a_context_that_outlives_its_task_reads_cancelled() {
        let slot = Arc::new(Slot::default());
        let cx = context(&slot);
        let token = cx.token();
        fire(slot.end());
        assert!(cx.is_cancelled() && token.is_cancelled());
    }

    #[test]
    fn a_slot_knows_whether_its_task_has_asked() {
        let slot = Arc::new(Slot::default());
        let first = context(&slot);
        assert!(!slot.asked());
        first.is_cancelled();
        assert!(slot.asked());
        fire(slot.end());
        let second = context(&slot);
        first.is_cancelled();
        assert!(!slot.asked(), "the context of an ended task spoke for the next");
        second.is_cancelled();
        first.is_cancelled();
        assert!(slot.asked());
    }
}
