//! A storm: workers on three levels are killed, stopped, continued and cut off at random while tasks, streams and trees of
//! tasks run. Each task has one outcome, none runs twice, those whose worker was not hit succeed, and in the end nothing is
//! left and nothing has grown.
//!
//! The seed also says whether workers run one task at a time or three, and whether they have guardians. It takes some
//! seconds; `PROCPOOL_SOAK` says how many it shall take, `PROCPOOL_STORM` which storm it shall be.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as Number;
use procpool::{Context, Error, ErrorKind, Pool, Task};
use serde::{Deserialize, Serialize};
use support::role::Seen;
use support::*;
use tokio::task::JoinHandle;

procpool::worker_test!(support::worker().task::<Hang>().task::<Branch>().nested(|pool| pool.workers(FAN)));

/// How deep and how wide the tree is.
const DEPTH: u64 = 3;
const FAN: usize = 3;

/// How many workers it has when all are there.
const WHOLE: u32 = 3 + 9 + 27;

/// How long between two tasks, and how many there are at most at a time: more are not submitted while many wait for workers
/// that are being replaced.
const BEAT: Duration = Duration::from_millis(5);
const TASKS: usize = 64;

/// How long between two blows.
const PAUSE: Duration = Duration::from_millis(200);

/// Closes its worker's link and stays.
#[derive(Serialize, Deserialize)]
struct Hang;

impl Task for Hang {
    const NAME: &'static str = "hang";
    type Output = ();

    async fn run(self, _: Context) {
        for fd in 3..64 {
            let link = std::fs::read_link(format!("/proc/self/fd/{fd}"));
            if link.is_ok_and(|target| target.to_string_lossy().starts_with("socket:")) {
                let _ = nix::unistd::close(fd);
            }
        }
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// Counts the leaves below it: single tasks, and the items of streams.
#[derive(Serialize, Deserialize)]
struct Branch(u64);

impl Task for Branch {
    const NAME: &'static str = "branch";
    type Output = Result<u64, Error>;

    async fn run(self, cx: Context) -> Result<u64, Error> {
        let pool = cx.pool()?;
        if self.0 > 2 {
            let parts = try_join_all((0..FAN).map(|_| pool.run(Self(self.0 - 1)))).await?;
            return parts.into_iter().sum();
        }
        let items = pool.stream(Count { to: LEAVES - 2, way: Sending::Await });
        let (a, b, items) =
            futures::try_join!(pool.run(Echo(1)), pool.run(Echo(1)), items.try_collect::<Vec<_>>())?;
        Ok(a + b + items.len() as u64)
    }
}

/// How many leaves there are below a worker of the second level.
const LEAVES: u64 = 50;

/// Numbers that a seed gives, the same each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        // Splitmix.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let a = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let b = (a ^ a >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        b ^ b >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What a task is, which says what may become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Fails only if its worker is hit.
    Good,
    /// Fails only if four workers are hit, one after the other.
    Retried,
    /// Panics, always.
    Panics,
    /// Takes its worker along.
    Deadly,
    /// Is cancelled, or runs out of time.
    Stopped,
}

/// What became of one task.
struct Outcome {
    number: u64,
    kind: Kind,
    loss: Option<Loss>,
}

/// What is kept of an error. There are many.
struct Loss {
    kind: ErrorKind,
    /// The worker's process, and whether it has ended.
    pid: Option<u32>,
    ended: bool,
    attempts: u32,
    may_have_run: bool,
    text: String,
}

impl Loss {
    fn new(error: &Error) -> Self {
        // Those are told apart by their kind.
        let plain =
            error.exit().is_none() && (error.is_panicked() || error.is_cancelled() || error.is_timed_out());
        Self {
            kind: error.kind(),
            pid: error.worker_pid(),
            ended: error.exit().is_some(),
            attempts: error.attempts(),
            may_have_run: error.may_have_run(),
            text: if plain { String::new() } else { format!("{error}; {:?}", error.path()) },
        }
    }

