//! Takes standard input and output away from user code and keeps them as the link. It does not read or write them.

use std::fs::File;
use std::io::{self, Write, stderr, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{dup2_stdin, dup2_stdout};

use crate::sys::descriptors;

/// The worker's end of the link, out of reach of whatever else runs in this process or is started by it.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) input: Arc<OwnedFd>,
    /// Another descriptor than `input`, though perhaps of the same socket: each can be waited for on its own.
    pub(super) output: Arc<OwnedFd>,
}

/// Makes descriptors 0 and 1 harmless and everything inherited beyond 2 go away; what 0 and 1 were is returned.
///
/// # Errors
///
/// When a descriptor is not open or none is left.
pub(super) fn claim() -> io::Result<Ends> {
    // What was printed so far still goes to the link, where the parent tolerates it ahead of the magic. A harness that
    // has printed half a line would else have it at the head of the first line that user code prints.
    let _ = stdout().flush();
    let ends = Ends { input: private(stdin())?, output: private(stdout())? };
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stdout(stderr())?;
    descriptors::close_inherited();
    Ok(ends)
}

fn private(fd: impl AsFd) -> io::Result<Arc<OwnedFd>> {
    fd.as_fd().try_clone_to_owned().map(Arc::new)
}

impl Ends {
    /// From now on reading and writing return instead of waiting.
    ///
    /// # Errors
    ///
    /// What `fcntl` says.
    pub(super) fn unblock(&self) -> io::Result<()> {
        for fd in [&self.input, &self.output] {
            let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
            fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        Ok(())
    }
}
