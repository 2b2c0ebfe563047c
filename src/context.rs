//! What a running task can ask: whether it is to stop, its deadline, its worker's states, who and where it is. It cannot reach the pool or
//! the link.

use std::any::type_name;
use std::ffi::OsStr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::id::{TaskId, WorkerId};
use crate::state::States;

/// A running task's view of the worker that it runs on.
///
/// Cheap to clone. A clone that outlives its task reads as cancelled.
#[derive(Clone)]
pub struct Context {
    slot: Arc<Slot>,
    states: Arc<States>,
    about: About,
}

/// What stays true while a task runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) task: TaskId,
    pub(crate) worker: WorkerId,
    pub(crate) attempt: u32,
    pub(crate) depth: u32,
    pub(crate) deadline: Option<Instant>,
    /// Which of the slot's tasks this is; from [`Slot::begin`].
    pub(crate) turn: u64,
}

/// The place where a worker's tasks run one after the other, and its cancel flag. Tasks take turns: a flag that is meant
/// for one turn cannot reach the next.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The current turn, times two, plus one when it is to stop. The watcher sets it while the task blocks.
    word: AtomicU64,
    /// The last turn whose task has asked about cancellation. A turn and no flag: a context that outlives its task may
    /// ask for ever and must not speak for the next one.
    asked: AtomicU64,
    /// Made when the task asks for something to wait on.
    token: Mutex<Option<CancellationToken>>,
}

impl Context {
    pub(crate) fn new(slot: Arc<Slot>, states: Arc<States>, about: About) -> Self {
        Self { slot, states, about }
    }

    /// Whether this task is to stop: its caller has dropped or cancelled it, its time is over, or it has already ended.
    ///
    /// Costs an atomic load. Long computations should ask now and then; one that never does is stopped by force.
    pub fn is_cancelled(&self) -> bool {
        self.ask();
        self.slot.word.load(Ordering::Acquire) != self.about.turn << 1
    }

    /// Resolves when this task is to stop.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped and asked for again at any time.
    pub async fn cancelled(&self) {
        self.token().cancelled().await;
    }

    /// A token that is cancelled when this task is to stop, to hand to whatever the task waits for.
    pub fn token(&self) -> CancellationToken {
        self.ask();
        self.leash()
    }

    /// The same token for what hangs on the task rather than for the task: it does not count as asking.
    pub(crate) fn leash(&self) -> CancellationToken {
        let mut token = self.slot.token.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock that `cancel` takes after it has set the word: one of the two sees the other.
        if self.slot.word.load(Ordering::Acquire) != self.about.turn << 1 {
            let ended = CancellationToken::new();
            ended.cancel();
            return ended;
        }
        token.get_or_insert_with(CancellationToken::new).clone()
    }

    /// When the task has to be done, if its caller set a deadline.
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
    pub fn try_state<S: Send + Sync + 'static>(&self) -> Option<&S> {
        self.states.get()
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
        self.about.depth
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
        self.about.worker
    }

    /// Notes that this task cares about cancellation. Mostly a load: computations ask in their inner loops.
    fn ask(&self) {
        if self.slot.asked.load(Ordering::Relaxed) < self.about.turn {
            self.slot.asked.fetch_max(self.about.turn, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.about.fmt(f)
    }
}

impl Slot {
    /// Begins the next turn and says which it is.
    pub(crate) fn begin(&self) -> u64 {
        let turn = (self.word.load(Ordering::Relaxed) >> 1) + 1;
        self.word.store(turn << 1, Ordering::Release);
        turn
    }

    /// Ends the current turn: whoever still holds its context reads "cancelled".
    ///
    /// The token, if the turn's task had one, is the caller's to cancel once it has let go of its locks: cancelling wakes
    /// whoever waits, and wakers may be anyone's code.
    #[must_use = "whoever waits for the token waits for ever"]
    pub(crate) fn end(&self) -> Option<CancellationToken> {
        self.word.fetch_add(2, Ordering::AcqRel);
        self.take()
    }

    /// Tells the current turn's task to stop. Whoever calls this makes sure that it is the turn that is meant.
    ///
    /// The token is as for [`end`](Self::end).
    #[must_use = "whoever waits for the token waits for ever"]
    pub(crate) fn cancel(&self) -> Option<CancellationToken> {
        self.word.fetch_or(1, Ordering::AcqRel);
        self.take()
    }

    /// Whether the current turn's task has ever asked about cancellation.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) == self.word.load(Ordering::Relaxed) >> 1
    }

    fn take(&self) -> Option<CancellationToken> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(slot: &Arc<Slot>) -> Context {
        let about = About {
            task: TaskId::new(1, 0),
            worker: WorkerId::new(1, 0),
            attempt: 1,
            depth: 1,
            deadline: None,
            turn: slot.begin(),
        };
        Context::new(Arc::clone(slot), Arc::default(), about)
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
