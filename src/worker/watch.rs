//! The watcher thread: sees the death of whoever the worker works for, and reads and writes the link while the main thread
//! is stuck in user code. It runs no tasks.
//!
//! ```text
//!            bell          two ticks in the same task, or main's wish
//!  Asleep ─────────▶ Ticking ───────────────────────────────▶ StandIn
//!     ▲                 │  ▲                                     │
//!     └─ idle, 25 ms ┘  └───────── bell: main is back ────────┘
//! ```
//!
//! The watcher of a thread has no death to see. It ends with that thread, or with the link: a thread whose link has ended and
//! that is stuck all the same has nobody to hear.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::getppid;

use super::io::Shared;
use super::leave;
use super::pulse::asleep;
use crate::arena;
use crate::sys::{pidfd, process, signal};
use crate::wire::frame::Ancestor;

/// How often to look whether the main thread moves. A cancel for a busy task is heard after one to two of these; half as
/// long costs a tenth more processor time per short task.
const TICK: u16 = 5;

/// How long the main thread must sleep before the ticks stop. It wakes the watcher when it has something to do then, which
/// costs what a tick does: so soon, a worker that gets a task now and then costs less, one that is never idle the same, and
/// a thousand that are idle cost nothing.
const IDLE: Duration = Duration::from_millis(25);

/// How often to look for the parent where there are no descriptors for processes, in milliseconds.
const LOOK: u16 = 250;

/// Enough for reading, writing and the wakers of a cancelled task.
const STACK: usize = 256 << 10;

/// How many reads before the main thread gets a chance at the lock.
const READS: usize = 16;

/// Whose death is this worker's.
#[derive(Debug, Default)]
pub(super) struct Lives {
    pidfds: Vec<OwnedFd>,
    /// The parent's pid, where the kernel has no descriptors for processes.
    parent: Option<i32>,
}

impl Lives {
    /// Begins to watch the parent. If that is not the parent any more, nobody needs this process: it ends.
    ///
    /// # Errors
    ///
    /// When the kernel refuses a descriptor for another reason than not knowing them.
    pub(super) fn parent(pid: u32) -> io::Result<Self> {
        let mut lives = Self::default();
        match pidfd::open(pid) {
            Ok(pidfd) => lives.pidfds.push(pidfd),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ESRCH) => leave::die(),
                Some(Errno::ENOSYS | Errno::EPERM) => lives.parent = i32::try_from(pid).ok(),
                _ => return Err(error),
            },
        }
        // Opened first, then checked: a parent that died in between is not missed, and its pid is not another's.
        if getppid().as_raw().unsigned_abs() != pid {
            leave::die();
        }
        Ok(lives)
    }

    /// The parent, for the time before there is a watcher.
    pub(super) fn first(&self) -> Option<&OwnedFd> {
        self.pidfds.first()
    }

    /// The descriptor of the parent, for who watches in another way.
    pub(super) fn into_first(self) -> Option<OwnedFd> {
        self.pidfds.into_iter().next()
    }

    /// Watches those above the parent as well, so that a tree does not die level by level. Who is on another host, in
    /// another pid namespace, or gone is passed over: the parent sees to that.
    pub(super) fn ancestors(&mut self, parent: Option<u32>, ancestors: &[Ancestor]) {
        for ancestor in ancestors.iter().filter(|ancestor| Some(ancestor.pid) != parent) {
            if let Ok(pidfd) = pidfd::open(ancestor.pid)
                && process::start_time(ancestor.pid).is_ok_and(|start| start == ancestor.start)
            {
                self.pidfds.push(pidfd);
            }
        }
    }
}

/// Starts the watcher.
///
/// # Errors
///
/// When no thread can be made: a worker without one would outlive its parent.
pub(super) fn start(shared: &Arc<Shared>, lives: Lives) -> io::Result<()> {
    let (shared, watched) = (Arc::clone(shared), Arc::clone(shared));
    let watcher = thread::Builder::new().name("procpool-watch".into()).stack_size(STACK);
    let run = move || {
        // Where more compute than there are processors, it would else hear of a death only when the others' slices are
        // over: with a hundred workers on two, after 2 s.
        if let Err(error) = process::run_shortly() {
            tracing::debug!(%error, "the watcher waits for its turn as any thread does");
        }
        let watcher = Watcher { shared, lives, state: State::start() };
        if catch_unwind(AssertUnwindSafe(|| watcher.run())).is_err() {
            watched.fail(leave::UNFIT, "the watcher has failed");
        }
    };
    signal::with_all_blocked(|| watcher.spawn(run))??;
    Ok(())
}

struct Watcher {
    shared: Arc<Shared>,
    lives: Lives,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The main thread is idle: nothing but a bell or a death wakes the watcher, and this, when there is memory to be given
    /// back then.
    Asleep { trim: Option<Instant> },
    /// The main thread is active, and was at this epoch at the last tick, which did not change since then.
    Ticking { epoch: u64, since: Instant },
    /// The main thread is stuck. `full`: the parent has to read before more can be written. `stream`: there may be more to
    /// write without a word.
    StandIn { full: bool, stream: bool },
    /// There is nothing to watch any more.
    Over,
}

