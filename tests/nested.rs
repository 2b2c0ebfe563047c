//! Pools within pools: what a task can do with the pool of its worker, and what becomes of that when the task ends.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::executor::block_on;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procpool::{Context, Error, ErrorKind, Pool, Task, WorkerId};
use serde::{Deserialize, Serialize};
use support::{
    Block, Die, Echo, Folder, Pid, Wait, children, exists, note, notes, on_a_runtime, on_both_runtimes,
    quick, times, until,
};

procpool::worker_test!(
    support::worker()
        .task::<Fibonacci>()
        .task::<Blocking>()
        .task::<Patient>()
        .task::<Sort>()
        .task::<Scarce>()
        .task::<Chain>()
        .task::<Family>()
        .task::<Leaf>()
        .task::<Burn>()
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

/// A state is dropped when its worker leaves in good order, and not when it is killed.
impl Drop for Seed {
    fn drop(&mut self) {
        if let Some(path) = std::env::var_os("NESTED_NOTES") {
            note(path.as_ref(), &std::process::id().to_string());
        }
    }
}

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

/// Blocks for longer than a worker may be silent, until an inner task has done so. How many others were done meanwhile.
#[derive(Serialize, Deserialize)]
struct Patient {
    ms: u64,
}

impl Task for Patient {
    const NAME: &'static str = "patient";
    type Output = Result<u64, Error>;

    async fn run(self, cx: Context) -> Result<u64, Error> {
        let pool = cx.pool()?;
        let mut long = pool.run(Block { ms: self.ms });
        let mut echoes = 0;
        block_on(async {
            while futures::poll!(&mut long).is_pending() {
                pool.run(Echo(echoes)).await?;
                echoes += 1;
            }
            Ok(echoes)
        })
    }
}

/// Sorts numbers: those below and those above one of them by others of its kind, down to the fifth level.
#[derive(Serialize, Deserialize)]
struct Sort(Vec<u64>);

impl Task for Sort {
    const NAME: &'static str = "sort";
    type Output = Result<(Vec<u64>, u32), Error>;

    async fn run(self, cx: Context) -> Self::Output {
        let Self(mut numbers) = self;
        if cx.depth() == 5 {
            numbers.sort_unstable();
            return Ok((numbers, 5));
        }
        let Some(pivot) = numbers.pop() else { return Ok((numbers, cx.depth())) };
        let (below, above) = numbers.into_iter().partition(|&n| n < pivot);
        let pool = cx.pool()?;
        let (below, above) = futures::try_join!(pool.run(Self(below)), pool.run(Self(above)))?;
        let ((below, left), (above, right)) = (below?, above?);
        Ok(([below, vec![pivot], above].concat(), left.max(right)))
    }
}

/// Asks for a pool while its worker may have so few more descriptors open. What came of it, and of a second try when that was
/// over.
#[derive(Serialize, Deserialize)]
struct Scarce(u64);

impl Task for Scarce {
    const NAME: &'static str = "scarce";
    type Output = (Option<Error>, Result<u64, Error>);

    async fn run(self, cx: Context) -> Self::Output {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, support::fds() as u64 + self.0, hard).unwrap();
        let refused = cx.pool().err();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        let pool = match cx.pool() {
            Ok(pool) => pool,
            Err(error) => return (refused, Err(error)),
        };
        (refused, pool.run(Echo(7)).await)
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

/// Notes its worker's process and computes for ever.
#[derive(Serialize, Deserialize)]
struct Burn(PathBuf);

impl Task for Burn {
    const NAME: &'static str = "burn";
    type Output = ();

    async fn run(self, _: Context) {
        note(&self.0, &std::process::id().to_string());
        loop {
            std::hint::spin_loop();
        }
    }
}

/// Whether every process that has noted itself there has gone.
fn burnt_out(path: &Path) -> bool {
    notes(path).iter().all(|pid| !exists(pid.parse().unwrap()))
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
    Burn(PathBuf),
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
            What::Burn(note) => pool.run(Burn(note)),
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
fn g1_a_chain_reaches_the_deepest_level() {
    on_a_runtime(|| async {
        for _ in 0..times(20, 1) {
            let pool = quick(1).build().await.unwrap();
            assert_eq!(pool.run(Chain(7)).await.unwrap().unwrap(), (8, 17));
            pool.drain().await;
        }
    });
}

#[test]
fn g4_deeper_than_the_limit_is_refused_at_the_call_and_starts_nothing() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let error = pool.run(Chain(8)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
        assert_eq!(error.path().len(), 8, "{error:?}");
        let flat = quick(1).depth_limit(1).build().await.unwrap();
        assert_eq!(flat.run(Chain(1)).await.unwrap().unwrap_err().kind(), ErrorKind::LimitExceeded);
        let worker = flat.run(Pid).await.unwrap();
        assert_eq!((children(worker), flat.stats().processes.used), (vec![], 1));
    });
}

#[test]
fn g6_a_task_that_blocks_for_its_pool_is_not_taken_for_dead() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).places(2).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        // Longer than a worker may be silent.
        let echoes = pool.run(Patient { ms: 8000 }).await.unwrap().unwrap();
        assert!(echoes > 10, "{echoes}");
        assert_eq!((pool.run(Pid).await.unwrap(), pool.stats().restarts), (before, 0));
    });
}

