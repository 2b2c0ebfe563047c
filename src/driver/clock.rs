//! What time it is for the scheduler, and when it is called for nothing but the time.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::port::TURN;
use super::state::State;
use crate::sched::Input;

impl State {
    /// Ready when it is time to call the scheduler, or the pool is closed; arms the alarm for that.
    pub(super) fn poll_clock(&mut self, now: Instant, cx: &Context<'_>) -> Poll<()> {
        if self.is_closed() {
            return Poll::Ready(());
        }
        if !self.is_due(now) {
            self.clock = Some(cx.waker().clone());
            self.armed = None;
            return Poll::Pending;
        }
        self.clock = None;
        if self.ports.iter().flatten().any(|port| port.is_kept_waiting(now)) {
            // Time stands still until it has had its turn. If that takes long, the tick is late, and forgiven.
            self.alarm.set(now + TURN, cx.waker());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Calls the scheduler if it is still time. `false` when the pool is closed.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        if self.is_due(now) {
            self.handle(now, Input::Tick);
        }
        !self.is_closed()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.sched.poll_timeout().is_some_and(|at| at <= now)
    }

    /// Makes sure that the clock's task is woken in time. It may be woken too early: then it looks and sleeps on.
    pub(super) fn rearm(&mut self) {
        let (Some(clock), Some(at)) = (&self.clock, self.sched.poll_timeout()) else { return };
        if self.armed.is_none_or(|armed| at < armed) {
            self.alarm.set(at, clock);
            self.armed = Some(at);
        }
    }

    /// Only the clock's task lets time pass: it runs where the links' tasks do. Callers on other threads are punctual while
    /// those stand still, and nobody would be heard in time.
    pub(super) fn punctual(&self, now: Instant) -> Instant {
        let due = self.sched.poll_timeout().filter(|due| *due <= now);
        due.and_then(|due| due.checked_sub(Duration::from_nanos(1))).unwrap_or(now)
    }
}
