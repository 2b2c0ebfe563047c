//! What is known of one worker and of the seat that it sits in, and how fast a seat is filled again. It holds state and
//! answers questions about it; it causes nothing.

use std::time::Duration;

use crate::error::ErrorKind;
use crate::event::{Leave, WorkerState};
use crate::id::WorkerId;
use crate::sched::End;
use crate::sched::clock::Time;
use crate::sched::held::Held;
use crate::sched::queue::{Link, Linked};

/// The back-off after a seat's second failure in a row; it doubles from there. The first is free.
const BACKOFF: Duration = Duration::from_millis(100);

/// The longest back-off. Shorter wastes more on what does not work; longer notices a repair later.
const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// How long a worker has to be open for its seat's past to be forgotten.
const HEALTHY: Duration = Duration::from_secs(10);

/// How often a pool may replace a worker that went by itself, in the long run: what the [`Bucket`] refills at.
const PERIOD: Duration = Duration::from_secs(1);

/// A worker's place in the pool. It outlives the workers that sit in it.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// Its place among the workers with the same room, if `listed`.
    link: Link,
    /// The level at which it is listed, if it is.
    pub(super) listed: Option<u32>,
    pub(super) worker: Option<Worker>,
    /// When the worker's phase, or the vacant seat's back-off, is over.
    pub(super) due: Option<Time>,
    /// When to see whether the worker is still heard. Set lazily: it stays when the worker is heard or done.
    pub(super) watch: Option<Time>,
    /// How many workers in a row went without having been healthy.
    failures: u32,
    /// Whether the next worker costs nothing, because we took the last one away.
    pub(super) free: bool,
    /// How many workers have sat here, and how many lost ones have been replaced since it was opened.
    pub(super) launches: u32,
    pub(super) restarts: u32,
    /// Whether it was opened anew, and nobody has sat here since.
    pub(super) fresh: bool,
    /// Whether the pool has this place no longer: whoever sits here goes, or works on until a successor has opened.
    pub(super) closed: bool,
}

impl Linked for Vec<Seat> {
    fn link(&self, index: u32) -> &Link {
        &self[index as usize].link
    }

    fn link_mut(&mut self, index: u32) -> &mut Link {
        &mut self[index as usize].link
    }
}

impl Seat {
    /// How long to wait until the place is filled that was closed for a while.
    pub(super) fn wait(&self, seat: u32) -> Duration {
        if self.free || self.launches == 0 { Duration::ZERO } else { back_off(seat, self.failures) }
    }

    /// Counts a worker that went without being asked to, and says how long to wait before the next.
    pub(super) fn back_off(&mut self, seat: u32, now: Time, last: &Worker) -> Duration {
        let old = last.opened.is_some_and(|opened| now.saturating_sub(opened) >= HEALTHY);
        // Whoever has finished a task shows that the place works: then the bucket alone limits the rate.
        if old || last.finished > 0 {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        back_off(seat, self.failures)
    }
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) launched: Time,
    pub(super) phase: Phase,
    /// Why another one is started for it, if one is: it goes when that one has opened.
    pub(super) spent: Option<Leave>,
    /// Why it is to go, if it is: it gets nothing more to do, and goes when it has nothing left.
    pub(super) leave: Option<Leave>,
    /// Whether it was told so.
    pub(super) dismissed: bool,
    /// How many tasks it was ever sent and has not given back.
    pub(super) given: u64,
    /// What it holds.
    pub(super) tasks: Held,
    /// How many recalls it has not answered.
    pub(super) recalls: u32,
    /// How many tasks it was ever sent.
    pub(super) sent: u64,
    /// The last frame, or when it got something to be heard about.
    pub(super) heard: Time,
    /// Whether it was pinged since.
    pub(super) pinged: bool,
    pub(super) opened: Option<Time>,
    /// Whether whoever is started like it fails as it does.
    pub(super) futile: bool,
    /// Whether a task did not stop in time: it gets nothing more to do until that is over, one way or the other.
    pub(super) quarantined: bool,
    /// Whether it got SIGTERM: it gets nothing more to do, and goes when it has nothing left.
    pub(super) terminated: bool,
    /// How many tasks it finished.
    pub(super) finished: u64,
    /// Whether it runs a task that shares it with nobody.
    pub(super) alone: bool,
    /// Whether it may be given tasks, as far as the tree's budget goes.
    pub(super) placed: bool,
    /// When it got its place or lost it.
    pub(super) idle: Time,
}

/// Where a worker is in its life. Each but `Open` has a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Launched.
    Starting,
    /// It greeted.
    Ready,
    /// It takes tasks.
    Open,
    /// It was told to go.
    Leaving,
    /// It said `Bye`; `told`: because it was told to go.
    Parted { told: bool },
    /// Its link ended, its process has not been seen to.
    HungUp,
    /// It was sent SIGKILL.
    Doomed(Cause),
}

/// Why a worker was sent SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It broke the protocol. Nothing that it says counts any more.
    Violation,
    /// It was not heard.
    Silence,
    /// One of its tasks did not stop.
    Ladder,
    /// The pool is being closed.
    Closing,
    /// Its phase took too long.
    Overdue,
}

