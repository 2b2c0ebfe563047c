//! How a worker or its guardian knows that it is one: by the name under which it was executed. The environment says nothing about it,
//! since whatever a worker starts inherits that.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use nix::sys::signal::Signal;

use crate::id::WorkerId;

/// What the name of a worker begins with.
const WORKER: &str = "procpool-worker:";
/// What the name of a worker's guardian begins with.
const GUARDIAN: &str = "procpool-guard:";

/// What ends a guardian, and everybody that it guards. It ends a process also before that has learnt what it is.
pub(crate) const END: Signal = Signal::SIGUSR1;

/// The `argv[0]` under which the process `parent` executes the worker of this serial number.
pub(crate) fn format(parent: u32, serial: u32) -> String {
    format!("{WORKER}{parent}:{serial}")
}

/// The `argv[0]` under which the process `parent` executes a guardian, which will execute the worker.
pub(crate) fn format_guardian(parent: u32, worker: WorkerId) -> String {
    format!("{GUARDIAN}{parent}:{}", worker.serial)
}

/// The parent's process id, if this is the `argv[0]` of a worker.
pub(crate) fn parse(arg0: &OsStr) -> Option<u32> {
    parse_as(WORKER, arg0).map(|(parent, _)| parent)
}

/// The parent's process id and the worker's serial number, if this is the `argv[0]` of a guardian.
pub(crate) fn parse_guardian(arg0: &OsStr) -> Option<(u32, u32)> {
    parse_as(GUARDIAN, arg0)
}

fn parse_as(prefix: &str, arg0: &OsStr) -> Option<(u32, u32)> {
    let rest = arg0.as_bytes().strip_prefix(prefix.as_bytes())?;
    let (parent, serial) = std::str::from_utf8(rest).ok()?.split_once(':')?;
    let parent = parent.parse().ok().filter(|parent| *parent > 0)?;
    Some((parent, serial.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_formatted_can_be_parsed_and_other_names_are_no_workers() {
        assert_eq!(parse(format(4711, 3).as_ref()), Some(4711));
        let guardian = format_guardian(4711, WorkerId::new(3, 0));
        assert_eq!((parse(guardian.as_ref()), parse_guardian(guardian.as_ref())), (None, Some((4711, 3))));
        assert_eq!(parse_guardian(format(4711, 3).as_ref()), None);
        let others = ["", "procpool", "/usr/bin/procpool-worker", "procpool-worker:", "procpool-worker:1"];
        for other in
            others.into_iter().chain(["procpool-worker:x:1", "procpool-worker:0:1", "procpool-worker:1:"])
        {
            assert_eq!(parse(other.as_ref()), None, "{other:?}");
        }
    }
}
