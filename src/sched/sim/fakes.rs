//! The workers: what they do when told something, and how they misbehave.

use std::time::Duration;

use super::Checked;
use super::flow::Source;
use super::plan::Fault;
use super::rng::Rng;
use super::world::World;
use crate::id::{TaskId, WorkerId};
use crate::sched::{Answer, Input};

const MOMENT: Duration = Duration::from_micros(1);

/// How soon to see again whether a worker is still blocked.
const AGAIN: Duration = Duration::from_millis(50);

/// What a worker does.
#[derive(Clone)]
pub(super) enum Deed {
    Say(Say),
    /// The task has come through the link.
    Arrive(u64),
    /// Gives back what it has not begun of what it was asked for.
    Return(Vec<TaskId>),
    Answer(u64, Answer),
    /// Sends items of a stream.
    Emit(u64),
    Fail(u64, Fault),
    /// The task that blocks its worker goes on.
    Unblock,
    Die,
    /// It could not even be launched.
    Refuse,
}

#[derive(Clone, Copy)]
pub(super) enum Say {
    Ready,
    Open,
    Pong,
    Bye,
}

/// A task that a worker has not answered.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) sequence: u64,
    pub(super) task: TaskId,
    attempt: u32,
    /// How long it will take, and what will go wrong.
    wait: Duration,
    fault: Option<Fault>,
    source: Option<Source>,
    arrived: bool,
    begun: bool,
}

impl Held {
    /// Whose items they are, and what is still to be sent, if it is a stream.
    pub(super) fn parts(&mut self) -> Option<(TaskId, u32, &mut Source)> {
        self.source.as_mut().map(|source| (self.task, self.attempt, source))
    }

    /// What there is to spend, at least 1.
    pub(super) fn purse(&self) -> (TaskId, u32, u32) {
        let credit = self.source.map_or(1, |source| source.credit.max(1));
        (self.task, self.attempt, credit as u32)
    }
}

/// A worker. It begins tasks in the order of sending, as many at once as it has slots.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) held: Vec<Held>,
    pub(super) slots: usize,
    pub(super) sent: u64,
    pub(super) begun: u64,
    /// How much memory it has.
    bytes: u64,
    pub(super) silent: bool,
    /// Whether a task blocks it.
    pub(super) blocked: bool,
    pub(super) ignores_cancel: bool,
    pub(super) ignores_term: bool,
    pub(super) ignores_drain: bool,
    pub(super) immortal: bool,
    /// Whether its start fails for a reason that its successor will have, too.
    futile: bool,
}

impl Fake {
    /// Whether this task has begun and gets no further.
    fn is_stuck(&self, sequence: u64) -> bool {
        self.blocked && self.held.iter().any(|held| held.begun && held.sequence == sequence)
    }
}

impl World {
    pub(super) fn launch(&mut self, worker: WorkerId) {
        let bad = |rng: &mut Rng, percent| !self.calm && rng.percent(percent);
        let stubborn = self.plan.stubborn;
        let fake = Fake {
            ignores_cancel: bad(&mut self.rng, stubborn),
            ignores_term: bad(&mut self.rng, stubborn),
            ignores_drain: bad(&mut self.rng, stubborn),
            immortal: bad(&mut self.rng, self.plan.immortal),
            slots: self.plan.config.slots as usize,
            ..Fake::default()
        };
        let black = !self.calm && self.plan.is_black(self.model.now);
        let fails = black || bad(&mut self.rng, self.plan.bad_start);
        let refused = bad(&mut self.rng, self.plan.scarce);
        let fake = Fake { futile: fails && bad(&mut self.rng, self.plan.futile), ..fake };
        self.accuse(worker, fails || fake.ignores_drain);
        self.fakes.insert(worker, fake);
        if refused {
            return self.soon(20, worker, Deed::Refuse);
        }
        let (ready, open) = (self.rng.millis(0..50) + MOMENT, self.rng.millis(50..150));
        let stage = if fails { self.rng.within(0..5) } else { 9 };
        if stage > 0 && !(black && self.rng.percent(50)) {
            self.after(ready, worker, Deed::Say(Say::Ready));
            if stage == 4 {
                let twice = self.rng.pick(&[Say::Ready, Say::Bye]);
                self.after(ready + MOMENT, worker, Deed::Say(twice));
            }
        }
        if stage > 4 {
            self.after(open, worker, Deed::Say(Say::Open));
        } else if stage < 3 {
            // The others hang.
            self.soon(200, worker, Deed::Die);
        }
    }

    /// Notes that from now on there is a reason to kill this worker.
    fn accuse(&mut self, worker: WorkerId, guilty: bool) {
        if let Some(known) = self.model.workers.get_mut(&worker) {
            known.guilty |= guilty;
        }
    }

