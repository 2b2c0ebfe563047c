//! What the kernel tells about processes, and the way out of our own that runs nobody's code.

use std::str::FromStr;
use std::{fs, io};

use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};

/// When a process was started, in clock ticks since boot. Together with the pid it names a process for good.
///
/// # Errors
///
/// `NotFound` when there is no such process or no `/proc`; `InvalidData` when the kernel's answer is not understood.
pub(crate) fn start_time(pid: u32) -> io::Result<u64> {
    field(pid, 22)
}

/// The children of this process, those included that have ended and are not reaped.
///
/// # Errors
///
/// When there is no `/proc`.
pub(crate) fn children() -> io::Result<Vec<u32>> {
    let own = std::process::id();
    let processes = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(processes.filter(|pid| field::<u32>(*pid, 4).is_ok_and(|parent| parent == own)).collect())
}

/// The most memory that this process has had resident at once, in KiB.
///
/// # Errors
///
/// When there is no `/proc`; `InvalidData` when the kernel's answer is not understood.
pub(crate) fn peak_kib() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the process's status is not understood"))
}

/// A field of a process's status, counted from 1 as in its manual page; from the third on.
fn field<T: FromStr>(pid: u32, number: usize) -> io::Result<T> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second is the command's name, which may contain anything.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    fields
        .and_then(|fields| fields.split_ascii_whitespace().nth(number - 3))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the process's status is not understood"))
}

/// How many bytes of a process are resident in memory, shared ones included. `None` when there is no such process, or no
/// `/proc` that would tell.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(u64::try_from(page).ok()?)
}

/// Adds to the niceness of the calling thread, and of what it starts from now on. The value stays within the kernel's bounds.
///
/// # Errors
///
/// `EPERM` when it would become less nice than it may.
pub(crate) fn nice(increment: i32) -> io::Result<()> {
    // The result can be -1 in earnest.
    Errno::clear();
    // SAFETY: takes a number and changes no memory of ours.
    let nice = unsafe { libc::nice(increment) };
    match Errno::last_raw() {
        code if nice == -1 && code != 0 => Err(io::Error::from_raw_os_error(code)),
        _ => Ok(()),
    }
}

/// Has the calling thread run soon whenever it wakes, in exchange for running shortly: its slice of the processor becomes
/// the shortest that the kernel gives, 0.1 ms. Its share stays the same. Before Linux 6.12 nothing changes.
///
/// # Errors
///
/// `ENOSYS` and `EPERM` in sandboxes.
pub(crate) fn run_shortly() -> io::Result<()> {
    /// `struct sched_attr` in its first version.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime_ns: u64,
        deadline_ns: u64,
        period_ns: u64,
    }
    let size = size_of::<Attributes>() as u32;
    let mut attributes = Attributes { size, ..Attributes::default() };
    // SAFETY: the kernel fills in no more than the size that it is told, of a live value of that layout.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.runtime_ns = 100_000;
    // SAFETY: reads a live value of the size that it states, and concerns this thread's scheduling only.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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
    fn a_thread_can_be_made_nicer_than_the_others() {
        let niceness = |thread: &str| -> i32 {
            let stat = fs::read_to_string(format!("/proc/{thread}/stat")).unwrap();
            stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(16).unwrap().parse().unwrap()
        };
        let before = niceness("thread-self");
        let after = std::thread::spawn(move || nice(3).map(|()| niceness("thread-self"))).join().unwrap();
        assert_eq!(after.unwrap(), (before + 3).min(19));
        assert_eq!(niceness("thread-self"), before);
    }

    #[test]
    fn a_thread_that_runs_shortly_keeps_its_policy_and_niceness() {
        let shown = || -> Vec<String> {
            let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
            let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
            // Niceness, real-time priority and policy.
            [16, 37, 38].map(|field| fields[field].to_owned()).to_vec()
        };
        let ran = std::thread::spawn(move || {
            nice(2).unwrap();
            let before = shown();
            run_shortly().map(|()| (before, shown()))
        });
        let (before, after) = ran.join().unwrap().unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn children_are_found_until_they_are_reaped() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        assert!(children().unwrap().contains(&child.id()));
        child.wait().unwrap();
        assert!(!children().unwrap().contains(&child.id()));
    }

    #[test]
    fn a_process_has_resident_memory_that_grows_and_a_missing_one_has_none() {
        let before = resident(std::process::id()).unwrap();
        let _used = std::hint::black_box(vec![7_u8; 64 << 20]);
        assert!(resident(std::process::id()).unwrap() > before.max(60 << 20), "{before}");
        assert_eq!(resident(u32::MAX), None);
    }

    #[test]
    fn a_process_has_a_start_time_that_stays_and_a_missing_one_has_none() {
        let own = start_time(std::process::id()).unwrap();
        assert_eq!(start_time(std::process::id()).unwrap(), own);
        assert!(own > 0);
        assert_eq!(start_time(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
