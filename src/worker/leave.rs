//! The ways out of a worker. Those out of a process run nobody's code: no exit handlers, no destructors, and no output but
//! one line. It does not decide when to leave.

use std::io::{self, ErrorKind, stderr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{Pid, getpgrp, getpid, write};

use crate::sys::process::exit_now;

/// The exit code of a worker program that was started by something other than a pool.
pub(super) const NOT_A_POOL: i32 = 2;
/// The exit code of a worker that failed to build a state which its tasks share.
pub(super) const UNPREPARED: i32 = 70;
/// The exit code of a worker that the kernel refused something that it cannot do without.
pub(super) const UNFIT: i32 = 71;
/// The exit code of a worker that does not understand what it was sent.
pub(super) const MISUNDERSTOOD: i32 = 76;

/// What ends when a worker leaves before it is told to.
#[derive(Debug)]
pub(super) enum Way {
    /// Its process, there and then, whatever it is doing.
    Process,
    /// Its thread. Nobody can end one: it finds its link closed, and leaves once user code has given it back.
    Thread {
        link: Arc<OwnedFd>,
        /// Why, if that is worth telling.
        words: Option<String>,
    },
}

impl Way {
    /// Leaves because nobody is left who would want answers. Does not return in a process.
    pub(super) fn die(&self) {
        match self {
            Self::Process => die(),
            Self::Thread { link, .. } => cut(link),
        }
    }

    /// Leaves with one line that says why. Does not return in a process.
    pub(super) fn fail(&mut self, code: i32, reason: &str) {
        match self {
            Self::Process => fail(code, reason),
            Self::Thread { link, words } => {
                words.get_or_insert_with(|| reason.to_owned());
                cut(link);
            }
        }
    }

    /// Leaves because of an error of the link. A parent that is gone is no news; anything else is worth a line.
    pub(super) fn lost(&mut self, error: &io::Error) {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => self.die(),
            _ => self.fail(UNFIT, &format!("the link to the parent failed ({error})")),
        }
    }

    /// Why the thread has left, once.
    pub(super) fn words(&mut self) -> Option<String> {
        match self {
            Self::Process => None,
            Self::Thread { words, .. } => words.take(),
        }
    }
}

/// Has every read find the end of the link from now on, behind what has already come.
fn cut(link: &OwnedFd) {
    // Fails only if the parent has closed its end, which is the same to whoever reads.
    let _ = shutdown(link.as_raw_fd(), Shutdown::Read);
}

/// Ends this process because nobody is left who would want its answers, and with it everything that it has started.
pub(super) fn die() -> ! {
    if getpgrp() == getpid() {
        // Nothing can be done if it fails, and exiting follows anyway.
        let _ = kill(Pid::from_raw(0), Signal::SIGKILL);
    }
    exit_now(128 + Signal::SIGKILL as i32)
}

/// Ends this process with one line on standard error.
///
/// Past Rust's own lock on standard error, which user code may hold while it blocks, and not at all if nobody drains the
/// pipe: a worker that has to go must not wait for being heard.
pub(super) fn fail(code: i32, reason: &str) -> ! {
    let line = format!("procpool worker {}: {reason}\n", getpid());
    let stderr = stderr();
    let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut ready, PollTimeout::ZERO).is_ok_and(|n| n > 0) {
        let _ = write(&stderr, line.as_bytes());
    }
    exit_now(code)
}
