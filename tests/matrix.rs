//! Every way for a worker to go wrong, at every point of its life: each cell has the outcome that is documented for it, the
//! pool works afterwards, nothing is left behind, and it takes less than ten seconds.
//!
//! This test has a `main` of its own: it is the parent and, as its workers' environment says, the worker that goes wrong.

mod support;

use std::fs::File;
use std::io::{Read, Write, stdin};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, raise};
use nix::unistd::{close, dup2_stdin, dup2_stdout};
use procpool::{Context, Error, ErrorKind, Pool, PoolBuilder, Task, Worker};
use serde::{Deserialize, Serialize};
use support::{Echo, Folder, Test, exists, note, notes, times, until, until_blocking};

/// How a worker goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    Panic,
    /// It exits with code 0, as if all were well.
    Zero,
    /// It exits with code 3.
    Three,
    /// It exits with code 4, past all handlers.
    Now,
    Segfault,
    Kill,
    Stop,
    /// It closes its link and lives on.
    Close,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Before it has taken its standard input and output: in the first line of `main`.
    Main,
    /// When it has sent nothing and waits for its greeting.
    Greeting,
    /// While it builds its state.
    State,
    /// In the middle of a task.
    Running,
    /// When an answer is written and its parent has not read it.
    Answered,
    Idle,
    /// When it was told to leave.
    Leaving,
}

const WAYS: [Way; 8] =
    [Way::Panic, Way::Zero, Way::Three, Way::Now, Way::Segfault, Way::Kill, Way::Stop, Way::Close];

const PHASES: [Phase; 7] = [
    Phase::Main,
    Phase::Greeting,
    Phase::State,
    Phase::Running,
    Phase::Answered,
    Phase::Idle,
    Phase::Leaving,
];

/// What a worker is told in its environment.
const PLAN: &str = "PROCPOOL_MATRIX";

/// Longer than a healthy worker takes to start, and short enough for three in a row.
const START: Duration = Duration::from_secs(2);

/// What a worker is to do wrong: where, and in what folder the word for it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    way: Way,
    phase: Phase,
    folder: PathBuf,
}

impl Plan {
    /// Goes wrong if this is the time and the word has been given: `once`, for one worker, or `always`.
    fn at(&self, phase: Phase) {
        if self.is_due(phase) {
            self.way.go();
        }
    }

    fn is_due(&self, phase: Phase) -> bool {
        let [once, always] = ["once", "always"].map(|word| self.folder.join(word));
        self.phase == phase && (fs::remove_file(once).is_ok() || always.exists())
    }
}

impl Way {
    /// Goes wrong. Only a panic comes back, as one.
    fn go(self) {
        match self {
            Self::Panic => panic!("planted"),
            Self::Zero => process::exit(0),
            Self::Three => process::exit(3),
            Self::Now => exit_now(4),
            // The standard library's handler lets the first one pass.
            Self::Segfault => insist(Signal::SIGSEGV),
            Self::Kill => insist(Signal::SIGKILL),
            Self::Stop => insist(Signal::SIGSTOP),
            Self::Close => {
                for fd in sockets() {
                    let _ = close(fd);
                }
                linger();
            }
        }
    }
}

fn insist(signal: Signal) -> ! {
    loop {
        raise(signal).unwrap();
    }
}

fn linger() -> ! {
    loop {
        thread::park();
    }
}

#[expect(unsafe_code, reason = "no safe function ends a process past its handlers")]
fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// The descriptors of this process that are sockets: the link, wherever it has been put.
fn sockets() -> Vec<RawFd> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let is_socket = |path: PathBuf| path.to_string_lossy().starts_with("socket:");
    let sockets = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(is_socket));
    sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Has this process wait for a greeting that does not come, and goes wrong meanwhile.
fn go_before_greeting(way: Way) {
    if way == Way::Panic {
        // The main thread runs nobody's code at that time.
        assert!(thread::spawn(move || way.go()).join().is_err());
        return;
    }
    let mut link = File::from(stdin().as_fd().try_clone_to_owned().unwrap());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    dup2_stdin(&theirs).unwrap();
    dup2_stdout(&theirs).unwrap();
    thread::spawn(move || {
        // The magic, by which the worker knows that it is one, and nothing behind it.
        let mut magic = [0; 16];
        link.read_exact(&mut magic).unwrap();
        ours.write_all(&magic).unwrap();
        // When it has read that, it has taken its standard input.
        while fs::read_link("/proc/self/fd/0").is_ok_and(|path| path != *"/dev/null") {
            thread::yield_now();
        }
        if way == Way::Close {
            drop(link);
            linger();
        }
        way.go();
    });
}

