//! How a pool is configured. Every option has a default that suits most; the checks that can be made before anything
//! is started are made here.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::Pool;
use super::tree::DEPTH_LIMIT;
use crate::driver::Driver;
use crate::error::{Error, ErrorKind};
use crate::launch::Launcher;
use crate::launch::libtest::in_libtest;
use crate::launch::local::{Local, fits};
use crate::launch::setting::Setting;
use crate::sched::Config;
use crate::wire::{MESSAGE_LIMIT, SLOTS_LIMIT};
use crate::worker::{Entry, entry};

/// The smallest message limit: below it not even a greeting fits.
const LEAST_MESSAGE: u32 = 64 << 10;

/// Configures a [`Pool`]; from [`Pool::builder`].
///
/// ```no_run
/// # use procpool::{Error, Pool};
/// # async fn example() -> Result<(), Error> {
/// use std::time::Duration;
///
/// let pool = Pool::builder()
///     .workers(8)
///     .start_limit(Duration::from_secs(5))
///     .init_timeout(Duration::from_secs(120))
///     .cancel_grace(Duration::from_millis(500))
///     .term_grace(Duration::from_millis(500))
///     .message_limit(16 << 20)
///     .queue_bytes(64 << 20)
///     .build()
///     .await?;
/// # drop(pool);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct PoolBuilder {
    /// The least and the largest number.
    pub(super) workers: Option<(usize, usize)>,
    pub(super) slots: usize,
    pub(super) message_limit: u32,
    pub(super) program: Option<PathBuf>,
    pub(super) args: Vec<OsString>,
    pub(super) setting: Setting,
    /// What starts the workers, if it is not chosen by how this process has begun.
    pub(super) launcher: Option<Arc<dyn Launcher>>,
    pub(super) config: Config,
    pub(super) depth_limit: u8,
    pub(super) places: Option<u32>,
    pub(super) max_processes: Option<u32>,
    pub(super) thread_limits: bool,
    pub(super) bulk: usize,
    pub(super) trusting: bool,
    pub(super) low_latency: bool,
}

impl PoolBuilder {
    pub(super) fn new() -> Self {
        Self {
            workers: None,
            slots: 1,
            message_limit: MESSAGE_LIMIT,
            program: None,
            args: Vec::new(),
            setting: Setting::default(),
            launcher: None,
            config: Config { processors: cores(), ..Config::default() },
            depth_limit: DEPTH_LIMIT,
            places: None,
            max_processes: None,
            thread_limits: false,
            bulk: super::bulk::DEFAULT,
            trusting: false,
            low_latency: false,
        }
    }

    /// How many tasks each worker runs at once, as the tasks of one thread. Default: 1; at most 65 536.
    ///
    /// For tasks that mostly wait, for the network or a timer. All of a worker's tasks are polled by its one main thread,
    /// each when something has woken it:
    ///
    /// * A task that blocks or computes without awaiting keeps its neighbours waiting, as it does in tokio. Cancellation,
    ///   timeouts and the end of the pool are still heard meanwhile, but a neighbour can only be stopped, and can only
    ///   clean up, once it can be polled. Use `spawn_blocking`, or another pool with one slot.
    /// * A cancelled task that does not stop within its [grace](Self::cancel_grace) puts its worker in quarantine: it gets
    ///   nothing new, and what it had not begun runs elsewhere. The tasks beside it have as long again to finish before
    ///   the worker gets SIGTERM; what is lost with it then resolves as [`Collateral`](ErrorKind::Collateral). If the task
    ///   stops after all, the worker goes on as before.
    /// * A panic fails its own task only. The death of a worker is an error for every task that it had begun; those that it
    ///   had not begun run elsewhere.
    /// * What a task has given to `tokio::spawn` lives on in the worker after the task has been answered, with any number
    ///   of slots: it runs beside later tasks, and ends with the worker. Keep its handle, and abort it, if it must not.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// let crawlers = Pool::builder().workers(4).slots(250).build().await?;
    /// # Ok(()) }
    /// ```
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// How many tasks may wait. Default: no limit but memory; at least 1.
    ///
    /// A task waits from its submission until it is sent to a worker: what runs, and the little that busy workers are sent
    /// ahead, does not count ([`Stats::queued`](crate::Stats::queued) is what does). Places that are
    /// [reserved](Pool::reserve) count. When so many wait, [`Pool::run`] refuses with
    /// [`Overloaded`](ErrorKind::Overloaded), [`Pool::reserve`] waits for a place, and so do [`Pool::map`] and
    /// [`Pool::map_unordered`]. A task that comes back from a lost worker is never refused.
    ///
    /// ```no_run
    /// # use procpool::{Context, Error, Pool, Task};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder().queue_limit(1000).build().await?;
    /// match pool.run(Square(12)).await {
    ///     Err(error) if error.is_overloaded() => println!("try again later: {error}"),
    ///     other => println!("{}", other?),
    /// }
    /// # Ok(()) }
    /// ```
    pub fn queue_limit(mut self, tasks: usize) -> Self {
        self.config.queue_limit = u32::try_from(tasks).unwrap_or(u32::MAX);
        self
    }

