//! Stopping tasks and watching workers: the ladder, the pings, and what is done when a limit is over. It does not fill
//! seats again.

use std::time::Duration;

use crate::error::ErrorKind;
use crate::event::Leave;
use crate::sched::clock::Alarm;
use crate::sched::queue::{Rung, Stop};
use crate::sched::scheduler::Scheduler;
use crate::sched::worker::{Cause, Phase, Worker};
use crate::sched::{Action, End, Notice};

/// How long a worker that holds tasks may be silent before it is pinged. Shorter costs more frames while tasks are long;
/// longer finds a dead one later.
pub(super) const WATCH: Duration = Duration::from_secs(1);

/// How long a worker that holds tasks may be silent at all. Shorter kills workers that swap or are being debugged; longer
/// keeps the tasks of a dead one waiting.
const SILENCE: Duration = Duration::from_secs(5);

/// From the end of the link to SIGKILL: the process usually ends in the same instant.
const HANG_UP_GRACE: Duration = Duration::from_millis(250);

/// From SIGKILL to giving a worker up. What is not dead by then is stuck in the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(1);

impl Scheduler {
    pub(super) fn ring(&mut self, alarm: Alarm) {
        match alarm {
            Alarm::Limit => {
                self.limit = None;
                self.stop_all();
            }
            Alarm::Probe => {
                self.staff.probe = None;
                self.probe();
            }
            Alarm::Look => {
                self.share.look = None;
                self.look();
            }
            Alarm::Grief => {
                self.share.grief = None;
                self.grieved();
            }
            // Every call looks for what is to be recalled at its end.
            Alarm::Rebalance => self.rebalance = None,
            Alarm::Pressed => {
                self.size.pressed = None;
                self.pressed();
            }
            Alarm::Seat(seat) => {
                self.seats[seat as usize].due = None;
                match self.worker(seat).map(|worker| worker.phase) {
                    None => self.recruit(seat),
                    Some(Phase::Doomed(_)) => self.abandon(seat),
                    Some(_) => self.doom(seat, Cause::Overdue),
                }
            }
            Alarm::Watch(seat) => {
                self.seats[seat as usize].watch = None;
                self.watch(seat);
            }
            Alarm::Task(index) => self.task_due(index),
        }
    }

    /// Puts a task that a worker holds on the ladder.
    pub(super) fn stop(&mut self, index: u32, kind: ErrorKind) {
        let Some(task) = self.tasks.at_mut(index) else { return };
        let (id, Some(sent)) = (task.id, &mut task.sent) else { return };
        if sent.stop.is_some() {
            return;
        }
        let (seat, stop) = (sent.seat, Stop { kind, rung: Rung::Asked });
        let holder = self.seats[seat as usize].worker.as_mut();
        let first = holder.is_some_and(|worker| {
            let others = worker.tasks.is_stopping();
            worker.tasks.halt(&mut self.tasks, index) && !others
        });
        let Some(sent) = self.tasks.at_mut(index).and_then(|task| task.sent.as_mut()) else { return };
        sent.stop = Some(stop);
        let Some(worker) = self.seats[seat as usize].worker.as_ref().filter(|worker| !worker.is_doomed())
        else {
            return self.clock.disarm(Alarm::Task(index), &mut sent.due);
        };
        let (worker, reachable) = (worker.id, worker.phase == Phase::Open);
        self.clock.arm(Alarm::Task(index), &mut sent.due, self.config.cancel_grace);
        if reachable {
            let grace = self.config.cancel_grace;
            self.act(Action::Cancel { worker, task: id, grace });
        }
        if first {
            // The others had better not wait for how that ends.
            self.list(seat);
            self.recall(seat, 1);
        }
    }

    /// Puts every task that a worker holds on the ladder: the pool's time is over.
    fn stop_all(&mut self) {
        let held: Vec<u32> = self.workers().flat_map(|worker| worker.tasks.iter(&self.tasks)).collect();
        for index in held {
            self.stop(index, ErrorKind::Closed);
        }
    }

