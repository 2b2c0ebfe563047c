//! Kernels and sandboxes that refuse what pools like to have: descriptors for processes, shared memory. Tasks run, deaths
//! are named, kills reach whom they should and roots take everything along all the same; it only takes longer to notice.
//!
//! This test has a `main` of its own: it is the root behind a filter of system calls, its worker, and the test in turn.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::Signal;
use procpool::Pool;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};
use support::role::{Actor, command, given, gone, needing, program, role, send};
use support::{
    Die, Echo, Fill, Folder, Grandchild, Pid, Spin, Test, exists, notes, pids, quick, times, until, within,
};

/// What a kernel may lack, and what its answer is.
const LACKS: [&str; 7] = [
    "pidfd_open",
    "pidfd_send_signal",
    "pidfd_send_signal_to_group",
    "waitid_of_pidfd",
    "memfd_create",
    "madvise_populate",
    "everything",
];

fn filters(lacks: &str) -> Vec<BpfProgram> {
    let call = |number: i64, rules: Vec<SeccompRule>, errno: i32| -> BpfProgram {
        let rules = BTreeMap::from([(number, rules)]);
        let (other, these) = (SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()));
        let arch = std::env::consts::ARCH.try_into().unwrap();
        SeccompFilter::new(rules, other, these, arch).unwrap().try_into().unwrap()
    };
    let argument = |index: u8, value: u64| {
        let is = SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap();
        vec![SeccompRule::new(vec![is]).unwrap()]
    };
    match lacks {
        "pidfd_open" => vec![call(libc::SYS_pidfd_open, vec![], libc::ENOSYS)],
        "pidfd_send_signal" => vec![call(libc::SYS_pidfd_send_signal, vec![], libc::ENOSYS)],
        // Before Linux 6.9.
        "pidfd_send_signal_to_group" => vec![call(libc::SYS_pidfd_send_signal, argument(3, 4), libc::EINVAL)],
        // Before Linux 5.4.
        "waitid_of_pidfd" => vec![call(libc::SYS_waitid, argument(0, libc::P_PIDFD.into()), libc::EINVAL)],
        "memfd_create" => vec![call(libc::SYS_memfd_create, vec![], libc::ENOSYS)],
        // Before Linux 5.14.
        "madvise_populate" => [libc::MADV_POPULATE_READ, libc::MADV_POPULATE_WRITE]
            .map(|advice| call(libc::SYS_madvise, argument(2, advice as u64), libc::EINVAL))
            .into(),
        "everything" => {
            let mut all: Vec<_> = LACKS[..6].iter().flat_map(|lacks| filters(lacks)).collect();
            for number in [libc::SYS_close_range, libc::SYS_clone3, libc::SYS_sched_setattr] {
                all.push(call(number, vec![], libc::ENOSYS));
            }
            all
        }
        _ => panic!("{lacks}?"),
    }
}