    /// How many bytes of encoded input the tasks may have together that wait. Default: 1 GiB.
    ///
    /// As [`queue_limit`](Self::queue_limit) otherwise; whichever is reached first counts. An input that is larger than
    /// all of it is let in when nothing else waits. A place that is [reserved](Pool::reserve) counts 64 KiB until its task
    /// is there.
    pub fn queue_bytes(mut self, bytes: u64) -> Self {
        self.config.queue_bytes = bytes;
        self
    }

    /// How long a cancelled task may take to clean up before its worker gets SIGTERM. Default: 1 s; in the pool of a worker
    /// 0.8 times that of the pool above.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.config.cancel_grace = grace;
        self
    }

    /// How long a worker that got SIGTERM may live before it gets SIGKILL. Default: 1 s; in the pool of a worker 0.8 times that
    /// of the pool above.
    pub fn term_grace(mut self, grace: Duration) -> Self {
        self.config.term_grace = grace;
        self
    }

    /// How long a worker may take from its start to its greeting. Default: 10 s.
    ///
    /// As long is waited when this process or machine has no descriptors, processes or memory left to start one with: it is
    /// tried again and again, at least every other second, and counts as failed only when the want lasts.
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
    /// slash it is looked for in this process's `PATH`. Default: this program itself.
    ///
    /// A worker program of its own starts faster than a large service does a second time, and can be built with other
    /// features, limits or privileges. Both have to know the tasks, from a library that they share, and to be built with the
    /// same version of procpool.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder().program("/usr/libexec/thumbnailer").arg("--fast").nice(10).build().await?;
    /// # Ok(()) }
    /// ```
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Adds an argument for the program that [`program`](Self::program) names. Default: none.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// As [`arg`](Self::arg), for several.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable in the workers. Of what is said about one variable, the last word counts.
    ///
    /// By default, workers inherit this process's environment except for what looks like a secret: variables whose name
    /// contains, in any case, `TOKEN`, `SECRET`, `PASSWORD`, `PASSWD`, `PASSPHRASE`, `CREDENTIAL`, `PRIVATE_KEY`,
    /// `ACCESS_KEY`, `API_KEY` or `APIKEY`. Values are not looked at. [`inherit_env`](Self::inherit_env) hands one on.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder().env("OMP_NUM_THREADS", "1").inherit_env("API_TOKEN").build().await?;
    /// # Ok(()) }
    /// ```
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.setting.set(key.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Lets the workers inherit an environment variable although it looks like a secret, or none is inherited.
    pub fn inherit_env(mut self, key: impl AsRef<OsStr>) -> Self {
        self.setting.inherit(key.as_ref().to_owned());
        self
    }

    /// Keeps an environment variable from the workers.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder().env_remove("LD_PRELOAD").build().await?;
    /// # drop(pool);
    /// # Ok(()) }
    /// ```
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.setting.remove(key.as_ref().to_owned());
        self
    }

    /// Lets the workers inherit no environment variables, and forgets what was set before this call.
    pub fn env_clear(mut self) -> Self {
        self.setting.clear();
        self
    }

    /// The working directory of the workers. A relative one counts from where this process is now, and so does the path of
    /// the [`program`](Self::program). Default: this process's own.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder()
    ///     .program("./worker")
    ///     .args(["--threads", "1"])
    ///     .env_clear()
    ///     .inherit_env("PATH")
    ///     .env("TMPDIR", "/var/tmp")
    ///     .current_dir("/srv/scratch")
    ///     .nice(10)
    ///     .build()
    ///     .await?;
    /// # drop(pool);
    /// # Ok(()) }
    /// ```
    pub fn current_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.setting.enter(path.into());
        self
    }

    /// How much nicer than this process the workers are: they yield the processor to it, and 19 yields to everybody.
    /// Default: 0. A negative value needs a privilege.
    pub fn nice(mut self, increment: i32) -> Self {
        self.setting.nice = increment;
        self
    }

    /// Whether answers are looked for again and again, for at most 50 us, before the runtime's thread sleeps until they come,
    /// and the same for tasks in workers of one slot. Default: `false`.
    ///
    /// For callers that await one short task after the other, where falling asleep and being woken is most of what each
    /// costs: a no-op takes 7 to 10 us instead of 13 to 72 on a machine that is idle otherwise. A runtime with one thread gains
    /// most; in one with many, the caller's own thread may still have to be woken.
    ///
    /// The price is processor time: up to a whole processor in this process while workers have tasks, up to one in each
    /// worker while tasks keep coming, and nothing 50 us after the last of what was sent and received. One thread of the
    /// runtime that built the pool does it at a time, whatever the number of workers, and that runtime's other tasks, its
    /// sockets and its timers have their turn every few microseconds. So has what tasks have spawned in a worker.
    ///
    /// It keeps out of others' way: they are offered the processor between looks, and where they keep it, or where little
    /// comes within 50 us, pool and workers sleep and are woken as ever, and try again later, after up to 2 s. Beside
    /// two busy loops on two processors no-ops took about as long as without it. With one processor it does nothing.
    ///
    /// It gains nothing with many tasks at once, nor with those that take longer than 50 us. Pools
    /// [below](crate::Context::pool) do not inherit it.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder().workers(1).low_latency(true).build().await?;
    /// # drop(pool);
    /// # Ok(()) }
    /// ```
    pub fn low_latency(mut self, low_latency: bool) -> Self {
        self.low_latency = low_latency;
        self
    }

    /// Whether everything that tasks start ends with their worker. Default: `false`.
    ///
    /// What a task starts is in its worker's process group, and ends with the worker, in any case. But a process can leave
    /// that group: one that was started with `process_group(0)`, a shell's background job, a daemon that makes a session of
    /// its own (`setsid`). It then outlives the worker, and the whole pool, unless the pool is contained: then it is
    /// killed at the latest when the worker has ended.
    ///
    /// Each worker of a contained pool has a guardian, a second process of the same program that adopts what escapes. It
    /// costs another start of the program (1.2 ms for a small one) and its memory (0.3 MiB that is not shared). Not even a
    /// guardian sees what was never started below it, a container by its daemon for example; what has become another user's
    /// cannot be killed; and if somebody kills the guardian itself, the worker ends, but what has left its group does not.
    ///
    /// A guardian also adopts what escapes further down its branch of the tree: that ends at the latest with this pool's
    /// worker. To have it end with the worker below that has started it, say the same in
    /// [`Worker::nested`](crate::Worker::nested).
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder().contained(true).build().await?;
    /// # Ok(()) }
    /// ```
    pub fn contained(mut self, contained: bool) -> Self {
        self.setting.contained = contained;
        self
    }

    /// Has the workers started by this.
    pub(crate) fn launched_by(mut self, launcher: impl Launcher) -> Self {
        self.launcher = Some(Arc::new(launcher));
        self
    }

    /// Starts all workers at once and resolves when the first of them takes tasks.
    ///
    /// # Errors
    ///
    /// [`Launch`](ErrorKind::Launch) when this program has not passed `Worker::init`, when this is not a tokio runtime, or
    /// when the workers cannot be started; the message says why. [`LimitExceeded`](ErrorKind::LimitExceeded) when this process
    /// may not have as many descriptors open as the workers need: five each, or eight if they are threads.
    ///
    /// # Panics
    ///
    /// When the runtime was built without I/O (`enable_io` or `enable_all`).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends what it had started.
    pub async fn build(mut self) -> Result<Pool, Error> {
        (self.config.workers, self.config.most_workers) = self.size()?;
        self.config.slots = count_slots(self.slots)?;
        let tree = self.tree(cores())?;
        self.hand_out(&tree);
        let launcher = match self.launcher {
            Some(launcher) if entry() != Entry::Worker => launcher,
            _ => launcher(self.program, self.args, |local| {
                local.with(self.setting).sharing(self.bulk, self.trusting)
            })?,
        };
        fits(self.config.most_workers, launcher.descriptors())?;
        let limit = self.message_limit;
        let pool = Pool::start(Driver::start(self.config, limit, launcher, tree, None, self.low_latency)?);
        // From here on a dropped future or an error drops the pool, and that ends what was started.
        pool.driver().started().await?;
        Ok(pool)
    }
}

