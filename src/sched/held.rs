//! What one worker holds: what it runs, as far as can be known here, what of that is to stop, and what it was sent ahead.
//! It decides nothing; that each task is in the list where it belongs is its business.
//!
//! ```text
//!  add ──a slot is free──▶ running ── halt ──▶ stopping
//!   └─────else──▶ ahead ── promote, in the order of sending ──▶ running, or stopping if it was told to stop meanwhile
//! ```

use crate::sched::clock::Time;
use crate::sched::forecast::Worth;
use crate::sched::queue::{List, Rung, Sent, Tasks};

/// The tasks of a worker. All its methods want the same table.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The first of what it was sent that it has not answered, as many as it has slots; here those that may run on.
    running: List,
    /// Those of them that are to stop.
    stopping: List,
    /// The rest, in the order of sending.
    ahead: List,
    /// What those with a slot were predicted to take.
    worth: Worth,
    /// The same of what it was sent ahead.
    worth_ahead: Worth,
}

impl Held {
    pub(super) fn len(&self) -> u32 {
        self.begun() + self.ahead.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many have a slot.
    fn begun(&self) -> u32 {
        self.running.len() + self.stopping.len()
    }

    /// Whether any that has a slot is to stop.
    pub(super) fn is_stopping(&self) -> bool {
        !self.stopping.is_empty()
    }

    /// For how long the worker is expected to be busy with what has a slot, and then with what is ahead. Those with a slot
    /// are done with one by one, so the next of what is ahead begins when one of them is.
    #[inline]
    pub(super) fn backlog(&self, slots: u32) -> Worth {
        self.worth.shared_by(slots).plus(self.worth_ahead)
    }

    pub(super) fn first(&self) -> Option<u32> {
        [self.running, self.stopping, self.ahead].iter().find_map(List::first)
    }

    /// Those that run on, those that are to stop, what was sent ahead: each in the order of sending.
    pub(super) fn iter(&self, tasks: &Tasks) -> impl Iterator<Item = u32> {
        self.running(tasks).chain(self.ahead.iter(tasks))
    }

    /// What has a slot.
    pub(super) fn running(&self, tasks: &Tasks) -> impl Iterator<Item = u32> {
        self.running.iter(tasks).chain(self.stopping.iter(tasks))
    }

    pub(super) fn ahead(&self, tasks: &Tasks) -> impl Iterator<Item = u32> {
        self.ahead.iter(tasks)
    }

    /// Whether anything that has a slot was not told to stop, or still has its grace: the last to be told has it longest.
    pub(super) fn has_grace(&self, tasks: &Tasks) -> bool {
        !self.running.is_empty() || self.stopping.back(tasks).any(|index| is_on(tasks, index, Rung::Asked))
    }

    /// Whether anything did not stop within its grace, and the worker was not yet sent SIGTERM for it.
    pub(super) fn is_overdue(&self, tasks: &Tasks) -> bool {
        self.stopping
            .iter(tasks)
            .chain(self.ahead.iter(tasks))
            .any(|index| is_on(tasks, index, Rung::Overdue))
    }

    /// Adds a task that is sent now. Whether there is a slot for it.
    #[inline]
    pub(super) fn add(&mut self, tasks: &mut Tasks, index: u32, slots: u32, now: Time) -> bool {
        let begun = self.begun() < slots;
        let Some(sent) = tasks.at_mut(index).and_then(|task| task.sent.as_mut()) else { return false };
        sent.begun = begun.then_some(now);
        if begun {
            self.worth = self.worth.plus(sent.worth);
            self.running.push_back(tasks, index);
        } else {
            self.worth_ahead = self.worth_ahead.plus(sent.worth);
            self.ahead.push_back(tasks, index);
        }
        begun
    }

    /// Gives the first of what is ahead a slot, if there is one.
    #[inline]
    pub(super) fn promote(&mut self, tasks: &mut Tasks, slots: u32, now: Time) -> Option<u32> {
        if self.begun() >= slots {
            return None;
        }
        let index = self.ahead.pop_front(tasks)?;
        let sent = tasks.at_mut(index)?.sent.as_mut()?;
        sent.begun = Some(now);
        self.worth = self.worth.plus(sent.worth);
        self.worth_ahead = self.worth_ahead.less(sent.worth);
        if sent.stop.is_some() { &mut self.stopping } else { &mut self.running }.push_back(tasks, index);
        Some(index)
    }

    /// A task is about to be told to stop. Whether it has a slot.
    pub(super) fn halt(&mut self, tasks: &mut Tasks, index: u32) -> bool {
        let begun = sent(tasks, index).is_some_and(|sent| sent.begun.is_some());
        if begun {
            self.running.unlink(tasks, index);
            self.stopping.push_back(tasks, index);
        }
        begun
    }

    /// Takes out a task that is here.
    #[inline]
    pub(super) fn remove(&mut self, tasks: &mut Tasks, index: u32) {
        let Some(Sent { begun, worth, stop, .. }) = sent(tasks, index) else { return };
        let worth = *worth;
        let (list, sum) = match (begun.is_some(), stop) {
            (true, None) => (&mut self.running, &mut self.worth),
            (true, Some(_)) => (&mut self.stopping, &mut self.worth),
            (false, _) => (&mut self.ahead, &mut self.worth_ahead),
        };
        *sum = sum.less(worth);
        list.unlink(tasks, index);
    }

    /// Takes out the first.
    pub(super) fn pop_front(&mut self, tasks: &mut Tasks) -> Option<u32> {
        let index = self.first()?;
        self.remove(tasks, index);
        Some(index)
    }

    /// Whether each task is where it belongs.
    #[cfg(test)]
    pub(super) fn check(&self, tasks: &Tasks, slots: u32) -> bool {
        let all = |list: List, is: fn(&Sent) -> bool| {
            let sent: Option<Vec<_>> = list.iter(tasks).map(|index| sent(tasks, index)).collect();
            sent.filter(|sent| sent.iter().all(|sent| is(sent)))
        };
        let sum = |list: &[&Sent]| list.iter().fold(Worth::default(), |sum, sent| sum.plus(sent.worth));
        let (Some(running), Some(stopping), Some(ahead)) = (
            all(self.running, |sent| sent.begun.is_some() && sent.stop.is_none()),
            all(self.stopping, |sent| sent.begun.is_some() && sent.stop.is_some()),
            all(self.ahead, |sent| sent.begun.is_none()),
        ) else {
            return false;
        };
        let last = running.iter().chain(&stopping).map(|sent| sent.sequence).max();
        let in_order = ahead.is_sorted_by_key(|sent| sent.sequence)
            && ahead.first().is_none_or(|first| Some(first.sequence) > last);
        let full = self.begun() == slots || self.begun() < slots && ahead.is_empty();
        let worth = sum(&running).plus(sum(&stopping)) == self.worth && sum(&ahead) == self.worth_ahead;
        in_order && full && worth
    }
}

fn is_on(tasks: &Tasks, index: u32, rung: Rung) -> bool {
    sent(tasks, index).and_then(|sent| sent.stop.as_ref()).is_some_and(|stop| stop.rung == rung)
}

fn sent(tasks: &Tasks, index: u32) -> Option<&Sent> {
    tasks.at(index)?.sent.as_deref()
}
