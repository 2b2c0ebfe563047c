//! What the lock of a pool guards: the scheduler, the table of calls, the table of ports. It performs actions by
//! writing into outboxes and reply slots; it never waits and never does I/O.

use std::any::TypeId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::Signal;

use super::Life;
use super::autopsy;
use super::bus::Bus;
use super::calls::Calls;
use super::port::Port;
use super::report::{self, Death, Overdue};
use super::send::find;
use crate::error::{Error, Exit};
use crate::id::{TaskId, WorkerId};
use crate::launch::body::Control;
use crate::launch::service::Alarm;
use crate::link::Outbox;
use crate::sched::{Action, Answer, Config, Input, Scheduler, Tally};
use crate::uplink::{Line, Uplink};
use crate::wire::OTHER_VERSION;
use crate::wire::codec::Codec;
use crate::wire::frame::{Ready, TaskType, ToParent, ToWorker, Tree, Verdict};
use crate::wire::payload::Payload;

pub(super) struct State {
    pub(super) sched: Scheduler,
    pub(super) calls: Calls,
    /// By the worker's slot.
    pub(super) ports: Vec<Option<Port>>,
    pub(super) codec: Codec<ToParent>,
    /// What the workers can do; from the first one's greeting, and every other must bring the same.
    pub(super) table: Option<Vec<TaskType>>,
    /// Positions in the table of the types that were used.
    pub(super) kinds: HashMap<TypeId, (u32, &'static str)>,
    /// The one that was looked for last.
    pub(super) latest: Option<(TypeId, u32)>,
    /// The workers above, if this is a pool inside one, and how to ask the pool that has this one.
    pub(super) path: Vec<WorkerId>,
    line: Option<Arc<Line>>,
    /// The same when something is to be said, which is done when the lock is free.
    pub(super) speaker: Option<Arc<Line>>,
    /// Why a worker could not be started, the last time.
    pub(super) start_error: Option<Error>,
    /// Whether workers end when they are killed.
    pub(super) can_kill: bool,
    /// How long a worker may take to greet, and to open after that.
    limits: (Duration, Duration),
    /// How many tasks a worker has to run at once.
    pub(super) slots: u32,
    pub(super) alarm: Alarm,
    /// The clock's task, and when the alarm will wake it.
    pub(super) clock: Option<Waker>,
    pub(super) armed: Option<Instant>,
    /// What has become of everything, once the scheduler has no tasks and no workers any more and wants none.
    pub(super) ended: Option<Tally>,
    pub(super) bus: Bus,
    /// The tasks that the worker had begun whose loss is being handled.
    pub(super) fallen: Vec<TaskId>,
    /// The workers that did not die of SIGKILL, with their process ids, until they do.
    pub(super) abandoned: BTreeMap<WorkerId, Option<u32>>,
    /// To be told when the lock is free.
    pub(super) news: Option<Life>,
    /// To be woken when the lock is free.
    pub(super) woken: Vec<Waker>,
    /// To be dropped when the lock is free: a blob's memory may be anybody's, and its drop anybody's code.
    pub(super) spent: Vec<Payload>,
    /// The same: what was not sent to a worker that has gone.
    pub(super) unsent: Vec<Outbox>,
    /// Links to be started when the lock is free.
    pub(super) launches: Vec<WorkerId>,
}

/// What the driver holds while the scheduler decides what it means.
pub(super) enum Hand {
    Empty,
    Item(Payload),
    /// So many answers of a pack.
    Answers {
        worker: WorkerId,
        attempt: u32,
        n: u32,
        body: Bytes,
    },
    Answer {
        worker: WorkerId,
        task: TaskId,
        attempt: u32,
        used: Duration,
        verdict: Verdict,
        body: Payload,
    },
    Death(WorkerId, Box<Death>),
}

impl State {
    pub(super) fn new(
        config: Config,
        limit: u32,
        can_kill: bool,
        tree: &Tree,
        uplink: Option<&Uplink>,
        line: Option<Arc<Line>>,
    ) -> Result<Self, Error> {
        Ok(Self {
            can_kill,
            limits: (config.start_limit, config.init_limit),
            slots: config.slots,
            sched: Scheduler::new(config),
            calls: Calls::default(),
            ports: Vec::new(),
            codec: Codec::new(limit),
            // Workers below run this same program, whose tasks are known.
            table: uplink.map(|uplink| uplink.kinds().to_vec()),
            path: tree.path.clone(),
            line,
            speaker: None,
            kinds: HashMap::new(),
            latest: None,
            start_error: None,
            alarm: Alarm::new()?,
            clock: None,
            armed: None,
            ended: None,
            bus: Bus::default(),
            fallen: Vec::new(),
            abandoned: BTreeMap::new(),
            news: None,
            woken: Vec::new(),
            spent: Vec::new(),
            unsent: Vec::new(),
            launches: Vec::new(),
        })
    }

