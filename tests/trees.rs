//! Trees of pools, four levels deep, three wide: they end with their root whatever their workers do, a lost branch takes
//! nothing else along, a cancel reaches the last leaf, and recursion without end stays within its bounds.
//!
//! This test has a `main` of its own: it is the root, the worker and the test in turn. Its times are promises, so its tests
//! run one after the other.

mod support;

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::select_all;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use procpool::{Context, Emitter, Error, ErrorKind, Pool, PoolBuilder, StreamTask, Task, Worker};
use serde::{Deserialize, Serialize};
use support::role::{Actor, Seen, Stage, command, gone, hand_out_sockets, needing, program, role, send};
use support::{Folder, Test, below, note, notes, open_to_everybody, times, until, within};

const SECOND: Duration = Duration::from_secs(1);
const DEPTH: u32 = 4;
const FAN: u32 = 3;

/// How many workers such a tree has.
const WORKERS: usize = 3 + 9 + 27 + 81;

/// What the workers do once their own branches are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Doing {
    /// Nothing any more, once everybody is there.
    Resting,
    /// Sending numbers to the root.
    Streaming,
    /// Awaiting their branches, whose last ones compute.
    Awaiting,
    Computing,
    Sleeping,
    /// Computing while no signal is heard.
    Masked,
    /// Computing while a stranger holds all their links open.
    Held,
    /// Computing, each beside a child that nobody ends.
    Parents,
}

impl Doing {
    fn named(name: &str) -> Self {
        match name {
            "resting" => Self::Resting,
            "streaming" => Self::Streaming,
            "awaiting" => Self::Awaiting,
            "computing" => Self::Computing,
            "sleeping" => Self::Sleeping,
            "masked" => Self::Masked,
            "held" => Self::Held,
            "parents" => Self::Parents,
            _ => panic!("{name}?"),
        }
    }
}

/// Notes where it is, starts its branches, and does that.
#[derive(Clone, Serialize, Deserialize)]
struct Grow {
    levels: u32,
    doing: Doing,
    book: PathBuf,
}

impl Grow {
    /// Its own process, its parent, and a child if there is to be one.
    fn arrive(&self) {
        let child = (self.doing == Doing::Parents).then(|| {
            #[expect(clippy::zombie_processes, reason = "it is to be left behind")]
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            child.id()
        });
        let parent = std::os::unix::process::parent_id();
        note(&self.book, &format!("{} {parent} {}", std::process::id(), child.unwrap_or(0)));
    }

    fn branch(&self) -> Self {
        Self { levels: self.levels - 1, ..self.clone() }
    }

    /// Waits until everybody is there, so that those who compute hold up nobody, and the test has seen them.
    fn wait(&self) {
        while !self.book.with_extension("seen").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The same, and tells that it begins with what it does.
    fn begin(&self) {
        self.wait();
        if self.doing == Doing::Held {
            let holder = UnixStream::connect(self.book.with_extension("holder")).unwrap();
            hand_out_sockets(holder.as_fd());
        }
        note(&self.book.with_extension("begun"), "");
    }
}

impl Task for Grow {
    const NAME: &'static str = "grow";
    type Output = ();

    async fn run(self, cx: Context) {
        self.arrive();
        let mut branches = vec![];
        if self.levels > 1 {
            let pool = cx.pool().unwrap();
            branches.extend((0..FAN).map(|_| pool.run(self.branch())));
        }
        match self.doing {
            Doing::Resting if branches.is_empty() => self.wait(),
            Doing::Resting => join_all(branches).await.into_iter().for_each(Result::unwrap),
            Doing::Awaiting if branches.is_empty() => compute(),
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
            Doing::Sleeping => {
                self.begin();
                std::thread::sleep(Duration::from_secs(1000));
            }
            Doing::Masked => {
                SigSet::all().thread_block().unwrap();
                self.begin();
                compute()
            }
            Doing::Computing | Doing::Held | Doing::Parents | Doing::Streaming => {
                self.begin();
                compute()
            }
        }
    }
}

fn compute() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// The same, and sends numbers without end: its own, or those of its branches.
#[derive(Serialize, Deserialize)]
struct Flow(Grow);

impl StreamTask for Flow {
    const NAME: &'static str = "flow";
    type Item = u64;

