//! The root of a pool ends, by a signal, by itself or at the end of its `main`: its workers, and what they had started, are
//! gone soon after, whatever they were doing.
//!
//! This test has a `main` of its own: it is the root, the worker and the test in turn. Its times are promises, so its tests
//! run one after the other.

mod support;

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use futures::StreamExt;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use procpool::{Context, Pool, Task, Worker};
use serde::{Deserialize, Serialize};
use support::role::{Actor, Seen, Stage, command, gone, hand_out_sockets, needing, role, send};
use support::{Echo, Folder, Test, notes, times, within};

const SECOND: Duration = Duration::from_secs(1);

/// How many workers a root has: as many as are promised for where promises are tested as they are written.
fn workers() -> usize {
    times(32, 4)
}

/// What the workers do when their root dies, beside having a child that nobody ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Doing {
    Nothing,
    Answering,
    Computing,
    Sleeping,
    Masked,
}

impl Doing {
    fn named(name: &str) -> Self {
        match name {
            "nothing" => Self::Nothing,
            "answering" => Self::Answering,
            "computing" => Self::Computing,
            "sleeping" => Self::Sleeping,
            "masked" => Self::Masked,
            _ => panic!("{name}?"),
        }
    }
}

/// Starts a plain child, notes both pids, and once all workers have, does it.
#[derive(Clone, Serialize, Deserialize)]
struct Busy {
    doing: Doing,
    folder: PathBuf,
    workers: usize,
    /// Whether the child leaves the worker's group and loses its parent.
    escapes: bool,
}

impl Task for Busy {
    const NAME: &'static str = "busy";
    type Output = ();

