//! Frames to bytes and back. It allocates for bytes that have arrived, never for bytes that were announced, and does no I/O.

use std::marker::PhantomData;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::codec::{Decoder, Encoder};

use super::brief::Header;
use super::frame::Shape;
use super::{HEADER_LIMIT, PREAMBLE_LIMIT, TO_PARENT_MAGIC, TO_WORKER_MAGIC};

/// The length prefix: 4 bytes, little-endian, counting header and body.
const PREFIX: usize = 4;

/// Most headers are shorter. They are written into room that is there already, and not byte by byte into a buffer that may have
/// to grow each time.
const SHORT: usize = 48;

/// How many bytes a message has, header and body, that is looked for first. Nearly all are as short where there are very many.
const BRIEF: u32 = 64;

/// One frame with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message<F, B = Bytes> {
    pub(crate) frame: F,
    pub(crate) body: B,
}

impl<F> From<F> for Message<F> {
    fn from(frame: F) -> Self {
        Self { frame, body: Bytes::new() }
    }
}

/// A rule of the protocol that the other side broke. It has to be cut off: what follows cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("it announced a message of {length} bytes where the limit is {limit}")]
    TooLong { length: u32, limit: u32 },
    #[error("it sent a frame that cannot be decoded ({reason})")]
    Malformed { reason: String },
    #[error("it sent a frame with {bytes} bytes too many")]
    Leftover { bytes: usize },
    #[error("it echoes what it is sent: it is not a worker")]
    Echo,
    #[error("it wrote other things where a worker greets: {stray}")]
    Stray { stray: String },
    #[error("the link failed ({reason})")]
    Io { reason: String },
}

impl From<std::io::Error> for Violation {
    fn from(error: std::io::Error) -> Self {
        Self::Io { reason: error.to_string() }
    }
}

/// A message that is not sent because it is larger than a message may be, or because its value cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsendable {
    #[error("{bytes} bytes are more than the {limit} that a message may have")]
    TooLarge { bytes: usize, limit: u32 },
    #[error("{0}")]
    Encode(postcard::Error),
    #[error("{0}")]
    Io(String),
}

impl From<std::io::Error> for Unsendable {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// Reads frames of type `F` and writes any.
#[derive(Clone, Debug)]
pub(crate) struct Codec<F> {
    limit: u32,
    frames: PhantomData<fn() -> F>,
}

impl<F> Codec<F> {
    /// `limit` is for header and body together, in bytes, in both directions.
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, frames: PhantomData }
    }

    /// Whether a message may be so long, its length included.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        bytes - PREFIX <= self.limit as usize
    }

    /// Appends a frame whose body is written by `body`. When that fails, or the whole is too large, `out` is as before.
    ///
    /// # Errors
    ///
    /// [`Unsendable`], from `body` or for the size.
    pub(crate) fn encode_with<G: Serialize + Shape>(
        &self,
        frame: &G,
        out: &mut BytesMut,
        body: impl FnOnce(&mut BytesMut) -> Result<(), Unsendable>,
    ) -> Result<(), Unsendable> {
        self.put(frame, out, |out| body(out).map(|()| 0))
    }

    /// Appends a frame without its body, which is so long and is sent behind it. When the whole is too large, `out` is as
    /// before.
    ///
    /// # Errors
    ///
    /// [`Unsendable`], for the size.
    pub(crate) fn encode_head<G: Serialize + Shape>(
        &self,
        frame: &G,
        out: &mut BytesMut,
        body: usize,
    ) -> Result<(), Unsendable> {
        self.put(frame, out, |_| Ok(body))
    }

    /// `body` writes a part of the body and says how long the rest is.
    fn put<G: Serialize + Shape>(
        &self,
        frame: &G,
        out: &mut BytesMut,
        body: impl FnOnce(&mut BytesMut) -> Result<usize, Unsendable>,
    ) -> Result<(), Unsendable> {
        let start = out.len();
        let within = |bytes: usize, limit: u32| match u32::try_from(bytes) {
            Ok(length) if length <= limit => Ok(length),
            _ => Err(Unsendable::TooLarge { bytes, limit }),
        };
        let mut brief = Header::behind(PREFIX);
        let header = if frame.put(&mut brief) {
            out.extend_from_slice(brief.bytes());
            Ok(())
        } else {
            out.extend_from_slice(&[0; PREFIX]);
            let header = append(frame, out).map_err(Unsendable::Encode);
            header.and_then(|()| within(out.len() - start - PREFIX, HEADER_LIMIT).map(drop))
        };
        let written = header.and_then(|()| body(out));
        let written =
            written.and_then(|rest| within((out.len() - start - PREFIX).saturating_add(rest), self.limit));
        match written {
            Ok(length) => out[start..start + PREFIX].copy_from_slice(&length.to_le_bytes()),
            Err(_) => out.truncate(start),
        }
        written.map(drop)
    }
}

/// A message at the beginning of some bytes.
pub(crate) struct Found<F> {
    pub(crate) frame: F,
    /// Where its body begins and ends, which is where the next message begins.
    pub(crate) body: Range<usize>,
}

