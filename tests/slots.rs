//! Several slots: one worker runs many tasks at once, and what befalls one of them befalls no other, save the death of their
//! worker.

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as Process;
use procpool::{Context, ErrorKind, Pool, PoolBuilder, Task};
use serde::{Deserialize, Serialize};
use support::*;
use tokio::sync::watch;

procpool::worker_test!(support::worker().task::<Meet>().task::<Present>().task::<Leave>().task::<Call>());

/// How many have come to a meeting in this worker.
static MET: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// Waits until so many of its kind are there at once, and tells the worker's process id. They never are if they are run one
/// after the other.
#[derive(Serialize, Deserialize)]
struct Meet(usize);

impl Task for Meet {
    const NAME: &'static str = "meet";
    type Output = u32;

    async fn run(self, _: Context) -> u32 {
        MET.send_modify(|met| *met += 1);
        MET.subscribe().wait_for(|met| *met >= self.0).await.unwrap();
        std::process::id()
    }
}

/// How many are present in this worker.
static PRESENT: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// Stays for a while and tells how many were there when it came, itself included.
#[derive(Serialize, Deserialize)]
struct Present(u64);

impl Task for Present {
    const NAME: &'static str = "present";
    type Output = usize;

    async fn run(self, _: Context) -> usize {
        PRESENT.send_modify(|present| *present += 1);
        let there = *PRESENT.borrow();
        tokio::time::sleep(Duration::from_millis(self.0)).await;
        PRESENT.send_modify(|present| *present -= 1);
        there
    }
}

/// What those wait for who were left behind.
static CALLED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// Leaves something behind in the worker's runtime, which takes a note when it is called.
#[derive(Serialize, Deserialize)]
struct Leave(PathBuf);

impl Task for Leave {
    const NAME: &'static str = "leave";
    type Output = ();

    async fn run(self, cx: Context) {
        tokio::spawn(async move {
            CALLED.subscribe().wait_for(|called| *called).await.unwrap();
            // Its task has ended, and so its context says.
            note(&self.0, &format!("called, {}", cx.is_cancelled()));
        });
    }
}

/// Calls those who were left behind.
#[derive(Serialize, Deserialize)]
struct Call;

impl Task for Call {
    const NAME: &'static str = "call";
    type Output = ();

    async fn run(self, _: Context) {
        CALLED.send_replace(true);
    }
}

/// One worker with so many slots.
fn one(slots: usize) -> PoolBuilder {
    Pool::builder().workers(1).slots(slots)
}

#[test]
fn a_thousand_tasks_run_at_once_on_one_worker() {
    on_both_runtimes(|| async {
        let pool = one(1000).build().await.unwrap();
        let pids = join_all((0..1000).map(|_| pool.run(Meet(1000)))).await;
        let pids: BTreeSet<_> = pids.into_iter().map(Result::unwrap).collect();
        assert_eq!(pids.len(), 1);
    });
}

#[test]
fn no_more_tasks_run_at_once_than_there_are_slots() {
    on_a_runtime(|| async {
        let pool = one(3).build().await.unwrap();
        let there = join_all((0..30).map(|_| pool.run(Present(2)))).await;
        let most = there.into_iter().map(Result::unwrap).max();
        assert!(most <= Some(3), "{most:?}");
    });
}

#[test]
fn the_emptiest_worker_is_next_and_all_of_them_fill_up() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(3).slots(4).build().await.unwrap();
        pids(&pool, 3).await;
        let pids = join_all((0..12).map(|_| pool.run(Meet(4)))).await;
        let pids: BTreeSet<_> = pids.into_iter().map(Result::unwrap).collect();
        assert_eq!(pids.len(), 3);
    });
}

#[test]
fn a_panic_fails_its_own_task_only() {
    on_a_runtime(|| async {
        let pool = one(10).build().await.unwrap();
        let first = pool.run(Meet(2));
        let error = pool.run(Panic("mine alone".to_owned())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let second = pool.run(Meet(2)).await.unwrap();
        assert_eq!(first.await.unwrap(), second);
    });
}

#[test]
fn a_dropped_run_stops_its_task_and_none_beside_it() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = one(10).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let notes_of = |n: usize| notes(&folder.file(&n.to_string()));
        let mut runs: Vec<_> =
            (0..4).map(|n| pool.run(Wait { note: folder.file(&n.to_string()), polite: n != 3 })).collect();
        until(|| (0..4).all(|n| notes_of(n) == ["begun"])).await;
        // One that never asks is dropped at its await, one that asks may clean up.
        let error = runs.remove(3).cancel().await.unwrap_err();
        assert!(error.is_cancelled() && error.may_have_run(), "{error:?}");
        drop(runs.remove(1));
        until(|| notes_of(1) == ["begun", "cleaned up"]).await;
        until(|| pool.stats().in_flight == 2).await;
        assert_eq!((notes_of(0), notes_of(2)), (vec!["begun".to_owned()], vec!["begun".to_owned()]));
        for run in runs {
            run.cancel().await.unwrap();
        }
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn a_timeout_ends_its_own_task_only() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = one(10).build().await.unwrap();
        let first = pool.run(Meet(2));
        let hasty = pool.with_timeout(Duration::from_millis(100));
        let error = hasty.run(Wait { note: folder.file("note"), polite: false }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let second = pool.run(Meet(2)).await.unwrap();
        assert_eq!(first.await.unwrap(), second);
    });
}

