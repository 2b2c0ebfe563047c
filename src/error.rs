//! The one error type of the crate, and how a process ended. It tells what happened, to which task on which worker, and
//! what to do about it; it does not decide which of these is the case.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{TaskId, WorkerId};

/// Why a task, a pool or a worker failed.
///
/// Cheap to clone, one pointer wide, and `Send + Sync + 'static`. [`Display`](fmt::Display) is one line;
/// [`Debug`](fmt::Debug) shows everything that is known, the last lines of the worker's standard error included.
///
/// ```no_run
/// # use procpool::{Context, Pool, Task, Error};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Square(u64);
/// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
/// # async fn example(pool: Pool) -> Result<(), Error> {
/// match pool.run(Square(12)).await {
///     Ok(square) => println!("{square}"),
///     Err(error) if error.is_timed_out() => println!("too late"),
///     Err(error) if error.is_crashed() && !error.may_have_run() => println!("run it again: it never began"),
///     Err(error) => {
///         // One line for people: the task, what happened, the worker, what to do.
///         eprintln!("{error}");
///         // And what programs ask for.
///         println!("{:?} of {:?} after {} attempts", error.kind(), error.task_name(), error.attempts());
///         if let Some(exit) = error.exit() {
///             println!("worker {:?}: code {:?}, signal {:?}", error.worker_pid(), exit.code(), exit.signal());
///             println!("its last words: {}", error.stderr());
///         }
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Report>);

/// What an [`Error`] is about. Match on it, or use the `is_*` methods.
///
/// ```
/// use procpool::{Error, ErrorKind};
///
/// /// Whether the same call may work later.
/// fn is_worth_another_try(error: &Error) -> bool {
///     matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::Launch | ErrorKind::Crashed | ErrorKind::Collateral)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller cancelled the task, by word or by dropping what stood for it.
    Cancelled,
    /// The pool was shut down, dropped, or its runtime is gone.
    Closed,
    /// An input, output or item could not be encoded or decoded.
    Codec,
    /// The worker was killed because of another task that ran on it.
    Collateral,
    /// The worker died while it held the task.
    Crashed,
    /// A worker could not be started, or is not fit for this pool.
    Launch,
    /// A limit was reached: message size, workers in the tree, depth.
    LimitExceeded,
    /// The link to the worker was lost; nothing is known of the worker itself.
    Lost,
    /// The pool's queue is full.
    Overloaded,
    /// The task panicked; its worker lives.
    Panicked,
    /// The worker broke the protocol and was killed.
    Protocol,
    /// A timeout or deadline passed.
    TimedOut,
    /// The worker program does not know this task.
    UnknownTask,
    /// The worker stopped answering, or did not even die when it was killed.
    Unresponsive,
}

/// How a worker ended.
///
/// ```
/// use procpool::{Error, Exit};
///
/// fn ran_out_of_time(error: &Error) -> bool {
///     matches!(error.exit(), Some(Exit::Signal { .. })) && error.exit().and_then(|exit| exit.signal()).as_deref() == Some("SIGXCPU")
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether a core was dumped.
        core: bool,
    },
    /// Nobody knows: something else in this process reaped it first.
    Unknown,
    /// It was a thread of the pool's process: see [`PoolBuilder::in_process`](crate::PoolBuilder::in_process).
    Thread,
}

