//! Signals and the terminal: keys that are pressed there reach the host program alone and stop it fairly, a terminal that is
//! closed ends everybody, and what the host's own parent had set for signals costs nothing but the status of children.
//!
//! This test has a `main` of its own: it is the host of a pool, its worker, the session that the host is a job of, and the
//! test in turn.

mod support;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid as Number, getpgrp, tcgetpgrp, tcsetpgrp};
use procpool::{Exit, Pool};
use support::role::{Actor, Seen, command, gone, needing, program, role};
use support::{Append, Block, Die, Echo, Folder, Spin, Test, notes, pids, quick, times, until, within};
use tokio::signal::unix::{SignalKind, signal};

/// How long a job is stopped: longer than its task may take.
const STOPPED: Duration = Duration::from_secs(2);

fn main() {
    support::worker().init();
    if let Some((role, args)) = role() {
        return match role.as_str() {
            "session" => session(&args),
            "interrupted" => interrupted(),
            "stopped" => stopped(Path::new(&args[0])),
            "closed" => closed(Path::new(&args[0])),
            "ignoring" => ignoring(),
            _ => panic!("{role}?"),
        };
    }
    let trial = |name: &str, needs: &str, test: fn() -> Result<(), Failed>| {
        let test = move || {
            let _test = Test::start();
            test()
        };
        needing(needs, Trial::test(name, test))
    };
    let trials = vec![
        trial("i1_the_interrupt_key_reaches_the_host_alone", "setsid", i1),
        trial("i3_a_closed_terminal_ends_host_and_workers", "setsid", i3),
        trial("i4_a_host_that_was_stopped_expires_nobody_unfairly", "setsid", i4),
        trial("i6_ignored_child_signals_cost_the_status_and_nothing_else", "env", i6),
    ];
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit();
}

/// Leads a session whose terminal is its standard input, and has the host as its job there: in the foreground, continued
/// whenever it was stopped for a while. Ends as the host does.
fn session(args: &[String]) {
    // Whoever is in the background and gives the terminal to somebody is stopped, unless it does not hear that.
    let mut quiet = SigSet::empty();
    quiet.add(Signal::SIGTTOU);
    quiet.thread_block().unwrap();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut host = command(&[], &program(), args[0], &args[1..]);
    let host = Number::from_raw(host.process_group(0).spawn().unwrap().id().cast_signed());
    let foreground = || tcsetpgrp(std::io::stdin(), host).unwrap();
    foreground();
    loop {
        match waitpid(host, Some(WaitPidFlag::WUNTRACED)).unwrap() {
            WaitStatus::Stopped(..) => {
                say("stopped");
                // Time that the host does not see is what this is about.
                std::thread::sleep(STOPPED);
                foreground();
                kill(host, Signal::SIGCONT).unwrap();
            }
            WaitStatus::Exited(_, code) => std::process::exit(code),
            status => panic!("{status:?}"),
        }
    }
}

fn say(line: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}").unwrap();
    stdout.flush().unwrap();
}

