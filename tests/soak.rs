//! A storm: workers are killed, stopped, continued and cut off at random while tasks of all kinds run. Each task has one
//! outcome, none runs twice, those whose worker was not hit succeed, and in the end nothing is left and nothing has grown.
//!
//! The seed also says whether workers run one task at a time or three, and whether they have guardians. It takes some
//! seconds; `PROCPOOL_SOAK` says how many it shall take, `PROCPOOL_STORM` which storm it shall be.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as Number;
use procpool::{Context, Error, Pool, Task, WorkerId};
use serde::{Deserialize, Serialize};
use support::*;

procpool::worker_test!(support::worker().task::<Hang>().task::<Below>().nested(|pool| pool.workers(1)));

/// How many tasks are there at a time, and how many workers.
const TASKS: usize = 64;
const WORKERS: usize = 4;

/// How long between two blows. More often, and most of the time nobody is there to be hit: workers are replaced one a second.
const PAUSE: Duration = Duration::from_millis(400);

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

/// Has a worker below its own give its number back.
#[derive(Serialize, Deserialize)]
struct Below(u64);

impl Task for Below {
    const NAME: &'static str = "below";
    type Output = Result<u64, Error>;

    async fn run(self, cx: Context) -> Result<u64, Error> {
        cx.pool()?.run(Echo(self.0)).await
    }
}

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
    result: Result<(), Error>,
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
        250..450 => (Kind::Good, pool.run(Echo(number)).await.map(|echo| assert_eq!(echo, number))),
        450..550 => {
            let bytes = chance.below(300_000) as usize;
            (Kind::Good, pool.run(Fill { bytes }).await.map(|filled| assert_eq!(filled.len(), bytes)))
        }
        550..630 => (Kind::Good, pool.run(Yield { note, ms: chance.below(20) }).await.map(drop)),
        630..660 => (Kind::Good, pool.run(Block { ms: chance.below(30) }).await.map(drop)),
        660..690 => (Kind::Retried, pool.with_retries(3).run(Block { ms: chance.below(30) }).await.map(drop)),
        690..700 => {
            let echo = pool.run(Below(number)).await.and_then(|below| below);
            (Kind::Good, echo.map(|echo| assert_eq!(echo, number)))
        }
        700..740 => (Kind::Good, pool.run(Grandchild).await.map(drop)),
        740..800 => (Kind::Panics, pool.run(Panic("on purpose".into())).await),
        800..860 => {
            let view = pool.with_timeout(Duration::from_millis(20));
            (Kind::Stopped, view.run(Wait { note, polite: chance.below(2) == 0 }).await)
        }
        860..900 => (Kind::Stopped, pool.run(Yield { note, ms: 5000 }).cancel().await.map(drop)),
        900..994 => {
            // Dropped: nobody ever hears of it.
            drop(pool.run(Block { ms: chance.below(5) }));
            (Kind::Good, Ok(()))
        }
        994..996 => {
            let view = pool.with_timeout(Duration::from_millis(5));
            (Kind::Deadly, view.run(Spin { note, polite: false }).await)
        }
        996 => (Kind::Deadly, pool.run(Die::Abort).await),
        997 => (Kind::Deadly, pool.run(Die::Exit(0)).await),
        998 => (Kind::Deadly, pool.run(Die::Signal(Signal::SIGSEGV as i32)).await),
        _ => (Kind::Deadly, pool.run(Hang).await),
    };
    Outcome { number, kind, result }
}

/// Hits workers at random until it is told to stop. Whom it has hit.
async fn storm(pool: Pool, mut chance: Chance, end: Instant) -> BTreeSet<WorkerId> {
    let mut hit = BTreeSet::new();
    while Instant::now() < end {
        tokio::time::sleep(PAUSE).await;
        let workers = pool.stats().workers;
        if workers.is_empty() {
            continue;
        }
        let worker = &workers[chance.below(workers.len() as u64) as usize];
        let Some(pid) = worker.pid else { continue };
        let number = Number::from_raw(pid.cast_signed());
        hit.insert(worker.id);
        // Whoever has gone meanwhile was hit by somebody else.
        let _ = match chance.below(4) {
            0 | 1 => kill(number, Signal::SIGKILL),
            // Found by its silence, after some seconds.
            2 => kill(number, Signal::SIGSTOP),
            _ => {
                let _ = kill(number, Signal::SIGSTOP);
                tokio::time::sleep(PAUSE).await;
                kill(number, Signal::SIGCONT)
            }
        };
    }
    hit
}

