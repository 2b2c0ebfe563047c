//! The end of a pool: shutdown, drain, abort, drop of the pool, its runtime or both, in any order and any thread.
//! Afterwards nothing is left: no process, no zombie, no descriptor.

mod support;

use std::time::{Duration, Instant};

use futures::FutureExt;
use procpool::{ErrorKind, Pool};
use support::*;

procpool::worker_test!(support::worker());

#[test]
fn d6_shutdown_lets_running_tasks_finish_and_fails_queued_ones() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(4).build().await.unwrap();
        let before = pids(&pool, 4).await;
        let running: Vec<_> = (0..4).map(|_| pool.run(Block { ms: 1000 })).collect();
        let queued: Vec<_> = (0..100).map(|n| pool.run(Echo(n))).collect();
        until(|| pool.stats().workers.iter().all(|worker| !worker.tasks.is_empty())).await;
        let start = Instant::now();
        let closing = pool.shutdown(Duration::from_secs(5));
        let refused = pool.run(Echo(1)).await.unwrap_err();
        assert!(refused.is_closed() && !refused.may_have_run(), "{refused:?}");
        for run in running {
            assert_eq!(run.await.unwrap(), 1000);
        }
        for run in queued {
            let error = run.await.unwrap_err();
            assert!(error.is_closed() && !error.may_have_run());
        }
        closing.await;
        assert!(start.elapsed() < within(Duration::from_secs(2)), "{:?}", start.elapsed());
        assert!(before.iter().all(|pid| !exists(*pid)));
        assert!(pool.stats().workers.is_empty());
    });
}

#[test]
fn d7_shutdown_stops_by_force_what_does_not_end_in_time() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("spin");
        // Its graces are part of the second that is promised.
        let pool = quick(2).build().await.unwrap();
        let before = pids(&pool, 2).await;
        let runs = [0, 1].map(|_| pool.run(Spin { note: path.clone(), polite: false }));
        until(|| notes(&path).len() == 2).await;
        let start = Instant::now();
        pool.shutdown(Duration::ZERO).await;
        assert!(start.elapsed() < within(Duration::from_secs(1)), "{:?}", start.elapsed());
        for run in runs {
            assert!(run.await.is_err());
        }
        until(|| before.iter().all(|pid| !exists(*pid))).await;
    });
}

#[test]
fn drain_finishes_everything_that_was_submitted() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let runs: Vec<_> = (0..500).map(|n| pool.run(Echo(n))).collect();
        let closing = pool.drain();
        assert!(pool.run(Echo(1)).await.unwrap_err().is_closed());
        closing.await;
        for (n, run) in runs.into_iter().enumerate() {
            assert_eq!(run.await.unwrap(), n as u64);
        }
    });
}

#[test]
fn d13_a_pool_may_be_closed_by_many_at_once() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let running = pool.run(Block { ms: 100 });
        until(|| pool.stats().in_flight == 1).await;
        let closings: Vec<_> = (0..8).map(|_| pool.clone().shutdown(Duration::from_secs(30))).collect();
        futures::future::join_all(closings).await;
        assert_eq!(running.await.unwrap(), 100);
        assert!(pool.stats().workers.is_empty());
        pool.drain().await;
    });
}

#[test]
fn abort_ends_everything_now_and_may_be_called_by_many() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("spin");
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let before = pids(&pool, 2).await;
        let run = pool.run(Spin { note: path.clone(), polite: false });
        until(|| notes(&path) == ["begun"]).await;
        let closings: Vec<_> = (0..8).map(|_| pool.clone().abort()).collect();
        assert!(run.await.unwrap_err().is_closed());
        futures::future::join_all(closings).await;
        until(|| before.iter().all(|pid| !exists(*pid))).await;
        pool.abort().await;
    });
}

#[test]
fn d8_a_dropped_pool_resolves_its_tasks_and_leaves_nothing_behind() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let path = folder.file("spin");
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let before = pids(&pool, 2).await;
        let run = pool.run(Spin { note: path.clone(), polite: false });
        until(|| notes(&path) == ["begun"]).await;
        let clone = pool.clone();
        drop(pool);
        assert!(clone.run(Echo(1)).await.is_ok(), "a clone is the same pool");
        drop(clone);
        assert_eq!(run.await.unwrap_err().kind(), ErrorKind::Closed);
        until(|| before.iter().all(|pid| !exists(*pid))).await;
    });
}

