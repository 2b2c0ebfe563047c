//! Having the runtime tell when a descriptor can be read or written. It does neither itself.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a non-blocking descriptor with the current runtime until the result is dropped. It is one registration per
/// descriptor, not per open file.
///
/// # Errors
///
/// `EPERM` for what can't be waited for, a regular file for example; `ENOMEM` and `ENOSPC` of the kernel's tables.
///
/// # Panics
///
/// Outside a runtime, or in one without I/O.
pub(crate) fn watch(fd: impl Into<Arc<OwnedFd>>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: an owned descriptor behind an Arc stays the same and open for as long as the registration holds the Arc.
    Ok(unsafe { AsyncFd::register_with_interest(fd.into(), interest) }?)
}
