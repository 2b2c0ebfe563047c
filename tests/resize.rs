//! Pools that change their size while they work: by word, and by what there is to do. No task is lost, stranded or doubled.

mod support;

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use procpool::{ErrorKind, Event, Leave, Pool};
use support::*;

procpool::worker_test!(support::worker());

#[test]
fn a_pool_has_the_size_that_it_was_given_last() {
    on_both_runtimes(|| async {
        let pool = quick(2).build().await.unwrap();
        for size in [5, 1, 3, 3, 1] {
            pool.resize(size).unwrap();
            assert_eq!(pool.stats().wanted, size);
            pool.ready().await.unwrap();
            until(|| pool.stats().workers.len() == size).await;
            assert_eq!(pool.run(Echo(7)).await.unwrap(), 7);
        }
        assert_eq!(pool.stats().restarts, 0);
    });
}

#[test]
fn a_busy_worker_finishes_before_it_leaves_and_gives_back_what_waits_behind() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = quick(2).build().await.unwrap();
        let before = pids(&pool, 2).await;
        let append = |line, then_ms| pool.run(Append { path: path.clone(), line, then_ms });
        let long: Vec<_> = (0..2).map(|n| append(n, 300)).collect();
        until(|| notes(&path).len() == 2).await;
        let short: Vec<_> = (2..20).map(|n| append(n, 1)).collect();
        let mut events = pool.events();
        pool.resize(1).unwrap();
        assert_eq!(pool.stats().workers.len(), 2, "it has a task to finish");
        for (n, run) in long.into_iter().chain(short).enumerate() {
            assert_eq!(run.await.unwrap(), n as u64);
        }
        let leaving = events.next().await;
        assert!(matches!(leaving, Some(Event::Leaving { reason: Leave::Surplus, .. })), "{leaving:?}");
        until(|| pool.stats().workers.len() == 1).await;
        let left = events.next().await;
        assert!(matches!(left, Some(Event::Left { reason: Leave::Surplus, .. })), "{left:?}");
        assert!(before.contains(&pool.run(Pid).await.unwrap()), "nobody was started for that");
        assert_eq!(notes(&path).len(), 20, "each has run once");
    });
}

#[test]
fn tasks_of_many_callers_survive_a_pool_that_is_resized_all_the_time() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = quick(2).build().await.unwrap();
        let callers = (0..10).map(|caller| {
            let (pool, path) = (pool.clone(), path.clone());
            async move {
                let tasks = (0..40).map(move |n| Append {
                    path: path.clone(),
                    line: caller * 1000 + n,
                    then_ms: n % 3,
                });
                pool.map_unordered(tasks).map(|line| line.unwrap()).collect::<Vec<u64>>().await
            }
        });
        let resizer = async {
            for round in 0..20 {
                until(|| notes(&path).len() >= 20 * round || pool.stats().in_flight == 0).await;
                pool.resize([1, 3, 2, 4, 1][round % 5]).unwrap();
            }
        };
        let (answers, ()) = tokio::join!(join_all(callers), resizer);
        let mut answers: Vec<u64> = answers.into_iter().flatten().collect();
        let mut ran: Vec<u64> = notes(&path).iter().map(|line| line.parse().unwrap()).collect();
        answers.sort_unstable();
        ran.sort_unstable();
        let expected: Vec<u64> = (0..10).flat_map(|caller| (0..40).map(move |n| caller * 1000 + n)).collect();
        assert_eq!(answers, expected);
        assert_eq!(ran, expected, "each has run once");
        pool.ready().await.unwrap();
        until(|| pool.stats().workers.len() == 1).await;
    });
}

#[test]
fn a_pool_is_not_resized_to_nothing_and_not_while_it_ends() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let error = pool.resize(0).unwrap_err();
        assert!(error.kind() == ErrorKind::Launch && error.to_string().contains("at least one"), "{error}");
        let closing = pool.drain();
        assert!(pool.resize(3).unwrap_err().is_closed());
        closing.await;
        assert!(pool.resize(3).unwrap_err().is_closed());
        let error = Pool::builder().workers_between(3, 2).build().await.unwrap_err();
        assert!(error.to_string().contains("at least 3 and at most 2"), "{error}");
        assert!(Pool::builder().workers_between(0, 0).build().await.is_err());
    });
}

#[test]
fn what_waits_brings_more_workers_and_idleness_fewer() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let idle = Duration::from_millis(300);
        let pool = quick(1).workers_between(1, 3).idle_timeout(idle).build().await.unwrap();
        assert_eq!(pool.stats().workers.len(), 1);
        let waits: Vec<_> = (0..5).map(|_| pool.run(Wait { note: path.clone(), polite: true })).collect();
        until(|| notes(&path).len() == 3).await;
        assert_eq!((pool.stats().workers.len(), pool.stats().wanted), (3, 3));
        drop(waits);
        until(|| pool.stats().workers.len() == 1).await;
        assert_eq!((pool.stats().wanted, pool.stats().restarts), (1, 0));
        let stays = pool.run(Pid).await.unwrap();
        tokio::time::sleep(2 * idle).await;
        assert_eq!(pool.run(Pid).await.unwrap(), stays, "the last one is kept");
    });
}

#[test]
fn a_pool_may_have_nobody_while_there_is_nothing_to_do() {
    on_both_runtimes(|| async {
        let pool =
            quick(1).workers_between(0, 2).idle_timeout(Duration::from_millis(50)).build().await.unwrap();
        for n in 0..3 {
            until(|| pool.stats().workers.is_empty()).await;
            assert!(pool.health().is_ready());
            let (one, two) = tokio::join!(pool.run(Echo(n)), pool.run(Echo(n)));
            assert_eq!((one.unwrap(), two.unwrap()), (n, n));
        }
        until(|| pool.stats().workers.is_empty()).await;
        pool.drain().await;
        // A program that cannot be started is found although no worker has to be kept.
        let missing = Pool::builder().workers_between(0, 2).program("/nowhere/worker").build().await;
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::Launch);
    });
}
