//! Bytes that wait to be written: small frames gathered in one buffer, bulk between them as it is. It does no I/O.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// How many pieces are written at once. More saves no more calls: a socket of default size holds some hundred KiB.
pub(crate) const SLICES: usize = 16;

/// A queue of bytes, in pieces.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// Before `last`, and how long they are together: asked for more often than there are any.
    pieces: VecDeque<Bytes>,
    length: usize,
    /// What was written, until [somebody takes it](Self::take_spent).
    spent: Vec<Bytes>,
    last: BytesMut,
    /// Whether the buffer has grown beyond what is kept. Its capacity does not tell: what is written leaves it.
    large: bool,
}

impl Chain {
    pub(crate) fn len(&self) -> usize {
        self.last.len() + self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_empty() && self.pieces.is_empty()
    }

    /// The buffer at the end, to be appended to.
    pub(crate) fn end(&mut self) -> &mut BytesMut {
        &mut self.last
    }

    /// Appends bulk without copying it.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !self.last.is_empty() {
            self.length += self.last.len();
            self.pieces.push_back(self.last.split().freeze());
        }
        if !bytes.is_empty() {
            self.length += bytes.len();
            self.pieces.push_back(bytes);
        }
    }

    /// Whether bulk was written: rarely, and asked often.
    pub(crate) fn has_spent(&self) -> bool {
        !self.spent.is_empty()
    }

    /// What was written of the bulk, to be dropped where no lock is held: its memory may be anybody's, and its drop anybody's
    /// code.
    pub(crate) fn take_spent(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.spent)
    }

    /// Nothing of it is to be written.
    pub(crate) fn clear(&mut self) {
        self.spent.extend(self.pieces.drain(..));
        (self.length, self.large, self.last) = (0, false, BytesMut::new());
    }

    /// What is next, if it is one piece: the usual case.
    pub(crate) fn single(&self) -> Option<&[u8]> {
        match self.pieces.front() {
            None => Some(&self.last),
            Some(piece) if self.pieces.len() == 1 && self.last.is_empty() => Some(piece),
            Some(_) => None,
        }
    }

    /// What is next, in several pieces.
    pub(crate) fn slices(&self) -> ([IoSlice<'_>; SLICES], usize) {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let all = self.pieces.iter().map(|piece| &piece[..]).chain([&self.last[..]]);
        let mut n = 0;
        for (slice, piece) in slices.iter_mut().zip(all.filter(|piece| !piece.is_empty())) {
            *slice = IoSlice::new(piece);
            n += 1;
        }
        (slices, n)
    }

    /// Takes away what was written: so many bytes, of which there must be that many. When nothing is left and the buffer has
    /// grown beyond `kept`, its memory is let go of.
    pub(crate) fn advance(&mut self, mut n: usize, kept: usize) {
        self.large |= self.last.len() > kept;
        while let Some(piece) = self.pieces.front_mut() {
            if n < piece.len() {
                self.length -= n;
                return piece.advance(n);
            }
            n -= piece.len();
            self.length -= piece.len();
            self.spent.extend(self.pieces.pop_front());
        }
        if n < self.last.len() {
            self.last.advance(n);
        } else if std::mem::take(&mut self.large) {
            self.last = BytesMut::new();
        } else {
            self.last.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(chain: &Chain) -> Vec<u8> {
        let (slices, n) = chain.slices();
        slices[..n].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn what_is_written_in_any_portions_is_what_was_appended() {
        for portion in 1..=16 {
            let mut chain = Chain::default();
            chain.end().extend_from_slice(b"one");
            chain.push(Bytes::from_static(b"two"));
            chain.push(Bytes::new());
            chain.push(Bytes::from_static(b"three"));
            chain.end().extend_from_slice(b"four");
            assert_eq!((gathered(&chain), chain.len()), (b"onetwothreefour".to_vec(), 15));
            let mut written = Vec::new();
            while !chain.is_empty() {
                let next = match chain.single() {
                    Some(piece) => piece.to_vec(),
                    None => gathered(&chain),
                };
                let portion = &next[..portion.min(next.len())];
                written.extend_from_slice(portion);
                chain.advance(portion.len(), 1 << 20);
                assert_eq!(chain.len(), 15 - written.len());
            }
            assert!(chain.take_spent().len() >= 3 && chain.take_spent().is_empty());
            assert_eq!(written, b"onetwothreefour");
        }
    }

    #[test]
    fn more_pieces_than_fit_are_written_in_order() {
        let mut chain = Chain::default();
        for n in 0..3 * SLICES as u8 {
            chain.push(Bytes::copy_from_slice(&[n]));
        }
        assert_eq!(gathered(&chain), (0..SLICES as u8).collect::<Vec<_>>());
        chain.advance(SLICES, 0);
        assert_eq!(chain.slices().0[0].to_vec(), [SLICES as u8]);
    }

    #[test]
    fn memory_is_kept_up_to_a_bound() {
        let mut chain = Chain::default();
        chain.end().extend_from_slice(&[1; 1000]);
        chain.advance(1000, 1000);
        assert!(chain.end().capacity() >= 1000);
        chain.end().extend_from_slice(&[1; 3000]);
        chain.advance(2999, 1000);
        chain.advance(1, 1000);
        assert_eq!(chain.end().capacity(), 0);
    }
}