    /// A task's timeout is over, or the next rung of its ladder is due.
    fn task_due(&mut self, index: u32) {
        let Some(sent) = self.tasks.at_mut(index).and_then(|task| task.sent.as_mut()) else { return };
        sent.due = None;
        let (seat, stops) = (sent.seat, sent.stop.is_some());
        match stops {
            // It may never have begun, and then its time does not count: what the worker leaves behind will tell.
            false if self.worker(seat).is_some_and(Worker::is_doomed) => {}
            false => self.stop(index, ErrorKind::TimedOut),
            true => self.climb(index),
        }
    }

    /// The next rung. Before a worker is hurt for a task that does not stop, those beside it have their grace to finish: it
    /// gets nothing new meanwhile, and gives back what it has not begun.
    fn climb(&mut self, index: u32) {
        let Some(sent) = self.tasks.at_mut(index).and_then(|task| task.sent.as_mut()) else { return };
        let (seat, Some(stop)) = (sent.seat, &mut sent.stop) else { return };
        let Some(worker) = &mut self.seats[seat as usize].worker else { return };
        if worker.is_doomed() {
            return;
        }
        match stop.rung {
            Rung::Asked => {
                stop.rung = Rung::Overdue;
                self.clock.arm(Alarm::Task(index), &mut sent.due, self.config.cancel_grace);
                let first = !std::mem::replace(&mut worker.quarantined, true);
                self.review(seat);
                self.list(seat);
                // What it has kept then, it has begun.
                if first {
                    self.recall_all(seat);
                }
            }
            Rung::Overdue => self.terminate(seat),
            Rung::Terminated => self.doom(seat, Cause::Ladder),
        }
    }

    /// Looks at a worker in quarantine: nobody is left on it who is to be spared, or nobody who did not stop.
    pub(super) fn review(&mut self, seat: u32) {
        let Some(worker) = self.worker(seat).filter(|worker| !worker.is_doomed()) else { return };
        let spared = worker.phase == Phase::Open && worker.tasks.has_grace(&self.tasks);
        if !worker.tasks.is_overdue(&self.tasks) {
            let worker = self.worker_mut(seat);
            worker.into_iter().for_each(|worker| worker.quarantined = worker.terminated);
        } else if worker.terminated || !spared || planted!(self, HurtNeighbours) {
            self.terminate(seat);
        }
    }

    /// Sends a worker SIGTERM for those of its tasks whose grace is over; SIGKILL is next.
    fn terminate(&mut self, seat: u32) {
        let Some(worker) = self.worker_mut(seat) else { return };
        let (id, first) = (worker.id, !std::mem::replace(&mut worker.terminated, true));
        let held: Vec<u32> =
            self.worker(seat).into_iter().flat_map(|it| it.tasks.iter(&self.tasks)).collect();
        for index in held {
            let Some(sent) = self.tasks.at_mut(index).and_then(|task| task.sent.as_mut()) else { continue };
            let Some(stop) = sent.stop.as_mut().filter(|stop| stop.rung == Rung::Overdue) else { continue };
            stop.rung = Rung::Terminated;
            self.clock.disarm(Alarm::Task(index), &mut sent.due);
            if !planted!(self, ForgetRung) {
                self.clock.arm(Alarm::Task(index), &mut sent.due, self.config.term_grace);
            }
        }
        if first {
            self.act(Action::Terminate { worker: id });
        }
        self.list(seat);
    }

    /// Takes a task off its ladder, and its timeout off the clock.
    pub(super) fn forget_ladder(&mut self, index: u32) {
        if let Some(sent) = self.tasks.at_mut(index).and_then(|task| task.sent.as_mut()) {
            self.clock.disarm(Alarm::Task(index), &mut sent.due);
        }
    }

    /// Notes that a frame came, and says whether it counts.
    pub(super) fn hear(&mut self, seat: u32) -> bool {
        let now = self.clock.now();
        let Some(worker) = self.worker_mut(seat) else { return false };
        (worker.heard, worker.pinged) = (now, false);
        match worker.phase {
            Phase::Doomed(Cause::Violation) => false,
            Phase::Parted { .. } => {
                self.doom(seat, Cause::Violation);
                false
            }
            _ => true,
        }
    }

