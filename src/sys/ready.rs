//! Descriptors that a runtime watches. It neither reads nor writes them.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the current runtime say when a descriptor, which is to be non-blocking, is ready.
///
/// # Errors
///
/// What `epoll_ctl` says: `EPERM` for an ordinary file, `ENOSPC` at the limit of watches.
///
/// # Panics
///
/// Outside a runtime.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, keeps its number and its description, and stays so inside the AsyncFd, which owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
