//! What a frame leads to that may not be done under the link's lock: waking is anybody's code. It does not decide what.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use tokio_util::sync::CancellationToken;

use crate::uplink::{News, Uplink};

/// What reading leads to outside the lock.
#[derive(Debug, Default)]
#[must_use = "a cancelled task is not told"]
pub(super) struct Effects {
    pub(super) tokens: Vec<CancellationToken>,
    /// Whether the main thread has to look.
    pub(super) news: bool,
    /// The main thread, if it should look and this is done in its place.
    pub(super) reader: Option<Waker>,
    /// Who waits for credit, if there is some.
    pub(super) wakers: Vec<Waker>,
    pub(super) ignored: usize,
    /// What the parent has said to pools below, and who passes it on.
    pub(super) news_below: Vec<News>,
    pub(super) uplink: Option<Arc<Uplink>>,
}

impl Effects {
    /// Does it, on the main thread.
    pub(super) fn perform(self) {
        if self.ignored > 0 {
            tracing::trace!(frames = self.ignored, "ignored frames that mean nothing to this worker");
        }
        self.wake();
    }

    /// Does it, on the watcher, which must not wait for a subscriber's lock.
    pub(super) fn perform_on_behalf(self) {
        self.wake();
    }

    fn wake(self) {
        if let Some(reader) = self.reader {
            surely(|| reader.wake());
        }
        self.wakers.into_iter().for_each(|waker| surely(|| waker.wake()));
        self.tokens.into_iter().for_each(|token| surely(|| token.cancel()));
        for news in self.news_below {
            self.uplink.iter().for_each(|uplink| surely(|| uplink.hear(news)));
        }
    }
}

/// Wakes somebody. One whose waker panics keeps the news from nobody else, and ends neither the watcher nor the worker.
fn surely(wake: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(wake)) {
        // Its drop may panic again.
        std::mem::forget(payload);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    /// Panics when it is woken for the first time.
    #[derive(Default)]
    struct Shy(AtomicU32);

    impl Wake for Shy {
        fn wake(self: Arc<Self>) {
            let before = self.0.fetch_add(1, Ordering::SeqCst);
            assert!(before > 0, "woken");
        }
    }

    #[test]
    fn a_waker_that_panics_keeps_the_news_from_nobody_else() {
        let (shy, token) = (Arc::<Shy>::default(), CancellationToken::new());
        let wakers = vec![Arc::clone(&shy).into(), Arc::clone(&shy).into()];
        let tokens = vec![token.clone()];
        Effects { wakers, tokens, ..Effects::default() }.perform();
        assert_eq!(shy.0.load(Ordering::SeqCst), 2);
        assert!(token.is_cancelled());
    }
}
