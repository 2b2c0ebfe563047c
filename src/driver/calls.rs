//! The table of calls: payloads and reply slots, each from its submission until its answer is fetched. Who runs when is
//! not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Poll, Waker};

use slab::Slab;

use super::options::Leash;
use super::pack::Packed;
use super::report;
use super::stream::Streaming;
use crate::error::{Earlier, Error};
use crate::id::TaskId;
use crate::wire::payload::Payload;

#[derive(Default)]
pub(super) struct Calls {
    calls: Slab<Call>,
    /// Those that are not answered yet and hang on a token, by leash.
    leashed: BTreeSet<(u64, TaskId)>,
    /// How the last attempt has ended of those that are tried again.
    earlier: BTreeMap<TaskId, Earlier>,
    /// Counts submissions.
    serial: u32,
}

struct Call {
    serial: u32,
    /// Position in the workers' table of tasks.
    kind: u32,
    /// Whether it was told that it has a place in the queue.
    placed: bool,
    /// Whether somebody will still ask for the answer.
    wanted: bool,
    phase: Phase,
}

enum Phase {
    /// The input is kept until the answer is there: a task that had not begun when its worker died is sent again.
    Waiting {
        input: Payload,
        waker: Option<Waker>,
        leash: Option<Arc<Leash>>,
    },
    Answered(Result<Payload, Error>),
    /// A stream, from its submission to its end.
    Streaming(Box<Streaming>),
    /// A pack, the same.
    Packed(Box<Packed>),
}

/// The kind of a call that only has a place yet.
pub(super) const UNKNOWN: u32 = u32::MAX;

impl Calls {
    /// Adds a call.
    ///
    /// # Errors
    ///
    /// When there are 2^32 already.
    pub(super) fn insert(
        &mut self,
        kind: u32,
        input: Payload,
        leash: Option<Arc<Leash>>,
        stream: bool,
    ) -> Result<TaskId, Error> {
        let id = leash.as_ref().map(|leash| leash.id);
        let phase = match stream {
            false => Phase::Waiting { input, waker: None, leash },
            true => Phase::Streaming(Box::new(Streaming::new(input, leash))),
        };
        let task = self.add(kind, phase, 1)?;
        if let Some(id) = id {
            self.leashed.insert((id, task));
        }
        Ok(task)
    }

    /// Adds a call for a pack.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert).
    pub(super) fn insert_pack(&mut self, kind: u32, packed: Packed) -> Result<TaskId, Error> {
        let (id, count) = (packed.leash().map(|leash| leash.id), packed.count());
        let task = self.add(kind, Phase::Packed(Box::new(packed)), count)?;
        self.leashed.extend(id.map(|id| (id, task)));
        Ok(task)
    }

    /// Adds a call that takes so many serials.
    fn add(&mut self, kind: u32, phase: Phase, serials: u32) -> Result<TaskId, Error> {
        let serial = self.serial.wrapping_add(1);
        self.serial = self.serial.wrapping_add(serials);
        let index = self.calls.insert(Call { serial, kind, placed: false, wanted: true, phase });
        let Ok(place) = u32::try_from(index) else {
            self.calls.remove(index);
            return Err(report::too_many());
        };
        Ok(TaskId::new(serial, place))
    }

    /// A pack, with its kind.
    pub(super) fn packed(&self, task: TaskId) -> Option<(u32, &Packed)> {
        match self.get(task) {
            Some(Call { kind, phase: Phase::Packed(packed), .. }) => Some((*kind, packed)),
            _ => None,
        }
    }

    pub(super) fn packed_mut(&mut self, task: TaskId) -> Option<&mut Packed> {
        match self.get_mut(task) {
            Some(Call { phase: Phase::Packed(packed), .. }) => Some(packed),
            _ => None,
        }
    }

    /// Adds a call for what a pack has from the task at `at` on; `None` if that is nothing, or all.
    pub(super) fn tail(&mut self, task: TaskId, at: u32) -> Option<TaskId> {
        let (kind, packed) = self.packed(task)?;
        let tail = packed.tail(at)?;
        let (wanted, placed) = self.get(task).map(|call| (call.wanted, call.placed))?;
        let rest = self.insert_pack(kind, tail).ok()?;
        if let Some(call) = self.get_mut(rest) {
            (call.wanted, call.placed) = (wanted, placed);
        }
        Some(rest)
    }

    /// The kind of a call. Ids come from workers too: any value is fine.
    pub(super) fn kind(&self, task: TaskId) -> Option<u32> {
        self.get(task).map(|call| call.kind)
    }

