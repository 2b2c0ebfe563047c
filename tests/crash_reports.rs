//! What the death of a worker looks like to the caller of its task, and that no task runs more often than its caller
//! allowed. The tests are named after the acceptance tests that they are.

mod support;

use std::error::Error as _;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as NixPid;
use procpool::{Context, Error, ErrorKind, Exit, Pool, Task};
use serde::{Deserialize, Serialize};
use support::*;

procpool::worker_test!(support::worker().task::<Ruin>());

/// Ends its worker, each in its way.
#[derive(Serialize, Deserialize)]
enum Ruin {
    /// Becomes another program, which ends at once.
    Exec,
    /// Panics as if nothing could unwind.
    Abort(String),
    /// Exits as a program does whose main thread has panicked.
    PanicExit(String),
    /// Writes so many lines, and aborts.
    Talk(u32),
    /// Allocates beyond a limit on memory.
    Allocate,
    /// Is refused memory, and dies of something else.
    Refused,
    /// Uses so many bytes, and dies.
    Use(usize),
    /// Computes beyond a limit on processor time.
    Compute,
    /// Writes beyond a limit on the size of files.
    Write(PathBuf),
    /// Works for so many milliseconds, and dies.
    Late(u64),
}

const MEMORY: u64 = 256 << 20;

impl Task for Ruin {
    const NAME: &'static str = "ruin";
    type Output = ();

    async fn run(self, _: Context) {
        let limit = |resource, most| setrlimit(resource, most, most.saturating_mul(2)).unwrap();
        match self {
            Self::Exec => panic!("{}", Command::new("/bin/true").exec()),
            Self::Abort(words) => abort_by_panic(&words),
            Self::PanicExit(words) => {
                std::thread::spawn(move || panic!("{words}")).join().unwrap_err();
                std::process::exit(101);
            }
            Self::Talk(lines) => {
                (0..lines).for_each(|n| eprintln!("{}", line(n)));
                std::process::abort();
            }
            Self::Allocate => {
                limit(Resource::RLIMIT_AS, MEMORY);
                let mut all = Vec::new();
                loop {
                    all.push(std::hint::black_box(vec![1_u8; 1 << 20]));
                }
            }
            Self::Refused => {
                limit(Resource::RLIMIT_AS, MEMORY);
                let mut bytes = Vec::<u8>::new();
                assert!(bytes.try_reserve(4 * MEMORY as usize).is_err());
                crash();
            }
            Self::Use(bytes) => {
                std::hint::black_box(vec![1_u8; bytes]);
                crash();
            }
            Self::Compute => {
                limit(Resource::RLIMIT_CPU, 1);
                loop {
                    std::hint::spin_loop();
                }
            }
            Self::Write(path) => {
                limit(Resource::RLIMIT_FSIZE, 1000);
                let written = std::fs::write(path, vec![7; 5000]);
                panic!("{written:?}");
            }
            Self::Late(ms) => {
                std::thread::sleep(Duration::from_millis(ms));
                crash();
            }
        }
    }
}

/// Dies of SIGSEGV. The standard library's handler for overflown stacks lets the first one pass.
fn crash() -> ! {
    loop {
        nix::sys::signal::raise(Signal::SIGSEGV).unwrap();
    }
}

/// Panics as a program does that was built with `panic = "abort"`: the hook says so, and nothing unwinds.
fn abort_by_panic(words: &str) -> ! {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        next(info);
        std::process::abort();
    }));
    panic!("{words}");
}

fn line(n: u32) -> String {
    format!("line {n} of what a worker says before it dies")
}

fn signal(error: &Error) -> Option<String> {
    error.exit().and_then(|exit| exit.signal()).map(|name| name.into_owned())
}

async fn ruined(pool: &Pool, ruin: Ruin) -> Error {
    let error = pool.run(ruin).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Crashed, "{error:?}");
    assert!(!error.killed_by_pool() && error.ran_for().is_some(), "{error:?}");
    error
}

