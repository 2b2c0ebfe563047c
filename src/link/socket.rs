//! The byte stream under a link: reads and writes once, or waits until that is possible. It knows no frames.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use nix::sys::socket::{MsgFlags, send, sendmsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::{buffer, ready};

/// How much room a read is given. More finds no more in a socket of default size; less costs system calls.
const READ: usize = 64 << 10;

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
