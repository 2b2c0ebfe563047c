//! The state's side of a link: where it and the link's task leave things for each other. It moves nothing itself.

use std::task::Waker;
use std::time::{Duration, Instant};

use crate::id::WorkerId;
use crate::launch::body::Control;
use crate::link::Outbox;

/// How long a link's task may keep its turn waiting while it was woken. A busy runtime takes some milliseconds; one that is
/// blocked takes as long as it likes.
pub(super) const TURN: Duration = Duration::from_millis(250);

/// How many tasks a worker has before it, beside those that it runs, when more of them need not be sent at once.
const FED: usize = 32;

/// The state's side of a link; the other is the link's task, which looks here whenever it is woken.
pub(super) struct Port {
    pub(super) worker: WorkerId,
    /// Frames to send.
    pub(super) outbox: Outbox,
    /// How many tasks it has been given and has not answered, and how many of them are still in the outbox.
    unanswered: usize,
    unsent: usize,
    pub(super) waker: Option<Waker>,
    /// Since when its task has been woken and has not come.
    pub(super) woken: Option<Instant>,
    /// Reaches the worker from any thread. `None` while it is being launched.
    pub(super) control: Option<Control>,
    /// What a worker says its process is that is started by a guardian.
    pub(super) guarded: Option<u32>,
    /// The worker is to be killed: a launch that is still under way is dropped.
    pub(super) doomed: bool,
    /// It was sent SIGTERM.
    pub(super) terminated: bool,
    /// Which rule the worker broke.
    pub(super) fault: Option<String>,
    /// Whether whoever is started like it will break the same.
    pub(super) futile: bool,
    /// Whether it has greeted.
    pub(super) greeted: bool,
    /// Whether it has taken tasks.
    pub(super) opened: bool,
}

impl Port {
    /// Of a worker that is being launched.
    pub(super) fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            outbox: Outbox::default(),
            unanswered: 0,
            unsent: 0,
            waker: None,
            woken: None,
            control: None,
            guarded: None,
            doomed: false,
            terminated: false,
            fault: None,
            futile: false,
            greeted: false,
            opened: false,
        }
    }

    /// The worker has greeted, and says that this is its process. A guardian alone knows another, so its word has to do.
    pub(super) fn greeted(&mut self, pid: u32) {
        self.greeted = true;
        self.guarded = self.has_guardian().then_some(pid);
    }

    /// Whether a worker of this process should have been started by a guardian, and was not.
    pub(super) fn is_unguarded(&self, pid: u32) -> bool {
        self.has_guardian() && self.pid() == Some(pid)
    }

    fn has_guardian(&self) -> bool {
        self.control.as_ref().is_some_and(Control::is_guardian)
    }

    /// The worker's process, once there is one; its guardian while only that one is known.
    pub(super) fn pid(&self) -> Option<u32> {
        self.guarded.or_else(|| self.control.as_ref().and_then(Control::pid))
    }

    /// A task was put into the outbox. Gives out what wakes the link's task, unless the worker has so much before it that the
    /// next answer is early enough: each write wakes the worker, which costs both more than many small tasks do.
    pub(super) fn given(&mut self, slots: usize) -> Option<Waker> {
        self.unanswered += 1;
        self.unsent += 1;
        let before = self.unanswered - self.unsent;
        if before >= slots + FED && 2 * self.unsent < before {
            return None;
        }
        self.call()
    }

    /// What was in the outbox is on its way.
    pub(super) fn loaded(&mut self) {
        self.unsent = 0;
    }

    /// So many tasks were answered, or given back. A worker may say what it likes.
    pub(super) fn answered(&mut self, tasks: usize) {
        self.unanswered = self.unanswered.saturating_sub(tasks).max(self.unsent);
    }

    /// Whether there are tasks that it has not answered.
    pub(super) fn awaits(&self) -> bool {
        self.unanswered > 0
    }

    /// Whether the link's task was woken and has not come for long.
    pub(super) fn is_kept_waiting(&self, now: Instant) -> bool {
        self.woken.is_some_and(|since| now.saturating_duration_since(since) > TURN)
    }

    /// Gives out what wakes the link's task, and notes when.
    pub(super) fn call(&mut self) -> Option<Waker> {
        let waker = self.waker.take()?;
        self.woken = Some(Instant::now());
        Some(waker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_has_much_before_it_is_woken_for_many_tasks_at_once() {
        let mut port = Port::new(WorkerId::new(0, 1));
        let given = |port: &mut Port| {
            port.waker = Some(Waker::noop().clone());
            port.given(2).is_some()
        };
        let loaded = 2 + FED;
        assert!((0..loaded).all(|_| given(&mut port)), "nothing of it is on its way");
        port.loaded();
        assert!(!(0..loaded.div_ceil(2) - 1).any(|_| given(&mut port)), "it has twice as much before it");
        assert!(given(&mut port));
        port.loaded();
        port.answered(loaded);
        assert!(given(&mut port), "it comes to the end of what it has");
        port.loaded();
        port.answered(usize::MAX);
        assert!(given(&mut port), "it says that it has answered more than it was given");
    }
}
