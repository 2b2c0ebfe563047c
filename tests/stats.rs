//! What a pool says about itself when it is asked: statistics, health, readiness.

mod support;

use std::time::{Duration, Instant};

use procpool::{ErrorKind, Pool, Status, WorkerState};
use support::*;

procpool::worker_test!(gated());

#[test]
fn statistics_tell_who_runs_what_and_for_how_long() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let path = folder.file("wait");
        let pool = quick(2).build().await.unwrap();
        pool.ready().await.unwrap();
        let own = pool.run(Pid).await.unwrap();
        let wait = pool.run(Wait { note: path.clone(), polite: true });
        until(|| notes(&path) == ["begun"]).await;
        let block = pool.run(Block { ms: 30_000 });
        let more: Vec<_> = (0..5).map(|_| pool.run(Block { ms: 30_000 })).collect();
        let begun = Instant::now();
        until(|| pool.stats().workers.iter().all(|worker| worker.tasks.len() == 1)).await;
        until(|| begun.elapsed() >= Duration::from_millis(50)).await;
        let stats = pool.stats();
        assert_eq!((stats.wanted, stats.held_back, stats.next_start, stats.restarts), (2, 0, None, 0));
        assert_eq!(stats.in_flight + stats.queued, 7);
        // A number in few bytes.
        assert!((1..4 * stats.queued as u64).contains(&stats.queued_bytes), "{stats:?}");
        assert_eq!(stats.finished, 1);
        assert_eq!(stats.workers.iter().map(|worker| worker.ahead).sum::<usize>(), stats.in_flight - 2);
        let waiter = stats.workers.iter().find(|it| Some(it.tasks[0].id) == wait.id()).unwrap();
        let blocker = stats.workers.iter().find(|it| Some(it.tasks[0].id) == block.id()).unwrap();
        assert_eq!((waiter.tasks[0].name, blocker.tasks[0].name), ("wait", "block"));
        assert!(waiter.tasks[0].since >= blocker.tasks[0].since, "{stats:?}");
        assert!(blocker.tasks[0].since >= Duration::from_millis(50), "{stats:?}");
        for worker in &stats.workers {
            assert_eq!((worker.state, worker.restarts), (WorkerState::Open, 0));
            assert!(worker.age > blocker.tasks[0].since, "{stats:?}");
            // A worker of a test binary that has started tokio is no smaller than this, and has no reason to be larger.
            assert!((256 << 10..1 << 30).contains(&worker.memory.unwrap()), "{stats:?}");
            assert_eq!(worker.finished, u64::from(worker.pid == Some(own)));
        }
        drop((wait, block, more));
        until(|| pool.stats().in_flight == 0).await;
    });
}

#[test]
fn a_replaced_worker_counts_as_a_restart_of_its_place() {
    on_a_runtime(|| async {
        let pool = quick(2).build().await.unwrap();
        let before = pids(&pool, 2).await;
        kill(before[0]);
        until(|| pool.stats().workers.iter().all(|worker| worker.pid != Some(before[0]))).await;
        pool.ready().await.unwrap();
        let stats = pool.stats();
        for worker in &stats.workers {
            assert_eq!(worker.restarts, u32::from(worker.pid != Some(before[1])), "{stats:?}");
        }
        assert_eq!(stats.restarts, 1);
    });
}

#[test]
fn a_pool_is_ready_when_all_its_workers_take_tasks() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(5).build().await.unwrap();
        assert!(pool.health().is_ready());
        pool.ready().await.unwrap();
        let health = pool.health();
        assert_eq!((health.status, health.open, health.wanted), (Status::Ready, 5, 5));
        assert_eq!(health.to_string(), "ready: 5 of 5 workers take tasks");
        pool.ready().await.unwrap();
        drop(pool.drain());
        assert_eq!(pool.health().status, Status::Closed);
        assert!(!pool.health().is_ready());
        assert!(pool.ready().await.unwrap_err().is_closed());
    });
}

#[test]
fn a_pool_that_cannot_start_workers_any_more_says_why() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let gate = folder.file("gate");
        let pool = quick(2).env("GATE", &gate).build().await.unwrap();
        let before = pids(&pool, 2).await;
        note(&gate, "shut");
        kill(before[0]);
        until(|| pool.health().status == Status::Degraded && pool.health().open == 1).await;
        assert!(pool.health().is_ready());
        let error = pool.ready().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Launch, "{error:?}");
        assert!(error.stderr().contains("the gate is shut"), "{error:?}");
        // The other one still serves.
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        kill(before[1]);
        until(|| pool.health().status == Status::Failed).await;
        let health = pool.health();
        assert!(!health.is_ready() && health.open == 0, "{health:?}");
        let shown = health.to_string();
        assert!(shown.starts_with("failed: 0 of 2 workers") && shown.contains("the gate is shut"), "{shown}");
        let stats = pool.stats();
        assert!(stats.held_back >= 1 && stats.held_back + stats.workers.len() == 2, "{stats:?}");
        std::fs::remove_file(&gate).unwrap();
        until(|| pool.health().status == Status::Ready && pool.health().open == 2).await;
        pool.ready().await.unwrap();
        assert_eq!(pool.run(Echo(2)).await.unwrap(), 2);
    });
}

#[test]
fn readiness_that_nobody_waits_for_any_more_costs_nothing() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        for _ in 0..1000 {
            let _ = futures::poll!(std::pin::pin!(pool.ready()));
        }
        pool.ready().await.unwrap();
    });
}
