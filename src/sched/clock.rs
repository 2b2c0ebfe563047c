//! Supervised time: the caller's clock minus the time during which this process itself did not run, and the alarms set
//! by it. It does not know what an alarm means, and reads no clock.
//!
//! A parent that was stopped, suspended or blocked wakes up to deadlines that all look expired, although nobody could
//! have answered. So when a call comes more than [`LATE`] after [`Clock::timeout`], the delay does not count, and nothing
//! is due that was not due at the time for which the call was asked: the clock is set back, no table is touched. While an
//! alarm is pending the clock asks to be called every [`BEAT`], which is what a stop can cost at most. However often calls
//! are late, a beat counts for each: time goes slower on a machine that is overrun, and never stands still.
//!
//! Deadlines of tasks are another matter: they lie on the wall's clock, stops included, since whoever set one did not
//! mean "unless we are suspended".

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A point in supervised time: since the first call, without the stops.
pub(super) type Time = Duration;

/// How late a call may come before the delay counts as a stop of this process. Shorter forgives every hiccup of a busy
/// machine and stretches all limits; longer charges more of our own delay to the workers, whose shortest grace by default
/// is a second.
const LATE: Duration = Duration::from_millis(100);

/// How often to be called while an alarm is pending. Shorter wakes the process more often; longer sees stops less
/// exactly.
const BEAT: Duration = Duration::from_millis(100);

/// What can be due. Each has one owner, which remembers when it is due. Alarms of one instant go off in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// The limit of `Shutdown`.
    Limit,
    /// The next probe after starting workers was given up.
    Probe,
    /// The end of what the seat's worker is in; of the back-off, if the seat is vacant.
    Seat(u32),
    /// Time to see whether the seat's worker is still heard.
    Watch(u32),
    /// Time to see whether something has to be recalled.
    Rebalance,
    /// Time to see whether tasks still wait while nobody is idle.
    Pressed,
    /// Time to see whether a pool below has more than it needs, and whether those ask whom the root keeps a place for.
    Look,
    /// The processes below a worker that died count no longer.
    Grief,
    /// The end of the task's timeout, then the next rung of its ladder.
    Task(u32),
}

/// What lies on the wall's clock, and is no reason to be called every beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A task's deadline.
    Task(u32),
    /// The age of workers.
    Age,
    /// Workers that idle.
    Idle,
}

#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The first call.
    epoch: Option<Instant>,
    /// The last one: many calls are of one instant, and nothing is new to the second.
    last: Option<Instant>,
    /// How long this process did not run, all in all.
    stopped: Duration,
    now: Time,
    /// The time since the first call, stops included.
    wall: Time,
    beat: Option<Time>,
    alarms: BTreeSet<(Time, Alarm)>,
    /// On the wall's clock.
    deadlines: BTreeSet<(Time, Due)>,
    /// When the next call has to come, since the last one; told anew only when something that it hangs on is another.
    next: Option<Instant>,
    stale: bool,
}

impl Clock {
    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn wall(&self) -> Time {
        self.wall
    }

    /// Takes in the caller's time; `forgiving`, it does not count the time during which this process did not run. A time
    /// before the last one counts as the last one: callers on several threads may read the clock before they take their
    /// turn.
    pub(super) fn advance(&mut self, now: Instant, forgiving: bool) {
        if self.last == Some(now) {
            return;
        }
        self.last = Some(now);
        let epoch = *self.epoch.get_or_insert(now);
        self.wall = self.wall.max(now.saturating_duration_since(epoch));
        // Nothing is due sooner than the next call has to come.
        if forgiving
            && self.next.is_some_and(|next| next < now)
            && let time = self.wall.saturating_sub(self.stopped)
            && let Some(due) = self.due()
            && time.saturating_sub(due) > LATE
        {
            self.stopped += time - due;
            self.stale = true;
        }
        self.now = self.now.max(self.wall.saturating_sub(self.stopped));
    }

    /// The caller's time as supervised time.
    pub(super) fn at(&self, now: Instant) -> Time {
        let since = self.epoch.map_or(Duration::ZERO, |epoch| now.saturating_duration_since(epoch));
        since.saturating_sub(self.stopped)
    }

    /// Sets an alarm off after so long; `due` is its owner's note, and an earlier setting is replaced.
    pub(super) fn arm(&mut self, alarm: Alarm, due: &mut Option<Time>, after: Duration) {
        self.disarm(alarm, due);
        let at = self.now.saturating_add(after);
        self.stale |= self.alarms.first().is_none_or(|&(first, _)| at < first);
        self.alarms.insert((at, alarm));
        *due = Some(at);
    }

    pub(super) fn disarm(&mut self, alarm: Alarm, due: &mut Option<Time>) {
        if let Some(at) = due.take() {
            self.stale = true;
            self.alarms.remove(&(at, alarm));
        }
    }

    /// Whether anything may be due.
    pub(super) fn strikes(&self) -> bool {
        self.stale || self.next.is_some_and(|next| self.last >= Some(next))
    }

    /// Takes out an alarm that is due. Its owner clears its note.
    pub(super) fn fire(&mut self) -> Option<Alarm> {
        let &(at, _) = self.alarms.first()?;
        if at > self.now {
            return None;
        }
        self.stale = true;
        self.alarms.pop_first().map(|(_, alarm)| alarm)
    }

