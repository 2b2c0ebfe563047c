//! Packs, frame by frame: an answer for each task, whatever becomes of it; what has not begun is given back, or dropped.

use std::io::Write;
use std::sync::atomic::Ordering;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use super::parent::{Parent, encode, hello, myself};
use super::tasks::{About, Big, Block, Compute, Panic, Quit, Spin, Sum, Where};
use crate::id::TaskId;
use crate::task::Task;
use crate::wire::codec::Message;
use crate::wire::frame::{Hello, Limits, Pack, Run, ToParent, ToWorker, Verdict};
use crate::wire::pack;
use crate::wire::payload;
use crate::worker::leave;

/// What has become of a task: its output, encoded.
type Answer = Result<Vec<u8>, Verdict>;

/// The frame of a pack with tasks of one type.
fn pack_of<T: Task>(parent: &mut Parent, tasks: &[T]) -> (TaskId, Message<ToWorker>) {
    let (mut body, mut about) = (Vec::new(), None);
    for task in tasks {
        let (_, message) = parent.run_frame(task);
        let ToWorker::Run(Run { task, index, .. }) = message.frame else { unreachable!() };
        assert!(pack::put_input(&mut body, &mut [&[0; pack::INPUT], &message.body[..]].concat()));
        about.get_or_insert((task, index));
    }
    let (task, index) = about.unwrap();
    let frame = Pack { task, attempt: 1, index, first: 0, count: tasks.len() as u32 };
    (task, Message { frame: ToWorker::Pack(frame), body: body.into() })
}

fn run<T: Task>(parent: &mut Parent, tasks: &[T]) -> TaskId {
    let (task, message) = pack_of(parent, tasks);
    parent.link.write_all(&encode(message)).unwrap();
    task
}

