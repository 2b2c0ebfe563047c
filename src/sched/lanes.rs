//! The tasks that wait, and which of them is next: the highest priority first, callers in turn within it, and each
//! caller's tasks in the order of submission. It does not decide when, or where to.
//!
//! Callers are told apart by a lane each. What is next costs the same however many tasks and lanes there are; a lane is
//! there while something waits in it, save for one per priority that is kept in case its caller comes again.

use std::collections::BTreeMap;

use crate::sched::queue::{Link, Linked, List, Tasks};

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By priority, highest first. They stay when they are empty: there are never more than 256.
    levels: Vec<Level>,
    /// The lowest that there has been.
    lowest: Option<i8>,
    lanes: Vec<Lane>,
    /// Places among the lanes that are free.
    free: Vec<u32>,
    len: u32,
    /// How large the inputs of all that waits are together.
    bytes: u64,
}

/// The lanes of one priority.
#[derive(Debug)]
struct Level {
    priority: i8,
    /// In the order of their turns.
    ring: List,
    /// Where the lane of a caller is.
    places: BTreeMap<u32, u32>,
    /// The caller and place that were looked up last: callers submit in bursts. This lane alone may be empty.
    last: Option<(u32, u32)>,
}

/// One caller's tasks of one priority, in the order of submission.
#[derive(Debug, Default)]
struct Lane {
    caller: u32,
    link: Link,
    tasks: List,
}

impl Linked for Vec<Lane> {
    fn link(&self, index: u32) -> &Link {
        &self[index as usize].link
    }

    fn link_mut(&mut self, index: u32) -> &mut Link {
        &mut self[index as usize].link
    }
}

impl Queue {
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes that there is a task of this priority, though it need not wait.
    #[inline]
    pub(super) fn see(&mut self, priority: i8) {
        self.lowest = Some(self.lowest.map_or(priority, |lowest| lowest.min(priority)));
    }

    /// Whether this priority is higher than that of anything that waits, and there have ever been lower ones.
    pub(super) fn is_first(&self, priority: i8) -> bool {
        self.lowest.is_some_and(|lowest| lowest < priority)
            && self.levels.iter().all(|level| level.priority < priority || level.ring.is_empty())
    }

    /// The highest priority of what waits.
    pub(super) fn highest(&self) -> Option<i8> {
        self.levels.iter().find(|level| !level.ring.is_empty()).map(|level| level.priority)
    }

    /// Adds a task as its caller's last.
    #[inline]
    pub(super) fn push(&mut self, tasks: &mut Tasks, index: u32) {
        let (level, place) = self.place(tasks, index);
        self.see(self.levels[level].priority);
        if self.lanes[place as usize].tasks.is_empty() {
            self.levels[level].ring.push_back(&mut self.lanes, place);
        }
        self.lanes[place as usize].tasks.push_back(tasks, index);
        self.len += 1;
        self.bytes += tasks.bytes(index);
    }

    /// Takes out the task that is next. `stuck`, a planted bug: its caller's turn does not end.
    #[inline]
    pub(super) fn pop(&mut self, tasks: &mut Tasks, stuck: bool) -> Option<u32> {
        let level = self.levels.iter_mut().position(|level| !level.ring.is_empty())?;
        let place = self.levels[level].ring.first()?;
        let index = self.lanes[place as usize].tasks.pop_front(tasks)?;
        self.len -= 1;
        self.bytes -= tasks.bytes(index);
        if self.lanes[place as usize].tasks.is_empty() {
            self.close(level, place);
        } else if self.levels[level].ring.len() > 1 && !stuck {
            let ring = &mut self.levels[level].ring;
            ring.unlink(&mut self.lanes, place);
            ring.push_back(&mut self.lanes, place);
        }
        Some(index)
    }

    /// Takes out a task that waits.
    pub(super) fn remove(&mut self, tasks: &mut Tasks, index: u32) {
        let (level, place) = self.place(tasks, index);
        self.lanes[place as usize].tasks.unlink(tasks, index);
        self.len -= 1;
        self.bytes -= tasks.bytes(index);
        if self.lanes[place as usize].tasks.is_empty() {
            self.close(level, place);
        }
    }

    /// Puts tasks that were sent back where they were. A caller of whom nothing waits any more is next: it was before.
    ///
    /// Nothing of a caller that was never sent is older than what was, so the walk ends at the first such task.
    pub(super) fn put_back(&mut self, tasks: &mut Tasks, mut back: Vec<u32>) {
        back.sort_unstable_by_key(|&index| tasks.order(index));
        // The walk goes on where the last one of the same lane has ended.
        let mut walks: BTreeMap<u32, Option<u32>> = BTreeMap::new();
        for index in back {
            let (level, place) = self.place(tasks, index);
            let lane = &mut self.lanes[place as usize];
            let mut before = walks.get(&place).copied().unwrap_or_else(|| lane.tasks.first());
            while let Some(other) = before
                && tasks.order(other) < tasks.order(index)
            {
                before = List::after(tasks, other);
            }
            let fresh = lane.tasks.is_empty();
            lane.tasks.insert(tasks, index, before);
            walks.insert(place, before);
            if fresh {
                self.levels[level].ring.push_front(&mut self.lanes, place);
            }
            self.len += 1;
            self.bytes += tasks.bytes(index);
        }
    }