    /// Sets a time on the wall's clock, which is its owner's to remember.
    pub(super) fn expect(&mut self, at: Time, due: Due) {
        self.stale = true;
        self.deadlines.insert((at, due));
    }

    pub(super) fn forget(&mut self, at: Time, due: Due) {
        self.stale = true;
        self.deadlines.remove(&(at, due));
    }

    /// Takes out what is due on the wall's clock.
    pub(super) fn expire(&mut self) -> Option<Due> {
        let &(at, due) = self.deadlines.first().filter(|&&(at, _)| at <= self.wall)?;
        self.stale = true;
        self.deadlines.remove(&(at, due));
        Some(due)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.stale = true;
        self.alarms.clear();
        self.deadlines.clear();
    }

    /// Ends a call: decides when the next one has to come.
    pub(super) fn rest(&mut self) {
        if self.alarms.is_empty() {
            self.stale |= self.beat.take().is_some();
        } else if self.beat.is_none_or(|beat| beat <= self.now) {
            self.beat = Some(self.now + BEAT);
            self.stale = true;
        }
        if std::mem::take(&mut self.stale) {
            let due = self.due().and_then(|due| due.checked_add(self.stopped));
            let deadline = self.deadlines.first().map(|&(at, _)| at);
            let first = due.into_iter().chain(deadline).min();
            self.next = self.epoch.zip(first).and_then(|(epoch, at)| epoch.checked_add(at));
        }
    }

    /// When the next call has to come at the latest.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.next
    }

    fn due(&self) -> Option<Time> {
        let beat = self.beat?;
        Some(self.alarms.first().map_or(beat, |&(at, _)| at.min(beat)))
    }

    #[cfg(test)]
    pub(super) fn is_set(&self, alarm: Alarm, due: Option<Time>) -> bool {
        due.is_some_and(|at| self.alarms.contains(&(at, alarm)))
    }

    #[cfg(test)]
    pub(super) fn is_expected(&self, at: Time, due: Due) -> bool {
        self.deadlines.contains(&(at, due))
    }

    #[cfg(test)]
    pub(super) fn expected(&self) -> usize {
        self.deadlines.len()
    }

    #[cfg(test)]
    pub(super) fn pending(&self) -> usize {
        self.alarms.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn call(clock: &mut Clock, now: Instant) {
        clock.advance(now, true);
    }

    #[test]
    fn nothing_pending_asks_for_no_call() {
        let mut clock = Clock::default();
        call(&mut clock, Instant::now());
        clock.rest();
        assert_eq!(clock.timeout(), None);
    }

    #[test]
    fn the_delay_of_a_late_call_does_not_count() {
        let start = Instant::now();
        let (mut clock, mut due) = (Clock::default(), None);
        call(&mut clock, start);
        clock.arm(Alarm::Limit, &mut due, 10 * SECOND);
        clock.rest();
        assert_eq!(clock.timeout(), Some(start + BEAT));
        let woken = start + 31 * SECOND;
        call(&mut clock, woken);
        assert_eq!(clock.fire(), None);
        clock.rest();
        let mut last = woken;
        while clock.fire().is_none() {
            last = clock.timeout().unwrap();
            call(&mut clock, last);
            clock.rest();
        }
        let left = 10 * SECOND - BEAT;
        assert!(last - woken >= left && last - woken <= left + BEAT, "{:?}", last - woken);
    }

    #[test]
    fn time_goes_on_however_late_all_calls_are() {
        let start = Instant::now();
        let (mut clock, mut due) = (Clock::default(), None);
        call(&mut clock, start);
        clock.arm(Alarm::Limit, &mut due, SECOND);
        clock.rest();
        for late in 1..100 {
            call(&mut clock, start + late * 10 * BEAT);
            if clock.fire().is_some() {
                assert!((10..=20).contains(&late), "{late} calls");
                return;
            }
            clock.rest();
        }
        panic!("it stands still");
    }

    #[test]
    fn a_call_that_is_a_little_late_pushes_nothing() {
        let start = Instant::now();
        let (mut clock, mut due) = (Clock::default(), None);
        call(&mut clock, start);
        clock.arm(Alarm::Limit, &mut due, BEAT);
        clock.rest();
        call(&mut clock, start + BEAT + LATE);
        assert_eq!(clock.now(), BEAT + LATE);
        assert_eq!(clock.fire(), Some(Alarm::Limit));
    }

    #[test]
    fn deadlines_do_not_wait_for_a_process_that_stood_still() {
        let start = Instant::now();
        let (mut clock, mut due) = (Clock::default(), None);
        call(&mut clock, start);
        clock.arm(Alarm::Limit, &mut due, 10 * SECOND);
        clock.expect(20 * SECOND, Due::Task(7));
        clock.expect(Duration::MAX, Due::Age);
        clock.rest();
        call(&mut clock, start + 30 * SECOND);
        assert_eq!((clock.fire(), clock.expire(), clock.expire()), (None, Some(Due::Task(7)), None));
    }

    #[test]
    fn an_unreachable_limit_is_no_limit() {
        let start = Instant::now();
        let (mut clock, mut due) = (Clock::default(), None);
        call(&mut clock, start);
        clock.arm(Alarm::Limit, &mut due, Duration::MAX);
        clock.rest();
        call(&mut clock, start + SECOND);
        assert_eq!(clock.fire(), None);
    }
}
