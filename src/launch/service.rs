//! The threads of this process on which workers are started, watched and reaped, and timers run. They serve every pool,
//! are started by the first use, never end and decide nothing.
//!
//! ```text
//!  procpool        a current-thread runtime of our own: the task that watches a worker, alarms. It never blocks.
//!  procpool-exec   calls `spawn` of `tokio::process`, which blocks until the new program is executing.
//! ```
//!
//! They belong to no user's runtime, so that dropping that one leaves nothing unwatched, and never end, because the kernel
//! takes the end of the thread that spawned a process for the end of its parent. Spawning has a thread to itself because
//! an `exec` from a dead network disk or a frozen cgroup can hang for ever, and the limit on starting is a timer.
//!
//! A process that was forked from this one without executing a program has these threads' memory but not the threads:
//! pools do not work there.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::task::Waker;
use std::thread;
use std::time::Instant;

use futures::channel::oneshot;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;

use crate::error::{Error, ErrorKind};

static RUNTIME: OnceLock<Handle> = OnceLock::new();
static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();

type Job = Box<dyn FnOnce() + Send>;

/// Runs a future on the service thread. It must not block.
///
/// # Errors
///
/// [`ErrorKind::Launch`] when the thread could not be started; the next call tries again.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    once(&RUNTIME, start_runtime)?.spawn(future);
    Ok(())
}

/// Runs a closure that may block on the thread for spawning, and gives its result.
///
/// # Errors
///
/// As [`spawn`]; also when the closure panicked.
///
/// # Cancel safety
///
/// When the future is dropped, the closure is run all the same and its result is dropped there.
pub(crate) async fn execute<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let (result, receiver) = oneshot::channel();
    let gone = || Error::new(ErrorKind::Launch, "the thread that starts workers has failed");
    once(&RUNTIME, start_runtime)?;
    once(&SPAWNER, start_spawner)?.send(Box::new(move || drop(result.send(job())))).map_err(|_| gone())?;
    receiver.await.map_err(|_| gone())
}

/// What is in the cell; if nothing is, it is started, by one thread at a time.
fn once<T>(cell: &'static OnceLock<T>, start: fn() -> io::Result<T>) -> Result<&'static T, Error> {
    static STARTING: Mutex<()> = Mutex::new(());
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = start().map_err(|error| {
        Error::new(ErrorKind::Launch, format!("could not start the thread that watches workers: {error}"))
            .with(|report| report.advice = Some("look at `ulimit -u`, `ulimit -n` and memory".into()))
    })?;
    Ok(cell.get_or_init(|| value))
}

/// The runtime is built on its thread: dropped in the caller's, after a failure, it could panic there.
fn start_runtime() -> io::Result<Handle> {
    let (built, handle) = mpsc::channel();
    thread::Builder::new().name("procpool".into()).spawn(move || {
        match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let _ = built.send(Ok(runtime.handle().clone()));
                runtime.block_on(std::future::pending::<()>());
            }
            Err(error) => drop(built.send(Err(error))),
        }
    })?;
    handle.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))
}

