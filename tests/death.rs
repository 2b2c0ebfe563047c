//! Workers that die: the victim's caller gets one error that says how, the others do not notice, capacity comes back.

mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as NixPid;
use procpool::{ErrorKind, Pool};
use support::*;

procpool::worker_test!(support::worker());

fn send(pid: u32, signal: Signal) {
    kill(NixPid::from_raw(pid as i32), signal).unwrap();
}

#[test]
fn only_the_victim_of_a_kill_fails() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let append = |line, then_ms| pool.run(Append { path: path.clone(), line, then_ms });
        let victim = append(1000, 60_000);
        let others: Vec<_> = (0..100).map(|line| append(line, 1)).collect();
        until(|| notes(&path).iter().any(|line| line == "1000")).await;
        let stats = pool.stats();
        let worker =
            stats.workers.iter().find(|w| w.tasks.iter().any(|task| Some(task.id) == victim.id())).unwrap();
        send(worker.pid.unwrap(), Signal::SIGKILL);
        let error = victim.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Crashed, "{error:?}");
        assert_eq!((error.worker_id(), error.worker_pid()), (Some(worker.id), worker.pid));
        for (line, other) in join_all(others).await.into_iter().enumerate() {
            assert_eq!(other.unwrap(), line as u64);
        }
        let fresh = pids(&pool, 2).await;
        assert!(!fresh.contains(&worker.pid.unwrap()));
        assert_eq!(pool.stats().restarts, 1);
    });
}

#[test]
fn what_a_worker_had_finished_is_answered_although_it_died_before_it_wrote_that() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        for round in 0..4 {
            let echoes = |from: u64| (from..from + 200).map(|n| pool.run(Echo(n))).collect::<Vec<_>>();
            let (before, victim) = (echoes(0), pool.run(Die::Signal(Signal::SIGKILL as i32)));
            let after = echoes(200);
            assert!(victim.await.unwrap_err().is_crashed(), "round {round}");
            for (n, echo) in join_all(before.into_iter().chain(after)).await.into_iter().enumerate() {
                assert_eq!(echo.unwrap(), n as u64, "round {round}");
            }
        }
    });
}

#[test]
fn an_idle_worker_that_is_killed_is_replaced_and_nobody_notices() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        for _ in 0..5 {
            for pid in pids(&pool, 2).await {
                send(pid, Signal::SIGKILL);
            }
            for answer in join_all((0..20).map(|n| pool.run(Echo(n)))).await {
                // Only a task that was already running on a dying worker may fail, and it says so.
                if let Err(error) = answer {
                    assert!(error.is_crashed() && error.may_have_run(), "{error:?}");
                }
            }
        }
        pids(&pool, 2).await;
        assert_eq!(pool.run(Echo(9)).await.unwrap(), 9);
    });
}

#[test]
fn d5_a_stopped_worker_is_found_and_killed_and_the_others_do_not_notice() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let victim = pool.run(Append { path: path.clone(), line: 1, then_ms: 60_000 });
        until(|| notes(&path) == ["1"]).await;
        let workers = pool.stats().workers;
        let (busy, other): (Vec<_>, Vec<_>) = workers.iter().partition(|worker| !worker.tasks.is_empty());
        send(busy[0].pid.unwrap(), Signal::SIGSTOP);
        let start = Instant::now();
        let others = async {
            while start.elapsed() < Duration::from_secs(4) {
                let pid = pool.run(support::Pid).await.unwrap();
                assert_eq!(Some(pid), other[0].pid);
            }
        };
        let (error, ()) = tokio::join!(victim, others);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unresponsive, "{error:?}");
        assert!(error.may_have_run(), "{error:?}");
        assert!(start.elapsed() < within(Duration::from_secs(7)), "{:?}", start.elapsed());
        until(|| !exists(busy[0].pid.unwrap())).await;
        assert!(pids(&pool, 2).await.contains(&other[0].pid.unwrap()));
    });
}

#[test]
fn children_of_a_worker_die_with_it() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let grandchild = pool.run(Grandchild).await.unwrap();
        assert!(exists(grandchild));
        assert!(pool.run(Die::Signal(Signal::SIGKILL as i32)).await.unwrap_err().is_crashed());
        until(|| !exists(grandchild)).await;
    });
}

#[test]
fn a_task_that_always_kills_its_worker_does_not_make_the_pool_spin() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        for _ in 0..8 {
            assert!(pool.run(Die::Exit(1)).await.unwrap_err().is_crashed());
        }
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        assert!(pool.stats().restarts <= 10, "{:?}", pool.stats());
    });
}
