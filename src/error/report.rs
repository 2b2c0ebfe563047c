//! What an error knows, and the parts of the one line that it is told in. It does not decide what to tell.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, ErrorKind, Exit};
use crate::id::{TaskId, WorkerId};

/// How many characters an error's one line may have. Longer ones are not read, and cut off by those who log them.
pub(super) const LINE: usize = 290;

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
    /// Whether the pool killed the worker.
    pub(crate) killed: bool,
    /// How long the attempt ran.
    pub(crate) ran: Option<Duration>,
    /// The most memory that the worker had resident, in bytes.
    pub(crate) peak: Option<u64>,
    /// What may have been behind it.
    pub(crate) hint: Option<Cow<'static, str>>,
    /// How the attempt before has ended.
    pub(crate) earlier: Option<Earlier>,
    /// The last lines that the worker wrote to its standard error, control characters escaped.
    pub(crate) stderr: String,
}

impl Report {
    /// On which worker, in which attempt and for how long.
    pub(super) fn place(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.worker.map(|worker| worker.to_string()));
        parts.extend(self.pid.filter(|_| self.worker.is_some()).map(|pid| format!("pid {pid}")));
        parts.extend((self.attempts > 1).then(|| format!("attempt {}", self.attempts)));
        parts.extend(self.ran.map(|ran| format!("after {ran:.1?}")));
        let mut place = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
        for (at, worker) in self.path.iter().enumerate() {
            place += &format!("{}{worker}", if at == 0 { ", below " } else { " and " });
        }
        place
    }
}

/// A text as a part of one line: without control characters, and of so many characters at most.
pub(super) fn clip(text: &str, most: usize) -> String {
    if most == 0 {
        return String::new();
    }
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect();
    if text.chars().nth(most).is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// How an attempt has ended that was not the last. It is flat: whatever comes from a worker must not nest without end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Earlier {
    line: String,
    exit: Option<Exit>,
}

impl From<&Error> for Earlier {
    fn from(error: &Error) -> Self {
        Self { line: error.to_string(), exit: error.exit() }
    }
}

impl fmt::Display for Earlier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Earlier {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.exit.as_ref().map(|exit| exit as _)
    }
}
