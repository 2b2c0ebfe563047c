//! The headers of the frames that nearly all traffic consists of, written and read by hand: the same bytes as by serde, in a
//! fraction of the instructions. Whatever is out of the ordinary is left to serde.

use super::frame::{Run, ToParent, ToWorker, Verdict};
use crate::id::TaskId;

/// The positions of the frames in their enums, which is what they begin with.
const RUN: u8 = 1;
const ITEM: u8 = 4;
const DONE: u8 = 5;

/// The position of `Verdict::Returned`.
const RETURNED: u8 = 0;

/// What an option begins with that is `None`, and one that is not.
const NONE: u8 = 0;
const SOME: u8 = 1;

/// Room for the longest header that is written here.
pub(crate) struct Header {
    bytes: [u8; Self::ROOM],
    length: usize,
}

impl Header {
    const ROOM: usize = 48;

    /// Begins with so many zeros.
    pub(crate) fn behind(zeros: usize) -> Self {
        Self { bytes: [0; Self::ROOM], length: zeros }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length.min(Self::ROOM)]
    }

    /// Seven bits in each byte, the lowest first; the eighth says whether there are more.
    #[inline]
    fn number(&mut self, value: u32) {
        let more = |shift: u32| (value >> shift) as u8 | 0x80;
        let last = |shift: u32| (value >> shift) as u8;
        match value {
            ..0x80 => self.append([last(0)]),
            0x80..0x4000 => self.append([more(0), last(7)]),
            0x4000..0x20_0000 => self.append([more(0), more(7), last(14)]),
            0x20_0000..0x1000_0000 => self.append([more(0), more(7), more(14), last(21)]),
            _ => self.append([more(0), more(7), more(14), more(21), last(28)]),
        }
    }

    #[inline]
    fn append<const N: usize>(&mut self, bytes: [u8; N]) {
        // There is always room.
        if let Some(room) = self.bytes.get_mut(self.length..self.length + N) {
            room.copy_from_slice(&bytes);
            self.length += N;
        }
    }

    #[inline]
    fn task(&mut self, task: TaskId, attempt: u32) {
        self.number(task.serial);
        self.number(task.index);
        self.number(attempt);
    }

    /// Whether it could be written.
    #[inline]
    pub(super) fn put_to_worker(&mut self, frame: &ToWorker) -> bool {
        let ToWorker::Run(Run { task, attempt, index, remaining_us, trace: None }) = *frame else {
            return false;
        };
        self.append([RUN]);
        self.task(task, attempt);
        self.number(index);
        match remaining_us {
            None => self.append([NONE, NONE]),
            Some(mut left) => {
                self.append([SOME]);
                while left > 0x7f {
                    self.append([left as u8 | 0x80]);
                    left >>= 7;
                }
                self.append([left as u8, NONE]);
            }
        }
        true
    }

    /// Whether it could be written.
    #[inline]
    pub(super) fn put_to_parent(&mut self, frame: &ToParent) -> bool {
        match *frame {
            ToParent::Done { task, attempt, used_us, verdict: Verdict::Returned } => {
                self.append([DONE]);
                self.task(task, attempt);
                self.number(used_us);
                self.append([RETURNED]);
            }
            ToParent::Item { task, attempt } => {
                self.append([ITEM]);
                self.task(task, attempt);
            }
            _ => return false,
        }
        true
    }
}

/// A frame, and what comes behind its header.
#[inline]
pub(super) fn take_to_worker(bytes: &[u8]) -> Option<(ToWorker, &[u8])> {
    let (&RUN, mut rest) = bytes.split_first()? else { return None };
    let rest = &mut rest;
    let (task, attempt) = task(rest)?;
    let index = number(rest)?;
    let (&some, mut rest) = rest.split_first()?;
    let remaining_us = match some {
        NONE => None,
        SOME => Some(long(&mut rest)?),
        _ => return None,
    };
    let (&NONE, rest) = rest.split_first()? else { return None };
    Some((ToWorker::Run(Run { task, attempt, index, remaining_us, trace: None }), rest))
}

/// The same of what a worker says.
#[inline]
pub(super) fn take_to_parent(bytes: &[u8]) -> Option<(ToParent, &[u8])> {
    let (&which, mut rest) = bytes.split_first()?;
    if which != DONE && which != ITEM {
        return None;
    }
    let (task, attempt) = task(&mut rest)?;
    if which == ITEM {
        return Some((ToParent::Item { task, attempt }, rest));
    }
    let used_us = number(&mut rest)?;
    let (&RETURNED, rest) = rest.split_first()? else { return None };
    Some((ToParent::Done { task, attempt, used_us, verdict: Verdict::Returned }, rest))
}

#[inline]
fn task(bytes: &mut &[u8]) -> Option<(TaskId, u32)> {
    let serial = number(bytes)?;
    let index = number(bytes)?;
    Some((TaskId { serial, index }, number(bytes)?))
}

