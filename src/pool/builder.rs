//! How a pool is configured. Every option has a default that suits most; the checks that can be made before anything
//! is started are made here.

use std::path::PathBuf;
use std::time::Duration;

use super::{Owner, Pool};
use crate::driver::Driver;
use crate::error::{Error, ErrorKind};
use crate::launch::Launcher;
use crate::launch::libtest::in_libtest;
use crate::launch::local::Local;
use crate::sched::Config;
use crate::wire::MESSAGE_LIMIT;
use crate::worker::{Entry, entry};

/// The smallest message limit: below it not even a greeting fits.
const LEAST_MESSAGE: u32 = 64 << 10;

/// Configures a [`Pool`]; from [`Pool::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct PoolBuilder {
    workers: Option<usize>,
    message_limit: u32,
    program: Option<PathBuf>,
    config: Config,
}

impl PoolBuilder {
    pub(super) fn new() -> Self {
        Self { workers: None, message_limit: MESSAGE_LIMIT, program: None, config: Config::default() }
    }

    /// How many workers the pool keeps. Default: as many as the process may use processors, at least 1.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How long a cancelled task may take to clean up before its worker gets SIGTERM. Default: 1 s.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.config.cancel_grace = grace;
        self
    }

    /// How long a worker that got SIGTERM may live before it gets SIGKILL. Default: 1 s.
    pub fn term_grace(mut self, grace: Duration) -> Self {
        self.config.term_grace = grace;
        self
    }

    /// How long a worker may take from its start to its greeting. Default: 10 s.
    pub fn start_limit(mut self, limit: Duration) -> Self {
        self.config.start_limit = limit;
        self
    }

    /// How long a worker may take from its greeting until it has built its [states](crate::Worker::state). Default: 60 s.
    pub fn init_timeout(mut self, limit: Duration) -> Self {
        self.config.init_limit = limit;
        self
    }

    /// The largest input or output of a task, in bytes, a few dozen bytes of header included. Default: 256 MiB; at least
    /// 64 KiB, at most 4 GiB - 1.
    pub fn message_limit(mut self, bytes: u32) -> Self {
        self.message_limit = bytes.max(LEAST_MESSAGE);
        self
    }

    /// The program that the workers execute, one whose `main` ends in [`Worker::serve`](crate::Worker::serve). Without a
    /// slash it is looked for in `PATH`. Default: this program itself.
    ///
    /// A worker program of its own starts faster than a large service does a second time, and can be built with other
    /// features, limits or privileges.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Starts all workers at once and resolves when the first of them takes tasks.
    ///
    /// # Errors
    ///
    /// [`Launch`](ErrorKind::Launch) when this program has not passed `Worker::init`, when this is not a tokio runtime, or
    /// when the workers cannot be started; the message says why.
    ///
    /// # Panics
    ///
    /// When the runtime was built without I/O (`enable_io` or `enable_all`).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends what it had started.
    pub async fn build(mut self) -> Result<Pool, Error> {
        let workers = match self.workers {
            Some(workers) => workers,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        self.config.workers = match u32::try_from(workers) {
            Ok(workers @ 1..) => workers,
            _ => {
                return Err(refused(
                    format!("a pool of {workers} workers cannot be built"),
                    "give it at least one",
                ));
            }
        };
        let driver = Driver::start(self.config, self.message_limit, launcher(self.program)?)?;
        // From here on a dropped future or an error drops the pool, and that ends what was started.
        let pool = Pool { owner: Owner { driver }.into() };
        pool.driver().started().await?;
        Ok(pool)
    }
}

/// Chooses how workers are started, by how this process has begun.
fn launcher(program: Option<PathBuf>) -> Result<Box<dyn Launcher>, Error> {
    match (entry(), program) {
        (Entry::Worker, _) => {
            Err(refused("a pool cannot be built inside a worker".to_owned(), "fan out from the root pool"))
        }
        (_, Some(program)) => Ok(Box::new(Local::program(program, []))),
        (Entry::Main, None) => Ok(Box::new(Local::itself())),
        (Entry::NotPassed, None) if in_libtest() => Ok(Box::new(Local::libtest())),
        (Entry::NotPassed, None) => Err(refused(
            "this program never called Worker::init, so its workers would run it from the start".to_owned(),
            "make Worker::new()…init() the first line of main",
        )),
    }
}

fn refused(message: String, advice: &'static str) -> Error {
    Error::new(ErrorKind::Launch, message).with(|report| report.advice = Some(advice.into()))
}