/// Builds a pool with a busy worker and gives it to `end` together with its runtime; nothing may be left afterwards.
fn ended_by(end: impl FnOnce(tokio::runtime::Runtime, Pool) -> Option<tokio::runtime::Runtime>) {
    let _test = Test::start();
    let folder = Folder::new();
    let path = folder.file("spin");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (pool, run, before) = runtime.block_on(async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let before = pids(&pool, 2).await;
        let run = pool.run(Spin { note: path.clone(), polite: false });
        until(|| notes(&path) == ["begun"]).await;
        (pool, run, before)
    });
    let kept = end(runtime, pool);
    until_blocking(|| before.iter().all(|pid| !exists(*pid)));
    let error = futures::executor::block_on(run).unwrap_err();
    assert!(error.is_closed(), "{error:?}");
    drop(kept);
}

#[test]
fn d8_a_pool_dropped_outside_its_runtime_leaves_nothing_behind() {
    ended_by(|runtime, pool| {
        drop(pool);
        Some(runtime)
    });
}

#[test]
fn d8_a_pool_dropped_outside_an_idle_current_thread_runtime_leaves_nothing_behind() {
    let _test = Test::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pool = runtime.block_on(Pool::builder().workers(2).build()).unwrap();
    let before = runtime.block_on(pids(&pool, 2));
    drop(pool);
    until_blocking(|| before.iter().all(|pid| !exists(*pid)));
    drop(runtime);
}

#[test]
fn d8_a_pool_dropped_in_another_thread_leaves_nothing_behind() {
    ended_by(|runtime, pool| {
        std::thread::spawn(move || drop(pool)).join().unwrap();
        Some(runtime)
    });
}

#[test]
fn d8_a_pool_dropped_while_unwinding_leaves_nothing_behind() {
    ended_by(|runtime, pool| {
        let unwound = std::thread::spawn(move || {
            let _pool = pool;
            panic!("on purpose");
        });
        unwound.join().unwrap_err();
        Some(runtime)
    });
}

#[test]
fn d9_a_runtime_dropped_before_its_pool_ends_the_pool() {
    ended_by(|runtime, pool| {
        drop(runtime);
        let error = futures::executor::block_on(pool.run(Echo(1))).unwrap_err();
        assert!(error.is_closed(), "{error:?}");
        futures::executor::block_on(pool.drain());
        None
    });
    ended_by(|runtime, pool| {
        runtime.shutdown_background();
        drop(pool);
        None
    });
    ended_by(|runtime, _pool| {
        runtime.shutdown_timeout(Duration::from_millis(100));
        None
    });
}

#[test]
fn d12_a_second_runtime_finds_the_pool_closed_when_the_first_has_ended() {
    let _test = Test::start();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let pool = first.block_on(Pool::builder().workers(1).build()).unwrap();
    // While the first lives, any other may use the pool; somebody has to drive the first.
    let second = runtime();
    let run = pool.run(Echo(1));
    assert_eq!(first.block_on(run).unwrap(), 1);
    drop(first);
    second.block_on(async {
        let error = pool.run(Echo(2)).await.unwrap_err();
        assert!(error.is_closed() && !error.may_have_run(), "{error:?}");
        pool.shutdown(Duration::from_secs(30)).await;
        let again = Pool::builder().workers(1).build().await.unwrap();
        assert_eq!(again.run(Echo(3)).await.unwrap(), 3);
    });
}

#[test]
fn a_build_that_is_dropped_half_way_leaves_nothing_behind() {
    on_a_runtime(|| async {
        for polls in 0..40 {
            let mut build = Box::pin(Pool::builder().workers(2).build());
            for _ in 0..polls {
                if build.as_mut().now_or_never().is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        until(|| tree().lines().all(|line| !line.contains("procpool-worker:"))).await;
    });
}

#[test]
fn a_pool_needs_a_runtime_and_a_worker() {
    let _test = Test::start();
    let error = futures::executor::block_on(Pool::builder().build()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Launch);
    assert!(error.to_string().contains("runtime"), "{error}");
    on_a_runtime(|| async {
        let error = Pool::builder().workers(0).build().await.unwrap_err();
        assert!(error.to_string().contains("at least one"), "{error}");
    });
}

#[test]
fn closing_futures_may_be_dropped() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pids(&pool, 1).await;
        drop(pool.drain());
        until(|| !exists(before[0])).await;
        pool.shutdown(Duration::ZERO).await;
    });
}
