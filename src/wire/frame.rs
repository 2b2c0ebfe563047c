//! Every frame that exists, by direction. This file is the protocol; what the frames mean is decided elsewhere.
//!
//! Adding a variant at the end of an enum keeps the golden bytes of the others; anything else needs a new
//! [`VERSION`](super::VERSION).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::brief::{self, Header};
use crate::arena::Span;
use crate::id::{TaskId, WorkerId};

/// What a parent says to its worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// First, once.
    Hello(Hello),
    /// One task. Body: its encoded input.
    Run(Run),
    /// Many brief tasks of one type, to be run one after the other. Body: their inputs, as in [`pack`](super::pack).
    Pack(Pack),
    /// Give back these tasks if they have not begun.
    Recall {
        tasks: Vec<TaskId>,
    },
    /// The stream's consumer has read: so much more may be sent. See [`credit`](super::credit).
    Credit {
        task: TaskId,
        credit: u32,
    },
    /// Stop this task: its handle was dropped, or its deadline has passed.
    Cancel {
        task: TaskId,
        grace_ms: u32,
    },
    /// A part of bulk on a relay, so that control frames overtake it. Body: the part.
    Chunk {
        task: TaskId,
        last: bool,
    },
    /// Finish what you have, answer, say `Bye`.
    Drain,
    Ping {
        nonce: u64,
    },
    Pong {
        nonce: u64,
    },
    /// Look again: something that travels beside the link has changed.
    Nudge,
    Lease {
        kind: LeaseKind,
        n: u32,
    },
    Granted {
        kind: LeaseKind,
        n: u32,
    },
    Returned {
        kind: LeaseKind,
        n: u32,
    },
    /// Parts of the next frame's body lie in the memory that both sides share.
    Spans {
        placed: Vec<Placed>,
    },
    /// What the other side has placed at these offsets is not needed any more.
    Released {
        offsets: Vec<u64>,
    },
}

/// What a worker says to its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToParent {
    /// First, once, before any user code runs.
    Ready(Ready),
    /// Once, when the state is initialised.
    Open(Open),
    /// A task began. On relays only, where asked for.
    Started {
        task: TaskId,
    },
    /// These had not begun and were given back.
    Recalled {
        tasks: Vec<TaskId>,
    },
    /// One item of a stream, paid for with credit. Body: the encoded item.
    Item {
        task: TaskId,
        attempt: u32,
    },
    /// Exactly once per task that was sent and not recalled. Body: the encoded output, if it returned. Of a pack: once, behind
    /// its answers, without a body.
    Done {
        task: TaskId,
        attempt: u32,
        used_us: u32,
        verdict: Verdict,
    },
    /// A part of bulk on a relay, so that control frames overtake it. Body: the part.
    Chunk {
        task: TaskId,
        last: bool,
    },
    /// A record of the worker's log.
    Log {
        level: u8,
        target: String,
        message: String,
    },
    /// What the worker uses.
    Usage {
        resident_bytes: u64,
        cpu_us: u64,
    },
    /// The last frame. An end of file without it means lost, whatever the exit status says.
    Bye,
    Ping {
        nonce: u64,
    },
    Pong {
        nonce: u64,
    },
    /// Look again: something that travels beside the link has changed.
    Nudge,
    Lease {
        kind: LeaseKind,
        n: u32,
    },
    Granted {
        kind: LeaseKind,
        n: u32,
    },
    Returned {
        kind: LeaseKind,
        n: u32,
    },
    /// Parts of the next frame's body lie in the memory that both sides share.
    Spans {
        placed: Vec<Placed>,
    },
    /// What the other side has placed at these offsets is not needed any more.
    Released {
        offsets: Vec<u64>,
    },
    /// The next answers of a pack. Body: these, as in [`pack`](super::pack).
    Answers {
        task: TaskId,
        attempt: u32,
    },
    /// The tasks of a pack from this one on, counted from the first in its body, are given back: they have not begun.
    Cut {
        task: TaskId,
        attempt: u32,
        from: u32,
    },
}

/// A part of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    /// Where in the rest of the body it belongs.
    pub(crate) at: u32,
    pub(crate) span: Span,
}

/// How the parent greets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u16,
    pub(crate) worker: WorkerId,
    pub(crate) nonce: [u8; 16],
    /// The processes above the worker, its parent first, the root last.
    pub(crate) ancestors: Vec<Ancestor>,
    pub(crate) depth: u8,
    pub(crate) tree: Tree,
    pub(crate) limits: Limits,
    pub(crate) sandbox: Sandbox,
    /// The most verbose level of log records that the parent wants: 0 none, 1 error … 5 trace.
    pub(crate) log: u8,
    /// Whether the worker looks for tasks again and again, for a moment, before it sleeps.
    pub(crate) looks: bool,
}