#[test]
fn b1_each_way_of_dying_is_named() {
    on_a_runtime(|| async {
        // More workers than deaths: they are not replaced as fast as they are killed here.
        let pool = Pool::builder().workers(10).build().await.unwrap();
        pids(&pool, 10).await;
        let signals = ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS", "SIGILL", "SIGFPE", "SIGTERM"];
        for name in signals {
            let number: Signal = name.parse().unwrap();
            let error = pool.run(Die::Signal(number as i32)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Crashed, "{error:?}");
            assert_eq!(signal(&error).as_deref(), Some(name), "{error:?}");
            let shown = error.to_string();
            assert!(shown.contains(name) && shown.contains("(die)") && shown.contains("worker "), "{shown}");
            assert!(shown.contains(&format!("pid {}", error.worker_pid().unwrap())), "{shown}");
            assert!(error.may_have_run() && error.is_crashed() && !error.killed_by_pool());
            assert_eq!(error.hint(), None, "{error:?}");
        }
        for code in [0, 3] {
            let error = pool.run(Die::Exit(code)).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.exit()),
                (ErrorKind::Crashed, Some(Exit::Code(code))),
                "{error:?}"
            );
        }
        assert_eq!(ruined(&pool, Ruin::Exec).await.exit(), Some(Exit::Code(0)));
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    });
}

#[test]
fn b1_a_death_is_an_error_within_some_milliseconds() {
    on_a_runtime(|| async {
        let mut delays = Vec::new();
        for _ in 0..times(5, 1) {
            // As many at a time as are replaced at once: what is measured is not to wait for a start.
            let pool = Pool::builder().workers(20).build().await.unwrap();
            pids(&pool, 20).await;
            let folder = Folder::new();
            for round in 0..20 {
                let path = folder.file(&format!("{round}"));
                let run = pool.run(Wait { note: path.clone(), polite: false });
                until(|| !notes(&path).is_empty()).await;
                let workers = pool.stats().workers;
                let runs = |task: &procpool::TaskStats| Some(task.id) == run.id();
                let pid = workers.iter().find(|worker| worker.tasks.iter().any(runs)).unwrap().pid.unwrap();
                let name = [Signal::SIGKILL, Signal::SIGABRT, Signal::SIGFPE][round % 3];
                let death = Instant::now();
                kill(NixPid::from_raw(pid.cast_signed()), name).unwrap();
                let error = run.await.unwrap_err();
                delays.push(death.elapsed());
                assert_eq!(signal(&error).as_deref(), Some(name.as_str()), "{error:?}");
            }
        }
        delays.sort_unstable();
        let (half, most) = (delays[delays.len() / 2], delays[delays.len() * 95 / 100]);
        println!("half of the errors come within {half:?}, 95 of 100 within {most:?}");
        assert!(most < within(Duration::from_millis(20)), "{delays:?}");
    });
}

#[test]
fn b2_a_panic_is_an_answer_and_one_that_ends_the_process_is_told() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).env("RUST_BACKTRACE", "0").build().await.unwrap();
        let pid = pool.run(Pid).await.unwrap();
        let error = pool.run(Panic("it was\ntoo much".to_owned())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked, "{error:?}");
        let shown = error.to_string();
        assert!(shown.contains("it was too much") && shown.contains("mod.rs:"), "{shown}");
        assert!(format!("{error:?}").contains("it was\\ntoo much") && error.ran_for().is_some(), "{error:?}");
        assert_eq!(pool.run(Pid).await.unwrap(), pid, "the worker lives");

        let error = ruined(&pool, Ruin::Abort("far too much".to_owned())).await;
        assert_eq!(signal(&error).as_deref(), Some("SIGABRT"));
        assert!(error.stderr().contains("far too much"), "{error:?}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("crash_reports.rs:") && hint.ends_with("far too much"), "{hint}");
        assert!(error.to_string().contains(hint), "{error}");

        let error = ruined(&pool, Ruin::PanicExit("in main".to_owned())).await;
        assert_eq!(error.exit(), Some(Exit::Code(101)));
        assert!(error.hint().unwrap().ends_with("in main"), "{error:?}");
    });
}

