//! Pools within pools: what a task can do with the pool of its worker, and what becomes of that when the task ends.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::executor::block_on;
use procpool::{Context, Error, ErrorKind, Pool, Task, WorkerId};
use serde::{Deserialize, Serialize};
use support::{
    Die, Echo, Folder, Pid, Spin, Wait, exists, notes, on_a_runtime, on_both_runtimes, quick, until,
};

procpool::worker_test!(
    support::worker()
        .task::<Fibonacci>()
        .task::<Blocking>()
        .task::<Chain>()
        .task::<Family>()
        .task::<Leaf>()
        .task::<Refused>()
        .task::<Forget>()
        .task::<Last>()
        .task::<Drained>()
        .task::<Where>()
        .task::<Late>()
        .task::<Deadline>()
        .state(|| async { Seed(17) })
        .nested(|pool| pool.workers(2))
);

struct Seed(u64);

/// Awaits two of its kind.
#[derive(Serialize, Deserialize)]
struct Fibonacci(u32);

impl Task for Fibonacci {
    const NAME: &'static str = "fibonacci";
    type Output = Result<u64, Error>;

    async fn run(self, cx: Context) -> Result<u64, Error> {
        if self.0 < 2 {
            return Ok(self.0.into());
        }
        let pool = cx.pool()?;
        let (a, b) = futures::try_join!(pool.run(Self(self.0 - 1)), pool.run(Self(self.0 - 2)))?;
        Ok(a? + b?)
    }
}

/// Blocks until the parts of its sum are there.
#[derive(Serialize, Deserialize)]
struct Blocking(u64);

impl Task for Blocking {
    const NAME: &'static str = "blocking";
    type Output = Result<u64, Error>;

    async fn run(self, cx: Context) -> Result<u64, Error> {
        let parts = cx.pool()?.map((0..self.0).map(Echo));
        block_on(parts.try_fold(0, |sum, part| async move { Ok(sum + part) }))
    }
}

/// Goes down to the bottom and blocks on the way.
#[derive(Serialize, Deserialize)]
struct Chain(u32);

impl Task for Chain {
    const NAME: &'static str = "chain";
    type Output = Result<(u32, u64), Error>;

    async fn run(self, cx: Context) -> Result<(u32, u64), Error> {
        if self.0 == 0 {
            return Ok((cx.depth(), cx.state::<Seed>().0));
        }
        block_on(cx.pool()?.run(Self(self.0 - 1)))?
    }
}

/// The process ids of its worker and of one below.
#[derive(Serialize, Deserialize)]
struct Family;

impl Task for Family {
    const NAME: &'static str = "family";
    type Output = Result<[u32; 2], Error>;

    async fn run(self, cx: Context) -> Result<[u32; 2], Error> {
        Ok([std::process::id(), cx.pool()?.run(Pid).await?])
    }
}

/// Has another task done so many levels further down, and waits for it.
#[derive(Serialize, Deserialize)]
struct Leaf {
    levels: u32,
    blocks: bool,
    what: What,
}

#[derive(Clone, Serialize, Deserialize)]
enum What {
    Spin(PathBuf),
    Wait(PathBuf),
    Die,
}

impl Task for Leaf {
    const NAME: &'static str = "leaf";
    type Output = Result<(), Error>;

    async fn run(self, cx: Context) -> Result<(), Error> {
        let pool = cx.pool()?;
        if self.levels > 1 {
            let run = pool.run(Self { levels: self.levels - 1, ..self });
            return if self.blocks { block_on(run)? } else { run.await? };
        }
        let run = match self.what {
            What::Spin(note) => pool.run(Spin { note, polite: false }),
            What::Wait(note) => pool.run(Wait { note, polite: true }),
            What::Die => pool.run(Die::Abort),
        };
        if self.blocks { block_on(run) } else { run.await }
    }
}

/// Wants a pool of its own making.
#[derive(Serialize, Deserialize)]
struct Refused;

impl Task for Refused {
    const NAME: &'static str = "refused";
    type Output = Option<Error>;

    async fn run(self, _: Context) -> Option<Error> {
        Pool::builder().workers(1).build().await.err()
    }
}

/// Returns while what it has started runs on.
#[derive(Serialize, Deserialize)]
struct Forget(PathBuf);

