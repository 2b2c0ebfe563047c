//! The simulator: the real scheduler in a made-up world, judged by a bystander after every call. It is the proof of the
//! room's invariants; what single rules mean is shown in `tests`.
//!
//! ```text
//!  plan  ── what a seed stands for           model ── what a bystander knows
//!  rng   ── one seed, one sequence           judge ── what he demands of every action, and after every call
//!  world ── time, users, the driver          order ── whose turn it is
//!  fakes ── workers, good and bad            time  ── when a task's time is over
//!  flow  ── streams, on both sides           grace ── who is to be spared when a worker has to go
//!                                            line  ── how full the queue is, and who waits before it
//!                                            notices ── what those who listen must be told
//!                                            again ── who is tried again, and where
//!                                            seats ── what became of those who have gone
//!                                            sizes ── how many workers there may be, and who goes
//!                                            want  ── when refused launches may count
//!                                            check ── what the tables must agree on
//!                                            tree  ── many schedulers, as pools within pools
//!                                            hands ── the workers there
//!                                            fair  ── who gets the places that come back there
//! ```
//!
//! A failure prints its seed. `PROCPOOL_SEED=… cargo test --lib sched::sim::every -- --nocapture` lives through that one
//! again and prints every input and action; `PROCPOOL_FULL=1` takes four times as many seeds, 2 twice that, and so on;
//! `PROCPOOL_PLANT=… cargo test --lib sched::sim::planted -- --nocapture` shows one planted bug being caught.

mod again;
mod check;
mod fair;
mod fakes;
mod flow;
mod grace;
mod hands;
mod judge;
mod line;
mod model;
mod notices;
mod order;
mod plan;
pub(super) mod rng;
mod seats;
mod sizes;
mod time;
mod tree;
mod want;
mod world;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, thread};

use world::World;

/// What a check says: nothing, or which rule was broken.
type Checked = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($message:tt)*) => {
        if !$holds {
            return Err(format!($($message)*));
        }
    };
}
use ensure;

/// A bug that can be planted in the real scheduler. Judged by the model alone, each has to be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sched) enum Bug {
    /// Every 16th answer is handed over twice.
    DoubleResolve,
    /// What a lost worker had not begun is not put back.
    ForgetLost,
    /// What a lost worker had begun is put back.
    RerunBegun,
    /// What a lost worker had not begun is put back last.
    RequeueLast,
    /// A worker that was told to go gets tasks.
    FeedLeaving,
    /// After SIGTERM nothing more is due.
    ForgetRung,
    /// An answer counts whatever its attempt.
    AcceptStale,
    /// Closed is closed, whoever is still being started.
    ForgetStarting,
    /// Seats are filled again at once, always.
    NoBackOff,
    /// Time counts although this process did not run.
    CountStops,
    /// What was given back is put back last.
    ReturnLast,
    /// What runs is asked for too.
    RecallRunning,
    /// What waits behind a slow task stays there.
    NeverRecall,
    /// A task that waits is forgotten by its deadline.
    IgnoreDeadline,
    /// A timeout counts from the sending, whether or not the task can have begun.
    TimeAhead,
    /// One caller's turn does not end.
    StarveLane,
    /// A worker goes for one task that does not stop, whoever else is on it.
    HurtNeighbours,
    /// A worker with a task that does not stop gets others.
    FeedQuarantined,
    /// The queue has a place for everybody.
    OverFill,
    /// Who comes takes the place that others wait for.
    JumpLine,
    /// The line moves only when the queue is empty.
    ForgetLine,
    /// A launch that is refused for want of something is a failed start at once.
    CountWant,
    /// A start that need not be tried again is tried again.
    TryFutile,
    /// The end of a worker that held what it had not begun is not told.
    HideLoss,
    /// Nobody who was sent a signal is counted.
    HideKill,
    /// Recovery is not told.
    StayWeak,
    /// Retries are not counted.
    RetryForever,
    /// What was to stop is tried again.
    RetryStopped,
    /// What has died with its worker is tried again among the others.
    TrustSuspect,
    /// What is to run alone is sent to whoever is open.
    ReuseWorker,
    /// Nobody sees to it that there will be another fresh worker.
    ForgetAlone,
    /// A busy worker stays although the pool was made smaller.
    KeepBusy,
    /// A worker that is to go gets tasks.
    FeedRetired,
    /// A worker gets more tasks than it may.
    OverGive,
    /// Nobody follows a worker that has had its time.
    ForgetSuccessor,
    /// What waits does not bring more workers.
    NeverGrow,
    /// Idle workers go although they are needed.
    IdleToNone,
    /// What was read is granted twice.
    GrantTwice,
    /// Nothing is granted any more after the first time.
    ForgetGrant,
    /// An item that there is no credit for is delivered.
    IgnoreCredit,
    /// An item is delivered although its stream has ended.
    DeliverGhost,
    /// Some items are paid for and not delivered.
    SwallowItem,
    /// A stream is begun again although items came, if its worker's remains say that it had not begun.
    RerunStream,
    /// A stream is tried again although items came.
    RetryStream,
    /// Nobody sees that there is room where many answers came from.
    ForgetRoom,
    /// What is sent behind others has no limits.
    TimelessLimit,
    /// The first worker of a pool below waits for a place, and tasks for a process.
    HoldAndWait,
    /// What a dead worker's pool was lent is forgotten.
    LeakOnDeath,
    /// What is lent can be lent again.
    LendTwice,
    /// What comes back goes to whoever has most.
    StarveAsker,
}

