//! The table of tasks, and the lists that are threaded through a table: what waits, what each worker holds, the workers
//! with room. It keeps order; who goes where is decided elsewhere.
//!
//! A list is a head and a tail; the links lie in the entries, so that taking one out of the middle costs the same as
//! taking the first, and a hundred thousand cancelled tasks leave nothing behind. An entry is in one list at most.

use crate::error::ErrorKind;
use crate::id::TaskId;
use crate::sched::Spec;
use crate::sched::clock::Time;
use crate::sched::flow::Flow;
use crate::sched::forecast::Worth;
use crate::sched::pack::Pack;

const NONE: u32 = u32::MAX;

/// An entry's neighbours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    prev: u32,
    next: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self { prev: NONE, next: NONE }
    }
}

/// A table whose entries can be in a list.
pub(super) trait Linked {
    fn link(&self, index: u32) -> &Link;
    fn link_mut(&mut self, index: u32) -> &mut Link;
}

/// A list through a table. All its methods want the same table.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }
}

impl List {
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == NONE
    }

    pub(super) fn first(&self) -> Option<u32> {
        some(self.head)
    }

    pub(super) fn last(&self) -> Option<u32> {
        some(self.tail)
    }

    pub(super) fn after(table: &impl Linked, index: u32) -> Option<u32> {
        some(table.link(index).next)
    }

    pub(super) fn iter<T: Linked>(self, table: &T) -> impl Iterator<Item = u32> {
        std::iter::successors(self.first(), |&index| Self::after(table, index))
    }

    /// From the last to the first.
    pub(super) fn back<T: Linked>(self, table: &T) -> impl Iterator<Item = u32> {
        std::iter::successors(self.last(), |&index| some(table.link(index).prev))
    }

    pub(super) fn push_front(&mut self, table: &mut impl Linked, index: u32) {
        self.insert(table, index, self.first());
    }

    pub(super) fn push_back(&mut self, table: &mut impl Linked, index: u32) {
        self.insert(table, index, None);
    }

    /// Puts an entry that is in no list before another one; at the end without one.
    pub(super) fn insert(&mut self, table: &mut impl Linked, index: u32, before: Option<u32>) {
        let next = before.unwrap_or(NONE);
        let prev = before.map_or(self.tail, |before| table.link(before).prev);
        *table.link_mut(index) = Link { prev, next };
        match some(prev) {
            Some(prev) => table.link_mut(prev).next = index,
            None => self.head = index,
        }
        match some(next) {
            Some(next) => table.link_mut(next).prev = index,
            None => self.tail = index,
        }
        self.len += 1;
    }

    /// Takes out an entry that is in this list.
    pub(super) fn unlink(&mut self, table: &mut impl Linked, index: u32) {
        let Link { prev, next } = std::mem::take(table.link_mut(index));
        match some(prev) {
            Some(prev) => table.link_mut(prev).next = next,
            None => self.head = next,
        }
        match some(next) {
            Some(next) => table.link_mut(next).prev = prev,
            None => self.tail = prev,
        }
        self.len -= 1;
    }

    pub(super) fn pop_front(&mut self, table: &mut impl Linked) -> Option<u32> {
        let index = self.first()?;
        self.unlink(table, index);
        Some(index)
    }
}

fn some(index: u32) -> Option<u32> {
    (index != NONE).then_some(index)
}

/// One task that is not resolved yet.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: TaskId,
    /// Its place in the order in which tasks came into the queue, once it has.
    pub(super) order: u64,
    pub(super) kind: u32,
    pub(super) lane: u32,
    pub(super) priority: i8,
    pub(super) stand: Stand,
    /// How large its input is.
    pub(super) bytes: u32,
    /// Apart, since most tasks have none and all of them pass through the processor's cache.
    pub(super) extras: Option<Box<Extras>>,
    /// How many attempts may have begun, the one under way included.
    pub(super) attempts: u32,
    /// `None`: queued. Apart, since few of many tasks are sent at one time.
    pub(super) sent: Option<Box<Sent>>,
}

/// How far a task has come that no worker holds yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// Its caller waits for a place in the queue, and will say later what for.
    Asking,
    /// Its caller has the place, and has not said what for.
    Reserved,
    /// It waits for a place in the queue.
    Outside,
    /// It has come into the queue.
    Inside,
    /// It has died with a worker, and waits for one that nobody has used.
    Alone,
}

