//! What a worker lives in: a process of its own, or a thread of this one. It only tells the two apart.

use std::task::{Context, Poll};

use nix::sys::signal::Signal;

use super::process::{self, Exited, Process};
use super::thread::{self, Thread};

/// What a worker lives in. Dropping it ends the worker, by force if there is one.
#[derive(Debug)]
#[must_use = "dropping it ends the worker"]
pub(crate) enum Body {
    Process(Process),
    Thread(Thread),
}

/// Reaches a worker from anywhere: without a runtime, and when its [`Body`] has gone.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    Process(process::Control),
    Thread(thread::Control),
}

impl Body {
    /// The worker's process, if it has one to itself.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Process(process) => Some(process.pid()),
            Self::Thread(_) => None,
        }
    }

    /// Another handle, which can signal the worker and does not keep it.
    pub(crate) fn control(&self) -> Control {
        match self {
            Self::Process(process) => Control::Process(process.control()),
            Self::Thread(thread) => Control::Thread(thread.control()),
        }
    }

    /// Ends what is left of the worker, and resolves when nothing is: a thread that does not return is waited for.
    ///
    /// # Cancel safety
    ///
    /// It is ended all the same when the future is dropped.
    pub(crate) async fn gone(&self) {
        match self {
            Self::Process(process) => process.gone().await,
            Self::Thread(thread) => thread.gone().await,
        }
    }

    /// Resolves when the worker has ended and what it has left to say is known; from then on always.
    pub(crate) fn poll_exited(&mut self, cx: &mut Context<'_>) -> Poll<Exited> {
        match self {
            Self::Process(process) => process.poll_exited(cx),
            Self::Thread(thread) => thread.poll_exited(cx),
        }
    }

    /// The last that the worker has to say for itself: of a process the end of its standard error.
    pub(crate) fn last_words(&self) -> String {
        match self {
            Self::Process(process) => process.stderr_tail(),
            Self::Thread(thread) => thread.words().to_owned(),
        }
    }

    /// The same, and what came before as far as it is kept.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Process(process) => process.stderr_kept(),
            Self::Thread(thread) => thread.words().to_owned(),
        }
    }
}

impl Control {
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Process(process) => Some(process.pid()),
            Self::Thread(_) => None,
        }
    }

    /// Whether it is a process, and that of a worker's guardian.
    pub(crate) fn is_guardian(&self) -> bool {
        match self {
            Self::Process(process) => process.is_guardian(),
            Self::Thread(_) => false,
        }
    }

    /// Signals a process and its group. To a thread every signal is the end of its link.
    pub(crate) fn signal(&self, signal: Signal) {
        match self {
            Self::Process(process) => process.signal(signal),
            Self::Thread(thread) if signal == Signal::SIGKILL => thread.cut(),
            Self::Thread(thread) => thread.hang_up(),
        }
    }

    /// Ends the worker, even if its `Body` is never dropped.
    pub(crate) fn release(&self) {
        match self {
            Self::Process(process) => process.release(),
            Self::Thread(thread) => thread.cut(),
        }
    }
}