fn start_spawner() -> io::Result<mpsc::Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    // `execute` has started it.
    let runtime = RUNTIME.get().ok_or(io::ErrorKind::NotConnected)?;
    thread::Builder::new().name("procpool-exec".into()).spawn(move || {
        // What is spawned here is watched there.
        let _entered = runtime.enter();
        for job in jobs {
            // Whoever waits for the job hears of a panic through its channel. The thread must not end.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    })?;
    Ok(sender)
}

/// A timer that needs no runtime of the user's: that one may have no time driver, or its clock may be paused in a test
/// while real workers run.
///
/// Cancelled when dropped.
#[derive(Debug)]
pub(crate) struct Alarm {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Tells the alarm's task to look at the state again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Who is to be woken, and when.
    wanted: Option<(Instant, Waker)>,
    /// When the alarm's task will look again by itself: never later than is wanted. Earlier costs a look, and spares
    /// waking it whenever a time is moved back.
    armed: Option<Instant>,
    cancelled: bool,
}

impl Alarm {
    /// An alarm that is not set.
    ///
    /// # Errors
    ///
    /// As [`spawn`].
    pub(crate) fn new() -> Result<Self, Error> {
        let shared = Arc::<Shared>::default();
        spawn(ring(Arc::clone(&shared)))?;
        Ok(Self { shared })
    }

    /// Wakes `waker` at `at` or some milliseconds later, once, instead of what was set before.
    pub(crate) fn set(&self, at: Instant, waker: &Waker) {
        let mut state = self.shared.lock();
        match &mut state.wanted {
            Some((time, known)) => {
                *time = at;
                known.clone_from(waker);
            }
            wanted @ None => *wanted = Some((at, waker.clone())),
        }
        if state.armed.is_none_or(|armed| at < armed) {
            state.armed = Some(at);
            drop(state);
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.cancelled = true;
        let wanted = state.wanted.take();
        drop(state);
        self.shared.changed.notify_one();
        // Outside the lock: a waker's drop is somebody else's code.
        drop(wanted);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whom to wake now. Says in `armed` when to look again.
    fn due(&mut self, now: Instant) -> Option<Waker> {
        let due = self.wanted.take_if(|(at, _)| *at <= now).map(|(_, waker)| waker);
        self.armed = self.wanted.as_ref().map(|(at, _)| *at);
        due
    }
}

/// The task of one alarm.
async fn ring(shared: Arc<Shared>) {
    loop {
        let (due, armed) = {
            let mut state = shared.lock();
            if state.cancelled {
                return;
            }
            (state.due(Instant::now()), state.armed)
        };
        if let Some(waker) = due {
            waker.wake();
        }
        let sleep = async {
            match armed {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = shared.changed.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    /// Counts its wakes and unparks the test's thread.
    struct Bell {
        rung: AtomicUsize,
        thread: thread::Thread,
    }

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.rung.fetch_add(1, Ordering::SeqCst);
            self.thread.unpark();
        }
    }

    fn waker(bell: Arc<Bell>) -> Waker {
        bell.into()
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        Builder::new_current_thread().build().unwrap().block_on(future)
    }

    impl Bell {
        fn new() -> Arc<Self> {
            Arc::new(Self { rung: AtomicUsize::new(0), thread: thread::current() })
        }

        fn wait(&self, times: usize) {
            let give_up = Instant::now() + Duration::from_secs(20);
            while self.rung.load(Ordering::SeqCst) < times {
                assert!(Instant::now() < give_up, "the alarm does not ring");
                thread::park_timeout(Duration::from_secs(1));
            }
        }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn an_alarm_rings_once_and_not_before_its_time() {
        let (bell, alarm) = (Bell::new(), Alarm::new().unwrap());
        for times in 1..=3 {
            let at = Instant::now() + Duration::from_millis(20);
            alarm.set(at, &waker(Arc::clone(&bell)));
            alarm.set(at, &waker(Arc::clone(&bell)));
            bell.wait(times);
            assert!(Instant::now() >= at);
            assert_eq!(bell.rung.load(Ordering::SeqCst), times);
        }
    }

    #[test]
    fn setting_an_alarm_again_replaces_time_and_waker() {
        let (old, bell, alarm) = (Bell::new(), Bell::new(), Alarm::new().unwrap());
        alarm.set(Instant::now() + LONG, &waker(Arc::clone(&old)));
        alarm.set(Instant::now(), &waker(Arc::clone(&bell)));
        bell.wait(1);
        // Moved back while it is armed for an earlier time: it looks at that time and does not ring.
        let early = Instant::now() + Duration::from_millis(10);
        let late = early + Duration::from_millis(40);
        alarm.set(early, &waker(Arc::clone(&old)));
        alarm.set(late, &waker(Arc::clone(&bell)));
        bell.wait(2);
        assert!(Instant::now() >= late);
        assert_eq!(old.rung.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_dropped_alarm_lets_go_of_its_waker_and_ends_its_task() {
        let (bell, alarm) = (Bell::new(), Alarm::new().unwrap());
        alarm.set(Instant::now() + LONG, &waker(Arc::clone(&bell)));
        let shared = Arc::downgrade(&alarm.shared);
        drop(alarm);
        assert_eq!(Arc::strong_count(&bell), 1);
        let give_up = Instant::now() + Duration::from_secs(20);
        while shared.strong_count() > 0 {
            assert!(Instant::now() < give_up, "the alarm's task does not end");
            thread::yield_now();
        }
        assert_eq!(bell.rung.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn an_alarm_rings_while_a_spawn_hangs() {
        let (release, hang) = mpsc::channel::<()>();
        let hanging = thread::spawn(move || block_on(execute(move || hang.recv().is_err())));
        let (bell, alarm) = (Bell::new(), Alarm::new().unwrap());
        alarm.set(Instant::now(), &waker(Arc::clone(&bell)));
        bell.wait(1);
        drop(release);
        assert!(hanging.join().unwrap().unwrap());
    }

    #[test]
    fn a_panic_on_the_spawning_thread_is_an_error_and_the_thread_lives_on() {
        let run = |fail: bool| {
            block_on(execute(move || {
                assert!(!fail, "planted");
                thread::current().id()
            }))
        };
        let before = run(false).unwrap();
        assert_eq!(run(true).unwrap_err().kind(), ErrorKind::Launch);
        assert_eq!(run(false).unwrap(), before);
    }
}