#[test]
fn numbers_are_sorted_five_levels_deep() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let numbers: Vec<u64> = (0..2000).map(|n: u64| n * 7919 % 2003).collect();
        let mut expected = numbers.clone();
        expected.sort_unstable();
        let (sorted, depth) = pool.run(Sort(numbers)).await.unwrap().unwrap();
        assert!(sorted == expected && depth == 5, "{} of {} down to {depth}", sorted.len(), expected.len());
    });
}

#[test]
fn a_pool_below_that_needs_more_descriptors_than_there_may_be_is_refused() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let (error, second) = pool.run(Scarce(20)).await.unwrap();
        let error = error.unwrap();
        assert_eq!((error.kind(), error.path().len()), (ErrorKind::LimitExceeded, 1), "{error:?}");
        for part in ["2 workers", "26", "ulimit -n"] {
            assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        }
        assert_eq!(second.unwrap(), 7);
        // As many as are needed are enough.
        let next = quick(1).build().await.unwrap();
        assert!(next.run(Scarce(30)).await.unwrap().0.is_none());
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
fn a_worker_that_is_replaced_sees_its_own_workers_out_first() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let left = folder.file("left");
        let pool = quick(1).max_tasks_per_worker(1).env("NESTED_NOTES", &left).build().await.unwrap();
        for _ in 0..3 {
            let [outer, inner] = pool.run(Family).await.unwrap().unwrap().map(|pid| pid.to_string());
            let when = |pid: &String| notes(&left).iter().position(|note| note == pid);
            until(|| when(&outer).is_some()).await;
            assert!(when(&inner) < when(&outer) && when(&inner).is_some(), "{:?}", notes(&left));
        }
        pool.drain().await;
    });
}

#[test]
fn dropping_the_outer_handle_stops_a_leaf_that_never_looks_up() {
    for blocks in [false, true] {
        on_a_runtime(|| async move {
            let folder = Folder::new();
            let note = folder.file("burns");
            let pool = quick(1).build().await.unwrap();
            let run = pool.run(Leaf { levels: 3, blocks, what: What::Burn(note.clone()) });
            until(|| !notes(&note).is_empty()).await;
            drop(run);
            until(|| burnt_out(&note)).await;
            // The outer worker is free again, or another has its place.
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
        let note = folder.file("burns");
        for n in 0..20 {
            let run = pool.run(Leaf { levels: 2, blocks: n % 2 == 0, what: What::Burn(note.clone()) });
            tokio::time::sleep(Duration::from_millis(n * 2)).await;
            drop(run);
        }
        // One that has begun ends with its process only, and one that has not never begins.
        until(|| pool.stats().in_flight == 0 && burnt_out(&note)).await;
        let burnt = notes(&note).len();
        assert_eq!(pool.run(Fibonacci(3)).await.unwrap().unwrap(), 2);
        assert_eq!(notes(&note).len(), burnt);
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

/// Whether a type can be part of a task's input.
trait Travels<How> {
    const HERE: () = ();
}
struct ByBytes;
impl<T> Travels<()> for T {}
impl<T: Serialize> Travels<ByBytes> for T {}

/// Compiles only while there is one way to read it: no handle of a pool or of what it runs can be sent to a worker.
#[test]
fn g9_a_handle_of_a_pool_above_does_not_travel() {
    const { (<Pool as Travels<_>>::HERE, <procpool::Run<u64> as Travels<_>>::HERE, <Context as Travels<_>>::HERE) };
}

#[test]
fn g9_a_worker_builds_no_pool_of_another_kind() {
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
fn g8_deadlines_only_shrink_on_the_way_down() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap().with_deadline(Instant::now() + Duration::from_secs(50));
        assert_eq!(pool.run(Late).await.unwrap().unwrap(), (true, ErrorKind::TimedOut));
    });
}
