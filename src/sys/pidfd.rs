//! Descriptors for processes: they become readable when the process has ended, and never mean another process.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// How a process ended and what it used, while it is still a zombie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// `CLD_EXITED`, `CLD_KILLED` or `CLD_DUMPED`.
    pub(crate) code: i32,
    /// The exit code or the signal.
    pub(crate) status: i32,
    /// The most memory that was resident at once, in KiB.
    pub(crate) peak_kib: i64,
}

/// Opens a descriptor for a process.
///
/// # Errors
///
/// `ESRCH` when there is no such process, `ENOSYS` before Linux 5.3, `EMFILE`.
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else owns it. It is close-on-exec from birth.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Looks at how a child ended and leaves it a zombie, so that its process group cannot become a stranger's.
///
/// Returns `None` while it lives.
///
/// # Errors
///
/// `ECHILD` when somebody else has reaped it or `SIGCHLD` is ignored.
pub(crate) fn peek(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    // SAFETY: all-zero bytes are valid values of these plain C structs.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the types that waitid fills in. The system call is used and not the
    // wrapper because only the system call gives the usage as well.
    let result = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            &raw mut info,
            libc::WEXITED | libc::WNOWAIT | libc::WNOHANG,
            &raw mut usage,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled the fields for SIGCHLD, or left the zeros in them.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then_some(Ended { code: info.si_code, status, peak_kib: usage.ru_maxrss }))
}
