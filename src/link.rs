//! Moves frames over a byte stream, both ways, for the parent. It decides nothing: what a frame means, and what to do
//! when the stream ends, is its owner's business.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use nix::sys::socket::{MsgFlags, send, sendmsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::codec::Decoder;

use crate::blob::LARGE;
use crate::sys::{buffer, ready};
use crate::wire::chain::Chain;
use crate::wire::codec::{Codec, Message, Unsendable, Violation, excerpt, take_magic};
use crate::wire::frame::{ToParent, ToWorker};
use crate::wire::payload::Payload;

/// How much room a read is given. More finds no more in a socket of default size; less costs system calls.
const READ: usize = 64 << 10;

/// The largest buffer that is kept for what comes next; what one large message took is let go of.
const KEPT: usize = 1 << 20;

/// A byte stream, as a link needs it.
pub(crate) trait Stream: Send {
    /// Reads once to the end of `buffer`; 0 bytes are the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>>;

    /// Writes once.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Writes once, from several pieces if it can.
    fn poll_write_pieces(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, pieces.first().map_or(&[], |piece| piece))
    }

    /// As `poll_read`, but asks the kernel itself and not what a reactor last heard of it: after the writer's death
    /// this finds everything that it wrote. `WouldBlock` when there is nothing.
    fn read_now(&mut self, buffer: &mut BytesMut) -> io::Result<usize>;
}

/// One end of a socket pair.
///
/// It is registered for reading only: with both directions every read by the peer raises a write edge at our side, a
/// needless wake-up per message that makes a round trip 1.3 times as long. While the socket is full, a duplicate is
/// registered for writing.
pub(crate) struct Socket {
    readable: AsyncFd<Arc<OwnedFd>>,
    writable: Option<AsyncFd<Arc<OwnedFd>>>,
}

/// The parent's end of a link.
pub(crate) struct Link<S> {
    stream: S,
    codec: Codec<ToParent>,
    inbox: BytesMut,
    greeted: bool,
    /// What the worker wrote before its greeting.
    stray: Bytes,
    /// How many bytes came from the greeting on.
    received: u64,
    outbox: Chain,
    /// What comes behind it: with bulk, that is put into the outbox piece by piece.
    loaded: Outbox,
}

/// What is to be sent through a link, as its owner gathers it: small frames as bytes, bulk as it is.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: BytesMut,
    bulk: VecDeque<Bulk>,
    /// How many of the bytes stand before the last bulk.
    marked: usize,
}

/// A frame with a large body.
struct Bulk {
    /// How many bytes stand between the bulk before it and this.
    before: usize,
    frame: ToWorker,
    body: Payload,
}

impl<S: Stream> Link<S> {
    pub(crate) fn new(stream: S, limit: u32) -> Self {
        Self {
            stream,
            codec: Codec::new(limit),
            inbox: BytesMut::new(),
            greeted: false,
            stray: Bytes::new(),
            received: 0,
            outbox: Chain::default(),
            loaded: Outbox::default(),
        }
    }

