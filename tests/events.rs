//! What a pool tells those who listen: each worker's beginning and end, its own bad times, and how its end went.

mod support;

use std::time::Duration;

use futures::stream::FusedStream;
use futures::{FutureExt, StreamExt};
use procpool::{ErrorKind, Event, Events, Leave, Pool, Summary, WorkerId};
use support::*;

procpool::worker_test!(gated());

/// The first event that is wanted, with what came before it.
async fn find<T>(events: &mut Events, want: impl Fn(&Event) -> Option<T>) -> (T, Vec<Event>) {
    let mut before = Vec::new();
    loop {
        let event = events.next().await.unwrap_or_else(|| panic!("it never came: {before:?}"));
        if let Some(found) = want(&event) {
            return (found, before);
        }
        before.push(event);
    }
}

#[test]
fn a_worker_is_told_of_from_its_start_to_its_end() {
    on_both_runtimes(|| async {
        let pool = quick(1).build().await.unwrap();
        let mut events = pool.events();
        let death = pool.run(Die::Exit(3));
        let id = death.id().unwrap();
        death.await.unwrap_err();
        let Event::Lost { worker: lost, error, tasks, .. } = events.next().await.unwrap() else { panic!() };
        assert_eq!((error.kind(), error.exit().and_then(|exit| exit.code())), (ErrorKind::Crashed, Some(3)));
        assert_eq!((error.worker_id(), tasks), (Some(lost), vec![id]));
        assert!(error.to_string().contains("exited with code 3"), "{error}");
        let Event::Started { worker, pid, .. } = events.next().await.unwrap() else { panic!() };
        assert!(worker != lost);
        assert!(
            matches!(events.next().await, Some(Event::Opened { worker: opened, .. }) if opened == worker)
        );
        assert_eq!(Some(pool.run(Pid).await.unwrap()), pid);
        pool.drain().await;
        assert!(matches!(events.next().await, Some(Event::Closing)));
        let left = events.next().await;
        let right = |id: WorkerId, reason: Leave| id == worker && reason == Leave::Closing;
        assert!(
            matches!(left, Some(Event::Left { worker, reason, .. }) if right(worker, reason)),
            "{left:?}"
        );
        assert!(matches!(events.next().await, Some(Event::Closed)));
        assert!(!events.is_terminated());
        assert!(events.next().await.is_none() && events.next().await.is_none());
        assert!(events.is_terminated());
        assert!(pool.events().next().await.is_none(), "it is over for who comes late");
    });
}

#[test]
fn a_worker_that_is_killed_over_a_task_is_told_with_it() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("spin");
        let pool = quick(1).build().await.unwrap();
        let mut events = pool.events();
        let run = pool.with_timeout(Duration::from_millis(50)).run(Spin { note: path, polite: false });
        let id = run.id().unwrap();
        assert!(run.await.unwrap_err().is_timed_out());
        let Event::Lost { error, tasks, .. } = events.next().await.unwrap() else { panic!() };
        assert_eq!(tasks, [id]);
        assert!(error.to_string().contains("a task on it did not stop"), "{error}");
    });
}

#[test]
fn bad_times_and_their_end_are_told_with_the_reason() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let gate = folder.file("gate");
        let pool = quick(1).env("GATE", &gate).build().await.unwrap();
        let mut events = pool.events();
        note(&gate, "shut");
        kill(pids(&pool, 1).await[0]);
        let error = |event: &Event| match event {
            Event::Failed { error, .. } => Some(error.clone()),
            _ => None,
        };
        let (error, before) = find(&mut events, error).await;
        assert_eq!(error.kind(), ErrorKind::Launch);
        assert!(error.stderr().contains("the gate is shut"), "{error:?}");
        let failures = before.iter().filter(|event| matches!(event, Event::StartFailed { .. })).count();
        assert_eq!(failures, 3, "{before:?}");
        assert!(before.iter().any(|event| matches!(event, Event::Degraded { .. })), "{before:?}");
        let refused = pool.run(Echo(1)).await;
        assert!(refused.is_err_and(|error| error.kind() == ErrorKind::Launch));
        std::fs::remove_file(&gate).unwrap();
        let recovered = |event: &Event| matches!(event, Event::Recovered).then_some(());
        let ((), before) = find(&mut events, recovered).await;
        assert!(!before.iter().any(|event| matches!(event, Event::Degraded { .. })), "{before:?}");
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    });
}

#[test]
fn everybody_who_listens_is_told_from_then_on() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let (mut early, mut other) = (pool.events(), pool.events());
        assert!(early.next().now_or_never().is_none() && other.next().now_or_never().is_none());
        assert!(pool.run(Die::Exit(1)).await.is_err());
        for events in [&mut early, &mut other] {
            assert!(matches!(events.next().await, Some(Event::Lost { .. })));
            assert!(matches!(events.next().await, Some(Event::Started { .. })));
            assert!(matches!(events.next().await, Some(Event::Opened { .. })));
        }
        let mut late = pool.events();
        drop(other);
        assert!(late.next().now_or_never().is_none() && early.next().now_or_never().is_none());
    });
}

#[test]
fn listening_does_not_keep_a_pool_alive() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pids(&pool, 1).await;
        let events = pool.events();
        drop(pool);
        let told: Vec<Event> = events.collect().await;
        assert!(matches!(told[..], [Event::Closing, Event::Left { .. }, Event::Closed]), "{told:?}");
        until(|| !exists(before[0])).await;
    });
}

#[test]
fn all_who_wait_for_the_end_get_the_same_summary() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = quick(2).build().await.unwrap();
        pool.ready().await.unwrap();
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        let running = pool.run(Append { path: path.clone(), line: 1, then_ms: 100 });
        let stubborn = pool.run(Spin { note: path.clone(), polite: false });
        until(|| notes(&path).len() == 2).await;
        let queued: Vec<_> = (0..10).map(|n| pool.run(Echo(n))).collect();
        let closings: Vec<_> = (0..8)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.shutdown(Duration::from_millis(500)).await })
            })
            .collect();
        let mut summaries: Vec<Summary> = Vec::new();
        for closing in closings {
            summaries.push(closing.await.unwrap());
        }
        summaries.push(pool.abort().await);
        let first = &summaries[0];
        assert!(summaries.iter().all(|summary| summary == first), "{summaries:?}");
        assert_eq!((first.finished, first.closed, first.failed, first.killed), (1, 11, 0, 1), "{first:?}");
        assert!(first.left_behind.is_empty());
        assert_eq!(running.await.unwrap(), 1);
        assert!(stubborn.await.unwrap_err().is_closed());
        drop(queued);
    });
}
