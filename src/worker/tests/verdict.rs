//! What comes of a task.

use super::parent::{Parent, hello, myself};
use super::tasks::{About, Big, Meet, Noop, Panic, Sum, Undecodable, Where, checksum};
use crate::wire::frame::{Limits, Run, ToWorker, Verdict};

#[test]
fn outputs_come_back_in_the_order_of_the_runs() {
    let mut parent = Parent::start();
    let payload = |n: usize| vec![n as u8; n * 7];
    let ids: Vec<_> = (0..200).map(|n| parent.run(&Sum(payload(n)))).collect();
    for (n, id) in ids.into_iter().enumerate() {
        let done = parent.done();
        assert_eq!(done.task, id);
        assert_eq!(done.value::<Sum>(), (checksum(&payload(n)), payload(n)));
    }
    assert_eq!(parent.page.begun().load(std::sync::atomic::Ordering::SeqCst), 200);
    parent.drain();
}

#[test]
fn a_task_knows_its_attempt_its_depth_and_its_deadline() {
    let mut parent = Parent::start();
    let (id, message) = parent.run_frame(&About());
    let ToWorker::Run(run) = message.frame else { unreachable!() };
    for remaining_us in [None, Some(60_000_000), Some(u64::MAX)] {
        let frame = ToWorker::Run(Run { attempt: 3, remaining_us, ..run });
        parent.say(frame);
        let done = parent.done();
        assert_eq!((done.task, done.attempt), (id, 3));
        assert_eq!(done.value::<About>(), (3, 1, remaining_us.is_some(), false));
    }
    assert_eq!(parent.call(&Meet()).value::<Meet>(), 42);
    parent.drain();
}

#[test]
fn a_panic_wherever_it_happens_fails_its_task_only() {
    let mut parent = Parent::start();
    let cases = [
        (Where::Run, "in run"),
        (Where::AfterAwait, "after an await"),
        (Where::Resumed, "a value that is not text"),
        (Where::Poisonous, "a value that is not text"),
        (Where::OutputDrop, "in drop"),
        (Where::OutputSerialize, "in serialize"),
    ];
    for (place, expected) in cases {
        let verdict = parent.call(&Panic(place)).verdict;
        let Verdict::Panicked { message, location } = verdict else { panic!("{place:?}: {verdict:?}") };
        assert_eq!(message, expected, "{place:?}");
        let told = location.is_some_and(|location| location.contains("tasks.rs:"));
        assert_eq!(told, place != Where::Resumed, "{place:?}");
        assert_eq!(parent.call(&Noop()).verdict, Verdict::Returned);
    }
    let verdict = parent.call(&Undecodable(true)).verdict;
    assert!(
        matches!(&verdict, Verdict::Panicked { message, .. } if message == "in deserialize"),
        "{verdict:?}"
    );
    let stderr = parent.drain();
    assert!(stderr.contains("in run") && stderr.contains("in deserialize"), "{stderr}");
}

#[test]
fn what_cannot_be_decoded_encoded_or_found_says_so() {
    let mut parent = Parent::start();
    assert!(matches!(parent.call(&Undecodable(false)).verdict, Verdict::BadInput { .. }));
    assert!(matches!(parent.call(&Panic(Where::OutputError)).verdict, Verdict::BadOutput { .. }));
    let (_, mut message) = parent.run_frame(&Noop());
    if let ToWorker::Run(run) = &mut message.frame {
        run.index = 4711;
    }
    parent.say(message.frame);
    assert_eq!(parent.done().verdict, Verdict::UnknownTask);
    assert_eq!(parent.call(&Noop()).verdict, Verdict::Returned);
    parent.drain();
}

#[test]
fn an_output_that_is_too_large_fails_its_task_and_a_large_one_arrives() {
    let limits = Limits { message: 1 << 20, slots: 1 };
    let mut parent =
        Parent::start_at("__procpool_worker", crate::wire::frame::Hello { limits, ..hello(vec![myself()]) });
    let verdict = parent.call(&Big(1 << 20)).verdict;
    assert!(matches!(verdict, Verdict::TooLarge { bytes } if bytes > 1 << 20), "{verdict:?}");
    assert_eq!(parent.call(&Big((1 << 20) - 100)).value::<Big>().len(), (1 << 20) - 100);
    parent.drain();
    let mut parent = Parent::start();
    assert_eq!(parent.call(&Big(4 << 20)).value::<Big>().len(), 4 << 20);
    let input = vec![9; 4 << 20];
    let sum = checksum(&input);
    assert_eq!(parent.call(&Sum(input)).value::<Sum>().0, sum);
    parent.drain();
}
