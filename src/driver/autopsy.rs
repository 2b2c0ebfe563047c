//! What may have been behind a worker's death, told from how it ended, from the kernel's counters and from its last words.
//! A hint for people: a worker can write anything, so it never decides what kind of error there is.

use std::borrow::Cow;

use nix::sys::signal::Signal;

use crate::error::Exit;

/// What the standard library writes before it aborts.
const OVERFLOWED: &str = "has overflowed its stack";
const NO_MEMORY: &str = "memory allocation of ";
const PANICKED: &str = "panicked at ";

/// How a program exits when its main thread has panicked.
const PANIC_CODE: i32 = 101;

/// How much of a panic's text a hint shows, in characters.
const TEXT: usize = 160;

/// The most likely reason, if anything points to one. `oom_kills`: how often the kernel's out-of-memory killer has struck
/// near the worker in its time. A worker that we killed died of that.
pub(super) fn hint(
    exit: Option<Exit>,
    ours: bool,
    stderr: &str,
    oom_kills: u64,
) -> Option<Cow<'static, str>> {
    if ours {
        return None;
    }
    match exit? {
        Exit::Code(PANIC_CODE) => panic(stderr),
        Exit::Signal { number, .. } => match Signal::try_from(number).ok()? {
            Signal::SIGKILL if oom_kills > 0 => Some(
                "out of memory: the kernel's out-of-memory killer has struck in its control group meanwhile"
                    .into(),
            ),
            Signal::SIGABRT | Signal::SIGSEGV | Signal::SIGBUS if said(stderr, OVERFLOWED).is_some() => {
                Some("its stack overflowed".into())
            }
            Signal::SIGABRT => match said(stderr, NO_MEMORY) {
                Some((_, line, _)) => Some(format!("out of memory: {}", short(line)).into()),
                None => panic(stderr),
            },
            Signal::SIGXCPU => Some("it reached its limit on processor time (RLIMIT_CPU)".into()),
            Signal::SIGXFSZ => Some("it reached its limit on the size of files (RLIMIT_FSIZE)".into()),
            Signal::SIGSYS => Some("it made a system call that it may not make".into()),
            _ => None,
        },
        _ => None,
    }
}

/// The last panic whose text is there: the place, and what it says in the line after.
fn panic(stderr: &str) -> Option<Cow<'static, str>> {
    let mut rest = stderr;
    let mut found = None;
    // An abort in a panic that was not to unwind has a panic of its own to tell, which says less.
    while let Some((start, line, after)) = said(rest, PANICKED) {
        let text = after.lines().next().unwrap_or_default();
        if !text.contains("panic in a function that cannot unwind") {
            found = Some((line, text));
            break;
        }
        rest = &rest[..start];
    }
    let (line, text) = found?;
    let place = line.split_once(PANICKED)?.1.trim_end_matches(':');
    Some(format!("it panicked at {place}: {}", short(text)).into())
}

/// The last line that contains this: where it starts, itself, and what follows it.
fn said<'a>(text: &'a str, words: &str) -> Option<(usize, &'a str, &'a str)> {
    let at = text.rfind(words)?;
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let text = &text[start..];
    let end = text.find('\n').unwrap_or(text.len());
    Some((start, &text[..end], text.get(end + 1..).unwrap_or_default()))
}

fn short(text: &str) -> String {
    text.trim().chars().take(TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABORTED: Option<Exit> = Some(Exit::Signal { number: 6, core: false });
    const KILLED: Option<Exit> = Some(Exit::Signal { number: 9, core: false });
    const PANIC: &str =
        "before\nthread 'main' panicked at src/main.rs:5:9:\nit was too much\nnote: run with …\n";

    #[test]
    fn what_the_runtime_says_before_it_aborts_is_a_hint() {
        let overflow = "\nthread 'main' has overflowed its stack\nfatal runtime error: stack overflow\n";
        assert_eq!(hint(ABORTED, false, overflow, 0).unwrap(), "its stack overflowed");
        let memory = "memory allocation of 1048576 bytes failed\n";
        assert_eq!(
            hint(ABORTED, false, memory, 0).unwrap(),
            "out of memory: memory allocation of 1048576 bytes failed"
        );
        assert_eq!(hint(ABORTED, false, "about to abort", 0), None);
    }

    #[test]
    fn the_text_of_a_panic_that_ended_the_process_is_a_hint() {
        for exit in [ABORTED, Some(Exit::Code(101))] {
            assert_eq!(
                hint(exit, false, PANIC, 0).unwrap(),
                "it panicked at src/main.rs:5:9: it was too much"
            );
        }
        let twice = format!(
            "{PANIC}thread 'main' panicked at library/core/src/panicking.rs:225:5:\npanic in a function that cannot unwind\n"
        );
        assert_eq!(
            hint(ABORTED, false, &twice, 0).unwrap(),
            "it panicked at src/main.rs:5:9: it was too much"
        );
        assert_eq!(hint(Some(Exit::Code(101)), false, "", 0), None);
        assert_eq!(hint(Some(Exit::Code(1)), false, PANIC, 0), None, "it went on after that panic");
        assert_eq!(hint(ABORTED, false, "panicked at ", 0).unwrap(), "it panicked at : ");
    }

    #[test]
    fn a_kill_is_out_of_memory_only_if_the_kernel_says_so() {
        assert!(
            hint(KILLED, false, "memory allocation of 5 bytes failed", 1).unwrap().contains("out of memory")
        );
        assert_eq!(hint(KILLED, false, "memory allocation of 5 bytes failed", 0), None);
        assert_eq!(hint(KILLED, true, "", 1), None, "that was us");
        assert_eq!(hint(None, false, PANIC, 1), None);
    }
}
