//! What surrounds every test: a watchdog that tells what everybody was doing when the test hung, and a look at what is
//! left when it is over.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::full;

/// Longer than any test takes that does not say so, on a busy machine.
pub(crate) fn limit() -> Duration {
    Duration::from_secs(times(600, 60) as u64)
}

/// How many descriptors the threads that serve all pools keep open, and the runtimes' signal handling: some ten.
const SERVICE: usize = 16;

/// The tests of this process that run now.
static RUNNING: Mutex<usize> = Mutex::new(0);

/// A running test, watched until it is dropped. When the last one of its process ends, nothing may be left behind:
/// no child, no zombie, no descriptor, no thread.
#[must_use = "it watches as long as it is kept"]
pub(crate) struct Test {
    _watchdog: Watchdog,
}

impl Test {
    /// To be called before the test starts anything.
    pub(crate) fn start() -> Self {
        // The limit of those that await is the same, and tells more.
        Self::lasting(limit() + Duration::from_secs(10))
    }

    /// A test that may take longer than others.
    pub(crate) fn lasting(limit: Duration) -> Self {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        fds_at_first();
        Self { _watchdog: Watchdog::start(limit) }
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        *running -= 1;
        // While the lock is held, no other test begins.
        if *running == 0 && !std::thread::panicking() {
            nothing_is_left();
        }
    }
}

/// How many descriptors were open before the first test.
fn fds_at_first() -> usize {
    static FIRST: OnceLock<usize> = OnceLock::new();
    *FIRST.get_or_init(fds)
}

/// Waits until this process is as it was before its tests.
fn nothing_is_left() {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let (children, fds, threads) = (children(std::process::id()), fds(), threads());
        if children.is_empty() && fds <= fds_at_first() + SERVICE && threads.len() <= 2 {
            return;
        }
        assert!(
            Instant::now() < end,
            "left behind: children {children:?}, {fds} descriptors where there were {}, threads {threads:?}\n{}",
            fds_at_first(),
            dump()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How long this thread has computed. A pool's own work is done on that of its current-thread runtime, but for the spawning.
pub(crate) fn computed() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let time = usage.user_time() + usage.system_time();
    Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64)
}

/// How many descriptors this process has open.
pub(crate) fn fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The threads of this process that are a pool's or a runtime's; two serve all pools and never end.
pub(crate) fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default());
    names.map(|name| name.trim().to_owned()).filter(|name| is_ours(name)).collect()
}

fn is_ours(name: &str) -> bool {
    ["procpool", "tokio"].iter().any(|prefix| name.starts_with(prefix))
}

/// State and parent of a process.
pub(crate) fn status(pid: u32) -> Option<(char, u32)> {
    let fields = stat(pid)?;
    Some((fields.first()?.chars().next()?, fields.get(1)?.parse().ok()?))
}

/// What the kernel tells of a process, from its state on.
pub(crate) fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// Every process that there is.
pub(crate) fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The children of a process, zombies included.
pub(crate) fn children(of: u32) -> Vec<u32> {
    let mut pids = processes();
    pids.retain(|pid| status(*pid).is_some_and(|(_, parent)| parent == of));
    pids
}

/// The live processes below one, each with its parent, which comes before it.
pub(crate) fn below(root: u32) -> Vec<(u32, u32)> {
    let alive = |pid: &u32| status(*pid).filter(|(state, _)| !matches!(state, 'Z' | 'X'));
    let all: Vec<_> = processes().iter().filter_map(|pid| Some((*pid, alive(pid)?.1))).collect();
    let mut found = vec![(root, 0)];
    let mut at = 0;
    while let Some(&(above, _)) = found.get(at) {
        found.extend(all.iter().filter(|(_, parent)| *parent == above));
        at += 1;
    }
    found.split_off(1)
}

/// The memory of this process that is resident, in KiB.
pub(crate) fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Ends this process when it is not dropped in time, since a test that hangs can't be ended otherwise; before that it
/// tells what everybody was doing.
struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    fn start(limit: Duration) -> Self {
        let (alive, gone) = channel();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let watch = move || {
            if gone.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs after {limit:?}; this process and what is below it:\n{}", dump());
                std::process::abort();
            }
        };
        std::thread::Builder::new().name("watchdog".into()).spawn(watch).unwrap();
        Self { _alive: alive }
    }
}

/// What this process and all below it are doing: state, command, kernel function and stack of each thread, descriptors.
pub(crate) fn dump() -> String {
    let mut out = String::new();
    describe(std::process::id(), 0, &mut out);
    out
}

fn describe(pid: u32, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = of("status");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim();
    let (state, threads, rss) = (field("State:"), field("Threads:"), field("VmRSS:"));
    let signals = [field("SigPnd:"), field("SigBlk:"), field("SigIgn:")].join(" ");
    let command = of("cmdline").replace('\0', " ");
    *out += &format!("{indent}{pid} {command}: {state}, {threads} threads, {rss}, signals {signals}\n");
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let of = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let stack = of("stack").lines().map(str::trim).collect::<Vec<_>>().join(" ");
        *out += &format!("{indent}  thread {} in {} {stack}\n", of("comm").trim(), of("wchan"));
    }
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let target =
        |fd: &Path| std::fs::read_link(fd).map_or_else(|_| "?".into(), |to| to.display().to_string());
    let fds: Vec<_> = fds.map(|fd| format!("{:?}={}", fd.file_name(), target(&fd.path()))).collect();
    *out += &format!("{indent}  descriptors {}\n", fds.join(" "));
    for child in children(pid) {
        describe(child, depth + 1, out);
    }
}

/// How often something is to be done: as the promise is written where `PROCPOOL_FULL` is set, else a few times.
pub(crate) fn times(many: usize, few: usize) -> usize {
    if full() { many } else { few }
}

/// How long something may take that is promised within `promise`: ten times as long beside other tests.
pub(crate) fn within(promise: Duration) -> Duration {
    if full() { promise } else { promise * 10 }
}

/// A number of its own for everybody who asks.
pub(crate) fn serial() -> usize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// Whether what `PROCPOOL_TEST` names as `what` has to be there; without that, tests do without it where it is missing.
pub(crate) fn is_wanted(what: &str) -> bool {
    std::env::var("PROCPOOL_TEST").is_ok_and(|wanted| wanted.split(',').any(|word| word == what))
}
