//! Pools whose workers are threads of this process. It only says what such a worker is made of; how it is one is told where
//! workers are, how it is started where threads are.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::{Error, ErrorKind};
use crate::id::WorkerId;
use crate::launch::{Launched, Launcher, Refusal, Started, thread};
use crate::pool::PoolBuilder;
use crate::worker::{self, Worker};

/// Launches workers as threads of this process.
#[derive(Clone)]
struct InProcess {
    declare: Arc<dyn Fn() -> Worker + Send + Sync>,
}

impl Launcher for InProcess {
    fn launch(&self, worker: WorkerId, started: Started) -> BoxFuture<'static, Result<Launched, Refusal>> {
        let (declare, kin) = (Arc::clone(&self.declare), Arc::new(self.clone()) as Arc<dyn Launcher>);
        Box::pin(async move {
            // On the caller's thread: what a test harness captures, threads that its tests start inherit.
            let launched = thread::start(move |link| worker::thread::run(&*declare, Box::new(kin), link))
                .map_err(|error| explain(worker, &error))?;
            started(launched.body.control());
            Ok(launched)
        })
    }

    /// The link's two ends, one of them twice; the worker's bell; its runtime's three; one more while the link is full.
    fn descriptors(&self) -> u64 {
        8
    }

    fn can_kill(&self) -> bool {
        false
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InProcess")
    }
}

fn explain(worker: WorkerId, error: &io::Error) -> Refusal {
    let told =
        Error::new(ErrorKind::Launch, format!("could not start a worker's thread: {error}")).with(|report| {
            report.worker = Some(worker);
            report.advice = Some("look at `ulimit -u`, `ulimit -n` and memory".into());
        });
    Refusal::new(told, error)
}

impl PoolBuilder {
    /// Makes the workers threads of this process instead of processes of their own: for unit tests and debuggers. Default:
    /// processes.
    ///
    /// `worker` is called once for each worker, on its thread, since each builds its own states. Neither
    /// [`Worker::init`] nor [`worker_test!`](crate::worker_test) is needed.
    ///
    /// Everything else is as it is with processes: inputs and outputs are encoded and sent, each worker has a
    /// current-thread runtime to itself, panics are answers, tasks are cancelled, timed out, prioritised and taken back,
    /// workers are replaced, states are built, lent and dropped, pools of tasks ([`Context::pool`](crate::Context::pool))
    /// are threads in their turn. What a thread cannot offer:
    ///
    /// * **Isolation.** `process::exit`, an abort, a segfault or running out of memory end this process. Statics,
    ///   environment, working directory and open files are shared with it. With `panic = "abort"` so does a panic.
    /// * **Force.** Nobody can end a thread. When a task does not stop, the link of its worker is closed where a process gets
    ///   `SIGTERM`: the worker ends as soon as the task returns or awaits. One that never does is given up: a second after
    ///   `SIGKILL` would have been due its caller gets [`Unresponsive`](ErrorKind::Unresponsive), and another worker takes
    ///   the place. The thread is left behind; it keeps its stack and its states until the task returns, and then goes
    ///   quietly.
    /// * **A process of its own.** [`Error::worker_pid`] and [`WorkerStats::pid`](crate::WorkerStats::pid) are `None`,
    ///   [`Error::stderr`] is empty unless the worker says itself why it ended, and [`Error::exit`] is
    ///   [`Exit::Thread`](crate::Exit::Thread). Standard input and output are left alone: what tasks print goes where this
    ///   process prints. The options that concern a process (`program`, `env`, `current_dir`, `nice`, `contained` and the like)
    ///   have no effect.
    ///
    /// A panic hook is installed that notes where a panic happened and then calls the one that was there.
    ///
    /// ```
    /// use procpool::{Context, Error, Pool, Task, Worker};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Square(u64);
    ///
    /// impl Task for Square {
    ///     const NAME: &'static str = "square";
    ///     type Output = u64;
    ///
    ///     async fn run(self, _cx: Context) -> u64 {
    ///         self.0 * self.0
    ///     }
    /// }
    ///
    /// fn worker() -> Worker {
    ///     Worker::new().task::<Square>()
    /// }
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), Error> {
    ///     let pool = Pool::builder().workers(2).in_process(worker).build().await?;
    ///     assert_eq!(pool.run(Square(12)).await?, 144);
    ///     pool.drain().await;
    ///     Ok(())
    /// }
    /// ```
    pub fn in_process(self, worker: impl Fn() -> Worker + Send + Sync + 'static) -> Self {
        self.launched_by(InProcess { declare: Arc::new(worker) })
    }
}

#[cfg(test)]
mod tests {
    //! What becomes of a pool whose workers cannot be started, or are none. A launcher that follows a script stands in for
    //! the kernel.

    use std::collections::VecDeque;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::context::Context;
    use crate::pool::Pool;
    use crate::task::Task;

    const MS: Duration = Duration::from_millis(1);

