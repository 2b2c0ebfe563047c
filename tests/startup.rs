//! Workers that cannot be started: what is no program, no worker, or one of another version is told as what it is, soon, and
//! not tried again and again. And a program that has gone from its path is still there for those that run it.

mod support;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write, stdin};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{dup2_stdin, dup2_stdout};
use procpool::{Error, ErrorKind, PoolBuilder};
use support::*;

procpool::worker_test!(support::worker());

/// What a worker program of this file is told in its environment: where to note that it was started, and its part.
const STARTS: &str = "STARTUP_STARTS";
const PART: &str = "STARTUP_PART";

/// The worker program: does nothing in an ordinary run.
#[test]
fn program() {
    let (Some(starts), Ok(part)) = (std::env::var_os(STARTS), std::env::var(PART)) else { return };
    note(Path::new(&starts), &part);
    match part.as_str() {
        "fair" => support::worker().serve(),
        "larger" => support::worker().task::<More>().serve(),
        "its parent's" => translate(true),
        "its own" => translate(false),
        _ => panic!("{part}?"),
    }
    support::worker().serve()
}

/// A task that the worker has only in its larger edition.
#[derive(serde::Serialize, serde::Deserialize)]
struct More;

impl procpool::Task for More {
    const NAME: &'static str = "more";
    type Output = ();

    async fn run(self, _: procpool::Context) {}
}

/// Where a greeting says of which version it is, either way: behind the magic, its length, and the tag of its frame.
const VERSION: usize = 16 + 4 + 1;

/// Puts itself between this process's link and the worker that it is about to be: one of the greetings tells another version.
fn translate(inbound: bool) {
    let link = || File::from(stdin().as_fd().try_clone_to_owned().unwrap());
    let (from, to) = (link(), link());
    let (ours, theirs) = UnixStream::pair().unwrap();
    dup2_stdin(&theirs).unwrap();
    dup2_stdout(&theirs).unwrap();
    let back = ours.try_clone().unwrap();
    thread::spawn(move || relay(from, ours, inbound));
    thread::spawn(move || relay(back, to, !inbound));
}

fn relay(mut from: impl Read, mut to: impl Write, changes: bool) {
    let mut head = [0; VERSION + 1];
    if from.read_exact(&mut head).is_ok() {
        if changes {
            head[VERSION] = 99;
        }
        let _ = to.write_all(&head);
        let _ = std::io::copy(&mut from, &mut to);
    }
}

/// A pool of one worker, which executes this file's program in such a part.
fn playing(part: &str, starts: &Path) -> PoolBuilder {
    let program = std::env::current_exe().unwrap();
    quick(1).program(program).args(ARGS).env(STARTS, starts).env(PART, part)
}

const ARGS: [&str; 4] = ["program", "--exact", "--nocapture", "--test-threads=1"];

/// The error of a pool that cannot be built, and how long that took.
async fn refused(builder: PoolBuilder) -> (Error, Duration) {
    let begun = Instant::now();
    let error = builder.build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Launch, "{error:?}");
    (error, begun.elapsed())
}

fn assert_parts(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    parts.iter().for_each(|part| assert!(text.contains(part), "{part:?} is not in {text:?}"));
}

/// Which launch it was that failed last: they are counted.
fn launches(error: &Error) -> String {
    error.worker_id().unwrap().to_string()
}

fn made(folder: &Folder, name: &str, content: &[u8], mode: u32) -> PathBuf {
    let path = folder.file(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn c1_what_cannot_be_executed_is_told_at_once_with_its_path_and_the_reason() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let directory = folder.file("directory");
        fs::create_dir(&directory).unwrap();
        // A header as linkers write it, for a machine that there is not.
        let mut foreign = fs::read(std::env::current_exe().unwrap()).unwrap();
        foreign.truncate(4096);
        foreign[18..20].copy_from_slice(&[0xfe, 0xfe]);
        for (program, reason, advice) in [
            (folder.file("missing"), "os error 2", "check the path"),
            (folder.file("missing/too"), "os error 2", "check the path"),
            (made(&folder, "plain", b"#!/bin/sh\n", 0o644), "os error 13", "execute permission"),
            (directory.clone(), "os error 13", "execute permission"),
            (made(&folder, "foreign", &foreign, 0o755), "os error 8", "not a program for this machine"),
            (made(&folder, "script", b"#!/no/such/shell\n", 0o755), "os error 2", "interpreter"),
        ] {
            let (error, took) = refused(quick(1).program(&program)).await;
            assert_parts(&error, &[program.to_str().unwrap(), reason, advice]);
            assert_eq!(launches(&error), "worker 1", "{error}");
            assert!(took < within(Duration::from_millis(100)), "{took:?}: {error}");
            // Several are started at the same time, each of them once, and any of them may be the last to be heard of.
            let (error, _) = refused(quick(3).program(&program)).await;
            assert!(["worker 1", "worker 2", "worker 3"].contains(&&*launches(&error)), "{error}");
        }
    });
}

#[test]
fn c1_a_program_that_goes_away_is_told_to_whoever_waits_and_looked_for_again() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let program = folder.file("program");
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &program).unwrap();
        let pool = playing("fair", &folder.file("starts")).program(&program).build().await.unwrap();
        let before = pids(&pool, 1).await;
        let gone = folder.file("gone");
        fs::rename(&program, &gone).unwrap();
        kill(before[0]);
        let error = loop {
            match pool.run(Pid).await {
                Ok(pid) => assert_eq!(pid, before[0]),
                // The one that ran at that time was lost with its worker.
                Err(error) if error.is_crashed() => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Launch, "{error:?}");
        assert!(!error.may_have_run(), "{error:?}");
        assert_parts(&error, &[program.to_str().unwrap(), "os error 2"]);
        fs::rename(&gone, &program).unwrap();
        assert_ne!(pids(&pool, 1).await, before);
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    });
}