    pub(super) fn take(&mut self, worker: WorkerId, task: TaskId, attempt: u32) {
        let Some(fake) = self.fakes.get_mut(&worker) else { return };
        fake.sent += 1;
        let sequence = fake.sent;
        let wait = match self.rng.within(0..10) {
            _ if !self.calm && self.rng.percent(self.plan.slow) => self.rng.millis(1000..9000),
            0 => self.rng.millis(80..1000),
            _ => self.rng.millis(1..80),
        };
        let begin = self.rng.pick(&[1, 2, 200]);
        let faulty = !self.calm && !self.plan.faults.is_empty() && self.rng.percent(self.plan.faulty);
        let poison = !self.calm && self.plan.poison && self.model.tasks[&task].spec.kind == 2;
        let fate = poison.then_some(Fault::Die);
        let fault = faulty.then(|| self.rng.pick(&self.plan.faults)).or(fate);
        if fault == Some(Fault::Die) && self.rng.percent(40) {
            return self.soon(2, worker, Deed::Die);
        }
        let wait = if fault.is_some() { wait.min(Duration::from_millis(500)) } else { wait };
        let stream = self.model.tasks.get(&task).is_some_and(|record| record.spec.stream);
        let source = stream.then(|| self.source());
        let held = Held { sequence, task, attempt, wait, fault, source, arrived: false, begun: false };
        if let Some(fake) = self.fakes.get_mut(&worker) {
            fake.held.push(held);
        }
        self.soon(begin, worker, Deed::Arrive(sequence));
    }

    /// Begins what there is a slot for.
    fn proceed(&mut self, worker: WorkerId) {
        let Some(fake) = self.fakes.get_mut(&worker).filter(|fake| !fake.blocked) else { return };
        let mut begun = Vec::new();
        let mut free = fake.slots.saturating_sub(fake.held.iter().filter(|held| held.begun).count());
        for held in fake.held.iter_mut().filter(|held| !held.begun) {
            if free == 0 || !held.arrived {
                break;
            }
            free -= 1;
            held.begun = true;
            fake.begun = held.sequence;
            begun.push(*held);
        }
        for Held { sequence, wait, fault, source, .. } in begun {
            if source.is_some() {
                self.soon(3, worker, Deed::Emit(sequence));
                if fault.is_none() {
                    continue;
                }
            }
            let deed = match fault {
                None => Deed::Answer(sequence, Answer::Finished),
                Some(fault) => Deed::Fail(sequence, fault),
            };
            self.after(wait, worker, deed);
        }
    }

    pub(super) fn leave(&mut self, worker: WorkerId) {
        let Some(fake) = self.fakes.get(&worker) else { return };
        let stays = fake.ignores_drain && !self.calm;
        if !stays || self.rng.percent(50) {
            self.soon(50, worker, Deed::Say(Say::Bye));
        }
        if !stays {
            let delay = self.rng.millis(50..120);
            self.after(delay, worker, Deed::Die);
        }
    }

    pub(super) fn perform(&mut self, worker: WorkerId, deed: Deed) -> Checked {
        let Some(fake) = self.fakes.get_mut(&worker) else { return Ok(()) };
        match deed {
            Deed::Arrive(sequence) => {
                if let Some(held) = fake.held.iter_mut().find(|held| held.sequence == sequence) {
                    held.arrived = true;
                }
                self.proceed(worker);
            }
            Deed::Die => return self.die(worker),
            Deed::Refuse => {
                self.fakes.remove(&worker);
                return self.feed(Input::Scarce { worker });
            }
            Deed::Unblock => {
                fake.blocked = false;
                self.proceed(worker);
            }
            Deed::Answer(sequence, _) | Deed::Fail(sequence, _) if fake.is_stuck(sequence) => {
                self.after(AGAIN, worker, deed);
            }
            Deed::Say(_) | Deed::Answer(..) | Deed::Return(_) if fake.silent => {}
            Deed::Return(asked) => {
                let unbegun = |task: &TaskId| fake.held.iter().any(|held| held.task == *task && !held.begun);
                let tasks: Vec<TaskId> = asked.into_iter().filter(unbegun).collect();
                fake.held.retain(|held| !tasks.contains(&held.task));
                self.proceed(worker);
                return self.feed(Input::Recalled { worker, tasks });
            }
            Deed::Say(Say::Ready) => return self.feed(Input::Ready { worker }),
            Deed::Say(Say::Open) => return self.feed(Input::Open { worker }),
            Deed::Say(Say::Pong) => return self.feed(Input::Heard { worker }),
            Deed::Say(Say::Bye) => return self.feed(Input::Bye { worker }),
            Deed::Answer(sequence, answer) => {
                let at = fake.held.iter().position(|held| held.sequence == sequence);
                let Some(at) = at else { return Ok(()) };
                let Held { task, attempt, begun: began, wait: used, .. } = fake.held.remove(at);
                if !began && answer == Answer::Finished {
                    fake.begun = fake.begun.max(sequence);
                }
                self.proceed(worker);
                let answer = match answer {
                    Answer::Cancelled { .. } => Answer::Cancelled { began },
                    Answer::Finished => answer,
                };
                self.feed(Input::Done { worker, task, attempt, answer, used })?;
                return self.weigh(worker);
            }
            Deed::Emit(sequence) => return self.emit(worker, sequence),
            Deed::Fail(sequence, fault) => return self.misbehave(worker, sequence, fault),
        }
        Ok(())
    }

