//! Which of many tasks has something to do: each is polled with a waker of its own, which leaves the task's slot here. It
//! polls nobody.
//!
//! ```text
//!  a waker, on any thread ──ring──▶ board ──take──▶ the main thread, which polls these and no others
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// The slots whose task was woken.
#[derive(Debug, Default)]
pub(super) struct Board {
    rung: Mutex<Rung>,
}

#[derive(Debug, Default)]
struct Rung {
    /// In the order in which they were woken, each once.
    slots: Vec<usize>,
    /// Wakes the main thread; none while it looks here anyway. Waking it needlessly would cost a system call.
    main: Option<Waker>,
}

/// One slot's bell. It outlives the slot's tasks: who wakes one that has ended wakes the next for nothing.
#[derive(Debug)]
pub(super) struct Bell {
    slot: usize,
    /// Whether the slot is on the board.
    rung: AtomicBool,
    board: Arc<Board>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main thread looks here until it rests.
    pub(super) fn attend(&self) {
        // Dropped without the lock: it may be the last one of its kind.
        let _main = self.lock().main.take();
    }

    /// Moves what was woken behind what is there.
    pub(super) fn take(&self, slots: &mut VecDeque<usize>) {
        slots.extend(self.lock().slots.drain(..));
    }

    /// The main thread would rest until it is woken. `false` if there is something to be taken.
    pub(super) fn rest(&self, main: &Waker) -> bool {
        let main = main.clone();
        let mut rung = self.lock();
        let may = rung.slots.is_empty();
        if may {
            rung.main = Some(main);
        }
        may
    }
}

impl Bell {
    pub(super) fn new(slot: usize, board: &Arc<Board>) -> Arc<Self> {
        Arc::new(Self { slot, rung: AtomicBool::new(false), board: Arc::clone(board) })
    }

    /// The slot's task is about to be polled: whoever rings from now on is heard anew.
    pub(super) fn hush(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }

    fn ring(&self) {
        if self.rung.swap(true, Ordering::SeqCst) {
            return;
        }
        let main = {
            let mut rung = self.board.lock();
            rung.slots.push(self.slot);
            rung.main.take()
        };
        if let Some(main) = main {
            main.wake();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn taken(board: &Board) -> Vec<usize> {
        let mut slots = VecDeque::new();
        board.take(&mut slots);
        slots.into()
    }

    #[test]
    fn each_slot_is_noted_once_until_it_is_hushed_and_in_the_order_of_ringing() {
        let board = Arc::new(Board::default());
        let bells = [0, 1, 2].map(|slot| Bell::new(slot, &board));
        for slot in [2, 0, 2, 0] {
            bells[slot].ring();
        }
        assert_eq!(taken(&board), [2, 0]);
        bells[0].ring();
        assert_eq!(taken(&board), [], "it was not polled since");
        bells[0].hush();
        bells[0].ring();
        assert_eq!(taken(&board), [0]);
    }

    #[test]
    fn whoever_rests_is_woken_once_and_whoever_attends_is_not() {
        let board = Arc::new(Board::default());
        let bells = [0, 1, 2].map(|slot| Bell::new(slot, &board));
        let count = Arc::new(Count::default());
        let main = Waker::from(Arc::clone(&count));
        assert!(board.rest(&main));
        bells[0].ring();
        bells[1].ring();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(!board.rest(&main), "it rests beside work");
        board.attend();
        bells[2].ring();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(taken(&board), [0, 1, 2]);
    }
}