#[test]
fn a_task_that_blocks_stalls_its_neighbours_and_is_not_taken_for_dead() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (blocked, waiting) = (folder.file("blocked"), folder.file("waiting"));
        let pool = one(3).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let neighbour = pool.run(Wait { note: waiting.clone(), polite: true });
        until(|| notes(&waiting) == ["begun"]).await;
        // Longer than a worker may be silent.
        let blocks = pool.run(Append { path: blocked.clone(), line: 1, then_ms: 6000 });
        until(|| notes(&blocked) == ["1"]).await;
        let start = Instant::now();
        // This one cannot begin, and is let go of at once.
        let error = pool.run(Echo(1)).cancel().await.unwrap_err();
        assert!(error.is_cancelled() && !error.may_have_run(), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        let stalled = pool.run(Echo(2));
        let closing = pool.drain();
        assert_eq!(blocks.await.unwrap(), 1);
        assert_eq!(stalled.await.unwrap(), 2);
        neighbour.cancel().await.unwrap();
        assert_eq!(notes(&waiting), ["begun", "cleaned up"]);
        closing.await;
        until(|| !exists(before)).await;
    });
}

#[test]
fn the_death_of_a_worker_costs_all_that_it_had_begun_and_nothing_else() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let file = |n: usize| folder.file(&n.to_string());
        let pool = one(3).build().await.unwrap();
        let before = pids(&pool, 1).await[0];
        let waits: Vec<_> = (0..2).map(|n| pool.run(Wait { note: file(n), polite: true })).collect();
        until(|| (0..2).all(|n| notes(&file(n)) == ["begun"])).await;
        let blocks = pool.run(Append { path: file(2), line: 7, then_ms: 60_000 });
        until(|| notes(&file(2)) == ["7"]).await;
        // In the worker, or on the way there, and not begun: it runs on the next one.
        let fourth = pool.run(Append { path: file(3), line: 8, then_ms: 0 });
        until(|| pool.stats().in_flight == 4).await;
        kill(Process::from_raw(before.cast_signed()), Signal::SIGKILL).unwrap();
        for run in waits {
            let error = run.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Crashed);
            assert!(error.may_have_run() && error.to_string().contains("SIGKILL"), "{error}");
        }
        assert_eq!(blocks.await.unwrap_err().kind(), ErrorKind::Crashed);
        assert_eq!(fourth.await.unwrap(), 8);
        assert_eq!(notes(&file(3)), ["8"]);
    });
}

#[test]
fn those_beside_a_task_that_does_not_stop_are_collateral_and_what_had_not_begun_runs_elsewhere() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (waiting, spinning) = (folder.file("waiting"), folder.file("spinning"));
        let pool = quick(1).slots(3).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let neighbour = pool.run(Wait { note: waiting.clone(), polite: true });
        until(|| notes(&waiting) == ["begun"]).await;
        let spins = pool.run(Spin { note: spinning.clone(), polite: false });
        until(|| notes(&spinning) == ["begun"]).await;
        // There is a slot for this one, and nobody who would begin it.
        let third = pool.run(Pid);
        let start = Instant::now();
        assert!(spins.cancel().await.unwrap_err().is_cancelled());
        // Its own grace, and that of its neighbours. Both SIGTERM and what follows it are quick.
        assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
        let error = neighbour.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Collateral);
        assert!(error.may_have_run(), "{error}");
        assert_ne!(third.await.unwrap(), before);
        assert_eq!(notes(&waiting), ["begun"]);
    });
}

#[test]
fn a_task_that_stops_within_the_grace_of_its_neighbours_costs_nobody_anything() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let blocked = folder.file("blocked");
        let pool = one(3).cancel_grace(Duration::from_secs(2)).build().await.unwrap();
        let neighbour = pool.run(Meet(2));
        let blocks = pool.run(Append { path: blocked.clone(), line: 1, then_ms: 3000 });
        until(|| notes(&blocked) == ["1"]).await;
        // Its grace is over when it stops, and that of its neighbour is not.
        let start = Instant::now();
        assert_eq!(blocks.cancel().await.unwrap(), 1);
        assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
        let pid = pool.run(Meet(2)).await.unwrap();
        assert_eq!(neighbour.await.unwrap(), pid);
    });
}

#[test]
fn what_a_task_has_spawned_lives_on_in_its_worker() {
    on_a_runtime(|| async {
        for slots in [1, 10] {
            let folder = Folder::new();
            let path = folder.file("note");
            let pool = one(slots).build().await.unwrap();
            pool.run(Leave(path.clone())).await.unwrap();
            assert_eq!(notes(&path), [""; 0]);
            pool.run(Call).await.unwrap();
            until(|| notes(&path) == ["called, true"]).await;
        }
    });
}

#[test]
fn no_slots_and_absurdly_many_are_refused() {
    on_a_runtime(|| async {
        for slots in [0, 65_537, usize::MAX] {
            let error = one(slots).build().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Launch);
            assert!(error.to_string().contains("slots"), "{error}");
        }
    });
}
