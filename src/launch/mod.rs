//! Brings workers to life and sees them die. It knows nothing of tasks or scheduling.

pub(crate) mod libtest;
pub(crate) mod local;
pub(crate) mod process;
pub(crate) mod service;
pub(crate) mod setting;
mod stderr;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use futures::future::BoxFuture;

use crate::error::Error;
use crate::id::WorkerId;
use crate::launch::process::{Control, Process};
use crate::sys::memory::Page;

/// A way of starting workers.
pub(crate) trait Launcher: Send + Sync + 'static {
    /// Starts one worker: its process runs and has been sent the magic.
    ///
    /// `started` is called as soon as there is a process, whether or not anybody polls the future: by then its runtime may
    /// stand still. The future may be dropped at any time; what it had started is then killed and reaped.
    ///
    /// # Errors
    ///
    /// An [`ErrorKind::Launch`](crate::ErrorKind::Launch) that says which program could not be started and why.
    fn launch(&self, worker: WorkerId, started: Started) -> BoxFuture<'static, Result<Launched, Error>>;
}

/// Takes a control over a process that has just been started.
pub(crate) type Started = Box<dyn FnOnce(Control) + Send>;

/// A worker whose process runs. Dropping it kills and reaps the process.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The parent's end of the link, non-blocking.
    pub(crate) socket: OwnedFd,
    /// Where the worker notes what it has begun, if the two share memory.
    pub(crate) page: Option<Page>,
    pub(crate) process: Process,
}