    pub(super) fn handle(&mut self, now: Instant, input: Input) {
        self.handle_with(now, input, &mut Hand::Empty);
    }

    #[inline]
    fn handle_with(&mut self, now: Instant, input: Input, hand: &mut Hand) {
        let now = if matches!(input, Input::Tick) { now } else { self.punctual(now) };
        self.sched.handle(now, input);
        self.act(hand);
    }

    /// Takes in one of the many things that a worker says; `now` is punctual, and `conclude` has to follow. What is still in the
    /// hand after that was not wanted.
    pub(super) fn take_in(&mut self, now: Instant, input: Input, hand: &mut Hand) {
        self.sched.take_in(now, input);
        self.act(hand);
    }

    /// Does what comes of everything that was taken in.
    pub(super) fn conclude(&mut self) {
        self.sched.conclude();
        self.act(&mut Hand::Empty);
    }

    pub(super) fn act(&mut self, hand: &mut Hand) {
        while let Some(action) = self.sched.poll_action() {
            self.perform(action, hand);
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.sched.is_running()
    }

    /// Cancels every task on a leash.
    pub(super) fn cancel_leashed(&mut self, now: Instant, leash: u64) {
        for task in self.calls.leashed(leash) {
            self.handle(now, Input::Cancel { task });
        }
    }

    /// Ends everything. The kills do not wait for the links' tasks, whose runtime may never run again.
    pub(super) fn abort(&mut self, now: Instant) {
        self.handle(now, Input::Abort);
        for port in self.ports.iter_mut().flatten() {
            if let Some(control) = port.control.take() {
                control.release();
            }
        }
    }

    pub(super) fn port(&self, worker: WorkerId) -> Option<&Port> {
        self.ports.get(worker.slot())?.as_ref().filter(|port| port.worker == worker)
    }

    pub(super) fn port_mut(&mut self, worker: WorkerId) -> Option<&mut Port> {
        find(&mut self.ports, worker)
    }

    /// The worker's process runs.
    pub(super) fn launched(&mut self, worker: WorkerId, control: Control) {
        match self.port_mut(worker) {
            Some(port) if !port.doomed => {
                let pid = control.pid();
                port.control = Some(control);
                self.tell_started(worker, pid);
            }
            _ => control.release(),
        }
    }

    /// The worker broke a rule.
    pub(super) fn violated(&mut self, now: Instant, worker: WorkerId, fault: String) {
        if let Some(port) = self.port_mut(worker) {
            port.fault.get_or_insert(fault);
            self.handle(now, Input::Violated { worker });
        }
    }

    /// The worker is gone and everything that it said has been handled.
    pub(super) fn lost(&mut self, now: Instant, worker: WorkerId, begun: u64, death: Option<Death>) {
        let mut death = death.unwrap_or_default();
        self.mourn(worker, &mut death);
        if death.futile {
            self.handle(now, Input::Futile { worker });
        }
        let input = if death.scarce { Input::Scarce { worker } } else { Input::Lost { worker, begun } };
        death.ran = self.sched.running_for(now, worker);
        self.handle_with(now, input, &mut Hand::Death(worker, Box::new(death)));
    }

    /// Adds what is known here of a worker that has gone or was given up, and keeps why if it never took tasks.
    fn mourn(&mut self, worker: WorkerId, death: &mut Death) {
        if let Some(port) = self.port(worker) {
            death.pid = port.pid().or(death.pid);
            death.fault = death.fault.take().or_else(|| port.fault.clone());
            death.ours = port.doomed || port.terminated;
            death.hint = autopsy::hint(death.exit, death.ours, &death.words, death.oom_kills);
            if !port.opened {
                death.futile |= port.futile || death.exit == Some(Exit::Code(OTHER_VERSION));
                let overdue = port.doomed && !death.hung_up && death.fault.is_none();
                death.overdue = overdue.then(|| Overdue::new(port.greeted, self.limits));
                self.start_error = Some(report::not_started(worker, death));
            }
        }
    }

    /// The worker's process has been reaped, or was given up: nothing of it is left here.
    pub(super) fn left(&mut self, worker: WorkerId) {
        self.abandoned.remove(&worker);
        self.vacate(worker);
    }

    fn vacate(&mut self, worker: WorkerId) {
        if let Some(port) =
            self.ports.get_mut(worker.slot()).and_then(|place| place.take_if(|p| p.worker == worker))
        {
            self.woken.extend(port.waker);
            self.unsent.push(port.outbox);
        }
        self.close();
    }

    /// Handles one of the frames that a worker has sent; `now` is punctual, and `conclude` has to follow.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        worker: WorkerId,
        nonce: &[u8; 16],
        frame: ToParent,
        body: Payload,
    ) {
        match frame {
            ToParent::Ready(ready) => match self.unfit(worker, &ready, nonce) {
                Some(fault) => {
                    self.port_mut(worker).into_iter().for_each(|port| port.futile = !port.greeted);
                    self.violated(now, worker, fault);
                }
                None => {
                    self.table.get_or_insert(ready.tasks);
                    if let Some(port) = self.port_mut(worker) {
                        port.greeted(ready.pid);
                    }
                    self.handle(now, Input::Ready { worker });
                }
            },
            ToParent::Open(_) => {
                if let Some(port) = self.port_mut(worker) {
                    port.opened |= port.greeted;
                }
                self.handle(now, Input::Open { worker });
            }
            ToParent::Done { task, attempt, used_us, verdict } => {
                let answer = match verdict {
                    Verdict::Cancelled { began } => Answer::Cancelled { began },
                    _ => Answer::Finished,
                };
                if let Some(port) = find(&mut self.ports, worker) {
                    port.answered(1);
                }
                let used = Duration::from_micros(used_us.into());
                let mut hand = Hand::Answer { worker, task, attempt, used, verdict, body };
                self.take_in(now, Input::Done { worker, task, attempt, answer, used }, &mut hand);
            }
            ToParent::Item { task, attempt } => self.receive_item(now, worker, task, attempt, body),
            ToParent::Answers { task, attempt } => self.receive_answers(now, worker, task, attempt, &body),
            ToParent::Cut { task, attempt, from } => self.receive_cut(now, worker, task, attempt, from),
            ToParent::Recalled { tasks } => {
                if let Some(port) = find(&mut self.ports, worker) {
                    port.answered(tasks.len());
                }
                self.handle(now, Input::Recalled { worker, tasks });
            }
            ToParent::Bye => self.handle(now, Input::Bye { worker }),
            ToParent::Lease { kind, n } => self.handle(now, Input::Lease { worker, kind, n }),
            ToParent::Returned { kind, n } => self.handle(now, Input::Returned { worker, kind, n }),
            ToParent::Ping { nonce } => {
                self.send(worker, &ToWorker::Pong { nonce });
                self.handle(now, Input::Heard { worker });
            }
            ToParent::Pong { .. } | ToParent::Nudge => self.handle(now, Input::Heard { worker }),
            ToParent::Started { .. }
            | ToParent::Chunk { .. }
            | ToParent::Log { .. }
            | ToParent::Usage { .. }
            | ToParent::Granted { .. }
            | ToParent::Spans { .. }
            | ToParent::Released { .. } => self.violated(now, worker, report::UNASKED.to_owned()),
        }
    }

