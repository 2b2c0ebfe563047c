//! The process of one worker: started, watched, signalled, killed with its group, reaped. It does not know what the process
//! is for, nor when it should end.
//!
//! ```text
//!  spawn ──▶ alive ── pidfd readable ──▶ zombie ── handle dropped ──▶ group killed, then reaped
//!              │                           ▲ │
//!              └─ handle dropped: SIGKILL ─┘ └─ poll_exited resolves; its group can still be signalled
//! ```
//!
//! The leader of the group stays a zombie until nobody needs its group any more: as long as it is one, the kernel gives its
//! number to no other process or group. All of this happens in a task on the service thread, so a handle can be dropped
//! anywhere: without a runtime, after it, while a panic unwinds.
//!
//! A worker may be started by a guardian, which is then the process that is meant here: it passes SIGTERM on, and instead of
//! being killed it is told to kill everybody and end. If it doesn't within [`PATIENCE`], it is killed.
//!
//! Where the kernel has no pidfd, or no descriptor is left for one, the end is noticed by looking every [`LOOK`]. Nothing
//! else is lost, unless this program also ignores `SIGCHLD` or reaps children that it did not start: then the status is
//! unknown as it always is there, and what such a worker has left in its group is not killed either.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::channel::oneshot;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::error::Exit;
use crate::id::WorkerId;
use crate::launch::stderr::{Reader, Tail};
use crate::launch::{oom, service};
use crate::sys::pidfd::{self, Ended};
use crate::sys::process::peak_kib;
use crate::sys::ready;
use crate::wire::arg0::END;

/// How long standard error is read after the end of the process. What it wrote itself is there at once; only processes
/// that it has left behind can write later, and may do so for ever.
const LINGER: Duration = Duration::from_millis(200);

/// How often to look at a process that cannot tell when it ends. Rarer delays the news, more often costs the idle.
const LOOK: Duration = Duration::from_millis(10);

/// How long a guardian may take to end after it was told to: longer than it waits for others, and shorter than a worker is
/// waited for that was killed.
const PATIENCE: Duration = Duration::from_millis(600);

/// A worker's process. Dropping it kills the whole process group and reaps the process, wherever that happens.
#[derive(Debug)]
#[must_use = "dropping it kills the process"]
pub(crate) struct Process {
    pid: u32,
    guardian: bool,
    /// To the task on the service thread.
    orders: mpsc::UnboundedSender<Order>,
    fate: Fate,
    tail: Arc<Tail>,
}

#[derive(Debug)]
enum Fate {
    /// The task on the service thread will say.
    Open(oneshot::Receiver<Exited>),
    Known(Exited),
}

/// Signals a process from anywhere: without a runtime, and when its [`Process`] has gone.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pid: u32,
    guardian: bool,
    orders: mpsc::UnboundedSender<Order>,
}

/// What the task on the service thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Signal(Signal),
    /// Kill the group, and reap the process as soon as it has ended.
    Release,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exited {
    pub(crate) exit: Exit,
    /// The most memory that was resident at once, in KiB, if it is known.
    pub(crate) peak_kib: Option<u64>,
    /// How many times the kernel has killed for want of memory meanwhile, if that may be what ended it.
    pub(crate) oom_kills: u64,
}

const UNKNOWN: Exited = Exited { exit: Exit::Unknown, peak_kib: None, oom_kills: 0 };

/// How things stood when a process was started.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    /// The most memory that we have had resident, in KiB: the kernel counts it as the new process's too, since that has
    /// shared ours for a moment.
    peak_kib: Option<u64>,
    oom_kills: Option<u64>,
}

