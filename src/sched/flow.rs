//! The accounts of streams: what a producer may still send, and when reading earns it more. What an item costs is agreed
//! on the wire; what is in it is not seen here.
//!
//! ```text
//!  credit ── item: what it costs ──▶ unread ── read ──▶ half the window is read: credit again, and the window doubles
//! ```

use crate::id::TaskId;
use crate::sched::Action;
use crate::sched::queue::Task;
use crate::sched::scheduler::Scheduler;
use crate::sched::worker::{Cause, Phase};
use crate::wire::credit::{FIRST, MOST};

/// The account of one attempt at a stream.
#[derive(Debug)]
pub(super) struct Flow {
    /// What it may still send. Below zero after an item that cost more than there was.
    pub(super) credit: i64,
    /// How much it may have out and unread.
    pub(super) window: u32,
    /// What was read since the last grant.
    pub(super) read: u32,
    /// Whether an item has come.
    pub(super) came: bool,
}

impl Default for Flow {
    fn default() -> Self {
        Self { credit: FIRST.into(), window: FIRST, read: 0, came: false }
    }
}

impl Scheduler {
    /// A worker has sent an item.
    pub(super) fn item(&mut self, seat: u32, id: TaskId, attempt: u32, cost: u32) {
        let ghost = planted!(self, DeliverGhost) && self.tasks.get(id).is_none();
        if ghost {
            return self.act(Action::Deliver { task: id });
        }
        let debts = planted!(self, IgnoreCredit);
        let known = self.tasks.get(id).is_some_and(|task| task.is_on(seat) && task.attempts == attempt);
        let task = self.tasks.at_mut(id.index).filter(|_| known);
        let flow = task.and_then(Task::flow_mut).filter(|flow| flow.credit > 0 || debts);
        let Some(flow) = flow else { return self.doom(seat, Cause::Violation) };
        flow.credit -= i64::from(cost);
        flow.came = true;
        if !(planted!(self, SwallowItem) && flow.credit % 16 == 0) {
            self.act(Action::Deliver { task: id });
        }
    }

    /// A consumer has read. What is granted to a worker that can't hear it, or to a task that is to stop, would be in vain.
    pub(super) fn read(&mut self, id: TaskId, cost: u32) {
        let Some(task) = self.tasks.at_mut(id.index).filter(|task| task.id == id) else { return };
        let (Some(extras), Some(sent)) = (&mut task.extras, &task.sent) else { return };
        let Some(flow) = &mut extras.flow else { return };
        flow.read = flow.read.saturating_add(cost);
        let worker = self.seats[sent.seat as usize].worker.as_ref();
        let Some(worker) = worker.filter(|worker| worker.phase == Phase::Open && sent.stop.is_none()) else {
            return;
        };
        if flow.read < flow.window / 2 || planted!(self, ForgetGrant) && flow.window > FIRST {
            return;
        }
        let window = flow.window.saturating_mul(2).min(MOST);
        let credit = flow.read.saturating_add(window - flow.window);
        (flow.window, flow.read) = (window, 0);
        flow.credit += i64::from(credit);
        let worker = worker.id;
        if planted!(self, GrantTwice) {
            flow.credit += i64::from(credit);
            self.act(Action::Credit { worker, task: id, credit });
        }
        self.act(Action::Credit { worker, task: id, credit });
    }
}
