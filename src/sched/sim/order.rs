//! Whose turn it is: the bystander's idea of priorities, and of callers who take turns.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Model, Record, State};
use super::{Checked, ensure};
use crate::error::ErrorKind;
use crate::id::TaskId;
use crate::sched::Spec;

/// How often others were served while a caller waited: priority and caller who waits, and who was served.
#[derive(Default)]
pub(super) struct Turns {
    passed: BTreeMap<((i8, u32), u32), u32>,
}

impl Turns {
    /// What was sent in vain does not count.
    pub(super) fn forgive(&mut self, spec: Spec) {
        self.passed.retain(|&((priority, _), other), _| (priority, other) != (spec.priority, spec.lane));
    }
}

impl Model {
    fn waiting_specs(&self) -> impl Iterator<Item = (TaskId, Spec)> {
        self.waiting.iter().filter_map(|&(_, task)| Some((task, self.tasks.get(&task)?.spec)))
    }

    /// Judges a task that is sent: the highest priority, the first of its caller, and nobody is passed by twice.
    pub(super) fn is_next(&mut self, task: TaskId) -> Checked {
        let spec = self.tasks.get(&task).ok_or("a resolved task runs")?.spec;
        let first = self.waiting_specs().find(|(_, other)| key(*other) == key(spec));
        ensure!(first.map(|(first, _)| first) == Some(task), "{task:?} runs out of turn");
        let highest = self.waiting_specs().map(|(_, other)| other.priority).max();
        ensure!(highest == Some(spec.priority), "{task:?} runs before a higher priority");
        let waiting: BTreeSet<_> = self.waiting_specs().map(|(_, other)| key(other)).collect();
        self.turns.passed.retain(|(who, _), _| *who != key(spec));
        let rivals = |&(priority, lane): &(i8, u32)| priority == spec.priority && lane != spec.lane;
        for other in waiting.into_iter().filter(rivals) {
            let passed = self.turns.passed.entry((other, spec.lane)).or_default();
            *passed += 1;
            ensure!(*passed <= 1, "{task:?}: its caller is served again, {other:?} waits");
        }
        Ok(())
    }

    /// Who does not wait any more will wait anew.
    pub(super) fn end_turns(&mut self) {
        if !self.turns.passed.is_empty() {
            let waiting: BTreeSet<_> = self.waiting_specs().map(|(_, spec)| key(spec)).collect();
            self.turns.passed.retain(|(who, _), _| waiting.contains(who));
        }
    }

    /// Whether something waits that goes before all of these.
    pub(super) fn goes_before(&self, tasks: &[TaskId]) -> bool {
        // What the input set off comes before what the time does.
        let late = self.tasks.values().filter(|record| match &record.state {
            State::Must(kinds) => kinds == &[Some(ErrorKind::TimedOut)],
            _ => false,
        });
        let waiting = self.waiting_specs().map(|(_, other)| other.priority);
        let highest = waiting.chain(late.map(|record| record.spec.priority)).max();
        let lower = |record: &Record| highest > Some(record.spec.priority);
        tasks.iter().all(|task| self.tasks.get(task).is_some_and(lower))
    }
}

fn key(spec: Spec) -> (i8, u32) {
    (spec.priority, spec.lane)
}