impl Process {
    /// Starts a program in a process group of its own, with its standard error read by us. Blocks until it executes. It may be
    /// the `guardian` of a worker.
    ///
    /// To be called through [`service::execute`]: the kernel takes the end of the calling thread for the parent's.
    ///
    /// # Errors
    ///
    /// What tokio says of `spawn`, and when there is no service thread.
    pub(crate) fn spawn(command: &mut Command, worker: WorkerId, guardian: bool) -> io::Result<Self> {
        let (stderr, theirs) = io::pipe()?;
        // Before the spawn: the kernel may kill it at once.
        let oom_kills = oom::kills();
        let child = command.process_group(0).stderr(theirs).spawn();
        // The command keeps its copy of the pipe until it is told otherwise, and we would never see the end of file.
        command.stderr(std::process::Stdio::null());
        let child = child?;
        // There is one until it is reaped.
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        let tail = Arc::new(Tail::default());
        let (orders, received) = mpsc::unbounded_channel();
        let (exited, fate) = oneshot::channel();
        let before = Before { peak_kib: peak_kib().ok(), oom_kills };
        let mut leader = Leader { pid, child, pidfd: None, before, guardian, patience: None };
        // At once: if somebody else reaps it, the group can only be found through a descriptor.
        let pidfd = pidfd::open(pid);
        let (pipe, kept) = (OwnedFd::from(stderr), Arc::clone(&tail));
        service::spawn(async move {
            leader.pidfd = pidfd
                .and_then(|fd| ready::watch(fd, Interest::READABLE))
                .inspect_err(|error| tracing::debug!(pid, %error, "no pidfd"))
                .ok();
            watch(leader, received, Reader::new(pipe, kept, worker, pid), exited).await;
        })?;
        Ok(Self { pid, guardian, orders, fate: Fate::Open(fate), tail })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Another handle, which can signal the process and does not keep it.
    pub(crate) fn control(&self) -> Control {
        Control { pid: self.pid, guardian: self.guardian, orders: self.orders.clone() }
    }

    /// Kills what is left of the process and its group, and resolves when it has been reaped.
    ///
    /// # Cancel safety
    ///
    /// It is reaped all the same when the future is dropped.
    pub(crate) async fn gone(&self) {
        let _ = self.orders.send(Order::Release);
        self.orders.closed().await;
    }

    /// Resolves when the process has ended and all that it wrote to standard error has been read; from then on always.
    pub(crate) fn poll_exited(&mut self, cx: &mut Context<'_>) -> Poll<Exited> {
        match &mut self.fate {
            Fate::Known(exited) => Poll::Ready(*exited),
            Fate::Open(fate) => Pin::new(fate).poll(cx).map(|exited| {
                let exited = exited.unwrap_or(UNKNOWN);
                self.fate = Fate::Known(exited);
                exited
            }),
        }
    }

    /// The last few KiB that the process wrote to standard error, control characters escaped.
    pub(crate) fn stderr_tail(&self) -> String {
        self.tail.text()
    }

    /// The same, and what came before as far as it is kept.
    pub(crate) fn stderr_kept(&self) -> String {
        self.tail.whole()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Said and not left to the closing of the channel: a `Control` may keep that open.
        let _ = self.orders.send(Order::Release);
    }
}

impl Control {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process is a worker's guardian and not the worker.
    pub(crate) fn is_guardian(&self) -> bool {
        self.guardian
    }

    /// Sends a signal to the process and its group, if they are still there.
    pub(crate) fn signal(&self, signal: Signal) {
        // Without a receiver it has been reaped, and there is nobody to signal.
        let _ = self.orders.send(Order::Signal(signal));
    }

    /// Kills the process and its group and has it reaped, even if its `Process` is never dropped.
    pub(crate) fn release(&self) {
        let _ = self.orders.send(Order::Release);
    }
}

/// Sees a process from its start to its end.
async fn watch(
    mut leader: Leader,
    mut orders: mpsc::UnboundedReceiver<Order>,
    mut stderr: Reader,
    exited: oneshot::Sender<Exited>,
) {
    let mut held = true;
    let seen = loop {
        tokio::select! {
            biased;
            order = orders.recv(), if held => {
                held = leader.obey(order);
            }
            seen = leader.ended() => break seen,
            () = leader.impatience() => leader.kill(),
            () = stderr.read() => {}
        }
    };
    let until = Instant::now() + LINGER;
    // Everything that the process wrote is in the pipe by now; the runtime may not have heard of it yet.
    stderr.drain();
    let _ = exited.send(seen);
    while held {
        tokio::select! {
            biased;
            order = orders.recv() => held = leader.obey(order),
            () = sleep_until(until), if stderr.is_open() => stderr.abandon(),
            () = stderr.read() => {}
        }
    }
    drop(leader);
    // Tells `gone`.
    drop(orders);
    while stderr.is_open() {
        tokio::select! {
            biased;
            () = sleep_until(until) => stderr.abandon(),
            () = stderr.read() => {}
        }
    }
}

/// The process that leads its group. The only place that signals and reaps; dropping it does both.
struct Leader {
    pid: u32,
    child: Child,
    pidfd: Option<AsyncFd<Arc<OwnedFd>>>,
    before: Before,
    guardian: bool,
    /// Until when a guardian may take that was told to end.
    patience: Option<Instant>,
}

impl Leader {
    /// Resolves when the process has ended, and leaves it a zombie.
    ///
    /// # Cancel safety
    ///
    /// Can be dropped and asked for again at any time.
    async fn ended(&self) -> Exited {
        loop {
            let readable = match &self.pidfd {
                Some(pidfd) => pidfd.readable().await.ok(),
                None => None,
            };
            match (self.look(), readable) {
                (Ok(Some(ended)), _) => return self.before.judge(ended),
                (Ok(None), Some(mut readable)) => readable.clear_ready(),
                (Ok(None), None) => sleep(LOOK).await,
                (Err(_), _) => return UNKNOWN,
            }
        }
    }

