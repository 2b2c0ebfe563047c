//! An encoded value: one stream of bytes, in as many pieces as it was cheapest to leave it in. It does not know how they
//! travel.

use std::cell::Cell;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use crate::blob;

/// An encoded value that is somebody else's, and may be a part of something larger.
#[derive(Clone, Copy)]
pub(crate) enum Lent<'a> {
    /// Copied where a value wants to keep them.
    Small(&'a [u8]),
    Pieces(&'a [Bytes]),
}

/// How many bytes need no memory of their own. More make every payload larger, and with it every task that waits; with as
/// many as this, one is three words.
const FEW: usize = 22;

/// How many bytes a register holds.
const WORD: usize = 8;

/// An encoded value. Its meaning is that of its pieces one behind the other.
#[derive(Clone)]
pub(crate) enum Payload {
    Few([u8; FEW], u8),
    /// A copy that is not large.
    Small(Box<[u8]>),
    Pieces(Box<[Bytes]>),
}

impl Payload {
    /// Nothing at all.
    pub(crate) const fn new() -> Self {
        Self::Few([0; FEW], 0)
    }

    /// A copy of bytes that are not large.
    pub(crate) fn copied(bytes: &[u8]) -> Self {
        let mut few = [0; FEW];
        if bytes.len() <= WORD {
            // Most are; put together in a register they need not be read back from where they were just written.
            let word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            few[..WORD].copy_from_slice(&word.to_le_bytes());
            return Self::Few(few, bytes.len() as u8);
        }
        match (few.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(bytes);
                Self::Few(few, length)
            }
            _ => Self::Small(bytes.into()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(_, length) => usize::from(*length),
            Self::Small(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    /// What it consists of, if that is not [`small`](Self::small).
    pub(crate) fn pieces(&self) -> &[Bytes] {
        match self {
            Self::Few(..) | Self::Small(_) => &[],
            Self::Pieces(pieces) => pieces,
        }
    }

    /// The bytes, if they are few and in one piece: such a value is best copied into what surrounds it.
    pub(crate) fn small(&self) -> Option<&[u8]> {
        match self {
            Self::Few(bytes, length) => bytes.get(..usize::from(*length)),
            Self::Small(bytes) => Some(bytes),
            Self::Pieces(pieces) => match &**pieces {
                [] => Some(&[]),
                [bytes] if bytes.len() <= blob::LARGE => Some(bytes),
                _ => None,
            },
        }
    }

    /// The same, lent to be decoded.
    pub(crate) fn lend(&self) -> Lent<'_> {
        self.small().map_or_else(|| Lent::Pieces(self.pieces()), Lent::Small)
    }

    /// As [`Lent::decode`].
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, postcard::Error> {
        self.lend().decode()
    }

    /// Puts pieces where they belong within `body`, in the order of their positions there. `None` if they do not fit.
    pub(crate) fn assemble(body: &Bytes, placed: Vec<(usize, Bytes)>) -> Option<Self> {
        let (mut pieces, mut done) = (Vec::with_capacity(2 * placed.len() + 1), 0);
        for (at, piece) in placed {
            if at < done || at > body.len() {
                return None;
            }
            pieces.extend([body.slice(done..at), piece]);
            done = at;
        }
        pieces.push(body.slice(done..));
        Some(pieces.into())
    }

    /// The bytes in one piece.
    pub(crate) fn join(&self) -> Bytes {
        match self {
            Self::Few(bytes, length) => Bytes::copy_from_slice(&bytes[..usize::from(*length)]),
            Self::Small(bytes) => Bytes::copy_from_slice(bytes),
            Self::Pieces(pieces) => match &**pieces {
                [bytes] => bytes.clone(),
                pieces => pieces.concat().into(),
            },
        }
    }
}

impl Lent<'_> {
    /// Decodes a value from all of the bytes. Large blobs in it share their memory.
    ///
    /// # Errors
    ///
    /// What postcard says, and `DeserializeBadEncoding` when bytes are left over.
    #[inline]
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, postcard::Error> {
        match self {
            Self::Small(bytes) => decode(bytes),
            Self::Pieces(pieces) => decode_pieces(pieces),
        }
    }
}

fn decode_pieces<T: DeserializeOwned>(pieces: &[Bytes]) -> Result<T, postcard::Error> {
    if let [bytes] = pieces {
        return blob::lending(pieces, || decode(bytes));
    }
    let torn = Cell::new(false);
    let decoded = blob::lending(pieces, || read_from(Cursor { rest: &[], more: pieces, torn: Some(&torn) }));
    if decoded.is_err() && torn.get() {
        // The two sides' types differ, and this one wants as one what the other had in several.
        return Payload::from(Bytes::from(pieces.concat())).decode();
    }
    decoded
}

/// Decodes a value from all of `bytes`. Blobs in it share their memory if that is being lent.
///
/// # Errors
///
/// As [`Payload::decode`].
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(bytes)? {
        (value, []) => Ok(value),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

fn read_from<T: DeserializeOwned>(cursor: Cursor<'_>) -> Result<T, postcard::Error> {
    let mut deserializer = postcard::Deserializer::from_flavor(cursor);
    let value = T::deserialize(&mut deserializer)?;
    match deserializer.finalize()? {
        0 => Ok(value),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

/// Reads from one piece after the other.
struct Cursor<'de> {
    rest: &'de [u8],
    more: &'de [Bytes],
    /// Set when something was asked for that two pieces share.
    torn: Option<&'de Cell<bool>>,
}

impl<'de> Cursor<'de> {
    /// Goes on to the next piece, if this one has been read.
    #[cold]
    fn next(&mut self) -> bool {
        let [first, more @ ..] = self.more else { return false };
        if !self.rest.is_empty() {
            if let Some(torn) = self.torn {
                torn.set(true);
            }
            return false;
        }
        (self.rest, self.more) = (first, more);
        true
    }
}

impl<'de> postcard::de_flavors::Flavor<'de> for Cursor<'de> {
    type Remainder = usize;
    type Source = &'de [u8];

    #[inline]
    fn pop(&mut self) -> postcard::Result<u8> {
        loop {
            if let Some((byte, rest)) = self.rest.split_first() {
                self.rest = rest;
                return Ok(*byte);
            }
            if !self.next() {
                return Err(postcard::Error::DeserializeUnexpectedEnd);
            }
        }
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len() + self.more.iter().map(Bytes::len).sum::<usize>())
    }

    #[inline]
    fn try_take_n(&mut self, n: usize) -> postcard::Result<&'de [u8]> {
        loop {
            if let Some((taken, rest)) = self.rest.split_at_checked(n) {
                self.rest = rest;
                return Ok(taken);
            }
            if !self.next() {
                return Err(postcard::Error::DeserializeUnexpectedEnd);
            }
        }
    }

    fn finalize(self) -> postcard::Result<usize> {
        Ok(self.rest.len() + self.more.iter().map(Bytes::len).sum::<usize>())
    }
}

/// What an encoded value is gathered in, piece by piece. Kept and used again, it allocates only for what is large.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    pieces: Vec<Bytes>,
    /// What comes behind the pieces.
    last: BytesMut,
}