    /// The kind and input of a call that has not been answered.
    pub(super) fn input(&self, task: TaskId) -> Option<(u32, &Payload)> {
        match self.get(task) {
            Some(Call { kind, phase: Phase::Waiting { input, .. }, .. }) => Some((*kind, input)),
            Some(Call { kind, phase: Phase::Streaming(stream), .. }) => Some((*kind, stream.input()?)),
            _ => None,
        }
    }

    /// Says what a place is used for, unless that call is answered already.
    pub(super) fn redeem(&mut self, task: TaskId, kind: u32, payload: Payload, stream: bool) -> bool {
        let Some(call) = self.get_mut(task) else { return false };
        let waits = match &mut call.phase {
            Phase::Waiting { input, .. } if !stream => {
                *input = payload;
                true
            }
            Phase::Waiting { leash, .. } => {
                call.phase = Phase::Streaming(Box::new(Streaming::new(payload, leash.take())));
                true
            }
            // A stream's answer is where its reader looks for it.
            Phase::Answered(answer) if stream => {
                let answer = std::mem::replace(answer, Ok(Payload::new()));
                let mut over = Streaming::new(Payload::new(), None);
                drop(over.end(answer));
                call.phase = Phase::Streaming(Box::new(over));
                false
            }
            Phase::Answered(_) | Phase::Streaming(_) | Phase::Packed(_) => false,
        };
        if waits {
            call.kind = kind;
        }
        waits
    }

    /// Notes that a call has a place in the queue. The waker that is given back is to be woken when the lock is free.
    pub(super) fn place(&mut self, task: TaskId) -> Option<Waker> {
        let call = self.get_mut(task)?;
        call.placed = true;
        match &mut call.phase {
            Phase::Waiting { waker, .. } => waker.take(),
            Phase::Packed(packed) => packed.take_waker(),
            Phase::Answered(_) | Phase::Streaming(_) => None,
        }
    }

    pub(super) fn is_placed(&self, task: TaskId) -> bool {
        self.get(task).is_some_and(|call| call.placed)
    }

    /// Asks for a place in the queue; `false`: there is an answer instead. The other waker is as in `poll`.
    pub(super) fn poll_place(&mut self, task: TaskId, new: Waker) -> (Poll<bool>, Option<Waker>) {
        match self.get_mut(task) {
            Some(Call { placed: false, phase: Phase::Waiting { waker, .. }, .. }) => {
                (Poll::Pending, waker.replace(new))
            }
            Some(Call { placed: false, phase: Phase::Packed(packed), .. }) if !packed.is_over() => {
                (Poll::Pending, packed.replace_waker(Some(new)))
            }
            call => (Poll::Ready(call.is_some_and(|call| call.placed)), Some(new)),
        }
    }

    /// Notes how an attempt has ended that is not the last.
    pub(super) fn note(&mut self, task: TaskId, error: &Error) {
        if self.get(task).is_some() {
            self.earlier.insert(task, Earlier::from(error));
        }
    }

    /// Adds to an error what was noted of the attempt before; the call is answered with that.
    pub(super) fn with_earlier(
        &mut self,
        task: TaskId,
        answer: Result<Payload, Error>,
    ) -> Result<Payload, Error> {
        if self.earlier.is_empty() {
            return answer;
        }
        let earlier = self.earlier.remove(&task);
        answer.map_err(|error| error.with(|report| report.earlier = earlier))
    }

    /// Answers a call. The waker that is given back is to be woken when the lock is free, and the input dropped then.
    pub(super) fn answer(
        &mut self,
        task: TaskId,
        answer: Result<Payload, Error>,
    ) -> (Option<Waker>, Option<Payload>) {
        let Some(call) = self.get_mut(task) else { return (None, None) };
        let wanted = call.wanted;
        let (waker, leash, input) = match &mut call.phase {
            Phase::Streaming(stream) => stream.end(answer),
            Phase::Packed(packed) => {
                let (waker, leash) = packed.end(answer);
                (waker, leash, Payload::new())
            }
            phase => match std::mem::replace(phase, Phase::Answered(answer)) {
                Phase::Waiting { waker, leash, input } => (waker, leash, input),
                Phase::Answered(_) | Phase::Streaming(_) | Phase::Packed(_) => (None, None, Payload::new()),
            },
        };
        if !wanted {
            self.calls.remove(task.slot());
        }
        if let Some(leash) = leash {
            self.leashed.remove(&(leash.id, task));
        }
        // Few bytes are a copy of our own.
        (waker, input.small().is_none().then_some(input))
    }