fn seconds(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The memory of this process that is resident, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
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
        let pool = quick(WORKERS).slots(slots).contained(contained).build().await.unwrap();
        let end = Instant::now() + lasts;
        let stormy = tokio::spawn(storm(pool.clone(), Chance(chance.next()), end));
        let mut running = FuturesUnordered::new();
        let (mut outcomes, mut submitted, mut sizes) = (Vec::new(), 0, Vec::new());
        while Instant::now() < end {
            while running.len() < TASKS {
                submitted += 1;
                let one = one(pool.clone(), submitted, chance.next(), folder.file("lines"));
                running.push(tokio::spawn(one));
            }
            // Nobody waits for ever: a stopped worker is found after six seconds, the ladder takes less than one.
            let next = tokio::time::timeout(Duration::from_secs(60), running.next()).await;
            outcomes.push(next.unwrap_or_else(|_| panic!("no outcome:\n{}", dump())).unwrap().unwrap());
            if outcomes.len().is_multiple_of(64) {
                sizes.push((Instant::now(), resident()));
            }
        }
        let mut hit = stormy.await.unwrap();
        while let Some(outcome) = running.next().await {
            outcomes.push(outcome.unwrap());
        }
        // Those that tasks have taken along were hit by them.
        let deadly = outcomes.iter().filter(|outcome| matches!(outcome.kind, Kind::Deadly | Kind::Stopped));
        let losses = deadly.filter_map(|outcome| outcome.result.as_ref().err());
        hit.extend(losses.filter(|error| error.exit().is_some()).filter_map(Error::worker_id));
        judge(&outcomes, submitted, &hit, &folder.file("lines"));
        slope(&sizes);
        pids(&pool, WORKERS).await;
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        let stats = pool.stats();
        assert_eq!((stats.queued, stats.in_flight), (0, 0), "{stats:?}");
        pool.drain().await;
        println!("{submitted} tasks, {} workers hit, {} replaced", hit.len(), stats.restarts);
    });
}

/// Each task has one outcome, and it is one that its kind allows.
fn judge(outcomes: &[Outcome], submitted: u64, hit: &BTreeSet<WorkerId>, lines: &Path) {
    let numbers: BTreeSet<u64> = outcomes.iter().map(|outcome| outcome.number).collect();
    assert_eq!((outcomes.len() as u64, numbers.len() as u64), (submitted, submitted));
    let mut ran = BTreeMap::<u64, usize>::new();
    for line in notes(lines) {
        *ran.entry(line.parse().unwrap()).or_default() += 1;
    }
    assert!(ran.values().all(|times| *times == 1), "a task ran twice");
    let (mut good, mut unlucky) = (0, 0);
    for Outcome { number, kind, result } in outcomes {
        let error = result.as_ref().err();
        if error.is_some_and(|error| !error.may_have_run()) {
            assert!(!ran.contains_key(number), "{number} ran, and its error says that it did not: {error:?}");
        }
        let was_hit = error.and_then(Error::worker_id).is_some_and(|worker| hit.contains(&worker));
        match kind {
            Kind::Retried => assert!(error.is_none_or(|error| error.attempts() == 4), "{error:?}"),
            _ if was_hit => {}
            Kind::Good => {
                good += 1;
                unlucky += usize::from(error.is_some());
                if let Some(error) = error {
                    println!("{number} was not hit: {error:?}");
                }
            }
            Kind::Panics => assert_eq!(error.unwrap().kind(), procpool::ErrorKind::Panicked, "{error:?}"),
            Kind::Deadly => {
                let error = error.unwrap();
                assert!(error.is_crashed() || error.is_timed_out(), "{error:?}");
            }
            Kind::Stopped => {
                assert!(error.is_none_or(|error| error.is_timed_out() || error.is_cancelled()), "{error:?}");
            }
        }
    }
    assert!(unlucky * 100 <= good, "{unlucky} of {good} good tasks failed although nobody hit their worker");
}

/// Memory has not grown by more than 1 MiB a minute since the first third of the time, or by 8 MiB in less than that.
fn slope(sizes: &[(Instant, usize)]) {
    let late = &sizes[sizes.len() / 3..];
    let (Some((begun, before)), Some((ended, after))) = (late.first(), late.last()) else { return };
    let minutes = (*ended - *begun).as_secs() as usize / 60;
    let allowed = (8 << 10) + (minutes << 10);
    assert!(
        *after < before + allowed,
        "memory has grown from {before} to {after} KiB in {:?}",
        *ended - *begun
    );
}