/// Everything that is known about a failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) kind: ErrorKind,
    /// What happened, in lower case and without a full stop.
    pub(crate) message: Cow<'static, str>,
    /// What the reader can do about it.
    pub(crate) advice: Option<Cow<'static, str>>,
    pub(crate) task: Option<TaskId>,
    pub(crate) task_name: Option<Cow<'static, str>>,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) pid: Option<u32>,
    /// The workers whose own pools it comes from, the root's first.
    pub(crate) path: Vec<WorkerId>,
    /// How often the task was begun, or may have been.
    pub(crate) attempts: u32,
    pub(crate) may_have_run: bool,
    /// Position of the input in a `map`.
    pub(crate) index: Option<u64>,
    pub(crate) exit: Option<Exit>,
    /// The last lines that the worker wrote to its standard error, control characters escaped.
    pub(crate) stderr: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Report {
            kind,
            message: message.into(),
            advice: None,
            task: None,
            task_name: None,
            worker: None,
            pid: None,
            path: Vec::new(),
            attempts: 0,
            may_have_run: false,
            index: None,
            exit: None,
            stderr: String::new(),
        }))
    }

    /// Adds what is known; copies the report only if somebody else holds it too.
    pub(crate) fn with(mut self, add: impl FnOnce(&mut Report)) -> Self {
        add(Arc::make_mut(&mut self.0));
        self
    }

    /// What this error is about.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the caller cancelled the task.
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// Whether the pool is shut down, dropped, or lost its runtime.
    pub fn is_closed(&self) -> bool {
        self.kind() == ErrorKind::Closed
    }

    /// Whether the worker died while it held the task.
    pub fn is_crashed(&self) -> bool {
        self.kind() == ErrorKind::Crashed
    }

    /// Whether the pool's queue was full.
    pub fn is_overloaded(&self) -> bool {
        self.kind() == ErrorKind::Overloaded
    }

    /// Whether the task panicked.
    pub fn is_panicked(&self) -> bool {
        self.kind() == ErrorKind::Panicked
    }

    /// Whether a timeout or deadline passed.
    pub fn is_timed_out(&self) -> bool {
        self.kind() == ErrorKind::TimedOut
    }

    /// Whether the task's code may have begun to run, in any attempt. `false` is a promise; `true` is a possibility.
    pub fn may_have_run(&self) -> bool {
        self.0.may_have_run
    }

    /// The position of the failed input in a `map`, counted from 0.
    pub fn index(&self) -> Option<u64> {
        self.0.index
    }

    /// How often the task's code was begun, or may have been: more than once only
    /// [with retries](crate::Pool::with_retries).
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Which task failed.
    pub fn task_id(&self) -> Option<TaskId> {
        self.0.task
    }

    /// The name of the task's type.
    pub fn task_name(&self) -> Option<&str> {
        self.0.task_name.as_deref()
    }

    /// Which worker was concerned.
    pub fn worker_id(&self) -> Option<WorkerId> {
        self.0.worker
    }

    /// The process id of the worker that was concerned.
    pub fn worker_pid(&self) -> Option<u32> {
        self.0.pid
    }

    /// The workers that the error has crossed on its way from a pool within pools: the root's own first, last the one
    /// whose task had used the pool that failed. Empty if that is the root's pool.
    ///
    /// ```
    /// # use procpool::Error;
    /// fn explain(error: &Error) {
    ///     for worker in error.path() {
    ///         eprint!("in {worker}: ");
    ///     }
    ///     eprintln!("{error}");
    /// }
    /// ```
    pub fn path(&self) -> &[WorkerId] {
        &self.0.path
    }

    /// How the worker ended, if it did.
    pub fn exit(&self) -> Option<Exit> {
        self.0.exit
    }

    /// The last lines that the worker wrote to its standard error, control characters escaped. A worker can write
    /// anything there: it is a hint for people, not evidence.
    pub fn stderr(&self) -> &str {
        &self.0.stderr
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &*self.0;
        match (report.task, &report.task_name) {
            (Some(id), Some(name)) => write!(f, "{id} ({name}): ")?,
            (Some(id), None) => write!(f, "{id}: ")?,
            (None, Some(name)) => write!(f, "{name}: ")?,
            (None, None) => {}
        }
        f.write_str(&report.message)?;
        match (report.worker, report.pid) {
            (Some(id), Some(pid)) => write!(f, " ({id}, pid {pid})")?,
            (Some(id), None) => write!(f, " ({id})")?,
            (None, _) => {}
        }
        for (at, worker) in report.path.iter().enumerate() {
            write!(f, "{}{worker}", if at == 0 { ", below " } else { " and " })?;
        }
        if let Some(advice) = &report.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &*self.0;
        let mut out = f.debug_struct("Error");
        out.field("kind", &report.kind).field("message", &report.message);
        macro_rules! known { ($($field:ident),*) => { $(if let Some(value) = &report.$field {
            out.field(stringify!($field), value);
        })* } }
        known!(advice, task, task_name, worker, pid, index, exit);
        out.field("attempts", &report.attempts).field("may_have_run", &report.may_have_run);
        if !report.path.is_empty() {
            out.field("path", &report.path);
        }
        if !report.stderr.is_empty() {
            out.field("stderr", &report.stderr);
        }
        out.finish()
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Error {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Report::deserialize(deserializer).map(|report| Self(Arc::new(report)))
    }
}

impl Exit {
    /// The exit code, if it exited.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(*code),
            _ => None,
        }
    }

    /// The signal's name, such as `SIGSEGV`, if a signal ended it.
    pub fn signal(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Signal { number, .. } => Some(match Signal::try_from(*number) {
                Ok(signal) => Cow::Borrowed(signal.as_str()),
                Err(_) => Cow::Owned(format!("signal {number}")),
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal { core, .. } => {
                write!(f, "was killed by {}", self.signal().unwrap_or_default())?;
                if *core { f.write_str(" (core dumped)") } else { Ok(()) }
            }
            Self::Thread => f.write_str("ended its thread"),
            Self::Unknown => f.write_str("ended, its status taken by another part of this process"),
        }
    }
}

const _: fn() = || {
    fn is_send_sync<T: Send + Sync + 'static>() {}
    is_send_sync::<Error>();
};
