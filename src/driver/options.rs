//! What a view of a pool asks for with every task: who asks, how urgent it is, how long it may take, and the token that
//! ends it. It decides nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Driver, Shared};
use crate::id::TaskId;
use crate::sched::Spec;

/// The options of a view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) lane: u32,
    pub(crate) priority: i8,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: u32,
    pub(crate) deadline: Option<Instant>,
    pub(crate) leash: Option<Arc<Leash>>,
    /// The task whose pool this is, if it is one inside a worker.
    pub(crate) owner: Option<Arc<Owner>>,
}

/// The task that a view belongs to: nothing that is submitted through it outlives it.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) leash: Arc<Leash>,
    pub(crate) deadline: Option<Instant>,
}

impl Options {
    /// Whether every task from now on would be refused.
    pub(crate) fn is_over(&self) -> bool {
        self.is_cancelled() || self.deadline.is_some_and(|at| at <= Instant::now())
    }

    /// Whether the pool has no more to do for a task of its own than to run it: tasks that share a worker's time for a while.
    pub(crate) fn is_plain(&self) -> bool {
        self.timeout.is_none() && self.deadline.is_none() && self.retries == 0
    }

    /// Whether the token was cancelled before the task came.
    pub(super) fn is_cancelled(&self) -> bool {
        self.leash.as_ref().is_some_and(|leash| leash.is_cancelled())
    }

    pub(super) fn spec(&self, kind: u32, bytes: usize, patient: bool) -> Spec {
        Spec {
            kind,
            lane: self.lane,
            priority: self.priority,
            // Messages are not larger.
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            patient,
            timeout: self.timeout,
            retries: self.retries,
            deadline: self.deadline.map(|at| at.saturating_duration_since(Instant::now())),
            stream: false,
            pack: 0,
        }
    }
}

/// How a task comes by its place in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// It is refused when there is none.
    Free,
    /// It waits until there is one.
    Awaited,
    /// It was reserved under this id.
    Reserved(TaskId),
}

/// What ties tasks to a token. One task of the runtime watches the token, however many tasks of the pool hang on it; it
/// ends when the last of them is resolved and the views are gone.
#[derive(Debug)]
pub(crate) struct Leash {
    pub(super) id: u64,
    token: CancellationToken,
    /// The token of the task whose pool this is.
    owner: Option<CancellationToken>,
    over: CancellationToken,
}

impl Leash {
    pub(super) fn is_cancelled(&self) -> bool {
        self.token.is_cancelled() || self.owner.as_ref().is_some_and(CancellationToken::is_cancelled)
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

impl Driver {
    /// A leash for the tasks of a new view. That of the task whose pool this is holds them too.
    pub(crate) fn leash(&self, token: CancellationToken, owner: Option<&Owner>) -> Arc<Leash> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let over = CancellationToken::new();
        let owner = owner.map(|owner| owner.leash.token.clone());
        let leash = Leash { id, token, owner, over };
        // One that is cancelled already refuses by itself, and has nothing to watch for.
        if !leash.is_cancelled() {
            let shared = Arc::downgrade(&self.shared);
            let owner = leash.owner.clone().unwrap_or_default();
            self.shared.runtime.spawn(watch(shared, id, [leash.token.clone(), owner], leash.over.clone()));
        }
        Arc::new(leash)
    }

    /// A number for a new caller.
    pub(crate) fn lane(&self) -> u32 {
        self.shared.lanes.fetch_add(1, Ordering::Relaxed)
    }
}

async fn watch(shared: Weak<Shared>, id: u64, tokens: [CancellationToken; 2], over: CancellationToken) {
    let [token, owner] = tokens;
    tokio::select! {
        () = token.cancelled() => {}
        () = owner.cancelled() => {}
        () = over.cancelled() => return,
    }
    if let Some(shared) = shared.upgrade() {
        shared.with(|state, now| state.cancel_leashed(now, id));
    }
}
