//! Priorities, and callers who take turns.

mod support;

use std::time::Duration;

use futures::future::join_all;
use procpool::Pool;
use support::*;

procpool::worker_test!(support::worker());

/// A pool of one worker that is busy, so that what is submitted waits.
async fn busy() -> (Pool, procpool::Run<u64>) {
    let pool = Pool::builder().workers(1).build().await.unwrap();
    let blocks = pool.run(Block { ms: 200 });
    until(|| pool.stats().in_flight == 1).await;
    (pool, blocks)
}

#[test]
fn higher_goes_first_and_within_a_priority_the_order_is_kept() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let (pool, blocks) = busy().await;
        let mut runs = Vec::new();
        for (line, priority) in [(1, 0), (2, -5), (3, 0), (4, 9), (5, -5), (6, 9), (7, 0)] {
            let append = Append { path: path.clone(), line, then_ms: 0 };
            runs.push(pool.with_priority(priority).run(append));
        }
        for result in join_all(runs).await {
            result.unwrap();
        }
        blocks.await.unwrap();
        assert_eq!(notes(&path), ["4", "6", "1", "3", "7", "2", "5"]);
    });
}

#[test]
fn setting_a_priority_again_replaces_it() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let (pool, blocks) = busy().await;
        let append = |line| Append { path: path.clone(), line, then_ms: 0 };
        let low = pool.with_priority(100).with_priority(-1).run(append(1));
        let high = pool.run(append(2));
        low.await.unwrap();
        high.await.unwrap();
        blocks.await.unwrap();
        assert_eq!(notes(&path), ["2", "1"]);
    });
}

#[test]
fn a_burst_of_one_clone_does_not_keep_another_waiting() {
    on_both_runtimes(|| async {
        let (pool, blocks) = busy().await;
        let burst: Vec<_> = (0..100_000).map(|n| pool.run(Echo(n))).collect();
        let other = pool.clone();
        let before = pool.stats().finished;
        blocks.await.unwrap();
        assert_eq!(other.run(Echo(7)).await.unwrap(), 7);
        let passed = pool.stats().finished - before;
        assert!(passed < 50_000, "{passed} of the burst went first");
        drop(burst);
        until(|| pool.stats().queued == 0).await;
    });
}

#[test]
fn callers_take_turns() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let (pool, blocks) = busy().await;
        let other = pool.clone();
        let append = |line| Append { path: path.clone(), line, then_ms: 0 };
        let mut runs: Vec<_> = (1..=4).map(|line| pool.run(append(line))).collect();
        // A view is no other caller: it would not do to jump the queue by asking for one.
        runs.push(pool.with_timeout(Duration::from_secs(60)).run(append(5)));
        runs.extend((11..=13).map(|line| other.run(append(line))));
        for result in join_all(runs).await {
            result.unwrap();
        }
        blocks.await.unwrap();
        // The first was sent ahead before there was anybody else.
        assert_eq!(notes(&path), ["1", "2", "11", "3", "12", "4", "13", "5"]);
    });
}