/// Goes wrong at the end of its worker, if that was planned.
struct Finaliser(Plan);

impl Drop for Finaliser {
    fn drop(&mut self) {
        self.0.at(Phase::Leaving);
    }
}

/// Goes wrong in a task, behind one, or when it has nothing to do.
#[derive(Serialize, Deserialize)]
struct Wrong(Plan);

impl Task for Wrong {
    const NAME: &'static str = "wrong";
    type Output = u32;

    async fn run(self, _: Context) -> u32 {
        let Self(plan) = self;
        plan.at(Phase::Running);
        if plan.phase == Phase::Answered {
            // It runs when the worker has nothing more to write.
            tokio::spawn(async move {
                note(&plan.folder.join("going"), "wrong");
                plan.at(Phase::Answered);
            });
        } else {
            thread::spawn(move || {
                while !plan.is_due(Phase::Idle) {
                    thread::sleep(Duration::from_millis(1));
                }
                plan.way.go();
            });
        }
        7
    }
}

fn main() {
    if env::args_os().next().is_some_and(|name| name.to_string_lossy().starts_with("procpool-worker"))
        && let Ok(plan) = env::var(PLAN)
    {
        let words: Vec<_> = plan.split(' ').collect();
        let [way, phase] = [words[0], words[1]].map(|word| word.parse::<usize>().unwrap());
        return worker(Plan { way: WAYS[way], phase: PHASES[phase], folder: words[2].into() });
    }
    Worker::new().init();
    let mut arguments = Arguments::from_args();
    // Most of the time a cell waits.
    arguments.test_threads.get_or_insert(8);
    let cells = PHASES.into_iter().flat_map(|phase| WAYS.map(|way| (way, phase)));
    let trials = cells.map(|(way, phase)| {
        let name = format!("b7_{way:?}_{phase:?}").to_lowercase();
        Trial::test(name, move || run(way, phase))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn worker(plan: Plan) {
    note(&plan.folder.join("pids"), &process::id().to_string());
    plan.at(Phase::Main);
    if plan.is_due(Phase::Greeting) {
        go_before_greeting(plan.way);
    }
    let state = || async move {
        plan.at(Phase::State);
        Finaliser(plan)
    };
    Worker::new().task::<Wrong>().task::<Echo>().state(state).init();
}

/// One cell.
fn run(way: Way, phase: Phase) -> Result<(), Failed> {
    let _test = Test::start();
    let folder = Folder::new();
    let plan = Plan { way, phase, folder: folder.file("cell") };
    fs::create_dir(&plan.folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = Instant::now();
    runtime.block_on(async {
        match phase {
            Phase::Main | Phase::Greeting | Phase::State => start_wrong(&plan).await,
            Phase::Running => run_wrong(&plan).await,
            Phase::Answered => answer_wrong(&plan).await,
            Phase::Idle => idle_wrong(&plan).await,
            Phase::Leaving => leave_wrong(&plan).await,
        }
        let pids = notes(&plan.folder.join("pids"));
        until(|| pids.iter().all(|pid| !exists(pid.parse().unwrap()))).await;
    });
    let took = start.elapsed();
    // Where promises are tested as they are written, the machine is there for that.
    if took > Duration::from_secs(times(10, 30) as u64) {
        Err(format!("it took {took:?}").into())
    } else {
        Ok(())
    }
}

fn builder(plan: &Plan) -> PoolBuilder {
    let position = |found: Option<usize>| found.unwrap();
    let way = position(WAYS.iter().position(|way| *way == plan.way));
    let phase = position(PHASES.iter().position(|phase| *phase == plan.phase));
    Pool::builder()
        .workers(1)
        .start_limit(START)
        .init_timeout(START)
        .env(PLAN, format!("{way} {phase} {}", plan.folder.display()))
}

/// Gives the word, to one worker or to all.
fn say(plan: &Plan, word: &str) {
    note(&plan.folder.join(word), "wrong");
}

/// The pool runs a task.
async fn works(pool: &Pool) {
    assert_eq!(pool.run(Echo(5)).await.unwrap(), 5);
}

fn assert_words(plan: &Plan, error: &Error, kind: ErrorKind, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{plan:?}: {error:?}");
    assert!(words.iter().any(|words| text.contains(words)), "{plan:?}: {text:?} contains none of {words:?}");
}

/// All workers go wrong: the pool is not built, and the error says why. One goes wrong: nobody notices.
async fn start_wrong(plan: &Plan) {
    if (plan.way, plan.phase) != (Way::Panic, Phase::Greeting) {
        say(plan, "always");
        let error = builder(plan).build().await.unwrap_err();
        assert_words(plan, &error, ErrorKind::Launch, &[words_of_start(plan)]);
        let panicked = plan.way != Way::Panic || error.to_string().ends_with("planted");
        assert!(panicked, "the reason is missing: {error}");
        assert_eq!(notes(&plan.folder.join("pids")).len(), 3);
        fs::remove_file(plan.folder.join("always")).unwrap();
    }
    say(plan, "once");
    let pool = builder(plan).build().await.unwrap();
    works(&pool).await;
    let restarts = u64::from((plan.way, plan.phase) != (Way::Panic, Phase::Greeting));
    assert_eq!(pool.stats().restarts, restarts);
}

fn words_of_start(plan: &Plan) -> &'static str {
    match (plan.way, plan.phase) {
        (Way::Panic, Phase::State) => "a worker exited with code 70 before it took tasks (worker 3, pid ",
        (Way::Panic, _) => "a worker exited with code 101 before it took tasks (worker 3, pid ",
        (Way::Zero, _) => "a worker exited with code 0 before it took tasks (worker 3, pid ",
        (Way::Three, _) => "a worker exited with code 3 before it took tasks (worker 3, pid ",
        (Way::Now, _) => "a worker exited with code 4 before it took tasks (worker 3, pid ",
        (Way::Segfault, _) => "a worker was killed by SIGSEGV",
        (Way::Kill, _) => "a worker was killed by SIGKILL before it took tasks (worker 3, pid ",
        (Way::Stop, Phase::State) => "a worker did not initialise its states within 2s and was killed",
        (Way::Stop, _) => "a worker did not greet within 2s and was killed",
        (Way::Close, Phase::State) => "a worker exited with code 71 before it took tasks (worker 3, pid ",
        (Way::Close, _) => "a worker closed its link before it took tasks, and was killed (worker 3, pid ",
    }
}

async fn run_wrong(plan: &Plan) {
    let pool = builder(plan).build().await.unwrap();
    say(plan, "once");
    let error = pool.run(Wrong(plan.clone())).await.unwrap_err();
    let (kind, words): (_, &[_]) = match plan.way {
        Way::Panic => (ErrorKind::Panicked, &["(wrong): it panicked at tests/matrix.rs:"]),
        Way::Zero => (ErrorKind::Crashed, &["(wrong): its worker exited with code 0 (worker 1, pid "]),
        Way::Three => (ErrorKind::Crashed, &["(wrong): its worker exited with code 3 (worker 1, pid "]),
        Way::Now => (ErrorKind::Crashed, &["(wrong): its worker exited with code 4 (worker 1, pid "]),
        Way::Segfault => (ErrorKind::Crashed, &["(wrong): its worker was killed by SIGSEGV"]),
        Way::Kill => (ErrorKind::Crashed, &["(wrong): its worker was killed by SIGKILL (worker 1, pid "]),
        Way::Stop => {
            (ErrorKind::Unresponsive, &["(wrong): its worker stopped answering and was killed (worker 1"])
        }
        // It finds out by itself, or its parent is faster.
        Way::Close => (
            ErrorKind::Crashed,
            &[
                "(wrong): its worker exited with code 71 (worker 1, pid ",
                "(wrong): its worker closed its link and was killed (worker 1, pid ",
            ],
        ),
    };
    assert_words(plan, &error, kind, words);
    assert!(error.may_have_run());
    works(&pool).await;
    assert_eq!(pool.stats().restarts, u64::from(plan.way != Way::Panic));
}

/// An answer that was written counts, whatever becomes of the worker.
async fn answer_wrong(plan: &Plan) {
    let pool = builder(plan).build().await.unwrap();
    let run = pool.run(Wrong(plan.clone()));
    say(plan, "once");
    // Sent, and then nothing is read until the worker has gone wrong.
    tokio::task::yield_now().await;
    let going = plan.folder.join("going");
    until_blocking(|| !notes(&going).is_empty());
    assert_eq!(run.await.unwrap(), 7);
    works(&pool).await;
}

/// A worker that holds nothing takes nothing with it.
async fn idle_wrong(plan: &Plan) {
    let pool = builder(plan).build().await.unwrap();
    assert_eq!(pool.run(Wrong(plan.clone())).await.unwrap(), 7);
    until(|| pool.stats().in_flight == 0).await;
    say(plan, "once");
    until(|| !plan.folder.join("once").exists()).await;
    works(&pool).await;
}

/// A pool that drains ends, and what it had answered stays answered.
async fn leave_wrong(plan: &Plan) {
    let pool = builder(plan).build().await.unwrap();
    let run = pool.run(Echo(5));
    say(plan, "once");
    pool.drain().await;
    assert_eq!(run.await.unwrap(), 5);
    assert!(!plan.folder.join("once").exists());
}
