//! Descriptors for processes: they become readable when the process has ended, and never mean another process. It looks
//! and signals; it does not reap.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::signal::Signal;

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
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
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
/// `ECHILD` when somebody else has reaped it or `SIGCHLD` is ignored; `EINVAL` before Linux 5.4.
pub(crate) fn peek(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    wait(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t)
}

/// As [`peek`], for where there are no such descriptors. When somebody else reaps our children, a later child of ours may
/// have the same pid.
///
/// # Errors
///
/// `ECHILD` as above.
pub(crate) fn peek_pid(pid: u32) -> io::Result<Option<Ended>> {
    wait(libc::P_PID, pid)
}

/// As [`peek`], at any child that has ended: which one, and how.
///
/// # Errors
///
/// `ECHILD` when there are no children.
pub(crate) fn peek_any() -> io::Result<Option<(u32, Ended)>> {
    wait_for(libc::P_ALL, 0, libc::WNOWAIT)
}

/// Reaps a child that has ended; `None` while it lives. Its number may then become another's.
///
/// # Errors
///
/// `ECHILD` as above.
pub(crate) fn reap(pid: u32) -> io::Result<Option<Ended>> {
    Ok(wait_for(libc::P_PID, pid, 0)?.map(|(_, ended)| ended))
}

fn wait(kind: libc::idtype_t, id: libc::id_t) -> io::Result<Option<Ended>> {
    Ok(wait_for(kind, id, libc::WNOWAIT)?.map(|(_, ended)| ended))
}

fn wait_for(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<(u32, Ended)>> {
    // SAFETY: all-zero bytes are valid values of these plain C structs.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the types that waitid fills in. The system call is used and not the
    // wrapper because only the system call gives the usage as well.
    let result = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            kind,
            id,
            &raw mut info,
            libc::WEXITED | libc::WNOHANG | flags,
            &raw mut usage,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled the fields for SIGCHLD, or left the zeros in them.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let ended = Ended { code: info.si_code, status, peak_kib: usage.ru_maxrss };
    Ok((pid != 0).then_some((pid.unsigned_abs(), ended)))
}

/// Sends a signal to the process group that the process founded. It reaches what is left of that group, and only that,
/// even after the process has been reaped.
///
/// # Errors
///
/// `ESRCH` when the group is empty; `EINVAL` before Linux 6.9, `ENOSYS` before 5.1.
pub(crate) fn signal_group(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    /// `PIDFD_SIGNAL_PROCESS_GROUP` of the kernel's headers.
    const PROCESS_GROUP: libc::c_uint = 1 << 2;
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without a siginfo the call takes integers only and touches no memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as libc::c_int,
            info,
            PROCESS_GROUP,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn an_ended_child_can_be_looked_at_again_and_again_until_it_is_reaped() {
        let mut child = Command::new("/bin/sh").args(["-c", "kill -TERM $$"]).spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        let mut fds = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut fds, 10_000_u16).unwrap(), 1);
        for ended in [peek(pidfd.as_fd()), peek_pid(child.id()), peek(pidfd.as_fd())] {
            let ended = ended.unwrap().unwrap();
            assert_eq!((ended.code, ended.status), (libc::CLD_KILLED, libc::SIGTERM));
            assert!(ended.peak_kib > 0);
        }
        child.wait().unwrap();
        assert_eq!(peek(pidfd.as_fd()).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn a_signal_reaches_the_group_also_after_its_leader_was_reaped() {
        let mut child =
            Command::new("/bin/sh").args(["-c", "sleep 60 & exit 3"]).process_group(0).spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(3));
        match signal_group(pidfd.as_fd(), Signal::SIGKILL) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return, // An old kernel.
            Err(error) => panic!("{error}"),
        }
        let give_up = Instant::now() + Duration::from_secs(10);
        // The group lives as long as a zombie is in it: process 1 has to reap what we have orphaned.
        while signal_group(pidfd.as_fd(), Signal::SIGKILL).is_ok() {
            assert!(Instant::now() < give_up, "the group is still there");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_living_child_has_not_ended_and_a_stranger_is_no_child() {
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        assert_eq!(peek(pidfd.as_fd()).unwrap(), None);
        assert_eq!(peek_pid(child.id()).unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
        let ourselves = open(std::process::id()).unwrap();
        assert_eq!(peek(ourselves.as_fd()).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }
}
