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

    /// Does it, on the watcher, which must neither die of a panicking waker nor wait for a subscriber's lock.
    pub(super) fn perform_on_behalf(self) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.wake())) {
            std::mem::forget(payload);
        }
    }

    fn wake(self) {
        if let Some(reader) = self.reader {
            reader.wake();
        }
        self.wakers.into_iter().for_each(Waker::wake);
        self.tokens.into_iter().for_each(|token| token.cancel());
        for news in self.news_below {
            self.uplink.iter().for_each(|uplink| uplink.hear(news));
        }
    }
}
