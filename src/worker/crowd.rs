//! The main thread of a worker with several slots: as many tasks at once, each polled when something has woken it and not
//! because another was. It takes the place of the loop in `runtime`, which is for one task at a time and faster at that.
//!
//! ```text
//!        ┌───────────────────────────────── all rest ─────────────────────────────────┐
//!        ▼                                                                            │
//!   look ──cancelled──▶ tell ──▶ step: one that was woken, one that is new ──▶ (flush, let the runtime breathe) ──▶ look
//!     └──over──▶ Bye, exit
//! ```

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as Wake, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::task::coop::has_budget_remaining;
use tokio::task::unconstrained;
use tokio::time::{Sleep, sleep_until};

use super::board::{Bell, Board};
use super::io::Next;
use super::queue::Queued;
use super::reader::Reader;
use super::runtime::{BREATH, BRIEF, GATHER, GATHERED, LONG, PATIENCE, Scene};
use super::turn::{Outcome, Turn, verdict};
use crate::id::TaskId;
use crate::wire::KEPT;
use crate::wire::frame::ToParent;
use crate::wire::payload::Gather;

/// The main thread's own state.
pub(super) struct Crowd<'a> {
    scene: Scene<'a>,
    reader: &'a mut Reader,
    board: Arc<Board>,
    /// By slot; as many as were ever needed at once.
    guests: Vec<Guest>,
    /// The free ones among them. Whichever was used last is used first, since it is warm.
    free: Vec<usize>,
    /// Taken from the board: to be polled, in this order.
    woken: VecDeque<usize>,
    /// Whether there was no task to begin since the link was looked at last.
    dry: bool,
    /// The output of the task that is polled.
    output: Gather,
    /// When the last poll of a task ended.
    now: Instant,
    flushed: Instant,
    /// By task type: whether a poll of the last one took long.
    long: Vec<bool>,
    share: Share,
}

/// A slot, and the task in it.
struct Guest {
    bell: Arc<Bell>,
    waker: Waker,
    stay: Option<Stay>,
}

/// A task that has begun.
struct Stay {
    task: TaskId,
    attempt: u32,
    index: u32,
    turn: Turn,
    /// What each of the tasks had had by then.
    begun: f64,
    /// When it has to be done with cleaning up.
    grace: Option<Pin<Box<Sleep>>>,
}

impl<'a> Crowd<'a> {
    pub(super) fn new(scene: Scene<'a>, reader: &'a mut Reader) -> Self {
        let now = Instant::now();
        let long = vec![false; scene.table.len()];
        Self {
            scene,
            reader,
            board: Arc::default(),
            guests: Vec::new(),
            free: Vec::new(),
            woken: VecDeque::new(),
            dry: false,
            output: Gather::default(),
            now,
            flushed: now,
            long,
            share: Share::new(now),
        }
    }

