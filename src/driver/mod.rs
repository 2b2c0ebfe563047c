//! Feeds the scheduler and performs its actions: one lock, one task per link, one for the clock. It decides nothing; what
//! it has beyond the scheduler are payloads, reply slots and words.
//!
//! There is no channel and no central task on the way of a call: whoever submits puts the frame into its link's outbox
//! under the lock and wakes the link's task, which writes everything that has gathered at once.

mod answer;
mod autopsy;
mod bus;
mod calls;
mod clock;
mod news;
mod options;
mod pack;
mod port;
mod report;
mod send;
mod session;
mod spin;
mod state;
mod stream;
mod submit;

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::poll_fn;
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::yield_now;

use crate::error::{Error, ErrorKind};
use crate::event::Summary;
use crate::id::{TaskId, WorkerId};
use crate::launch::Launcher;
use crate::sched::{Config, Input};
use crate::sys::ready;
use crate::task::Task;
use crate::uplink::{Line, Uplink};
use crate::wire::frame::{Limits, Tree};
use crate::wire::payload::Payload;
pub(crate) use options::{Options, Owner, Place};
pub(crate) use pack::{Chunk, Taken, nth};
use send::Late;
use state::State;
pub(crate) use submit::Submitted;

/// A running pool, as the typed front sees it. Clones are the same pool; it ends with `abort`, not with the last clone.
#[derive(Clone)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
}

/// What the tasks of a pool share.
struct Shared {
    state: Mutex<State>,
    launcher: Arc<dyn Launcher>,
    /// Where the tasks of links and clock run: the runtime that built the pool.
    runtime: Handle,
    /// What every worker must keep to.
    limits: Limits,
    /// What every worker is told of the tree.
    tree: Tree,
    /// What joins a pool inside a worker to the tree above.
    uplink: Option<Arc<Uplink>>,
    /// Whether it matters how large workers are.
    weighs: bool,
    /// Where links wait busily: whether one of them does.
    spin: Option<Arc<spin::Turn>>,
    /// Counts callers.
    lanes: AtomicU32,
    /// What `started` and `closed` wait for.
    life: watch::Sender<Life>,
}

/// How far a pool's life has come.
#[derive(Clone, Debug)]
enum Life {
    /// No worker has opened yet.
    Starting,
    /// A worker has opened.
    Started,
    /// Workers could not be started.
    Failed(Error),
    /// No tasks, no workers.
    Closed(Summary),
}