    fn is_hit(&self, hit: &BTreeSet<u32>) -> bool {
        self.pid.is_some_and(|pid| hit.contains(&pid))
    }
}

/// Submits one task, as chance has it, and awaits it.
async fn one(pool: Pool, number: u64, chance: u64, notes: PathBuf) -> Outcome {
    let mut chance = Chance(chance);
    let note = notes.with_extension("other");
    let (kind, result) = match chance.below(1000) {
        0..250 => {
            let then_ms = chance.below(10);
            let run = pool.run(Append { path: notes, line: number, then_ms });
            (Kind::Good, run.await.map(|line| assert_eq!(line, number)))
        }
        250..350 => (Kind::Good, pool.run(Echo(number)).await.map(|echo| assert_eq!(echo, number))),
        350..450 => {
            let bytes = chance.below(300_000) as usize;
            (Kind::Good, pool.run(Fill { bytes }).await.map(|filled| assert_eq!(filled.len(), bytes)))
        }
        450..550 => (Kind::Good, count(&pool, &mut chance).await),
        550..630 => (Kind::Good, pool.run(Yield { note, ms: chance.below(20) }).await.map(drop)),
        630..660 => (Kind::Good, pool.run(Block { ms: chance.below(30) }).await.map(drop)),
        660..690 => (Kind::Retried, pool.with_retries(3).run(Block { ms: chance.below(30) }).await.map(drop)),
        690..720 => {
            let leaves = pool.run(Branch(DEPTH)).await.and_then(|leaves| leaves);
            (Kind::Good, leaves.map(|leaves| assert_eq!(leaves, LEAVES * FAN as u64)))
        }
        720..740 => (Kind::Good, pool.run(Grandchild).await.map(drop)),
        740..800 => (Kind::Panics, pool.run(Panic("on purpose".into())).await),
        800..860 => {
            let view = pool.with_timeout(Duration::from_millis(20));
            (Kind::Stopped, view.run(Wait { note, polite: chance.below(2) == 0 }).await)
        }
        860..900 => (Kind::Stopped, pool.run(Yield { note, ms: 5000 }).cancel().await.map(drop)),
        900..950 => {
            // Dropped: nobody ever hears of it.
            drop(pool.run(Block { ms: chance.below(5) }));
            (Kind::Good, Ok(()))
        }
        950..998 => {
            // As a consumer does that has seen enough.
            let items = pool.stream(Produce { sent: note, bytes: 1000, blocking: chance.below(2) == 0 });
            (Kind::Good, items.take(1 + chance.below(50) as usize).try_for_each(|_| async { Ok(()) }).await)
        }
        998 => {
            let view = pool.with_timeout(Duration::from_millis(5));
            (Kind::Deadly, view.run(Spin { note, polite: false }).await)
        }
        _ => {
            let die = [Die::Abort, Die::Exit(0), Die::Signal(Signal::SIGSEGV as i32)];
            let one = die.into_iter().nth(chance.below(3) as usize).unwrap();
            (Kind::Deadly, pool.run(one).await)
        }
    };
    Outcome { number, kind, loss: result.as_ref().err().map(Loss::new) }
}

/// Reads a stream. What comes is in order, and all of it unless there is an error.
async fn count(pool: &Pool, chance: &mut Chance) -> Result<(), Error> {
    let (to, way) = (chance.below(2000), WAYS[chance.below(WAYS.len() as u64) as usize]);
    let mut items = pool.stream(Count { to, way });
    let mut next = 0;
    while let Some(item) = items.try_next().await? {
        assert_eq!(item, next);
        next += 1;
    }
    assert_eq!(next, to);
    Ok(())
}

/// The workers below this process, each with its level. A process that a worker is about to start has its name for a moment,
/// and another parent than the name says.
fn workers() -> Vec<(u32, usize)> {
    let mut found: Vec<(u32, usize)> = Vec::new();
    let mut levels = BTreeMap::from([(std::process::id(), 0)]);
    for (pid, parent) in below(std::process::id()) {
        let level = levels[&parent];
        let name = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_worker = name.starts_with(format!("procpool-worker:{parent}:").as_bytes());
        levels.insert(pid, level + usize::from(is_worker));
        if is_worker {
            found.push((pid, level + 1));
        }
    }
    found
}

/// What the storm has hit: processes, each of which may have ended.
#[derive(Default)]
struct Havoc {
    hit: BTreeSet<u32>,
    seen: Vec<Seen>,
    levels: [usize; 1 + DEPTH as usize],
}

/// Hits workers at random until it is told to stop.
async fn storm(pool: Pool, mut chance: Chance, end: Instant) -> Havoc {
    let mut havoc = Havoc::default();
    let mut cut = FuturesUnordered::new();
    let mut beat = tokio::time::interval(PAUSE);
    while Instant::now() < end {
        beat.tick().await;
        if chance.below(20) == 0 {
            cut.push(tokio::spawn(pool.run(Hang)));
            continue;
        }
        // Below the first level there are more, and they are replaced at once; up there it takes a second each.
        let all = workers();
        let top = chance.below(8) == 0;
        let those: Vec<_> = all.iter().filter(|(_, level)| (*level == 1) == top).collect();
        if those.is_empty() {
            continue;
        }
        let (pid, level) = *those[chance.below(those.len() as u64) as usize];
        let number = Number::from_raw(pid.cast_signed());
        havoc.hit.insert(pid);
        havoc.seen.extend(Seen::of(pid));
        havoc.levels[level.min(DEPTH as usize)] += 1;
        // Whoever has gone meanwhile was hit by somebody else.
        let _ = match chance.below(4) {
            0 | 1 => kill(number, Signal::SIGKILL),
            // Found by its silence, after some seconds.
            2 => kill(number, Signal::SIGSTOP),
            _ => {
                tokio::spawn(async move {
                    tokio::time::sleep(PAUSE).await;
                    let _ = kill(number, Signal::SIGCONT);
                });
                kill(number, Signal::SIGSTOP)
            }
        };
    }
    while let Some(hung) = cut.next().await {
        let error = hung.unwrap().unwrap_err();
        assert!(error.exit().is_some() || !error.may_have_run(), "{error:?}");
        havoc.hit.extend(error.worker_pid());
    }
    havoc
}

fn seconds(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn k1_a_storm_costs_nothing_but_the_tasks_that_it_hits() {
    let lasts = Duration::from_secs(seconds("PROCPOOL_SOAK").unwrap_or_else(|| times(600, 4) as u64));
    let seed = seconds("PROCPOOL_STORM").unwrap_or_else(|| u64::from(std::process::id()));
    println!("PROCPOOL_STORM={seed}, {lasts:?}");
    let _test = Test::lasting(lasts + Duration::from_secs(120));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = Folder::new();
        let mut chance = Chance(seed);
        let (slots, contained) = ([1, 3][chance.below(2) as usize], chance.below(2) == 1);
        println!("{slots} slots, contained {contained}");
        let pool = quick(FAN).slots(slots).contained(contained).places(WHOLE).max_processes(4 * WHOLE);
        let pool = pool.build().await.unwrap();
        let end = Instant::now() + lasts;
        let stormy = tokio::spawn(storm(pool.clone(), Chance(chance.next()), end));
        // It makes up for what it has missed while there were too many.
        let mut beat = tokio::time::interval(BEAT);
        let mut running = FuturesUnordered::<JoinHandle<Outcome>>::new();
        let (mut outcomes, mut submitted, mut sizes) = (Vec::new(), 0, Vec::new());
        while Instant::now() < end || !running.is_empty() {
            // Nobody waits for ever: a stopped worker is found after six seconds, the ladder takes less than one.
            let late = tokio::time::sleep(Duration::from_secs(60));
            tokio::select! {
                Some(outcome) = running.next() => outcomes.push(outcome.unwrap()),
                _ = beat.tick(), if running.len() < TASKS && Instant::now() < end => {
                    submitted += 1;
                    let one = one(pool.clone(), submitted, chance.next(), folder.file("lines"));
                    running.push(tokio::spawn(one));
                }
                () = late => panic!("no outcome:\n{}", dump()),
            }
            if submitted.is_multiple_of(64) {
                sizes.push((Instant::now(), resident_kib()));
            }
        }
        let Havoc { mut hit, seen, levels } = stormy.await.unwrap();
        // Those that tasks have taken along were hit by them.
        let deadly = outcomes.iter().filter(|outcome| matches!(outcome.kind, Kind::Deadly | Kind::Stopped));
        let losses = deadly.filter_map(|outcome| outcome.loss.as_ref());
        hit.extend(losses.filter(|loss| loss.ended).filter_map(|loss| loss.pid));
        judge(&outcomes, submitted, &hit, slots, &folder.file("lines"));
        slope(&sizes);
        pids(&pool, FAN).await;
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        let stats = pool.stats();
        assert_eq!((stats.queued, stats.in_flight), (0, 0), "{stats:?}");
        pool.drain().await;
        until(|| seen.iter().all(|seen| !seen.is_alive())).await;
        println!("{submitted} tasks; blows by level {levels:?}; {} workers replaced above", stats.restarts);
    });
}

