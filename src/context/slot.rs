//! The place where a worker's tasks run one after the other, and how a running one is told to stop, whichever thread tells
//! it and whichever asks. It does not know what the tasks are.

use tokio_util::sync::CancellationToken;

// From there, so that `tests/models.rs` can put others in their place and try every order.
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Mutex, PoisonError};

/// A place for a running task, and its cancel flag. Tasks take turns: a flag that is meant for one turn cannot reach the
/// next.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The current turn, times two, plus one when it is to stop. The watcher sets it while the task blocks.
    word: AtomicU64,
    /// The last turn whose task has asked about cancellation. A turn and no flag: a context that outlives its task may
    /// ask for ever and must not speak for the next one.
    asked: AtomicU64,
    /// Made when the task asks for something to wait on.
    token: Mutex<Option<CancellationToken>>,
}

impl Slot {
    /// Begins the next turn and says which it is.
    #[inline]
    pub(crate) fn begin(&self) -> u64 {
        let turn = (self.word.load(Ordering::Relaxed) >> 1) + 1;
        self.word.store(turn << 1, Ordering::Release);
        turn
    }

    /// Ends the current turn: whoever still holds its context reads "cancelled".
    ///
    /// The token, if the turn's task had one, is the caller's to cancel once it has let go of its locks: cancelling wakes
    /// whoever waits, and wakers may be anyone's code.
    #[must_use = "whoever waits for the token waits for ever"]
    #[inline]
    pub(crate) fn end(&self) -> Option<CancellationToken> {
        self.word.fetch_add(2, Ordering::AcqRel);
        self.take()
    }

    /// Tells the current turn's task to stop. Whoever calls this makes sure that it is the turn that is meant.
    ///
    /// The token is as for [`end`](Self::end).
    #[must_use = "whoever waits for the token waits for ever"]
    pub(crate) fn cancel(&self) -> Option<CancellationToken> {
        self.word.fetch_or(1, Ordering::AcqRel);
        self.take()
    }

    /// Whether a turn is to stop, or has ended.
    #[inline]
    pub(crate) fn is_over(&self, turn: u64) -> bool {
        self.word.load(Ordering::Acquire) != turn << 1
    }

    /// A token that is cancelled when the turn is to stop or ends.
    pub(crate) fn token(&self, turn: u64) -> CancellationToken {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock that `cancel` takes after it has set the word: one of the two sees the other.
        if self.is_over(turn) {
            let ended = CancellationToken::new();
            ended.cancel();
            return ended;
        }
        token.get_or_insert_with(CancellationToken::new).clone()
    }

    /// Notes that a turn's task cares about cancellation. Mostly a load: computations ask in their inner loops.
    #[inline]
    pub(crate) fn ask(&self, turn: u64) {
        if self.asked.load(Ordering::Relaxed) < turn {
            self.asked.fetch_max(turn, Ordering::Relaxed);
        }
    }

    /// Whether the current turn's task has ever asked about cancellation.
    #[inline]
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) == self.word.load(Ordering::Relaxed) >> 1
    }

    #[inline]
    fn take(&self) -> Option<CancellationToken> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
