//! The one error type of the crate. It tells what happened, to which task on which worker, and what to do about it; it does
//! not decide which of these is the case.

mod exit;
mod report;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{TaskId, WorkerId};
pub use exit::Exit;
pub(crate) use report::{Earlier, Report};
use report::{LINE, clip};

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
            killed: false,
            ran: None,
            peak: None,
            hint: None,
            earlier: None,
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

    /// Whether the pool killed the worker. What for is told by [`kind`](Self::kind) and message.
    pub fn killed_by_pool(&self) -> bool {
        self.0.killed
    }

    /// How long the last attempt had been running, if a worker ran it: as the worker says if it answered, otherwise from when
    /// it was sent there, or the task before it was done, until the end of the worker was seen.
    pub fn ran_for(&self) -> Option<Duration> {
        self.0.ran
    }

    /// The most memory that the worker, or a process that it waited for, has had resident at once, in bytes.
    ///
    /// `None` while the worker lives, and when it has not exceeded what this process had when it started the worker: the
    /// kernel does not tell less.
    pub fn peak_memory(&self) -> Option<u64> {
        self.0.peak
    }

    /// What may have been behind the worker's death: an overflown stack, no more memory, the text of a panic that ended the
    /// process. It is drawn from counters of the kernel and from what the worker wrote to its standard error, where it can
    /// write anything; so it is for people, and never decides on [`kind`](Self::kind).
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
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
        let head = match (report.task, &report.task_name) {
            (Some(id), Some(name)) => format!("{id} ({name}): "),
            (Some(id), None) => format!("{id}: "),
            (None, Some(name)) => format!("{name}: "),
            (None, None) => String::new(),
        };
        let place = report.place();
        let more: Vec<&str> = report.hint.iter().chain(&report.advice).map(|text| &**text).collect();
        let more = more.join("; ");
        // Who and where is told in any case. Of the rest the longer part is cut.
        let room = LINE.saturating_sub(head.chars().count() + place.chars().count());
        let rest = more.chars().count().min(room / 2);
        let message = clip(&report.message, room - rest);
        let more = clip(&more, room - message.chars().count());
        write!(f, "{head}{message}{place}{}{more}", if more.is_empty() { "" } else { "; " })
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
        known!(hint, advice, task, task_name, worker, pid, index, exit, ran, peak, earlier);
        out.field("killed_by_pool", &report.killed);
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

impl std::error::Error for Error {
    /// How the attempt before has ended, if there was one; otherwise how the worker has.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match (&self.0.earlier, &self.0.exit) {
            (Some(earlier), _) => Some(earlier),
            (None, Some(exit)) => Some(exit),
            (None, None) => None,
        }
    }
}

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

const _: fn() = || {
    fn is_send_sync<T: Send + Sync + 'static>() {}
    is_send_sync::<Error>();
};

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn full() -> Error {
        let exit = Some(Exit::Signal { number: 11, core: true });
        let first = Error::new(ErrorKind::Crashed, "its worker exited with code 7")
            .with(|report| report.exit = Some(Exit::Code(7)));
        Error::new(ErrorKind::Crashed, "its worker was killed by SIGSEGV (core dumped)").with(|report| {
            report.advice = Some("its last words: oh".into());
            report.task = Some(TaskId::new(5, 2));
            report.task_name = Some("die".into());
            (report.worker, report.pid) = (Some(WorkerId::new(3, 1)), Some(77));
            (report.attempts, report.may_have_run) = (2, true);
            (report.exit, report.killed) = (exit, true);
            report.ran = Some(Duration::from_millis(1500));
            report.peak = Some(4 << 20);
            report.hint = Some("its stack overflowed".into());
            report.earlier = Some(Earlier::from(&first));
            report.stderr = "oh\n".to_owned();
        })
    }

    #[test]
    fn b11_an_error_is_one_short_line_and_everything_in_debug() {
        let error = full();
        let line = "task 5 (die): its worker was killed by SIGSEGV (core dumped) (worker 3, pid 77, attempt 2, after \
                    1.5s); its stack overflowed; its last words: oh";
        assert_eq!(error.to_string(), line);
        let shown = format!("{error:?}");
        for part in ["Crashed", "4194304", "1.5s", "killed_by_pool: true", "exited with code 7", "stderr"] {
            assert!(shown.contains(part), "{part} is missing: {shown}");
        }
        let endless = error.with(|report| {
            report.message = "äöü\n\x1b[31m ".repeat(1000).into();
            report.advice = Some("x".repeat(1000).into());
            report.hint = None;
        });
        let shown = endless.to_string();
        assert!(shown.chars().count() < 300 && !shown.contains(char::is_control), "{shown}");
        assert!(
            shown.contains("worker 3, pid 77") && shown.contains("xxx") && shown.ends_with('…'),
            "{shown}"
        );
        let deep = endless.with(|report| report.path = vec![WorkerId::new(1, 0); 40]);
        assert!(deep.to_string().contains("worker 1") && !deep.to_string().contains("xx"), "{deep}");
        let named = full().with(|report| report.task_name = Some("n".repeat(400).into()));
        assert!(!named.to_string().contains("its last words"), "{named}");
    }

    #[test]
    fn b11_an_error_tells_what_was_behind_it() {
        let error = full();
        let earlier = error.source().unwrap();
        assert_eq!(earlier.to_string(), "its worker exited with code 7");
        let first = earlier.source().unwrap();
        assert_eq!(first.downcast_ref::<Exit>(), Some(&Exit::Code(7)));
        let plain = error.with(|report| report.earlier = None);
        assert_eq!(plain.source().unwrap().to_string(), "was killed by SIGSEGV (core dumped)");
    }

    #[test]
    fn an_error_keeps_its_shape_when_it_travels() {
        let error = full();
        let bytes = postcard::to_stdvec(&error).unwrap();
        let back: Error = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(format!("{back:?}"), format!("{error:?}"));
        // Written down, so that nobody changes it without noticing: logs and queues keep errors.
        let shape = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(shape, SHAPE, "{error:?}");
    }

    const SHAPE: &str = "042e69747320776f726b657220776173206b696c6c656420627920534947534547562028636f72652064756d7065642\
                         90112697473206c61737420776f7264733a206f680105020103646965010301014d000201000101160101010180cab5\
                         ee010180808002011469747320737461636b206f766572666c6f776564011d69747320776f726b65722065786974656\
                         4207769746820636f6465203701000e036f680a";
}
