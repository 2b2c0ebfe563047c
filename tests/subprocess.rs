//! Processes that tasks start: they end with their task or their worker, and in a contained pool even those that leave the
//! worker's group do. And that a contained pool's workers are like any other's, seen from outside.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use procpool::{Context, ErrorKind, Exit, Pool, Task, Worker};
use serde::{Deserialize, Serialize};
use support::role::send;
use support::*;
use tokio::signal::unix::{SignalKind, signal};

procpool::worker_test!(starters());

fn starters() -> Worker {
    support::worker().task::<Start>().task::<Heed>()
}

/// Starts a process, notes its number, and awaits it or leaves it behind.
#[derive(Serialize, Deserialize)]
struct Start {
    how: How,
    note: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum How {
    Awaited,
    InAGroup,
    InASession,
}

impl Task for Start {
    const NAME: &'static str = "start";
    type Output = u32;

    async fn run(self, cx: Context) -> u32 {
        let mut command = cx.command("sleep");
        let pid = match self.how {
            How::Awaited => {
                let mut child = command.arg("1000").spawn().unwrap();
                note(&self.note, &child.id().unwrap().to_string());
                child.wait().await.unwrap();
                0
            }
            How::InAGroup => {
                command.arg("1000").process_group(0).kill_on_drop(false).spawn().unwrap().id().unwrap()
            }
            How::InASession => escape(std::process::Stdio::null()),
        };
        note(&self.note, &pid.to_string());
        pid
    }
}

/// Hears nothing but SIGTERM, of which it leaves a note; then it ends its worker with code 7.
#[derive(Serialize, Deserialize)]
struct Heed(PathBuf);

impl Task for Heed {
    const NAME: &'static str = "heed";
    type Output = ();

    async fn run(self, _: Context) {
        std::thread::scope(|scope| {
            let hears = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let mut term = signal(SignalKind::terminate()).unwrap();
                    note(&self.0, "begun");
                    term.recv().await;
                });
                note(&self.0, "terminated");
                std::process::exit(7);
            });
            hears.join().unwrap();
        });
    }
}

/// Waits for the number in a note and for the process to be there.
async fn noted(path: &std::path::Path) -> u32 {
    until(|| !notes(path).is_empty()).await;
    let pid = notes(path)[0].parse().unwrap();
    until(|| exists(pid)).await;
    pid
}

#[test]
fn what_a_task_started_ends_when_the_task_is_cancelled() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let run = pool.run(Start { how: How::Awaited, note: folder.file("note") });
        let child = noted(&folder.file("note")).await;
        drop(run);
        until(|| !exists(child)).await;
        assert_eq!(pool.run(Pid).await.unwrap(), before, "the worker had to be killed");
        // Nor is it a zombie.
        until(|| children(before).is_empty()).await;
    });
}

#[test]
fn what_a_task_started_ends_when_its_worker_is_killed() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let run = pool.run(Start { how: How::Awaited, note: folder.file("note") });
        let child = noted(&folder.file("note")).await;
        send(pids(&pool, 1).await[0], Signal::SIGKILL);
        assert!(run.await.unwrap_err().is_crashed());
        until(|| !exists(child)).await;
    });
}

#[test]
fn what_leaves_the_group_outlives_its_worker_unless_the_pool_is_contained() {
    on_a_runtime(|| async {
        for contained in [false, true] {
            for how in [How::InAGroup, How::InASession] {
                let folder = Folder::new();
                let pool = Pool::builder().workers(1).contained(contained).build().await.unwrap();
                let escaped = pool.run(Start { how, note: folder.file("note") }).await.unwrap();
                let worker = pids(&pool, 1).await[0];
                assert!(exists(escaped));
                pool.drain().await;
                until(|| !exists(worker)).await;
                if contained {
                    until(|| !exists(escaped)).await;
                } else {
                    assert!(exists(escaped), "{how:?}");
                    send(escaped, Signal::SIGKILL);
                }
            }
        }
    });
}

