//! Tasks and helpers that the integration tests share. Each test file emits the worker entry for them with
//! `procpool::worker_test!(support::worker())`.
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part of it")]

mod left;
pub(crate) mod role;

use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{FutureExt, SinkExt, StreamExt};
pub(crate) use left::*;
use procpool::{
    Context, Emitter, Event, Events, Pool, PoolBuilder, StreamTask, Task, Worker, WorkerState, WorkerStats,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The worker of all test files.
pub(crate) fn worker() -> Worker {
    Worker::new()
        .task::<Echo>()
        .task::<Pid>()
        .task::<Spin>()
        .task::<Wait>()
        .task::<Block>()
        .task::<Die>()
        .task::<DieUntil>()
        .task::<Panic>()
        .task::<Append>()
        .task::<Reply>()
        .task::<Fill>()
        .task::<Print>()
        .task::<Grandchild>()
        .task::<Yield>()
        .stream::<Count>()
        .stream::<Produce>()
        .stream::<Burst>()
        .stream::<Parcel>()
        .stream::<Leak>()
        .stream::<Swell>()
}

/// The same, but it cannot be started while the file is there that `GATE` names.
pub(crate) fn gated() -> Worker {
    worker().try_state(|| async {
        let shut = std::env::var_os("GATE").is_some_and(|path| Path::new(&path).exists());
        if shut { Err("the gate is shut") } else { Ok(Gate) }
    })
}

struct Gate;

/// Gives back what it gets.
#[derive(Serialize, Deserialize)]
pub(crate) struct Echo(pub u64);

impl Task for Echo {
    const NAME: &'static str = "echo";
    type Output = u64;

    async fn run(self, _: Context) -> u64 {
        self.0
    }
}

/// Tells its worker's process id.
#[derive(Serialize, Deserialize)]
pub(crate) struct Pid;

impl Task for Pid {
    const NAME: &'static str = "pid";
    type Output = u32;

    async fn run(self, _: Context) -> u32 {
        std::process::id()
    }
}

/// Computes for ever; when polite, until it is cancelled. Leaves a note that it has begun.
#[derive(Serialize, Deserialize)]
pub(crate) struct Spin {
    pub note: PathBuf,
    pub polite: bool,
}

impl Task for Spin {
    const NAME: &'static str = "spin";
    type Output = ();

    async fn run(self, cx: Context) {
        note(&self.note, "begun");
        while !(self.polite && cx.is_cancelled()) {
            std::hint::spin_loop();
        }
        note(&self.note, "stopped");
    }
}

/// Awaits for ever; when polite, until it is cancelled, and then it cleans up for a moment.
#[derive(Serialize, Deserialize)]
pub(crate) struct Wait {
    pub note: PathBuf,
    pub polite: bool,
}

impl Task for Wait {
    const NAME: &'static str = "wait";
    type Output = ();

    async fn run(self, cx: Context) {
        note(&self.note, "begun");
        if self.polite {
            cx.cancelled().await;
            tokio::task::yield_now().await;
            note(&self.note, "cleaned up");
        } else {
            std::future::pending().await
        }
    }
}

/// Blocks its thread.
#[derive(Serialize, Deserialize)]
pub(crate) struct Block {
    pub ms: u64,
}

impl Task for Block {
    const NAME: &'static str = "block";
    type Output = u64;

    async fn run(self, _: Context) -> u64 {
        std::thread::sleep(Duration::from_millis(self.ms));
        self.ms
    }
}

/// Whether those who are deaf may go.
pub(crate) static RELEASED: AtomicBool = AtomicBool::new(false);

/// Blocks until the test lets it go, whatever its context says. For workers that are threads of the test.
#[derive(Serialize, Deserialize)]
pub(crate) struct Deaf;

impl Task for Deaf {
    const NAME: &'static str = "deaf";
    type Output = ();

    async fn run(self, _: Context) {
        while !RELEASED.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Takes its worker with it.
#[derive(Serialize, Deserialize)]
pub(crate) enum Die {
    Signal(i32),
    Exit(i32),
    Abort,
    Overflow,
}

impl Task for Die {
    const NAME: &'static str = "die";
    type Output = ();

    async fn run(self, _: Context) {
        match self {
            Self::Signal(number) => {
                let signal = nix::sys::signal::Signal::try_from(number).unwrap();
                // The standard library's handler for overflown stacks lets the first SIGSEGV or SIGBUS pass.
                loop {
                    nix::sys::signal::raise(signal).unwrap();
                }
            }
            Self::Exit(code) => std::process::exit(code),
            Self::Abort => {
                eprintln!("about to abort");
                std::process::abort();
            }
            Self::Overflow => {
                std::hint::black_box(overflow(1));
            }
        }
    }
}

/// Takes its worker with it until this attempt, and tells which it is.
#[derive(Serialize, Deserialize)]
pub(crate) struct DieUntil(pub u32);

impl Task for DieUntil {
    const NAME: &'static str = "die-until";
    type Output = u32;

    async fn run(self, cx: Context) -> u32 {
        if cx.attempt() < self.0 {
            std::process::exit(1);
        }
        cx.attempt()
    }
}

#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn overflow(n: u64) -> u64 {
    overflow(std::hint::black_box(n + 1)) + std::hint::black_box(n)
}

/// Panics.
#[derive(Serialize, Deserialize)]
pub(crate) struct Panic(pub String);

impl Task for Panic {
    const NAME: &'static str = "panic";
    type Output = ();

    async fn run(self, _: Context) {
        panic!("{}", self.0);
    }
}

/// Writes a line to a file in one piece, then blocks.
#[derive(Serialize, Deserialize)]
pub(crate) struct Append {
    pub path: PathBuf,
    pub line: u64,
    pub then_ms: u64,
}

impl Task for Append {
    const NAME: &'static str = "append";
    type Output = u64;

    async fn run(self, _: Context) -> u64 {
        note(&self.path, &self.line.to_string());
        std::thread::sleep(Duration::from_millis(self.then_ms));
        self.line
    }
}

/// Gives back something that may fail on its way.
#[derive(Serialize, Deserialize)]
pub(crate) struct Reply(pub Way);

/// How a reply travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    Unencodable,
    Undecodable,
    Fine,
}

/// An output that travels as it says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traveller(pub Way);

impl Serialize for Traveller {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Way::Unencodable => Err(serde::ser::Error::custom("it will not travel")),
            way => way.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Traveller {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Way::deserialize(deserializer)? {
            Way::Undecodable => Err(serde::de::Error::custom("it did not arrive")),
            way => Ok(Self(way)),
        }
    }
}

impl Task for Reply {
    const NAME: &'static str = "reply";
    type Output = Traveller;

    async fn run(self, _: Context) -> Traveller {
        Traveller(self.0)
    }
}

/// An output of many bytes.
#[derive(Serialize, Deserialize)]
pub(crate) struct Fill {
    pub bytes: usize,
}

impl Task for Fill {
    const NAME: &'static str = "fill";
    type Output = Vec<u8>;

    async fn run(self, _: Context) -> Vec<u8> {
        vec![7; self.bytes]
    }
}

/// Writes to everything that a worker might take for its link, and reads from it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Print(pub u64);

impl Task for Print {
    const NAME: &'static str = "print";
    type Output = usize;

    async fn run(self, _: Context) -> usize {
        println!("println {}", self.0);
        nix::unistd::write(std::io::stdout(), format!("write {}\n", self.0).as_bytes()).unwrap();
        std::process::Command::new("sh").args(["-c", "echo child; cat"]).status().unwrap();
        std::io::stdin().lines().count()
    }
}

/// Leaves a child of its own behind and gives its process id.
#[derive(Serialize, Deserialize)]
pub(crate) struct Grandchild;

impl Task for Grandchild {
    const NAME: &'static str = "grandchild";
    type Output = u32;

    async fn run(self, _: Context) -> u32 {
        #[expect(clippy::zombie_processes, reason = "it is to be left behind")]
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        child.id()
    }
}

/// Works in small steps and yields after each, until its time is over or it is cancelled.
#[derive(Serialize, Deserialize)]
pub(crate) struct Yield {
    pub note: PathBuf,
    pub ms: u64,
}

impl Task for Yield {
    const NAME: &'static str = "yield";
    type Output = u64;

    async fn run(self, cx: Context) -> u64 {
        note(&self.note, "begun");
        let end = Instant::now() + Duration::from_millis(self.ms);
        let mut rounds = 0;
        while Instant::now() < end && !cx.is_cancelled() {
            rounds += 1;
            std::hint::black_box((0..1000).fold(rounds, |a, b| a ^ b));
            tokio::task::coop::consume_budget().await;
        }
        rounds
    }
}

/// Counts up from 0.
#[derive(Serialize, Deserialize)]
pub(crate) struct Count {
    pub to: u64,
    pub way: Sending,
}

/// How items are sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Sending {
    Await,
    Block,
    Sink,
    Subtask,
    Thread,
}

