//! Trees of pools, four levels deep, three wide: they end with their root whatever their workers do, a lost branch takes
//! nothing else along, a cancel reaches the last leaf, and recursion without end stays within its bounds.
//!
//! This test has a `main` of its own: it is the root, the worker and the test in turn. Its times are promises, so its tests
//! run one after the other.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::future::join_all;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use procpool::{Context, Error, ErrorKind, Pool, Task, Worker};
use serde::{Deserialize, Serialize};
use support::role::{Actor, Seen, command, gone, program, role, send};
use support::{Folder, Test, below, note, notes, times, within};

const SECOND: Duration = Duration::from_secs(1);
const DEPTH: u32 = 4;
const FAN: u32 = 3;

/// How many workers such a tree has.
const WORKERS: usize = 3 + 9 + 27 + 81;

/// What the workers do once their own branches are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Doing {
    Awaiting,
    Computing,
    Sleeping,
}

/// Notes where it is, starts its branches, and does that.
#[derive(Clone, Serialize, Deserialize)]
struct Grow {
    levels: u32,
    doing: Doing,
    book: PathBuf,
}

impl Task for Grow {
    const NAME: &'static str = "grow";
    type Output = ();

    async fn run(self, cx: Context) {
        note(&self.book, &format!("{} {}", std::process::id(), std::os::unix::process::parent_id()));
        let mut branches = vec![];
        if self.levels > 1 {
            let pool = cx.pool().unwrap();
            branches.extend((0..FAN).map(|_| pool.run(Self { levels: self.levels - 1, ..self.clone() })));
        }
        match self.doing {
            Doing::Awaiting if branches.is_empty() => loop {
                std::hint::spin_loop();
            },
            Doing::Awaiting => {
                for (_, branch) in (0..).zip(join_all(branches).await).filter(|(_, branch)| branch.is_err()) {
                    let error = branch.unwrap_err();
                    note(
                        &self.book.with_extension("lost"),
                        &format!("{:?} {}", error.kind(), std::process::id()),
                    );
                }
                std::future::pending().await
            }
            Doing::Computing => loop {
                std::hint::spin_loop();
            },
            Doing::Sleeping => std::thread::sleep(Duration::from_secs(1000)),
        }
    }
}

/// Opens pools without end.
#[derive(Serialize, Deserialize)]
struct Bomb;

impl Task for Bomb {
    const NAME: &'static str = "bomb";
    type Output = Result<u64, Error>;

    async fn run(self, cx: Context) -> Result<u64, Error> {
        let pool = cx.pool()?;
        let mut sum = 1;
        for part in join_all((0..4).map(|_| pool.run(Self))).await {
            sum += part.and_then(|part| part).or_else(|error| match error.kind() {
                ErrorKind::LimitExceeded => Ok(0),
                _ => Err(error),
            })?;
        }
        Ok(sum)
    }
}

fn main() {
    Worker::new().task::<Grow>().task::<Bomb>().nested(|pool| pool.workers(FAN as usize + 1)).init();
    if let Some((role, args)) = role() {
        let doing = match args[0].as_str() {
            "computing" => Doing::Computing,
            "sleeping" => Doing::Sleeping,
            "awaiting" | "" => Doing::Awaiting,
            _ => panic!("{}?", args[0]),
        };
        return root(&role, doing, args[1].clone().into());
    }
    let test = |name: &str, test: fn() -> Result<(), Failed>| {
        Trial::test(name, move || {
            let _test = Test::lasting(Duration::from_secs(600));
            test()
        })
    };
    let trials = vec![
        test("a1_a_tree_that_computes_dies_with_its_root", || {
            die("computing", times(50, 1), within(SECOND), false)
        }),
        test("a2_a_tree_that_waits_or_blocks_dies_with_its_root", || {
            die("awaiting", times(50, 1), within(SECOND), false)?;
            die("sleeping", times(50, 1), within(3 * SECOND / 10), false)
        }),
        test("a3_a_tree_that_is_stopped_dies_with_its_root", || {
            set_child_subreaper(true)?;
            let died = die("computing", times(20, 1), within(SECOND), true);
            set_child_subreaper(false)?;
            died
        }),
        test("a7_a_lost_branch_takes_nothing_else_along", a7),
        test("g8_a_cancel_reaches_the_last_leaf", g8),
        test("g5_recursion_without_end_stays_within_its_bounds", g5),
    ];
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit();
}

#[tokio::main(flavor = "current_thread")]
async fn root(role: &str, doing: Doing, folder: PathBuf) {
    if role == "bomb" {
        let pool =
            Pool::builder().workers(2).places(4).max_processes(16).depth_limit(5).build().await.unwrap();
        println!("ready");
        for sum in join_all((0..2).map(|_| pool.run(Bomb))).await {
            println!("{}", sum.unwrap().unwrap());
        }
        pool.drain().await;
        return;
    }
    let most = WORKERS as u32;
    let pool = Pool::builder().workers(FAN as usize).places(most).max_processes(most).build().await.unwrap();
    let grow = Grow { levels: DEPTH, doing, book: folder.join("book") };
    let runs: Vec<_> = (0..FAN).map(|_| pool.run(grow.clone())).collect();
    println!("ready");
    if role == "cancelled" {
        // Until it is told to, in a thread of its own: the pool lives here.
        let (told, wait) = futures::channel::oneshot::channel();
        std::thread::spawn(move || told.send(std::io::Read::read(&mut std::io::stdin(), &mut [0]).is_ok()));
        wait.await.unwrap();
        drop(runs);
        println!("dropped");
        pool.drain().await;
        println!("drained");
    }
    std::future::pending::<()>().await;
}

