//! Bulk on its way: through the memory that both ends share where there is room in it, else as it is. Copies are made
//! slice by slice, so that whoever makes them can do other things in between; nothing is decided here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;

use crate::arena::{Arena, Inward, Outward};
use crate::blob;
use crate::wire::codec::Violation;
use crate::wire::frame::Placed;
use crate::wire::payload::Payload;

/// How much is copied at once: some 100 us. Less costs turns of the runtime, more delays its other tasks.
pub(crate) const SLICE: usize = 1 << 20;

/// The most places in one message. What is more goes as it is.
const PLACES: usize = 4096;

/// A body that leaves.
pub(crate) struct Departure {
    pieces: vec::IntoIter<Bytes>,
    current: Option<Inward>,
    /// What is there, and where in the rest it belongs. The other side does not know of it yet.
    copied: Vec<(u32, Inward)>,
    /// What goes as it is, and how long that is so far.
    rest: Vec<Bytes>,
    length: usize,
}

impl Departure {
    pub(crate) fn new(body: &Payload) -> Self {
        let pieces = body.pieces().to_vec().into_iter();
        Self { pieces, current: None, copied: Vec::new(), rest: Vec::new(), length: 0 }
    }

    /// Copies at most so many bytes. Whether all are where they belong.
    pub(crate) fn step(&mut self, arena: Option<&Arc<Arena>>, mut most: usize) -> bool {
        loop {
            if let Some(mut inward) = self.current.take() {
                match inward.step(most) {
                    Ok(false) => {
                        self.current = Some(inward);
                        return false;
                    }
                    Ok(true) => {
                        most = most.saturating_sub(inward.len());
                        // Within u32: bodies are limited.
                        self.copied.push((self.length as u32, inward));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no memory for bulk");
                        self.keep(inward.into_bytes());
                    }
                }
            }
            if most == 0 {
                return self.pieces.len() == 0;
            }
            let Some(piece) = self.pieces.next() else { return true };
            let large = piece.len() > blob::LARGE && self.copied.len() < PLACES;
            self.current = arena.filter(|_| large).and_then(|arena| arena.reserve(piece.clone()));
            if self.current.is_none() {
                self.keep(piece);
            }
        }
    }

    fn keep(&mut self, piece: Bytes) {
        self.length += piece.len();
        self.rest.push(piece);
    }

    /// Where what was copied lies, and what goes as it is. The other side has to be told; one that is dropped instead leaves
    /// nothing behind.
    pub(crate) fn end(self) -> (Vec<Placed>, Payload) {
        let place = |(at, inward): (u32, Inward)| Placed { at, span: inward.place() };
        (self.copied.into_iter().map(place).collect(), self.rest.into())
    }
}

/// A body that arrives, and of which parts lie in the shared memory.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// What is still to be fetched, and what has been.
    missing: VecDeque<(usize, Outward)>,
    fetched: Vec<(usize, Bytes)>,
    length: usize,
}

impl Arrival {
    /// Takes over what the other side has placed for the next frame.
    ///
    /// # Errors
    ///
    /// When it lies where nothing of theirs can be, or is more than the `limit` of a message.
    pub(crate) fn new(arena: Option<&Arc<Arena>>, placed: &[Placed], limit: u32) -> Result<Self, Violation> {
        let length = placed.iter().map(|placed| placed.span.length as usize).sum();
        if placed.is_empty() || placed.len() > PLACES || length > limit as usize {
            return Err(malformed("bulk that is not a message's"));
        }
        let arena = arena.ok_or_else(|| malformed("bulk in memory that is not shared"))?;
        let take = |placed: &Placed| arena.take(placed.span).map(|outward| (placed.at as usize, outward));
        let missing = placed.iter().map(take).collect::<Result<_, ()>>();
        let missing = missing.map_err(|()| malformed("bulk outside of the memory that is shared"))?;
        Ok(Self { missing, fetched: Vec::new(), length })
    }

    /// Copies at most about so many bytes. The whole, once all are there; `body` is what came as it is.
    ///
    /// # Errors
    ///
    /// When the parts do not fit together, or cannot be read.
    pub(crate) fn step(
        &mut self,
        body: &Bytes,
        most: usize,
        limit: u32,
    ) -> Result<Option<Payload>, Violation> {
        if self.length.saturating_add(body.len()) > limit as usize {
            return Err(malformed("bulk of more than a message may have"));
        }
        let mut left = most;
        while let Some((at, outward)) = self.missing.front_mut().filter(|_| left > 0) {
            let Some(bytes) = outward.step(left)? else { return Ok(None) };
            left = left.saturating_sub(bytes.len());
            self.fetched.push((*at, bytes));
            self.missing.pop_front();
        }
        if !self.missing.is_empty() {
            return Ok(None);
        }
        let whole = Payload::assemble(body, std::mem::take(&mut self.fetched));
        whole.map(Some).ok_or_else(|| malformed("bulk that does not fit its message"))
    }
}

