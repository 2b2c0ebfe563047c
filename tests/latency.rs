//! Pools with low latency: they do all that others do, and look for answers and tasks busily only for a moment.

mod support;

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use procpool::{Exit, PoolBuilder};
use support::*;

procpool::worker_test!(support::worker());

fn low_latency(workers: usize) -> PoolBuilder {
    quick(workers).low_latency(true)
}

#[test]
fn tasks_streams_and_cancels_work_with_low_latency() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let pool = low_latency(2).build().await.unwrap();
        for n in 0..times(10_000, 500) as u64 {
            assert_eq!(pool.run(Echo(n)).await.unwrap(), n);
        }
        for (n, answer) in join_all((0..1000).map(|n| pool.run(Echo(n)))).await.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), n as u64);
        }
        let items: Vec<_> = pool.stream(Count { to: 3000, way: WAYS[0] }).map(Result::unwrap).collect().await;
        assert!(items.into_iter().eq(0..3000));
        for polite in [true, false] {
            let note = folder.file(if polite { "polite" } else { "deaf" });
            let spin = pool.run(Spin { note: note.clone(), polite });
            until(|| note.exists()).await;
            assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
            drop(spin);
        }
        until(|| pool.stats().restarts == 1).await;
        let error = pool.run(Die::Exit(3)).await.unwrap_err();
        assert_eq!(error.exit(), Some(Exit::Code(3)), "{error:?}");
        assert_eq!(pool.run(Echo(2)).await.unwrap(), 2);
        let summary = pool.shutdown(Duration::from_secs(60)).await;
        assert!(summary.left_behind.is_empty(), "{summary:?}");
    });
}

#[test]
fn workers_of_a_pool_with_low_latency_look_for_tasks_and_soon_sleep() {
    const TASKS: u64 = 500;

    on_a_runtime(|| async {
        let several = std::thread::available_parallelism().unwrap().get() > 1;
        for low in [false, true] {
            let pool = quick(1).low_latency(low).build().await.unwrap();
            let pid = pids(&pool, 1).await[0];
            let tasks = async || {
                let before = reads(pid);
                for n in 0..TASKS {
                    assert_eq!(pool.run(Echo(n)).await.unwrap(), n);
                }
                reads(pid) - before
            };
            // Beside other tests there may be no processor to look with. For each task it reads that, and that there is no more.
            if low && several && full() {
                while tasks().await < 4 * TASKS {}
            } else if !low {
                let read = tasks().await;
                assert!(read < 4 * TASKS, "{read}");
            }
            tasks().await;
            let mut after = 0;
            while std::mem::replace(&mut after, reads(pid)) != after {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
}

/// How often a process has tried to read, from any file.
fn reads(pid: u32) -> u64 {
    let counts = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    counts.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse().unwrap()
}

#[test]
fn a_pool_with_low_latency_that_has_nothing_to_hear_computes_nothing() {
    const QUIET: Duration = Duration::from_millis(400);
    const LITTLE: Duration = Duration::from_millis(40);

    on_a_runtime(|| async {
        let pool = low_latency(2).build().await.unwrap();
        pids(&pool, 2).await;
        let before = computed();
        tokio::time::sleep(QUIET).await;
        let idle = computed() - before;
        assert!(idle < LITTLE, "{idle:?} while it was idle");
        let blocks = join_all((0..2).map(|_| pool.run(Block { ms: QUIET.as_millis() as u64 })));
        let before = computed();
        assert!(blocks.await.iter().all(Result::is_ok));
        let waited = computed() - before;
        assert!(waited < LITTLE, "{waited:?} while its workers were busy");
    });
}