    /// A stream that somebody will read.
    pub(super) fn stream(&mut self, task: TaskId) -> Option<&mut Streaming> {
        match self.get_mut(task) {
            Some(Call { phase: Phase::Streaming(stream), wanted: true, .. }) => Some(stream),
            _ => None,
        }
    }

    /// Whether it is a stream's call.
    pub(super) fn is_stream(&self, task: TaskId) -> bool {
        matches!(self.get(task), Some(Call { phase: Phase::Streaming(_), .. }))
    }

    /// Forgets a call that nobody will ask for again.
    pub(super) fn remove(&mut self, task: TaskId) {
        if self.get(task).is_some()
            && let Phase::Packed(packed) = self.calls.remove(task.slot()).phase
            && let Some(leash) = packed.leash()
        {
            self.leashed.remove(&(leash.id, task));
        }
    }

    /// Takes an answer that is there; then the call is forgotten.
    pub(super) fn take(&mut self, task: TaskId) -> Option<Result<Payload, Error>> {
        if !matches!(self.get(task)?.phase, Phase::Answered(_)) {
            return None;
        }
        match self.calls.remove(task.slot()).phase {
            Phase::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// Asks for an answer; once ready, the call is forgotten. The waker that is given back is to be dropped when the lock
    /// is free: with some executors it is the last thing that holds its task, and with it perhaps another `Run`.
    pub(super) fn poll(&mut self, task: TaskId, new: Waker) -> (Poll<Result<Payload, Error>>, Option<Waker>) {
        let Some(call) = self.get_mut(task) else { return (Poll::Ready(Err(report::closed())), Some(new)) };
        if let Phase::Waiting { waker, .. } = &mut call.phase {
            return (Poll::Pending, waker.replace(new));
        }
        match self.calls.remove(task.slot()).phase {
            Phase::Answered(answer) => (Poll::Ready(answer), Some(new)),
            Phase::Waiting { .. } | Phase::Streaming(_) | Phase::Packed(_) => {
                (Poll::Ready(Err(report::closed())), Some(new))
            }
        }
    }

    /// Notes that nobody will ask for the answer. Whether there is still something to cancel, and what is to be dropped as
    /// in `poll`: a waker, or all of a stream.
    pub(super) fn release(&mut self, task: TaskId) -> (bool, (Option<Waker>, Option<Box<Streaming>>)) {
        let Some(call) = self.get_mut(task) else { return (false, (None, None)) };
        call.wanted = false;
        match &mut call.phase {
            Phase::Waiting { waker, .. } => return (true, (waker.take(), None)),
            Phase::Streaming(stream) if !stream.is_over() => {
                return (true, (None, Some(Box::new(stream.abandon()))));
            }
            Phase::Packed(packed) if !packed.is_over() => return (true, (packed.take_waker(), None)),
            Phase::Answered(_) | Phase::Streaming(_) | Phase::Packed(_) => {}
        }
        match self.calls.remove(task.slot()).phase {
            Phase::Streaming(stream) => (false, (None, Some(stream))),
            Phase::Answered(_) | Phase::Waiting { .. } | Phase::Packed(_) => (false, (None, None)),
        }
    }

    /// The calls on a leash that are not answered yet.
    pub(super) fn leashed(&self, leash: u64) -> Vec<TaskId> {
        let (least, most) = (TaskId::new(0, 0), TaskId::new(u32::MAX, u32::MAX));
        self.leashed.range((leash, least)..=(leash, most)).map(|&(_, task)| task).collect()
    }

    fn get(&self, task: TaskId) -> Option<&Call> {
        self.calls.get(task.slot()).filter(|call| call.serial == task.serial)
    }

    fn get_mut(&mut self, task: TaskId) -> Option<&mut Call> {
        self.calls.get_mut(task.slot()).filter(|call| call.serial == task.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_waits_is_small() {
        // As large as an entry of the slab: what that adds has room in it.
        let size = size_of::<Option<Call>>();
        assert!(size <= 64, "{size} bytes");
    }

    #[test]
    fn h6_serials_go_on_behind_the_last_one() {
        let mut calls = Calls { serial: u32::MAX - 3, ..Calls::default() };
        let tasks: Vec<TaskId> =
            (0..8).map(|_| calls.insert(0, Payload::default(), None, false).unwrap()).collect();
        for (n, task) in tasks.iter().enumerate() {
            assert!(calls.get(*task).is_some() && !tasks[..n].contains(task), "{task:?}");
        }
        calls.release(tasks[4]);
        assert_eq!(tasks[4].serial, 1, "0 comes behind the last one");
    }
}