#[test]
fn b3_an_overflown_stack_is_told() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let error = pool.run(Die::Overflow).await.unwrap_err();
        assert_eq!(signal(&error).as_deref(), Some("SIGABRT"), "{error:?}");
        assert_eq!(error.hint(), Some("its stack overflowed"), "{error:?}");
        assert!(error.stderr().contains("has overflowed its stack"), "{error:?}");
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    });
}

#[test]
fn b4_the_end_of_what_a_worker_said_is_in_the_error() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let lines = 24_000;
        let whole: String = (0..lines).map(|n| line(n) + "\n").collect();
        assert!(whole.len() > 1 << 20);
        let error = ruined(&pool, Ruin::Talk(lines)).await;
        assert_eq!(error.stderr(), &whole[whole.len() - 4096..]);
        assert!(error.to_string().contains(&line(lines - 1)), "{error}");
        let error = pool.run(Die::Abort).await.unwrap_err();
        assert!(error.stderr().ends_with("about to abort\n"), "{error:?}");
    });
}

#[test]
fn b5_a_want_of_memory_is_told_and_not_invented() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let error = ruined(&pool, Ruin::Allocate).await;
        assert_eq!(signal(&error).as_deref(), Some("SIGABRT"), "{error:?}");
        let hint = error.hint().unwrap();
        // Whichever of its threads was refused: the one that took all the rest, or the one that watches it.
        assert!(
            hint.starts_with("out of memory: memory allocation of ") && hint.ends_with(" bytes failed"),
            "{hint}"
        );
        let error = ruined(&pool, Ruin::Refused).await;
        assert_eq!((signal(&error).as_deref(), error.hint()), (Some("SIGSEGV"), None), "{error:?}");
        // It is far above what this process has ever had.
        let error = ruined(&pool, Ruin::Use(300 << 20)).await;
        let peak = error.peak_memory().unwrap();
        assert!((300 << 20..600 << 20).contains(&peak), "{peak}");
    });
}

#[test]
fn b6_limits_that_were_reached_are_named() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let error = ruined(&pool, Ruin::Compute).await;
        assert_eq!(signal(&error).as_deref(), Some("SIGXCPU"), "{error:?}");
        assert!(error.hint().unwrap().contains("RLIMIT_CPU") && error.ran_for().unwrap().as_millis() > 500);
        let error = ruined(&pool, Ruin::Write(folder.file("big"))).await;
        assert_eq!(signal(&error).as_deref(), Some("SIGXFSZ"), "{error:?}");
        assert!(error.hint().unwrap().contains("RLIMIT_FSIZE"), "{error:?}");
    });
}

#[test]
fn b11_an_error_is_one_line_travels_and_tells_what_was_behind_it() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let error = ruined(&pool, Ruin::Late(60)).await;
        assert!(error.ran_for().unwrap() >= Duration::from_millis(60), "{error:?}");
        let shown = error.to_string();
        assert!(shown.contains("after ") && !shown.contains('\n') && shown.len() < 300, "{shown}");
        let exit = error.source().unwrap().downcast_ref::<Exit>().unwrap();
        assert_eq!(exit.signal().as_deref(), Some("SIGSEGV"));
        let boxed: Box<dyn std::error::Error + Send + Sync + 'static> = error.clone().into();
        assert_eq!(boxed.to_string(), shown);
        let travelled: Error = postcard::from_bytes(&postcard::to_stdvec(&error).unwrap()).unwrap();
        assert_eq!(format!("{travelled:?}"), format!("{error:?}"));

        let folder = Folder::new();
        let spin = pool.run(Spin { note: folder.file("note"), polite: false });
        until(|| !notes(&folder.file("note")).is_empty()).await;
        let error = spin.cancel().await.unwrap_err();
        assert!(error.is_cancelled() && error.killed_by_pool(), "{error:?}");
        assert!(error.exit().is_some() && error.to_string().contains("its worker was killed"), "{error}");
    });
}

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
        assert!(error.may_have_run() && error.to_string().contains("attempt 4"), "{error}");
        let before = error.source().unwrap();
        assert!(before.to_string().contains("attempt 3") && before.source().is_some(), "{before}");
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
