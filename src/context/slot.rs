//! The place where a worker's tasks run one after the other, and how a running one is told to stop, whichever thread tells
//! it and whichever asks. It does not know what the tasks are.

use tokio_util::sync::CancellationToken;

// From there, so that `tests/models.rs` can put others in their place and try every order.
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Mutex, PoisonError};

/// The turn is to stop.
const STOP: u64 = 1;

/// The turn's task has asked for a token. In the word, so that whoever ends a turn or tells it to stop, which changes the word,
/// sees in the same step whether there is a token to be taken: there is none as a rule, and its lock costs more than all else.
const TOKEN: u64 = 2;

/// How far up in the word the turn is.
const TURN: u32 = 2;

/// A place for a running task, and its cancel flag. Tasks take turns: a flag that is meant for one turn cannot reach the
/// next.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The current turn, and in its lowest bits [`STOP`] and [`TOKEN`]. The watcher sets it while the task blocks.
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
        let turn = (self.word.load(Ordering::Relaxed) >> TURN) + 1;
        self.word.store(turn << TURN, Ordering::Release);
        turn
    }

    /// Ends the current turn: whoever still holds its context reads "cancelled".
    ///
    /// The token, if the turn's task had one, is the caller's to cancel once it has let go of its locks: cancelling wakes
    /// whoever waits, and wakers may be anyone's code.
    #[must_use = "whoever waits for the token waits for ever"]
    #[inline]
    pub(crate) fn end(&self) -> Option<CancellationToken> {
        let word = self.word.fetch_add(1 << TURN, Ordering::AcqRel);
        self.take(word)
    }

    /// Tells the current turn's task to stop. Whoever calls this makes sure that it is the turn that is meant.
    ///
    /// The token is as for [`end`](Self::end).
    #[must_use = "whoever waits for the token waits for ever"]
    pub(crate) fn cancel(&self) -> Option<CancellationToken> {
        let word = self.word.fetch_or(STOP, Ordering::AcqRel);
        self.take(word)
    }

    /// Whether a turn is to stop, or has ended.
    #[inline]
    pub(crate) fn is_over(&self, turn: u64) -> bool {
        !goes_on(self.word.load(Ordering::Acquire), turn)
    }

    /// A token that is cancelled when the turn is to stop or ends.
    pub(crate) fn token(&self, turn: u64) -> CancellationToken {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        // Noted in one step with seeing that the turn goes on: whoever ends it or tells it to stop has either done so before, or
        // finds the note and waits for the lock.
        let noted = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            goes_on(word, turn).then_some(word | TOKEN)
        });
        if noted.is_err() {
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
        self.asked.load(Ordering::Relaxed) == self.word.load(Ordering::Relaxed) >> TURN
    }

    /// The token of the turn that was current when the word was this.
    #[inline]
    fn take(&self, word: u64) -> Option<CancellationToken> {
        if word & TOKEN == 0 {
            return None;
        }
        self.token.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whether a turn is the one of this word, and is not to stop.
#[inline]
fn goes_on(word: u64, turn: u64) -> bool {
    word & !TOKEN == turn << TURN
}
