//! Bytes that travel outside serde: what a user puts into inputs, outputs and items, and how the encoding of a message gets
//! hold of them without copying. It does not know how messages travel.

use std::cell::RefCell;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Up to this size bytes are copied along with what surrounds them. Beyond it a piece of its own costs less than the copy.
pub(crate) const SMALL: usize = 4 << 10;

/// Bytes that share memory with a message are copied out up to this size, so that a small part that is kept does not keep
/// the whole. Beyond it a copy costs more than the memory is worth. It is also where the way through shared memory begins to
/// pay: below, its messages cost more than copying through a socket.
pub(crate) const LARGE: usize = 32 << 10;

/// Bytes that travel in one piece: for images, buffers and file contents in inputs, outputs and items.
///
/// Cheap to clone, immutable, and usable as a field anywhere in a task, its output or a stream's item. On their way to or
/// from a worker its bytes are not touched by serde: small ones travel behind the message, and those over 32 KiB through
/// memory that this process and its worker share ([`PoolBuilder::shared_memory`](crate::PoolBuilder::shared_memory)).
///
/// ```
/// use procpool::{Blob, Context, Task};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Invert {
///     width: u32,
///     pixels: Blob,
/// }
///
/// impl Task for Invert {
///     const NAME: &'static str = "invert";
///     type Output = Blob;
///
///     async fn run(self, _cx: Context) -> Blob {
///         self.pixels.iter().map(|pixel| !pixel).collect()
///     }
/// }
/// ```
///
/// A plain `Vec<u8>` works too, at a price: serde takes it apart byte by byte, which at 1 MiB takes about 30 times as long. With
/// `#[serde(with = "serde_bytes")]` it is copied in one go, into the message and out of it, and takes about 10 times as long.
/// Both sides may differ in this: a `Blob`, a `serde_bytes` field and a `Vec<u8>` are the same bytes on the wire.
///
/// In a worker a large `Blob` of an input is a view of the shared memory, and there is less room for others as long as it or a
/// part of it is held: what a task leaves with its worker for good is better copied (`to_vec()`). Elsewhere, in `serde_json`
/// for example, a `Blob` is serialised as bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob(Bytes);

thread_local! {
    /// The blob that is being serialised, for whoever takes the bytes.
    static OFFERED: RefCell<Option<Bytes>> = const { RefCell::new(None) };
    /// What is being deserialised from, in pieces.
    static SOURCE: RefCell<Vec<Bytes>> = const { RefCell::new(Vec::new()) };
}

/// The blob whose bytes these are, if it is the one that is being serialised.
pub(crate) fn offered(bytes: &[u8]) -> Option<Bytes> {
    OFFERED.with_borrow_mut(|offered| {
        offered.take_if(|blob| blob.as_ptr() == bytes.as_ptr() && blob.len() == bytes.len())
    })
}

/// Runs `decode`, in which blobs that are deserialised from these pieces share their memory.
pub(crate) fn lending<R>(pieces: &[Bytes], decode: impl FnOnce() -> R) -> R {
    /// Ends the loan, also when decoding panics. Loans are nested: decoding is anybody's code.
    struct Loan {
        before: Vec<Bytes>,
    }

    impl Drop for Loan {
        fn drop(&mut self) {
            let ended = SOURCE.replace(std::mem::take(&mut self.before));
            drop(ended);
        }
    }

    let _loan = Loan { before: SOURCE.replace(pieces.to_vec()) };
    decode()
}

/// The bytes without a copy, if they are large and part of what is being deserialised from.
fn borrowed(bytes: &[u8]) -> Option<Bytes> {
    if bytes.len() <= LARGE {
        return None;
    }
    SOURCE.with_borrow(|source| {
        let range = bytes.as_ptr_range();
        let piece = source.iter().find(|piece| {
            let whole = piece.as_ptr_range();
            whole.start <= range.start && range.end <= whole.end
        })?;
        Some(piece.slice_ref(bytes))
    })
}

