//! Nothing that user code prints or reads touches the link, and nothing inherited stays.

use super::parent::Parent;
use super::tasks::{Chatter, Inherited, Noop, Signals};
use crate::wire::frame::Verdict;

#[test]
fn user_code_prints_to_standard_error_and_reads_nothing() {
    let mut parent = Parent::start();
    // Queued behind the reader, so that there is something on the link that it could steal.
    let id = parent.run(&Chatter());
    let next: Vec<_> = (0..10).map(|_| parent.run(&Noop())).collect();
    let done = parent.done();
    assert_eq!(done.task, id);
    assert_eq!(done.value::<Chatter>(), "");
    for id in next {
        let done = parent.done();
        assert_eq!((done.task, done.verdict), (id, Verdict::Returned));
    }
    let stderr = parent.drain();
    for word in ["println", "eprintln", "write", "printf", "echo"] {
        assert!(stderr.lines().any(|line| line.ends_with(word)), "no {word} in {stderr}");
    }
}

#[test]
fn what_was_printed_before_stands_in_front_of_the_magic() {
    let parent = Parent::start();
    assert!(parent.preamble.windows(14).any(|words| words == b"running 1 test"), "{:?}", parent.preamble);
    parent.drain();
}

#[test]
fn inherited_descriptors_are_closed_and_the_own_ones_do_not_pass_on() {
    let (read, write) = nix::unistd::pipe().unwrap();
    let mut parent = Parent::start();
    let open: Vec<String> = parent.call(&Inherited()).value::<Inherited>();
    assert_eq!(open, Vec::<String>::new());
    drop((read, write));
    parent.drain();
}

#[test]
fn signals_take_effect_as_in_a_fresh_process() {
    let mut parent = Parent::start();
    let (mask, ignored) = parent.call(&Signals()).value::<Signals>();
    assert_eq!(u64::from_str_radix(&mask, 16), Ok(0));
    // SIGPIPE stays ignored, SIGHUP if it was, and two signals are the C library's own.
    let kept =
        [libc::SIGPIPE, libc::SIGHUP, 32, 33].into_iter().fold(0, |kept, number| kept | 1 << (number - 1));
    assert_eq!(u64::from_str_radix(&ignored, 16).unwrap() & !kept, 0, "{ignored}");
    parent.drain();
}
