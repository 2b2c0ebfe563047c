//! Cancelling: by drop, by word, queued and running, polite and not, and the ladder that ends in force.

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::join_all;
use procpool::{Context, ErrorKind, Pool, Task};
use serde::{Deserialize, Serialize};
use support::*;

procpool::worker_test!(support::worker().task::<Meet>());

#[test]
fn d4_runs_that_are_dropped_at_any_time_leave_no_worker_stuck() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        // Nobody has to be killed, however long a busy machine keeps somebody from stopping; who never does is found below.
        let pool = Pool::builder().workers(2).cancel_grace(Duration::from_secs(600)).build().await.unwrap();
        let seed = std::process::id();
        println!("seed {seed}");
        let mut chance = seed;
        let drops = times(10_000, 400);
        for n in 0..drops {
            chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (lasts, patience) = (u64::from(chance >> 30), u64::from(chance >> 10 & 1023) * 2);
            let note = folder.file("note");
            let task: Pin<Box<dyn Future<Output = ()>>> = match chance >> 27 & 7 {
                0..4 => Box::pin(pool.run(Echo(n as u64)).map(|echo| assert_eq!(echo.unwrap(), n as u64))),
                4 | 5 => Box::pin(pool.run(Block { ms: lasts }).map(|ms| assert_eq!(ms.unwrap(), lasts))),
                6 => Box::pin(pool.run(Yield { note, ms: 10 }).map(drop)),
                _ => Box::pin(pool.run(Wait { note, polite: chance >> 26 & 1 == 0 }).map(drop)),
            };
            let _ = tokio::time::timeout(Duration::from_micros(patience), task).await;
        }
        until(|| pool.stats().in_flight == 0 && pool.stats().queued == 0).await;
        pids(&pool, 2).await;
        let both: BTreeSet<u32> = join_all((0..2).map(|_| pool.run(Meet(2, folder.file("meet")))))
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(both.len(), 2, "a worker is stuck");
        assert_eq!(pool.stats().restarts, 0, "a worker had to be killed");
    });
}

/// Waits until as many have come, and tells its worker's process id.
#[derive(Serialize, Deserialize)]
struct Meet(usize, PathBuf);

impl Task for Meet {
    const NAME: &'static str = "meet";
    type Output = u32;

    async fn run(self, _: Context) -> u32 {
        note(&self.1, "here");
        until_blocking(|| notes(&self.1).len() >= self.0);
        std::process::id()
    }
}

#[test]
fn a_queued_task_that_is_dropped_never_runs() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let first = pool.run(Block { ms: 100 });
        let dropped = pool.run(Append { path: path.clone(), line: 1, then_ms: 0 });
        let kept = pool.run(Append { path: path.clone(), line: 2, then_ms: 0 });
        drop(dropped);
        first.await.unwrap();
        kept.await.unwrap();
        assert_eq!(notes(&path), ["2"]);
        assert_eq!(pool.stats().in_flight, 0);
    });
}

#[test]
fn a_queued_task_that_is_cancelled_says_that_it_never_ran() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let _first = pool.run(Block { ms: 100 });
        let error = pool.run(Echo(1)).cancel().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(!error.may_have_run() && error.is_cancelled());
    });
}

#[test]
fn a_polite_task_cleans_up_and_keeps_its_worker() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let path = folder.file("wait");
        let run = pool.run(Wait { note: path.clone(), polite: true });
        until(|| notes(&path) == ["begun"]).await;
        // It was done, if only with cleaning up: that is its answer.
        run.cancel().await.unwrap();
        assert_eq!(notes(&path), ["begun", "cleaned up"]);

        let path = folder.file("spin");
        let run = pool.run(Spin { note: path.clone(), polite: true });
        until(|| notes(&path) == ["begun"]).await;
        drop(run);
        until(|| notes(&path) == ["begun", "stopped"]).await;
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn an_awaiting_task_that_never_asked_is_dropped_at_its_await() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("wait");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let run = pool.run(Wait { note: path.clone(), polite: false });
        until(|| notes(&path) == ["begun"]).await;
        let error = run.cancel().await.unwrap_err();
        assert!(error.is_cancelled() && error.may_have_run(), "{error:?}");
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn a_cpu_loop_that_ignores_its_cancel_is_gone_within_the_ladder_and_its_place_works_again() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let path = folder.file("spin");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let run = pool.run(Spin { note: path.clone(), polite: false });
        until(|| notes(&path) == ["begun"]).await;
        let start = Instant::now();
        let error = run.cancel().await.unwrap_err();
        assert!(error.is_cancelled(), "{error:?}");
        assert!(start.elapsed() >= Duration::from_secs(1), "the grace was cut short");
        // The ladder is 1 s until SIGTERM, which ends a loop that does not mind it. Ten times the promised half second.
        assert!(start.elapsed() < Duration::from_secs(1 + 5), "{:?}", start.elapsed());
        let after = pool.run(Pid).await.unwrap();
        assert_ne!(after, before);
        until(|| !exists(before)).await;
    });
}

#[test]
fn an_abort_handle_cancels_from_elsewhere_and_dropping_it_does_nothing() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let run = pool.run(Echo(1));
        drop(run.abort_handle());
        assert_eq!(run.await.unwrap(), 1);
        let first = pool.run(Block { ms: 50 });
        let second = pool.run(Echo(2));
        let handle = second.abort_handle();
        assert_eq!(handle.id(), second.id());
        std::thread::spawn(move || handle.abort()).join().unwrap();
        assert!(second.await.unwrap_err().is_cancelled());
        first.await.unwrap();
    });
}

#[test]
fn a_detached_task_runs_on() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        pool.run(Append { path: path.clone(), line: 5, then_ms: 10 }).detach();
        pool.drain().await;
        assert_eq!(notes(&path), ["5"]);
    });
}

#[test]
fn a_cancel_that_races_the_answer_leaves_exactly_one_outcome_and_no_stuck_worker() {
    on_both_runtimes(|| async {
        let pool = quick(2).build().await.unwrap();
        let before = pids(&pool, 2).await;
        let mut answered = 0;
        for n in 0..3000 {
            let mut run = pool.run(Echo(n));
            for _ in 0..n % 7 {
                tokio::task::yield_now().await;
            }
            match n % 3 {
                0 => drop(run),
                1 => match run.cancel().await {
                    Ok(answer) => {
                        assert_eq!(answer, n);
                        answered += 1;
                    }
                    Err(error) => assert!(error.is_cancelled(), "{error:?}"),
                },
                _ => match (&mut run).now_or_never() {
                    Some(answer) => assert_eq!(answer.unwrap(), n),
                    None => assert_eq!(run.await.unwrap(), n),
                },
            }
        }
        assert!(answered < 1000, "no cancel ever came in time");
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        until(|| pool.stats().in_flight == 0).await;
        assert_eq!(pids(&pool, 2).await, before, "a worker was killed for a task that had answered");
    });
}

#[test]
fn a_hundred_thousand_handles_dropped_at_once_are_gone_in_linear_time() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let first = pool.run(Block { ms: 20 });
        let time = |count: u64| {
            let runs: Vec<_> = (0..count).map(|n| pool.run(Echo(n))).collect();
            let start = Instant::now();
            drop(runs);
            start.elapsed()
        };
        let (small, large) = (time(10_000), time(100_000));
        assert!(large < small * 100 + Duration::from_millis(200), "10 k: {small:?}, 100 k: {large:?}");
        assert_eq!(pool.stats().queued, 0);
        first.await.unwrap();
    });
}
