//! How failures are worded: what happened, to which task on which worker, and what the reader can do about it.

use std::borrow::Cow;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Exit, Report};
use crate::id::{TaskId, WorkerId};
use crate::sched::Fullness;
use crate::wire::VERSION;
use crate::wire::frame::{Ready, TaskType, Verdict};

/// How much of a worker's last line goes into a one-line message.
const LINE: usize = 240;

/// What errors say about a task.
pub(super) struct About {
    pub(super) task: TaskId,
    pub(super) name: Option<Cow<'static, str>>,
    pub(super) worker: Option<WorkerId>,
    pub(super) pid: Option<u32>,
    pub(super) attempts: u32,
    pub(super) stream: bool,
    /// How long its last attempt took, as the worker says.
    pub(super) ran: Option<Duration>,
}

/// What is known about a worker's end.
#[derive(Default)]
pub(super) struct Death {
    pub(super) pid: Option<u32>,
    pub(super) exit: Option<Exit>,
    pub(super) stderr: String,
    /// The same, and more of what it said before.
    pub(super) words: String,
    /// The most memory that it had resident, in bytes.
    pub(super) peak: Option<u64>,
    /// How often the kernel has killed for want of memory meanwhile, if that may be what ended it.
    pub(super) oom_kills: u64,
    /// What it was running, and for how long.
    pub(super) ran: Vec<(TaskId, Duration)>,
    /// What it wrote where a greeting belongs.
    pub(super) stray: Option<String>,
    /// Which rule it broke.
    pub(super) fault: Option<String>,
    /// Whether it was killed by us, or told to end by a signal.
    pub(super) ours: bool,
    /// What it may have died of.
    pub(super) hint: Option<Cow<'static, str>>,
    /// Whether its link ended before we killed it.
    pub(super) hung_up: bool,
    /// Which limit on its start it was killed for, unless it broke a rule.
    pub(super) overdue: Option<Overdue>,
    /// Why it could not even be launched, and whether for want of something.
    pub(super) start: Option<Error>,
    pub(super) scarce: bool,
    /// Whether whoever is started like it will fail as it did.
    pub(super) futile: bool,
}

impl Death {
    /// Adds what is known of it to an error.
    fn tell(&self, report: &mut Report) {
        report.pid = report.pid.or(self.pid);
        report.exit = self.exit;
        report.killed = self.ours;
        report.peak = self.peak;
        report.hint.clone_from(&self.hint);
        report.stderr.clone_from(&self.stderr);
    }
}

/// A worker took too long to start.
#[derive(Clone, Copy)]
pub(super) enum Overdue {
    Greeting(Duration),
    States(Duration),
}

impl Overdue {
    pub(super) fn new(greeted: bool, (start, init): (Duration, Duration)) -> Self {
        if greeted { Self::States(init) } else { Self::Greeting(start) }
    }

    fn message(self) -> String {
        match self {
            Self::Greeting(limit) => format!("a worker did not greet within {limit:?} and was killed"),
            Self::States(limit) => {
                format!("a worker did not initialise its states within {limit:?} and was killed")
            }
        }
    }
}

