//! How the watcher sees whether the main thread sleeps, moves on or is stuck in user code, at the price of a store per
//! task and nothing at all while the worker is idle. It does not act on it.

// From there, so that `tests/models.rs` can put others in their place and try every order.
use super::atomic::{AtomicBool, AtomicU64, Ordering};
use super::eventfd::{EfdFlags, EventFd};

/// The main thread's epoch and the watcher's bell.
///
/// Only the main thread writes the epoch. It is even while that thread sleeps in its runtime and odd while it runs, and it
/// grows with every task and every poll of one.
///
/// The watcher ticks only while the main thread is active. Going to sleep is a handshake in which each side writes its own
/// word and then reads the other's, all sequentially consistent, so one of the two sees the other:
///
/// ```text
///  main, rising    epoch := odd        watching?  no → watching := true, ring
///  watcher, tired  watching := false   epoch?     moved → watching := true, tick on
/// ```
#[derive(Debug)]
pub(super) struct Pulse {
    epoch: AtomicU64,
    /// Whether the watcher ticks.
    watching: AtomicBool,
    /// Whether the main thread has ended, and the process has not.
    over: AtomicBool,
    bell: EventFd,
}

impl Pulse {
    /// For a main thread that runs and a watcher that ticks.
    ///
    /// # Errors
    ///
    /// When the kernel has no eventfd to give.
    pub(super) fn new() -> nix::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (watching, over) = (AtomicBool::new(true), AtomicBool::new(false));
        Ok(Self { epoch: AtomicU64::new(1), watching, over, bell })
    }

    /// Main thread: it goes to sleep.
    pub(super) fn sleep(&self) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        self.epoch.store((epoch | 1) + 1, Ordering::Relaxed);
    }

    /// Main thread: it has woken up.
    pub(super) fn rise(&self) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        self.epoch.store((epoch + 1) | 1, Ordering::SeqCst);
        if !self.watching.load(Ordering::SeqCst) {
            self.watching.store(true, Ordering::SeqCst);
            self.ring();
        }
    }

    /// Main thread: it has got somewhere.
    pub(super) fn beat(&self) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        self.epoch.store(epoch + 2, Ordering::Relaxed);
    }

    /// Main thread: it ends, and nobody is to watch it any more.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Watcher: whether the main thread has ended.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Watcher: it would stop ticking. Whether it may: not if the main thread has moved since `epoch`.
    pub(super) fn doze(&self, epoch: u64) -> bool {
        self.watching.store(false, Ordering::SeqCst);
        let may = self.epoch() == epoch;
        if !may {
            self.watching.store(true, Ordering::SeqCst);
        }
        may
    }

    /// Wakes the watcher.
    pub(super) fn ring(&self) {
        // Fails only when the count is at its maximum, and then the bell is ringing.
        let _ = self.bell.write(1);
    }

    /// Watcher: stops the bell.
    pub(super) fn hush(&self) {
        let _ = self.bell.read();
    }

    /// What becomes readable when the bell rings.
    pub(super) fn bell(&self) -> &EventFd {
        &self.bell
    }
}

/// Whether the main thread sleeps at this epoch.
pub(super) fn asleep(epoch: u64) -> bool {
    epoch.is_multiple_of(2)
}
