//! Who runs what, when, and what a loss means. Decisions only: no clock, no randomness, no I/O, no payload bytes.
//!
//! The driver tells the scheduler what happened ([`Scheduler::handle`]), performs what it wants done
//! ([`Scheduler::poll_action`]) and calls it again at the time that it names ([`Scheduler::poll_timeout`]).
//!
//! ```text
//!  task    Queued ── send ──▶ Sent ──▶ (Begun) ──▶ resolved, exactly once
//!            │ ▲                │         │
//!   cancel,  │ └──── lost ──────┤         ├─ lost ─ retry ─▶ tried again, Crashed, or what the worker was killed for
//!   deadline ▼             stop ▼         ▼ stop: cancel, timeout, deadline
//!         resolved            Stopping ── done ──▶ Cancelled, TimedOut, or the answer if that was faster
//!                               └── climb: Cancel, grace, (quarantine, grace,) SIGTERM to the group, grace, SIGKILL ──▶ its
//!                                   lost path. Quarantine is for the sake of others that run there, and ends with them.
//!
//!  worker  Starting ─ greeted ─▶ Ready ─ opened ─▶ Open ─ dismiss ─▶ Leaving ─ parted ─▶ Parted ─ lost ─▶ gone
//!              │                   │                ├─ hung_up ─▶ HungUp, 250 ms             │
//!              └──── doom ─────────┴────────────────┴─────────────────┴──────────────────────┤
//!                                                                                            ▼
//!                                                      Doomed ─ lost, or after 1 s abandon ─▶ gone
//!          gone ─ replace: back-off, then the bucket ─▶ launch
//! ```
//!
//! | file | |
//! |---|---|
//! | `scheduler` | inputs in, actions out; queue to worker and back |
//! | `queue` | the table of tasks and the lists through it |
//! | `lanes` | what waits, and which of it is next: priorities, callers in turn |
//! | `places` | who gets into the queue: its bound, and the line before it |
//! | `held`, `levels` | what a worker holds; which worker has the most room |
//! | `worker` | what is known of a worker and its seat; back-off and bucket |
//! | `limits` | timeouts and deadlines |
//! | `flow` | streams: items in, credit out |
//! | `pack` | many brief tasks as one: their answers, and what becomes of them when they part |
//! | `supervise` | the ladder, pings, limits, killing |
//! | `staff` | launching, opening, losing, replacing workers |
//! | `size` | how many places there are: resizing, growing, idling |
//! | `recycle` | workers that go while the pool works on, and their successors |
//! | `strength` | how well staffed the pool is, and telling when that changes |
//! | `retry` | which tasks are tried again after a loss, and where |
//! | `lease` | who in the tree of pools holds how much of what is lent |
//! | `share` | lending what the root can spare; growing and shrinking a pool below with what it is lent |
//! | `close` | shutdown, drain, abort |
//! | `clock` | supervised time and alarms |
//! | `sim`, `tests` | the simulator with its planted bugs; single rules by example |
//!
//! # Invariants
//!
//! The simulator judges all of them after every call, from outside wherever they can be seen there.
//!
//! 1. Every submitted task is resolved exactly once, in bounded time after the cause; a late one is refused even after
//!    `Closed`.
//! 2. A task that had not begun when its worker was lost goes back to its place in its caller's queue, and that attempt
//!    does not count. One that may have begun is sent again only after the death of its worker, if it was not to stop, and
//!    as often as its caller allowed. `may_have_run: false` is a promise.
//! 3. A worker holds at most `slots` tasks; the emptiest open worker is served first; no task waits beside room.
//! 4. Nothing is sent to a worker that has not opened, was told to go, has a task that did not stop within its grace, got
//!    SIGTERM or SIGKILL, said `Bye` or hung up. Who runs beside such a task has a grace to finish before the SIGTERM.
//! 5. Of what waits the highest priority is sent first; within it callers take turns, and a caller's tasks are sent in
//!    the order in which they came into the queue. No task is sent after its deadline.
//! 6. A loss or a violation touches only that worker's tasks, and only a worker with a reason is killed. Time in which
//!    this process did not run is no reason.
//! 7. After `Shutdown`, `Drain` or `Abort` it always gets to "no tasks, no workers" and says `Closed` once. After the
//!    first and the last in bounded time, workers that were just being started included.
//! 8. Replacing workers never spins: back-off per seat, intensity for the pool, and single probes once starting has
//!    failed three times in a row, or once for a reason that will be there the next time. What we sent away ourselves costs nothing. Want of descriptors, processes or memory is
//!    waited out, for as long as a start may take.
//! 9. Same inputs, same actions.
//! 10. [`Scheduler::poll_timeout`] lies after the last call, always: nothing that is due is left undone.
//! 11. An alarm has an owner who knows of it; every phase of a worker but `Open`, and every task on the ladder, has one.
//! 12. Counts are derived from tables.
//! 13. No task comes into the queue beyond its bound; only what workers give back may exceed it. Whoever waits for a
//!     place gets one as soon as there is one, first come first served.
//! 14. Whoever listens is told of each worker's opening and end once, and of every change of the pool's strength: it is
//!     not full while a place is vacant, and full as soon as all have open workers.
//! 15. A task that has died with its worker is tried again on a worker that nobody has used, ahead of all that waits, and
//!     shares it with nobody. One that went with a worker which we ended for another task's sake goes back to the queue.
//! 16. No more workers take tasks than the pool may have, none gets more tasks than it may, and where fewer are than there
//!     have to be somebody is on the way. Who goes for its age, its memory, or because it idles leaves enough others;
//!     what it runs it finishes.
//! 17. Every item that a stream had credit for is delivered once, in order, and before its end; any other one is a
//!     violation. A stream whose consumer has read everything has credit, and never more than a window that starts small
//!     and grows as it is read. One of which an item came has begun, whatever else its worker's remains say.
//! 18. Of a pack each task has its own outcome, and invariants 1 and 2 hold for each. (`tests/pack` is its simulator.)
//! 19. In a tree of pools no more processes are granted than there may be, no more places are lent than the root's own
//!     workers leave, and what the dead were lent comes back. No task waits for a lease: it runs, or fails at once. A
//!     place that comes back is offered first to those who have fewest of who was refused.