    async fn run(self, _: Context) {
        let child = if self.escapes {
            support::escape(Stdio::null())
        } else {
            #[expect(clippy::zombie_processes, reason = "it is to be left behind")]
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            child.id()
        };
        let pid = std::process::id();
        support::note(&self.folder.join("pids"), &format!("{pid} {child}"));
        while notes(&self.folder.join("pids")).len() < self.workers {
            std::thread::sleep(Duration::from_millis(2));
        }
        match self.doing {
            Doing::Nothing | Doing::Answering => {}
            Doing::Computing => loop {
                std::hint::spin_loop();
            },
            Doing::Sleeping => std::thread::sleep(Duration::from_secs(1000)),
            Doing::Masked => {
                SigSet::all().thread_block().unwrap();
                loop {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

fn main() {
    Worker::new().task::<Busy>().task::<Echo>().init();
    if let Some((role, args)) = role() {
        return root(&role, Doing::named(&args[0]), args[1].clone().into(), args[2].parse().unwrap());
    }
    let mut trials = vec![];
    for who in ["", "a9_unprivileged_"] {
        let mut add = |name: &str, test: fn(&Stage) -> Result<(), Failed>| {
            let test = move || {
                let _test = Test::lasting(Duration::from_secs(600));
                test(&Stage::new(!who.is_empty()))
            };
            let trial = Trial::test(format!("{who}{name}"), test);
            trials.push(if who.is_empty() { trial } else { needing("setpriv", trial) });
        };
        add("a1_computing_workers_die_with_their_root", |stage| {
            stage.repeat("computing", times(50, 2), within(SECOND))
        });
        add("a2_idle_answering_and_blocked_workers_die_with_their_root", |stage| {
            for doing in ["nothing", "answering", "sleeping"] {
                stage.repeat(doing, times(50, 1), within(3 * SECOND / 10))?;
            }
            Ok(())
        });
        add("a3_stopped_workers_die_with_their_root", a3);
        add("a4_workers_die_with_their_root_though_their_links_are_held_open", a4);
        add("a5_what_a_worker_started_dies_with_it", a5);
        add("a8_what_escapes_a_contained_worker_dies_with_it", a8);
        add("a6_workers_that_block_all_signals_die_with_their_root", |stage| {
            stage.repeat("masked", times(20, 2), within(SECOND / 2))
        });
    }
    trials.extend(endings());
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit();
}

/// Builds a pool, makes its workers busy, tells the pids of the workers and of their children, and ends as it is told.
#[tokio::main(flavor = "current_thread")]
async fn root(ending: &str, doing: Doing, folder: PathBuf, workers: usize) {
    static KEPT: OnceLock<Pool> = OnceLock::new();
    let pool = Pool::builder().workers(workers).contained(ending == "contained").build().await.unwrap();
    let pids = folder.join("pids");
    let busy = Busy { doing, folder, workers, escapes: matches!(ending, "contained" | "escaping") };
    let runs: Vec<_> = (0..workers).map(|_| pool.run(busy.clone())).collect();
    support::until(|| notes(&pids).len() == workers).await;
    println!("{}", notes(&pids).join(" "));
    if matches!(ending, "returned" | "exited" | "aborted") {
        // Until it is told to.
        let _ = std::io::stdin().read(&mut [0]);
    }
    match ending {
        "killed" | "contained" | "escaping" => {}
        "holding" => println!("{}", hand_out_sockets(std::io::stdin().as_fd())),
        "returned" => {
            runs.into_iter().for_each(procpool::Run::detach);
            KEPT.set(pool).unwrap();
            return;
        }
        "exited" => std::process::exit(0),
        "aborted" => std::process::abort(),
        _ => unreachable!("{ending}?"),
    }
    if doing == Doing::Answering {
        pool.map((0..).map(Echo)).for_each(|answer| async move { assert!(answer.is_ok()) }).await;
    }
    futures::future::join_all(runs).await;
    std::future::pending::<()>().await;
}

impl Stage {
    /// Starts a root that will end like this, and waits until its workers are at it.
    fn root(&self, ending: &str, doing: &str, stdin: Stdio) -> Result<Scene, String> {
        let folder = Folder::new();
        folder.open_to_everybody();
        let (place, workers) = (folder.file(""), workers().to_string());
        let args = [doing, place.to_str().unwrap(), &workers];
        let mut root = Actor::start(command(&self.prefix, &self.program, ending, &args).stdin(stdin));
        let seen = root.seen()?;
        let (workers, children) = seen.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip();
        Ok(Scene { root, workers, children, _folder: folder })
    }

    /// Kills roots with workers that do this.
    fn repeat(&self, doing: &str, rounds: usize, limit: Duration) -> Result<(), Failed> {
        let mut slowest = Duration::ZERO;
        for _ in 0..rounds {
            let mut scene = self.root("killed", doing, Stdio::null())?;
            slowest = slowest.max(scene.kill(limit)?);
        }
        println!("{doing}: gone after {slowest:?} at most, {rounds} of {rounds}");
        Ok(())
    }
}

/// A root, its workers, and the child of each.
struct Scene {
    root: Actor,
    workers: Vec<Seen>,
    children: Vec<Seen>,
    _folder: Folder,
}

impl Scene {
    fn everybody(&self) -> Vec<Seen> {
        self.workers.iter().chain(&self.children).copied().collect()
    }

    /// Kills the root. How long it took until nobody was left.
    fn kill(&mut self, limit: Duration) -> Result<Duration, String> {
        self.root.send(Signal::SIGKILL);
        let took = gone(&self.everybody(), limit);
        self.root.wait();
        took
    }
}

impl Drop for Scene {
    /// Ends those that are to live on, or did though they were not to.
    fn drop(&mut self) {
        for child in self.children.iter().filter(|child| child.is_alive()) {
            send(child.pid, Signal::SIGKILL);
        }
    }
}

fn a3(stage: &Stage) -> Result<(), Failed> {
    for subreaper in [false, true] {
        // Whoever adopts the orphans decides whether their stopped groups are orphaned, which would wake them.
        set_child_subreaper(subreaper)?;
        let mut slowest = Duration::ZERO;
        for _ in 0..times(20, 1) {
            let mut scene = stage.root("killed", "computing", Stdio::null())?;
            for worker in &scene.workers {
                send(worker.pid, Signal::SIGSTOP);
            }
            support::until_blocking(|| scene.workers.iter().all(|worker| worker.state() == 'T'));
            slowest = slowest.max(scene.kill(within(SECOND / 2))?);
            while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
        }
        println!("stopped, adopted by us {subreaper}: gone after {slowest:?} at most");
    }
    set_child_subreaper(false)?;
    Ok(())
}

fn a4(stage: &Stage) -> Result<(), Failed> {
    for _ in 0..times(20, 1) {
        let (holder, theirs) = UnixStream::pair()?;
        let mut scene =
            stage.root("holding", "computing", Stdio::from(std::os::fd::OwnedFd::from(theirs)))?;
        let held: usize = scene.root.line()?.parse()?;
        assert!(held >= scene.workers.len(), "{held} sockets for {} links", scene.workers.len());
        scene.kill(within(SECOND / 2))?;
        drop(holder);
    }
    Ok(())
}

fn a5(stage: &Stage) -> Result<(), Failed> {
    for doing in ["computing", "nothing"] {
        for _ in 0..times(20, 1) {
            let mut scene = stage.root("killed", doing, Stdio::null())?;
            let (worker, child) = (scene.workers[0], scene.children[0]);
            send(worker.pid, Signal::SIGKILL);
            gone(&[worker, child], within(SECOND))?;
            assert!(scene.children[1..].iter().all(|child| child.is_alive()), "others lost their children");
            scene.workers.remove(0);
            scene.kill(within(SECOND))?;
        }
    }
    Ok(())
}

fn a8(stage: &Stage) -> Result<(), Failed> {
    for doing in ["nothing", "computing"] {
        for _ in 0..times(20, 1) {
            let mut scene = stage.root("contained", doing, Stdio::null())?;
            let (worker, child) = (scene.workers[0], scene.children[0]);
            send(worker.pid, Signal::SIGKILL);
            gone(&[worker, child], within(SECOND))?;
            assert!(scene.children[1..].iter().all(|child| child.is_alive()), "others lost their children");
            scene.workers.remove(0);
            scene.kill(within(SECOND))?;
        }
        let mut scene = stage.root("escaping", doing, Stdio::null())?;
        scene.root.send(Signal::SIGKILL);
        gone(&scene.workers, within(SECOND))?;
        // Nobody is left who could do something to them.
        assert!(
            scene.children.iter().all(|child| child.is_alive()),
            "the documentation says that they live on"
        );
        scene.root.wait();
    }
    Ok(())
}

/// A root that ends by itself or is asked to.
fn endings() -> Vec<Trial> {
    let ends = |name: &str, how: &'static str, signal: Option<Signal>| {
        let test = move || {
            let _test = Test::start();
            for doing in ["computing", "sleeping"] {
                for _ in 0..times(5, 1) {
                    let mut scene = Stage::new(false).root(how, doing, Stdio::piped())?;
                    drop(scene.root.child.stdin.take());
                    signal.inspect(|signal| scene.root.send(*signal));
                    let status = scene.root.wait();
                    assert_eq!(status.success(), matches!(how, "returned" | "exited"), "{status}");
                    gone(&scene.everybody(), within(SECOND))?;
                }
            }
            Ok(())
        };
        Trial::test(name, test)
    };
    vec![
        ends("d10_a_pool_in_a_static_does_not_keep_its_workers_when_main_returns", "returned", None),
        ends("d11_workers_end_when_their_root_exits", "exited", None),
        ends("d11_workers_end_when_their_root_aborts", "aborted", None),
        ends("i2_workers_end_when_sigterm_ends_their_root", "killed", Some(Signal::SIGTERM)),
        ends("i3_workers_end_when_sighup_ends_their_root", "killed", Some(Signal::SIGHUP)),
    ]
}
