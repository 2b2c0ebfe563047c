//! How a worker ended, in the kernel's words and in ours. It does not say why.

use std::borrow::Cow;
use std::fmt;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// How a worker ended.
///
/// ```
/// use procpool::{Error, Exit};
///
/// fn ran_out_of_time(error: &Error) -> bool {
///     matches!(error.exit(), Some(Exit::Signal { .. })) && error.exit().and_then(|exit| exit.signal()).as_deref() == Some("SIGXCPU")
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether a core was dumped.
        core: bool,
    },
    /// Nobody knows: something else in this process reaped it first.
    Unknown,
    /// It was a thread of the pool's process: see [`PoolBuilder::in_process`](crate::PoolBuilder::in_process).
    Thread,
}

impl Exit {
    /// The exit code, if it exited.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(*code),
            _ => None,
        }
    }

    /// The signal's name, such as `SIGSEGV`, if a signal ended it.
    pub fn signal(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Signal { number, .. } => Some(match Signal::try_from(*number) {
                Ok(signal) => Cow::Borrowed(signal.as_str()),
                Err(_) => Cow::Owned(format!("signal {number}")),
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal { core, .. } => {
                write!(f, "was killed by {}", self.signal().unwrap_or_default())?;
                if *core { f.write_str(" (core dumped)") } else { Ok(()) }
            }
            Self::Thread => f.write_str("ended its thread"),
            Self::Unknown => f.write_str("ended, its status taken by another part of this process"),
        }
    }
}

impl std::error::Error for Exit {}
