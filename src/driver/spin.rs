//! Looking for an answer again and again instead of sleeping until it is there, for pools with low latency. The runtime's
//! thread is kept awake, not kept busy: whatever else it has to do, and whoever else wants its processor, comes between looks.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::Instant;

use tokio::task::yield_now;

use crate::vigil::{LOOKS, Rest, SPIN, Vigil};

/// How often they may until the runtime has its turn: about 4 us. That costs a microsecond, and in runtimes with many threads
/// more.
const TURN: usize = 4;

/// What the links of a pool share.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Whether one of them looks: one keeps a thread awake, and a second one might keep another.
    taken: AtomicBool,
    /// It is the same threads that look.
    rest: Mutex<Rest>,
}

impl Turn {
    /// `None` where there is one processor: the worker needs it.
    pub(super) fn new() -> Option<Arc<Self>> {
        let several = thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        several.then(Arc::default)
    }

    fn rest<T>(&self, ask: impl FnOnce(&mut Rest) -> T) -> T {
        ask(&mut self.rest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One link's part in it.
#[derive(Debug, Default)]
pub(super) struct Spin {
    /// `None` if none is to look.
    turn: Option<Arc<Turn>>,
    /// Whether it is this one that looks.
    on: bool,
    /// When something was sent or received last.
    since: Option<Instant>,
    vigil: Vigil,
}

impl Spin {
    pub(super) fn new(turn: Option<Arc<Turn>>) -> Self {
        Self { turn, on: false, since: None, vigil: Vigil::default() }
    }

    /// Something was sent, or received if `came`.
    pub(super) fn extend(&mut self, came: bool) {
        if self.turn.is_none() {
            return;
        }
        let now = Instant::now();
        if let (true, Some(since)) = (came, self.since) {
            self.vigil.came(now - since);
        }
        self.since = Some(now);
    }

    /// Looks some times, if it is to. What is found may be what the runtime has not heard of, as that is another thread's to
    /// hear.
    pub(super) fn look<T>(&mut self, mut look: impl FnMut() -> Poll<T>) -> Poll<T> {
        let Some(turn) = self.turn.as_ref().filter(|_| self.on) else { return Poll::Pending };
        for _ in 0..TURN {
            if let Some(found) = (0..LOOKS).map(|_| look()).find(Poll::is_ready) {
                return found;
            }
            let gave = Instant::now();
            thread::yield_now();
            if !turn.rest(|rest| rest.is_back(gave, Instant::now())) {
                break;
            }
        }
        Poll::Pending
    }

    /// There was nothing, and `awaits` says whether there will be. Whether to look again: then the task is woken when the
    /// runtime has nothing else to do, and has looked at its sockets and timers.
    pub(super) fn again(&mut self, awaits: bool, cx: &mut Context<'_>) -> bool {
        let Some(turn) = &self.turn else { return false };
        if !awaits || !self.pays(turn, Instant::now()) {
            self.stop();
            return false;
        }
        // No memory is handed over by it.
        self.on = self.on || !turn.taken.swap(true, Ordering::Relaxed);
        if self.on {
            let _ = pin!(yield_now()).poll(cx);
        }
        self.on
    }

    fn pays(&self, turn: &Turn, now: Instant) -> bool {
        let soon = self.since.is_some_and(|since| now.saturating_duration_since(since) < SPIN);
        soon && self.vigil.pays() && !turn.rest(|rest| rest.is_on(now))
    }

    fn stop(&mut self) {
        if let (true, Some(turn)) = (std::mem::take(&mut self.on), &self.turn) {
            turn.taken.store(false, Ordering::Relaxed);
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
    use std::time::Duration;

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
        let turn = Some(Arc::<Turn>::default());
        let (mut first, mut second) = (Spin::new(turn.clone()), Spin::new(turn));
        assert!(!first.again(true, cx), "nothing was sent");
        let soon = Some(Instant::now() + Duration::from_secs(600));
        (first.since, second.since) = (soon, soon);
        assert!(first.again(true, cx) && first.again(true, cx) && !second.again(true, cx));
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(!first.again(false, cx), "it awaits nothing");
        assert!(second.again(true, cx), "it is another's turn");
        second.since = Instant::now().checked_sub(SPIN);
        assert!(!second.again(true, cx) && !second.on, "its time is over");
        assert!(first.again(true, cx));
        drop(first);
        second.since = soon;
        assert!(second.again(true, cx), "the other link has gone");
        let mut plain = Spin::new(None);
        plain.extend(false);
        assert!(!plain.again(true, cx));
        assert_eq!(woken.0.load(Ordering::Relaxed), 5);
    }
}