#[macro_use]
mod plant;

mod ahead;
mod clock;
mod close;
mod flow;
mod forecast;
mod held;
mod lanes;
mod lease;
mod levels;
mod limits;
mod pack;
mod places;
mod queue;
mod recycle;
mod retry;
mod scheduler;
mod share;
#[cfg(test)]
mod sim;
mod size;
mod staff;
mod strength;
mod supervise;
#[cfg(test)]
mod tests;
mod worker;

use std::time::Duration;

use crate::error::ErrorKind;
use crate::event::Leave;
use crate::id::{TaskId, WorkerId};
pub(crate) use crate::sched::close::Tally;
pub(crate) use crate::sched::places::Fullness;
pub(crate) use crate::sched::scheduler::Scheduler;
pub(crate) use crate::sched::strength::{Readiness, Strength};
use crate::wire::frame::LeaseKind as Kind;

/// How a pool is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// How many workers to keep.
    pub(crate) workers: u32,
    /// How many to have at most, when tasks wait for them; not more than `workers` if that is less.
    pub(crate) most_workers: u32,
    /// How long a worker may be idle that need not be kept.
    pub(crate) idle: Option<Duration>,
    /// How many tasks a worker is given, then it is replaced; at least 1.
    pub(crate) most_tasks: u64,
    /// How long a worker may be open until it is replaced.
    pub(crate) most_age: Option<Duration>,
    /// How much memory a worker may have when it has answered a task, or it is replaced.
    pub(crate) most_memory: u64,
    /// How many tasks a worker may run at once.
    pub(crate) slots: u32,
    /// How many more it may be sent ahead, at most. Within that, predicted service times decide.
    pub(crate) ahead: u32,
    /// How many workers can really work at once.
    pub(crate) processors: u32,
    /// How many tasks may wait that no worker holds; at least 1.
    pub(crate) queue_limit: u32,
    /// How large the inputs of those tasks may be together.
    pub(crate) queue_bytes: u64,
    /// From the launch to `Ready`.
    pub(crate) start_limit: Duration,
    /// From `Ready` to `Open`.
    pub(crate) init_limit: Duration,
    /// From `Cancel` to SIGTERM: the grace that the worker is told.
    pub(crate) cancel_grace: Duration,
    /// From SIGTERM to SIGKILL.
    pub(crate) term_grace: Duration,
    /// From `Drain` or `Bye` to SIGKILL. It covers whatever a process does at its end.
    pub(crate) leave_limit: Duration,
    /// Whether this is the pool of a worker: what it needs beyond one place it asks its parent for.
    pub(crate) below: bool,
    /// How many workers of the tree may have something to do at once. The root's own are never kept from it.
    pub(crate) places: u32,
    /// How many processes there may be in the tree, the root's own workers included.
    pub(crate) processes: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 1,
            most_workers: 0,
            idle: None,
            most_tasks: u64::MAX,
            most_age: None,
            most_memory: u64::MAX,
            slots: 1,
            ahead: 1024,
            processors: u32::MAX,
            queue_limit: u32::MAX,
            queue_bytes: 1 << 30,
            start_limit: Duration::from_secs(10),
            init_limit: Duration::from_secs(60),
            cancel_grace: Duration::from_secs(1),
            term_grace: Duration::from_secs(1),
            leave_limit: Duration::from_secs(5),
            below: false,
            places: 1,
            processes: 64,
        }
    }
}

