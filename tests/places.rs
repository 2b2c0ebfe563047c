//! The budgets of a tree of pools: who gets a place to work in, who never waits for one, how many processes there are, and
//! that everything that was lent comes back.

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procpool::{Context, Error, ErrorKind, Pool, PoolBuilder, Task};
use serde::{Deserialize, Serialize};
use support::{Die, Echo, Folder, Wait, note, notes, on_a_runtime, times, until};

procpool::worker_test!(
    support::worker()
        .task::<Meet>()
        .task::<FanOut>()
        .task::<Hold>()
        .task::<Sum>()
        .task::<Fragile>()
        .task::<Threads>()
        .task::<Frugal>()
        .nested(|pool| pool.limit_threads())
);

/// Works until so many processes work at once, or it has waited for long. Says whether they did.
#[derive(Serialize, Deserialize)]
struct Meet {
    book: PathBuf,
    processes: usize,
}

impl Task for Meet {
    const NAME: &'static str = "meet";
    type Output = bool;

    async fn run(self, _: Context) -> bool {
        note(&self.book, &std::process::id().to_string());
        let end = Instant::now() + Duration::from_secs(15);
        let met = || notes(&self.book).into_iter().collect::<BTreeSet<_>>().len() >= self.processes;
        while !met() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        met()
    }
}

/// Has so many tasks meet.
#[derive(Serialize, Deserialize)]
struct FanOut {
    book: PathBuf,
    tasks: usize,
    processes: usize,
}

impl Task for FanOut {
    const NAME: &'static str = "fan-out";
    type Output = Result<bool, Error>;

    async fn run(self, cx: Context) -> Result<bool, Error> {
        let pool = cx.pool()?;
        let meet = || pool.run(Meet { book: self.book.clone(), processes: self.processes });
        let met: Result<Vec<bool>, Error> =
            join_all((0..self.tasks).map(|_| meet())).await.into_iter().collect();
        Ok(met?.into_iter().all(|met| met))
    }
}

/// Keeps so many inner tasks running until it is cancelled.
#[derive(Serialize, Deserialize)]
struct Hold {
    book: PathBuf,
    tasks: usize,
}

impl Task for Hold {
    const NAME: &'static str = "hold";
    type Output = Result<(), Error>;

    async fn run(self, cx: Context) -> Result<(), Error> {
        let pool = cx.pool()?;
        let hold = |_| pool.run(Wait { note: self.book.clone(), polite: false });
        for run in (0..self.tasks).map(hold).collect::<Vec<_>>() {
            run.await?;
        }
        Ok(())
    }
}

/// The sum of a tree of tasks: how many there are.
#[derive(Serialize, Deserialize)]
struct Sum {
    levels: u32,
    fan: usize,
}

impl Task for Sum {
    const NAME: &'static str = "sum";
    type Output = Result<u64, Error>;

    async fn run(self, cx: Context) -> Result<u64, Error> {
        if self.levels == 0 {
            return Ok(1);
        }
        let pool = cx.pool()?;
        let parts = (0..self.fan).map(|_| pool.run(Self { levels: self.levels - 1, fan: self.fan }));
        let mut sum = 1;
        for part in join_all(parts).await {
            sum += part??;
        }
        Ok(sum)
    }
}

/// The same, and one in so many kills its worker instead.
#[derive(Serialize, Deserialize)]
struct Fragile {
    levels: u32,
    seed: u64,
}

impl Task for Fragile {
    const NAME: &'static str = "fragile";
    type Output = u64;

    async fn run(self, cx: Context) -> u64 {
        if self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0xff < 13 {
            std::process::abort();
        }
        if self.levels == 0 {
            return 1;
        }
        let Ok(pool) = cx.pool() else { return 0 };
        let part = |n| pool.run(Self { levels: self.levels - 1, seed: self.seed * 3 + n });
        join_all((0..3).map(part)).await.into_iter().map(|part| part.unwrap_or(0)).sum()
    }
}

