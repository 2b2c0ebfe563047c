//! A tree of real schedulers: a root's pool, pools in its workers, pools in theirs, joined by links that take their time
//! and keep their order. Tasks fan out level by level, and workers are killed. A bystander counts processes and places.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::fair::Claim;
use super::hands::{Fake, Word};
use super::rng::Rng;
use super::{Bug, CATCH, Checked, ensure};
use crate::id::{TaskId, WorkerId};
use crate::sched::{Action, Config, Input, Outcome, Scheduler, Spec};
use crate::wire::frame::LeaseKind as Kind;

/// How many seeds each budget gets.
const SEEDS: u64 = 300;

pub(super) type Node = u32;

pub(super) struct Tree {
    pub(super) rng: Rng,
    pub(super) base: Instant,
    pub(super) now: Duration,
    places: u32,
    pub(super) processes: u32,
    /// How many workers a pool below may have.
    pub(super) width: u32,
    /// How many levels of tasks there are, and how many each of them starts on the level below.
    pub(super) depth: u32,
    pub(super) fan: u32,
    /// What the pools below the root's workers have and want.
    pub(super) claims: BTreeMap<WorkerId, Claim>,
    bug: Option<Bug>,
    pub(super) pools: BTreeMap<Node, Pool>,
    made: Node,
    events: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    /// How many worker processes run.
    pub(super) alive: u32,
    /// The root's tasks that are not resolved.
    pub(super) open: BTreeSet<TaskId>,
    /// How often what happened that the seeds together have to get to.
    reached: BTreeMap<&'static str, u64>,
}

/// One pool.
pub(super) struct Pool {
    pub(super) scheduler: Scheduler,
    /// The worker that it is in, and the pool of that.
    pub(super) home: Option<(Node, WorkerId)>,
    pub(super) level: u32,
    pub(super) fakes: BTreeMap<WorkerId, Fake>,
    tasks: u32,
}

pub(super) enum Event {
    Input(Node, Input),
    Word(Node, WorkerId, Word),
    /// What the worker runs has nothing more to wait for.
    Done(Node, WorkerId),
    Submit,
    Kill,
    /// A process below a dead one has died of that.
    Died,
}

impl Tree {
    fn new(seed: u64, places: u32, bug: Option<Bug>) -> Self {
        let mut rng = Rng::new(seed);
        let workers = rng.within(1..u64::from(places) + 1) as u32;
        let tight = rng.percent(40);
        let processes = if tight { workers + rng.within(1..12) as u32 } else { 64.max(8 * places) };
        let width = rng.within(1..5) as u32;
        let (depth, fan) = rng.pick(&[(3, 3), (3, 3), (3, 3), (2, 24)]);
        let tree = Self::planned(rng, [workers, places, processes], bug);
        Self { width, depth, fan, ..tree }
    }

    /// One in which every task of the root starts four others, in a pool of four.
    pub(super) fn planned(rng: Rng, [workers, places, processes]: [u32; 3], bug: Option<Bug>) -> Self {
        let config = Config { workers, places, processes, ..Config::default() };
        let mut tree = Self {
            base: Instant::now(),
            now: Duration::ZERO,
            places,
            processes,
            width: 4,
            depth: 2,
            fan: 4,
            claims: BTreeMap::new(),
            bug,
            pools: BTreeMap::new(),
            made: 0,
            events: BTreeMap::new(),
            scheduled: 0,
            alive: 0,
            open: BTreeSet::new(),
            reached: BTreeMap::new(),
            rng,
        };
        let root = tree.build(config, None, 1);
        tree.at(Duration::ZERO, Event::Input(root, Input::Start));
        tree
    }

    pub(super) fn build(&mut self, config: Config, home: Option<(Node, WorkerId)>, level: u32) -> Node {
        let mut scheduler = Scheduler::new(config);
        scheduler.bug = self.bug;
        let node = self.made;
        self.made += 1;
        self.pools.insert(node, Pool { scheduler, home, level, fakes: BTreeMap::new(), tasks: 0 });
        node
    }

    pub(super) fn at(&mut self, delay: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((self.now + delay, self.scheduled), event);
    }

    pub(super) fn soon(&mut self, most: u64, event: Event) {
        let delay = self.rng.millis(0..most) + Duration::from_micros(1);
        self.at(delay, event);
    }