impl About {
    fn error(self, kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Error {
        self.add(Error::new(kind, message))
    }

    fn add(self, error: Error) -> Error {
        error.with(|report| {
            report.task = Some(self.task);
            report.task_name = self.name;
            report.worker = self.worker.or(report.worker);
            report.pid = self.pid.or(report.pid);
            report.attempts = self.attempts;
            report.ran = self.ran;
        })
    }
}

/// What the caller gets when its worker answered, but not with an output.
pub(super) fn unanswered(about: About, verdict: Verdict) -> Error {
    let output = if about.stream { "an item" } else { "its output" };
    let ran = !matches!(verdict, Verdict::UnknownTask | Verdict::BadInput { .. });
    let attempts = about.attempts.saturating_sub(u32::from(!ran));
    let error = match verdict {
        Verdict::Panicked { message, location } => {
            let place = location.map_or_else(String::new, |location| format!(" at {location}"));
            about.error(ErrorKind::Panicked, format!("it panicked{place}: {message}"))
        }
        Verdict::UnknownTask => about.error(ErrorKind::UnknownTask, "its worker does not know it"),
        Verdict::BadInput { reason } => about
            .error(ErrorKind::Codec, format!("its input could not be decoded: {reason}"))
            .with(|report| report.advice = Some(CODEC_ADVICE.into())),
        Verdict::BadOutput { reason } => about
            .error(ErrorKind::Codec, format!("{output} could not be encoded: {reason}"))
            .with(|report| report.advice = Some(CODEC_ADVICE.into())),
        Verdict::TooLarge { bytes } => about
            .error(
                ErrorKind::LimitExceeded,
                format!("{output} of {bytes} bytes is larger than a message may be"),
            )
            .with(|report| {
                report.advice = Some("raise PoolBuilder::message_limit or return less at once".into())
            }),
        // The one is an answer, the other the scheduler does not take for one.
        Verdict::Returned | Verdict::Cancelled { .. } => {
            about.error(ErrorKind::Cancelled, "it was cancelled")
        }
    };
    error.with(|report| (report.attempts, report.may_have_run) = (attempts, attempts > 0))
}

/// The format has limits of its own; everybody meets the same few.
const CODEC_ADVICE: &str = "postcard is not self-describing: untagged and internally tagged enums, flatten and \
                            skip_serializing_if do not work";

/// What the caller gets when there is no answer.
pub(super) fn failed(kind: ErrorKind, about: About, death: Option<&Death>, start: Option<&Error>) -> Error {
    let exit = death.and_then(|death| death.exit);
    let ended = || exit.map_or_else(|| "was lost".to_owned(), |exit| exit.to_string());
    let error = match kind {
        ErrorKind::Cancelled => match death {
            Some(death) if death.ours => {
                about.error(kind, "it was cancelled and did not stop: its worker was killed")
            }
            _ => about.error(kind, "it was cancelled"),
        },
        ErrorKind::TimedOut => match (about.attempts, exit) {
            (0, _) => about.error(kind, "its deadline passed before it ran"),
            (_, None) => about.error(kind, "its time was over"),
            (_, Some(_)) => about.error(kind, "its time was over and it did not stop: its worker was killed"),
        },
        ErrorKind::Closed if death.is_some() => {
            about.error(kind, format!("the pool was closed, and its worker {}", ended()))
        }
        ErrorKind::Closed => about.add(closed()),
        ErrorKind::LimitExceeded => about
            .error(kind, "there are as many processes in this tree of pools as there may be")
            .with(|report| {
                report.advice =
                    Some("nest less, or allow more with PoolBuilder::max_processes at the root".into());
            }),
        ErrorKind::Launch => about.add(start.cloned().unwrap_or_else(not_startable)),
        ErrorKind::Crashed if death.is_some_and(|death| death.ours) => {
            about.error(kind, "its worker closed its link and was killed")
        }
        ErrorKind::Crashed => about.error(kind, format!("its worker {}", ended())),
        ErrorKind::Collateral => about
            .error(kind, "its worker was killed because another task on it did not stop")
            .with(|report| report.advice = Some("run it again, or give workers one slot".into())),
        ErrorKind::Unresponsive if exit.is_some() => {
            about.error(kind, "its worker stopped answering and was killed")
        }
        ErrorKind::Unresponsive => about.error(kind, "its worker was killed, did not end, and was given up"),
        ErrorKind::Protocol => about.error(kind, format!("its worker {}", broke(death))),
        _ => about.error(kind, "it failed"),
    };
    let Some(death) = death else { return error };
    error.with(|report| {
        death.tell(report);
        if let Some((_, ran)) = death.ran.iter().find(|(task, _)| report.task == Some(*task)) {
            report.ran = Some(*ran);
        }
        if kind == ErrorKind::Crashed
            && report.hint.is_none()
            && let Some(words) = last_words(death)
        {
            report.advice = Some(words.into());
        }
    })
}

/// What the caller gets when the queue has no place for the task.
pub(super) fn overloaded(about: About, full: Fullness) -> Error {
    let Fullness { queued, reserved, line, limit, bytes, bytes_limit } = full;
    let limit = if limit == u32::MAX { String::new() } else { format!("{limit} tasks and ") };
    let mut message = format!(
        "the queue is full: {queued} tasks wait and {reserved} places are reserved, which counts as {bytes} bytes of \
         input, of at most {limit}{bytes_limit} bytes"
    );
    if line > 0 {
        message += &format!("; {line} callers wait for a place");
    }
    about.error(ErrorKind::Overloaded, message).with(|report| {
        report.advice =
            Some("wait for a place with Pool::reserve, or raise queue_limit or queue_bytes".into());
    })
}

/// Adds what is special about workers that do not end when they are killed.
pub(super) fn unkillable(error: Error) -> Error {
    if error.kind() != ErrorKind::Unresponsive {
        return error;
    }
    error.with(|report| {
        report.message = "it did not stop, and its worker was given up".into();
        report.advice = Some(
            "a thread cannot be killed: have the task ask cx.is_cancelled(), or run it in a process".into(),
        );
    })
}

/// How a worker that had taken tasks was lost.
pub(super) fn departed(kind: ErrorKind, worker: WorkerId, pid: Option<u32>, death: Option<&Death>) -> Error {
    let exit = death.and_then(|death| death.exit);
    let ours = death.is_none_or(|death| death.ours);
    let message = match kind {
        ErrorKind::Collateral => "a worker was killed because a task on it did not stop".into(),
        ErrorKind::Unresponsive if exit.is_some() => "a worker stopped answering and was killed".into(),
        ErrorKind::Unresponsive => "a worker was killed, did not end, and was given up".into(),
        ErrorKind::Protocol => format!("a worker {}", broke(death)).into(),
        _ if ours => "a worker closed its link and was killed".into(),
        _ => exit.map_or_else(|| "a worker was lost".into(), |exit| format!("a worker {exit}").into()),
    };
    let message: Cow<'static, str> = message;
    Error::new(kind, message).with(|report| {
        (report.worker, report.pid, report.exit) = (Some(worker), pid, exit);
        let Some(death) = death else { return };
        death.tell(report);
        report.advice = last_words(death).filter(|_| report.hint.is_none()).map(Cow::from);
    })
}

/// Why a worker never took tasks.
pub(super) fn not_started(worker: WorkerId, death: &Death) -> Error {
    if let Some(start) = &death.start {
        return start.clone().with(|report| report.worker = Some(worker));
    }
    let message = match (&death.fault, death.overdue, death.exit) {
        (Some(fault), ..) => format!("a worker was refused: {fault}"),
        (None, Some(overdue), _) => overdue.message(),
        (None, None, Some(exit)) if !death.ours => format!("a worker {exit} before it took tasks"),
        (None, None, Some(_)) => "a worker closed its link before it took tasks, and was killed".to_owned(),
        (None, None, None) => "a worker did not start in time and was killed".to_owned(),
    };
    Error::new(ErrorKind::Launch, message).with(|report| {
        report.worker = Some(worker);
        death.tell(report);
        let words = last_words(death);
        report.advice = match (&death.stray, words) {
            (_, words) if matches!(death.overdue, Some(Overdue::States(_))) => {
                let advice = "raise PoolBuilder::init_timeout, or look where Worker::state hangs";
                Some(words.map_or_else(|| advice.into(), |words| format!("{advice}; {words}").into()))
            }
            (Some(stray), _) if stray.contains("running 0 tests") => Some(
                "this test binary has no worker entry: put procpool::worker_test!(Worker::new()…) into it"
                    .into(),
            ),
            (_, Some(words)) => Some(words.into()),
            (Some(stray), None) if death.fault.is_none() => {
                Some(format!("it wrote {stray} where a worker greets").into())
            }
            (_, None) if death.futile => None,
            // A fault tells what it wrote.
            (_, None) => Some("does its main begin with Worker::new()…init(), or end in serve()?".into()),
        };
    })
}

/// The fault of a worker that sends what is never asked for, or not here.
pub(super) const UNASKED: &str = "it sent a frame that nobody had asked for";

/// What is wrong with a worker of a contained pool that has no guardian.
pub(super) const UNGUARDED: &str = "it is not contained: whatever executes it has to keep the name (argv[0]) that it was \
                                    itself executed under";

/// What is wrong with a worker's greeting, if anything is.
pub(super) fn unfit(
    ready: &Ready,
    nonce: &[u8; 16],
    slots: u32,
    table: Option<&[TaskType]>,
) -> Option<String> {
    if ready.version != VERSION {
        return Some(format!(
            "it speaks version {} of the protocol and this pool version {VERSION}; build both with the same version of \
             procpool",
            ready.version
        ));
    }
    if ready.nonce != *nonce {
        return Some("it did not repeat the nonce of its greeting".to_owned());
    }
    if ready.slots != slots {
        return Some(format!("it runs {} tasks at once, this pool wants {slots}", ready.slots));
    }
    if table.is_some_and(|table| ready.tasks != table) {
        return Some(
            "it has another table of tasks than the workers before it: the program has changed".to_owned(),
        );
    }
    None
}

/// The position of a task type in the workers' table.
///
/// # Errors
///
/// When it is not there, or not the same.
pub(super) fn find(table: &[TaskType], ours: &TaskType) -> Result<u32, Error> {
    let Some(position) = table.iter().position(|theirs| theirs.name == ours.name) else {
        let known = table.iter().map(|theirs| &*theirs.name).collect::<Vec<_>>().join(", ");
        return Err(Error::new(
            ErrorKind::UnknownTask,
            format!("the workers know no task of that name, only: {known}"),
        )
        .with(|report| {
            report.task_name = Some(ours.name.clone());
            let add = if ours.stream { "stream" } else { "task" };
            report.advice = Some(format!("add .{add}::<{}>() to the Worker", ours.input).into());
        }));
    };
    let theirs = &table[position];
    if theirs.stream != ours.stream {
        let (what, with) = if theirs.stream { ("stream", "stream") } else { ("task", "run") };
        let message = format!("the workers know a {what} of that name");
        return Err(Error::new(ErrorKind::UnknownTask, message).with(|report| {
            report.task_name = Some(ours.name.clone());
            report.advice = Some(format!("start it with Pool::{with}").into());
        }));
    }
    if theirs != ours {
        let show = |side: &TaskType| format!("version {} {} -> {}", side.version, side.input, side.output);
        let message = format!("the workers' task of that name is {}, ours is {}", show(theirs), show(ours));
        return Err(Error::new(ErrorKind::UnknownTask, message).with(|report| {
            report.task_name = Some(ours.name.clone());
            report.advice = Some("build both sides from the same sources".into());
        }));
    }
    u32::try_from(position).map_err(|_| too_many())
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the pool is closed")
}

/// When starting was given up, and nobody has said why.
pub(super) fn not_startable() -> Error {
    Error::new(ErrorKind::Launch, "no worker could be started")
}

pub(super) fn token_cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "its token was cancelled before it was submitted")
}