impl Task for Forget {
    const NAME: &'static str = "forget";
    type Output = Result<(), Error>;

    async fn run(self, cx: Context) -> Result<(), Error> {
        let note = self.0;
        cx.pool()?.run(Wait { note: note.clone(), polite: true }).detach();
        until(|| !notes(&note).is_empty()).await;
        Ok(())
    }
}

/// Uses its pool and its context when it has ended.
#[derive(Serialize, Deserialize)]
struct Last;

impl Task for Last {
    const NAME: &'static str = "last";
    type Output = Vec<ErrorKind>;

    async fn run(self, cx: Context) -> Vec<ErrorKind> {
        let pool = cx.pool().unwrap();
        cx.cancelled().await;
        vec![pool.run(Echo(1)).await.unwrap_err().kind(), cx.pool().unwrap_err().kind()]
    }
}

/// Drains its pool, as one does with a root's.
#[derive(Serialize, Deserialize)]
struct Drained(u64);

impl Task for Drained {
    const NAME: &'static str = "drained";
    type Output = Result<u64, Error>;

    async fn run(self, cx: Context) -> Result<u64, Error> {
        let pool = cx.pool()?;
        let run = pool.run(Echo(self.0));
        pool.drain().await;
        run.await
    }
}

/// Where it is.
#[derive(Serialize, Deserialize)]
struct Where(u32);

impl Task for Where {
    const NAME: &'static str = "where";
    type Output = Result<(Vec<WorkerId>, WorkerId, usize), Error>;

    async fn run(self, cx: Context) -> Self::Output {
        match self.0 {
            0 => Ok((cx.path(), cx.worker_id(), cx.parallelism())),
            n => cx.pool()?.run(Self(n - 1)).await?,
        }
    }
}

/// Wants more time for what is below it than it has itself.
#[derive(Serialize, Deserialize)]
struct Late;

impl Task for Late {
    const NAME: &'static str = "late";
    type Output = Result<(bool, ErrorKind), Error>;

    async fn run(self, cx: Context) -> Self::Output {
        let deadline = cx.deadline().unwrap();
        let pool = cx.pool()?.with_deadline(Instant::now() + Duration::from_secs(1000));
        let sees = pool.run(Deadline).await?.is_some_and(|left| {
            left <= deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(60)
        });
        let past = pool.with_deadline(Instant::now()).run(Echo(1)).await;
        Ok((sees, past.unwrap_err().kind()))
    }
}

/// How much time it has.
#[derive(Serialize, Deserialize)]
struct Deadline;

impl Task for Deadline {
    const NAME: &'static str = "deadline";
    type Output = Option<Duration>;

    async fn run(self, cx: Context) -> Option<Duration> {
        cx.deadline().map(|at| at.saturating_duration_since(Instant::now()))
    }
}

#[test]
fn tasks_nest_five_levels_deep() {
    on_both_runtimes(|| async {
        let pool = quick(1).build().await.unwrap();
        assert_eq!(pool.run(Fibonacci(5)).await.unwrap().unwrap(), 5);
    });
}

#[test]
fn a_task_may_block_until_inner_work_is_done() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        for n in [10, 1000] {
            assert_eq!(pool.run(Blocking(n)).await.unwrap().unwrap(), n * (n - 1) / 2);
        }
    });
}

#[test]
fn a_chain_reaches_the_deepest_level_and_no_further() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        assert_eq!(pool.run(Chain(7)).await.unwrap().unwrap(), (8, 17));
        let error = pool.run(Chain(8)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
        assert_eq!(error.path().len(), 8, "{error:?}");
        let flat = quick(1).depth_limit(1).build().await.unwrap();
        assert_eq!(flat.run(Chain(1)).await.unwrap().unwrap_err().kind(), ErrorKind::LimitExceeded);
    });
}

#[test]
fn a_worker_keeps_its_pool_from_task_to_task() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let [outer, inner] = pool.run(Family).await.unwrap().unwrap();
        let mut seen = vec![inner];
        // Two workers are below, and either may be the one that answers.
        for _ in 0..10 {
            let [again, inner] = pool.run(Family).await.unwrap().unwrap();
            assert_eq!(outer, again);
            seen.push(inner);
        }
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() <= 2, "{seen:?}");
        pool.drain().await;
        assert!(!exists(outer) && seen.iter().all(|pid| !exists(*pid)), "{}", support::tree());
    });
}