impl Gather {
    /// Room for this many bytes that are no blobs.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { pieces: Vec::new(), last: BytesMut::with_capacity(bytes) }
    }

    /// Appends a value; on an error it may have grown by a part of it.
    ///
    /// # Errors
    ///
    /// What postcard says: for a sequence of unknown length, for example.
    pub(crate) fn append<T: Serialize>(&mut self, value: &T) -> Result<(), postcard::Error> {
        postcard::serialize_with_flavor(value, Append(self))
    }

    /// The bytes, if they are few and in one piece.
    pub(crate) fn small(&self) -> Option<&[u8]> {
        (self.pieces.is_empty() && self.last.len() <= blob::LARGE).then_some(&self.last)
    }

    /// Takes everything out.
    pub(crate) fn take(&mut self) -> Payload {
        if self.pieces.is_empty() && self.last.len() <= blob::SMALL {
            let copy = Payload::copied(&self.last);
            self.last.clear();
            return copy;
        }
        let last = self.last.split().freeze();
        if self.pieces.is_empty() {
            return last.into();
        }
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.push(last);
        pieces.into()
    }

    /// Empties it, and lets go of memory beyond `kept`.
    pub(crate) fn clear(&mut self, kept: usize) {
        self.pieces.clear();
        if self.last.capacity() > kept {
            self.last = BytesMut::new();
        } else {
            self.last.clear();
        }
    }
}

/// So many bytes are copied one by one. They are a number as a rule, which was just written one by one, and for a while nothing that was
/// can be read in another way.
const FEWEST: usize = 5;

/// Serialises to the end of what stays the caller's.
struct Append<'a>(&'a mut Gather);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.last.extend_from_slice(&[byte]);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() <= FEWEST {
            for &byte in bytes {
                self.0.last.put_u8(byte);
            }
        } else if bytes.len() > blob::SMALL
            && let Some(blob) = blob::offered(bytes)
        {
            let before = self.0.last.split().freeze();
            self.0.pieces.extend([before, blob]);
        } else {
            self.0.last.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Pieces(Box::new([bytes]))
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(mut pieces: Vec<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        Self::Pieces(pieces.into())
    }
}

/// Equal are those that mean the same.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.join() == other.join()
    }
}