#[inline]
fn number(bytes: &mut &[u8]) -> Option<u32> {
    let bits = |byte: u8, shift: u32| u32::from(byte & 0x7f) << shift;
    let (value, rest) = match **bytes {
        [a @ ..0x80, ref rest @ ..] => (a.into(), rest),
        [a, b @ ..0x80, ref rest @ ..] => (bits(a, 0) | bits(b, 7), rest),
        [a, b, c @ ..0x80, ref rest @ ..] => (bits(a, 0) | bits(b, 7) | bits(c, 14), rest),
        [a, b, c, d @ ..0x80, ref rest @ ..] => (bits(a, 0) | bits(b, 7) | bits(c, 14) | bits(d, 21), rest),
        // What is too large is serde's to refuse.
        [a, b, c, d, e @ ..0x10, ref rest @ ..] => {
            (bits(a, 0) | bits(b, 7) | bits(c, 14) | bits(d, 21) | bits(e, 28), rest)
        }
        _ => return None,
    };
    *bytes = rest;
    Some(value)
}

/// A number of up to 63 bits.
#[inline]
fn long(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for at in 0..9 {
        let byte = *bytes.get(at)?;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers around every change of length.
    fn numbers() -> impl Iterator<Item = u32> {
        (0..32).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1]).chain([u32::MAX])
    }

    #[test]
    fn by_hand_it_is_what_serde_makes_of_it() {
        let mut seen = 0;
        for (serial, index) in numbers().zip(numbers().skip(7)) {
            for (attempt, other) in [(0, index), (serial, 127), (128, u32::MAX)] {
                let task = TaskId { serial, index };
                let long = u64::from(serial);
                for remaining_us in [None, Some(0), Some(long), Some(long << 31), Some(u64::MAX)] {
                    let run = Run { task, attempt, index: other, remaining_us, trace: None };
                    let frame = ToWorker::Run(run);
                    let mut bytes = postcard::to_stdvec(&frame).unwrap();
                    let mut header = Header::behind(4);
                    assert!(header.put_to_worker(&frame));
                    assert_eq!(header.bytes(), [&[0; 4], &bytes[..]].concat());
                    bytes.extend(b"body");
                    let taken = take_to_worker(&bytes);
                    let brief = remaining_us != Some(u64::MAX);
                    assert_eq!(taken, brief.then_some((frame, &b"body"[..])));
                }
                let done = ToParent::Done { task, attempt, used_us: other, verdict: Verdict::Returned };
                for frame in [done, ToParent::Item { task, attempt }] {
                    let mut bytes = postcard::to_stdvec(&frame).unwrap();
                    let mut header = Header::behind(0);
                    assert!(header.put_to_parent(&frame));
                    assert_eq!(header.bytes(), bytes);
                    bytes.extend(b"body");
                    assert_eq!(take_to_parent(&bytes), Some((frame, &b"body"[..])));
                    seen += 1;
                }
            }
        }
        assert!(seen > 500, "{seen}");
    }

    #[test]
    fn what_is_read_by_hand_is_read_alike_by_serde() {
        let (mut state, mut read) = (1_u64, [0; 2]);
        let mut random = || {
            // A linear congruential generator with Knuth's constants for MMIX.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        for _ in 0..200_000 {
            let mut bytes: Vec<u8> = (0..random() % 32).map(|_| random() & random()).collect();
            if let Some(first) = bytes.first_mut() {
                *first = [RUN, ITEM, DONE][usize::from(random() % 3)];
            }
            if let Some(taken) = take_to_parent(&bytes) {
                assert_eq!(postcard::take_from_bytes(&bytes), Ok(taken), "{bytes:?}");
                read[0] += 1;
            }
            if let Some(taken) = take_to_worker(&bytes) {
                assert_eq!(postcard::take_from_bytes(&bytes), Ok(taken), "{bytes:?}");
                read[1] += 1;
            }
        }
        assert!(read.iter().all(|read| *read > 100), "{read:?}");
    }

    #[test]
    fn what_is_torn_or_strange_is_left_to_serde() {
        let task = TaskId { serial: 300, index: 70_000 };
        let done = ToParent::Done { task, attempt: 1, used_us: 5, verdict: Verdict::Returned };
        let bytes = postcard::to_stdvec(&done).unwrap();
        (0..bytes.len()).for_each(|end| assert_eq!(take_to_parent(&bytes[..end]), None, "{end}"));
        let verdict = Verdict::Cancelled { began: true };
        let stopped = ToParent::Done { task, attempt: 1, used_us: 5, verdict };
        assert!(!Header::behind(0).put_to_parent(&stopped));
        assert_eq!(take_to_parent(&postcard::to_stdvec(&stopped).unwrap()), None);
        let trace = Some((1, 2, 3));
        let traced = ToWorker::Run(Run { task, attempt: 1, index: 0, remaining_us: None, trace });
        assert!(!Header::behind(0).put_to_worker(&traced));
        assert_eq!(take_to_worker(&postcard::to_stdvec(&traced).unwrap()), None);
        // 2^32, and a number that does not end.
        for number in [&[0x80, 0x80, 0x80, 0x80, 0x10][..], &[0xff; 6]] {
            let bytes = [&[ITEM], number, &[0, 0]].concat();
            assert_eq!(take_to_parent(&bytes), None);
            assert!(postcard::take_from_bytes::<ToParent>(&bytes).is_err());
        }
    }
}
