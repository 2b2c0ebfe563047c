//! The ways out of a worker that run nobody's code: no exit handlers, no destructors, and no output but one line. It does
//! not decide when to leave.

use std::io::stderr;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgrp, getpid, write};

use crate::sys::process::exit_now;

/// The exit code of a worker program that was started by something other than a pool.
pub(super) const NOT_A_POOL: i32 = 2;
/// The exit code of a worker that failed to build a state which its tasks share.
pub(super) const UNPREPARED: i32 = 70;
/// The exit code of a worker that the kernel refused something that it cannot do without.
pub(super) const UNFIT: i32 = 71;
/// The exit code of a worker that does not understand what it was sent, or is of another version.
pub(super) const MISUNDERSTOOD: i32 = 76;

/// Ends this worker because nobody is left who would want its answers, and with it everything that it has started.
pub(super) fn die() -> ! {
    if getpgrp() == getpid() {
        // Nothing can be done if it fails, and exiting follows anyway.
        let _ = kill(Pid::from_raw(0), Signal::SIGKILL);
    }
    exit_now(128 + Signal::SIGKILL as i32)
}

/// Ends this worker with one line on standard error.
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