    async fn run(self, cx: Context, out: Emitter<u64>) {
        self.0.arrive();
        if self.0.levels == 1 {
            for n in 0.. {
                out.send(n).await.unwrap();
            }
        }
        let pool = cx.pool().unwrap();
        let mut branches = select_all((0..FAN).map(|_| pool.stream(Self(self.0.branch()))));
        while let Some(n) = branches.next().await {
            out.send(n.unwrap()).await.unwrap();
        }
    }
}

/// Has this started so many levels further down, by the last of those workers, what leaves everybody there; then waits.
#[derive(Serialize, Deserialize)]
struct Escape(u32, PathBuf);

impl Task for Escape {
    const NAME: &'static str = "escape";
    type Output = ();

    async fn run(self, cx: Context) {
        if self.0 > 0 {
            return cx.pool().unwrap().run(Self(self.0 - 1, self.1)).await.unwrap_or(());
        }
        let escaped = support::escape(Stdio::null());
        note(&self.1, &format!("{} {escaped}", std::process::id()));
        std::future::pending().await
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
    let nested =
        |pool: PoolBuilder| pool.workers(FAN as usize + 1).contained(std::env::var_os("CONTAINED").is_some());
    Worker::new().task::<Grow>().stream::<Flow>().task::<Escape>().task::<Bomb>().nested(nested).init();
    if let Some((role, args)) = role() {
        return root(&role, &args[0], args[1].clone().into());
    }
    let mut trials = vec![];
    for who in ["", "a9_unprivileged_"] {
        let mut add = |name: &str, test: fn(&Stage) -> Result<(), Failed>| {
            let test = move || {
                let _test = Test::lasting(Duration::from_secs(900));
                test(&Stage::new(!who.is_empty()))
            };
            let trial = Trial::test(format!("{who}{name}"), test);
            trials.push(if who.is_empty() { trial } else { needing("setpriv", trial) });
        };
        add("a1_a_tree_that_computes_dies_with_its_root", |stage| {
            stage.die("computing", times(50, 1), within(SECOND))
        });
        add("a2_a_tree_that_rests_streams_or_blocks_dies_with_its_root", |stage| {
            for doing in ["resting", "streaming", "sleeping"] {
                stage.die(doing, times(50, 1), within(3 * SECOND / 10))?;
            }
            Ok(())
        });
        add("a3_a_tree_that_is_stopped_dies_with_its_root", a3);
        add("a4_a_tree_dies_with_its_root_though_its_links_are_held_open", |stage| {
            stage.die("held", times(20, 1), within(SECOND / 2))
        });
        add("a5_what_a_tree_started_dies_with_it", a5);
        add("a6_a_tree_that_blocks_all_signals_dies_with_its_root", |stage| {
            stage.die("masked", times(20, 1), within(SECOND / 2))
        });
    }
    let mut add = |name: &str, test: fn() -> Result<(), Failed>| {
        let test = move || {
            let _test = Test::lasting(Duration::from_secs(600));
            test()
        };
        trials.push(Trial::test(name, test));
    };
    add("a7_a_lost_branch_takes_nothing_else_along", a7);
    add("a8_what_escapes_below_a_contained_worker_dies_with_that", a8);
    add("g8_a_cancel_reaches_the_last_leaf", g8);
    add("g5_recursion_without_end_stays_within_its_bounds", g5);
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit();
}

#[tokio::main(flavor = "current_thread")]
async fn root(role: &str, doing: &str, folder: PathBuf) {
    match role {
        "bomb" => return bomb().await,
        "contained" => return contained(doing, folder).await,
        _ => {}
    }
    let (most, doing) = (WORKERS as u32, Doing::named(doing));
    let pool = Pool::builder().workers(FAN as usize).places(most).max_processes(most).build().await.unwrap();
    let grow = Grow { levels: DEPTH, doing, book: folder.join("book") };
    println!("ready");
    if doing == Doing::Streaming {
        let streams = (0..FAN).map(|_| pool.stream(Flow(grow.clone())));
        return select_all(streams).for_each(|n| async move { assert!(n.is_ok()) }).await;
    }
    let runs: Vec<_> = (0..FAN).map(|_| pool.run(grow.clone())).collect();
    match doing {
        Doing::Resting => {
            join_all(runs).await.into_iter().for_each(Result::unwrap);
            println!("resting");
        }
        // The root has links, too.
        Doing::Held => {
            until(|| grow.book.with_extension("seen").exists()).await;
            grow.begin();
        }
        _ if role == "cancelled" => {
            // Until it is told to, in a thread of its own: the pool lives here.
            let (told, wait) = futures::channel::oneshot::channel();
            std::thread::spawn(move || {
                told.send(std::io::Read::read(&mut std::io::stdin(), &mut [0]).is_ok())
            });
            wait.await.unwrap();
            drop(runs);
            println!("dropped");
            pool.drain().await;
            println!("drained");
        }
        _ => {}
    }
    std::future::pending::<()>().await;
}

async fn bomb() {
    let pool = Pool::builder().workers(2).places(4).max_processes(16).depth_limit(5).build().await.unwrap();
    println!("ready");
    for sum in join_all((0..2).map(|_| pool.run(Bomb))).await {
        println!("{}", sum.unwrap().unwrap());
    }
    pool.drain().await;
}

/// A contained pool, in whose tree something escapes two levels down. `all`: the pools below are contained, too.
async fn contained(who: &str, folder: PathBuf) {
    let builder = Pool::builder().workers(1).contained(true);
    let pool = if who == "all" { builder.env("CONTAINED", "1") } else { builder }.build().await.unwrap();
    let run = pool.run(Escape(1, folder.join("escaped")));
    until(|| !notes(&folder.join("escaped")).is_empty()).await;
    let outer = pool.stats().workers[0].pid.unwrap();
    println!("{outer} {}", notes(&folder.join("escaped"))[0]);
    let _ = run.await;
    std::future::pending::<()>().await;
}

/// A root and the tree below it.
struct Scene {
    root: Actor,
    /// Each worker with its parent.
    tree: Vec<(Seen, u32)>,
    /// The worker's process, and the child that it has started.
    children: Vec<(u32, Seen)>,
    folder: Folder,
    /// Keeps what was handed out.
    _holder: UnixListener,
}

impl Stage {
    /// Starts a root and waits until its tree is up.
    fn root(&self, role: &str, doing: &str) -> Result<Scene, String> {
        let folder = Folder::new();
        folder.open_to_everybody();
        let book = folder.file("book");
        let holder = UnixListener::bind(book.with_extension("holder")).map_err(|error| error.to_string())?;
        open_to_everybody(&book.with_extension("holder"));
        let place = folder.file("");
        let stdin = if role == "cancelled" { Stdio::piped() } else { Stdio::null() };
        let args = [doing, place.to_str().unwrap()];
        let mut root = Actor::start(command(&self.prefix, &self.program, role, &args).stdin(stdin));
        root.line()?;
        let end = Instant::now() + 120 * SECOND;
        let so_many = |path: &Path, count| {
            while notes(path).len() < count {
                if Instant::now() > end {
                    return Err(format!("only {} of {count} came", notes(path).len()));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        };
        so_many(&book, WORKERS)?;
        let (mut tree, mut children) = (vec![], vec![]);
        for line in notes(&book) {
            let pids: Vec<u32> = line.split(' ').map_while(|pid| pid.parse().ok()).collect();
            let [pid, parent, child] = pids[..] else { return Err(line) };
            tree.push((Seen::of(pid)?, parent));
            if child > 0 {
                children.push((pid, Seen::of(child)?));
            }
        }
        note(&book.with_extension("seen"), "");
        match doing {
            "resting" => drop(root.line()?),
            "streaming" | "awaiting" => {}
            "held" => so_many(&book.with_extension("begun"), WORKERS + 1)?,
            _ => so_many(&book.with_extension("begun"), WORKERS)?,
        }
        Ok(Scene { root, tree, children, folder, _holder: holder })
    }

    /// Kills roots with trees that do this.
    fn die(&self, doing: &str, rounds: usize, limit: Duration) -> Result<(), Failed> {
        let mut slowest = Duration::ZERO;
        for _ in 0..rounds {
            slowest = slowest.max(self.root("killed", doing)?.kill(limit)?);
        }
        println!("{doing}: {WORKERS} gone after {slowest:?} at most, {rounds} of {rounds}");
        Ok(())
    }
}

impl Scene {
    fn everybody(&self) -> Vec<Seen> {
        self.tree.iter().map(|&(seen, _)| seen).collect()
    }

    /// Kills the root. How long it took until nobody was left.
    fn kill(&mut self, limit: Duration) -> Result<Duration, String> {
        self.root.send(Signal::SIGKILL);
        let children = self.children.iter().map(|&(_, child)| child);
        let took = gone(&self.everybody().into_iter().chain(children).collect::<Vec<_>>(), limit);
        self.root.wait();
        took
    }

    /// One on the second level, and its parent, which is one on the first, whose parent is the root.
    fn second(&self) -> Result<(Seen, u32), Failed> {
        let first =
            |pid: u32| self.tree.iter().any(|(seen, parent)| seen.pid == pid && *parent == self.root.pid());
        Ok(*self.tree.iter().find(|(_, parent)| first(*parent)).ok_or("no second level")?)
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

impl Drop for Scene {
    /// Ends those that are to live on, or did though they were not to.
    fn drop(&mut self) {
        for (_, child) in self.children.iter().filter(|(_, child)| child.is_alive()) {
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
            let mut scene = stage.root("killed", "computing")?;
            scene.everybody().iter().for_each(|seen| send(seen.pid, Signal::SIGSTOP));
            support::until_blocking(|| scene.everybody().iter().all(|seen| seen.state() == 'T'));
            slowest = slowest.max(scene.kill(within(SECOND / 2))?);
            while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
        }
        println!("stopped, adopted by us {subreaper}: gone after {slowest:?} at most");
    }
    set_child_subreaper(false)?;
    Ok(())
}

fn a5(stage: &Stage) -> Result<(), Failed> {
    for _ in 0..times(20, 1) {
        let mut scene = stage.root("killed", "parents")?;
        let (victim, _) = scene.second()?;
        let branch = scene.branch(victim.pid);
        let (theirs, others): (Vec<_>, Vec<_>) =
            scene.children.iter().partition(|(pid, _)| branch.iter().any(|seen| seen.pid == *pid));
        assert_eq!((theirs.len(), others.len()), (13, WORKERS - 13));
        send(victim.pid, Signal::SIGKILL);
        let theirs = theirs.into_iter().map(|(_, child)| child);
        gone(&branch.into_iter().chain(theirs).collect::<Vec<_>>(), within(SECOND))?;
        assert!(others.iter().all(|(_, child)| child.is_alive()), "others lost their children");
        scene.kill(within(SECOND))?;
    }
    Ok(())
}

fn a7() -> Result<(), Failed> {
    for _ in 0..times(20, 1) {
        let scene = Stage::new(false).root("killed", "awaiting")?;
        let (victim, parent) = scene.second()?;
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

fn a8() -> Result<(), Failed> {
    for who in ["outer", "all"] {
        for _ in 0..times(20, 1) {
            let folder = Folder::new();
            let args = [who, folder.file("").to_str().unwrap()].map(str::to_owned);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let start = || -> Result<_, Failed> {
                std::fs::remove_file(folder.file("escaped")).ok();
                let mut root = Actor::start(&mut command(&[], &program(), "contained", &args));
                let seen = root.seen()?;
                Ok((root, seen[0], seen[1], seen[2]))
            };
            let (_root, outer, inner, escaped) = start()?;
            send(inner.pid, Signal::SIGKILL);
            gone(&[inner], within(SECOND))?;
            if who == "all" {
                gone(&[escaped], within(SECOND))?;
            } else {
                assert!(
                    escaped.is_alive(),
                    "the documentation says that it lives as long as the outer worker"
                );
            }
            send(outer.pid, Signal::SIGKILL);
            gone(&[outer, escaped], within(SECOND))?;
            let (root, outer, inner, escaped) = start()?;
            root.send(Signal::SIGKILL);
            gone(&[outer, inner, escaped], within(SECOND))?;
        }
    }
    Ok(())
}

fn g8() -> Result<(), Failed> {
    for _ in 0..times(20, 1) {
        let mut scene = Stage::new(false).root("cancelled", "awaiting")?;
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