/// What only some tasks have: limits, further attempts, items, others in one.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// How long an attempt may take.
    pub(super) timeout: Option<Time>,
    /// When it is too late for it, on the wall's clock.
    pub(super) deadline: Option<Time>,
    /// How often it may be tried again.
    pub(super) retries: u32,
    /// The account of the attempt that runs, if this is a stream.
    pub(super) flow: Option<Flow>,
    /// How far it has come, if this is a pack.
    pub(super) pack: Option<Pack>,
}

/// A task that a worker holds.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) seat: u32,
    /// Which of the tasks that its worker was sent, counted from 1.
    pub(super) sequence: u64,
    /// What it was predicted to take.
    pub(super) worth: Worth,
    /// Whether the worker was asked to give it back, and has not answered yet.
    pub(super) recalled: bool,
    /// Since when it has a slot: it has come to be one of those that its worker runs.
    pub(super) begun: Option<Time>,
    /// When its timeout is over; once it is to stop, when the next rung is due. Nothing when its worker is doomed anyway.
    pub(super) due: Option<Time>,
    pub(super) stop: Option<Stop>,
}

impl Sent {
    /// Puts it into memory that is there, if there is any.
    #[inline]
    pub(super) fn boxed(self, spare: Option<Box<Self>>) -> Box<Self> {
        match spare {
            Some(mut spare) => {
                *spare = self;
                spare
            }
            None => Box::new(self),
        }
    }
}

/// A task that is to stop.
#[derive(Debug)]
pub(super) struct Stop {
    /// What it resolves to if it does stop.
    pub(super) kind: ErrorKind,
    pub(super) rung: Rung,
}

/// How far up the ladder a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rung {
    /// It was asked to stop, and has its grace.
    Asked,
    /// Its grace is over. Those beside it have one, too, before all of them have to go.
    Overdue,
    /// Its worker got SIGTERM.
    Terminated,
}

impl Task {
    pub(super) fn new(id: TaskId, spec: Spec) -> Self {
        let Spec { kind, lane, priority, bytes, stream, pack, .. } = spec;
        let mut task = Self {
            id,
            order: 0,
            kind,
            lane,
            priority,
            stand: Stand::Outside,
            bytes,
            extras: None,
            attempts: 0,
            sent: None,
        };
        task.stream(stream);
        if pack > 0 {
            task.extras.get_or_insert_default().pack = Some(Pack { count: pack, done: 0 });
        }
        task
    }

    /// Says whether it is a stream.
    pub(super) fn stream(&mut self, stream: bool) {
        if stream {
            self.extras.get_or_insert_default().flow = Some(Flow::default());
        } else if let Some(extras) = &mut self.extras {
            extras.flow = None;
        }
    }

    /// A pack of so many like this one, in the same place in the queue, that no worker has seen.
    pub(super) fn successor(of: &Self, id: TaskId, pack: u32) -> Self {
        let Self { order, kind, lane, priority, bytes, .. } = *of;
        let spec = Spec { kind, lane, priority, bytes, pack, ..Spec::default() };
        Self { order, stand: Stand::Inside, ..Self::new(id, spec) }
    }

    pub(super) fn timeout(&self) -> Option<Time> {
        self.extras.as_ref()?.timeout
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.extras.as_ref()?.deadline
    }

    /// Whether an attempt may have begun; of a task that no worker holds.
    pub(super) fn ran(&self) -> bool {
        self.attempts > 0
    }

    /// Whether an item of this attempt has come, or an answer of a pack: then it has begun, whatever is said of it.
    pub(super) fn came(&self) -> bool {
        self.flow().is_some_and(|flow| flow.came) || self.pack().is_some_and(|pack| pack.done > 0)
    }

    pub(super) fn pack(&self) -> Option<&Pack> {
        self.extras.as_ref()?.pack.as_ref()
    }

    pub(super) fn pack_mut(&mut self) -> Option<&mut Pack> {
        self.extras.as_mut()?.pack.as_mut()
    }

    pub(super) fn flow(&self) -> Option<&Flow> {
        self.extras.as_ref()?.flow.as_ref()
    }

    pub(super) fn flow_mut(&mut self) -> Option<&mut Flow> {
        self.extras.as_mut()?.flow.as_mut()
    }

    /// Since when its worker may have been running it.
    pub(super) fn begun(&self) -> Option<Time> {
        self.sent.as_ref()?.begun
    }

    pub(super) fn is_on(&self, seat: u32) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.seat == seat)
    }
}