/// Has the tasks of a pool done while its worker may have few more descriptors open than now. How many those are.
#[derive(Serialize, Deserialize)]
struct Frugal;

impl Task for Frugal {
    const NAME: &'static str = "frugal";
    type Output = Result<usize, Error>;

    async fn run(self, cx: Context) -> Self::Output {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, support::fds() as u64 + 40, hard).unwrap();
        let pool = cx.pool()?;
        let answers = join_all((0..30).map(|n| pool.run(Echo(n)))).await;
        Ok(answers.into_iter().collect::<Result<Vec<_>, _>>()?.len())
    }
}

/// What is said about threads, so many levels further down.
#[derive(Serialize, Deserialize)]
struct Threads(u32);

impl Task for Threads {
    const NAME: &'static str = "threads";
    type Output = Result<(usize, Option<String>), Error>;

    async fn run(self, cx: Context) -> Self::Output {
        match self.0 {
            0 => Ok((cx.parallelism(), std::env::var("RAYON_NUM_THREADS").ok())),
            n => cx.pool()?.run(Self(n - 1)).await?,
        }
    }
}

fn with_places(workers: usize, places: u32) -> PoolBuilder {
    Pool::builder()
        .workers(workers)
        .places(places)
        .cancel_grace(Duration::from_millis(200))
        .term_grace(Duration::from_millis(200))
}

/// Waits until everything that was lent has come back.
async fn until_returned(pool: &Pool, workers: usize) {
    until(|| {
        let stats = pool.stats();
        // A worker that is being replaced could be mistaken for one that has come back.
        stats.workers.len() == workers && stats.places.used == 0 && stats.processes.used == workers
    })
    .await;
}

#[test]
fn one_task_that_fans_out_gets_all_the_places() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = with_places(1, 8).build().await.unwrap();
        // Seven of eight is the promise; its own place makes it eight.
        let fan_out = FanOut { book: folder.file("book"), tasks: 100, processes: 8 };
        assert!(pool.run(fan_out).await.unwrap().unwrap());
        let stats = pool.stats();
        assert_eq!((stats.places.limit, stats.processes.limit), (8, 64));
        until_returned(&pool, 1).await;
    });
}

#[test]
fn no_more_processes_work_than_there_are_places() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (inner, outer) = (folder.file("inner"), folder.file("outer"));
        let pool = with_places(2, 3).build().await.unwrap();
        let run = pool.run(Hold { book: inner.clone(), tasks: 10 });
        until(|| notes(&inner).len() == 3).await;
        assert_eq!(pool.stats().places.used, 3);
        // All places are lent, and yet an outer task begins at once.
        let other = pool.run(Wait { note: outer.clone(), polite: false });
        until(|| !notes(&outer).is_empty()).await;
        assert_eq!(pool.stats().places.used, 4);
        assert_eq!(notes(&inner).len(), 3);
        drop((run, other));
        until_returned(&pool, 2).await;
    });
}

#[test]
fn a_place_that_comes_free_goes_to_whoever_was_refused() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (first, second) = (folder.file("first"), folder.file("second"));
        let pool = with_places(2, 4).build().await.unwrap();
        let holding = pool.run(Hold { book: first.clone(), tasks: 3 });
        until(|| notes(&first).len() == 3).await;
        // One place for the task itself: its pool has one worker.
        let waiting = pool.run(FanOut { book: second.clone(), tasks: 3, processes: 3 });
        until(|| !notes(&second).is_empty()).await;
        drop(holding);
        assert!(waiting.await.unwrap().unwrap());
        until_returned(&pool, 2).await;
    });
}

#[test]
fn g1_a_tree_of_five_levels_and_three_branches_is_added_up() {
    on_a_runtime(|| async {
        for _ in 0..times(20, 1) {
            let pool = with_places(1, 4).build().await.unwrap();
            assert_eq!(pool.run(Sum { levels: 5, fan: 3 }).await.unwrap().unwrap(), 364);
            until_returned(&pool, 1).await;
        }
    });
}