/// What a caller wants of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Spec {
    /// Tasks of one kind are expected to take about the same time.
    pub(crate) kind: u32,
    /// Whose task it is: callers of one priority take turns.
    pub(crate) lane: u32,
    /// Higher goes first.
    pub(crate) priority: i8,
    /// How large its input is.
    pub(crate) bytes: u32,
    /// Whether it waits for a place in the queue when there is none, and is not refused.
    pub(crate) patient: bool,
    /// How long one attempt may take, from when it comes to be one of those that its worker runs.
    pub(crate) timeout: Option<Duration>,
    /// After how long it is too late for it, waiting included. Time in which this process did not run counts.
    pub(crate) deadline: Option<Duration>,
    /// How often it may be tried again when its worker dies.
    pub(crate) retries: u32,
    /// Whether it gives back items. Once one has come it is not tried again.
    pub(crate) stream: bool,
    /// How many it stands for, if it is a pack: one after the other on one worker. Otherwise 0.
    pub(crate) pack: u32,
}

impl Spec {
    /// Whether its deadline has passed already.
    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|left| left.is_zero())
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    /// Keep the configured number of workers from now on. First, once.
    Start,
    /// A caller wants this task run. The driver chose the id: its index is free in the driver's table. Resolved at once
    /// when the pool is closing (`Closed`), when it is too late already (`TimedOut`), or when starting workers has been
    /// given up and no probe is under way (`Launch`), or when the queue is full and the caller is not `patient`
    /// (`Overloaded`).
    Submit { task: TaskId, spec: Spec },
    /// A caller wants a place in the queue for a task of which nothing is known yet. Resolved like `Submit`; otherwise
    /// `Grant` answers it, at once if the caller is not `patient`.
    Reserve { task: TaskId, spec: Spec },
    /// What a place that was granted is used for. It was resolved meanwhile, or is now when it is too late (`TimedOut`) or
    /// starting workers has been given up (`Launch`), or it goes into the queue.
    Redeem { task: TaskId, spec: Spec },
    /// A caller no longer wants this task, or its place. Stale ids are ignored.
    Cancel { task: TaskId },
    /// The worker greeted.
    Ready { worker: WorkerId },
    /// The worker takes tasks.
    Open { worker: WorkerId },
    /// The worker says that a task has ended, and how long that took. `answer` is what the driver holds in its hand for
    /// `Resolve`.
    Done { worker: WorkerId, task: TaskId, attempt: u32, answer: Answer, used: Duration },
    /// The worker sends an item of a stream, which costs so much. It is what the driver holds in its hand for `Deliver`.
    Item { worker: WorkerId, task: TaskId, attempt: u32, cost: u32 },
    /// The worker answers so many tasks of a pack, the next ones. The answers are what the driver holds in its hand for
    /// `Deliver`.
    Answers { worker: WorkerId, task: TaskId, attempt: u32, n: u32 },
    /// The worker gives back what a pack has from the task at `from` on: it has not begun, and will not wait for those before
    /// it. It lives on as `rest`, an id whose index is free in the driver's table.
    Cut { worker: WorkerId, task: TaskId, attempt: u32, from: u32, rest: TaskId },
    /// The consumer of a stream has read items that cost so much, all in all. Stale ids are ignored.
    Read { task: TaskId, cost: u32 },
    /// The worker answers a `Recall`: these had not begun and are ours again.
    Recalled { worker: WorkerId, tasks: Vec<TaskId> },
    /// A frame came that needs no decision, `Pong` for example: the worker lives.
    Heard { worker: WorkerId },
    /// The worker was found to have so much memory.
    Weighed { worker: WorkerId, bytes: u64 },
    /// The worker broke a rule that the driver checks (an undecodable frame, say). It has to die.
    Violated { worker: WorkerId },
    /// The link's end was reached but the process has not been seen to end. It gets a moment to do so by itself.
    HungUp { worker: WorkerId },
    /// The worker said `Bye`: what comes now is a planned exit. Any frame after it is a violation. One that was not told to
    /// go is replaced like one that crashed, or it could say so for ever.
    Bye { worker: WorkerId },
    /// The worker is gone and every complete frame from it has been handled; or it could not be launched. Of the tasks
    /// sent to it, in the order of sending and counted from 1, those up to `begun` may have begun (`u64::MAX`: all).
    Lost { worker: WorkerId, begun: u64 },
    /// Have between so many and so many workers from now on. Ignored when the pool is told to end.
    Resize { least: u32, most: u32 },
    /// The pool below the worker asks for so much more.
    Lease { worker: WorkerId, kind: Kind, n: u32 },
    /// The pool below the worker gives so much back.
    Returned { worker: WorkerId, kind: Kind, n: u32 },
    /// From above, to the oldest question of this kind: so much was granted, of what had been asked for.
    Granted { kind: Kind, n: u32 },
    /// From above: what was refused may be there now.
    Nudged,
    /// The worker could not be launched for want of something that others use up and may give back: descriptors, processes,
    /// memory. Instead of `Lost`. It counts as a failed start only when the want lasts as long as a start may take.
    Scarce { worker: WorkerId },
    /// Whoever is started like this worker will fail as it does: the program is not there, or of another version. Its `Lost`
    /// follows. If it had not opened, starting is given up at once, as after three failures.
    Futile { worker: WorkerId },
    /// Refuse new work, fail what is queued with `Closed`, let what was sent run for `limit`, then the ladder.
    Shutdown { limit: Duration },
    /// Refuse new work, finish everything that was submitted, however long it takes.
    Drain,
    /// Refuse new work, resolve everything `Closed`, kill every worker.
    Abort,
    /// Nothing but that time has passed.
    Tick,
}