pub(super) fn too_many() -> Error {
    Error::new(ErrorKind::LimitExceeded, "the pool's tables are full")
}

/// What a worker did that is no worker's to do.
fn broke(death: Option<&Death>) -> String {
    let fault = death.and_then(|death| death.fault.as_deref());
    let fault = fault.unwrap_or("it answered for a task that it does not hold");
    format!("broke the protocol and was killed: {fault}")
}

/// The advice of those who have none of their own.
fn last_words(death: &Death) -> Option<String> {
    last_line(&death.stderr).map(|line| format!("its last words: {line}"))
}

/// The last line that says something, shortened. Of a panic that is its message, and not the trace that follows it.
fn last_line(text: &str) -> Option<String> {
    let traced = text.contains("stack backtrace:\n");
    let is_trace = |line: &str| {
        let number = line.split_once(": ").map(|(number, _)| number);
        let frame = line.starts_with("at ") || number.is_some_and(|number| number.parse::<u32>().is_ok());
        line == "stack backtrace:"
            || line.starts_with("note: ") && line.contains("RUST_BACKTRACE")
            || traced && frame
    };
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty() && !is_trace(line))?;
    let shown: String = line.chars().take(LINE).collect();
    Some(if shown.len() < line.len() { format!("{shown}…") } else { shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_those_of_a_panic_and_not_its_trace() {
        for (text, words) in [
            ("", None),
            ("\n  \n", None),
            ("one\n  two \n\n", Some("two")),
            ("12: twelve\n", Some("12: twelve")),
            (
                "panicked at a.rs:1:2:\nboo\nnote: run with `RUST_BACKTRACE=1` environment variable\n",
                Some("boo"),
            ),
            (
                "panicked at a.rs:1:2:\nboo\nstack backtrace:\n   0: main\n             at ./a.rs:1:2\nnote: Some details \
                 are omitted, run with `RUST_BACKTRACE=full`\n",
                Some("boo"),
            ),
            ("boo\nstack backtrace:\n   0: main\nsaid later\n", Some("said later")),
        ] {
            assert_eq!(last_line(text).as_deref(), words, "{text:?}");
        }
        let long = "ä".repeat(2 * LINE);
        assert_eq!(last_line(&long).map(|line| line.chars().count()), Some(LINE + 1));
    }
}
