//! The scheduler's tables must agree with each other. What it does is judged from outside, by the model.

use super::{Checked, ensure};
use crate::sched::clock::{Alarm, Due};
use crate::sched::queue::{List, Sent, Stand, Task};
use crate::sched::scheduler::{Mode, Scheduler};
use crate::sched::worker::{Phase, Worker};
use crate::wire::credit::FIRST;

impl Scheduler {
    /// Whether every table agrees with every other.
    pub(in crate::sched) fn check(&self) -> Checked {
        if self.mode == Mode::Closed {
            ensure!(self.tasks.count() == 0 && self.workers().count() == 0, "closed, yet not empty");
            return Ok(());
        }
        let mut alarms = 0;
        let mut expect = |alarm, due: Option<_>| {
            alarms += usize::from(due.is_some());
            due.is_none() || self.clock.is_set(alarm, due)
        };
        ensure!(expect(Alarm::Limit, self.limit), "limit");
        ensure!(expect(Alarm::Probe, self.staff.probe), "probe");
        ensure!(expect(Alarm::Rebalance, self.rebalance), "rebalance");
        ensure!(expect(Alarm::Pressed, self.size.pressed), "pressed");
        ensure!(expect(Alarm::Look, self.share.look), "look");
        ensure!(expect(Alarm::Grief, self.share.grief), "grief");
        for (index, seat) in (0..).zip(&self.seats) {
            ensure!(expect(Alarm::Seat(index), seat.due), "seat {index}");
            ensure!(expect(Alarm::Watch(index), seat.watch), "watch {index}");
            for task in seat.worker.iter().flat_map(|worker| worker.tasks.iter(&self.tasks)) {
                let sent = self.tasks.at(task).and_then(|task| task.sent.as_ref());
                let due = sent.and_then(|sent| sent.due);
                ensure!(expect(Alarm::Task(task), due), "timeout or ladder of {task}");
            }
        }
        ensure!(alarms == self.clock.pending(), "{} alarms, {alarms} owners", self.clock.pending());
        self.check_deadlines()?;
        self.check_queue()?;
        self.check_levels()?;
        for index in 0..self.seats.len() {
            self.check_seat(index as u32)?;
        }
        ensure!(self.is_shared(), "what is shared was miscounted, or is there and not lent");
        self.check_hope()
    }

    fn check_deadlines(&self) -> Checked {
        let stopping = |task: &Task| task.sent.as_ref().is_some_and(|sent| sent.stop.is_some());
        let mut expected = 0;
        for task in self.tasks.all() {
            let Some(at) = task.deadline() else { continue };
            let set = self.clock.is_expected(at, Due::Task(task.id.index));
            expected += usize::from(set);
            ensure!(set || stopping(task), "{:?} has lost its deadline", task.id);
        }
        for (due, at) in [(Due::Age, self.aging), (Due::Idle, self.size.idling)] {
            ensure!(at.is_none_or(|at| self.clock.is_expected(at, due)), "{due:?} is not to come");
            expected += usize::from(at.is_some());
        }
        ensure!(expected == self.clock.expected(), "{} deadlines, {expected} owners", self.clock.expected());
        Ok(())
    }

    fn check_queue(&self) -> Checked {
        let mut queued = Vec::new();
        let mut lanes = 0;
        for (priority, lane, indices) in self.queue.lanes(&self.tasks) {
            let tasks: Vec<_> = indices.iter().filter_map(|&index| self.tasks.at(index)).collect();
            ensure!(!tasks.is_empty(), "an empty lane takes its turn");
            ensure!(tasks.is_sorted_by_key(|task| task.order), "a lane is out of order");
            let own = |task: &&Task| (task.priority, task.lane) == (priority, lane);
            ensure!(tasks.iter().all(own), "a task waits in a lane that is not its own");
            lanes += 1;
            queued.extend(tasks);
        }
        ensure!(self.queue.width() <= lanes + self.queue.height(), "empty lanes are kept");
        ensure!(queued.len() == self.queue.len() as usize, "the queue's length");
        ensure!(queued.iter().all(|task| task.sent.is_none()), "a task is queued and sent");
        let bytes: u64 = queued.iter().map(|task| u64::from(task.bytes)).sum();
        ensure!(bytes == self.queue.bytes(), "the queue's bytes");
        let held: u32 = self.workers().map(|worker| worker.tasks.len()).sum();
        let (line, reserved) = (self.places.line, self.places.reserved);
        let listed = queued.len() as u32 + held + line.len() + reserved.len() + self.alone.len();
        ensure!(listed as usize == self.tasks.count(), "a task is in no list");
        ensure!(listed == self.tasks.len(), "the number of tasks");
        let stands = |list: List| list.iter(&self.tasks).filter_map(|task| Some(self.tasks.at(task)?.stand));
        let outside = |stand| matches!(stand, Stand::Asking | Stand::Outside);
        ensure!(stands(line).all(outside), "the line is out of line");
        ensure!(stands(self.alone).all(|stand| stand == Stand::Alone), "a task waits alone that need not");
        ensure!(self.alone.is_empty() || self.mode < Mode::Closing, "closing, yet tasks wait to run alone");
        ensure!(stands(reserved).all(|stand| stand == Stand::Reserved), "a place is kept for nothing");
        ensure!(queued.is_empty() || self.mode < Mode::Closing, "closing, yet tasks wait");
        ensure!(queued.is_empty() || self.roomy().is_none(), "tasks wait beside room");
        Ok(())
    }