impl Blob {
    /// A blob of bytes that are part of the program.
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self(Bytes::from_static(bytes))
    }

    /// The bytes as `Bytes`, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// A part of it that shares its memory.
    ///
    /// ```
    /// use procpool::Blob;
    ///
    /// let whole = Blob::from(&b"head and body"[..]);
    /// assert_eq!(&whole.slice(9..)[..], b"body");
    /// assert_eq!(whole.into_bytes().len(), 13);
    /// ```
    ///
    /// # Panics
    ///
    /// When the range does not lie within it, as slices do.
    pub fn slice(&self, range: impl std::ops::RangeBounds<usize>) -> Self {
        Self(self.0.slice(range))
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Blob {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<[u8]> for Blob {
    fn eq(&self, other: &[u8]) -> bool {
        self.0 == other
    }
}

impl PartialEq<Vec<u8>> for Blob {
    fn eq(&self, other: &Vec<u8>) -> bool {
        self.0 == other
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Box<[u8]>> for Blob {
    fn from(bytes: Box<[u8]>) -> Self {
        Self(bytes.into())
    }
}

impl From<String> for Blob {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Blob> for Bytes {
    fn from(blob: Blob) -> Self {
        blob.0
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl From<Blob> for Vec<u8> {
    fn from(blob: Blob) -> Self {
        blob.0.into()
    }
}

impl FromIterator<u8> for Blob {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> Self {
        Self(bytes.into_iter().collect())
    }
}

/// Shows how long it is and how it begins.
impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 16;
        let more = if self.len() > SHOWN { "…" } else { "" };
        let shown = self.0[..self.len().min(SHOWN)].escape_ascii();
        write!(f, "Blob({} bytes, \"{shown}\"{more})", self.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.len() <= SMALL {
            return serializer.serialize_bytes(&self.0);
        }
        OFFERED.set(Some(self.0.clone()));
        let result = serializer.serialize_bytes(&self.0);
        OFFERED.set(None);
        result
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(Bulk)
    }
}

struct Bulk;

impl<'de> Visitor<'de> for Bulk {
    type Value = Blob;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Blob, E> {
        Ok(Blob(borrowed(bytes).unwrap_or_else(|| Bytes::copy_from_slice(bytes))))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
        Ok(bytes.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Blob, E> {
        self.visit_bytes(text.as_bytes())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Blob, A::Error> {
        /// What is reserved for bytes that were announced and have not come.
        const TRUSTED: usize = 4096;
        let mut bytes = Vec::with_capacity(sequence.size_hint().unwrap_or(0).min(TRUSTED));
        while let Some(byte) = sequence.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::de::IntoDeserializer;
    use serde::de::value::{BytesDeserializer, Error, SeqDeserializer, StrDeserializer};

    use super::*;

    fn is(blob: Result<Blob, impl Debug>, bytes: &[u8]) {
        assert_eq!(&blob.unwrap()[..], bytes);
    }

    #[test]
    fn a_blob_is_read_from_whatever_an_encoding_has_for_bytes() {
        is(Blob::deserialize(BytesDeserializer::<Error>::new(b"abc")), b"abc");
        is(Blob::deserialize(SeqDeserializer::<_, Error>::new([1_u8, 2].into_iter())), &[1, 2]);
        let text: StrDeserializer<'_, Error> = "text".into_deserializer();
        is(Blob::deserialize(text), b"text");
        assert!(
            Blob::deserialize(1_u8.into_deserializer() as serde::de::value::U8Deserializer<Error>).is_err()
        );
    }

    #[test]
    fn outside_of_messages_a_blob_is_serialised_as_bytes() {
        let bytes = vec![7; 2 * LARGE];
        let encoded = postcard::to_stdvec(&Blob::from(bytes.clone())).unwrap();
        assert_eq!(encoded, postcard::to_stdvec(&bytes).unwrap());
        is(postcard::from_bytes::<Blob>(&encoded), &bytes);
        assert!(OFFERED.take().is_none());
    }

    #[test]
    fn a_loan_ends_with_its_message_even_if_that_panics() {
        let (outer, inner) = (Bytes::from(vec![1; 2 * LARGE]), Bytes::from(vec![2; 2 * LARGE]));
        lending(std::slice::from_ref(&outer), || {
            let panicked = std::panic::catch_unwind(|| {
                lending(std::slice::from_ref(&inner), || {
                    assert!(borrowed(&inner).is_some() && borrowed(&outer).is_none());
                    std::panic::resume_unwind(Box::new(()));
                });
            });
            assert!(panicked.is_err() && borrowed(&outer).is_some() && borrowed(&inner).is_none());
        });
        assert!(borrowed(&outer).is_none() && inner.is_unique());
    }

    #[test]
    fn a_blob_shows_how_long_it_is_and_how_it_begins() {
        assert_eq!(format!("{:?}", Blob::from_static(b"a\n")), "Blob(2 bytes, \"a\\n\")");
        let long = format!("{:?}", Blob::from(vec![b'x'; 1 << 20]));
        assert_eq!(long, "Blob(1048576 bytes, \"xxxxxxxxxxxxxxxx\"…)");
    }
}