    /// What becomes of one launch.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// The kernel refuses it.
        Errno(i32),
        /// It works, after a while.
        Slow(Duration),
        /// What is started speaks for itself.
        Speak(fn(UnixStream) -> Result<(), String>),
    }

    /// Launches healthy workers when its script is over.
    #[derive(Clone, Debug)]
    struct Scripted {
        healthy: InProcess,
        script: Arc<Mutex<Script>>,
    }

    #[derive(Debug, Default)]
    struct Script {
        steps: VecDeque<Step>,
        /// What happens when there is no step left, again and again.
        rest: Option<Step>,
        launches: Vec<Instant>,
    }

    impl Scripted {
        fn new(steps: impl IntoIterator<Item = Step>) -> Self {
            let declare = Arc::new(|| Worker::new().task::<Echo>().task::<Leave>());
            let script = Script { steps: steps.into_iter().collect(), ..Script::default() };
            Self { healthy: InProcess { declare }, script: Arc::new(Mutex::new(script)) }
        }

        fn always(step: Step) -> Self {
            let scripted = Self::new([]);
            scripted.set(Some(step));
            scripted
        }

        fn set(&self, rest: Option<Step>) {
            self.script.lock().unwrap().rest = rest;
        }

        fn launches(&self) -> Vec<Instant> {
            self.script.lock().unwrap().launches.clone()
        }

        fn pool(&self, workers: usize) -> PoolBuilder {
            let short = Pool::builder().cancel_grace(MS).term_grace(5000 * MS);
            short.workers(workers).launched_by(self.clone())
        }
    }

    impl Launcher for Scripted {
        fn launch(
            &self,
            worker: WorkerId,
            started: Started,
        ) -> BoxFuture<'static, Result<Launched, Refusal>> {
            let step = {
                let mut script = self.script.lock().unwrap();
                script.launches.push(Instant::now());
                script.steps.pop_front().or(script.rest)
            };
            let healthy = self.healthy.clone();
            Box::pin(async move {
                match step {
                    None => healthy.launch(worker, started).await,
                    Some(Step::Errno(code)) => Err(explain(worker, &io::Error::from_raw_os_error(code))),
                    Some(Step::Slow(time)) => {
                        tokio::time::sleep(time).await;
                        healthy.launch(worker, started).await
                    }
                    Some(Step::Speak(speak)) => {
                        let start = thread::start(move |link: Arc<OwnedFd>| {
                            speak(UnixStream::from(link.try_clone().map_err(|error| error.to_string())?))
                        });
                        let launched = start.map_err(|error| explain(worker, &error))?;
                        started(launched.body.control());
                        Ok(launched)
                    }
                }
            })
        }

        fn descriptors(&self) -> u64 {
            self.healthy.descriptors()
        }

        fn can_kill(&self) -> bool {
            false
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Echo(u64);

    impl Task for Echo {
        const NAME: &'static str = "echo";
        type Output = u64;

        async fn run(self, _: Context) -> u64 {
            self.0
        }
    }

    static BEGUN: AtomicBool = AtomicBool::new(false);

    /// Blocks beyond its grace when it is cancelled: its worker is told to go, and does.
    #[derive(Serialize, Deserialize)]
    struct Leave;

    impl Task for Leave {
        const NAME: &'static str = "leave";
        type Output = ();

        async fn run(self, cx: Context) {
            BEGUN.store(true, Ordering::SeqCst);
            while !cx.is_cancelled() {
                std::thread::yield_now();
            }
            std::thread::sleep(200 * MS);
        }
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limited = async { tokio::time::timeout(Duration::from_secs(60), test).await };
        runtime.block_on(limited).expect("it hangs");
    }

    /// Sends the pool's only worker away.
    async fn leave(pool: &Pool) {
        let worker = pool.stats().workers[0].id;
        let run = pool.run(Leave);
        while !BEGUN.swap(false, Ordering::SeqCst) {
            tokio::time::sleep(MS).await;
        }
        let _ = run.cancel().await;
        while pool.stats().workers.iter().any(|other| other.id == worker) {
            tokio::time::sleep(MS).await;
        }
    }

    #[test]
    fn h3_want_is_waited_out_with_growing_pauses() {
        for code in [libc::EAGAIN, libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            let scripted = Scripted::new([Step::Errno(code); 5]);
            run(async {
                let pool = scripted.pool(1).build().await.unwrap();
                assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
            });
            let launches = scripted.launches();
            assert_eq!(launches.len(), 6, "{code}");
            // The first is tried again at once, the next after 100 ms, 200 ms and so on, give or take a fifth.
            for (n, pair) in launches.windows(2).enumerate().skip(1) {
                assert!(pair[1] - pair[0] >= 79 * MS * (1 << (n - 1)).min(10), "{code}: {launches:?}");
            }
        }
    }

    #[test]
    fn h3_want_that_lasts_is_told_to_everybody_and_pools_recover_when_it_is_over() {
        let scripted = Scripted::always(Step::Errno(libc::EMFILE));
        run(async {
            let error = scripted.pool(3).start_limit(500 * MS).build().await.unwrap_err();
            let words = "could not start a worker's thread: Too many open files";
            assert!(error.kind() == ErrorKind::Launch && error.to_string().contains(words), "{error}");
            let launches = scripted.launches();
            assert!(*launches.last().unwrap() - launches[0] >= 500 * MS, "it did not wait");
            assert!(launches.len() < 25, "it spins: {}", launches.len());

            // A pool that has lost its only worker: its callers hear why, and the next ones are served.
            scripted.set(None);
            let pool = scripted.pool(1).start_limit(500 * MS).build().await.unwrap();
            scripted.set(Some(Step::Errno(libc::EMFILE)));
            leave(&pool).await;
            let waiting: Vec<_> = (0..10).map(|n| pool.run(Echo(n))).collect();
            for run in waiting {
                let error = run.await.unwrap_err();
                assert!(error.kind() == ErrorKind::Launch && !error.may_have_run(), "{error:?}");
                assert!(error.to_string().contains(words), "{error}");
            }
            scripted.set(None);
            let lifted = Instant::now();
            while pool.run(Echo(1)).await.is_err() {
                tokio::time::sleep(10 * MS).await;
            }
            // A second at most, and what a busy machine takes.
            assert!(lifted.elapsed() < Duration::from_secs(5), "{:?}", lifted.elapsed());
        });
    }

    #[test]
    fn h4_workers_that_run_go_on_while_others_cannot_be_started() {
        for step in
            [Step::Errno(libc::ENOMEM), Step::Errno(libc::ENOEXEC), Step::Slow(Duration::from_secs(2))]
        {
            let scripted = Scripted::new([]);
            run(async {
                // The first of two works, the other does not.
                scripted.script.lock().unwrap().steps = [Step::Slow(Duration::ZERO), step].into();
                scripted.set(matches!(step, Step::Errno(_)).then_some(step));
                let pool = scripted.pool(2).build().await.unwrap();
                let start = Instant::now();
                let mut done = 0;
                while start.elapsed() < 500 * MS {
                    assert_eq!(pool.run(Echo(done)).await.unwrap(), done);
                    done += 1;
                }
                assert!(done > 100, "{step:?}: {done}");
                assert!(pool.stats().restarts < 10, "{step:?}: {}", pool.stats().restarts);
                scripted.set(None);
                while pool
                    .stats()
                    .workers
                    .iter()
                    .filter(|it| it.state == crate::event::WorkerState::Open)
                    .count()
                    < 2
                {
                    assert_eq!(pool.run(Echo(done)).await.unwrap(), done);
                }
            });
        }
    }

    #[test]
    fn what_is_no_worker_is_refused_and_the_error_shows_what_it_was() {
        fn heard(link: &mut UnixStream) -> Result<(), String> {
            let mut bytes = [0; 64];
            link.read(&mut bytes).map(drop).map_err(|error| error.to_string())
        }
        type Speak = fn(UnixStream) -> Result<(), String>;
        let cases: [(Speak, &str); 6] = [
            (|_| Ok(()), "a worker ended its thread before it took tasks (worker 3)"),
            (
                |_| Err("no room".into()),
                "a worker ended its thread before it took tasks (worker 3); its last words: no room",
            ),
            (|_| panic!("boo"), "before it took tasks (worker 3); its last words: its thread has panicked"),
            (|mut link| heard(&mut link), "a worker ended its thread before it took tasks (worker 3)"),
            (
                |mut link| {
                    link.write_all(b"hello world\n").map_err(|error| error.to_string())?;
                    heard(&mut link)
                },
                "(worker 3); it wrote \"hello world\\n\" where a worker greets",
            ),
            (
                |mut link| {
                    while link.write_all(&[b'y'; 4096]).is_ok() {}
                    Ok(())
                },
                "a worker was refused: ",
            ),
        ];
        for (speak, words) in cases {
            let scripted = Scripted::always(Step::Speak(speak));
            run(async {
                let error = scripted.pool(1).build().await.unwrap_err();
                let text = error.to_string();
                assert!(
                    error.kind() == ErrorKind::Launch && text.contains(words),
                    "{text:?} without {words:?}"
                );
                assert_eq!(scripted.launches().len(), 3);
                // One of them is no reason to give up.
                let once = Scripted::new([Step::Speak(speak)]);
                let pool = once.pool(1).build().await.unwrap();
                assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
            });
        }
    }

    #[test]
    fn c4_what_never_greets_is_given_up_in_time() {
        fn sleep(mut link: UnixStream) -> Result<(), String> {
            // Hears what it is sent, to the end, and says nothing.
            link.read_to_end(&mut Vec::new()).map(drop).map_err(|error| error.to_string())
        }
        let scripted = Scripted::always(Step::Speak(sleep));
        run(async {
            let start = Instant::now();
            let error = scripted.pool(1).start_limit(200 * MS).build().await.unwrap_err();
            let words = "a worker did not greet within 200ms and was killed";
            assert!(error.to_string().contains(words), "{error}");
            assert!(start.elapsed() >= 600 * MS);
        });
    }
}
