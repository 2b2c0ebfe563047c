//! Descriptors by number: only here does a number become a claim of ownership.

use std::fs;
use std::os::fd::RawFd;

/// How far to look where `/proc` is missing: more than any program has open when it begins.
const BLIND: RawFd = 1024;

/// Closes every descriptor from 3 on that is not close-on-exec: those that came over `exec` from whoever started us.
/// What this program has opened itself is close-on-exec and stays, a running runtime's own for example.
pub(crate) fn close_inherited() {
    let listed = fs::read_dir("/proc/self/fd").map(|entries| {
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect::<Vec<RawFd>>()
    });
    for fd in listed.unwrap_or_else(|_| (3..BLIND).collect()) {
        if fd >= 3 && came_over_exec(fd) {
            // SAFETY: it is open, came from another program, and nothing in this one knows of it: it is the first thing
            // that this program does.
            unsafe { libc::close(fd) };
        }
    }
}

/// Whether this is an open descriptor without the close-on-exec flag.
fn came_over_exec(fd: RawFd) -> bool {
    // SAFETY: F_GETFD reads a flag, of whatever the number stands for, and touches no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}