    /// A worker that has answered may be weighed. It only grows.
    fn weigh(&mut self, worker: WorkerId) -> Checked {
        let grown = self.rng.within(0..8);
        let weighed = self.rng.percent(50);
        let Some(fake) = self.fakes.get_mut(&worker).filter(|_| weighed) else { return Ok(()) };
        fake.bytes += grown;
        let bytes = fake.bytes;
        self.feed(Input::Weighed { worker, bytes })
    }

    fn misbehave(&mut self, worker: WorkerId, sequence: u64, fault: Fault) -> Checked {
        let Some(fake) = self.fakes.get(&worker).filter(|fake| !fake.silent) else { return Ok(()) };
        let held = fake.held.iter().find(|held| held.sequence == sequence);
        let Some(&Held { task, attempt, wait: used, .. }) = held else { return Ok(()) };
        let done = Input::Done { worker, task, attempt, answer: Answer::Finished, used };
        self.accuse(worker, !matches!(fault, Fault::Die | Fault::Quit));
        match fault {
            Fault::Die => self.die(worker),
            Fault::Hang => match self.rng.within(0..4) {
                0 | 1 => {
                    self.fall_silent(worker);
                    Ok(())
                }
                2 => self.block(worker, sequence),
                _ => Ok(()),
            },
            Fault::Twice => {
                self.feed(done.clone())?;
                self.feed(done)
            }
            Fault::Stranger => {
                let task = self.stranger(task);
                self.feed(Input::Done { worker, task, attempt, answer: Answer::Finished, used })
            }
            Fault::Stale => {
                let attempt = self.rng.pick(&[attempt.wrapping_sub(1), attempt + 1, 0, u32::MAX]);
                let answer = Answer::Cancelled { began: false };
                self.feed(Input::Done { worker, task, attempt, answer, used })
            }
            Fault::HangUp => {
                self.fall_silent(worker);
                self.feed(Input::HungUp { worker })?;
                if self.rng.percent(70) {
                    self.soon(400, worker, Deed::Die);
                }
                Ok(())
            }
            Fault::Garble => self.feed(Input::Violated { worker }),
            Fault::Bye => {
                self.feed(Input::Bye { worker })?;
                match self.rng.within(0..3) {
                    0 => self.perform(worker, Deed::Answer(sequence, Answer::Finished)),
                    1 => self.die(worker),
                    _ => {
                        self.fall_silent(worker);
                        Ok(())
                    }
                }
            }
            Fault::Quit => self.perform(worker, Deed::Answer(sequence, Answer::Cancelled { began: true })),
            Fault::Return => self.feed(Input::Recalled { worker, tasks: vec![task] }),
            Fault::Flood => self.flood(worker, sequence),
            Fault::Ghost => {
                let stale = self.rng.percent(30);
                let (task, attempt) =
                    if stale { (task, attempt + 1) } else { (self.stranger(task), attempt) };
                self.feed(Input::Item { worker, task, attempt, cost: 1 })
            }
            Fault::Late => {
                self.feed(done)?;
                self.feed(Input::Item { worker, task, attempt, cost: 1 })
            }
            Fault::Greet => {
                let greeting = self.rng.pick(&[Say::Ready, Say::Open]);
                self.perform(worker, Deed::Say(greeting))
            }
        }
    }

    /// Another task than this one, of any worker or of none.
    fn stranger(&mut self, task: TaskId) -> TaskId {
        let others: Vec<_> = self.model.live().into_iter().filter(|&other| other != task).collect();
        match others.is_empty() || self.rng.percent(30) {
            true => TaskId::new(self.rng.next() as u32, self.rng.next() as u32),
            false => self.rng.pick(&others),
        }
    }

    /// A task holds up everybody on its worker; what is said to the worker is heard.
    fn block(&mut self, worker: WorkerId, sequence: u64) -> Checked {
        if let Some(fake) = self.fakes.get_mut(&worker) {
            fake.blocked = true;
        }
        self.soon(8000, worker, Deed::Unblock);
        self.perform(worker, Deed::Answer(sequence, Answer::Finished))
    }

    fn fall_silent(&mut self, worker: WorkerId) {
        if let Some(fake) = self.fakes.get_mut(&worker) {
            fake.silent = true;
        }
        if let Some(known) = self.model.workers.get_mut(&worker) {
            known.deaf = true;
        }
    }

    /// It may have begun more in its last moment, over a relay nobody knows, and what it leaves behind may lie.
    fn die(&mut self, worker: WorkerId) -> Checked {
        let Some(fake) = self.fakes.remove(&worker) else { return Ok(()) };
        let begun = match self.rng.within(0..10) {
            0 => u64::MAX,
            1 => self.rng.within(0..fake.sent + 1),
            _ => self.rng.within(fake.begun..fake.sent + 1),
        };
        if fake.futile {
            self.feed(Input::Futile { worker })?;
        }
        self.feed(Input::Lost { worker, begun })
    }
}