    pub(super) async fn serve(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// Goes on until nothing can, or until the runtime and what tasks have spawned there should have their turn: after a
    /// while, or when the tasks have spent its budget, which is for all of them together. Whoever was not polled is next.
    fn poll(&mut self, cx: &mut Wake<'_>) -> Poll<()> {
        self.board.attend();
        let since = Instant::now();
        loop {
            let mut moved = self.look(cx);
            if self.free.len() == self.guests.len() && self.scene.shared.lock().is_over() {
                return Poll::Ready(());
            }
            while self.step() {
                moved = true;
                if self.now - since >= BREATH || !has_budget_remaining() {
                    self.flush();
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            // What was answered meanwhile is still to be written, and room to be waited for.
            if !moved && self.board.rest(cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    /// Serves the link and tells tasks that have begun what it says to them. Whether it says anything to them.
    fn look(&mut self, cx: &mut Wake<'_>) -> bool {
        // Never ready: it reads until there is nothing more, so that nobody is heard late.
        let _ = self.reader.poll(cx, |_| false);
        self.now = Instant::now();
        (self.flushed, self.dry) = (self.now, false);
        let (told, gone) = {
            let mut io = self.scene.shared.claim();
            let (told, gone) = (io.running.take_told(), io.is_gone());
            // Nobody waits for those that clean up any more.
            (if gone { io.running.all_told() } else { told }, gone)
        };
        for &(slot, until) in &told {
            self.tell(slot, (!gone).then_some(until));
        }
        !told.is_empty()
    }

    /// A task was cancelled, and it awaits. It is dropped here, unless it has ever asked and has time.
    fn tell(&mut self, slot: usize, until: Option<Instant>) {
        let Guest { stay: Some(stay), waker, .. } = &mut self.guests[slot] else { return };
        if let Some(until) = until.filter(|_| self.scene.shared.slots[slot].asked()) {
            // Polled once more, so that it is the task's waker that the clock will wake.
            stay.grace.get_or_insert_with(|| Box::pin(sleep_until(until.into())));
            waker.wake_by_ref();
        } else {
            let outcome = stay.turn.stop();
            self.now = Instant::now();
            self.answer(slot, outcome, Duration::ZERO);
        }
    }

    /// Polls one that was woken and begins one that is new, so that neither keep the others waiting. Whether there were any.
    fn step(&mut self) -> bool {
        if self.woken.is_empty() {
            self.board.take(&mut self.woken);
        }
        let woken = self.woken.pop_front();
        if let Some(slot) = woken {
            self.resume(slot);
        }
        self.begin() || woken.is_some()
    }

    /// Begins the task that is next, if there is one and a slot for it.
    fn begin(&mut self) -> bool {
        if self.dry {
            return false;
        }
        let Some(slot) = self.vacancy() else { return false };
        match self.scene.shared.begin(slot) {
            Next::Task(queued, turn) => {
                self.free.pop();
                self.receive(slot, queued, turn);
                true
            }
            Next::Wait | Next::Leave => {
                self.dry = true;
                false
            }
        }
    }

    /// A slot that is free.
    fn vacancy(&mut self) -> Option<usize> {
        if self.free.is_empty() && self.guests.len() < self.scene.shared.slots.len() {
            let slot = self.guests.len();
            let bell = Bell::new(slot, &self.board);
            self.guests.push(Guest { waker: Waker::from(Arc::clone(&bell)), bell, stay: None });
            self.free.push(slot);
        }
        self.free.last().copied()
    }

    /// Decodes a task and polls it for the first time.
    fn receive(&mut self, slot: usize, mut queued: Queued, turn: u64) {
        let Queued { task, attempt, index, .. } = queued;
        self.make_way(index);
        let begun = self.share.enter(self.now);
        let stay = Stay { task, attempt, index, turn: Turn::default(), begun, grace: None };
        let stay = self.guests[slot].stay.insert(stay);
        match self.scene.start_queued(slot, &mut stay.turn, &mut queued, turn) {
            Ok(()) => self.resume(slot),
            Err(verdict) => {
                self.now = Instant::now();
                self.answer(slot, Err(verdict), Duration::ZERO);
            }
        }
    }

    /// Polls a task to its next await, and stops it if its grace is over.
    fn resume(&mut self, slot: usize) {
        let guest = &mut self.guests[slot];
        guest.bell.hush();
        let Some(index) = guest.stay.as_ref().map(|stay| stay.index) else { return };
        self.make_way(index);
        let guest = &mut self.guests[slot];
        let Some(stay) = &mut guest.stay else { return };
        let mut wake = Wake::from_waker(&guest.waker);
        self.scene.shared.pulse.beat();
        let mut polled = stay.turn.poll(&mut wake, &mut self.output);
        if let (Poll::Pending, Some(grace)) = (&polled, &mut stay.grace) {
            // The task must not be able to spend the budget of the clock that ends it.
            if pin!(unconstrained(grace.as_mut())).poll(&mut wake).is_ready() {
                polled = Poll::Ready(stay.turn.stop());
            }
        }
        let ended = Instant::now();
        let took = ended - self.now;
        self.now = ended;
        if let Some(long) = self.long.get_mut(index as usize) {
            *long = took > LONG;
        }
        if let Poll::Ready(outcome) = polled {
            self.answer(slot, outcome, took);
        }
    }

    /// Nothing that is known to take long is polled in front of answers that wait to be written.
    fn make_way(&mut self, index: u32) {
        if self.long.get(index as usize) == Some(&true) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let shared = self.scene.shared;
        shared.flush(&mut shared.claim());
        self.flushed = self.now;
    }

    /// Ends a task with its answer; `took`: what its last poll has.
    fn answer(&mut self, slot: usize, outcome: Outcome, took: Duration) {
        let Some(Stay { task, attempt, begun, .. }) = self.guests[slot].stay.take() else { return };
        self.free.push(slot);
        if outcome.is_err() {
            self.output.clear(KEPT);
        }
        let used_us = self.share.leave(self.now, begun).as_micros();
        let used_us = u32::try_from(used_us).unwrap_or(u32::MAX);
        let done = ToParent::Done { task, attempt, used_us, verdict: verdict(outcome) };
        let due = self.now - self.flushed >= if took > BRIEF { PATIENCE } else { GATHER };
        let mut wrote = false;
        self.scene.shared.finish(slot, &done, &mut self.output, |gathered, _| {
            wrote = due || gathered > GATHERED;
            wrote
        });
        if wrote {
            self.flushed = self.now;
        }
        self.output.clear(KEPT);
    }
}

/// What a task has had of its worker: of each moment an equal part, however many there were. All of them together have had
/// all of the time in which there was any, as if they had run one after the other: that is how long the parent expects to
/// wait for as many more.
struct Share {
    /// In seconds, of a task that was always there.
    sum: f64,
    present: u32,
    last: Instant,
}

impl Share {
    fn new(now: Instant) -> Self {
        Self { sum: 0.0, present: 0, last: now }
    }

    fn advance(&mut self, now: Instant) {
        if self.present > 0 {
            self.sum += (now - self.last).as_secs_f64() / f64::from(self.present);
        }
        self.last = now;
    }

    /// One more is there. What it is to say when it leaves.
    fn enter(&mut self, now: Instant) -> f64 {
        self.advance(now);
        self.present += 1;
        self.sum
    }

    /// One leaves, and has had so much.
    fn leave(&mut self, now: Instant, entered: f64) -> Duration {
        self.advance(now);
        self.present -= 1;
        Duration::try_from_secs_f64(self.sum - entered).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_share_the_time_in_which_they_are_there() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut share = Share::new(start);
        let first = share.enter(at(100));
        let second = share.enter(at(110));
        let near =
            |had: Duration, ms: u64| had.abs_diff(Duration::from_millis(ms)) < Duration::from_micros(1);
        assert!(near(share.leave(at(130), second), 10));
        assert!(near(share.leave(at(140), first), 30));
        let third = share.enter(at(1000));
        assert!(near(share.leave(at(1005), third), 5), "idle time counts for nobody");
    }
}