/// Each task has one outcome, and it is one that its kind allows.
fn judge(outcomes: &[Outcome], submitted: u64, hit: &BTreeSet<u32>, slots: usize, lines: &Path) {
    let numbers: BTreeSet<u64> = outcomes.iter().map(|outcome| outcome.number).collect();
    assert_eq!((outcomes.len() as u64, numbers.len() as u64), (submitted, submitted));
    let mut ran = BTreeMap::<u64, usize>::new();
    for line in notes(lines) {
        *ran.entry(line.parse().unwrap()).or_default() += 1;
    }
    assert!(ran.values().all(|times| *times == 1), "a task ran twice");
    let (mut good, mut collateral, mut kinds) = (0, 0, BTreeMap::<String, usize>::new());
    for Outcome { number, kind, loss } in outcomes {
        let loss = loss.as_ref();
        let text = loss.map_or("no error", |loss| &loss.text);
        let told = loss.map_or_else(|| "done".to_owned(), |loss| format!("{:?}", loss.kind));
        *kinds.entry(format!("{kind:?} {told}")).or_default() += 1;
        good += usize::from(*kind == Kind::Good);
        if loss.is_some_and(|loss| !loss.may_have_run) {
            assert!(!ran.contains_key(number), "{number} ran, and its error says that it did not: {text}");
        }
        // Beside it was one that was dropped or cancelled and that a busy machine did not let stop within its grace: then
        // the worker is ended, and nobody's outcome says so. Whoever has a worker for itself is no such neighbour.
        let is_collateral = loss.is_some_and(|loss| loss.kind == ErrorKind::Collateral);
        if loss.is_some_and(|loss| loss.is_hit(hit)) {
            if *kind == Kind::Retried {
                assert_eq!(loss.map(|loss| loss.attempts), Some(4), "{text}");
            }
            continue;
        }
        if slots > 1 && is_collateral {
            collateral += 1;
            continue;
        }
        let is = |allowed: &[ErrorKind]| loss.is_some_and(|loss| allowed.contains(&loss.kind));
        let right = match kind {
            Kind::Good | Kind::Retried => loss.is_none(),
            Kind::Panics => is(&[ErrorKind::Panicked]),
            Kind::Deadly => is(&[ErrorKind::Crashed, ErrorKind::TimedOut]),
            Kind::Stopped => loss.is_none() || is(&[ErrorKind::TimedOut, ErrorKind::Cancelled]),
        };
        assert!(right, "{number}, {kind:?}, was not hit: {told} {text}");
    }
    println!("{kinds:?}");
    assert!(
        collateral * 100 <= good,
        "{collateral} beside {good} good tasks were lost for a neighbour's sake"
    );
}

/// Memory has not grown by more than 1 MiB a minute since the first third of the time, or by 8 MiB in less than that.
fn slope(sizes: &[(Instant, u64)]) {
    let late = &sizes[sizes.len() / 3..];
    let (Some((begun, before)), Some((ended, after))) = (late.first(), late.last()) else { return };
    let minutes = (*ended - *begun).as_secs() / 60;
    let allowed = (8 << 10) + (minutes << 10);
    assert!(
        *after < before + allowed,
        "memory has grown from {before} to {after} KiB in {:?}",
        *ended - *begun
    );
}