/// A process above the worker. Its start time tells it from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ancestor {
    pub(crate) pid: u32,
    /// In clock ticks since boot, as in field 22 of `/proc/PID/stat`.
    pub(crate) start: u64,
}

/// What holds for the whole tree of pools, and where in it the worker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tree {
    /// The workers above this one, the root's first.
    pub(crate) path: Vec<WorkerId>,
    /// The depth of the deepest workers that there may be.
    pub(crate) deepest: u8,
    /// How many workers of the tree may have something to do at once.
    pub(crate) places: u32,
    /// How many processors are meant for each of those.
    pub(crate) cores: u32,
    /// How long a pool of the worker's own waits between the rungs of its ladder, in milliseconds.
    pub(crate) graces_ms: (u32, u32),
}

/// What the worker must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// The largest message in either direction, header and body, in bytes.
    pub(crate) message: u32,
    /// How many tasks may have begun at once.
    pub(crate) slots: u32,
}

/// How much the worker is to be shut in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sandbox {
    /// Its own process group, no new privileges, nothing inherited that it was not given.
    Contain,
}

/// How the worker greets back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) version: u16,
    /// The nonce of `Hello`: proof that it was read.
    pub(crate) nonce: [u8; 16],
    pub(crate) pid: u32,
    pub(crate) slots: u32,
    pub(crate) tasks: Vec<TaskType>,
    /// Which build of which program this is, for errors.
    pub(crate) build: String,
    /// Whether it has the memory for bulk that the parent shares.
    pub(crate) bulk: bool,
}

/// One row of a worker's task table. Its position is what `Run` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskType {
    pub(crate) name: Cow<'static, str>,
    pub(crate) version: u32,
    pub(crate) input: Cow<'static, str>,
    /// What it gives back, once or item by item.
    pub(crate) output: Cow<'static, str>,
    /// Whether it gives back items.
    pub(crate) stream: bool,
}

/// The worker is open for tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
    /// What is enforced, in words.
    pub(crate) enforced: Vec<String>,
}

/// One task to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) task: TaskId,
    pub(crate) attempt: u32,
    /// Position in the worker's task table.
    pub(crate) index: u32,
    /// Time left until the deadline, in microseconds.
    pub(crate) remaining_us: Option<u64>,
    /// The caller's trace context (W3C `traceparent`): trace id, span id, flags.
    pub(crate) trace: Option<(u128, u64, u8)>,
}

/// Many tasks of one type, which are sent and held as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pack {
    /// Names the pack. Its tasks have the ids from there on: this index, and serials that count up.
    pub(crate) task: TaskId,
    pub(crate) attempt: u32,
    /// Position in the worker's task table.
    pub(crate) index: u32,
    /// How many of its tasks are over already: this one, of the pack's ids, is the first in the body.
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// How a task ended, as its worker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// It returned; the output is the body.
    Returned,
    /// It panicked.
    Panicked { message: String, location: Option<String> },
    /// It was stopped before it returned. `began` says whether its code ever ran.
    Cancelled { began: bool },
    /// There is no such position in the task table.
    UnknownTask,
    /// The input could not be decoded; its code never ran.
    BadInput { reason: String },
    /// The output could not be encoded.
    BadOutput { reason: String },
    /// The output is larger than a message may be.
    TooLarge { bytes: u64 },
}

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum LeaseKind {
    /// A place in which a worker may have something to do.
    Place,
    /// A process.
    Process,
}

/// What the codec has to know of a frame.
pub(crate) trait Shape: Sized {
    /// Whether bytes may follow its header.
    fn has_body(&self) -> bool;

    /// Writes a brief header. Whether it is one of those that are.
    fn put(&self, header: &mut Header) -> bool;

    /// Reads one, and gives out what comes behind it. `None` of all others.
    fn take(bytes: &[u8]) -> Option<(Self, &[u8])>;
}

impl Shape for ToWorker {
    fn has_body(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Pack(_) | Self::Chunk { .. })
    }

    #[inline]
    fn put(&self, header: &mut Header) -> bool {
        header.put_to_worker(self)
    }

    #[inline]
    fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        brief::take_to_worker(bytes)
    }
}

impl Shape for ToParent {
    fn has_body(&self) -> bool {
        match self {
            Self::Item { .. } | Self::Answers { .. } | Self::Chunk { .. } => true,
            Self::Done { verdict, .. } => matches!(verdict, Verdict::Returned),
            _ => false,
        }
    }

    #[inline]
    fn put(&self, header: &mut Header) -> bool {
        header.put_to_parent(self)
    }

    #[inline]
    fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        brief::take_to_parent(bytes)
    }
}