fn main() {
    support::worker().init();
    if let Some((role, args)) = role() {
        match role.as_str() {
            "launches" => return launches(),
            "crammed" => return crammed(),
            _ => {}
        }
        // There is one thread, and whatever comes after it inherits the filter.
        for filter in filters(&args[0]) {
            apply_filter(&filter).unwrap();
        }
        return match role.as_str() {
            "works" => works(&args[0], args[1] == "contained"),
            "killed" => killed(args[1] == "contained", Path::new(&args[2])),
            _ => panic!("{role}?"),
        };
    }
    let traced = || {
        let _test = Test::start();
        a11()
    };
    let filled = || {
        let _test = Test::start();
        h8()
    };
    let trial = Trial::test("h8_pools_need_no_room_for_files", filled);
    let mut trials = vec![given("unshare", can_unshare(), trial)];
    let name = "a11_starting_workers_copies_no_page_tables";
    trials.push(needing("strace", Trial::test(name, traced)));
    for lacks in LACKS {
        for contained in ["alone", "contained"] {
            let test = move |test: fn(&str, &str) -> Result<(), Failed>| {
                move || {
                    let _test = Test::start();
                    test(lacks, contained)
                }
            };
            trials.push(Trial::test(format!("pools_work_without_{lacks}_{contained}"), test(try_works)));
            trials.push(Trial::test(
                format!("roots_take_their_workers_along_without_{lacks}_{contained}"),
                test(try_killed),
            ));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Uses a pool for everything that could hang on what is missing.
#[tokio::main(flavor = "current_thread")]
async fn works(lacks: &str, contained: bool) {
    let pool = quick(2).contained(contained).build().await.unwrap();
    for n in 0..100 {
        assert_eq!(pool.run(Echo(n)).await.unwrap(), n);
    }
    // Bulk takes the other way.
    for bytes in [100_000, 3 << 20] {
        assert_eq!(pool.run(Fill { bytes }).await.unwrap(), vec![7; bytes]);
    }
    for name in ["SIGSEGV", "SIGKILL", "SIGABRT"] {
        let number: Signal = name.parse().unwrap();
        let error = pool.run(Die::Signal(number as i32)).await.unwrap_err();
        assert!(error.is_crashed() && error.may_have_run(), "{lacks}: {error:?}");
        assert_eq!(error.exit().and_then(|exit| exit.signal()).as_deref(), Some(name), "{lacks}: {error:?}");
    }
    let before = pids(&pool, 2).await;
    send(before[0], Signal::SIGKILL);
    until(|| pool.stats().workers.iter().all(|worker| worker.pid != Some(before[0]))).await;
    // Its group goes with it, however it was found.
    let one = quick(1).contained(contained).build().await.unwrap();
    let child = one.run(Grandchild).await.unwrap();
    let killed = one.run(Pid).await.unwrap();
    send(killed, Signal::SIGKILL);
    until(|| !exists(child)).await;
    // Without shared memory, what is sent to a worker that is dying already counts as begun there.
    until(|| one.stats().workers.iter().all(|worker| worker.pid != Some(killed))).await;
    let child = one.run(Grandchild).await.unwrap();
    drop(one);
    until(|| !exists(child)).await;
    let folder = Folder::new();
    let path = folder.file("spin");
    let run = pool.run(Spin { note: path.clone(), polite: false });
    until(|| notes(&path) == ["begun"]).await;
    let spins = pids(&pool, 2).await;
    let error = run.cancel().await.unwrap_err();
    assert!(error.is_cancelled(), "{lacks}: {error:?}");
    pool.drain().await;
    until(|| spins.iter().all(|pid| !exists(*pid))).await;
    println!("fine");
}

/// Makes its workers busy and waits to be killed.
#[tokio::main(flavor = "current_thread")]
async fn killed(contained: bool, note: &Path) {
    let pool = quick(2).contained(contained).build().await.unwrap();
    let child = pool.run(Grandchild).await.unwrap();
    let runs = [0, 1].map(|_| pool.run(Spin { note: note.to_owned(), polite: false }));
    until(|| notes(note).len() == 2).await;
    let pids = pids(&pool, 2).await;
    println!("{child} {} {}", pids[0], pids[1]);
    futures::future::join_all(runs).await;
}

/// Starts ten workers, half of them below guardians, from a process that has much memory.
#[tokio::main(flavor = "current_thread")]
async fn launches() {
    let memory = std::hint::black_box(vec![1_u8; times(1 << 30, 64 << 20)]);
    for contained in [false, true] {
        let pool = Pool::builder().workers(5).contained(contained).build().await.unwrap();
        pids(&pool, 5).await;
        pool.drain().await;
    }
    drop(memory);
    println!("fine");
}

fn a11() -> Result<(), Failed> {
    let folder = Folder::new();
    let trace = folder.file("trace");
    let path = trace.to_str().unwrap();
    let strace = ["strace", "-f", "-qq", "-e", "trace=clone,clone3,fork,vfork", "-o", path];
    let mut root = Actor::start(&mut command(&strace, &program(), "launches", &[]));
    assert_eq!(root.line()?, "fine");
    assert!(root.wait().success());
    let calls = notes(&trace);
    let starts: Vec<_> =
        calls.iter().filter(|call| call.contains("fork(") || call.contains("clone")).collect();
    // The second half of a call that others have interrupted says nothing of how it began.
    let processes = starts.iter().filter(|call| !call.contains("CLONE_THREAD") && !call.contains("resumed>"));
    let processes: Vec<_> = processes.collect();
    assert!(processes.len() >= 15, "{calls:?}");
    for call in processes {
        assert!(call.contains("CLONE_VFORK") || call.contains(" vfork("), "{call}");
    }
    Ok(())
}

/// What makes a process see other mounts than the rest: a right of root's, which others get where they may have a namespace
/// of users.
const UNSHARE: [&str; 3] = ["unshare", "--map-root-user", "--mount"];

/// # Errors
///
/// Why that is not possible.
fn can_unshare() -> Result<(), String> {
    let mut command = std::process::Command::new(UNSHARE[0]);
    command.args(&UNSHARE[1..]).args(["mount", "-t", "tmpfs", "none", "/dev/shm"]);
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().into()) }
}

/// Uses a pool where no file can be written.
#[tokio::main(flavor = "current_thread")]
async fn crammed() {
    for place in [std::env::temp_dir(), "/dev/shm".into()] {
        assert!(std::fs::write(place.join("file"), [7; 64 << 10]).is_err(), "{}", place.display());
    }
    let pool = quick(2).build().await.unwrap();
    for bytes in [1, 40 << 10, 300 << 10] {
        assert_eq!(pool.run(Fill { bytes }).await.unwrap().len(), bytes);
    }
    assert!(pool.run(Die::Abort).await.unwrap_err().stderr().contains("about to abort"));
    assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    pool.drain().await;
    println!("fine");
}

fn h8() -> Result<(), Failed> {
    for option in ["ro", "size=4k"] {
        let folder = Folder::new();
        let place = folder.file("");
        let mount = format!("mount -t tmpfs -o {option} none");
        let script = format!("{mount} /dev/shm && {mount} \"$TMPDIR\" && exec \"$0\" \"$@\"");
        let mut prefix = UNSHARE.to_vec();
        prefix.extend(["sh", "-c", &script]);
        let mut root = Actor::start(command(&prefix, &program(), "crammed", &[]).env("TMPDIR", &place));
        assert_eq!(root.line()?, "fine", "{option}");
        assert!(root.wait().success());
    }
    Ok(())
}

fn try_works(lacks: &str, contained: &str) -> Result<(), Failed> {
    let mut root = Actor::start(&mut command(&[], &program(), "works", &[lacks, contained]));
    assert_eq!(root.line()?, "fine");
    assert!(root.wait().success());
    Ok(())
}

fn try_killed(lacks: &str, contained: &str) -> Result<(), Failed> {
    for _ in 0..times(10, 1) {
        let folder = Folder::new();
        let args = [lacks, contained, folder.file("note").to_str().unwrap()].map(str::to_owned);
        let args = [&*args[0], &*args[1], &*args[2]];
        let mut root = Actor::start(command(&[], &program(), "killed", &args).stdin(Stdio::null()));
        let everybody = root.seen()?;
        root.send(Signal::SIGKILL);
        gone(&everybody, within(Duration::from_secs(1)))?;
        root.wait();
    }
    Ok(())
}
