//! Workers that are replaced because they have done enough, or have got too old or too large: the next one is there first,
//! and no task notices.

mod support;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use procpool::{Context, Event, Leave, Task, Worker};
use serde::{Deserialize, Serialize};
use support::*;

procpool::worker_test!(leaky());

fn leaky() -> Worker {
    worker().task::<Leak>()
}

/// Keeps so many bytes for ever.
#[derive(Serialize, Deserialize)]
struct Leak(usize);

impl Task for Leak {
    const NAME: &'static str = "grow";
    type Output = u32;

    async fn run(self, _: Context) -> u32 {
        static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
        KEPT.lock().unwrap().push(vec![7; self.0]);
        std::process::id()
    }
}

fn left(events: &[Event], reason: Leave) -> usize {
    events.iter().filter(|event| matches!(event, Event::Left { reason: why, .. } if *why == reason)).count()
}

/// C10: with so many tasks queued, workers that may do `each` are started as often as that needs.
fn c10(each: u64, tasks: u64) {
    on_a_runtime(|| async move {
        const SIZE: u64 = 2;
        let pool = quick(SIZE as usize).max_tasks_per_worker(each).build().await.unwrap();
        // The first ones have been started before anybody listens.
        pool.ready().await.unwrap();
        let mut events = pool.events();
        let mut seen = Vec::new();
        let mut runs: futures::stream::FuturesUnordered<_> =
            (0..tasks).map(|n| pool.run(Echo(n)).map(move |answer| (n, answer))).collect();
        while let Some((n, answer)) = runs.next().await {
            assert_eq!(answer.unwrap(), n);
            seen.extend(told(&mut events));
        }
        pool.ready().await.unwrap();
        assert_eq!((pool.stats().restarts, pool.stats().held_back), (0, 0), "that was planned");
        until(|| pool.stats().workers.len() == SIZE as usize).await;
        seen.extend(told(&mut events));
        let started = seen.iter().filter(|event| matches!(event, Event::Started { .. })).count() as u64;
        let needed = tasks.div_ceil(each);
        assert!(started.abs_diff(needed) <= SIZE, "{started} were started, {needed} are needed");
        let bad = |event: &&Event| {
            matches!(
                event,
                Event::Lost { .. } | Event::StartFailed { .. } | Event::Degraded { .. } | Event::Lagged(_)
            )
        };
        assert!(!seen.iter().any(|event| bad(&event)), "{seen:?}");
        // Those that left and those that are there are all that there were.
        assert_eq!(left(&seen, Leave::Tasks) as u64, started, "{seen:?}");
    });
}

#[test]
fn c10_a_worker_for_every_task() {
    c10(1, if full() { 1000 } else { 60 });
}

#[test]
fn c10_a_worker_for_seven_tasks() {
    c10(7, if full() { 1000 } else { 300 });
}

#[test]
fn no_worker_runs_more_tasks_than_it_may() {
    on_a_runtime(|| async {
        let pool = quick(2).slots(2).max_tasks_per_worker(5).build().await.unwrap();
        let mut count = std::collections::BTreeMap::<u32, u32>::new();
        for pid in join_all((0..100).map(|_| pool.run(Pid))).await {
            *count.entry(pid.unwrap()).or_default() += 1;
        }
        assert!(count.values().all(|&tasks| tasks <= 5), "{count:?}");
    });
}

#[test]
fn a_worker_that_is_too_old_is_replaced_under_way() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = quick(2).max_age(Duration::from_millis(200)).build().await.unwrap();
        let mut events = pool.events();
        let (mut pids, mut seen, mut line) = (BTreeSet::new(), Vec::new(), 0);
        while pids.len() < 6 {
            let runs: Vec<_> = (0..8)
                .map(|_| {
                    line += 1;
                    pool.run(Append { path: path.clone(), line, then_ms: 5 })
                })
                .collect();
            pids.insert(pool.run(Pid).await.unwrap());
            for run in runs {
                run.await.unwrap();
            }
            seen.extend(told(&mut events));
        }
        assert_eq!(notes(&path).len() as u64, line, "each has run once");
        assert_eq!(pool.stats().restarts, 0, "that was planned");
        assert!(
            seen.iter().all(|event| !matches!(event, Event::Lost { .. } | Event::Degraded { .. })),
            "{seen:?}"
        );
        // Whoever is to go has a successor that was started before.
        let mut started = 0;
        for event in &seen {
            match event {
                Event::Opened { .. } => started += 1,
                Event::Leaving { reason, .. } => {
                    assert_eq!(*reason, Leave::Age);
                    started -= 1;
                    assert!(started >= 0, "{seen:?}");
                }
                _ => {}
            }
        }
    });
}

#[test]
fn a_worker_that_grows_is_replaced_and_no_task_fails() {
    on_a_runtime(|| async {
        let pool = quick(1).max_memory(64 << 20).build().await.unwrap();
        let mut events = pool.events();
        let mut pids = BTreeSet::new();
        while pids.len() < 3 {
            pids.insert(pool.run(Leak(1 << 20)).await.unwrap());
            let memory = pool.stats().workers.iter().filter_map(|worker| worker.memory).max();
            assert!(memory.is_none_or(|bytes| bytes < 1 << 30), "{:?}", pool.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let seen = told(&mut events);
        assert!(left(&seen, Leave::Memory) >= 1, "{seen:?}");
        assert_eq!(pool.stats().restarts, 0);
    });
}

#[test]
fn a_limit_that_is_too_low_for_any_worker_stops_nothing() {
    on_a_runtime(|| async {
        let pool = quick(1).max_memory(1).build().await.unwrap();
        for answer in join_all((0..500).map(|n| pool.run(Echo(n)))).await {
            answer.unwrap();
        }
        assert_eq!(pool.stats().restarts, 0);
    });
}

#[test]
fn a_pool_that_drains_recycles_on() {
    on_a_runtime(|| async {
        let pool = quick(1).max_tasks_per_worker(3).build().await.unwrap();
        let runs: Vec<_> = (0..20).map(|n| pool.run(Echo(n))).collect();
        let summary = pool.drain().await;
        assert_eq!((summary.finished, summary.failed, summary.closed), (20, 0, 0), "{summary:?}");
        for (n, run) in runs.into_iter().enumerate() {
            assert_eq!(run.await.unwrap(), n as u64);
        }
    });
}
