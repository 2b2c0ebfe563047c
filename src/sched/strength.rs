//! How well staffed the pool is: derived from the seats, told when it changes; and the statistics. It starts nobody.
//!
//! ```text
//!            a seat stays vacant                 given up, nobody open
//!   Full ──────────────────────────▶ Weak ──────────────────────────────▶ None
//!    ▲                               │  ▲                                  │
//!    └── all places have an open ────┘  └──────────── one opens ───────────┘
//!        worker
//! ```

use std::time::Instant;

use crate::event::{Stats, Status, TaskStats, WorkerStats};
use crate::sched::clock::Time;
use crate::sched::queue::Task;
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::worker::{Seat, Worker};
use crate::sched::{Action, Notice};

/// How well staffed a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Strength {
    /// Every seat has its worker, or the next one is on its way.
    Full,
    /// Seats are vacant, or have been and are not filled again: their next workers are held back.
    Weak,
    /// Nobody is open, and starting has been given up for now.
    None,
}

/// Whether all the workers that the pool is to have take tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    /// They may, later.
    Pending,
    /// Starting has been given up for now.
    GivenUp,
    Closed,
}

impl Scheduler {
    /// Notes that seats or workers are others than before: what was counted of them has to be counted anew.
    pub(super) fn recount(&mut self) {
        self.staff.changed = true;
        self.share.counts = None;
    }

    /// Tells of the pool's strength if it has changed. Once the pool ends it does not matter any more.
    pub(super) fn assess(&mut self) {
        self.staff.changed = false;
        if self.mode > Mode::Running {
            return;
        }
        let (told, probing) = (self.staff.strength, self.staff.is_probing());
        let hopeless = self.staff.gave_up.is_some() || told == Strength::None;
        let strength = if probing && hopeless && !self.workers().any(Worker::is_open) {
            Strength::None
        } else if self.vacancies().next().is_some() {
            Strength::Weak
        } else if told == Strength::Full || self.open() >= self.wanted() {
            Strength::Full
        } else {
            Strength::Weak
        };
        if strength != told && !(strength == Strength::Full && planted!(self, StayWeak)) {
            self.staff.strength = strength;
            self.act(Action::Tell(Notice::Strength(strength)));
        }
    }

    /// How many workers take tasks.
    pub(super) fn open(&self) -> u32 {
        self.workers().filter(|worker| worker.is_open()).count() as u32
    }

    /// The seats that have no worker and should have. In a pool below those are held back that were to be filled again.
    pub(super) fn vacancies(&self) -> impl Iterator<Item = &Seat> {
        let due = |seat: &Seat| !self.config.below || seat.due.is_some();
        let vacant = move |seat: &&Seat| seat.worker.is_none() && !seat.closed && due(seat);
        self.seats.iter().filter(vacant).filter(|_| self.mode == Mode::Running)
    }

    /// When the next vacant seat may be filled, unless something else happens before.
    pub(super) fn next_start(&self) -> Option<Time> {
        self.vacancies().filter_map(|seat| seat.due).chain(self.staff.probe).min()
    }

    /// A snapshot. Process ids, memory and names of tasks are not known here.
    pub(crate) fn stats(&self, now: Instant) -> Stats {
        let now = self.clock.at(now);
        let [places, processes] = self.budgets();
        let workers: Vec<_> = self.seats.iter().filter_map(|seat| self.worker_stats(seat, now)).collect();
        let alone = self.alone.iter(&self.tasks);
        Stats {
            queued: (self.queue.len() + self.alone.len()) as usize,
            queued_bytes: self.queue.bytes() + alone.map(|index| self.tasks.bytes(index)).sum::<u64>(),
            in_flight: workers.iter().map(|worker| worker.tasks.len() + worker.ahead).sum(),
            wanted: self.health().2,
            held_back: self.vacancies().count(),
            next_start: self.next_start().map(|due| due.saturating_sub(now)),
            workers,
            restarts: self.staff.restarts,
            finished: self.finished,
            places,
            processes,
        }
    }

    fn worker_stats(&self, seat: &Seat, now: Time) -> Option<WorkerStats> {
        let worker = seat.worker.as_ref()?;
        let running = worker.tasks.running(&self.tasks).filter_map(|index| self.tasks.at(index));
        let since = |task: &Task| task.begun().map_or(Time::ZERO, |begun| now.saturating_sub(begun));
        let tasks: Vec<_> =
            running.map(|task| TaskStats { id: task.id, name: "", since: since(task) }).collect();
        Some(WorkerStats {
            id: worker.id,
            pid: None,
            state: worker.state(),
            ahead: worker.tasks.len() as usize - tasks.len(),
            tasks,
            finished: worker.finished,
            age: now.saturating_sub(worker.launched),
            memory: None,
            restarts: seat.restarts,
        })
    }

    /// How well the pool is, how many workers take tasks, and how many should.
    pub(crate) fn health(&self) -> (Status, usize, usize) {
        let status = match self.staff.strength {
            _ if self.mode > Mode::Running => Status::Closed,
            Strength::Full => Status::Ready,
            Strength::Weak => Status::Degraded,
            Strength::None => Status::Failed,
        };
        // A pool below is to have those that it has: it grows and shrinks by itself.
        let wanted = if self.config.below { self.workers().count() } else { self.wanted() as usize };
        (status, self.open() as usize, wanted)
    }

    /// Whether all workers that the pool is to have take tasks.
    pub(crate) fn readiness(&self) -> Readiness {
        let (status, open, wanted) = self.health();
        match status {
            Status::Closed => Readiness::Closed,
            _ if open >= wanted => Readiness::Ready,
            _ if self.staff.is_probing() => Readiness::GivenUp,
            _ => Readiness::Pending,
        }
    }
}
