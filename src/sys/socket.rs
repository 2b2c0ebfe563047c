//! Reading into memory that nobody has zeroed, and descriptors that travel with the first bytes of a link.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

/// Makes a connected pair of stream sockets, close-on-exec.
///
/// # Errors
///
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Reads once into `buffer` and gives back the part that was filled.
///
/// # Errors
///
/// What `read` says; `WouldBlock` on an empty non-blocking descriptor.
pub(crate) fn read<'a>(fd: BorrowedFd<'_>, buffer: &'a mut [MaybeUninit<u8>]) -> io::Result<&'a mut [u8]> {
    // SAFETY: pointer and length describe memory that is exclusively ours.
    let n = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    let filled = &mut buffer[..n as usize];
    // SAFETY: the kernel has just written these n bytes, and u8 has the layout of MaybeUninit<u8>.
    Ok(unsafe { std::slice::from_raw_parts_mut(filled.as_mut_ptr().cast(), filled.len()) })
}

/// Reads once to the end of `buffer`'s spare room, of which there must be some.
///
/// # Errors
///
/// As [`read`].
pub(crate) fn read_to_vec(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let n = read(fd, buffer.spare_capacity_mut())?.len();
    // SAFETY: read has filled the first n bytes of the spare room.
    unsafe { buffer.set_len(buffer.len() + n) };
    Ok(n)
}

/// Sends all of `bytes`, which must fit the empty socket, and a descriptor with the first of them.
///
/// # Errors
///
/// What `sendmsg` says, or `WriteZero` when the bytes did not fit.
pub(crate) fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let fds = [fd.as_raw_fd()];
    let n = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if n == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives into `bytes`, and the descriptor that came along if there was one.
///
/// # Errors
///
/// What `recvmsg` says; `ENOTSOCK` for a pipe.
pub(crate) fn receive_with(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut room = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut received = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just made these descriptors for us and nobody else owns them.
            received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, received.into_iter().next()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_the_first_bytes_and_bytes_arrive_alone() {
        let (a, b) = pair().unwrap();
        let (c, d) = pair().unwrap();
        send_with(a.as_fd(), b"one", c.as_fd()).unwrap();
        nix::unistd::write(&a, b"two").unwrap();
        let mut bytes = [0; 3];
        let (n, fd) = receive_with(b.as_fd(), &mut bytes).unwrap();
        assert_eq!((n, &bytes), (3, b"one"));
        nix::unistd::write(fd.unwrap(), b"x").unwrap();
        let mut buffer = Vec::with_capacity(8);
        assert_eq!(read_to_vec(d.as_fd(), &mut buffer).unwrap(), 1);
        assert_eq!(read_to_vec(b.as_fd(), &mut buffer).unwrap(), 3);
        assert_eq!(buffer, b"xtwo");
    }
}