pub(crate) fn malformed(reason: &str) -> Violation {
    Violation::Malformed { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Span;
    use crate::sys::memory;

    const LIMIT: u32 = 64 << 20;

    fn both(bulk: usize) -> (Arc<Arena>, Arc<Arena>) {
        let fd = memory::create(bulk).unwrap();
        (Arc::new(Arena::parent(&fd, false).unwrap()), Arc::new(Arena::worker(&fd).unwrap()))
    }

    fn body(sizes: &[usize]) -> Payload {
        let piece = |(n, size): (usize, &usize)| Bytes::from(vec![n as u8 + 1; *size]);
        sizes.iter().enumerate().map(piece).collect::<Vec<_>>().into()
    }

    /// Sends a body in steps; how much of it came through the shared memory.
    fn travel(from: &Arc<Arena>, to: &Arc<Arena>, body: &Payload, most: usize) -> usize {
        let mut departure = Departure::new(body);
        while !departure.step(Some(from), most) {}
        let (placed, rest) = departure.end();
        let rest = rest.join();
        let shared = body.len() - rest.len();
        let arrived = match placed.is_empty() {
            true => rest.into(),
            false => {
                let mut arrival = Arrival::new(Some(to), &placed, LIMIT).unwrap();
                loop {
                    if let Some(whole) = arrival.step(&rest, most, LIMIT).unwrap() {
                        break whole;
                    }
                }
            }
        };
        assert_eq!(arrived, *body);
        shared
    }

    #[test]
    fn bodies_arrive_whole_whichever_way_their_pieces_take() {
        const L: usize = blob::LARGE + 1;
        let (parent, worker) = both(2 << 20);
        for sizes in [&[1, L, 2][..], &[L, L], &[L], &[5, 6], &[L, 1, 1, L, 9 * L], &[1, 2, L, L, L, 3]] {
            for most in [1000, 4096, L, 1 << 20, usize::MAX] {
                let large = sizes.iter().filter(|size| **size >= L).sum::<usize>();
                for (from, to) in [(&parent, &worker), (&worker, &parent)] {
                    assert_eq!(travel(from, to, &body(sizes), most), large, "{sizes:?} by {most}");
                    to.release().into_iter().for_each(|offset| from.free(offset).unwrap());
                }
            }
        }
    }

    #[test]
    fn what_finds_no_room_goes_as_it_is() {
        const L: usize = 400 << 10;
        let (parent, worker) = both(2 << 20);
        assert_eq!(travel(&parent, &worker, &body(&[1, L, 2, L, 3, L, 4]), 4096), 2 * L);
        assert_eq!(travel(&parent, &worker, &body(&[L]), 4096), 0);
        worker.release().into_iter().for_each(|offset| parent.free(offset).unwrap());
        assert_eq!(travel(&parent, &worker, &body(&[3 * L, L]), 4096), L);
    }

    #[test]
    fn lies_about_bulk_are_violations() {
        let (parent, worker) = both(2 << 20);
        let mut departure = Departure::new(&body(&[blob::LARGE + 1]));
        assert!(departure.step(Some(&worker), usize::MAX));
        let placed = departure.end().0;
        let span = placed[0].span;
        let arrive = |placed: &[Placed], body: &'static [u8], limit| {
            let mut arrival = Arrival::new(Some(&parent), placed, limit)?;
            arrival.step(&Bytes::from_static(body), usize::MAX, limit)
        };
        assert!(arrive(&placed, b"", LIMIT).unwrap().is_some());
        let at = |at| Placed { at, span };
        assert!(arrive(&[at(2), at(2), at(3)], b"abc", LIMIT).unwrap().is_some());
        assert!(arrive(&[at(4)], b"abc", LIMIT).is_err(), "behind the body");
        assert!(arrive(&[at(2), at(1)], b"abc", LIMIT).is_err(), "out of order");
        assert!(arrive(&placed, b"abc", span.length + 2).is_err(), "larger than a message may be");
        assert!(arrive(&[at(0); 2], b"", span.length).is_err(), "larger than a message may be");
        assert!(arrive(&[], b"", LIMIT).is_err());
        assert!(arrive(&[at(0); PLACES + 1], b"", u32::MAX).is_err());
        let beyond = Placed { at: 0, span: Span { offset: 1 << 20, length: 1 } };
        assert!(arrive(&[beyond], b"", LIMIT).is_err());
        assert!(Arrival::new(None, &placed, LIMIT).is_err());
    }
}