impl Driver {
    /// Starts a pool on the current runtime.
    ///
    /// # Errors
    ///
    /// When this is no runtime, or the clock's thread cannot be started.
    pub(crate) fn start(
        config: Config,
        limit: u32,
        launcher: Arc<dyn Launcher>,
        tree: Tree,
        uplink: Option<Arc<Uplink>>,
        low_latency: bool,
    ) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|_| {
            Error::new(ErrorKind::Launch, "a pool was built outside of a tokio runtime").with(|report| {
                report.advice = Some("call build() in an async function that tokio runs".into())
            })
        })?;
        probe()?;
        let life = watch::Sender::new(Life::Starting);
        let limits = Limits { message: limit, slots: config.slots };
        let weighs = config.most_memory < u64::MAX;
        let line = uplink.as_ref().map(Uplink::line);
        let can_kill = launcher.can_kill();
        let state = State::new(config, limit, can_kill, &tree, uplink.as_deref(), line.clone())?;
        let state = Mutex::new(state);
        let shared = Arc::new(Shared {
            state,
            launcher,
            runtime,
            limits,
            tree,
            uplink,
            weighs,
            spin: if low_latency { spin::Turn::new() } else { None },
            lanes: AtomicU32::new(0),
            life,
        });
        let clock = Fuse::new(&shared, None);
        shared.runtime.spawn(clock_task(clock));
        if let Some(line) = line {
            shared.runtime.spawn(line_task(Arc::clone(&shared), line));
        }
        shared.with(|state, now| state.handle(now, Input::Start));
        Ok(Self { shared })
    }

    /// Resolves when the first worker has opened.
    ///
    /// # Errors
    ///
    /// When no worker could be started.
    pub(crate) async fn started(&self) -> Result<(), Error> {
        let mut life = self.shared.life.subscribe();
        match life.wait_for(|life| !matches!(life, Life::Starting)).await.as_deref() {
            Ok(Life::Failed(error)) => Err(error.clone()),
            Ok(Life::Closed(_)) | Err(_) => Err(report::closed()),
            Ok(Life::Starting | Life::Started) => Ok(()),
        }
    }

    /// Whether it takes tasks: it has not been told to end.
    pub(crate) fn is_running(&self) -> bool {
        self.shared.lock(|state| state.is_running())
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.shared.life.borrow(), Life::Closed(_))
    }

    /// How many descriptors each worker takes.
    pub(crate) fn descriptors(&self) -> u64 {
        self.shared.launcher.descriptors()
    }

    /// The largest message, in bytes.
    pub(crate) fn limit(&self) -> u32 {
        self.shared.limits.message
    }

    /// Submits a task whose input has been encoded.
    ///
    /// # Errors
    ///
    /// When the workers do not know the task, or another version of it; when its token is cancelled.
    pub(crate) fn submit<T: Task>(
        &self,
        input: Payload,
        options: &Options,
        place: Place,
    ) -> Result<Submitted, Error> {
        self.shared.timeless(|state| state.submit::<T>(input, options, place))
    }

    /// Asks for a place in the queue, for a task that will be submitted under the id that is returned.
    ///
    /// # Errors
    ///
    /// When the token is cancelled. Everything else is the task's answer.
    pub(crate) fn reserve(&self, options: &Options, patient: bool) -> Result<TaskId, Error> {
        self.shared.with(|state, now| state.reserve(now, options, patient))
    }

    /// Asks whether a task has its place in the queue; `false`: it has been answered instead.
    pub(crate) fn poll_place(&self, task: TaskId, cx: &Context<'_>) -> Poll<bool> {
        let waker = cx.waker().clone();
        let (placed, _old) = self.shared.lock(|state| state.calls.poll_place(task, waker));
        placed
    }

    /// Asks for a task's answer; once ready, the task is forgotten.
    pub(crate) fn poll_answer(&self, task: TaskId, cx: &Context<'_>) -> Poll<Result<Payload, Error>> {
        if let Some(answer) = self.shared.lock(|state| state.calls.take(task)) {
            return Poll::Ready(answer);
        }
        // Cloned here: cloning may be anybody's code, as dropping may be.
        let waker = cx.waker().clone();
        let (answer, _old) = self.shared.lock(|state| state.calls.poll(task, waker));
        answer
    }

    /// Tells a task to stop. Its answer can still be asked for.
    pub(crate) fn cancel(&self, task: TaskId) {
        self.shared.with(|state, now| state.handle(now, Input::Cancel { task }));
    }

    /// Nobody will ask for the task's answer any more.
    pub(crate) fn release(&self, task: TaskId, cancel: bool) {
        let _old = self.shared.with(|state, now| {
            let (waits, old) = state.calls.release(task);
            if waits && cancel {
                state.handle(now, Input::Cancel { task });
            }
            old
        });
    }

    /// Sets the number of workers.
    ///
    /// # Errors
    ///
    /// When the pool was told to end.
    pub(crate) fn resize(&self, workers: u32) -> Result<(), Error> {
        self.shared.with(|state, now| {
            if !state.is_running() {
                return Err(report::closed());
            }
            state.handle(now, Input::Resize { least: workers, most: workers });
            Ok(())
        })
    }

    pub(crate) fn shutdown(&self, limit: Duration) {
        self.shared.with(|state, now| state.handle(now, Input::Shutdown { limit }));
    }

    pub(crate) fn drain(&self) {
        self.shared.with(|state, now| state.handle(now, Input::Drain));
    }

    /// Ends everything now. Works in any thread, outside of a runtime, and when the pool's runtime is gone: the kills are
    /// ordered before this returns.
    pub(crate) fn abort(&self) {
        self.shared.with(|state, now| state.abort(now));
    }
}