#[test]
fn c2_a_program_that_is_no_worker_is_told_from_one_by_what_it_does() {
    on_a_runtime(|| async {
        for (program, args, words) in [
            ("/bin/true", vec![], "exited with code 0 before it took tasks"),
            ("/bin/false", vec![], "exited with code 1 before it took tasks"),
            ("/bin/cat", vec![], "echoes"),
            ("cat", vec![], "echoes"),
            ("yes", vec![], "\"y\\ny\\ny\\n"),
            ("/bin/sh", vec!["-c", "echo no worker here >&2; exit 3"], "its last words: no worker here"),
            ("/bin/sh", vec!["-c", "echo hello; exit 4"], "it wrote \"hello\\n\" where a worker greets"),
            ("/bin/sh", vec!["-c", "exec sleep 600 <&- >&-"], "closed its link before it took tasks"),
        ] {
            let (error, took) = refused(quick(1).program(program).args(&args)).await;
            assert_parts(&error, &[words]);
            assert_eq!(launches(&error), "worker 3", "{error}");
            assert!(took < Duration::from_secs(5), "{took:?}: {error}");
        }
        until(|| !tree().contains("procpool-worker:")).await;
    });
}

#[test]
fn c3_what_a_loader_says_is_in_the_error() {
    on_a_runtime(|| async {
        // What loads this program is told to load one that is not there.
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let loader = maps.split_whitespace().find(|word| word.starts_with('/') && word.contains("/ld-"));
        let loader = loader.expect("this program has a loader");
        let (error, _) = refused(quick(1).program(loader).arg("/no/such/library.so")).await;
        assert_parts(&error, &["exited with code 127", "its last words: ", "/no/such/library.so"]);
        assert!(error.stderr().contains("/no/such/library.so"), "{error:?}");
    });
}

#[test]
fn c4_a_process_that_never_greets_is_killed_in_time_and_waited_for_at_ease() {
    on_a_runtime(|| async {
        let limit = Duration::from_millis(times(2000, 400) as u64);
        let before = computed();
        let (error, took) = refused(quick(1).program("sleep").arg("600").start_limit(limit)).await;
        let used = computed() - before;
        assert_parts(&error, &[&format!("did not greet within {limit:?}"), "Worker::new()"]);
        assert_eq!(launches(&error), "worker 3", "{error}");
        assert!(took >= 3 * limit && took < 3 * (limit + within(Duration::from_millis(500))), "{took:?}");
        assert!(used < took / 20, "{used:?} of {took:?}");
        until(|| !tree().contains("procpool-worker:")).await;
    });
}

#[test]
fn c5_another_version_is_one_clear_error_whoever_finds_out() {
    on_a_runtime(|| async {
        for (part, words) in [
            ("its parent's", ": the parent speaks version 99 of the protocol and this program version "),
            ("its own", "a worker was refused: it speaks version 99 of the protocol and this pool version "),
        ] {
            let folder = Folder::new();
            let starts = folder.file("starts");
            let (error, _) = refused(playing(part, &starts)).await;
            assert_parts(&error, &[words, "build both with the same version of procpool"]);
            assert_eq!(notes(&starts), [part], "{error}");
        }
    });
}

#[test]
fn c5_a_program_that_was_exchanged_for_one_with_other_tasks_is_found_out() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (starts, exchanged) = (folder.file("starts"), folder.file("exchanged"));
        let program = std::env::current_exe().unwrap();
        let script = format!(
            "[ -e {} ] && export {PART}=larger; exec {} {}",
            exchanged.display(),
            program.display(),
            ARGS.join(" ")
        );
        let shell = quick(1).program("/bin/sh").args(["-c", &script]).env(STARTS, &starts);
        let pool = shell.env(PART, "fair").build().await.unwrap();
        let before = pids(&pool, 1).await;
        note(&exchanged, "now");
        kill(before[0]);
        until(|| pool.stats().workers.iter().all(|worker| worker.pid != Some(before[0]))).await;
        let error = pool.run(Echo(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Launch, "{error:?}");
        assert_parts(&error, &["another table of tasks", "the program has changed"]);
        fs::remove_file(&exchanged).unwrap();
        pids(&pool, 1).await;
        assert_eq!(pool.run(Echo(2)).await.unwrap(), 2);
    });
}

#[test]
fn c6_workers_are_replaced_by_the_same_program_when_its_file_has_gone_or_is_another() {
    const COPY: &str = "STARTUP_COPY";
    let name = "c6_workers_are_replaced_by_the_same_program_when_its_file_has_gone_or_is_another";
    if let Some(copy) = std::env::var_os(COPY) {
        on_a_runtime(|| async { outlive(Path::new(&copy)).await });
        return;
    }
    let _test = Test::start();
    let folder = Folder::new();
    let copy = folder.file("copy");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = Command::new(&copy);
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(COPY, &copy);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Has a pool of this program, whose file goes.
async fn outlive(file: &Path) {
    let pool = quick(1).build().await.unwrap();
    fs::remove_file(file).unwrap();
    for exchanged in [false, true] {
        if exchanged {
            fs::copy("/bin/false", file).unwrap();
        }
        let before = pids(&pool, 1).await;
        kill(before[0]);
        let start = Instant::now();
        until(|| pool.stats().workers.iter().all(|worker| worker.pid != Some(before[0]))).await;
        assert_ne!(pool.run(Pid).await.unwrap(), before[0]);
        assert!(start.elapsed() < within(Duration::from_secs(2)), "{:?}", start.elapsed());
    }
    assert_eq!(pool.stats().restarts, 2);
    pool.drain().await;
}