    /// Reads once and appends the frames that are complete to `batch`. `false` is the end of the stream.
    ///
    /// # Errors
    ///
    /// The rule that the worker broke. The frames before it are in the batch.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Message<ToParent, Payload>>,
    ) -> Poll<Result<bool, Violation>> {
        let read = ready!(self.stream.poll_read(cx, &mut self.inbox));
        Poll::Ready(self.received(read, batch))
    }

    /// Appends what a dead worker has left behind to `batch`.
    ///
    /// # Errors
    ///
    /// As `poll_receive`.
    pub(crate) fn drain(&mut self, batch: &mut Vec<Message<ToParent, Payload>>) -> Result<(), Violation> {
        loop {
            match self.stream.read_now(&mut self.inbox) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                read => {
                    if !self.received(read, batch)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Appends what a dead worker had said and not written. `kept` is asked for what follows the bytes that came.
    ///
    /// # Errors
    ///
    /// As `poll_receive`.
    pub(crate) fn recover(
        &mut self,
        kept: impl FnOnce(u64) -> Vec<u8>,
        batch: &mut Vec<Message<ToParent, Payload>>,
    ) -> Result<(), Violation> {
        if self.greeted {
            self.inbox.extend_from_slice(&kept(self.received));
            self.decode(batch)?;
        }
        Ok(())
    }

    /// Whether there is nothing left to send.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outbox.is_empty() && self.loaded.is_empty()
    }

    /// Takes over what is to be sent; only when flushed. `outbox` gets an empty buffer in exchange.
    pub(crate) fn load(&mut self, outbox: &mut Outbox) {
        if outbox.bulk.is_empty() {
            std::mem::swap(self.outbox.end(), &mut outbox.bytes);
        } else {
            std::mem::swap(&mut self.loaded, outbox);
        }
    }

    /// Writes until all is sent or the stream is full.
    ///
    /// # Errors
    ///
    /// What the stream says. Nothing can be sent any more, but what the worker wrote can still be received.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.outbox.is_empty() {
                if self.loaded.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.stage();
            }
            let written = match self.outbox.single() {
                Some(bytes) => self.stream.poll_write(cx, bytes),
                None => {
                    let (slices, n) = self.outbox.slices();
                    self.stream.poll_write_pieces(cx, &slices[..n])
                }
            };
            match ready!(written) {
                Ok(n) => self.outbox.advance(n, KEPT),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Puts what was loaded into the outbox, up to the first bulk and that.
    fn stage(&mut self) {
        let Some(Bulk { before, frame, body }) = self.loaded.bulk.pop_front() else {
            return std::mem::swap(self.outbox.end(), &mut self.loaded.bytes);
        };
        self.loaded.marked -= before;
        self.outbox.end().extend_from_slice(&self.loaded.bytes.split_to(before));
        let sent = self.codec.encode_head(&frame, self.outbox.end(), body.len());
        // Sizes are checked where inputs are encoded.
        debug_assert!(sent.is_ok(), "{sent:?}");
        for piece in body.pieces() {
            self.outbox.push(piece.clone());
        }
    }

    /// What the worker wrote where a greeting belongs.
    pub(crate) fn stray(&self) -> Option<String> {
        let stray = if self.greeted { &self.stray } else { &self.inbox[..] };
        (!stray.is_empty()).then(|| excerpt(stray))
    }

    fn received(
        &mut self,
        read: io::Result<usize>,
        batch: &mut Vec<Message<ToParent, Payload>>,
    ) -> Result<bool, Violation> {
        match read {
            Ok(0) => return Ok(false),
            Ok(n) => self.received += n as u64,
            // A worker that is killed with unread frames in its socket resets the connection: it is gone all the same.
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if !self.greeted {
            let Some(stray) = take_magic(&mut self.inbox)? else { return Ok(true) };
            self.greeted = true;
            self.received -= stray.len() as u64;
            self.stray = stray;
        }
        self.decode(batch)?;
        Ok(true)
    }

    fn decode(&mut self, batch: &mut Vec<Message<ToParent, Payload>>) -> Result<(), Violation> {
        let mut large = false;
        while let Some(mut message) = self.codec.decode(&mut self.inbox)? {
            large |= message.body.len() > KEPT;
            if !message.body.is_empty() && message.body.len() <= LARGE {
                message.body = Bytes::copy_from_slice(&message.body);
            }
            batch.push(Message { frame: message.frame, body: message.body.into() });
        }
        if large {
            self.inbox = BytesMut::from(&self.inbox[..]);
        }
        Ok(())
    }
}

impl Outbox {
    /// Adds a frame.
    ///
    /// # Errors
    ///
    /// As [`Codec::encode_with`]; nothing is added then.
    pub(crate) fn add(
        &mut self,
        codec: &Codec<ToParent>,
        frame: &ToWorker,
        body: &[u8],
    ) -> Result<(), Unsendable> {
        codec.encode_with(frame, &mut self.bytes, |bytes| {
            bytes.extend_from_slice(body);
            Ok(())
        })
    }

    /// Adds a frame with a large body, which is neither copied nor encoded yet.
    pub(crate) fn add_bulk(&mut self, frame: ToWorker, body: Payload) {
        let before = self.bytes.len() - std::mem::replace(&mut self.marked, self.bytes.len());
        self.bulk.push_back(Bulk { before, frame, body });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.bulk.is_empty()
    }
}

/// Whether an error of a stream means that the other end is closed.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

impl Socket {
    /// Registers a non-blocking socket with the current runtime.
    ///
    /// # Errors
    ///
    /// What epoll says.
    ///
    /// # Panics
    ///
    /// Outside a runtime, or when the runtime's I/O is not enabled.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { readable: ready::watch(fd, Interest::READABLE)?, writable: None })
    }

    // Not write(2): a host program may have set SIGPIPE back to its default.
    fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.readable.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?)
    }

    fn write_pieces_now(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(sendmsg::<()>(self.readable.as_raw_fd(), pieces, &[], MsgFlags::MSG_NOSIGNAL, None)?)
    }

    /// Writes `length` bytes with `write`, or waits until that is possible.
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        write: impl Fn(&Self) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(self) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => {
                    if result.as_ref().is_ok_and(|n| *n == length) {
                        self.writable = None;
                    }
                    return Poll::Ready(result);
                }
            }
            if self.writable.is_none() {
                let duplicate = self.readable.as_fd().try_clone_to_owned()?;
                self.writable = Some(ready::watch(duplicate, Interest::WRITABLE)?);
            }
            let Some(writable) = &self.writable else { continue };
            // Cleared before the next attempt to write: an edge that comes in between is not lost.
            ready!(writable.poll_write_ready(cx))?.clear_ready();
        }
    }
}

impl Stream for Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.readable.poll_read_ready(cx))?;
            match buffer::read(self.readable.as_fd(), buffer, READ) {
                // Less than there was room for: the socket is empty, and what comes next raises a new edge. That saves a
                // read that finds nothing, per message. (It would be wrong if descriptors came: a read ends behind one.)
                Ok(n) if 0 < n && n < READ => {
                    ready.clear_ready();
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, bytes.len(), |socket| socket.write_now(bytes))
    }

    fn poll_write_pieces(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        self.poll_write_with(cx, length, |socket| socket.write_pieces_now(pieces))
    }

    fn read_now(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        buffer::read(self.readable.as_fd(), buffer, READ)
    }
}