    /// The level and lane of a task; they are made if they are not there.
    #[inline]
    fn place(&mut self, tasks: &Tasks, index: u32) -> (usize, u32) {
        let (priority, caller) = tasks.at(index).map_or((0, 0), |task| (task.priority, task.lane));
        let found = self.levels.iter().position(|level| level.priority <= priority);
        let level = found.unwrap_or(self.levels.len());
        if self.levels.get(level).is_none_or(|level| level.priority != priority) {
            let fresh = Level { priority, ring: List::default(), places: BTreeMap::new(), last: None };
            self.levels.insert(level, fresh);
        }
        let here = &mut self.levels[level];
        if let Some((last, place)) = here.last
            && last == caller
        {
            return (level, place);
        }
        let place = *here.places.entry(caller).or_insert_with(|| {
            let place = self.free.pop().unwrap_or_else(|| {
                self.lanes.push(Lane::default());
                (self.lanes.len() - 1) as u32
            });
            self.lanes[place as usize].caller = caller;
            place
        });
        if let Some((old, empty)) = here.last.replace((caller, place))
            && self.lanes[empty as usize].tasks.is_empty()
        {
            here.places.remove(&old);
            self.free.push(empty);
        }
        (level, place)
    }

    /// Ends the turns of a lane in which nothing waits any more.
    fn close(&mut self, level: usize, place: u32) {
        let here = &mut self.levels[level];
        here.ring.unlink(&mut self.lanes, place);
        let caller = self.lanes[place as usize].caller;
        if here.last != Some((caller, place)) {
            here.places.remove(&caller);
            self.free.push(place);
        }
    }

    /// Everything that waits, in no useful order, with its priority and caller.
    #[cfg(test)]
    pub(super) fn lanes<'a>(&'a self, tasks: &'a Tasks) -> impl Iterator<Item = (i8, u32, Vec<u32>)> {
        self.levels.iter().flat_map(move |level| {
            level.ring.iter(&self.lanes).map(move |place| {
                let lane = &self.lanes[place as usize];
                (level.priority, lane.caller, lane.tasks.iter(tasks).collect())
            })
        })
    }

    /// How many priorities are known.
    #[cfg(test)]
    pub(super) fn height(&self) -> usize {
        self.levels.len()
    }

    /// How many lanes are known.
    #[cfg(test)]
    pub(super) fn width(&self) -> usize {
        self.lanes.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TaskId;
    use crate::sched::Spec;
    use crate::sched::queue::Task;

    fn queue(specs: &[(i8, u32)]) -> (Queue, Tasks) {
        let (mut queue, mut tasks) = (Queue::default(), Tasks::default());
        for (index, &(priority, lane)) in (0..).zip(specs) {
            let spec = Spec { priority, lane, ..Spec::default() };
            let order = u64::from(index);
            assert!(tasks.insert(Task { order, ..Task::new(TaskId::new(index, index), spec) }));
            queue.push(&mut tasks, index);
        }
        (queue, tasks)
    }

    fn drain(queue: &mut Queue, tasks: &mut Tasks) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(tasks, false)).collect()
    }

    #[test]
    fn the_highest_priority_is_first_and_callers_take_turns_within_it() {
        let (mut queue, mut tasks) =
            queue(&[(0, 1), (0, 1), (0, 1), (0, 2), (9, 1), (-3, 7), (9, 2), (9, 1), (0, 2)]);
        assert!(queue.is_first(10) && !queue.is_first(9));
        assert_eq!(drain(&mut queue, &mut tasks), [4, 6, 7, 0, 3, 1, 8, 2, 5]);
        assert!(queue.is_empty() && queue.is_first(0) && !queue.is_first(-3));
    }

    #[test]
    fn what_comes_back_goes_to_its_place() {
        let (mut queue, mut tasks) = queue(&[(0, 1), (0, 1), (0, 1), (5, 1), (0, 2), (0, 1), (0, 3)]);
        let sent: Vec<u32> = (0..6).filter_map(|_| queue.pop(&mut tasks, false)).collect();
        assert_eq!(sent, [3, 0, 4, 6, 1, 2]);
        queue.put_back(&mut tasks, vec![2, 3, 0, 4]);
        assert_eq!(queue.len(), 5);
        // The second caller had nothing left: it is next.
        assert_eq!(drain(&mut queue, &mut tasks), [3, 4, 0, 2, 5]);
    }

    #[test]
    fn any_can_be_taken_out_and_lanes_go_when_they_are_empty() {
        let specs: Vec<_> = (0..1000).map(|n| (0, n)).collect();
        let (mut queue, mut tasks) = queue(&specs);
        assert_eq!(queue.width(), 1000);
        for index in (0..1000).filter(|n| n % 3 != 0) {
            queue.remove(&mut tasks, index);
        }
        assert!(queue.width() <= 335);
        assert_eq!(drain(&mut queue, &mut tasks), (0..1000).step_by(3).collect::<Vec<_>>());
        assert!(queue.width() <= 1, "the lanes of a burst stay");
    }
}