    /// Whoever is in the list of a level knows it, and nobody else is said to be.
    fn check_levels(&self) -> Checked {
        ensure!(self.ready.is_true(), "the levels' bits");
        let mut count = 0;
        for level in self.ready.filled() {
            for seat in self.ready.list(level).iter(&self.seats) {
                let listed = self.seats[seat as usize].listed;
                ensure!(listed == Some(level), "seat {seat} in level {level}, not {listed:?}");
                count += 1;
            }
        }
        let listed = self.seats.iter().filter(|seat| seat.listed.is_some()).count();
        ensure!(count == listed, "{count} seats in levels, of {listed}");
        Ok(())
    }

    fn check_seat(&self, index: u32) -> Checked {
        let seat = &self.seats[index as usize];
        let load = seat.worker.as_ref().and_then(|worker| self.level(worker));
        ensure!(seat.listed == load, "seat {index} is listed as {:?}, not {load:?}", seat.listed);
        let Some(worker) = &seat.worker else { return Ok(()) };
        ensure!(worker.id.index == index, "{:?} sits in seat {index}", worker.id);
        let most = self.config.slots + self.config.ahead;
        ensure!(worker.tasks.len() <= most, "{:?} holds too much", worker.id);
        let held = || worker.tasks.iter(&self.tasks).filter_map(|task| self.tasks.at(task)?.sent.as_ref());
        let stands = || worker.tasks.iter(&self.tasks).filter_map(|task| Some(self.tasks.at(task)?.stand));
        let alone = stands().any(|stand| stand == Stand::Alone);
        ensure!(alone == worker.alone && (!alone || worker.tasks.len() == 1), "{:?} is shared", worker.id);
        let in_place = worker.tasks.check(&self.tasks, self.config.slots);
        ensure!(in_place, "what {:?} holds is in the wrong place", worker.id);
        let overdue = worker.tasks.is_overdue(&self.tasks);
        let quarantined = worker.is_doomed() || worker.quarantined == (overdue || worker.terminated);
        ensure!(quarantined, "the quarantine of {:?}", worker.id);
        let asked = held().any(|sent| sent.recalled);
        ensure!(worker.recalls > 0 || !asked, "{:?} was asked for something, yet not", worker.id);
        ensure!(seat.due.is_some() == (worker.phase != Phase::Open), "{:?} has no limit", worker.id);
        for task in worker.tasks.iter(&self.tasks) {
            let sent = self.tasks.at(task).and_then(|task| task.sent.as_deref());
            let Some(Sent { seat, sequence, stop, due, .. }) = sent else {
                return Err(format!("{:?} holds {task}, which was not sent", worker.id));
            };
            ensure!(*seat == index && *sequence <= worker.sent, "task {task} on {:?}", worker.id);
            let climbs = stop.is_none() || due.is_some();
            ensure!(climbs || worker.is_doomed(), "task {task} has fallen off its ladder");
            if let Some(flow) = self.tasks.at(task).and_then(Task::flow) {
                ensure!(flow.credit <= flow.window.into(), "task {task} has credit beyond its window");
                ensure!(flow.came || flow.window == FIRST, "task {task} has earned credit by nothing");
            }
        }
        let watched = seat.watch.is_some() || worker.tasks.is_empty() || worker.phase != Phase::Open;
        ensure!(watched, "nobody watches {:?}", worker.id);
        Ok(())
    }

    /// Whoever waits, waits for something that will happen.
    fn check_hope(&self) -> Checked {
        if self.config.below {
            let coming = self.seats.iter().any(|seat| seat.due.is_some()) || self.staff.probe.is_some();
            let hope = self.workers().count() > 0 || self.asks() || coming;
            ensure!(self.queue.is_empty() && self.alone.is_empty() || hope, "nobody will come");
            return Ok(());
        }
        let probing = self.staff.is_probing();
        let hope = self.workers().any(Worker::is_starting) || self.staff.probe.is_some();
        let vacant = self.seats.iter().any(|seat| seat.worker.is_none() && !seat.closed);
        ensure!(self.mode != Mode::Running || !probing || !vacant || hope, "no probe is to come");
        let twice = self.workers().any(Worker::is_starting) && self.staff.probe.is_some();
        ensure!(!twice, "a probe is to come while one is under way");
        for (index, seat) in self.seats.iter().enumerate() {
            let waits = !seat.closed && seat.launches > 0 && seat.worker.is_none() && seat.due.is_none();
            ensure!(self.mode != Mode::Running || probing || !waits, "seat {index} is forgotten");
        }
        let draining = self.mode == Mode::Draining && self.waits();
        let coming = self.seats.iter().any(|seat| seat.due.is_some() || seat.launches == 0)
            || self.workers().count() > 0;
        ensure!(!draining || hope || coming, "draining for ever");
        Ok(())
    }
}
