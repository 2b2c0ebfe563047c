//! What decisions cost in instructions. `benches/instructions.py` counts them and compares.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Config, Pool, worker};
use crate::id::{TaskId, WorkerId};
use crate::sched::{Action, Answer, Input, Spec};
use crate::wire::counted::count;

const MICRO: Duration = Duration::from_micros(1);
const ROUNDS: u32 = 10_000;

/// A pool with tasks under way, on a clock of its own.
struct Load {
    pool: Pool,
    /// What each worker was sent and has not answered.
    sent: Vec<VecDeque<(TaskId, u32)>>,
    /// Who answers next: each as often as it was sent something.
    turns: VecDeque<WorkerId>,
    /// The places in the driver's table that no task has.
    free: Vec<u32>,
    serial: u32,
    resolved: u32,
    used: Duration,
}

impl Load {
    fn new(workers: u32, slots: u32, window: u32, used: Duration) -> Self {
        let config = Config { workers, slots, processors: 8, ..Config::default() };
        let mut pool = Pool::configured(config, workers);
        (0..workers).for_each(|seat| pool.opens(worker(seat + 1, seat)));
        pool.wanted.clear();
        let sent = vec![VecDeque::new(); workers as usize];
        let free = (0..window).rev().collect();
        Self { pool, sent, turns: VecDeque::new(), free, serial: 0, resolved: 0, used }
    }

    /// Tells the scheduler, and does what it wants.
    fn put(&mut self, input: Input) {
        self.pool.now += MICRO;
        self.pool.scheduler.handle(self.pool.now, input);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.pool.scheduler.poll_action() {
            match action {
                Action::Run { worker, task, attempt, .. } => {
                    self.sent[worker.slot()].push_back((task, attempt));
                    self.turns.push_back(worker);
                }
                Action::Resolve { task, .. } => {
                    self.free.push(task.index);
                    self.resolved += 1;
                }
                Action::Recall { worker, tasks } => {
                    self.sent[worker.slot()].retain(|(task, _)| !tasks.contains(task));
                    self.pool.scheduler.handle(self.pool.now, Input::Recalled { worker, tasks });
                }
                _ => {}
            }
        }
    }

    fn submit(&mut self, spec: Spec) -> TaskId {
        let place = self.free.pop().unwrap();
        self.serial += 1;
        let task = TaskId::new(self.serial, place);
        self.put(Input::Submit { task, spec });
        task
    }

    /// The worker whose turn it is answers so many of those that it has, and they are read together.
    fn answer_at_once(&mut self, most: usize) {
        let worker = self.turns.pop_front().unwrap();
        self.pool.now += MICRO;
        for _ in 0..most {
            let Some((task, attempt)) = self.sent[worker.slot()].pop_front() else { break };
            let (answer, used) = (Answer::Finished, self.used);
            self.pool.scheduler.take_in(self.pool.now, Input::Done { worker, task, attempt, answer, used });
            self.act();
        }
        self.pool.scheduler.conclude();
        self.act();
    }

    /// The worker whose turn it is answers so many of those that it has.
    fn answer(&mut self, most: usize, answer: Answer) {
        let worker = self.turns.pop_front().unwrap();
        for _ in 0..most {
            let Some((task, attempt)) = self.sent[worker.slot()].pop_front() else { return };
            self.put(Input::Done { worker, task, attempt, answer, used: self.used });
        }
    }

    /// Resolves so many tasks; new ones come when so many places are free.
    fn cycle(&mut self, rounds: u32, at: usize, burst: usize, spec: impl Fn(u32) -> Spec) {
        let end = self.resolved + rounds;
        while self.resolved < end {
            if self.free.len() >= at {
                while !self.free.is_empty() {
                    self.submit(spec(self.serial));
                }
            }
            self.answer(burst, Answer::Finished);
        }
    }
}

fn plain(_: u32) -> Spec {
    Spec::default()
}

#[test]
#[ignore = "a measurement, for release builds"]
fn counted() {
    for workers in [2, 256] {
        for (name, window, at, burst, used) in [
            ("one by one", 1, 1, 1, 10),
            ("full window", 1024, 1, 1, 10),
            ("full window, 100 us", 1024, 1, 1, 100),
            ("bursts", 1024, 256, usize::MAX, 100),
        ] {
            let mut load = Load::new(workers, 1, window, used * MICRO);
            let cycle = || load.cycle(ROUNDS, at, burst, plain);
            count(&format!("sched: {name}, {workers} workers"), ROUNDS, cycle);
        }
    }
    read_together();
    callers_and_limits();
    cancelled();
    streamed();
}

fn read_together() {
    let mut load = Load::new(2, 1, 1024, 10 * MICRO);
    count("sched: answers read together", ROUNDS, || {
        let end = load.resolved + ROUNDS;
        while load.resolved < end {
            while !load.free.is_empty() {
                load.submit(plain(0));
            }
            load.answer_at_once(32);
        }
    });
}

fn callers_and_limits() {
    let limits = |n: u32| Spec {
        kind: n % 3,
        lane: n % 16,
        timeout: Some(Duration::from_millis(900)),
        deadline: Some(Duration::from_millis(1000)),
        ..Spec::default()
    };
    let mut load = Load::new(8, 4, 1024, 100 * MICRO);
    count("sched: callers in turns, with limits", ROUNDS, || load.cycle(ROUNDS, 1, 1, limits));
    // What is urgent has what was sent ahead called back, time and again.
    let urgent = |n: u32| Spec { priority: (n % 4) as i8, ..Spec::default() };
    let mut load = Load::new(8, 4, 1024, 100 * MICRO);
    count("sched: four priorities", ROUNDS / 10, || load.cycle(ROUNDS / 10, 1, 1, urgent));
}

fn cancelled() {
    let mut load = Load::new(1, 1, ROUNDS + 2, MICRO);
    (0..2).for_each(|n| _ = load.submit(plain(n))); // One runs and one is sent ahead.
    count("sched: cancel what waits", ROUNDS, || {
        let tasks: Vec<_> = (0..ROUNDS).map(|n| load.submit(plain(n))).collect();
        tasks.into_iter().for_each(|task| load.put(Input::Cancel { task }));
    });
    assert_eq!(load.resolved, 2 * ROUNDS);
    let mut load = Load::new(16, 16, 256, MICRO);
    count("sched: cancel what runs", ROUNDS, || {
        for round in 0..ROUNDS / 100 {
            let tasks: Vec<_> = (0..100).map(|n| load.submit(plain(round + n))).collect();
            tasks.into_iter().for_each(|task| load.put(Input::Cancel { task }));
            while !load.turns.is_empty() {
                load.answer(1, Answer::Cancelled { began: true });
            }
        }
    });
    assert_eq!(load.resolved, 2 * ROUNDS);
}

fn streamed() {
    let mut load = Load::new(1, 1, 1, MICRO);
    let task = load.submit(Spec { stream: true, ..Spec::default() });
    count("sched: an item of a stream, sent and read", ROUNDS, || {
        for _ in 0..ROUNDS {
            load.put(Input::Item { worker: worker(1, 0), task, attempt: 1, cost: 1 });
            load.put(Input::Read { task, cost: 1 });
        }
    });
    load.answer(1, Answer::Finished);
    assert_eq!(load.resolved, 1, "a stream that has to end well");
}