pub(crate) const WAYS: [Sending; 5] =
    [Sending::Await, Sending::Block, Sending::Sink, Sending::Subtask, Sending::Thread];

impl StreamTask for Count {
    const NAME: &'static str = "count";
    type Item = u64;

    async fn run(self, _: Context, mut out: Emitter<u64>) {
        let numbers = 0..self.to;
        let send = |out: Emitter<u64>, numbers: std::ops::Range<u64>| async move {
            for n in numbers {
                out.send(n).await.unwrap();
            }
        };
        match self.way {
            Sending::Await => send(out, numbers).await,
            Sending::Block => numbers.for_each(|n| out.blocking_send(n).unwrap()),
            Sending::Sink => {
                out.send_all(&mut futures::stream::iter(numbers).map(Ok)).await.unwrap();
            }
            Sending::Subtask => tokio::spawn(send(out, numbers)).await.unwrap(),
            Sending::Thread => {
                let (end, ended) = tokio::sync::oneshot::channel();
                let thread = std::thread::spawn(move || {
                    numbers.for_each(|n| out.blocking_send(n).unwrap());
                    end.send(()).unwrap();
                });
                ended.await.unwrap();
                thread.join().unwrap();
            }
        }
    }
}

/// Sends items of this size until that fails. The length of the file is how many it has sent; what it failed with is noted
/// in another, then it pretends that all is well.
#[derive(Serialize, Deserialize)]
pub(crate) struct Produce {
    pub sent: PathBuf,
    pub bytes: usize,
    pub blocking: bool,
}

