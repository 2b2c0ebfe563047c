//! Brings workers to life and sees them die. It knows nothing of tasks or scheduling.

pub(crate) mod body;
mod in_process;
pub(crate) mod libtest;
pub(crate) mod local;
mod oom;
pub(crate) mod process;
pub(crate) mod service;
pub(crate) mod setting;
mod stderr;
#[cfg(test)]
mod tests;
pub(crate) mod thread;

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::arena::Arena;
use crate::error::Error;
use crate::id::WorkerId;
use crate::launch::body::{Body, Control};
use crate::sys::memory::Page;

/// A way of starting workers.
pub(crate) trait Launcher: Debug + Send + Sync + 'static {
    /// Starts one worker: its process or thread runs and has been sent the magic.
    ///
    /// `started` is called as soon as there is a worker, whether or not anybody polls the future: by then its runtime may
    /// stand still. The future may be dropped at any time; what it had started is then ended.
    ///
    /// # Errors
    ///
    /// An [`ErrorKind::Launch`](crate::ErrorKind::Launch) that says what could not be started and why.
    fn launch(&self, worker: WorkerId, started: Started) -> BoxFuture<'static, Result<Launched, Refusal>>;

    /// How many descriptors of this process one worker takes while it lives.
    fn descriptors(&self) -> u64;

    /// Whether its workers end when they are killed, whatever they are doing.
    fn can_kill(&self) -> bool {
        true
    }
}

/// Why a worker could not be launched.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) error: Error,
    /// Whether it was for want of something that others use up and may give back: descriptors, processes, memory.
    pub(crate) scarce: bool,
    /// Whether it will be as before when it is tried again: there is no such program, or it can't be executed.
    pub(crate) futile: bool,
}

impl Refusal {
    /// In these words, because of an error of the kernel's.
    pub(crate) fn new(error: Error, cause: &io::Error) -> Self {
        const WANTS: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM, libc::ENOBUFS];
        const FUTILE: [i32; 7] = [
            libc::ENOENT,
            libc::ENOTDIR,
            libc::EACCES,
            libc::EPERM,
            libc::ENOEXEC,
            libc::ELOOP,
            libc::ENAMETOOLONG,
        ];
        let is_in = |codes: &[i32]| cause.raw_os_error().is_some_and(|code| codes.contains(&code));
        Self { error, scarce: is_in(&WANTS), futile: is_in(&FUTILE) }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, scarce: false, futile: false }
    }
}

/// Takes a control over a worker that has just been started.
pub(crate) type Started = Box<dyn FnOnce(Control) + Send>;

/// A worker that runs. Dropping it ends the worker.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The parent's end of the link, non-blocking.
    pub(crate) socket: OwnedFd,
    /// Where the worker notes what it has begun, if the two share memory.
    pub(crate) page: Option<Page>,
    /// The memory for bulk, if there is some.
    pub(crate) arena: Option<Arc<Arena>>,
    pub(crate) body: Body,
}
