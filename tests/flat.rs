//! Nothing grows: descriptors, threads, zombies and memory are as before after pools have come and gone, after tasks
//! without number, after a flood of words; and what cannot fit is refused before it is begun.
//!
//! This test has a `main` of its own, so that its process does nothing else meanwhile.

mod support;

use std::time::Duration;

use futures::StreamExt;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procpool::{Context, ErrorKind, Pool, Task};
use serde::{Deserialize, Serialize};
use support::{Echo, Test, children, fds, on_a_runtime, resident_kib, threads, times, until_blocking};

/// Writes much to standard error.
#[derive(Serialize, Deserialize)]
struct Flood {
    bytes: usize,
}

impl Task for Flood {
    const NAME: &'static str = "flood";
    type Output = usize;

    async fn run(self, _: Context) -> usize {
        let line = "0123456789abcde\n".repeat(4096);
        for _ in 0..self.bytes / line.len() {
            eprint!("{line}");
        }
        self.bytes
    }
}

fn main() {
    support::worker().task::<Flood>().init();
    let trial = |name: &str, test: fn() -> Result<(), Failed>| {
        Trial::test(name, move || {
            let _test = Test::lasting(Duration::from_secs(times(1800, 120) as u64));
            test()
        })
    };
    let trials = vec![
        trial("f7_a_flood_of_words_is_read_and_not_kept", f7),
        trial("h1_more_workers_than_there_are_descriptors_for_are_refused_with_the_number", h1),
        trial("h5_pools_come_and_go_and_leave_nothing", h5),
        trial("h6_tasks_without_number_leave_nothing", h6),
    ];
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit();
}

/// Holds that memory has not grown by more than this.
fn flat(what: &str, before: u64, allowed_kib: u64) -> Result<(), Failed> {
    let after = resident_kib();
    println!("{what}: {before} KiB resident before, {after} KiB after");
    if after > before + allowed_kib {
        return Err(format!("{what}: memory has grown from {before} to {after} KiB").into());
    }
    Ok(())
}

fn cycle() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        drop(pool);
    });
}

fn h5() -> Result<(), Failed> {
    for _ in 0..times(200, 20) {
        cycle();
    }
    let quiet = || children(std::process::id()).is_empty();
    until_blocking(quiet);
    let (open, running, before) = (fds(), threads(), resident_kib());
    for _ in 0..times(2000, 60) {
        cycle();
    }
    until_blocking(|| quiet() && fds() <= open && threads() == running);
    flat("pools", before, 5 << 10)
}

fn h6() -> Result<(), Failed> {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let run = async |from: u64, tasks: u64| {
            let answers = pool.map_unordered((from..from + tasks).map(Echo));
            answers.fold(0, async |sum, answer| sum + answer.unwrap()).await
        };
        let tasks = times(500_000, 30_000) as u64;
        run(0, tasks / 4).await;
        let before = resident_kib();
        assert_eq!(run(0, tasks).await, tasks * (tasks - 1) / 2);
        flat("tasks", before, 5 << 10).unwrap();
    });
    Ok(())
}

fn f7() -> Result<(), Failed> {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        pool.run(Flood { bytes: 1 << 20 }).await.unwrap();
        let before = resident_kib();
        let bytes = times(1 << 30, 32 << 20);
        assert_eq!(pool.run(Flood { bytes }).await.unwrap(), bytes);
        flat("words", before, 4 << 10).unwrap();
    });
    Ok(())
}

fn h1() -> Result<(), Failed> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    on_a_runtime(|| async {
        let room = 200;
        setrlimit(Resource::RLIMIT_NOFILE, fds() as u64 + room, hard).unwrap();
        let error = Pool::builder().workers(1000).build().await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
        for part in ["1000 workers", "50", &(fds() as u64 + room).to_string(), "ulimit -n"] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        assert!(children(std::process::id()).is_empty(), "something was started");
        // As many as fit are not refused, and all of them come to work.
        let pool = Pool::builder().workers(20).build().await.unwrap();
        support::pids(&pool, 20).await;
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    });
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    Ok(())
}