impl Shared {
    /// Runs `f` under the lock, sees to it that the scheduler is called in time, and to what is left to do without the lock.
    fn with<R>(self: &Arc<Self>, f: impl FnOnce(&mut State, Instant) -> R) -> R {
        self.timeless(|state| {
            let result = f(state, Instant::now());
            state.rearm();
            result
        })
    }

    /// Runs `f` under the lock, which asks for the time itself if it has to; then, without it, wakes whoever is concerned, starts
    /// the links that were decided on, and says what the pool above is to hear.
    fn timeless<R>(self: &Arc<Self>, f: impl FnOnce(&mut State) -> R) -> R {
        let (result, late) = self.lock(|state| {
            let result = f(state);
            (result, state.late())
        });
        let Some(late) = late else { return result };
        let Late { woken, launches, news, speaker, .. } = *late;
        if let Some(line) = speaker {
            line.speak();
        }
        for worker in launches {
            // A runtime that is shutting down drops the future at once, and the fuse with it: not under the lock.
            self.runtime.spawn(session::run(Fuse::new(self, Some(worker))));
        }
        for waker in woken {
            waker.wake();
        }
        if let Some(news) = news {
            self.tell(news);
        }
        result
    }

    /// Tells whoever waits for the pool to start or to close. Not under the lock: their wakers may be anybody's code.
    fn tell(&self, news: Life) {
        self.life.send_modify(|life| {
            // A pool that has started stays so, whatever becomes of later workers.
            if matches!(life, Life::Starting) || matches!(news, Life::Closed(_)) {
                *life = news;
            }
        });
    }

    fn lock<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        // A panic under the lock is a bug of ours, caught by nobody; a poisoned state still serves the other callers.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Has a runtime without I/O show itself where its owner can see it, and not in a task of ours.
fn probe() -> Result<(), Error> {
    let watched = std::os::unix::net::UnixStream::pair().and_then(|(socket, _)| {
        socket.set_nonblocking(true)?;
        ready::watch(OwnedFd::from(socket), Interest::READABLE)
    });
    watched.map(drop).map_err(|error| {
        Error::new(ErrorKind::Launch, format!("failed to watch a socket: {error}"))
            .with(|report| report.advice = Some("look at `ulimit -n`".into()))
    })
}

/// Calls the scheduler when its time has come.
///
/// The waking is done by a thread of our own, not by tokio's clock: that one may be paused, or not be there at all. The
/// deciding is done here, on the runtime that serves the links, so that a blocked runtime shows as a late tick.
async fn clock_task(mut fuse: Fuse) {
    let shared = Arc::clone(&fuse.shared);
    loop {
        poll_fn(|cx| shared.with(|state, now| state.poll_clock(now, cx))).await;
        // If this process did not run for a while, much may have come that nobody has read. It is heard first.
        yield_now().await;
        if !shared.with(|state, now| state.tick(now)) {
            break;
        }
    }
    fuse.done();
}

/// Takes in what the pool above has to say to one inside a worker. It ends with the runtime.
async fn line_task(shared: Arc<Shared>, line: Arc<Line>) {
    loop {
        let news = poll_fn(|cx| line.poll(cx)).await;
        shared.with(|state, now| state.hear_above(now, news));
    }
}

/// Held by each task of a pool. When the runtime drops the task before it has ended, the pool ends.
struct Fuse {
    shared: Arc<Shared>,
    worker: Option<WorkerId>,
    burning: bool,
}

impl Fuse {
    fn new(shared: &Arc<Shared>, worker: Option<WorkerId>) -> Self {
        Self { shared: Arc::clone(shared), worker, burning: true }
    }

    fn done(&mut self) {
        self.burning = false;
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if !self.burning {
            return;
        }
        let worker = self.worker;
        self.shared.with(|state, now| {
            state.abort(now);
            if let Some(worker) = worker {
                state.lost(now, worker, u64::MAX, None);
                state.left(worker);
            }
        });
    }
}
