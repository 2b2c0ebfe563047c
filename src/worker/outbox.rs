//! What a worker has said and not written yet. It is kept twice: for the next write, and in memory that survives the worker,
//! so that a task that was finished is answered even if the next one takes the worker with it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send, sendmsg};
use nix::sys::uio::writev;
use nix::unistd::write;

use crate::sys::memory::Page;
use crate::wire::KEPT;
use crate::wire::chain::Chain;
use crate::wire::codec::{self, Codec, Unsendable};
use crate::wire::frame::{ToParent, ToWorker};
use crate::wire::pack;
use crate::wire::payload::Payload;

/// How large a frame of answers grows. In a larger one, more is lost with a worker that is killed just while it grows.
const GROWS: usize = 8 << 10;

#[derive(Debug)]
pub(super) struct Outbox {
    /// From a frame's middle on, perhaps.
    bytes: Chain,
    /// How many bytes were ever said.
    said: u64,
    /// Whether it is written to a pipe, as it is known once that was tried.
    is_pipe: bool,
    /// Where the last frame begins within the last of the bytes, while it may grow: nothing of it is written.
    open: Option<usize>,
    /// Where the parent sees, even when this process is dead, what was said and what has begun.
    page: Option<Page>,
}

impl Outbox {
    pub(super) fn new(page: Option<Page>) -> Self {
        Self { bytes: Chain::default(), said: 0, is_pipe: false, open: None, page }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Notes how many tasks have begun.
    pub(super) fn begun(&self, count: u64) {
        if let Some(page) = &self.page {
            page.begun().store(count, Ordering::Release);
        }
    }

    /// Adds bytes that are no frame.
    pub(super) fn add_raw(&mut self, bytes: &[u8]) {
        let start = self.bytes.end().len();
        self.bytes.end().extend_from_slice(bytes);
        self.keep(start);
    }

    /// Adds a frame.
    ///
    /// # Errors
    ///
    /// As [`Codec::encode_with`]; nothing is added then.
    pub(super) fn add(
        &mut self,
        codec: &Codec<ToWorker>,
        frame: &ToParent,
        body: &[u8],
    ) -> Result<(), Unsendable> {
        let start = self.bytes.end().len();
        codec.encode_with(frame, self.bytes.end(), |bytes| {
            bytes.extend_from_slice(body);
            Ok(())
        })?;
        self.keep(start);
        Ok(())
    }

    /// Adds an answer of a pack to the frame of those before it, or to a new one.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub(super) fn add_answer(
        &mut self,
        codec: &Codec<ToWorker>,
        frame: impl FnOnce() -> ToParent,
        (head, answer): ([u8; pack::ANSWER], &[u8]),
    ) -> Result<(), Unsendable> {
        let (end, more) = (self.bytes.end().len(), head.len() + answer.len());
        let grows = self.open.filter(|open| codec.fits(end - open + more) && end - open < GROWS);
        let Some(open) = grows else {
            codec.encode_with(&frame(), self.bytes.end(), |bytes| {
                bytes.extend_from_slice(&head);
                bytes.extend_from_slice(answer);
                Ok(())
            })?;
            self.keep(end);
            self.open = Some(end);
            return Ok(());
        };
        let bytes = self.bytes.end();
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(answer);
        let length = codec::set_length(&mut bytes[open..]);
        if let Some(page) = &self.page {
            let begins = self.said - (end - open) as u64;
            // From where they were copied before, not from where they were only just copied to: that is slow.
            page.extend(self.said, [&head, answer], begins, length);
        }
        self.said += more as u64;
        Ok(())
    }

    /// Adds a frame with a large body, which is not copied.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub(super) fn add_bulk(
        &mut self,
        codec: &Codec<ToWorker>,
        frame: &ToParent,
        body: Payload,
    ) -> Result<(), Unsendable> {
        let start = self.bytes.end().len();
        codec.encode_head(frame, self.bytes.end(), body.len())?;
        self.keep(start);
        for piece in body.pieces() {
            self.push(piece.clone());
        }
        Ok(())
    }

    /// Writes until all is written.
    ///
    /// # Errors
    ///
    /// What `write` says; `WouldBlock` when the parent has to read first.
    pub(super) fn write(&mut self, output: &OwnedFd) -> io::Result<()> {
        self.open = None;
        while !self.bytes.is_empty() {
            match self.write_once(output).map_err(io::Error::from) {
                Ok(n) => self.bytes.advance(n, KEPT),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if let (true, Some(page)) = (self.bytes.is_empty(), &self.page) {
                page.written(self.said);
            }
        }
        Ok(())
    }

    /// A thread shares its process with programs that may have set SIGPIPE back to its default: a socket is not written to as
    /// a file would be.
    fn write_once(&mut self, output: &OwnedFd) -> nix::Result<usize> {
        let single = self.bytes.single();
        if !self.is_pipe {
            let (socket, flags) = (output.as_raw_fd(), MsgFlags::MSG_NOSIGNAL);
            let sent = match single {
                Some(bytes) => send(socket, bytes, flags),
                None => {
                    let (slices, n) = self.bytes.slices();
                    sendmsg::<()>(socket, &slices[..n], &[], flags, None)
                }
            };
            if sent != Err(Errno::ENOTSOCK) {
                return sent;
            }
            self.is_pipe = true;
        }
        match self.bytes.single() {
            Some(bytes) => write(output, bytes),
            None => {
                let (slices, n) = self.bytes.slices();
                writev(output, &slices[..n])
            }
        }
    }

    /// Nothing is written any more. What is kept stays where the parent finds it.
    pub(super) fn discard(&mut self) {
        self.open = None;
        self.bytes.clear();
    }

    /// Whether there is anything to [take](Self::take_spent).
    pub(super) fn has_spent(&self) -> bool {
        self.bytes.has_spent()
    }

    /// As [`Chain::take_spent`].
    pub(super) fn take_spent(&mut self) -> Vec<Bytes> {
        self.bytes.take_spent()
    }

    /// Adds bulk as it is.
    fn push(&mut self, piece: Bytes) {
        self.open = None;
        if let Some(page) = &self.page {
            page.keep(self.said, &piece);
        }
        self.said += piece.len() as u64;
        self.bytes.push(piece);
    }

    fn keep(&mut self, start: usize) {
        self.open = None;
        let added = &self.bytes.end()[start..];
        if let Some(page) = &self.page {
            page.keep(self.said, added);
        }
        self.said += added.len() as u64;
    }
}