impl Eq for Payload {}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.len() <= blob::SMALL {
            return self.join().fmt(f);
        }
        write!(f, "{} bytes in {} pieces", self.len(), self.pieces().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{Blob, LARGE, SMALL};

    fn encode<T: Serialize>(value: &T) -> Payload {
        let mut gather = Gather::default();
        gather.append(value).unwrap();
        gather.take()
    }

    fn blob(length: usize) -> Blob {
        (0..length).map(|n| (n * 7 % 251) as u8).collect()
    }

    #[test]
    fn a_large_blob_is_a_piece_of_its_own_and_comes_out_without_a_copy() {
        let (small, large) = (blob(SMALL), blob(LARGE + 1));
        let value = (1_u8, small.clone(), vec![Some(large.clone())], "behind".to_owned());
        let payload = encode(&value);
        assert_eq!(payload.pieces().len(), 3);
        assert_eq!(payload.pieces()[1].as_ptr(), large.as_ptr());
        let back: (u8, Blob, Vec<Option<Blob>>, String) = payload.decode().unwrap();
        assert_eq!(back, value);
        assert_eq!(back.2[0].as_ref().unwrap().as_ptr(), large.as_ptr());
        assert_ne!(back.1.as_ptr(), small.as_ptr());
    }

    #[test]
    fn the_stream_of_bytes_is_the_same_whether_blob_or_not_and_however_it_is_cut() {
        let bytes: Vec<u8> = blob(2 * LARGE).to_vec();
        let value = (7_u32, Blob::from(bytes.clone()), 9_u32);
        let payload = encode(&value);
        let plain = encode(&(7_u32, bytes.clone(), 9_u32));
        assert_eq!(payload, plain);
        assert_eq!(payload.join(), postcard::to_stdvec(&(7_u32, &bytes, 9_u32)).unwrap());
        for payload in [payload, plain] {
            assert_eq!(payload.decode::<(u32, Blob, u32)>().unwrap(), value);
            assert_eq!(payload.decode::<(u32, Vec<u8>, u32)>().unwrap(), (7, bytes.clone(), 9));
            assert!(payload.decode::<(u32, Blob)>().is_err(), "bytes left over");
            assert!(payload.decode::<(u32, Blob, u32, u8)>().is_err(), "bytes too few");
        }
        let whole = encode(&value).join();
        for cut in [1, 2, 5, LARGE, whole.len() - 1] {
            let pieces = Payload::Pieces([whole.slice(..cut), whole.slice(cut..)].into());
            assert_eq!(pieces.decode::<(u32, Blob, u32)>().unwrap(), value, "cut at {cut}");
        }
    }

    #[test]
    fn blobs_in_another_encoding_within_a_value_are_bytes_like_any() {
        /// Holds a blob that it encodes itself.
        struct Wrapped(Blob);

        impl Serialize for Wrapped {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                postcard::to_stdvec(&self.0).unwrap().serialize(serializer)
            }
        }

        let inner = blob(LARGE * 2);
        let payload = encode(&(Wrapped(inner.clone()), inner.clone()));
        let (wrapped, plain): (Vec<u8>, Blob) = payload.decode().unwrap();
        assert_eq!(plain, inner);
        assert_eq!(postcard::from_bytes::<Blob>(&wrapped).unwrap(), inner);
    }

    #[test]
    fn however_it_is_kept_it_is_small_up_to_the_same_length() {
        assert_eq!(size_of::<Payload>(), 24);
        for length in [0, 1, FEW, FEW + 1, SMALL, LARGE, LARGE + 1] {
            let bytes = Bytes::from(vec![7; length]);
            for payload in [Payload::from(bytes.clone()), Payload::from(vec![Bytes::new(), bytes.clone()])] {
                assert_eq!(payload.small(), (length <= LARGE).then_some(&bytes[..]), "{length}");
                assert_eq!((payload.len(), payload.join()), (length, bytes.clone()));
                assert!(length <= LARGE || payload.pieces()[0].as_ptr() == bytes.as_ptr());
            }
            let copied = Payload::copied(&bytes);
            assert_eq!(
                (copied.small(), copied.len(), copied.join()),
                (Some(&bytes[..]), length, bytes.clone())
            );
        }
    }

    #[test]
    fn a_small_part_does_not_keep_the_whole() {
        let value = (blob(LARGE), blob(LARGE * 4));
        let whole = Payload::from(encode(&value).join());
        let (small, large): (Blob, Blob) = whole.decode().unwrap();
        let within = |blob: &Blob| whole.pieces()[0].as_ptr_range().contains(&blob.as_ptr());
        assert_eq!((within(&small), within(&large)), (false, true));
    }

    #[test]
    fn a_gatherer_is_used_again_and_keeps_no_blob() {
        let mut gather = Gather::default();
        let bulk = bytes::Bytes::from(vec![1; LARGE]);
        gather.append(&Blob::from(bulk.clone())).unwrap();
        assert!(gather.small().is_none() && !bulk.is_unique());
        gather.clear(1 << 20);
        assert!(bulk.is_unique());
        gather.append(&3_u8).unwrap();
        assert_eq!(gather.small(), Some(&[3][..]));
    }
}