#[test]
fn g2_many_tasks_that_fan_out_all_get_done_whatever_the_budget() {
    for places in [1, 2, 4, 8] {
        on_a_runtime(|| async move {
            let workers = places.min(3) as usize;
            for _ in 0..times(20, 1) {
                let pool = with_places(workers, places).build().await.unwrap();
                let sums = join_all((0..3).map(|_| pool.run(Sum { levels: 2, fan: 3 }))).await;
                assert!(sums.into_iter().all(|sum| sum.unwrap().unwrap() == 13));
                until_returned(&pool, workers).await;
                pool.drain().await;
            }
        });
    }
}

#[test]
fn g3_what_the_dead_were_lent_comes_back() {
    for places in [1, 2, 4, 8] {
        on_a_runtime(|| async move {
            let workers = places.min(3) as usize;
            let pool = with_places(workers, places).build().await.unwrap();
            for round in 0..times(20, 1) as u64 {
                let seeds = (0..6).map(|n| round * 6 + n);
                let runs = join_all(seeds.map(|seed| pool.run(Fragile { levels: 2, seed }))).await;
                for run in runs {
                    match run {
                        Ok(sum) => assert!(sum <= 9),
                        Err(error) => assert!(error.is_crashed(), "{error}"),
                    }
                }
                until_returned(&pool, workers).await;
                assert_eq!(pool.stats().places.limit, places as usize);
                assert_eq!(pool.run(Sum { levels: 2, fan: 3 }).await.unwrap().unwrap(), 13);
            }
        });
    }
}

#[test]
fn one_that_did_not_say_how_many_workers_it_wants_does_with_those_that_descriptors_allow() {
    on_a_runtime(|| async {
        let pool = with_places(1, 1000).build().await.unwrap();
        assert_eq!(pool.run(Frugal).await.unwrap().unwrap(), 30);
    });
}

#[test]
fn a_pool_below_without_any_process_fails_its_tasks_and_recovers() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let book = folder.file("book");
        let pool = with_places(2, 4).max_processes(3).build().await.unwrap();
        let holding = pool.run(Hold { book: book.clone(), tasks: 3 });
        until(|| !notes(&book).is_empty()).await;
        let error = pool.run(Sum { levels: 1, fan: 1 }).await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.path().len()), (ErrorKind::LimitExceeded, 1), "{error:?}");
        assert!(error.to_string().contains("max_processes"), "{error}");
        let stats = pool.stats();
        assert_eq!((stats.processes.limit, stats.processes.used), (3, 3));
        drop(holding);
        until_returned(&pool, 2).await;
        assert_eq!(pool.run(Sum { levels: 1, fan: 3 }).await.unwrap().unwrap(), 4);
    });
}

#[test]
fn a_limit_below_the_number_of_workers_is_refused() {
    on_a_runtime(|| async {
        let error = with_places(4, 4).max_processes(3).build().await.unwrap_err();
        assert!(error.to_string().contains("max_processes"), "{error}");
    });
}

#[test]
fn a_worker_is_told_its_share_of_the_processors() {
    on_a_runtime(|| async {
        let cores = std::thread::available_parallelism().unwrap().get();
        for places in [1, 64] {
            let share = (cores / places).max(1);
            let pool = with_places(1, places as u32).build().await.unwrap();
            let plain = std::env::var("RAYON_NUM_THREADS").ok();
            assert_eq!(pool.run(Threads(0)).await.unwrap().unwrap(), (share, plain));
            assert_eq!(pool.run(Threads(2)).await.unwrap().unwrap(), (share, Some(share.to_string())));
        }
    });
}

#[test]
fn a_crash_below_is_replaced_within_the_budget() {
    on_a_runtime(|| async {
        let pool = with_places(1, 2).max_processes(2).build().await.unwrap();
        assert!(pool.run(Echo(1)).await.is_ok());
        assert!(pool.run(Die::Exit(3)).await.unwrap_err().is_crashed());
        assert_eq!(pool.run(Sum { levels: 1, fan: 2 }).await.unwrap().unwrap(), 3);
        until_returned(&pool, 1).await;
    });
}