/// A root and the tree below it.
struct Scene {
    root: Actor,
    /// Each worker with its parent.
    tree: Vec<(Seen, u32)>,
    folder: Folder,
}

impl Scene {
    /// Starts a root and waits until its tree is up.
    fn new(role: &str, doing: &str) -> Result<Self, String> {
        let folder = Folder::new();
        let place = folder.file("");
        let stdin = if role == "cancelled" { Stdio::piped() } else { Stdio::null() };
        let args = [doing, place.to_str().unwrap()];
        let mut root = Actor::start(command(&[], &program(), role, &args).stdin(stdin));
        root.line()?;
        let book = folder.file("book");
        let end = Instant::now() + 120 * SECOND;
        while notes(&book).len() < WORKERS {
            if Instant::now() > end {
                return Err(format!("only {} of {WORKERS} workers came", notes(&book).len()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let line = |line: &String| {
            let (pid, parent) = line.split_once(' ')?;
            Some((Seen::of(pid.parse().ok()?).ok()?, parent.parse().ok()?))
        };
        let tree = notes(&book).iter().map(line).collect::<Option<Vec<_>>>().ok_or("a worker has gone")?;
        Ok(Self { root, tree, folder })
    }

    fn everybody(&self) -> Vec<Seen> {
        self.tree.iter().map(|&(seen, _)| seen).collect()
    }

    /// A worker and all below it.
    fn branch(&self, top: u32) -> Vec<Seen> {
        let mut pids = BTreeSet::from([top]);
        for _ in 0..DEPTH {
            pids.extend(
                self.tree
                    .iter()
                    .filter(|(_, parent)| pids.contains(parent))
                    .map(|(seen, _)| seen.pid)
                    .collect::<Vec<_>>(),
            );
        }
        self.everybody().into_iter().filter(|seen| pids.contains(&seen.pid)).collect()
    }
}

fn die(doing: &str, rounds: usize, limit: Duration, stopped: bool) -> Result<(), Failed> {
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        let mut scene = Scene::new("killed", doing)?;
        if stopped {
            scene.everybody().iter().for_each(|seen| send(seen.pid, Signal::SIGSTOP));
        }
        scene.root.send(Signal::SIGKILL);
        slowest = slowest.max(gone(&scene.everybody(), limit)?);
        scene.root.wait();
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
    }
    println!("{doing}: {WORKERS} gone after {slowest:?} at most, {rounds} of {rounds}");
    Ok(())
}

fn a7() -> Result<(), Failed> {
    for _ in 0..times(20, 1) {
        let scene = Scene::new("killed", "awaiting")?;
        // One on the second level: its parent is one on the first, whose parent is the root.
        let first =
            |pid: u32| scene.tree.iter().any(|(seen, parent)| seen.pid == pid && *parent == scene.root.pid());
        let (victim, parent) =
            *scene.tree.iter().find(|(_, parent)| first(*parent)).ok_or("no second level")?;
        let branch = scene.branch(victim.pid);
        assert_eq!(branch.len(), 1 + 3 + 9);
        let lost = scene.folder.file("book").with_extension("lost");
        send(victim.pid, Signal::SIGKILL);
        gone(&branch, within(SECOND))?;
        let others: Vec<Seen> = scene.everybody().into_iter().filter(|seen| !branch.contains(seen)).collect();
        assert!(others.iter().all(|seen| seen.is_alive()), "others have died too");
        // The one that waits for it hears of it when its other branches have ended, too.
        let rest =
            others.iter().filter(|seen| scene.tree.iter().any(|(it, above)| it == *seen && *above == parent));
        rest.for_each(|seen| send(seen.pid, Signal::SIGKILL));
        support::until_blocking(|| {
            notes(&lost).iter().filter(|line| line.ends_with(&format!(" {parent}"))).count() == 3
        });
        assert!(notes(&lost).iter().all(|line| line.starts_with("Crashed ")), "{:?}", notes(&lost));
        assert!(Path::new(&format!("/proc/{parent}")).exists());
    }
    Ok(())
}

fn g8() -> Result<(), Failed> {
    for _ in 0..times(20, 1) {
        let mut scene = Scene::new("cancelled", "awaiting")?;
        drop(scene.root.child.stdin.take());
        scene.root.line()?;
        // The leaves compute and never look up. Above them nothing has to be killed.
        let leaves: Vec<Seen> =
            scene.everybody().into_iter().filter(|seen| scene.branch(seen.pid).len() == 1).collect();
        assert_eq!(leaves.len(), 81);
        gone(&leaves, within(3 * SECOND))?;
        if scene.root.line()? != "drained" {
            return Err("it did not end".into());
        }
        gone(&scene.everybody(), within(SECOND))?;
    }
    Ok(())
}

fn g5() -> Result<(), Failed> {
    let folder = Folder::new();
    let args = ["", folder.file("").to_str().unwrap()].map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut root = Actor::start(&mut command(&[], &program(), "bomb", &args));
    root.line()?;
    let pid = root.pid();
    let watcher = std::thread::spawn(move || {
        let mut most = 0;
        while Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok() {
            most = most.max(below(pid).len());
            std::thread::sleep(Duration::from_millis(10));
        }
        most
    });
    for _ in 0..2 {
        let sum: u64 = root.line()?.parse()?;
        assert!(sum >= 1);
    }
    root.wait();
    let most = watcher.join().unwrap();
    println!("{most} processes at most");
    assert!((3..=16).contains(&most), "{most} processes");
    Ok(())
}
