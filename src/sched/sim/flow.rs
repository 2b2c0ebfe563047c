//! Streams on both sides: what a bystander counts, producers that keep to their credit or not, consumers that read when
//! they like.

use std::time::Duration;

use super::fakes::Deed;
use super::model::{Held, Known, Model, Record, State};
use super::world::{Event, World};
use super::{Checked, ensure};
use crate::error::ErrorKind;
use crate::id::{TaskId, WorkerId};
use crate::sched::Input;
use crate::wire::credit::{FIRST, MOST};

/// What a bystander counts of one attempt at a stream.
#[derive(Clone, Copy, Default)]
pub(super) struct Account {
    /// Credit that was granted, beside what a stream begins with.
    granted: u64,
    spent: u64,
    read: u64,
}

impl Account {
    fn given(&self) -> u64 {
        self.granted + u64::from(FIRST)
    }

    pub(super) fn has_begun(&self) -> bool {
        self.spent > 0
    }
}

impl Model {
    /// An item is due for delivery if its stream can pay for it, and a violation otherwise.
    pub(super) fn emitted(
        &mut self,
        worker: WorkerId,
        known: &mut Known,
        (task, attempt): (TaskId, u32),
        cost: u32,
    ) {
        if let Some(Record { attempts, begun, spec, state: State::On(held), .. }) = self.tasks.get_mut(&task)
            && held.worker == worker
            && *attempts == attempt
            && spec.stream
            && held.account.spent < held.account.given()
        {
            held.account.spent += u64::from(cost);
            *begun = true;
            self.due = Some(task);
        } else {
            known.violated = true;
        }
    }

    pub(super) fn has_read(&mut self, task: TaskId, cost: u32) {
        if let Some(Record { state: State::On(held), .. }) = self.tasks.get_mut(&task) {
            held.account.read += u64::from(cost);
        }
    }

    pub(super) fn deliver(&mut self, task: TaskId) -> Checked {
        ensure!(self.due.take() == Some(task), "{task:?} is delivered an item that is not its next");
        Ok(())
    }

    /// Judges a grant: not in vain, and never so much that more than a window could be out or unread. The window doubles,
    /// at most, each time that half of it has been read.
    pub(super) fn endow(&mut self, worker: WorkerId, task: TaskId, credit: u32) -> Checked {
        let (reachable, now) = (self.workers.get(&worker).is_some_and(Known::is_reachable), self.now);
        let Some(Record { state: State::On(held), .. }) = self.tasks.get_mut(&task) else {
            return Err(format!("{task:?} is granted credit where it is not"));
        };
        ensure!(held.worker == worker && reachable, "{worker:?} cannot use the credit of {task:?}");
        // What the input set off comes before what the time does.
        let stops = held.stop.is_some_and(|(kind, since)| kind != ErrorKind::TimedOut || since.at < now);
        ensure!(!stops, "{task:?} is to stop, and gets credit");
        held.account.granted += u64::from(credit);
        let account = held.account;
        let most = (u64::from(FIRST) + 2 * account.read).min(MOST.into());
        ensure!(account.given() - account.read <= most, "{task:?} may send too much ahead");
        Ok(())
    }

    /// What must be true of streams between calls.
    pub(super) fn flows(&self) -> Checked {
        ensure!(self.due.is_none(), "an item of {:?} is lost", self.due);
        for (task, record) in self.tasks.iter().filter(|(_, record)| record.spec.stream) {
            let State::On(Held { worker, account, stop: None, .. }) = &record.state else { continue };
            let stalled = account.read >= account.spent && account.spent >= account.given();
            let reachable = self.workers.get(worker).is_some_and(Known::is_reachable);
            ensure!(!stalled || !reachable, "everything of {task:?} is read, yet it has no credit");
        }
        Ok(())
    }
}

/// What a fake worker still has to send of a stream.
#[derive(Clone, Copy)]
pub(super) struct Source {
    left: u64,
    pub(super) credit: i64,
    /// Whether it waits for credit.
    waits: bool,
}

impl World {
    /// How long a stream will be.
    pub(super) fn source(&mut self) -> Source {
        let left = self.rng.pick(&[0, 1, 5, 20, 100]);
        Source { left, credit: FIRST.into(), waits: false }
    }

    /// Sends what is next, or all that is next, as far as there is credit for it; ends the stream.
    pub(super) fn emit(&mut self, worker: WorkerId, sequence: u64) -> Checked {
        let most = self.rng.pick(&[1, 1, 8]);
        for _ in 0..most {
            let cost = self.rng.pick(&[1, 1, 2, 9, 40, 300, 5000]);
            let Some(fake) = self.fakes.get_mut(&worker).filter(|fake| !fake.silent) else { return Ok(()) };
            let held = fake.held.iter_mut().find(|held| held.sequence == sequence);
            let Some((task, attempt, source)) = held.and_then(|held| held.parts()) else { return Ok(()) };
            if source.left == 0 {
                self.soon(2, worker, Deed::Answer(sequence, crate::sched::Answer::Finished));
                return Ok(());
            }
            source.waits = source.credit <= 0;
            if source.waits {
                return Ok(());
            }
            source.left -= 1;
            source.credit -= i64::from(cost);
            self.feed(Input::Item { worker, task, attempt, cost })?;
        }
        self.soon(3, worker, Deed::Emit(sequence));
        Ok(())
    }

    /// A producer is granted credit.
    pub(super) fn earn(&mut self, worker: WorkerId, task: TaskId, credit: u32) {
        let Some(fake) = self.fakes.get_mut(&worker) else { return };
        let Some(held) = fake.held.iter_mut().find(|held| held.task == task) else { return };
        let sequence = held.sequence;
        let Some((_, _, source)) = held.parts() else { return };
        source.credit += i64::from(credit);
        if std::mem::take(&mut source.waits) {
            self.soon(2, worker, Deed::Emit(sequence));
        }
    }

    /// Sends more than it may, or what is no stream's.
    pub(super) fn flood(&mut self, worker: WorkerId, sequence: u64) -> Checked {
        for _ in 0..2 {
            let Some(fake) = self.fakes.get_mut(&worker) else { return Ok(()) };
            let held = fake.held.iter_mut().find(|held| held.sequence == sequence);
            let Some((task, attempt, credit)) = held.map(|held| held.purse()) else { return Ok(()) };
            self.feed(Input::Item { worker, task, attempt, cost: credit })?;
        }
        Ok(())
    }

    /// An item has come to a consumer, who may be slow.
    pub(super) fn arrived(&mut self, task: TaskId, cost: u32) {
        let unread = self.unread.entry(task).or_default();
        unread.push_back(cost);
        if unread.len() == 1 {
            self.read_later(task);
        }
    }

    fn read_later(&mut self, task: TaskId) {
        let most = self.rng.pick(&[1, 1, 20, 600]);
        let at = self.model.now + self.rng.millis(0..most) + Duration::from_micros(1);
        self.at(at, Event::Read(task));
    }

    /// A consumer reads some of what has come. The driver may also say so of a stream that is over.
    pub(super) fn consume(&mut self, task: TaskId) -> Checked {
        let many = self.rng.pick(&[1, 3, 1000]);
        let Some(unread) = self.unread.get_mut(&task) else {
            return if self.rng.percent(10) { self.feed(Input::Read { task, cost: 1 }) } else { Ok(()) };
        };
        let cost = unread.drain(..unread.len().min(many)).sum();
        if !unread.is_empty() {
            self.read_later(task);
        }
        self.feed(Input::Read { task, cost })
    }
}
