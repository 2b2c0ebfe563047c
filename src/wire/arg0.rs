//! How a worker knows that it is one: by the name under which it was executed. The environment says nothing about it,
//! since whatever a worker starts inherits that.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::id::WorkerId;

/// What the name begins with.
const PREFIX: &str = "procpool-worker:";

/// The `argv[0]` under which the process `parent` executes its `worker`.
pub(crate) fn format(parent: u32, worker: WorkerId) -> String {
    format!("{PREFIX}{parent}:{}", worker.serial)
}

/// The parent's process id, if this is the `argv[0]` of a worker.
pub(crate) fn parse(arg0: &OsStr) -> Option<u32> {
    let rest = arg0.as_bytes().strip_prefix(PREFIX.as_bytes())?;
    let (parent, serial) = std::str::from_utf8(rest).ok()?.split_once(':')?;
    serial.parse::<u32>().ok()?;
    parent.parse().ok().filter(|parent| *parent > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_formatted_can_be_parsed_and_other_names_are_no_workers() {
        assert_eq!(parse(format(4711, WorkerId::new(3, 0)).as_ref()), Some(4711));
        let others = ["", "procpool", "/usr/bin/procpool-worker", "procpool-worker:", "procpool-worker:1"];
        for other in
            others.into_iter().chain(["procpool-worker:x:1", "procpool-worker:0:1", "procpool-worker:1:"])
        {
            assert_eq!(parse(other.as_ref()), None, "{other:?}");
        }
    }
}
