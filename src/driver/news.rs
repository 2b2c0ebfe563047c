//! What the state tells about itself: snapshots, and events for those who listen. It adds to what the scheduler knows
//! process ids, names and words, and decides nothing.

use std::task::{Context, Poll};
use std::time::Instant;

use super::report::{self, Death};
use super::state::State;
use super::{Driver, Life};
use crate::error::Error;
use crate::event::{Event, Health, Stats, Status, Summary};
use crate::id::{TaskId, WorkerId};
use crate::sched::{End, Input, Notice, Readiness, Strength, Tally};
use crate::sys::process::resident;
use crate::uplink::News;

impl State {
    /// A snapshot, but for the memory of workers: that takes system calls, and is asked for when the lock is free.
    pub(super) fn stats(&self, now: Instant) -> Stats {
        let mut stats = self.sched.stats(now);
        for worker in &mut stats.workers {
            worker.pid = self.pid(worker.id);
            for task in &mut worker.tasks {
                task.name = self.name(task.id).unwrap_or_default();
            }
        }
        stats
    }

    fn health(&self) -> Health {
        let (status, open, wanted) = self.sched.health();
        let bad = matches!(status, Status::Degraded | Status::Failed);
        Health { status, open, wanted, error: self.start_error.clone().filter(|_| bad) }
    }

    fn readiness(&self) -> Option<Result<(), Error>> {
        match self.sched.readiness() {
            Readiness::Pending => None,
            Readiness::Ready => Some(Ok(())),
            Readiness::GivenUp => Some(Err(self.not_started())),
            Readiness::Closed => Some(Err(report::closed())),
        }
    }

    /// Tells of a process that was started.
    pub(super) fn tell_started(&mut self, worker: WorkerId, pid: Option<u32>) {
        if !self.bus.is_silent() {
            self.bus.publish(Event::Started { worker, pid }, &mut self.woken);
        }
    }

    /// Puts the scheduler's news into words, if anybody listens.
    pub(super) fn tell(&mut self, notice: Notice, death: Option<&Death>) {
        let fallen = std::mem::take(&mut self.fallen);
        if self.bus.is_silent() {
            return;
        }
        let event = match notice {
            Notice::Opened { worker } => Event::Opened { worker },
            Notice::Leaving { worker, reason } => Event::Leaving { worker, reason },
            Notice::Gone { worker, end: End::Left(reason) } => Event::Left { worker, reason },
            Notice::Gone { worker, end: End::Unstarted } => {
                Event::StartFailed { worker, error: self.not_started() }
            }
            Notice::Gone { worker, end: End::Lost(kind) } => {
                let error = self.place(report::departed(kind, worker, self.pid(worker), death));
                Event::Lost { worker, error, tasks: fallen }
            }
            Notice::Strength(Strength::Full) => Event::Recovered,
            Notice::Strength(Strength::Weak) => Event::Degraded { error: self.start_error.clone() },
            Notice::Strength(Strength::None) => Event::Failed { error: self.not_started() },
            Notice::Closing => Event::Closing,
        };
        self.bus.publish(event, &mut self.woken);
    }

    /// What everybody gets who waits for the end.
    pub(super) fn summary(&self, tally: Tally) -> Summary {
        let Tally { finished, closed, failed, killed } = tally;
        let left_behind = self.abandoned.values().flatten().copied().collect();
        Summary { finished, closed, failed, killed, left_behind }
    }

    /// Takes in what the pool above has said.
    pub(super) fn hear_above(&mut self, now: Instant, news: News) {
        match news {
            News::Granted(kind, n) => self.handle(now, Input::Granted { kind, n }),
            News::Nudge => self.handle(now, Input::Nudged),
        }
        self.close();
    }

    /// Tells that the pool is closed, once the scheduler has ended and every worker has been reaped.
    pub(super) fn close(&mut self) {
        let Some(tally) = self.ended.filter(|_| !self.is_closed()) else { return };
        if self.ports.iter().all(Option::is_none) && !self.sched.asks() {
            self.live(Life::Closed(self.summary(tally)));
            self.bus.publish(Event::Closed, &mut self.woken);
            self.woken.extend(self.clock.take());
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.bus.is_over()
    }

    /// Closed is the end, and overtakes what was to be told before.
    pub(super) fn live(&mut self, life: Life) {
        if self.news.is_none() || matches!(life, Life::Closed(_)) {
            self.news = Some(life);
        }
    }

    /// Notes in an error where in the tree it comes from.
    pub(super) fn place(&self, error: Error) -> Error {
        if self.path.is_empty() { error } else { error.with(|report| report.path.clone_from(&self.path)) }
    }

    /// The name of a task's type.
    pub(super) fn name(&self, task: TaskId) -> Option<&'static str> {
        let kind = self.calls.kind(task)?;
        self.kinds.values().find(|(known, _)| *known == kind).map(|(_, name)| *name)
    }

    fn pid(&self, worker: WorkerId) -> Option<u32> {
        self.port(worker)?.pid()
    }

    pub(super) fn not_started(&self) -> Error {
        self.place(self.start_error.clone().unwrap_or_else(report::not_startable))
    }
}

impl Driver {
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.shared.with(|state, now| state.stats(now));
        for worker in &mut stats.workers {
            worker.memory = worker.pid.and_then(resident);
        }
        stats
    }

    pub(crate) fn health(&self) -> Health {
        self.shared.lock(|state| state.health())
    }

    /// Adds a listener to the pool's events, to be removed with [`leave`](Self::leave).
    pub(crate) fn listen(&self) -> usize {
        self.shared.lock(|state| state.bus.subscribe())
    }

    /// The next event of a listener; `None` after the last.
    pub(crate) fn poll_event(&self, key: usize, cx: &Context<'_>) -> Poll<Option<Event>> {
        // Cloned here: cloning may be anybody's code, as dropping may be.
        let waker = cx.waker().clone();
        let (event, _old) = self.shared.lock(|state| state.bus.poll(key, waker));
        event
    }

    pub(crate) fn leave(&self, key: usize) {
        let _old = self.shared.lock(|state| state.bus.leave(key));
    }

    /// Whether all workers that the pool is to have take tasks; `None`: not yet.
    pub(crate) fn readiness(&self) -> Option<Result<(), Error>> {
        self.shared.lock(|state| state.readiness())
    }

    /// Resolves when there are no tasks and no workers any more, after `shutdown`, `drain` or `abort`.
    pub(crate) fn closed(&self) -> impl Future<Output = Summary> + Send + use<> {
        let mut life = self.shared.life.subscribe();
        async move {
            // The sender lives as long as the pool's tasks, and they end with Closed.
            match life.wait_for(|life| matches!(life, Life::Closed(_))).await.as_deref() {
                Ok(Life::Closed(summary)) => summary.clone(),
                _ => Summary::default(),
            }
        }
    }
}