impl StreamTask for Produce {
    const NAME: &'static str = "produce";
    type Item = ByteBuf;

    async fn run(self, _: Context, out: Emitter<ByteBuf>) {
        let mut file = std::fs::File::options().append(true).create(true).open(&self.sent).unwrap();
        let error = loop {
            let item = ByteBuf::from(vec![7; self.bytes]);
            let sent = if self.blocking { out.blocking_send(item) } else { out.send(item).await };
            match sent {
                Ok(()) => file.write_all(b".").unwrap(),
                Err(error) => break error,
            }
        };
        // One that is told may take its time.
        tokio::task::yield_now().await;
        note(&self.sent.with_extension("error"), &format!("{:?}", error.kind()));
    }
}

/// Sends some numbers, then ends in another way than it should.
#[derive(Serialize, Deserialize)]
pub(crate) struct Burst {
    pub items: u64,
    pub then: Then,
}

/// How a burst ends.
#[derive(Serialize, Deserialize)]
pub(crate) enum Then {
    Panic,
    Abort,
    Hang,
    Spin,
}

impl StreamTask for Burst {
    const NAME: &'static str = "burst";
    type Item = u64;

    async fn run(self, _: Context, out: Emitter<u64>) {
        for n in 0..self.items {
            out.send(n).await.unwrap();
        }
        match self.then {
            Then::Panic => panic!("after {} items", self.items),
            Then::Abort => std::process::abort(),
            Then::Hang => std::future::pending().await,
            Then::Spin => loop {
                std::hint::spin_loop();
            },
        }
    }
}

/// Sends what may fail on its way, between two that do not.
#[derive(Serialize, Deserialize)]
pub(crate) struct Parcel(pub Content);

/// What is in it.
#[derive(Serialize, Deserialize)]
pub(crate) enum Content {
    Travels(Way),
    Bytes(usize),
}

/// A parcel under way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Sealed {
    Traveller(Traveller),
    Bytes(Vec<u8>),
}

impl StreamTask for Parcel {
    const NAME: &'static str = "parcel";
    type Item = Sealed;

    async fn run(self, _: Context, out: Emitter<Sealed>) {
        out.send(Sealed::Bytes(vec![])).await.unwrap();
        let sealed = match self.0 {
            Content::Travels(way) => Sealed::Traveller(Traveller(way)),
            Content::Bytes(bytes) => Sealed::Bytes(vec![1; bytes]),
        };
        if let Err(error) = out.send(sealed).await {
            eprintln!("{error}");
        }
        let _ = out.send(Sealed::Bytes(vec![])).await;
    }
}

/// Leaves a subtask behind that sends once more, and notes what it gets.
#[derive(Serialize, Deserialize)]
pub(crate) struct Leak(pub PathBuf);

impl StreamTask for Leak {
    const NAME: &'static str = "leak";
    type Item = u64;

    async fn run(self, _: Context, out: Emitter<u64>) {
        let late = out.clone();
        out.send(1).await.unwrap();
        drop(tokio::spawn(async move {
            // The task ends in the poll that spawns this, so it has ended here.
            let error = late.send(2).await.unwrap_err();
            note(&self.0, &format!("{:?}", error.kind()));
        }));
    }
}