    /// What is wrong with a worker's greeting, if anything is.
    fn unfit(&self, worker: WorkerId, ready: &Ready, nonce: &[u8; 16]) -> Option<String> {
        let unguarded = || {
            let unguarded = self.port(worker).is_some_and(|port| port.is_unguarded(ready.pid));
            unguarded.then(|| report::UNGUARDED.to_owned())
        };
        report::unfit(ready, nonce, self.slots, self.table.as_deref()).or_else(unguarded)
    }

    fn perform(&mut self, action: Action, hand: &mut Hand) {
        match action {
            Action::Launch { worker } => self.launch(worker),
            Action::Run { worker, task, attempt, left } => self.send_run(worker, task, attempt, left),
            Action::Cancel { worker, task, grace } => {
                let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
                self.send(worker, &ToWorker::Cancel { task, grace_ms });
            }
            Action::Deliver { task } => match std::mem::replace(hand, Hand::Empty) {
                Hand::Item(item) => self.deliver(task, item),
                Hand::Answers { worker, attempt, n, body } => {
                    self.deliver_answers(task, (worker, attempt), n, body);
                }
                _ => {}
            },
            Action::Part { task, begun, outcome } => self.part(task, begun, outcome, hand),
            Action::Split { task, at, rest } => self.split(task, at, rest),
            Action::Credit { worker, task, credit } => self.send(worker, &ToWorker::Credit { task, credit }),
            Action::Recall { worker, tasks } => self.send(worker, &ToWorker::Recall { tasks }),
            Action::Drain { worker } => self.send(worker, &ToWorker::Drain),
            Action::Ping { worker } => self.send(worker, &ToWorker::Ping { nonce: 0 }),
            Action::Lend { worker, kind, n } => self.send(worker, &ToWorker::Granted { kind, n }),
            Action::Nudge { worker } => self.send(worker, &ToWorker::Nudge),
            Action::Ask { kind, n } => self.speaker().iter().for_each(|line| line.ask(kind, n)),
            Action::Return { kind, n } => self.speaker().iter().for_each(|line| line.give_back(kind, n)),
            Action::Terminate { worker } => {
                if let Some(port) = self.port_mut(worker) {
                    port.terminated = true;
                    if let Some(control) = &port.control {
                        control.signal(Signal::SIGTERM);
                    }
                }
            }
            Action::Kill { worker } => {
                if let Some(port) = self.port_mut(worker) {
                    port.doomed = true;
                    if let Some(control) = &port.control {
                        control.signal(Signal::SIGKILL);
                    }
                    let waker = port.call();
                    self.woken.extend(waker);
                }
            }
            Action::Abandon { worker } => {
                let mut death = Box::<Death>::default();
                self.mourn(worker, &mut death);
                *hand = Hand::Death(worker, death);
                let pid = self.port(worker).and_then(Port::pid);
                self.abandoned.insert(worker, pid);
                self.vacate(worker);
            }
            Action::Tell(notice) => {
                let death = match hand {
                    Hand::Death(_, death) => Some(&**death),
                    _ => None,
                };
                self.tell(notice, death);
            }
            Action::Grant { task } => {
                let waker = self.calls.place(task);
                self.woken.extend(waker);
            }
            Action::Retry { task, worker, kind, attempts } => {
                self.fall(task, Some(worker), hand, true);
                let error = self.failed(kind, task, Some(worker), attempts, hand);
                self.calls.note(task, &error);
            }
            Action::Resolve { task, outcome } => self.resolve(task, outcome, hand),
            Action::Started { ok: true } => self.live(Life::Started),
            Action::Started { ok: false } => self.live(Life::Failed(self.not_started())),
            Action::Closed(tally) => {
                self.ended = Some(tally);
                self.close();
            }
        }
    }

    /// The line upwards, which will be spoken on.
    fn speaker(&mut self) -> Option<&Arc<Line>> {
        self.speaker.clone_from(&self.line);
        self.line.as_ref()
    }

    fn launch(&mut self, worker: WorkerId) {
        if self.ports.len() <= worker.slot() {
            self.ports.resize_with(worker.slot() + 1, || None);
        }
        self.ports[worker.slot()] = Some(Port::new(worker));
        self.launches.push(worker);
    }
}
