//! The handshakes that are made by hand of atomics, in every order in which two threads can go through them: the very files
//! of `src`, with loom's atomics and locks in place of the standard library's.

#[path = "../src/worker/pulse.rs"]
mod pulse;
#[path = "../src/context/slot.rs"]
mod slot;

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;
use pulse::{Pulse, asleep};
use slot::Slot;

/// What `slot` finds beside it.
mod sync {
    pub(crate) use std::sync::PoisonError;

    pub(crate) use loom::sync::{Mutex, atomic};
}

/// What `pulse` finds beside it. Loom knows one order of all threads for fences only, so a fence follows where a store is to
/// be in that order; that is also how processors do it.
mod atomic {
    pub(crate) use loom::sync::atomic::Ordering;

    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug)]
            pub(crate) struct $name(loom::sync::atomic::$name);

            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    self.0.load(order)
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    self.0.store(value, order);
                    if order == Ordering::SeqCst {
                        loom::sync::atomic::fence(order);
                    }
                }
            }
        };
    }

    atomic!(AtomicBool, bool);
    atomic!(AtomicU64, u64);
}

/// What `pulse` finds beside it: a bell that can be waited for.
mod eventfd {
    use loom::sync::{Condvar, Mutex};

    pub(crate) struct EfdFlags;

    impl EfdFlags {
        pub(crate) const EFD_CLOEXEC: u8 = 1;
        pub(crate) const EFD_NONBLOCK: u8 = 2;
    }

    #[derive(Debug)]
    pub(crate) struct EventFd {
        rings: Mutex<u64>,
        rung: Condvar,
    }

    impl EventFd {
        pub(crate) fn from_flags(_: u8) -> nix::Result<Self> {
            Ok(Self { rings: Mutex::new(0), rung: Condvar::new() })
        }

        pub(crate) fn write(&self, n: u64) -> nix::Result<usize> {
            *self.rings.lock().unwrap() += n;
            self.rung.notify_all();
            Ok(8)
        }

        pub(crate) fn read(&self) -> nix::Result<u64> {
            match std::mem::take(&mut *self.rings.lock().unwrap()) {
                0 => Err(nix::errno::Errno::EAGAIN),
                rings => Ok(rings),
            }
        }

        /// As `poll` does.
        pub(crate) fn wait(&self) {
            let mut rings = self.rings.lock().unwrap();
            while *rings == 0 {
                rings = self.rung.wait(rings).unwrap();
            }
        }
    }
}

/// Goes through every order in which threads may be interrupted up to three times.
fn every_order(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// The watcher of `pulse`, until it finds the main thread running at this epoch or later. Loom tells when nobody ever wakes it.
fn watch(pulse: &Pulse, last: u64) {
    loop {
        let epoch = pulse.epoch();
        if pulse.is_over() || epoch >= last && !asleep(epoch) {
            return;
        }
        if asleep(epoch) && pulse.doze(epoch) {
            pulse.bell().wait();
            pulse.hush();
        }
        thread::yield_now();
    }
}

#[test]
fn k5_no_rise_of_the_main_thread_is_missed_by_a_watcher_that_goes_to_sleep() {
    every_order(|| {
        let pulse = Arc::new(Pulse::new().unwrap());
        let watcher = {
            let pulse = Arc::clone(&pulse);
            thread::spawn(move || watch(&pulse, 3))
        };
        pulse.sleep();
        pulse.rise();
        pulse.beat();
        // From here on it is stuck in user code; were that missed, nobody would read the link.
        watcher.join().unwrap();
    });
}

#[test]
fn k5_a_watcher_that_is_called_back_wakes_up_for_the_next_rise_as_well() {
    every_order(|| {
        let pulse = Arc::new(Pulse::new().unwrap());
        let watcher = {
            let pulse = Arc::clone(&pulse);
            thread::spawn(move || watch(&pulse, 5))
        };
        for _ in 0..2 {
            pulse.sleep();
            pulse.rise();
        }
        watcher.join().unwrap();
    });
}

#[test]
fn k5_the_end_of_the_main_thread_is_heard_by_a_watcher_that_goes_to_sleep() {
    every_order(|| {
        let pulse = Arc::new(Pulse::new().unwrap());
        let watcher = {
            let pulse = Arc::clone(&pulse);
            thread::spawn(move || watch(&pulse, u64::MAX))
        };
        pulse.sleep();
        pulse.end();
        watcher.join().unwrap();
    });
}

#[test]
fn k5_a_cancel_reaches_whoever_asks_for_a_token_at_that_moment() {
    every_order(|| {
        let slot = Arc::new(Slot::default());
        let turn = slot.begin();
        let canceller = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || {
                if let Some(token) = slot.cancel() {
                    token.cancel();
                }
            })
        };
        slot.ask(turn);
        let token = slot.token(turn);
        canceller.join().unwrap();
        assert!(token.is_cancelled() && slot.is_over(turn) && slot.token(turn).is_cancelled());
        assert!(slot.asked());
    });
}

#[test]
fn k5_who_outlives_its_turn_reads_cancelled_and_does_not_speak_for_the_next() {
    every_order(|| {
        let slot = Arc::new(Slot::default());
        let first = slot.begin();
        let outlives = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || {
                slot.ask(first);
                slot.token(first)
            })
        };
        if let Some(token) = slot.end() {
            token.cancel();
        }
        let second = slot.begin();
        assert!(!slot.asked());
        slot.ask(second);
        let own = slot.token(second);
        let token = outlives.join().unwrap();
        assert!(token.is_cancelled() && slot.is_over(first));
        assert!(!own.is_cancelled() && !slot.is_over(second) && slot.asked());
        // Its token is known, whatever the other has asked meanwhile.
        if let Some(token) = slot.end() {
            token.cancel();
        }
        assert!(own.is_cancelled());
    });
}

#[test]
fn k5_tokens_that_are_asked_for_by_several_at_once_are_cancelled_with_their_turn_and_leave_nothing_to_the_next()
 {
    every_order(|| {
        let slot = Arc::new(Slot::default());
        let turn = slot.begin();
        let askers = [0; 2].map(|_| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.token(turn))
        });
        // A cancel and an end are never at the same time: both are under the link's lock.
        for token in [slot.cancel(), slot.end()].into_iter().flatten() {
            token.cancel();
        }
        let next = slot.begin();
        assert!(!slot.is_over(next));
        for asker in askers {
            assert!(asker.join().unwrap().is_cancelled());
        }
        assert!(slot.end().is_none(), "nobody has asked in this turn");
    });
}
