//! Who gets the places that come back: the bystander's idea of fairness among the pools below the root's workers.

use std::cell::Cell;
use std::time::Duration;

use super::rng::Rng;
use super::tree::{Event, Tree};
use super::{Checked, ensure};
use crate::id::WorkerId;
use crate::sched::Input;
use crate::wire::frame::LeaseKind as Kind;

/// For how long a pool may be refused before it is somebody's fault.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the pool below a worker of the root has and wants.
#[derive(Default)]
pub(super) struct Claim {
    lent: u32,
    /// Since when it has been refused, and the last time.
    since: Option<Duration>,
    refused: Duration,
    /// When it was last told that there may be a place.
    called: Option<Duration>,
}

impl Tree {
    /// The root hears something.
    pub(super) fn note(&mut self, input: &Input) {
        match input {
            Input::Returned { worker, kind: Kind::Place, n } => {
                self.claims.entry(*worker).and_modify(|claim| claim.lent -= n);
            }
            Input::Lost { worker, .. } => _ = self.claims.remove(worker),
            _ => {}
        }
    }

    pub(super) fn call(&mut self, worker: WorkerId) {
        self.claims.entry(worker).or_default().called = Some(self.now);
    }

    /// Judges an answer of the root: nobody is lent another place while somebody with fewer has long been refused.
    pub(super) fn is_fair(&mut self, worker: WorkerId, n: u32) -> Checked {
        let now = self.now;
        let mine = self.claims.entry(worker).or_default().lent;
        let waits = |claim: &Claim| {
            let long = claim.since.is_some_and(|since| now - since > PATIENCE);
            // Whoever was told that there is a place is about to ask, or does not want it.
            long && claim.lent < mine && claim.called.is_none_or(|at| at < claim.refused)
        };
        let passed = self.claims.iter().find(|(other, claim)| waits(claim) && self.wants(**other));
        ensure!(
            n == 0 || passed.is_none(),
            "{worker:?} is lent another place beside {mine}, {:?} waits",
            passed.map(|(other, _)| other)
        );
        let claim = self.claims.entry(worker).or_default();
        claim.lent += n;
        match n {
            0 => (claim.since, claim.refused) = (claim.since.or(Some(now)), now),
            _ => claim.since = None,
        }
        Ok(())
    }

    /// Whether the pool below this worker can use another place, and does not lack anything else.
    fn wants(&self, worker: WorkerId) -> bool {
        let below = self.pools[&0].fakes.get(&worker).and_then(|fake| self.pools.get(&fake.below?));
        let scarce = self.processes < 64;
        below.is_some_and(|pool| {
            let stats = pool.scheduler.stats(self.base + self.now);
            !scarce && stats.queued > 0 && stats.workers.len() < self.width as usize
        })
    }

    /// How many workers of the pools below run something.
    fn busy(&self) -> u32 {
        let below = self.pools.values().filter(|pool| pool.home.is_some());
        below.flat_map(|pool| pool.fakes.values()).filter(|fake| fake.running.is_some()).count() as u32
    }
}

/// A root with eight workers and places, whose tasks start a hundred others each.
fn crowd(tasks: u32) -> Tree {
    let mut tree = Tree::planned(Rng::new(7), [8, 8, 80], None);
    (tree.width, tree.fan) = (8, 100);
    (0..tasks).for_each(|_| tree.at(Duration::from_millis(20), Event::Submit));
    tree
}

#[test]
fn one_task_that_fans_out_has_the_whole_budget() {
    let mut tree = crowd(1);
    // For how long how many worked while more waited, once they had started.
    let (last, time, work) = (Cell::new(Duration::ZERO), Cell::new(0.0), Cell::new(0.0));
    let measure = |tree: &Tree| {
        let queued = tree.pools.get(&1).map_or(0, |pool| pool.scheduler.stats(tree.base + tree.now).queued);
        let passed = (tree.now - last.replace(tree.now)).as_secs_f64();
        if queued > 0 && tree.now > Duration::from_millis(60) {
            time.set(time.get() + passed);
            work.set(work.get() + passed * f64::from(tree.busy()));
        }
        tree.now > Duration::from_millis(20) && tree.open.is_empty()
    };
    tree.live(Duration::from_secs(10), measure).unwrap();
    assert!(tree.open.is_empty() && time.get() > 0.05, "{time:?}");
    assert!(work.get() / time.get() >= 7.0, "{} work", work.get() / time.get());
}

#[test]
fn of_eight_tasks_that_fan_out_none_starves() {
    let mut tree = crowd(8);
    let done = |tree: &Tree| tree.now > Duration::from_millis(20) && tree.open.is_empty();
    // What one worker alone takes for its hundred.
    tree.live(Duration::from_millis(2500), done).unwrap();
    assert!(tree.open.is_empty(), "{:?} have not ended", tree.open);
}

#[test]
fn a_task_that_comes_while_all_places_are_lent_begins_at_once() {
    let mut tree = crowd(1);
    let lent = |tree: &Tree| tree.busy() == 8;
    tree.live(Duration::from_secs(1), lent).unwrap();
    assert_eq!(tree.busy(), 8);
    let begun = |tree: &Tree| tree.pools[&0].fakes.values().filter(|fake| fake.running.is_some()).count();
    assert_eq!(begun(&tree), 1);
    tree.at(Duration::ZERO, Event::Submit);
    // As long as a frame takes.
    let end = tree.now + Duration::from_millis(1);
    tree.live(end, |tree| begun(tree) == 2).unwrap();
    assert_eq!(begun(&tree), 2);
}
