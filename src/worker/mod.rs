//! The worker's side: takes standard input and output for the link, watches for the death of its parent, runs tasks and
//! answers. It knows neither pools nor scheduling.
//!
//! ```text
//!  init ──▶ stdio ──▶ greet ──▶ watch (a thread) ──▶ prepare ──▶ runtime (the main thread, to the end)
//!                                  │                    │            │
//!                                  └─ pulse, io, flow ───┴────────────┘  what the two threads share
//! ```
//!
//! In pools that are contained, `init` first becomes a guardian, which starts the worker: `guard`. A worker can also be a
//! thread of its pool's process, the same from `Hello` on: `thread`.

mod beside;
mod board;
mod crowd;
mod depot;
mod effects;
mod flow;
mod greet;
mod guard;
mod init;
mod io;
mod leave;
mod lookout;
mod outbox;
mod pack;
mod prepare;
mod pulse;
mod queue;
mod reader;
mod running;
mod runtime;
mod say;
mod stdio;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod thread;
mod turn;
mod watch;

use std::any::Any;
use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::io::{IsTerminal, stdin};
use std::sync::atomic::{self, AtomicBool, Ordering};

use nix::sys::eventfd;

use crate::state::Inits;
use crate::task::{StreamTask, Table, Task};
use crate::wire::arg0;

/// Declares what a worker process can run, and becomes one.
///
/// A pool starts copies of the program that it is in. [`init`](Self::init) tells them apart: in the program as its user
/// started it, it returns at once; in a copy that a pool started, it runs tasks and never returns.
///
/// ```
/// # use procpool::{Context, Task};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Square(u64);
/// # impl Task for Square {
/// #     const NAME: &'static str = "square";
/// #     type Output = u64;
/// #     async fn run(self, _cx: Context) -> u64 { self.0 * self.0 }
/// # }
/// use procpool::Worker;
///
/// fn main() {
///     Worker::new().task::<Square>().init();
///     // Only the program that was started by its user comes here.
/// }
/// ```
#[must_use = "a worker that is not initialised never runs a task"]
#[derive(Default)]
pub struct Worker {
    table: Table,
    states: Inits,
    /// How pools below are configured. Only who builds them knows the type.
    pub(crate) nested: Option<Box<dyn Any + Send + Sync>>,
}

/// How this process was entered, as far as its `main` has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// [`Worker::init`] has not been called: a copy of this program would not know that it is a worker.
    NotPassed,
    /// [`Worker::init`] has returned.
    Main,
    /// It is a worker, or the calling thread is one.
    Worker,
}

static PASSED: AtomicBool = AtomicBool::new(false);

/// How this process was entered.
pub(crate) fn entry() -> Entry {
    match parent() {
        _ if thread::is_one() => Entry::Worker,
        Some(_) => Entry::Worker,
        None if PASSED.load(Ordering::Acquire) => Entry::Main,
        None => Entry::NotPassed,
    }
}

impl Worker {
    /// A worker that knows no tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task.
    ///
    /// # Panics
    ///
    /// When another task has the same [`Task::NAME`]; the message names both types.
    pub fn task<T: Task>(mut self) -> Self {
        self.table.add::<T>();
        self
    }

    /// Adds a stream.
    ///
    /// ```
    /// # use procpool::{Context, Emitter, StreamTask, Worker};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Count(u64);
    /// # impl StreamTask for Count { const NAME: &'static str = "count"; type Item = u64; async fn run(self, _: Context, _: Emitter<u64>) {} }
    /// let worker = Worker::new().stream::<Count>();
    /// ```
    ///
    /// # Panics
    ///
    /// When another task or stream has the same [`StreamTask::NAME`]; the message names both types.
    pub fn stream<T: StreamTask>(mut self) -> Self {
        self.table.add_stream::<T>();
        self
    }

