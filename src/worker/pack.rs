//! A pack as the worker runs it: its tasks one after the other, each with an answer of its own, and the rest given back when one of them
//! takes long. Whether it does is seen by the main thread between two of them, and by the watcher within one.

use std::time::Instant;

use super::io::{Io, Shared};
use super::turn::Outcome;
use crate::id::TaskId;
use crate::wire::codec::Unsendable;
use crate::wire::frame::{Pack, ToParent, Verdict};
use crate::wire::pack;
use crate::wire::payload::Gather;

/// How many bytes of answers may gather before the rest is given back: whoever answers at length is not brief.
const LONG: usize = 256 << 10;

/// The pack that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ongoing {
    task: TaskId,
    attempt: u32,
    /// Which task of the link its first is.
    position: u64,
    /// How many of its tasks have begun.
    begun: u32,
    /// How many it has, without those that were given back.
    until: u32,
}

/// How a task of a pack has ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// When the pack began.
    pub(super) began: Instant,
    /// Whether it has run for so long that others should run the rest.
    pub(super) late: bool,
}

/// Which id a task of a pack has.
pub(super) fn id(pack: &Pack, n: u32) -> TaskId {
    TaskId::new(pack.task.serial.wrapping_add(pack.first).wrapping_add(n), pack.task.index)
}

impl Ongoing {
    /// One whose first task begins.
    pub(super) fn new(pack: &Pack, position: u64) -> Self {
        Self { task: pack.task, attempt: pack.attempt, position, begun: 1, until: pack.count }
    }
}

impl Shared {
    /// Ends a task of the pack that runs in a slot, and begins the next one. The turn of that; `None` when the pack is over.
    pub(super) fn next(
        &self,
        slot: usize,
        ended: &Ended,
        body: &mut Gather,
        flush: impl FnOnce(usize) -> bool,
    ) -> Option<u64> {
        let whole = body.small().is_none().then(|| body.take().join());
        let answer = whole.as_deref().or_else(|| body.small()).unwrap_or_default();
        let (turn, token) = {
            let mut io = self.claim();
            let goes_on = io.answer(ended, answer) && io.running.cancelled(slot).is_none() && !io.is_gone();
            let goes_on = goes_on && io.advance();
            if !goes_on {
                io.running.end(slot);
                io.end_pack(ended);
            }
            if flush(io.out.len()) {
                self.flush(&mut io);
            }
            let token = self.slots[slot].end();
            (goes_on.then(|| self.slots[slot].begin()), token)
        };
        self.pulse.beat();
        if let Some(token) = token {
            token.cancel();
        }
        turn
    }
}

impl Io {
    /// Gives back what has not begun of the pack that runs.
    pub(super) fn cut(&mut self) {
        let Some(pack) = self.pack.as_mut().filter(|pack| pack.begun < pack.until) else { return };
        pack.until = pack.begun;
        let cut = ToParent::Cut { task: pack.task, attempt: pack.attempt, from: pack.begun };
        self.say(cut);
    }

    /// Answers a task of the pack, and gives back the rest if this took long or much. `false`: it was stopped, and the pack with it.
    fn answer(&mut self, ended: &Ended, answer: &[u8]) -> bool {
        if self.pack.is_none() || self.has_left() {
            return false;
        }
        match &ended.outcome {
            Ok(()) => self.say_answer(answer),
            Err(verdict) if matches!(**verdict, Verdict::Cancelled { .. }) => return false,
            Err(verdict) => self.say_failure(verdict),
        }
        if ended.late || self.out.len() > LONG {
            self.cut();
        }
        true
    }

    fn say_answer(&mut self, answer: &[u8]) {
        let added = match pack::head(answer.len(), false) {
            Some(head) => self.add_answer(head, answer),
            None => Err(Unsendable::TooLarge { bytes: answer.len(), limit: 0 }),
        };
        if let Err(Unsendable::TooLarge { bytes, .. }) = added {
            self.say_failure(&Verdict::TooLarge { bytes: bytes as u64 });
        }
    }

    #[cold]
    fn say_failure(&mut self, verdict: &Verdict) {
        let verdict = postcard::to_stdvec(verdict).unwrap_or_default();
        if let Some(head) = pack::head(verdict.len(), true) {
            let added = self.add_answer(head, &verdict);
            debug_assert!(added.is_ok(), "{added:?}");
        }
    }

    fn add_answer(&mut self, head: [u8; pack::ANSWER], answer: &[u8]) -> Result<(), Unsendable> {
        let Some(Ongoing { task, attempt, .. }) = &self.pack else { return Ok(()) };
        let frame = || ToParent::Answers { task: *task, attempt: *attempt };
        self.out.add_answer(&self.codec, frame, (head, answer))
    }

    /// Marks the next task of the pack begun, if there is one.
    fn advance(&mut self) -> bool {
        let Some(pack) = self.pack.as_mut().filter(|pack| pack.begun < pack.until) else { return false };
        pack.begun += 1;
        self.out.begun(pack.position + u64::from(pack.begun) - 1);
        true
    }

    fn end_pack(&mut self, ended: &Ended) {
        let Some(pack) = self.pack.take() else { return };
        let verdict = match ended.outcome.as_ref().map_err(|verdict| &**verdict) {
            Err(Verdict::Cancelled { .. }) => Verdict::Cancelled { began: true },
            _ if pack.begun < pack.until => Verdict::Cancelled { began: false },
            _ => Verdict::Returned,
        };
        let used_us = u32::try_from(ended.began.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.say(ToParent::Done { task: pack.task, attempt: pack.attempt, used_us, verdict });
    }
}