const BUGS: [(&str, Bug); 46] = [
    ("double-resolve", Bug::DoubleResolve),
    ("forget-lost", Bug::ForgetLost),
    ("rerun-begun", Bug::RerunBegun),
    ("requeue-last", Bug::RequeueLast),
    ("feed-leaving", Bug::FeedLeaving),
    ("forget-rung", Bug::ForgetRung),
    ("accept-stale", Bug::AcceptStale),
    ("forget-starting", Bug::ForgetStarting),
    ("no-back-off", Bug::NoBackOff),
    ("count-stops", Bug::CountStops),
    ("return-last", Bug::ReturnLast),
    ("recall-running", Bug::RecallRunning),
    ("never-recall", Bug::NeverRecall),
    ("ignore-deadline", Bug::IgnoreDeadline),
    ("time-ahead", Bug::TimeAhead),
    ("starve-lane", Bug::StarveLane),
    ("hurt-neighbours", Bug::HurtNeighbours),
    ("feed-quarantined", Bug::FeedQuarantined),
    ("over-fill", Bug::OverFill),
    ("jump-line", Bug::JumpLine),
    ("forget-line", Bug::ForgetLine),
    ("count-want", Bug::CountWant),
    ("try-futile", Bug::TryFutile),
    ("hide-loss", Bug::HideLoss),
    ("hide-kill", Bug::HideKill),
    ("stay-weak", Bug::StayWeak),
    ("retry-forever", Bug::RetryForever),
    ("retry-stopped", Bug::RetryStopped),
    ("trust-suspect", Bug::TrustSuspect),
    ("reuse-worker", Bug::ReuseWorker),
    ("forget-alone", Bug::ForgetAlone),
    ("keep-busy", Bug::KeepBusy),
    ("feed-retired", Bug::FeedRetired),
    ("over-give", Bug::OverGive),
    ("forget-successor", Bug::ForgetSuccessor),
    ("never-grow", Bug::NeverGrow),
    ("idle-to-none", Bug::IdleToNone),
    ("grant-twice", Bug::GrantTwice),
    ("forget-grant", Bug::ForgetGrant),
    ("ignore-credit", Bug::IgnoreCredit),
    ("deliver-ghost", Bug::DeliverGhost),
    ("swallow-item", Bug::SwallowItem),
    ("rerun-stream", Bug::RerunStream),
    ("retry-stream", Bug::RetryStream),
    ("forget-room", Bug::ForgetRoom),
    ("timeless-limit", Bug::TimelessLimit),
];

/// How many fixed seeds, and how many that change with every commit.
const SEEDS: u64 = 2000;

/// What the seeds together have to get to, at least 20 times each.
const REACHED: [&str; 46] = [
    "Abandon",
    "Behind",
    "Burst",
    "Cancel",
    "Closed",
    "Credit",
    "Deliver",
    "Drain",
    "Failed Cancelled",
    "Failed Cancelled, perhaps run",
    "Failed Closed",
    "Failed Closed, perhaps run",
    "Failed Collateral, perhaps run",
    "Failed Crashed, perhaps run",
    "Failed Launch",
    "Failed Overloaded",
    "Failed Protocol, perhaps run",
    "Failed TimedOut",
    "Failed TimedOut, perhaps run",
    "Failed Unresponsive, perhaps run",
    "Grant",
    "Kill",
    "Launch",
    "Ping",
    "Recall",
    "Run again",
    "Started false",
    "Started true",
    "Tell Full",
    "Tell Leaving Age",
    "Tell Leaving Idle",
    "Tell Leaving Memory",
    "Tell Leaving Surplus",
    "Tell Leaving Tasks",
    "Tell Left Age",
    "Tell Left Closing",
    "Tell Left Idle",
    "Tell Left Memory",
    "Tell Left Stopped",
    "Tell Left Surplus",
    "Tell Left Tasks",
    "Tell Lost",
    "Tell None",
    "Tell Unstarted",
    "Tell Weak",
    "Terminate",
];