    /// Declares a state: a value that each worker builds once, before it takes tasks, and that all its tasks share through
    /// [`Context::state`](crate::Context::state). What tasks change in it stays in that worker.
    ///
    /// States are built in the order of their declaration, on the runtime on which the tasks run. `init` may await, block
    /// and spawn; its time is bounded by [`PoolBuilder::init_timeout`](crate::PoolBuilder::init_timeout). If it panics, the
    /// worker ends; when that happens to every worker, [`build`](crate::PoolBuilder::build) fails and says why.
    ///
    /// When a worker leaves because its pool is drained or shut down, its states are dropped, the last one first; what
    /// they print goes where the tasks' output goes. They are not dropped when the worker is killed, as it is when the
    /// pool is aborted or dropped or a task does not stop, nor while a thread of a task's still holds a `Context`. A
    /// worker that takes longer than 5 s to leave is killed.
    ///
    /// ```
    /// use procpool::{Context, Task, Worker};
    /// use serde::{Deserialize, Serialize};
    ///
    /// struct Words(Vec<String>);
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Known(String);
    ///
    /// impl Task for Known {
    ///     const NAME: &'static str = "known";
    ///     type Output = bool;
    ///
    ///     async fn run(self, cx: Context) -> bool {
    ///         cx.state::<Words>().0.contains(&self.0)
    ///     }
    /// }
    ///
    /// let worker = Worker::new().task::<Known>().state(|| async { Words(vec!["hello".to_owned()]) });
    /// ```
    ///
    /// # Panics
    ///
    /// When there is a state of this type already.
    pub fn state<S, F>(self, init: impl FnOnce() -> F + Send + 'static) -> Self
    where
        S: Send + Sync + 'static,
        F: Future<Output = S> + 'static,
    {
        self.try_state(|| async { Ok::<_, Infallible>(init().await) })
    }

    /// As [`state`](Self::state), for what can fail: an error ends the worker as a panic does, and its words reach whoever
    /// builds the pool.
    ///
    /// ```
    /// use procpool::Worker;
    ///
    /// struct Words(Vec<String>);
    ///
    /// async fn load() -> std::io::Result<Words> {
    ///     let text = std::fs::read_to_string("/usr/share/dict/words")?;
    ///     Ok(Words(text.lines().map(str::to_owned).collect()))
    /// }
    ///
    /// let worker = Worker::new().try_state(load);
    /// ```
    ///
    /// # Panics
    ///
    /// When there is a state of this type already.
    pub fn try_state<S, E, F>(mut self, init: impl FnOnce() -> F + Send + 'static) -> Self
    where
        S: Send + Sync + 'static,
        E: Display,
        F: Future<Output = Result<S, E>> + 'static,
    {
        self.states.add(init);
        self
    }

    /// Adds the tasks and states of another worker, behind those that are there: a crate can offer a `worker()` that knows
    /// its tasks and what they need. What it says of [`nested`](Self::nested) pools counts if nothing was said here.
    ///
    /// ```
    /// # mod images { pub fn worker() -> procpool::Worker { procpool::Worker::new() } }
    /// # mod mail { pub fn worker() -> procpool::Worker { procpool::Worker::new() } }
    /// use procpool::Worker;
    ///
    /// fn main() {
    ///     Worker::new().include(images::worker()).include(mail::worker()).init();
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// When both have a task of the same name or a state of the same type; the message names the types.
    pub fn include(mut self, other: Self) -> Self {
        self.table.append(other.table);
        self.states.append(other.states);
        self.nested = self.nested.or(other.nested);
        self
    }

    /// Returns at once in a program that its user started; runs tasks, and never returns, in one that a pool started.
    ///
    /// Make it the first line of `main`: what stands before it happens in every worker too, and what that prints can
    /// confuse the pool. It may be called within a runtime (`#[tokio::main]`); that one then lies idle in the workers.
    pub fn init(self) {
        self.init_in_test();
        PASSED.store(true, Ordering::Release);
    }

    /// Runs tasks, and never returns: the `main` of a program that is a worker and nothing else.
    ///
    /// When it was not started by a pool, it says on standard error what it is and exits with code 2.
    ///
    /// ```no_run
    /// # use procpool::{Context, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// use procpool::Worker;
    ///
    /// fn main() {
    ///     Worker::new().task::<Square>().serve()
    /// }
    /// ```
    pub fn serve(self) -> ! {
        if stdin().is_terminal() {
            init::not_a_pool("its standard input is a terminal");
        }
        become_guardian();
        init::run(self, parent())
    }

    /// What [`worker_test!`](crate::worker_test) calls. Not public API.
    #[doc(hidden)]
    pub fn init_in_test(self) {
        become_guardian();
        if let Some(parent) = parent() {
            init::run(self, Some(parent));
        }
    }
}

/// The pool's process, if this one was started as its worker.
fn parent() -> Option<u32> {
    arg0::parse(&std::env::args_os().next()?)
}

/// Becomes the guardian of a worker and never returns, if this process was started as one.
fn become_guardian() {
    if let Some((parent, serial)) = std::env::args_os().next().and_then(|name| arg0::parse_guardian(&name)) {
        guard::run(parent, serial);
    }
}

/// Lets pools work in tests: declares the workers of a test binary, whose `main` is not yours.
///
/// Write it once in a test binary, in any module, where the tests' tasks can be named. It adds a test that does nothing
/// in an ordinary run.
///
/// ```
/// # use procpool::Worker;
/// procpool::worker_test!(Worker::new());
/// ```
#[macro_export]
macro_rules! worker_test {
    ($worker:expr) => {
        #[test]
        fn __procpool_worker() {
            $crate::Worker::init_in_test($worker);
        }
    };
}
