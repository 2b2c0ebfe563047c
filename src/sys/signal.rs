//! Signals as a fresh process expects them: what a parent blocked or ignored is inherited over `exec`.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use super::process::exit_now;

/// Unblocks every signal for this thread and lets those that are ignored take effect again.
///
/// Ignored stay SIGPIPE, which Rust's start-up code ignores in every program, and SIGHUP, so that `nohup` reaches as far
/// as its user thinks. Signals with a handler are left alone: handlers do not survive `exec`, so it is this program's own.
///
/// # Errors
///
/// What `pthread_sigmask` says.
pub(crate) fn reset() -> io::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        if number != libc::SIGPIPE && number != libc::SIGHUP {
            heed(number);
        }
    }
    Ok(pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Gives an ignored signal its default effect. Numbers that have none (SIGKILL, the C library's own) are passed over.
fn heed(number: i32) {
    let mut action = DEFAULT;
    // SAFETY: a null new action only asks; the pointer is to a live value of the type that is filled in.
    let known = unsafe { libc::sigaction(number, std::ptr::null(), &raw mut action) } == 0;
    if known && action.sa_sigaction == libc::SIG_IGN {
        set_default(number);
    }
}

/// A signal's default effect, an empty mask, no flags.
// SAFETY: all-zero bytes are a valid sigaction, and mean that.
const DEFAULT: libc::sigaction = unsafe { std::mem::zeroed() };

fn set_default(number: i32) {
    let action = DEFAULT;
    // SAFETY: sets the default effect, which runs no code of ours.
    unsafe { libc::sigaction(number, &raw const action, std::ptr::null_mut()) };
}

/// Ends this process by a signal's default effect, or as a shell would report it if the signal has no such effect.
pub(crate) fn die_of(number: i32) -> ! {
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    set_default(number);
    // SAFETY: sends a signal to ourselves, which touches no memory.
    unsafe { libc::raise(number) };
    exit_now(128 + number)
}

/// Has a write to nobody end this process, as in a program whose `main` wants that. Only tests do.
#[cfg(test)]
pub(crate) fn heed_broken_pipes() {
    set_default(libc::SIGPIPE);
}

/// Runs `start` with every signal blocked, so that a thread that it starts never takes one.
///
/// # Errors
///
/// What `pthread_sigmask` says.
pub(crate) fn with_all_blocked<T>(start: impl FnOnce() -> T) -> io::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let value = start();
    before.thread_set_mask()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigHandler, Signal, signal};

    use super::*;

    #[test]
    fn what_was_blocked_or_ignored_takes_effect_again() {
        // SAFETY: ignoring a signal that nobody sends runs no code.
        let _ = unsafe { signal(Signal::SIGUSR2, SigHandler::SigIgn) }.unwrap();
        SigSet::all().thread_block().unwrap();
        reset().unwrap();
        assert_eq!(SigSet::thread_get_mask().unwrap(), SigSet::empty());
        // SAFETY: as above, for the default effect.
        let before = unsafe { signal(Signal::SIGUSR2, SigHandler::SigDfl) }.unwrap();
        assert!(matches!(before, SigHandler::SigDfl), "{before:?}");
    }
}