#[test]
fn a_contained_worker_is_known_by_its_own_number_and_dies_by_its_own_name() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(9).contained(true).build().await.unwrap();
        pids(&pool, 9).await;
        let signals = ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS", "SIGILL", "SIGFPE", "SIGTERM", "SIGUSR1"];
        for name in signals {
            let number: Signal = name.parse().unwrap();
            let workers = pool.stats().workers;
            let error = pool.run(Die::Signal(number as i32)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Crashed, "{error:?}");
            assert_eq!(error.exit().and_then(|exit| exit.signal()).as_deref(), Some(name), "{error:?}");
            let known = workers.iter().find(|worker| Some(worker.id) == error.worker_id());
            assert_eq!(error.worker_pid(), known.unwrap().pid, "{error:?}");
        }
        for code in [0, 3] {
            let error = pool.run(Die::Exit(code)).await.unwrap_err();
            assert_eq!(error.exit(), Some(Exit::Code(code)), "{error:?}");
        }
        let pid = pool.run(Pid).await.unwrap();
        assert!(pool.stats().workers.iter().any(|worker| worker.pid == Some(pid)));
        assert!(pool.run(Die::Abort).await.unwrap_err().stderr().contains("about to abort"));
        pool.drain().await;
        assert!(pool.stats().workers.is_empty());
    });
}

#[test]
fn d2_the_steps_of_cancellation_reach_workers_and_contained_ones() {
    on_a_runtime(|| async {
        for contained in [false, true] {
            let folder = Folder::new();
            let path = folder.file("note");
            let pool = quick(1).contained(contained).build().await.unwrap();
            let run = pool.run(Heed(path.clone()));
            until(|| notes(&path) == ["begun"]).await;
            let start = Instant::now();
            let error = run.cancel().await.unwrap_err();
            assert!(error.is_cancelled(), "{error:?}");
            assert_eq!(error.exit(), Some(Exit::Code(7)), "{error:?}");
            let took = start.elapsed();
            assert!(
                took > Duration::from_millis(200) && took < within(Duration::from_millis(500)),
                "{took:?}"
            );
            assert_eq!(notes(&path), ["begun", "terminated"]);
            // And who hears nothing at all is killed.
            let path = folder.file("spin");
            let run = pool.run(Spin { note: path.clone(), polite: false });
            until(|| notes(&path) == ["begun"]).await;
            assert!(run.cancel().await.unwrap_err().is_cancelled());
            assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        }
    });
}

#[test]
fn a_contained_worker_that_is_killed_by_force_takes_what_escaped_along() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = quick(1).contained(true).build().await.unwrap();
        let escaped = pool.run(Start { how: How::InASession, note: folder.file("note") }).await.unwrap();
        let path = folder.file("spin");
        let spins = pool.run(Spin { note: path.clone(), polite: false });
        until(|| notes(&path) == ["begun"]).await;
        drop(spins);
        until(|| !exists(escaped)).await;
        let again = pool.run(Start { how: How::InASession, note: folder.file("note") }).await.unwrap();
        drop(pool);
        until(|| !exists(again)).await;
    });
}

#[test]
fn a_guardian_that_does_not_end_is_killed_and_its_worker_with_it() {
    on_a_runtime(|| async {
        let pool = quick(1).contained(true).build().await.unwrap();
        let worker = pids(&pool, 1).await[0];
        let guardian = status(worker).unwrap().1;
        assert_ne!(guardian, std::process::id());
        send(guardian, Signal::SIGSTOP);
        drop(pool);
        until(|| !exists(worker) && !exists(guardian)).await;
    });
}

#[test]
fn a_program_that_cannot_be_guarded_is_told_so() {
    on_a_runtime(|| async {
        let contained = || quick(1).contained(true).start_limit(Duration::from_secs(20));
        let error = contained().program("/bin/false").build().await.unwrap_err().to_string();
        assert!(error.contains("exited with code 1"), "{error}");
        let error = contained().program("/bin/cat").build().await.unwrap_err().to_string();
        assert!(error.contains("echoes"), "{error}");
        // A script loses the name, and with it the guardian.
        let program = std::env::current_exe().unwrap();
        let script = format!("exec {} serves --exact --nocapture --test-threads=1", program.display());
        let error = contained().program("/bin/sh").args(["-c", &script]).env("SERVES", "1").build().await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("not contained") && error.contains("argv[0]"), "{error}");
    });
}

/// The main function of a dedicated worker program, when it is started as one: does nothing in an ordinary run.
#[test]
fn serves() {
    if std::env::var_os("SERVES").is_some() {
        starters().serve();
    }
}
