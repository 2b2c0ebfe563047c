//! How many workers there may be, and which of them go: the bystander's idea of sizes, ages and successors.

use super::judge::TICK;
use super::model::{Known, Model};
use super::time::Since;
use super::{Checked, ensure};
use crate::event::Leave;
use crate::id::WorkerId;
use crate::sched::Config;

/// How many workers the pool is to have.
pub(super) struct Sizes {
    pub(super) least: u32,
    pub(super) most: u32,
    /// The largest size that it was ever to have, and the most workers that there were.
    pub(super) widest: u32,
    peak: u64,
    /// Whether the size was set in this call.
    resizing: bool,
    /// Since when tasks wait although nobody is idle and there could be more workers.
    pressed: Option<Since>,
    /// Since when there are more workers than there have to be.
    surplus: Option<Since>,
}

impl Sizes {
    pub(super) fn new(config: &Config) -> Self {
        let most = config.most_workers.max(config.workers).max(1);
        Self {
            least: config.workers,
            most,
            widest: most,
            peak: 0,
            resizing: false,
            pressed: None,
            surplus: None,
        }
    }

    /// How many places there can ever have been: those that are wanted, and those whose worker has not gone yet.
    pub(super) fn seats(&self) -> u64 {
        u64::from(self.widest) + self.peak
    }
}

impl Model {
    pub(super) fn resized(&mut self, least: u32, most: u32) {
        if self.closing.is_none() {
            let sizes = &mut self.sizes;
            (sizes.least, sizes.most, sizes.resizing) = (least, most.max(least).max(1), true);
            sizes.widest = sizes.widest.max(sizes.most);
        }
    }

    pub(super) fn weighed(&mut self, worker: WorkerId, bytes: u64) {
        let limit = self.config.most_memory;
        if let Some(known) = self.workers.get_mut(&worker) {
            known.heavy |= bytes > limit && known.useful;
        }
    }

    /// Whether a worker may be given another task, were there room.
    pub(super) fn can_take(&self, known: &Known) -> bool {
        known.takes_tasks() && known.given < self.config.most_tasks
    }

    fn is_old(&self, known: &Known) -> bool {
        let limit = self.config.most_age;
        known.opened.is_some_and(|opened| limit.is_some_and(|limit| self.now - opened >= limit))
    }

    /// How many workers there are that others may already have been started for.
    pub(super) fn spent(&self) -> usize {
        let spent = |known: &&Known| known.used_up || known.heavy || self.is_old(known);
        self.workers.values().filter(|known| known.retired.is_none()).filter(spent).count()
    }

    /// How many workers there are of which nothing says that they go.
    pub(super) fn staying(&self) -> usize {
        let starting =
            |known: &Known| known.opened.is_none() && known.retired.is_none() && known.is_reachable();
        self.workers.values().filter(|known| starting(known) || known.is_open()).count()
    }

    fn taking(&self) -> usize {
        self.workers.values().filter(|known| known.is_open()).count()
    }

    /// Judges whether there may be another worker.
    pub(super) fn may_launch(&mut self, worker: WorkerId) -> Checked {
        self.sizes.peak = self.sizes.peak.max(self.workers.len() as u64 + 1);
        ensure!(u64::from(worker.index) < self.sizes.seats(), "{worker:?} has no seat");
        let staying = self.staying();
        let most = self.sizes.most as usize + self.spent();
        ensure!(staying < most, "{worker:?} is launched although there are {staying} of {most}");
        Ok(())
    }

    /// Judges that a worker is to go.
    pub(super) fn leaves(&mut self, worker: WorkerId, reason: Leave) -> Checked {
        let known = self.workers.get(&worker).ok_or("a stranger is to go")?;
        ensure!(known.retired.is_none() && !known.drained, "{worker:?} is to go again");
        let others = self.taking() - usize::from(known.is_open());
        let idle = known.held.is_empty().then(|| self.now - known.heard.at);
        let right = match reason {
            Leave::Surplus => {
                self.sizes.resizing && (known.opened.is_none() || others >= self.sizes.least as usize)
            }
            Leave::Idle => idle >= self.config.idle && others >= self.sizes.least as usize,
            Leave::Tasks => known.used_up,
            Leave::Replaced => !self.alone().is_empty(),
            Leave::Age => self.is_old(known) && others >= self.sizes.least as usize,
            Leave::Memory => known.heavy && others >= self.sizes.least as usize,
            _ => false,
        };
        ensure!(right, "{worker:?} is to go, {reason:?}, with {others} others, idle for {idle:?}");
        if let Some(known) = self.workers.get_mut(&worker) {
            known.retired = Some(reason);
        }
        Ok(())
    }

    /// The pool has the size that it should have.
    pub(super) fn is_of_size(&mut self) -> Checked {
        self.sizes.resizing = false;
        if self.closing.is_some() {
            return Ok(());
        }
        let (taking, most) = (self.taking(), self.sizes.most as usize);
        ensure!(taking <= most, "{taking} take tasks, of at most {most}");
        self.compare_pressure()?;
        self.compare_idle()
    }

    /// What waits brings more workers, if there may be more and starting them is no problem.
    fn compare_pressure(&mut self) -> Checked {
        let slots = self.config.slots as usize;
        // What was sent to one in quarantine comes back when that ends, and waits then.
        let ahead = |(worker, known): (&WorkerId, &Known)| {
            known.takes_tasks() && known.held.len() > slots && !self.may_be_shut(*worker)
        };
        let waits = !self.waiting.is_empty() || self.workers.iter().any(ahead);
        let idle = self.workers.values().any(|known| self.can_take(known) && known.held.len() < slots);
        // The place of one that is replaced is not free before it has gone.
        let stays = |known: &&Known| known.retired.is_none_or(|reason| reason == Leave::Replaced);
        let staying = self.workers.values().filter(stays).count();
        let starting = self.workers.values().any(|known| known.opened.is_none());
        let more = staying < self.sizes.most as usize && self.sizes.least < self.sizes.most && !starting;
        let pressed = waits && !idle && more && self.failures == 0 && self.is_strong();
        let since = self.since();
        self.sizes.pressed = self.sizes.pressed.filter(|_| pressed).or_else(|| pressed.then_some(since));
        let age = self.sizes.pressed.map(|begun| self.age(begun));
        ensure!(age.is_none_or(|age| age <= TICK), "tasks wait, {staying} workers get no help");
        Ok(())
    }

    /// Who is not needed and has nothing to do goes.
    fn compare_idle(&mut self) -> Checked {
        let Some(limit) = self.config.idle else { return Ok(()) };
        let Sizes { least, most, .. } = self.sizes;
        let more = self.taking() > least as usize && least < most && self.failures == 0 && self.spent() == 0;
        let since = self.since();
        self.sizes.surplus = self.sizes.surplus.filter(|_| more).or_else(|| more.then_some(since));
        let Some(surplus) = self.sizes.surplus else { return Ok(()) };
        let idles = |known: &&Known| known.takes_tasks() && known.held.is_empty();
        for known in self.workers.values().filter(idles) {
            let idle = self.age(known.heard).min(self.age(surplus));
            ensure!(idle <= 2 * limit + TICK, "a worker idles for {idle:?}");
        }
        Ok(())
    }
}
