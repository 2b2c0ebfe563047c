//! Reading to the end of a growing buffer, without zeroing it first.

use std::io;
use std::os::fd::BorrowedFd;

use bytes::BytesMut;

use super::socket;

/// Reads once to the end of `buffer`, which is given room for at least `room` bytes more. 0 is the end of the file.
///
/// # Errors
///
/// What `read` says; `WouldBlock` on an empty non-blocking descriptor.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
    buffer.reserve(room.max(1));
    let n = socket::read(fd, buffer.spare_capacity_mut())?.len();
    // SAFETY: read has filled the first n bytes of the spare room.
    unsafe { buffer.set_len(buffer.len() + n) };
    Ok(n)
}
