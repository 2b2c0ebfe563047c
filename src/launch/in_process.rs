//! Pools whose workers are threads of this process. It only says what such a worker is made of; how it is one is told where
//! workers are, how it is started where threads are.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::{Error, ErrorKind};
use crate::id::WorkerId;
use crate::launch::{Launched, Launcher, Started, thread};
use crate::pool::PoolBuilder;
use crate::worker::{self, Worker};

/// Launches workers as threads of this process.
#[derive(Clone)]
struct InProcess {
    declare: Arc<dyn Fn() -> Worker + Send + Sync>,
}

impl Launcher for InProcess {
    fn launch(&self, worker: WorkerId, started: Started) -> BoxFuture<'static, Result<Launched, Error>> {
        let (declare, kin) = (Arc::clone(&self.declare), Arc::new(self.clone()) as Arc<dyn Launcher>);
        Box::pin(async move {
            // On the caller's thread: what a test harness captures, threads that its tests start inherit.
            let launched = thread::start(move |link| worker::thread::run(&*declare, Box::new(kin), link))
                .map_err(|error| explain(worker, &error))?;
            started(launched.body.control());
            Ok(launched)
        })
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

fn explain(worker: WorkerId, error: &io::Error) -> Error {
    Error::new(ErrorKind::Launch, format!("could not start a worker's thread: {error}")).with(|report| {
        report.worker = Some(worker);
        report.advice = Some("look at `ulimit -u`, `ulimit -n` and memory".into());
    })
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
