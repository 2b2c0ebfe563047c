//! The identities that every room may say. They name things and hold no behaviour.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names one submitted task within its pool, for logs, statistics and errors.
///
/// The serial counts submissions; the index is the task's place in the pool's tables. A pair is not used twice while
/// anything can still refer to it.
///
/// ```no_run
/// # use procpool::{Context, Pool, Task, Error};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Square(u64);
/// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
/// # async fn example(pool: Pool) -> Result<(), Error> {
/// let run = pool.run(Square(12));
/// if let Some(id) = run.id() {
///     println!("submitted as {id}");
/// }
/// # run.await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    pub(crate) serial: u32,
    pub(crate) index: u32,
}

/// Names one worker process within its pool. A worker that replaces a lost one has a new identity.
///
/// ```no_run
/// # fn example(pool: procpool::Pool) {
/// for worker in pool.stats().workers {
///     println!("{} is process {:?}", worker.id, worker.pid);
/// }
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    pub(crate) serial: u32,
    pub(crate) index: u32,
}

macro_rules! id {
    ($name:ident, $word:literal) => {
        impl $name {
            pub(crate) const fn new(serial: u32, index: u32) -> Self {
                Self { serial, index }
            }

            /// Its place in a table.
            pub(crate) const fn slot(self) -> usize {
                self.index as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.serial)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}@{}"), self.serial, self.index)
            }
        }
    };
}

id!(TaskId, "task");
id!(WorkerId, "worker");