/// Tells the pids of a pool's workers, once keys that are pressed reach this process: its session may be slower than its pool.
async fn ready(pool: &Pool, workers: usize) {
    until(|| tcgetpgrp(std::io::stdin()).unwrap() == getpgrp()).await;
    let pids = pids(pool, workers).await;
    say(&pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
}

/// Shuts its pool down when it is interrupted, as a host should.
#[tokio::main(flavor = "current_thread")]
async fn interrupted() {
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();
    let pool = Pool::builder().workers(2).build().await.unwrap();
    pids(&pool, 2).await;
    let runs = [0, 1].map(|_| pool.run(Block { ms: 500 }));
    until(|| pool.stats().workers.iter().all(|worker| !worker.tasks.is_empty())).await;
    ready(&pool, 2).await;
    interrupt.recv().await;
    pool.shutdown(Duration::from_secs(20)).await;
    for run in runs {
        say(&format!("{:?}", run.await));
    }
}

/// Runs tasks with a timeout, and tells how each went; between them it loses its worker.
#[tokio::main(flavor = "current_thread")]
async fn stopped(note: &Path) {
    let pool = Pool::builder().workers(1).build().await.unwrap();
    ready(&pool, 1).await;
    for round in 1.. {
        let view = pool.with_timeout(Duration::from_millis(1500));
        let run = view.run(Append { path: note.to_owned(), line: round, then_ms: 1000 });
        until(|| notes(note).len() as u64 == round).await;
        say("running");
        say(&format!("{:?}", run.await));
        assert!(pool.run(Die::Exit(1)).await.unwrap_err().is_crashed());
        say(&format!("{:?}", pool.run(Echo(round)).await));
    }
}

/// Does nothing about its terminal.
#[tokio::main(flavor = "current_thread")]
async fn closed(note: &Path) {
    let pool = Pool::builder().workers(2).build().await.unwrap();
    let runs = [0, 1].map(|_| pool.run(Spin { note: note.to_owned(), polite: false }));
    until(|| notes(note).len() == 2).await;
    ready(&pool, 2).await;
    futures::future::join_all(runs).await;
}

/// Uses a pool where nobody hears of children that end.
#[tokio::main(flavor = "current_thread")]
async fn ignoring() {
    let pool = quick(2).build().await.unwrap();
    for n in 0..100 {
        assert_eq!(pool.run(Echo(n)).await.unwrap(), n);
    }
    let before = pids(&pool, 2).await;
    for _ in 0..3 {
        let error = pool.run(Die::Exit(3)).await.unwrap_err();
        // The first is lost for sure; then tokio listens for children that nobody has reaped.
        assert!(error.is_crashed(), "{error:?}");
        assert!(matches!(error.exit(), Some(Exit::Unknown | Exit::Code(3))), "{error:?}");
    }
    assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    let folder = Folder::new();
    let path = folder.file("spin");
    let run = pool.run(Spin { note: path.clone(), polite: false });
    until(|| notes(&path) == ["begun"]).await;
    assert!(run.cancel().await.unwrap_err().is_cancelled());
    pool.drain().await;
    until(|| before.iter().all(|pid| !support::exists(*pid))).await;
    say("fine");
}

/// The host in a role, as a job on a terminal, and the key side of that terminal.
fn on_a_terminal(role: &str, args: &[&str]) -> Result<(Actor, std::fs::File), Failed> {
    let pty = openpty(None, None)?;
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    let mut words = vec![role];
    words.extend(args);
    // Whoever runs the tests may have them ignore what a closed terminal says.
    let prefix = ["env", "--default-signal=HUP,INT", "setsid", "--ctty"];
    let mut session = command(&prefix, &program(), "session", &words);
    let host = Actor::start(session.stdin(Stdio::from(pty.slave)));
    Ok((host, std::fs::File::from(pty.master)))
}

fn i1() -> Result<(), Failed> {
    for _ in 0..times(10, 1) {
        let (mut host, mut keys) = on_a_terminal("interrupted", &[])?;
        let workers = host.seen()?;
        keys.write_all(b"\x03")?;
        // Had the workers been interrupted, their tasks would not have ended like this.
        for _ in 0..2 {
            assert_eq!(host.line()?, "Ok(500)");
        }
        assert!(host.wait().success());
        gone(&workers, within(Duration::from_secs(1)))?;
    }
    Ok(())
}

fn i3() -> Result<(), Failed> {
    for _ in 0..times(10, 1) {
        let folder = Folder::new();
        let (mut host, keys) = on_a_terminal("closed", &[folder.file("note").to_str().unwrap()])?;
        let mut everybody = host.seen()?;
        everybody.push(Seen::of(host.pid())?);
        drop(keys);
        host.wait();
        gone(&everybody, within(Duration::from_secs(1)))?;
    }
    Ok(())
}

fn i4() -> Result<(), Failed> {
    let folder = Folder::new();
    let (mut host, mut keys) = on_a_terminal("stopped", &[folder.file("note").to_str().unwrap()])?;
    host.line()?;
    for round in 1..=times(10, 1) {
        assert_eq!(host.line()?, "running");
        keys.write_all(b"\x1a")?;
        assert_eq!(host.line()?, "stopped");
        assert_eq!(host.line()?, format!("Ok({round})"));
        // A spawn works as before.
        assert_eq!(host.line()?, format!("Ok({round})"));
    }
    Ok(())
}

fn i6() -> Result<(), Failed> {
    let mut host = Actor::start(&mut command(&["env", "--ignore-signal=CHLD"], &program(), "ignoring", &[]));
    assert_eq!(host.line()?, "fine");
    assert!(host.wait().success());
    Ok(())
}