#[test]
fn dropping_the_outer_handle_stops_a_leaf_that_never_looks_up() {
    for blocks in [false, true] {
        on_a_runtime(|| async move {
            let folder = Folder::new();
            let note = folder.file("spin");
            let pool = quick(1).build().await.unwrap();
            let run = pool.run(Leaf { levels: 3, blocks, what: What::Spin(note.clone()) });
            until(|| !notes(&note).is_empty()).await;
            drop(run);
            // The outer worker is free again, or another has its place; and the leaf is gone: the next one can spin.
            assert_eq!(pool.run(Fibonacci(3)).await.unwrap().unwrap(), 2);
            pool.drain().await;
        });
    }
}

#[test]
fn a_cancel_reaches_a_polite_leaf_which_cleans_up() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let note = folder.file("wait");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let run = pool.run(Leaf { levels: 3, blocks: true, what: What::Wait(note.clone()) });
        until(|| !notes(&note).is_empty()).await;
        // It returns, and so does everybody who blocks on it.
        run.cancel().await.unwrap().unwrap();
        assert_eq!(notes(&note), ["begun", "cleaned up"]);
    });
}

#[test]
fn an_outer_task_that_is_dropped_at_once_leaves_nothing_running() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = quick(2).build().await.unwrap();
        for n in 0..20 {
            let note = folder.file(&n.to_string());
            let run = pool.run(Leaf { levels: 2, blocks: n % 2 == 0, what: What::Spin(note) });
            tokio::time::sleep(Duration::from_millis(n * 2)).await;
            drop(run);
        }
        assert_eq!(pool.run(Fibonacci(3)).await.unwrap().unwrap(), 2);
        pool.drain().await;
    });
}

#[test]
fn what_a_task_leaves_under_way_ends_with_it() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let note = folder.file("wait");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        pool.run(Forget(note.clone())).await.unwrap().unwrap();
        until(|| notes(&note) == ["begun", "cleaned up"]).await;
    });
}

#[test]
fn a_task_that_was_told_to_stop_begins_nothing_below() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let run = pool.run(Last);
        until(|| pool.stats().in_flight == 1).await;
        let kinds = run.cancel().await;
        // It may be cancelled before it has begun.
        assert!(kinds.is_err() || kinds.is_ok_and(|kinds| kinds == [ErrorKind::Cancelled; 2]));
    });
}

#[test]
fn an_error_from_below_tells_the_workers_that_it_crossed() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let error = pool.run(Leaf { levels: 3, blocks: false, what: What::Die }).await.unwrap().unwrap_err();
        assert!(error.is_crashed(), "{error:?}");
        assert_eq!(error.exit().and_then(|exit| exit.signal()).as_deref(), Some("SIGABRT"));
        assert_eq!(error.path().len(), 3, "{error:?}");
        assert!(error.stderr().contains("about to abort"), "{error:?}");
        assert!(error.to_string().contains("below worker "), "{error}");
        // The workers above live.
        assert_eq!(pool.run(Fibonacci(4)).await.unwrap().unwrap(), 3);
        assert_eq!(pool.stats().restarts, 0);
    });
}

#[test]
fn a_worker_builds_no_pool_of_another_kind() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let error = pool.run(Refused).await.unwrap().unwrap();
        assert_eq!(error.kind(), ErrorKind::Launch);
        assert!(error.to_string().contains("cx.pool()"), "{error}");
    });
}

#[test]
fn a_task_that_drains_its_pool_does_no_harm_to_the_next() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        for n in 0..3 {
            assert_eq!(pool.run(Drained(n)).await.unwrap().unwrap(), n);
        }
    });
}

#[test]
fn a_task_knows_where_it_is() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        for depth in 1..4 {
            let (path, worker, parallelism) = pool.run(Where(depth - 1)).await.unwrap().unwrap();
            assert_eq!((path.len(), path.last()), (depth as usize, Some(&worker)));
            assert!(parallelism >= 1);
        }
    });
}

#[test]
fn deadlines_only_shrink_on_the_way_down() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap().with_deadline(Instant::now() + Duration::from_secs(50));
        assert_eq!(pool.run(Late).await.unwrap().unwrap(), (true, ErrorKind::TimedOut));
    });
}