impl<F: DeserializeOwned + Shape> Codec<F> {
    /// The message that the bytes begin with, if it is complete.
    ///
    /// # Errors
    ///
    /// The rule that it breaks.
    pub(crate) fn find(&self, bytes: &[u8]) -> Result<Option<Found<F>>, Violation> {
        let Some(prefix) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix);
        if length > self.limit {
            return Err(Violation::TooLong { length, limit: self.limit });
        }
        let end = PREFIX + length as usize;
        if bytes.len() < end {
            return Ok(None);
        }
        let header = &bytes[PREFIX..end.min(PREFIX + HEADER_LIMIT as usize)];
        let (frame, rest) = match F::take(header) {
            Some((frame, rest)) => (frame, rest.len()),
            None => by_serde(header)?,
        };
        let body = PREFIX + header.len() - rest..end;
        if !body.is_empty() && !frame.has_body() {
            return Err(Violation::Leftover { bytes: body.len() });
        }
        Ok(Some(Found { frame, body }))
    }

    /// The same for one that is brief, header and body: the frame, its body, and where the next begins. `None` of all others.
    #[inline]
    pub(crate) fn brief<'a>(&self, bytes: &'a [u8]) -> Option<(F, &'a [u8], usize)> {
        let (prefix, rest) = bytes.split_first_chunk::<PREFIX>()?;
        let length = Some(u32::from_le_bytes(*prefix)).filter(|length| *length <= self.limit.min(BRIEF))?;
        let end = length as usize;
        let (frame, body) = F::take(rest.get(..end)?)?;
        Some((frame, body, PREFIX + end))
    }
}

/// A frame, and how much comes behind it.
#[inline(never)]
fn by_serde<F: DeserializeOwned>(header: &[u8]) -> Result<(F, usize), Violation> {
    let taken = postcard::take_from_bytes(header);
    let (frame, rest) = taken.map_err(|error| Violation::Malformed { reason: error.to_string() })?;
    Ok((frame, rest.len()))
}

impl<F: DeserializeOwned + Shape> Decoder for Codec<F> {
    type Item = Message<F>;
    type Error = Violation;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Message<F>>, Violation> {
        let Some(Found { frame, body }) = self.find(bytes)? else { return Ok(None) };
        bytes.advance(body.start);
        Ok(Some(Message { frame, body: bytes.split_to(body.len()).freeze() }))
    }
}

impl<F, G: Serialize + Shape> Encoder<Message<G>> for Codec<F> {
    type Error = Unsendable;

    fn encode(&mut self, message: Message<G>, out: &mut BytesMut) -> Result<(), Unsendable> {
        self.encode_with(&message.frame, out, |out| {
            out.extend_from_slice(&message.body);
            Ok(())
        })
    }
}

/// Says at the beginning of a frame how long it is, and gives that out.
pub(crate) fn set_length(frame: &mut [u8]) -> [u8; PREFIX] {
    // What is longer was refused before.
    let length = u32::try_from(frame.len() - PREFIX).unwrap_or(u32::MAX).to_le_bytes();
    frame[..PREFIX].copy_from_slice(&length);
    length
}

/// Looks for the worker's magic in the first bytes that it wrote. Once it is there, `bytes` begins behind it and what
/// stood before it is returned. The answer does not depend on how the bytes were cut on their way.
///
/// # Errors
///
/// [`Violation::Echo`] and [`Violation::Stray`].
pub(crate) fn take_magic(bytes: &mut BytesMut) -> Result<Option<Bytes>, Violation> {
    let reach = bytes.len().min(PREAMBLE_LIMIT + TO_PARENT_MAGIC.len());
    let theirs = memmem::find(&bytes[..reach], &TO_PARENT_MAGIC);
    let ours = memmem::find(&bytes[..reach], &TO_WORKER_MAGIC);
    match (theirs, ours) {
        (Some(at), ours) if ours.is_none_or(|ours| at < ours) => {
            let stray = bytes.split_to(at).freeze();
            bytes.advance(TO_PARENT_MAGIC.len());
            Ok(Some(stray))
        }
        (_, Some(_)) => Err(Violation::Echo),
        _ if reach == PREAMBLE_LIMIT + TO_PARENT_MAGIC.len() => {
            Err(Violation::Stray { stray: excerpt(bytes) })
        }
        _ => Ok(None),
    }
}

/// The beginning of stray bytes in a form that can be shown.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii();
    if bytes.len() > SHOWN { format!("\"{shown}\"…") } else { format!("\"{shown}\"") }
}

/// Appends a value to `out`; on an error it may have grown by a part of the value.
///
/// # Errors
///
/// What postcard says: for a sequence of unknown length, for example.
pub(crate) fn append<T: Serialize>(value: &T, out: &mut BytesMut) -> Result<(), postcard::Error> {
    let start = out.len();
    out.resize(start + SHORT, 0);
    match postcard::to_slice(value, &mut out[start..]).map(|written| written.len()) {
        Ok(length) => out.truncate(start + length),
        Err(postcard::Error::SerializeBufferFull) => {
            out.truncate(start);
            postcard::serialize_with_flavor(value, Append(out))?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Serialises to the end of a buffer that stays the caller's.
struct Append<'a>(&'a mut BytesMut);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.extend_from_slice(&[byte]);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