/// Sends many empty items, then large ones without end; the length of the file is how many.
#[derive(Serialize, Deserialize)]
pub(crate) struct Swell {
    pub sent: PathBuf,
    pub small: u64,
    pub large: usize,
}

impl StreamTask for Swell {
    const NAME: &'static str = "swell";
    type Item = ByteBuf;

    async fn run(self, _: Context, out: Emitter<ByteBuf>) {
        let mut file = std::fs::File::options().append(true).create(true).open(&self.sent).unwrap();
        for size in (0..self.small).map(|_| 0).chain(std::iter::repeat(self.large)) {
            if out.send(ByteBuf::from(vec![0; size])).await.is_err() {
                return;
            }
            file.write_all(b".").unwrap();
        }
    }
}

/// How long a file is.
pub(crate) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Appends a line to a file.
pub(crate) fn note(path: &Path, line: &str) {
    let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The lines of a file; none if it is not there.
pub(crate) fn notes(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A folder of the test's own, removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let name = format!("procpool-test-{}-{}", std::process::id(), serial());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Lets every user make files in it.
    pub(crate) fn open_to_everybody(&self) {
        open_to_everybody(&self.0);
    }
}

/// Lets every user do with a file or folder what its owner may.
pub(crate) fn open_to_everybody(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a test on a runtime of its own, current-thread and then multi-thread, with a limit that no test should need.
pub(crate) fn on_both_runtimes<F: Future<Output = ()>>(test: impl Fn() -> F) {
    let _test = Test::start();
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    limited(&current, test());
    drop(current);
    let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    limited(&multi, test());
}

/// Runs a test on a current-thread runtime, with a limit that no test should need.
pub(crate) fn on_a_runtime<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let _test = Test::start();
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    limited(&current, test());
}

fn limited(runtime: &tokio::runtime::Runtime, test: impl Future<Output = ()>) {
    runtime.block_on(async {
        if tokio::time::timeout(limit(), test).await.is_err() {
            panic!("the test hangs; this process and what is below it:\n{}", dump());
        }
    });
}

/// Whether tests are to repeat as often as they were specified to, and not as often as there is time for every day.
pub(crate) fn full() -> bool {
    std::env::var_os("PROCPOOL_FULL").is_some()
}

/// A pool of `n` workers whose ladder is short.
pub(crate) fn quick(n: usize) -> PoolBuilder {
    Pool::builder().workers(n).cancel_grace(Duration::from_millis(200)).term_grace(Duration::from_millis(200))
}

/// Waits until all of a pool's workers take tasks.
pub(crate) async fn open(pool: &Pool, n: usize) {
    let is_open = |worker: &WorkerStats| worker.state == WorkerState::Open;
    until(|| pool.stats().workers.iter().filter(|worker| is_open(worker)).count() == n).await;
}

/// What has been told so far.
pub(crate) fn told(events: &mut Events) -> Vec<Event> {
    std::iter::from_fn(|| events.next().now_or_never().flatten()).collect()
}

/// The process ids of all workers, once all of them take tasks.
pub(crate) async fn pids(pool: &Pool, n: usize) -> Vec<u32> {
    open(pool, n).await;
    pool.stats().workers.iter().filter_map(|worker| worker.pid).collect()
}

/// Kills a process.
pub(crate) fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Waits until something is so; the condition is looked at every few milliseconds.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "it never became so; this process and what is below it:\n{}", dump());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// As `until`, outside of a runtime.
pub(crate) fn until_blocking(mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "it never became so; this process and what is below it:\n{}", dump());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether there is a process of this id, zombies of ours included, those that others have yet to reap not.
pub(crate) fn exists(pid: u32) -> bool {
    match status(pid) {
        Some((state, parent)) => !matches!(state, 'Z' | 'X') || parent == std::process::id(),
        None => false,
    }
}

/// Starts a process in a session of its own, whose parent ends at once. Its number, once it has left everybody.
/// That is where it writes.
pub(crate) fn escape(stderr: std::process::Stdio) -> u32 {
    let mut shell = std::process::Command::new("sh");
    let output = shell.args(["-c", "setsid sleep 1000 >&2 & echo $!"]).stderr(stderr).output().unwrap();
    let pid: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    // Until then it may be a copy of the shell that has yet to leave.
    let comm = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    until_blocking(|| comm() == "sleep\n");
    pid
}

/// The commands of this process's children, one a line.
pub(crate) fn tree() -> String {
    let command = |pid| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = |pid| format!("{pid} {}\n", String::from_utf8_lossy(&command(pid)).replace('\0', " "));
    children(std::process::id()).into_iter().map(line).collect()
}