/// What the worker says until a pack is over: answers, where it was cut, its end.
fn hear(parent: &mut Parent, pack: TaskId) -> (Vec<Answer>, Option<u32>, Verdict) {
    let (mut answers, mut cut) = (Vec::new(), None);
    loop {
        let Message { frame, body } = parent.hear().expect("the worker has gone");
        match frame {
            ToParent::Answers { task, attempt: 1 } if task == pack => answers.extend(split(&body)),
            ToParent::Cut { task, attempt: 1, from } if task == pack => assert!(cut.replace(from).is_none()),
            ToParent::Done { task, attempt: 1, verdict, .. } if task == pack => {
                return (answers, cut, verdict);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn split(mut body: &[u8]) -> Vec<Answer> {
    assert!(pack::count(body).is_ok());
    let mut answers = Vec::new();
    while let Some((answer, failed)) = pack::split(body) {
        body = &body[pack::ANSWER + answer.len()..];
        answers.push(if failed { Err(payload::decode(answer).unwrap()) } else { Ok(answer.to_vec()) });
    }
    answers
}

fn value<T: DeserializeOwned>(answer: &Answer) -> T {
    payload::decode(answer.as_ref().unwrap()).unwrap()
}

#[test]
fn each_task_of_a_pack_is_answered_and_then_the_pack() {
    let mut parent = Parent::start();
    let tasks: Vec<_> = (0..200).map(|n| Sum(vec![n; 3])).collect();
    let pack = run(&mut parent, &tasks);
    let (answers, _, verdict) = hear(&mut parent, pack);
    assert_eq!(verdict, Verdict::Returned);
    // On a slow machine what is late is given back.
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(value::<(u64, Vec<u8>)>(answer).1, [n as u8; 3]);
    }
    // What comes next counts on from there.
    assert_eq!(parent.call(&Sum(vec![1])).value::<Sum>().1, [1]);
    assert_eq!(parent.page.begun().load(Ordering::SeqCst), 201);
    parent.drain();
}

#[test]
fn a_task_of_a_pack_that_fails_does_not_end_it() {
    let limits = Limits { message: 64 << 10, slots: 1 };
    let mut parent = Parent::start_at("__procpool_worker", Hello { limits, ..hello(vec![myself()]) });
    let pack = run(&mut parent, &[Big(10), Big(100_000), Big(20)]);
    let (answers, cut, verdict) = hear(&mut parent, pack);
    assert_eq!((answers.len(), verdict), (cut.unwrap_or(3) as usize, Verdict::Returned));
    let lengths: Vec<_> = answers.iter().map(|answer| answer.as_ref().map(Vec::len)).collect();
    assert!(matches!(lengths[..], [Ok(11), Err(Verdict::TooLarge { .. }), ..]), "{answers:?}");
    assert!(lengths.get(2).is_none_or(|last| *last == Ok(21)));
    let pack = run(&mut parent, &[Panic(Where::Run), Panic(Where::AfterAwait)]);
    let (answers, cut, _) = hear(&mut parent, pack);
    let first = matches!(&answers[0], Err(Verdict::Panicked { message, .. }) if message.contains("in run"));
    assert!(first && answers.len() == cut.unwrap_or(2) as usize, "{answers:?}");
    parent.drain();
}

#[test]
fn a_task_that_takes_long_has_the_rest_given_back_while_it_runs() {
    let mut parent = Parent::start();
    let pack = run(&mut parent, &[Block(0), Block(400), Block(0), Block(0)]);
    let mut heard = Vec::new();
    while !matches!(heard.last(), Some(ToParent::Cut { .. })) {
        heard.push(parent.frame());
    }
    assert_eq!(heard.last(), Some(&ToParent::Cut { task: pack, attempt: 1, from: 2 }));
    assert!(!heard.iter().any(|frame| matches!(frame, ToParent::Done { .. })), "{heard:?}");
    let (answers, cut, verdict) = hear(&mut parent, pack);
    assert_eq!((answers.last(), cut, verdict), (Some(&Ok(vec![])), None, Verdict::Returned));
    parent.drain();
}

#[test]
fn a_pack_that_is_late_gives_the_rest_back_between_two_tasks() {
    let mut parent = Parent::start();
    let tasks: Vec<_> = (0..50).map(|_| Spin(1)).collect();
    let pack = run(&mut parent, &tasks);
    let (answers, cut, verdict) = hear(&mut parent, pack);
    assert_eq!((Some(answers.len() as u32), verdict), (cut, Verdict::Returned));
    assert!(answers.len() < 10, "{} were run", answers.len());
    parent.drain();
}

#[test]
fn a_pack_that_is_cancelled_ends_and_what_had_not_begun_never_runs() {
    let mut parent = Parent::start();
    let pack = run(&mut parent, &[Compute(), Compute(), Compute()]);
    parent.await_begun(1);
    parent.say(ToWorker::Cancel { task: pack, grace_ms: 20_000 });
    let (answers, _, verdict) = hear(&mut parent, pack);
    // It has heard, and had its last word.
    assert_eq!(answers.len(), 1);
    assert!(matches!(verdict, Verdict::Returned | Verdict::Cancelled { began: false }), "{verdict:?}");
    assert_eq!(parent.page.begun().load(Ordering::SeqCst), 1);
    // One that waits is dropped whole, and one that is asked back comes back whole.
    let running = run(&mut parent, &[Compute()]);
    parent.await_begun(2 + 2);
    let [dropped, asked] = [0, 1].map(|_| run(&mut parent, &[Sum(vec![]), Sum(vec![])]));
    parent.say(ToWorker::Cancel { task: dropped, grace_ms: 0 });
    assert_eq!(hear(&mut parent, dropped).2, Verdict::Cancelled { began: false });
    parent.say(ToWorker::Recall { tasks: vec![asked] });
    assert_eq!(parent.frame(), ToParent::Recalled { tasks: vec![asked] });
    parent.say(ToWorker::Cancel { task: running, grace_ms: 20_000 });
    hear(&mut parent, running);
    parent.drain();
}

#[test]
fn tasks_of_a_pack_have_ids_of_their_own_and_know_their_attempt() {
    let mut parent = Parent::start();
    let (task, message) = pack_of(&mut parent, &[About(), About()]);
    let ToWorker::Pack(frame) = message.frame else { unreachable!() };
    let frame = ToWorker::Pack(Pack { attempt: 3, first: 7, ..frame });
    parent.link.write_all(&encode(Message { frame, body: message.body })).unwrap();
    let Message { frame, body } = parent.hear().unwrap();
    assert_eq!(frame, ToParent::Answers { task, attempt: 3 });
    assert_eq!(value::<(u32, u32, bool, bool)>(&split(&body)[0]), (3, 1, false, false));
}

#[test]
fn what_a_pack_had_answered_survives_the_death_of_its_worker() {
    let mut parent = Parent::start();
    let tasks = [Quit(false), Quit(false), Quit(true), Quit(false)];
    run(&mut parent, &tasks);
    let mut answers = 0;
    while let Some(Message { frame, body }) = parent.hear() {
        assert!(matches!(frame, ToParent::Answers { .. }), "{frame:?}");
        answers += split(&body).len();
    }
    let kept = parent.page.kept(parent.received);
    if !kept.is_empty() {
        let length = u32::from_le_bytes(*kept.first_chunk().unwrap()) as usize;
        assert_eq!(kept.len(), 4 + length, "a frame and nothing else");
        let (frame, body) = postcard::take_from_bytes::<ToParent>(&kept[4..]).unwrap();
        assert!(matches!(frame, ToParent::Answers { .. }), "{frame:?}");
        answers += split(body).len();
    }
    assert_eq!((answers, parent.page.begun().load(Ordering::SeqCst)), (2, 3));
}

#[test]
fn a_worker_that_is_killed_between_two_tasks_leaves_what_can_be_understood() {
    let mut parent = Parent::start();
    let tasks: Vec<_> = (0..250).map(|n| Sum(vec![n; 20])).collect();
    for _ in 0..20 {
        run(&mut parent, &tasks);
    }
    parent.await_begun(100);
    kill(Pid::from_raw(parent.pid() as i32), Signal::SIGKILL).unwrap();
    let mut answers = 0;
    while let Some(Message { frame, body }) = parent.hear() {
        if let ToParent::Answers { .. } = frame {
            answers += split(&body).len();
        }
    }
    let kept = parent.page.kept(parent.received);
    let mut rest = &kept[..];
    while let Some(length) = rest.first_chunk().map(|length| u32::from_le_bytes(*length) as usize) {
        // Cut off only in a frame that was just growing.
        let Some(frame) = rest.get(4..4 + length) else { break };
        if let (ToParent::Answers { .. }, body) = postcard::take_from_bytes(frame).unwrap() {
            answers += split(body).len();
        }
        rest = &rest[4 + length..];
    }
    assert!(answers as u64 <= parent.page.begun().load(Ordering::SeqCst));
}

#[test]
fn a_pack_that_is_not_what_it_says_ends_the_worker_with_a_line() {
    for (count, body) in [(1, &b"\x05\0abc"[..]), (2, b"\x01\0a"), (1, b"\x01\0ab"), (0, b"")] {
        let mut parent = Parent::start();
        let frame = Pack { task: TaskId::new(1, 1), attempt: 1, index: 0, first: 0, count };
        let message = Message { frame: ToWorker::Pack(frame), body: body.into() };
        parent.link.write_all(&encode(message)).unwrap();
        assert!(parent.hear().is_none());
        let (status, stderr) = parent.end();
        assert_eq!(status.code(), Some(leave::MISUNDERSTOOD), "{status}: {stderr}");
    }
}