    /// How the process ended, if it has; an error if somebody else has reaped it.
    fn look(&self) -> io::Result<Option<Ended>> {
        match self.pidfd.as_ref().map(|pidfd| pidfd::peek(pidfd.as_fd())) {
            Some(Err(error)) if error.raw_os_error() == Some(libc::EINVAL) => pidfd::peek_pid(self.pid),
            Some(look) => look,
            None => pidfd::peek_pid(self.pid),
        }
    }

    /// Resolves when a guardian has taken too long to end.
    async fn impatience(&self) {
        match self.patience {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Kills a guardian itself. Its worker ends with it.
    fn kill(&mut self) {
        self.guardian = false;
        self.patience = None;
        self.signal(Signal::SIGKILL);
    }

    /// Carries out an order; none at all means that everybody has gone who could give one. Whether the process is still
    /// wanted.
    fn obey(&mut self, order: Option<Order>) -> bool {
        let (signal, held) = match order {
            Some(Order::Signal(signal)) => (signal, true),
            Some(Order::Release) | None => (Signal::SIGKILL, false),
        };
        if self.guardian && signal == Signal::SIGKILL {
            self.patience.get_or_insert_with(|| Instant::now() + PATIENCE);
            self.signal(END);
        } else {
            self.signal(signal);
        }
        held
    }

    /// Signals the group. Nothing is sent to a number that may have become a stranger's.
    fn signal(&self, signal: Signal) {
        let number = Pid::from_raw(self.pid.cast_signed());
        let sent = match self.pidfd.as_ref().map(|pidfd| pidfd::signal_group(pidfd.as_fd(), signal)) {
            Some(Ok(())) => true,
            Some(Err(error)) if error.raw_os_error() == Some(libc::ESRCH) => false,
            // An old kernel. Between the look and the signal only somebody who reaps others' children could interfere.
            _ => self.look().is_ok() && killpg(number, signal).is_ok(),
        };
        // A process can leave its group.
        if (signal == Signal::SIGKILL || !sent) && matches!(self.look(), Ok(None)) {
            let _ = kill(number, signal);
        }
    }
}

impl Drop for Leader {
    /// Kills what the process has left behind in its group, then lets the process go. It has ended by then, unless something
    /// failed on the way.
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        // Does not block, even if it is not ours to reap any more.
        let _ = self.child.try_wait();
    }
}

impl Before {
    fn judge(self, ended: Ended) -> Exited {
        let exit = match ended.code {
            libc::CLD_EXITED => Exit::Code(ended.status),
            code => Exit::Signal { number: ended.status, core: code == libc::CLD_DUMPED },
        };
        let own = |kib: &u64| self.peak_kib.is_some_and(|ours| *kib > ours);
        let peak_kib = u64::try_from(ended.peak_kib).ok().filter(own);
        let killed = matches!(exit, Exit::Signal { number: libc::SIGKILL, .. });
        let oom_kills = if killed { oom::claim(self.oom_kills) } else { 0 };
        Exited { exit, peak_kib, oom_kills }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::tests::{group, wait_for};

    #[tokio::test(flavor = "current_thread")]
    async fn without_a_pidfd_the_end_is_seen_all_the_same() {
        for (script, held, expected) in [
            ("exit 4", true, Exit::Code(4)),
            ("sleep 60 & echo $! >&2; wait", false, Exit::Signal { number: libc::SIGKILL, core: false }),
        ] {
            let (stderr, theirs) = io::pipe().unwrap();
            let mut command = Command::new("/bin/sh");
            let child = command.args(["-c", script]).process_group(0).stderr(theirs).spawn().unwrap();
            drop(command);
            let pid = child.id().unwrap();
            let leader = Leader {
                pid,
                child,
                pidfd: None,
                before: Before::default(),
                guardian: false,
                patience: None,
            };
            let (orders, received) = mpsc::unbounded_channel();
            let (sender, fate) = oneshot::channel();
            let tail = Arc::new(Tail::default());
            let reader = Reader::new(stderr.into(), Arc::clone(&tail), WorkerId::new(1, 0), pid);
            let watching = tokio::spawn(watch(leader, received, reader, sender));
            let orders = held.then_some(orders);
            assert_eq!(fate.await.unwrap().exit, expected);
            drop(orders);
            watching.await.unwrap();
            assert_eq!(pidfd::peek_pid(pid).unwrap_err().raw_os_error(), Some(libc::ECHILD));
            wait_for("the group to be gone", || group(pid).is_empty());
        }
    }
}