    /// Pings a worker that is silent over its tasks, or gives it up. One with a task on the ladder is left to that: the
    /// ladder ends in any case, and a patient one was the user's wish.
    fn watch(&mut self, seat: u32) {
        let now = self.clock.now();
        let place = &mut self.seats[seat as usize];
        // In any other phase it has a limit anyway, and may not be able to answer.
        let open = place.worker.as_mut().filter(|it| it.phase == Phase::Open && !it.tasks.is_empty());
        let Some(worker) = open else {
            return;
        };
        let stopping = |index| {
            self.tasks.at(index).is_some_and(|it| it.sent.as_ref().is_some_and(|it| it.stop.is_some()))
        };
        let silent = now.saturating_sub(worker.heard);
        if worker.tasks.iter(&self.tasks).any(stopping) {
            return self.clock.arm(Alarm::Watch(seat), &mut place.watch, WATCH);
        }
        let again = if silent >= SILENCE {
            return self.doom(seat, Cause::Silence);
        } else if silent >= WATCH {
            WATCH.min(SILENCE - silent)
        } else {
            WATCH - silent
        };
        let ping = (silent >= WATCH && !std::mem::replace(&mut worker.pinged, true)).then_some(worker.id);
        self.clock.arm(Alarm::Watch(seat), &mut place.watch, again);
        if let Some(worker) = ping {
            self.act(Action::Ping { worker });
        }
    }

    /// Tells an open worker that holds nothing to go.
    pub(super) fn dismiss(&mut self, seat: u32, reason: Leave) {
        let Some(worker) = self.worker_mut(seat) else { return };
        worker.phase = Phase::Leaving;
        (worker.leave, worker.dismissed) = (Some(reason), true);
        let worker = worker.id;
        self.limit_phase(seat, self.config.leave_limit);
        self.list(seat);
        self.act(Action::Drain { worker });
    }

    pub(super) fn parted(&mut self, seat: u32) {
        let Some(worker) = self.worker_mut(seat) else { return };
        if worker.is_doomed() {
            return;
        }
        let told = worker.phase == Phase::Leaving;
        worker.phase = Phase::Parted { told };
        if !told {
            self.limit_phase(seat, self.config.leave_limit);
        }
        self.list(seat);
    }

    /// The link ended. After `Bye` that is how it should be.
    pub(super) fn hung_up(&mut self, seat: u32) {
        let Some(worker) = self.worker_mut(seat) else { return };
        if worker.is_doomed() || matches!(worker.phase, Phase::Parted { .. } | Phase::HungUp) {
            return;
        }
        worker.phase = Phase::HungUp;
        self.limit_phase(seat, HANG_UP_GRACE);
        self.list(seat);
    }

    /// Kills a worker. Its tasks are resolved when it is lost, or given up.
    pub(super) fn doom(&mut self, seat: u32, cause: Cause) {
        let Some(worker) = self.worker_mut(seat) else { return };
        let doomed = worker.is_doomed();
        if !doomed || cause == Cause::Violation {
            worker.phase = Phase::Doomed(cause);
        }
        if doomed {
            return;
        }
        if cause == Cause::Closing {
            worker.leave.get_or_insert(Leave::Closing);
            worker.dismissed = true;
        }
        let worker = worker.id;
        self.limit_phase(seat, KILL_LIMIT);
        self.list(seat);
        self.act(Action::Kill { worker });
    }

    /// Lets go of a worker that did not die of SIGKILL. What it has begun is unknown.
    fn abandon(&mut self, seat: u32) {
        let Some(mut worker) = self.vacate(seat) else { return };
        self.act(Action::Abandon { worker: worker.id });
        let mut back = Vec::new();
        while let Some(index) = worker.tasks.pop_front(&mut self.tasks) {
            self.forget_ladder(index);
            let Some((_, stop)) = self.tasks.take(index, true) else { continue };
            if !self.retry(index, stop, (&worker, ErrorKind::Unresponsive), &mut back) {
                self.fail(index, ErrorKind::Unresponsive, Some(worker.id), true);
            }
        }
        self.queue.put_back(&mut self.tasks, back);
        let end = match worker.end() {
            End::Lost(_) => End::Lost(ErrorKind::Unresponsive),
            end => end,
        };
        self.act(Action::Tell(Notice::Gone { worker: worker.id, end }));
        self.replace(seat, &worker, false);
        self.call_back_for_rest();
    }

    pub(super) fn limit_phase(&mut self, seat: u32, limit: Duration) {
        self.clock.arm(Alarm::Seat(seat), &mut self.seats[seat as usize].due, limit);
    }
}