/// How many processors this process may use. Asked once: the answer is put together from a dozen files.
pub(super) fn cores() -> u32 {
    static CORES: LazyLock<u32> = LazyLock::new(|| {
        std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
    });
    *CORES
}

pub(super) fn count(workers: usize) -> Result<u32, Error> {
    match u32::try_from(workers) {
        Ok(workers @ 1..) => Ok(workers),
        _ => Err(refused(format!("a pool of {workers} workers cannot be built"), "give it at least one")),
    }
}

pub(super) fn count_slots(slots: usize) -> Result<u32, Error> {
    match u32::try_from(slots) {
        Ok(slots @ 1..=SLOTS_LIMIT) => Ok(slots),
        _ => Err(refused(
            format!("workers cannot run {slots} tasks at once"),
            "give PoolBuilder::slots a number from 1 to 65536",
        )),
    }
}

/// Chooses how workers are started, by how this process has begun.
fn launcher(
    program: Option<PathBuf>,
    args: Vec<OsString>,
    begin: impl FnOnce(Local) -> Local,
) -> Result<Arc<dyn Launcher>, Error> {
    let local = match (entry(), program) {
        (Entry::Worker, _) => {
            let advice = "its tasks have one: call cx.pool(), and configure it with Worker::nested";
            return Err(refused("a worker cannot build pools".to_owned(), advice));
        }
        (_, Some(program)) => Local::program(program, args),
        (_, None) if !args.is_empty() => {
            let advice = "name one with PoolBuilder::program";
            return Err(refused(
                "there are arguments, and no program that would take them".to_owned(),
                advice,
            ));
        }
        (Entry::Main, None) => Local::itself(),
        (Entry::NotPassed, None) if in_libtest() => Local::libtest(),
        (Entry::NotPassed, None) => {
            return Err(refused(
                "this program never called Worker::init, so its workers would run it from the start"
                    .to_owned(),
                "make Worker::new()…init() the first line of main",
            ));
        }
    };
    Ok(Arc::new(begin(local)))
}

pub(super) fn refused(message: String, advice: &'static str) -> Error {
    Error::new(ErrorKind::Launch, message).with(|report| report.advice = Some(advice.into()))
}
