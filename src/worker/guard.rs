//! The guardian: a process between a pool and one worker, for pools that are contained. It adopts whatever the worker's
//! tasks start that leaves its group and loses its parent, and kills all of that when the worker ends or is no longer
//! wanted. It runs no tasks, and does not read or write the link.
//!
//! ```text
//!   pool ── SIGTERM: pass it on ───▶ guardian ── SIGTERM to its group ──▶ worker ──▶ what tasks start
//!        ── END: kill everybody ──▶    ▲  │                                 │            │ setsid, and its
//!        ── pool dies: kill everybody  │  └── SIGKILL, until nobody is left ▼            ▼ parent ends
//!        ◀── ends as the worker did ───┘◀───────── adopted by the guardian ◀─────────────┘
//! ```
//!
//! It holds the worker's end of the link open, so that the pool learns of the worker's end from the guardian's, which tells
//! how. Whether a core was dumped is the one thing that does not come through.
//!
//! To the worker the guardian is the parent: should somebody kill it, the worker ends, and only what has left the worker's
//! group lives on.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp, getpid, setpgid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::leave;
use super::watch::Lives;
use crate::sys::pidfd::{self, Ended};
use crate::sys::{descriptors, process, ready, signal as signals};
use crate::wire::arg0;

/// How long those that are left may take to end after SIGKILL. More is of no use: who is still there then sleeps in the
/// kernel, and the pool waits for news of its worker.
const PATIENCE: Duration = Duration::from_millis(400);

/// How often to look for those whose adoption was not noticed.
const LOOK: Duration = Duration::from_millis(5);

/// How often to look for the parent where there are no descriptors for processes.
const LOOK_UP: Duration = Duration::from_millis(250);

/// Becomes the guardian of the worker of this serial number, on behalf of `parent`.
pub(super) fn run(parent: u32, serial: u32) -> ! {
    let guard = move || {
        let ended = guard(parent, serial).unwrap_or_else(|error| {
            leave::fail(leave::UNFIT, &format!("its guardian failed ({error})"));
        });
        end_as(ended)
    };
    if tokio::runtime::Handle::try_current().is_err() {
        guard()
    }
    // As for a worker: `main` is a task of a runtime already, and waits here for ever.
    match thread::Builder::new().spawn(guard).map(thread::JoinHandle::join) {
        Err(error) => leave::fail(leave::UNFIT, &format!("its guardian failed to start a thread ({error})")),
        Ok(_) => leave::fail(leave::UNFIT, "its guardian has ended"),
    }
}

/// Starts the worker and stays until nobody is left. How the worker ended.
fn guard(parent: u32, serial: u32) -> io::Result<Ended> {
    signals::reset()?;
    if getpgrp() != getpid() {
        setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    }
    prctl::set_child_subreaper(true)?;
    // As in a worker: it only wakes one that was stopped.
    let _ = prctl::set_pdeathsig(Signal::SIGCONT);
    let _ = prctl::set_name(c"procpool-guard");
    descriptors::close_inherited();
    let lives = Lives::parent(parent)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Heard from here on, before there is anybody whom they may concern.
        let (mut ends, mut terms) = (signal(SignalKind::user_defined1())?, signal(SignalKind::terminate())?);
        let mut children = signal(SignalKind::child())?;
        let mut command = Command::new("/proc/self/exe");
        command.args(std::env::args_os().skip(1)).arg0(arg0::format(std::process::id(), serial));
        // Waited for below, and not before its group is gone.
        let worker = command.process_group(0).spawn()?.id();
        let mut lost = Box::pin(lost(lives, parent));
        while !has_ended(worker)? {
            tokio::select! {
                _ = children.recv() => {}
                _ = terms.recv() => { let _ = killpg(Pid::from_raw(worker.cast_signed()), Signal::SIGTERM); }
                _ = ends.recv() => break,
                () = &mut lost => break,
            }
        }
        clear(worker, &mut children).await
    })
}

/// Whether the worker has ended. Reaps those that were adopted and have ended.
fn has_ended(worker: u32) -> io::Result<bool> {
    loop {
        match pidfd::peek_any()? {
            None => return Ok(false),
            Some((pid, _)) if pid == worker => return Ok(true),
            Some((pid, _)) => drop(pidfd::reap(pid)?),
        }
    }
}

/// Kills the worker's group, then its orphans, and theirs, until there are none. The worker stays a zombie until then, so
/// that its group is no stranger's. How it ended.
async fn clear(worker: u32, children: &mut unix::Signal) -> io::Result<Ended> {
    let until = Instant::now() + PATIENCE;
    loop {
        let _ = killpg(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL);
        let mut left = process::children()?;
        left.retain(|child| match pidfd::peek_pid(*child) {
            Ok(None) => {
                let _ = kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL);
                true
            }
            Ok(Some(_)) if *child != worker => {
                // Its own children have been adopted by the time that this can be seen.
                let _ = pidfd::reap(*child);
                true
            }
            _ => false,
        });
        if left.is_empty() || Instant::now() > until {
            let ended = pidfd::reap(worker)?;
            return ended.ok_or_else(|| io::Error::other("the worker cannot be killed"));
        }
        let _ = timeout(LOOK, children.recv()).await;
    }
}

/// Resolves when the pool's process has ended.
async fn lost(lives: Lives, parent: u32) {
    let pidfd = lives.into_first().and_then(|fd: OwnedFd| watched(fd).ok());
    match pidfd {
        Some(pidfd) => drop(pidfd.readable().await),
        None => {
            while nix::unistd::getppid().as_raw().unsigned_abs() == parent {
                sleep(LOOK_UP).await;
            }
        }
    }
}

fn watched(fd: OwnedFd) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    ready::watch(fd, Interest::READABLE)
}

/// Ends this process as the worker has ended.
fn end_as(Ended { code, status, .. }: Ended) -> ! {
    if code == libc::CLD_EXITED {
        process::exit_now(status);
    }
    // The core, if there is to be one, is the worker's.
    let _ = prctl::set_dumpable(false);
    signals::die_of(status)
}
