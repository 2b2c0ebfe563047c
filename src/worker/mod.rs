//! The worker's side: takes standard input and output for the link, watches for the death of its parent, runs tasks and
//! answers. It knows neither pools nor scheduling.
//!
//! ```text
//!  init ──▶ stdio ──▶ greet ──▶ watch (a thread) ──▶ runtime (the main thread, to the end)
//!                                  │                    │
//!                                  └──── pulse, io ─────┘  what the two threads share
//! ```

mod greet;
mod init;
mod io;
mod leave;
mod outbox;
mod pulse;
mod reader;
mod runtime;
mod stdio;
#[cfg(test)]
mod tests;
mod turn;
mod watch;

use std::io::{IsTerminal, stdin};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::task::{Table, Task};
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
}

/// How this process was entered, as far as its `main` has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// [`Worker::init`] has not been called: a copy of this program would not know that it is a worker.
    NotPassed,
    /// [`Worker::init`] has returned.
    Main,
    /// It is a worker.
    Worker,
}

static PASSED: AtomicBool = AtomicBool::new(false);

/// How this process was entered.
pub(crate) fn entry() -> Entry {
    match parent() {
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
    pub fn serve(self) -> ! {
        if stdin().is_terminal() {
            init::not_a_pool("its standard input is a terminal");
        }
        init::run(self.table, parent())
    }

    /// What [`worker_test!`](crate::worker_test) calls. Not public API.
    #[doc(hidden)]
    pub fn init_in_test(self) {
        if let Some(parent) = parent() {
            init::run(self.table, Some(parent));
        }
    }
}

/// The pool's process, if this one was started as its worker.
fn parent() -> Option<u32> {
    arg0::parse(&std::env::args_os().next()?)
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
