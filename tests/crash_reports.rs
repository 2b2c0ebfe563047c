//! What the death of a worker looks like to the caller of its task, and that no task runs more often than its caller
//! allowed. The tests are named after the acceptance tests that they are.

mod support;

use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as NixPid;
use procpool::{ErrorKind, Pool};
use support::*;

procpool::worker_test!(support::worker());

#[test]
fn b8_no_task_runs_twice_and_each_has_one_outcome_under_random_kills() {
    on_a_runtime(|| async {
        let tasks = if full() { 500 } else { 300 };
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let runs: Vec<_> =
            (0..tasks).map(|line| pool.run(Append { path: path.clone(), line, then_ms: 1 })).collect();
        let killer = kill_some(&pool, &path, 10);
        let (outcomes, ()) = tokio::join!(join_all(runs), killer);
        let lines = sorted(&path);
        let mut once = lines.clone();
        once.dedup();
        assert_eq!(lines.len(), once.len(), "a task ran twice");
        for (line, outcome) in outcomes.into_iter().enumerate() {
            let ran = lines.binary_search(&(line as u64)).is_ok();
            match outcome {
                Ok(answer) => assert!(ran && answer == line as u64),
                Err(error) => {
                    assert!(error.is_crashed(), "{error:?}");
                    assert_eq!((error.attempts(), error.may_have_run()), (1, true), "{error:?}");
                }
            }
        }
    });
}

#[test]
fn b8_with_retries_all_are_done_and_none_is_begun_more_often_than_allowed() {
    on_a_runtime(|| async {
        let tasks = if full() { 500 } else { 200 };
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let patient = pool.with_retries(20);
        let runs: Vec<_> =
            (0..tasks).map(|line| patient.run(Append { path: path.clone(), line, then_ms: 1 })).collect();
        let (outcomes, ()) = tokio::join!(join_all(runs), kill_some(&pool, &path, 6));
        for (line, outcome) in outcomes.into_iter().enumerate() {
            assert_eq!(outcome.unwrap(), line as u64);
        }
        let again = sorted(&path).len() as u64 - tasks;
        assert!(again <= 6, "6 workers died, and {again} tasks ran again");
    });
}

#[test]
fn b9_a_poison_kills_so_many_workers_as_it_may_and_innocents_all_succeed() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let poison = pool.with_retries(3).run(Die::Signal(Signal::SIGSEGV as i32));
        let innocents: Vec<_> = (0..100).map(|_| pool.run(Block { ms: 2 })).collect();
        for innocent in join_all(innocents).await {
            assert_eq!(innocent.unwrap(), 2);
        }
        let error = poison.await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Crashed, 4), "{error:?}");
        assert!(error.may_have_run() && error.to_string().contains("4 attempts"), "{error}");
        // The last of the four is being replaced.
        until(|| pool.stats().restarts == 4).await;
        pids(&pool, 2).await;
    });
}

#[test]
fn a_task_learns_which_attempt_it_is_and_only_deaths_are_tried_again() {
    on_a_runtime(|| async {
        let pool = quick(2).build().await.unwrap();
        let patient = pool.with_retries(2);
        assert_eq!(patient.run(DieUntil(3)).await.unwrap(), 3);
        let error = patient.run(Panic("no".to_owned())).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Panicked, 1));
        let folder = Folder::new();
        let spin = |view: &Pool, name| view.run(Spin { note: folder.file(name), polite: false });
        let late = patient.with_timeout(Duration::from_millis(50));
        let error = spin(&late, "late").await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::TimedOut, 1), "{error:?}");
        let run = spin(&patient, "cancelled");
        until(|| !notes(&folder.file("cancelled")).is_empty()).await;
        let error = run.cancel().await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Cancelled, 1), "{error:?}");
        assert_eq!(notes(&folder.file("cancelled")).len() + notes(&folder.file("late")).len(), 2);
    });
}

/// Kills a worker that works so many times, each when some more tasks are done.
async fn kill_some(pool: &Pool, path: &std::path::Path, times: usize) {
    for round in 0..times {
        until(|| notes(path).len() >= 20 * round).await;
        let workers = pool.stats().workers;
        if let Some(pid) = workers[round % workers.len()].pid {
            // It may have just died of the round before.
            let _ = kill(NixPid::from_raw(pid as i32), Signal::SIGKILL);
        }
    }
}

fn sorted(path: &std::path::Path) -> Vec<u64> {
    let mut lines: Vec<u64> = notes(path).iter().map(|line| line.parse().unwrap()).collect();
    lines.sort_unstable();
    lines
}
