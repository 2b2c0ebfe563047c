//! How full the queue is, and who waits before it: the bystander's idea of places.

use std::time::Duration;

use super::model::{Model, Record, State};
use super::{Checked, ensure};
use crate::error::ErrorKind;
use crate::id::TaskId;
use crate::sched::Spec;

/// What a place counts for while nobody knows what it is for.
const NOMINAL: u64 = 64 << 10;

impl Model {
    /// Whether the queue has a place for so many bytes.
    fn has_place(&self, bytes: u64) -> bool {
        let places = self.waiting.len() + self.reserved.len();
        let size = |task: &TaskId| self.tasks.get(task).map_or(0, |record| u64::from(record.spec.bytes));
        let queued: u64 = self.waiting.iter().map(|(_, task)| size(task)).sum();
        let taken = queued + self.reserved.len() as u64 * NOMINAL;
        places < self.config.queue_limit as usize && (taken == 0 || taken + bytes <= self.config.queue_bytes)
    }

    /// A new task, or somebody who `asks` for a place for one.
    pub(super) fn comes(&mut self, task: TaskId, spec: Spec, asks: bool) {
        let deadline = spec.deadline.map(|left| self.now + left);
        let state = State::Outside { asks };
        let late = self.closing.is_some();
        let record = Record {
            order: 0,
            spec,
            deadline,
            attempts: 0,
            begun: false,
            retries: spec.retries,
            again: false,
            suspect: false,
            doubts: Vec::new(),
            late,
            state,
        };
        let bytes = if asks { NOMINAL } else { spec.bytes.into() };
        let place = self.line.is_empty() && self.has_place(bytes);
        self.tasks.insert(task, record);
        if self.closing.is_some() {
            self.demand(task, &[Some(ErrorKind::Closed)]);
        } else if spec.patient || asks && place {
            self.line.push_back(task);
        } else if place {
            self.enters(task);
        } else {
            let mut kinds = vec![Some(ErrorKind::Overloaded)];
            if spec.deadline.is_some_and(|left| left.is_zero()) {
                kinds = vec![Some(ErrorKind::TimedOut)];
            } else if self.is_hopeless() {
                kinds.push(Some(ErrorKind::Launch));
            }
            self.demand(task, &kinds);
        }
    }

    pub(super) fn redeems(&mut self, task: TaskId, spec: Spec) {
        if self.reserved.remove(&task) {
            if let Some(record) = self.tasks.get_mut(&task) {
                (record.spec.bytes, record.spec.kind, record.spec.stream) =
                    (spec.bytes, spec.kind, spec.stream);
            }
            match spec.deadline {
                Some(Duration::ZERO) => self.demand(task, &[Some(ErrorKind::TimedOut)]),
                _ => self.enters(task),
            }
        }
    }

    fn enters(&mut self, task: TaskId) {
        self.entered += 1;
        let Some(record) = self.tasks.get_mut(&task) else { return };
        (record.order, record.state) = (self.entered, State::Waiting);
        self.waiting.insert((self.entered, task));
    }

    /// Judges who is given a place.
    pub(super) fn grant(&mut self, task: TaskId) -> Checked {
        let record = self.tasks.get(&task).ok_or("a place for a stranger")?;
        let State::Outside { asks } = record.state else {
            return Err(format!("{task:?} is given a place that it does not want"));
        };
        ensure!(self.line.front() == Some(&task), "{task:?} is given a place out of turn");
        let bytes = if asks { NOMINAL } else { record.spec.bytes.into() };
        ensure!(self.has_place(bytes), "{task:?} is given a place that there is not");
        self.line.pop_front();
        // Whoever makes room may be the last of his caller, and this one the next.
        self.end_turns();
        match self.tasks.get_mut(&task).filter(|_| asks) {
            Some(record) => {
                record.state = State::Reserved;
                self.reserved.insert(task);
            }
            None => self.enters(task),
        }
        Ok(())
    }

    /// The pool closes: who has not said what he wants a place for comes too late.
    pub(super) fn call_in(&mut self) {
        let asks = |task: &&TaskId| {
            matches!(self.tasks.get(task), Some(Record { state: State::Outside { asks: true }, .. }))
        };
        let late: Vec<_> = self.line.iter().filter(asks).chain(&self.reserved).copied().collect();
        for task in late {
            self.demand(task, &[Some(ErrorKind::Closed)]);
        }
    }

    /// Nobody waits for a place that there is.
    pub(super) fn is_line_served(&self) -> Checked {
        let Some(first) = self.line.front() else { return Ok(()) };
        let Some(Record { state: State::Outside { asks }, spec, .. }) = self.tasks.get(first) else {
            return Err(format!("{first:?} waits for a place that it has"));
        };
        let bytes = if *asks { NOMINAL } else { spec.bytes.into() };
        ensure!(!self.has_place(bytes), "{first:?} waits for a place, and there is one");
        Ok(())
    }
}
