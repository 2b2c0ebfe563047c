//! Looking for an answer again and again instead of sleeping until it is there, for pools with low latency. The runtime's
//! thread is kept awake, not kept busy: whatever else it has to do comes between two looks.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::task::yield_now;

/// How long to look on after something was sent or received. Falling asleep and being woken rarely takes longer, so that what
/// does has little to gain.
pub(super) const SPIN: Duration = Duration::from_micros(50);

/// One link's part in it.
#[derive(Debug, Default)]
pub(super) struct Spin {
    /// Whether one of the pool's links does: one keeps a thread awake, and a second one might keep another. `None` if none is
    /// to.
    turn: Option<Arc<AtomicBool>>,
    /// Whether it is this one.
    on: bool,
    until: Option<Instant>,
}

impl Spin {
    pub(super) fn new(turn: Option<Arc<AtomicBool>>) -> Self {
        Self { turn, on: false, until: None }
    }

    /// Whether the socket is to be asked and not only what the runtime has heard of it, which can be another thread's to hear.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Something was sent or received.
    pub(super) fn extend(&mut self) {
        if self.turn.is_some() {
            self.until = Some(Instant::now() + SPIN);
        }
    }

    /// There was nothing, and `awaits` says whether there will be. Whether to look again: then the task is woken when the
    /// runtime has nothing else to do, and has looked at its sockets and timers.
    pub(super) fn again(&mut self, awaits: bool, cx: &mut Context<'_>) -> bool {
        let Some(turn) = &self.turn else { return false };
        if !awaits || self.until.is_none_or(|until| until <= Instant::now()) {
            self.stop();
            return false;
        }
        // No memory is handed over by it.
        self.on = self.on || !turn.swap(true, Ordering::Relaxed);
        if self.on {
            let _ = pin!(yield_now()).poll(cx);
        }
        self.on
    }

    fn stop(&mut self) {
        if let (true, Some(turn)) = (std::mem::take(&mut self.on), &self.turn) {
            turn.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Spin {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_link_at_a_time_looks_again_while_it_awaits_something_and_not_for_long() {
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = &mut Context::from_waker(&waker);
        let turn = Some(Arc::default());
        let (mut first, mut second) = (Spin::new(turn.clone()), Spin::new(turn));
        assert!(!first.again(true, cx), "nothing was sent");
        let soon = Some(Instant::now() + Duration::from_secs(600));
        (first.until, second.until) = (soon, soon);
        assert!(first.again(true, cx) && first.again(true, cx) && !second.again(true, cx));
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(!first.again(false, cx), "it awaits nothing");
        assert!(second.again(true, cx), "it is another's turn");
        second.until = Some(Instant::now());
        assert!(!second.again(true, cx) && !second.is_on(), "its time is over");
        assert!(first.again(true, cx));
        drop(first);
        second.until = soon;
        assert!(second.again(true, cx), "the other link has gone");
        let mut plain = Spin::new(None);
        plain.extend();
        assert!(!plain.again(true, cx));
        assert_eq!(woken.0.load(Ordering::Relaxed), 5);
    }
}