/// What became ready.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    bell: bool,
    link: bool,
}

impl State {
    /// No epoch is 0, so the first tick finds it changed.
    fn start() -> Self {
        Self::Ticking { epoch: 0, since: Instant::now() }
    }
}

impl Watcher {
    /// Returns when there is nothing to watch any more, as there always is in a process.
    fn run(mut self) {
        while !matches!(self.state, State::Over) {
            let ready = self.poll();
            self.state = match self.state {
                _ if ready.bell => self.answer(),
                State::Ticking { epoch, since } => self.tick(epoch, since),
                State::StandIn { stream, .. } if ready.link || stream => self.stand_in(),
                State::Asleep { trim: Some(at) } if at <= Instant::now() => {
                    // Bulk is over for now.
                    self.shared.depot.trim();
                    State::Asleep { trim: None }
                }
                state => state,
            };
        }
    }

    /// The main thread has rung.
    fn answer(&self) -> State {
        let pulse = &self.shared.pulse;
        pulse.hush();
        // It is back, or wants to be stood in for at once.
        if pulse.is_over() { State::Over } else { self.stand_in() }
    }

    /// Waits for what concerns the state, and for deaths, which concern every state.
    fn poll(&self) -> Ready {
        let lives = self.lives.pidfds.len();
        let mut fds: Vec<_> =
            self.lives.pidfds.iter().map(|pidfd| PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(self.shared.pulse.bell().as_fd(), PollFlags::POLLIN));
        let ends = &self.shared.ends;
        // Without wanted events the input still reports that the parent has hung up.
        let stands_in = matches!(self.state, State::StandIn { .. });
        if stands_in || self.lives.parent.is_some() {
            let events = if stands_in { PollFlags::POLLIN } else { PollFlags::empty() };
            fds.push(PollFd::new(ends.input.as_fd(), events));
        }
        if let State::StandIn { full: true, .. } = self.state {
            fds.push(PollFd::new(ends.output.as_fd(), PollFlags::POLLOUT));
        }
        let timeout = match self.state {
            State::Ticking { .. } | State::StandIn { stream: true, .. } => PollTimeout::from(TICK),
            _ if self.lives.parent.is_some() => PollTimeout::from(LOOK),
            State::Asleep { trim: Some(at) } => {
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
            _ => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR | Errno::EAGAIN) => return Ready::default(),
            Err(errno) => {
                self.shared.fail(leave::UNFIT, &format!("the watcher can't watch ({errno})"));
                return Ready::default();
            }
        }
        let any = |fd: &PollFd<'_>| fd.revents() != Some(PollFlags::empty());
        if fds[..lives].iter().any(any) || self.lives.parent.is_some_and(|pid| getppid().as_raw() != pid) {
            leave::die();
        }
        let (bell, link) = (any(&fds[lives]), fds[lives + 1..].iter().any(any));
        if link && !stands_in {
            leave::die();
        }
        Ready { bell, link }
    }

    /// Compares the main thread with what it was a tick ago.
    fn tick(&self, epoch: u64, since: Instant) -> State {
        let pulse = &self.shared.pulse;
        let now = pulse.epoch();
        if now != epoch {
            return State::Ticking { epoch: now, since: Instant::now() };
        }
        if !asleep(epoch) {
            let mut io = self.shared.lock();
            if io.is_gone() {
                return State::Over;
            }
            // Moved before we had the lock: it may by now sleep and rely on being told of what comes in.
            // Or it has said its last word, and exit handlers take their time: the link is none of our business then.
            if pulse.epoch() != epoch || io.has_left() {
                return State::start();
            }
            io.standin = true;
            drop(io);
            return self.stand_in();
        }
        if since.elapsed() >= IDLE && pulse.doze(epoch) {
            let slack = self.shared.depot.is_slack();
            return State::Asleep { trim: slack.then(|| Instant::now() + arena::IDLE) };
        }
        State::Ticking { epoch, since }
    }

    /// Reads and writes in the main thread's place, unless it is back.
    fn stand_in(&self) -> State {
        for _ in 0..READS {
            let mut io = self.shared.lock();
            if !io.standin {
                return State::start();
            }
            if io.is_gone() {
                return State::Over;
            }
            let effects = self.shared.read(&mut io);
            let drained = effects.is_none();
            let effects = effects.map(|effects| io.on_behalf(effects));
            io.cut();
            self.shared.flush(&mut io);
            let (full, stream) = (io.has_output(), io.running.has_stream());
            drop(io);
            if let Some(effects) = effects {
                effects.perform_on_behalf();
            }
            if drained {
                return State::StandIn { full, stream };
            }
        }
        State::StandIn { full: false, stream: true }
    }
}