    /// Lives through one job and gives what was reached on the way.
    fn run(mut self) -> Result<BTreeMap<&'static str, u64>, String> {
        for _ in 0..self.rng.within(1..7) {
            self.soon(200, Event::Submit);
        }
        for _ in 0..self.rng.pick(&[0, 0, 2, 6]) {
            self.soon(400, Event::Kill);
        }
        let end = Duration::from_secs(60);
        self.live(end, |tree| tree.open.is_empty() && tree.now > Duration::from_millis(400))?;
        ensure!(self.open.is_empty(), "{:?} never resolved: a deadlock", self.open);
        // All that was lent is idle now and comes back; the dead are mourned for a while.
        let quiet = self.now + Duration::from_secs(8);
        self.live(quiet, |_| false)?;
        let workers = self.pools[&0].fakes.len();
        let [places, processes] = self.pools[&0].scheduler.budgets();
        ensure!(places.used == 0, "{places:?} when nothing runs");
        ensure!(processes.used == workers, "{processes:?} of {workers} workers, when nothing runs");
        self.step(0, Input::Shutdown { limit: Duration::ZERO })?;
        self.live(self.now + Duration::from_secs(30), |tree| tree.alive == 0)?;
        ensure!(self.alive == 0, "{} processes are left", self.alive);
        Ok(self.reached)
    }

    pub(super) fn live(&mut self, end: Duration, done: impl Fn(&Self) -> bool) -> Checked {
        while !done(self) {
            let next = self.events.first_key_value().map(|(&(at, _), _)| at);
            let due =
                |(&node, pool): (&Node, &Pool)| Some((pool.scheduler.poll_timeout()? - self.base, node));
            let tick =
                self.pools.iter().filter_map(due).min().filter(|(at, _)| next.is_none_or(|next| *at < next));
            let at = tick.map(|(at, _)| at).or(next);
            let Some(at) = at.filter(|at| *at <= end) else {
                self.now = self.now.max(end);
                break;
            };
            self.now = self.now.max(at);
            match tick {
                Some((_, node)) => self.step(node, Input::Tick)?,
                None => {
                    if let Some((_, event)) = self.events.pop_first() {
                        self.happen(event)?;
                    }
                }
            }
            self.count()?;
        }
        Ok(())
    }

    /// What the bystander counts.
    fn count(&self) -> Checked {
        ensure!(self.alive <= self.processes, "{} of {} processes", self.alive, self.processes);
        let busy = |pool: &Pool| pool.fakes.values().filter(|fake| fake.running.is_some()).count() as u32;
        let beyond = |pool: &Pool| busy(pool).saturating_sub(1);
        let lent: u32 = self.pools.values().filter(|pool| pool.home.is_some()).map(beyond).sum();
        // The task that nests has one of the places itself.
        ensure!(lent == 0 || lent < self.places, "{lent} of {} places are lent", self.places);
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Input(node, input) => self.step(node, input),
            Event::Word(node, worker, word) => self.hear(node, worker, word),
            Event::Done(node, worker) => self.done(node, worker),
            Event::Submit => self.submit(0),
            Event::Kill => {
                let all =
                    |(&node, pool): (&Node, &Pool)| pool.fakes.keys().map(move |&id| (node, id)).collect();
                let all: Vec<_> = self.pools.iter().flat_map::<Vec<_>, _>(all).collect();
                if !all.is_empty() {
                    let (node, worker) = self.rng.pick(&all);
                    self.die(node, worker);
                }
                Ok(())
            }
            Event::Died => {
                self.alive -= 1;
                Ok(())
            }
        }
    }

    /// Submits a task to a pool.
    pub(super) fn submit(&mut self, node: Node) -> Checked {
        let Some(pool) = self.pools.get_mut(&node) else { return Ok(()) };
        pool.tasks += 1;
        let task = TaskId::new(pool.tasks, pool.tasks);
        // Noted before: it may be refused at once.
        if pool.home.is_none() {
            self.open.insert(task);
        }
        self.step(node, Input::Submit { task, spec: Spec::default() })
    }

    /// One call of a scheduler, and everything that it wants done.
    pub(super) fn step(&mut self, node: Node, input: Input) -> Checked {
        let now = self.base + self.now;
        if node == 0 {
            self.note(&input);
        }
        let Some(pool) = self.pools.get_mut(&node) else { return Ok(()) };
        pool.scheduler.handle(now, input);
        if self.bug.is_none() {
            pool.scheduler.check()?;
        }
        while let Some(action) = self.pools.get_mut(&node).and_then(|pool| pool.scheduler.poll_action()) {
            self.perform(node, action)?;
        }
        Ok(())
    }

    fn perform(&mut self, node: Node, action: Action) -> Checked {
        match action {
            Action::Lend { worker, kind: Kind::Place, n } if node == 0 => self.is_fair(worker, n)?,
            Action::Nudge { worker } if node == 0 => self.call(worker),
            _ => {}
        }
        match action {
            Action::Launch { worker } => self.launch(node, worker),
            Action::Run { worker, task, attempt, .. } => self.down(node, worker, Word::Run(task, attempt)),
            Action::Recall { worker, tasks } => self.down(node, worker, Word::Recall(tasks)),
            Action::Lend { worker, kind, n } => self.down(node, worker, Word::Granted(kind, n)),
            Action::Nudge { worker } => self.down(node, worker, Word::Nudge),
            Action::Ping { worker } => self.down(node, worker, Word::Ping),
            Action::Drain { worker } => self.down(node, worker, Word::Drain),
            Action::Ask { kind, n } => self.above(node, |worker| Input::Lease { worker, kind, n }),
            Action::Return { kind, n } => self.above(node, |worker| Input::Returned { worker, kind, n }),
            Action::Terminate { worker } | Action::Kill { worker } => self.die(node, worker),
            Action::Resolve { task, outcome } => return self.resolved(node, task, outcome),
            // A worker whose pool has ended has nothing to stay for.
            Action::Closed(_) => {
                if let Some((home, worker)) = self.pools.get(&node).and_then(|pool| pool.home) {
                    self.part(home, worker);
                }
            }
            // Tasks here take as long as they take, and nobody waits for anything else.
            _ => {}
        }
        Ok(())
    }

    fn launch(&mut self, node: Node, worker: WorkerId) {
        self.alive += 1;
        let Some(pool) = self.pools.get_mut(&node) else { return };
        if pool.home.is_some() {
            *self.reached.entry("a worker below").or_default() += 1;
            if pool.fakes.len() > 1 {
                *self.reached.entry("three workers in a pool below").or_default() += 1;
            }
        }
        pool.fakes.insert(worker, Fake::default());
        self.up(node, worker, 5, Input::Ready { worker });
        self.up(node, worker, 1, Input::Open { worker });
    }

    /// A task of a pool is resolved: whoever has submitted it goes on when that was the last one.
    fn resolved(&mut self, node: Node, task: TaskId, outcome: Outcome) -> Checked {
        if let Outcome::Failed { kind, .. } = outcome {
            *self.reached.entry("failures").or_default() += 1;
            if kind == crate::error::ErrorKind::LimitExceeded {
                *self.reached.entry("refused processes").or_default() += 1;
            }
        }
        let Some((home, worker)) = self.pools.get(&node).and_then(|pool| pool.home) else {
            ensure!(self.open.remove(&task), "{task:?} was resolved twice");
            return Ok(());
        };
        let Some(fake) = self.fake(home, worker) else { return Ok(()) };
        ensure!(fake.inner > 0, "{task:?} is resolved, and nobody waits for it");
        fake.inner -= 1;
        if fake.inner == 0 {
            self.soon(2, Event::Done(home, worker));
        }
        Ok(())
    }

    pub(super) fn fake(&mut self, node: Node, worker: WorkerId) -> Option<&mut Fake> {
        self.pools.get_mut(&node)?.fakes.get_mut(&worker)
    }
}