impl Worker {
    pub(super) fn new(id: WorkerId, now: Time) -> Self {
        Self {
            id,
            launched: now,
            phase: Phase::Starting,
            spent: None,
            leave: None,
            dismissed: false,
            given: 0,
            tasks: Held::default(),
            recalls: 0,
            sent: 0,
            heard: now,
            pinged: false,
            opened: None,
            futile: false,
            quarantined: false,
            terminated: false,
            finished: 0,
            alone: false,
            placed: true,
            idle: now,
        }
    }

    /// Whether it can be given tasks, were there room.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open && !self.terminated && self.leave.is_none()
    }

    pub(super) fn is_doomed(&self) -> bool {
        matches!(self.phase, Phase::Doomed(_))
    }

    /// Whether it is still on the way to its first `Open`, or died on it.
    pub(super) fn is_starting(&self) -> bool {
        self.opened.is_none()
    }

    /// Whether its end was our wish and says nothing about it.
    pub(super) fn was_sent_away(&self) -> bool {
        match self.phase {
            Phase::Doomed(Cause::Violation | Cause::Silence) => false,
            Phase::Doomed(Cause::Ladder | Cause::Closing) | Phase::Leaving | Phase::Parted { told: true } => {
                true
            }
            // Whether its link's end or its own is seen first says nothing about it.
            Phase::HungUp => self.dismissed || self.terminated,
            _ => self.terminated,
        }
    }

    /// What a begun task that nobody stopped resolves to when this worker is lost.
    pub(super) fn blame(&self) -> ErrorKind {
        match self.phase {
            Phase::Doomed(Cause::Violation) => ErrorKind::Protocol,
            Phase::Doomed(Cause::Closing) => ErrorKind::Closed,
            // Whatever came after that signal was our doing.
            _ if self.terminated => ErrorKind::Collateral,
            Phase::Doomed(Cause::Silence) => ErrorKind::Unresponsive,
            Phase::Doomed(Cause::Ladder) => ErrorKind::Collateral,
            _ => ErrorKind::Crashed,
        }
    }

    /// How its time has ended, now that it is gone.
    pub(super) fn end(&self) -> End {
        match self.leave {
            Some(reason) if self.dismissed && self.phase != Phase::Doomed(Cause::Violation) => {
                End::Left(reason)
            }
            _ if self.is_starting() => End::Unstarted,
            _ => End::Lost(self.blame()),
        }
    }

    pub(super) fn state(&self) -> WorkerState {
        match self.phase {
            Phase::Starting => WorkerState::Starting,
            Phase::Ready => WorkerState::Ready,
            Phase::Open if self.is_open() => WorkerState::Open,
            _ => WorkerState::Leaving,
        }
    }
}

/// How long to wait after so many failures in a row: nothing, then 100 ms doubled each time up to 30 s, give or take a
/// fifth so that seats that failed together do not come back together.
pub(super) fn back_off(seat: u32, failures: u32) -> Duration {
    if failures < 2 {
        return Duration::ZERO;
    }
    // 2^9 x 100 ms is past the cap already.
    let nominal = (BACKOFF * (1 << (failures - 2).min(9))).min(BACKOFF_CAP);
    let hash = (u64::from(seat) << 32 | u64::from(failures)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let permille = 800 + (hash % 401) as u32;
    (nominal * permille / 1000).min(BACKOFF_CAP)
}

/// How intensely a pool replaces workers that went by themselves: a burst, then one per [`PERIOD`].
#[derive(Debug)]
pub(super) struct Bucket {
    burst: u32,
    /// When it would be full again if nothing more were taken.
    full: Time,
}

impl Bucket {
    pub(super) fn new(workers: u32) -> Self {
        Self { burst: Self::burst(workers), full: Time::ZERO }
    }

    fn burst(workers: u32) -> u32 {
        workers.saturating_mul(2).max(5)
    }

    pub(super) fn resize(&mut self, workers: u32) {
        self.burst = Self::burst(workers);
    }

    /// Takes one.
    ///
    /// # Errors
    ///
    /// When there is none: how long until there is.
    pub(super) fn take(&mut self, now: Time) -> Result<(), Duration> {
        let full = self.full.max(now) + PERIOD;
        let wait = full.saturating_sub(now).saturating_sub(PERIOD * self.burst);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.full = full;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_cap() {
        assert_eq!(back_off(3, 0), Duration::ZERO);
        assert_eq!(back_off(3, 1), Duration::ZERO);
        for failures in 2..40 {
            let nominal = BACKOFF.as_secs_f64() * 2f64.powi(failures as i32 - 2);
            let wait = back_off(3, failures).as_secs_f64();
            assert!(
                wait >= nominal.min(30.0) * 0.799 && wait <= (nominal * 1.201).min(30.0),
                "{failures}: {wait}"
            );
        }
        let waits: std::collections::BTreeSet<_> = (0..100).map(|seat| back_off(seat, 5)).collect();
        assert!(waits.len() > 50, "seats spread");
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_per_second() {
        let mut bucket = Bucket::new(1);
        let now = Time::from_secs(100);
        for _ in 0..5 {
            assert_eq!(bucket.take(now), Ok(()));
        }
        assert_eq!(bucket.take(now), Err(PERIOD));
        assert_eq!(bucket.take(now + PERIOD / 4), Err(PERIOD * 3 / 4));
        assert_eq!(bucket.take(now + PERIOD), Ok(()));
        assert_eq!(bucket.take(now + PERIOD), Err(PERIOD));
    }
}