/// Within how many seeds a planted bug has to be caught.
const CATCH: u64 = 200;

/// The same for everybody, and others after every commit: these find what those have got used to.
fn seeds() -> Vec<u64> {
    let full = env::var("PROCPOOL_FULL").ok().and_then(|times| times.parse::<u64>().ok());
    let count = full.map_or(SEEDS, |times| 4 * SEEDS * times);
    let mut seeds: Vec<u64> = (0..count).collect();
    let git =
        Command::new("git").args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let head = git.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    if let Some(head) = head.and_then(|head| u64::from_str_radix(head.get(..16)?, 16).ok()) {
        let mut rng = rng::Rng::new(head);
        seeds.extend((0..count).map(|_| rng.next()));
    }
    seeds
}

/// Lives through one seed. Tables that a bug has torn may make the scheduler panic.
fn live(seed: u64, bug: Option<Bug>) -> Result<world::Life, String> {
    let lived = std::panic::catch_unwind(|| World::new(seed, bug, false).run());
    lived.unwrap_or_else(|_| Err("a panic".to_owned()))
}

/// What many runs were like.
#[derive(Default)]
struct Lives {
    steps: u64,
    done: BTreeMap<String, u64>,
    /// Which seeds broke which rule.
    broken: Vec<String>,
}

impl Lives {
    /// Lives through what is next of the seeds, until none is left.
    fn new(seeds: &[u64], next: &AtomicUsize) -> Self {
        let mut lives = Self::default();
        while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            match live(seed, None) {
                Ok(life) => lives.add(life.steps, life.done),
                Err(rule) => lives.broken.push(format!("PROCPOOL_SEED={seed}: {rule}")),
            }
        }
        lives
    }

    fn add(&mut self, steps: u64, done: BTreeMap<String, u64>) {
        self.steps += steps;
        done.into_iter().for_each(|(kind, count)| *self.done.entry(kind).or_default() += count);
    }
}

#[test]
fn every_rule_holds_for_every_seed() {
    if let Some(seed) = env::var("PROCPOOL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return World::new(seed, None, true).run().map(drop).unwrap();
    }
    let (seeds, next) = (seeds(), AtomicUsize::new(0));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let lives = thread::scope(|scope| {
        let lives: Vec<_> = (0..threads).map(|_| scope.spawn(|| Lives::new(&seeds, &next))).collect();
        lives.into_iter().fold(Lives::default(), |mut all, lives| {
            let Lives { steps, done, broken } = lives.join().unwrap();
            all.add(steps, done);
            all.broken.extend(broken);
            all
        })
    });
    let Lives { steps, done, broken } = lives;
    assert!(broken.is_empty(), "live through them again: {broken:#?}");
    println!("{steps} steps: {done:?}");
    // A simulation that no longer gets somewhere proves nothing about it.
    for kind in REACHED {
        assert!(done.get(kind).is_some_and(|&count| count >= 20), "{kind} is hardly ever reached");
    }
}

#[test]
fn one_seed_is_one_trace() {
    for seed in 0..20 {
        let [once, again] = [(); 2].map(|()| World::new(seed, None, false).run().unwrap());
        assert_eq!(once, again, "seed {seed}");
    }
    assert_ne!(World::new(0, None, false).run(), World::new(1, None, false).run());
}

#[test]
fn planted_bugs_are_caught() {
    let wanted = env::var("PROCPOOL_PLANT").ok();
    let known = |name: &String| BUGS.iter().any(|(bug, _)| bug == name);
    assert!(wanted.as_ref().is_none_or(known), "there are {:?}", BUGS.map(|(name, _)| name));
    for (name, bug) in BUGS {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let caught = (0..CATCH).find_map(|seed| Some((seed, live(seed, Some(bug)).err()?)));
        let (seed, rule) = caught.unwrap_or_else(|| panic!("{name} was not caught by {CATCH} seeds"));
        println!("{name}: caught by seed {seed}: {rule}");
    }
}