/// Every task that is not resolved yet, at the index of its id.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    entries: Vec<Entry>,
    len: u32,
    /// Memory of tasks that were sent: the next to be sent need not allocate.
    #[expect(clippy::vec_box, reason = "what is kept is the boxes")]
    spare: Vec<Box<Sent>>,
}

#[derive(Debug, Default)]
struct Entry {
    link: Link,
    task: Option<Task>,
}

impl Tasks {
    /// Adds a task, unless its place is taken.
    pub(super) fn insert(&mut self, task: Task) -> bool {
        let slot = task.id.slot();
        if slot >= self.entries.len() {
            self.entries.resize_with(slot + 1, Entry::default);
        }
        let entry = &mut self.entries[slot].task;
        if entry.is_some() {
            return false;
        }
        *entry = Some(task);
        self.len += 1;
        true
    }

    /// The task of this id, if it is not resolved yet. Ids come from workers too: any value is fine.
    pub(super) fn get(&self, id: TaskId) -> Option<&Task> {
        self.at(id.index).filter(|task| task.id == id)
    }

    pub(super) fn at(&self, index: u32) -> Option<&Task> {
        self.entries.get(index as usize)?.task.as_ref()
    }

    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut Task> {
        self.entries.get_mut(index as usize)?.task.as_mut()
    }

    /// Memory for a task that is about to be sent.
    #[inline]
    pub(super) fn spare(&mut self) -> Option<Box<Sent>> {
        self.spare.pop()
    }

    /// Takes a task from its worker: whether it may have run, and what it was to stop for. An attempt that had not `begun`
    /// does not count.
    pub(super) fn take(&mut self, index: u32, begun: bool) -> Option<(bool, Option<ErrorKind>)> {
        let task = self.entries.get_mut(index as usize)?.task.as_mut()?;
        let sent = task.sent.take()?;
        task.attempts -= u32::from(!begun);
        let taken = (task.ran(), sent.stop.as_ref().map(|stop| stop.kind));
        self.spare.push(sent);
        Some(taken)
    }

    /// Removes a task that is in no list.
    pub(super) fn remove(&mut self, index: u32) -> Option<Task> {
        let mut task = self.entries.get_mut(index as usize)?.task.take()?;
        if let Some(sent) = task.sent.take() {
            self.spare.push(sent);
        }
        self.len -= 1;
        Some(task)
    }

    /// How many there are.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn order(&self, index: u32) -> u64 {
        self.at(index).map_or(u64::MAX, |task| task.order)
    }

    pub(super) fn bytes(&self, index: u32) -> u64 {
        self.at(index).map_or(0, |task| task.bytes.into())
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Task> {
        self.entries.iter().filter_map(|entry| entry.task.as_ref())
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.entries.iter().filter(|entry| entry.task.is_some()).count()
    }
}

impl Linked for Tasks {
    fn link(&self, index: u32) -> &Link {
        &self.entries[index as usize].link
    }

    fn link_mut(&mut self, index: u32) -> &mut Link {
        &mut self.entries[index as usize].link
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(orders: &[u64]) -> Tasks {
        let mut tasks = Tasks::default();
        for (index, &order) in (0..).zip(orders) {
            let task = Task { order, ..Task::new(TaskId::new(index, index), Spec::default()) };
            assert!(tasks.insert(task));
        }
        tasks
    }

    fn indices(list: List, tasks: &Tasks) -> Vec<u32> {
        list.iter(tasks).collect()
    }

    #[test]
    fn a_task_that_waits_is_small() {
        let size = size_of::<Entry>();
        assert!(size <= 64, "{size} bytes");
    }

    #[test]
    fn any_entry_can_be_taken_out() {
        let mut tasks = table(&[0, 1, 2, 3]);
        let mut list = List::default();
        for index in 0..4 {
            list.push_back(&mut tasks, index);
        }
        for (index, rest) in [(1, vec![0, 2, 3]), (0, vec![2, 3]), (3, vec![2]), (2, vec![])] {
            list.unlink(&mut tasks, index);
            assert_eq!(indices(list, &tasks), rest);
            assert_eq!(list.len() as usize, rest.len());
        }
        assert!(list.is_empty());
    }

    #[test]
    fn a_stale_or_wild_id_finds_nothing() {
        let tasks = table(&[0]);
        assert!(tasks.get(TaskId::new(0, 0)).is_some());
        assert!(tasks.get(TaskId::new(1, 0)).is_none());
        assert!(tasks.get(TaskId::new(0, u32::MAX)).is_none());
    }
}
