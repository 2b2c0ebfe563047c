//! A worker's end of what joins it to the tree of pools above: what it was told of the tree, and where the pool that it
//! is the parent of is kept. It starts no pool and does not know what one is.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;

use crate::id::WorkerId;
use crate::wire::frame::{Hello, TaskType, Tree};

/// What a worker knows of the tree above it. One per worker; its tasks find it among the states.
pub(crate) struct Uplink {
    hello: Hello,
    kinds: Vec<TaskType>,
    wish: Option<Box<dyn Any + Send + Sync>>,
    kin: Option<Kin>,
    below: Mutex<Option<Arc<dyn Below>>>,
}

/// What starts workers like this one, where it is not by starting this program; who reads it knows the type.
pub(crate) type Kin = Box<dyn Any + Send + Sync>;

/// What is below a worker: pools of its own.
pub(crate) trait Below: Any + Send + Sync {
    /// Ends it, politely at first; resolves when nothing is left or the parent would not wait any longer.
    fn end(&self) -> BoxFuture<'static, ()>;
}

impl Uplink {
    /// `kinds`: the tasks of this program. `wish`: what its author has said of pools below; who reads it knows the type.
    pub(crate) fn new(
        hello: Hello,
        kinds: Vec<TaskType>,
        wish: Option<Box<dyn Any + Send + Sync>>,
        kin: Option<Kin>,
    ) -> Self {
        Self { hello, kinds, wish, kin, below: Mutex::default() }
    }

    /// How the parent has greeted.
    pub(crate) fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The table of this program's tasks, which is also that of the workers below.
    pub(crate) fn kinds(&self) -> &[TaskType] {
        &self.kinds
    }

    pub(crate) fn wish<T: 'static>(&self) -> Option<&T> {
        self.wish.as_ref()?.downcast_ref()
    }

    pub(crate) fn kin<T: 'static>(&self) -> Option<&T> {
        self.kin.as_ref()?.downcast_ref()
    }

    /// The workers from the root's own down to this one.
    pub(crate) fn path(&self) -> Vec<WorkerId> {
        self.hello.tree.path.iter().copied().chain([self.hello.worker]).collect()
    }

    /// What holds for workers below this one.
    pub(crate) fn tree(&self) -> Tree {
        Tree { path: self.path(), ..self.hello.tree.clone() }
    }

    /// Where the pool below is kept, once there is one.
    pub(crate) fn below(&self) -> MutexGuard<'_, Option<Arc<dyn Below>>> {
        self.below.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what is below, if anything is.
    pub(crate) async fn end(&self) {
        let below = self.below().clone();
        if let Some(below) = below {
            below.end().await;
        }
    }
}