const BUDGETS: [u32; 4] = [1, 2, 4, 8];

#[test]
fn trees_of_pools_get_their_work_done_within_their_budgets() {
    let mut reached = BTreeMap::<_, u64>::new();
    for places in BUDGETS {
        for seed in 0..SEEDS {
            match Tree::new(seed, places, None).run() {
                Ok(run) => run.into_iter().for_each(|(what, n)| *reached.entry(what).or_default() += n),
                Err(rule) => panic!("{rule}; seed {seed} with {places} places"),
            }
        }
    }
    println!("{reached:?}");
    for what in ["a worker below", "three workers in a pool below", "failures", "refused processes"] {
        assert!(reached.get(what).is_some_and(|&n| n >= 100), "{what} is hardly ever reached");
    }
}

#[test]
fn bugs_planted_in_trees_are_caught() {
    for bug in [Bug::HoldAndWait, Bug::LeakOnDeath, Bug::LendTwice, Bug::StarveAsker] {
        let caught = (0..CATCH).find_map(|seed| {
            let places = BUDGETS[seed as usize % BUDGETS.len()];
            Some((seed, Tree::new(seed, places, Some(bug)).run().err()?))
        });
        let (seed, rule) = caught.unwrap_or_else(|| panic!("{bug:?} was not caught by {CATCH} seeds"));
        println!("{bug:?}: caught by seed {seed}: {rule}");
    }
}