/// How a worker says that a task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// With an output, a panic or an error of its own: whatever it is, the caller gets it, cancelled or not.
    Finished,
    /// It was stopped. `began` says whether its code ever ran.
    Cancelled { began: bool },
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Bring this new worker to life and say `Hello`.
    Launch { worker: WorkerId },
    /// Send the task, and how long it has left until its deadline. Runs of one worker are sent in the order of their
    /// actions: both sides count them.
    Run { worker: WorkerId, task: TaskId, attempt: u32, left: Option<Duration> },
    /// Send `Cancel`. Never to a worker that can't read it any more; that one goes up the ladder in silence.
    Cancel { worker: WorkerId, task: TaskId, grace: Duration },
    /// Put the item, or the answers of a pack, that the driver holds in its hand behind those that the task's caller has not read.
    Deliver { task: TaskId },
    /// Send `Credit`.
    Credit { worker: WorkerId, task: TaskId, credit: u32 },
    /// Send `Recall`. A `Recalled` answers it, with those of the tasks that have not begun.
    Recall { worker: WorkerId, tasks: Vec<TaskId> },
    /// Send `Drain`. The worker holds nothing.
    Drain { worker: WorkerId },
    /// Send `Ping`.
    Ping { worker: WorkerId },
    /// SIGTERM to the worker's group. Once per worker, which gets nothing more to do: if it survives, it is drained when it
    /// is idle.
    Terminate { worker: WorkerId },
    /// SIGKILL to the worker's group, or give up starting it. `Lost` must follow.
    Kill { worker: WorkerId },
    /// Even SIGKILL did not help: let go of the worker. `Lost` need not follow and is ignored.
    Abandon { worker: WorkerId },
    /// The tasks of a pack before `begun` that are not answered have come to this; it goes on with those behind, if any.
    Part { task: TaskId, begun: u32, outcome: Outcome },
    /// What a pack has from the task at `at` on is another pack now, `rest`.
    Split { task: TaskId, at: u32, rest: TaskId },
    /// The attempt has failed like this, and the task is tried again.
    Retry { task: TaskId, worker: WorkerId, kind: ErrorKind, attempts: u32 },
    /// Tell the caller that the task, patient or merely reserved for, has a place in the queue. Once per task.
    Grant { task: TaskId },
    /// Answer the worker's oldest question of this kind.
    Lend { worker: WorkerId, kind: Kind, n: u32 },
    /// Tell the worker that what was refused may be there now.
    Nudge { worker: WorkerId },
    /// Ask the pool above for so much more. A `Granted` answers it.
    Ask { kind: Kind, n: u32 },
    /// Give so much back to the pool above.
    Return { kind: Kind, n: u32 },
    /// Give this to the task's caller and forget the task. Exactly once per task.
    Resolve { task: TaskId, outcome: Outcome },
    /// The first worker opened (`ok`), or starting them has been given up for now: three starts in a row have failed, or a
    /// futile one, and none is under way. Each at most once, and nothing after `ok`; neither, if the pool is closed before.
    Started { ok: bool },
    /// Tell whoever listens.
    Tell(Notice),
    /// After `Shutdown`, `Drain` or `Abort`: no tasks, no workers. Once, last, but for the refusal of later submissions.
    Closed(Tally),
}

/// What is told to those who listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Notice {
    /// The worker takes tasks.
    Opened { worker: WorkerId },
    /// The worker takes no more tasks and goes when it has done what it runs.
    Leaving { worker: WorkerId, reason: Leave },
    /// The worker has gone or was given up; what it held has been resolved or put back.
    Gone { worker: WorkerId, end: End },
    /// The pool's strength is another.
    Strength(Strength),
    /// The pool was told to end.
    Closing,
}

/// How a worker's time with the pool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// It never took tasks.
    Unstarted,
    /// It was told to go.
    Left(Leave),
    /// It went by itself or had to be killed. What it had begun was resolved like this.
    Lost(ErrorKind),
}

/// What a task's caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// The answer that the driver holds in its hand.
    Answered,
    /// An error. `worker`: who held it, or who failed to start last (`Launch`). `attempts`: how many may have begun.
    Failed { kind: ErrorKind, worker: Option<WorkerId>, attempts: u32, may_have_run: bool },
}
