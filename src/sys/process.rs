//! What the kernel tells about processes, and the way out of our own that runs nobody's code.

use std::{fs, io};

/// When a process was started, in clock ticks since boot. Together with the pid it names a process for good.
///
/// # Errors
///
/// `NotFound` when there is no such process or no `/proc`; `InvalidData` when the kernel's answer is not understood.
pub(crate) fn start_time(pid: u32) -> io::Result<u64> {
    /// Field 22, counted from behind the command's name, which is field 2 and may contain anything.
    const START: usize = 22 - 3;

    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    fields
        .and_then(|fields| fields.split_ascii_whitespace().nth(START))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in the process's status"))
}

/// Ends this process at once: no exit handlers, no destructors, nothing flushed.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_start_time_that_stays_and_a_missing_one_has_none() {
        let own = start_time(std::process::id()).unwrap();
        assert_eq!(start_time(std::process::id()).unwrap(), own);
        assert!(own > 0);
        assert_eq!(start_time(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
