//! The workers of the simulated tree: they hear their parent and speak to it in order, run one task after the other, pass on
//! what their pools ask, leave and die.

use std::collections::VecDeque;
use std::time::Duration;

use super::Checked;
use super::tree::{Event, Node, Tree};
use crate::id::{TaskId, WorkerId};
use crate::sched::{Answer, Config, Input};
use crate::wire::frame::LeaseKind;

/// How long a process may take to see that one above it is dead.
const WATCHED: u64 = 500;

/// One worker.
#[derive(Default)]
pub(super) struct Fake {
    /// Its own pool.
    pub(super) below: Option<Node>,
    queue: VecDeque<(TaskId, u32, u64)>,
    pub(super) running: Option<(TaskId, u32)>,
    /// How many of the inner tasks of what it runs are not resolved.
    pub(super) inner: u32,
    received: u64,
    begun: u64,
    leaving: bool,
    /// When the last word of each direction arrives.
    down: Duration,
    up: Duration,
}

/// What it hears.
pub(super) enum Word {
    Run(TaskId, u32),
    Recall(Vec<TaskId>),
    Granted(LeaseKind, u32),
    Nudge,
    Ping,
    Drain,
}

impl Tree {
    /// A worker hears its parent.
    pub(super) fn down(&mut self, node: Node, worker: WorkerId, word: Word) {
        let at = self.now + self.rng.millis(0..1);
        let Some(fake) = self.fake(node, worker) else { return };
        fake.down = fake.down.max(at);
        let delay = fake.down - self.now;
        self.at(delay, Event::Word(node, worker, word));
    }

    /// A parent hears its worker.
    pub(super) fn up(&mut self, node: Node, worker: WorkerId, most: u64, input: Input) {
        let at = self.now + self.rng.millis(0..most);
        let Some(fake) = self.fake(node, worker) else { return };
        fake.up = fake.up.max(at);
        let delay = fake.up - self.now;
        self.at(delay, Event::Input(node, input));
    }

    /// The pool above hears the one in its worker.
    pub(super) fn above(&mut self, node: Node, input: impl Fn(WorkerId) -> Input) {
        if let Some((home, worker)) = self.pools.get(&node).and_then(|pool| pool.home) {
            self.up(home, worker, 1, input(worker));
        }
    }

    pub(super) fn hear(&mut self, node: Node, worker: WorkerId, word: Word) -> Checked {
        let Some(fake) = self.fake(node, worker) else { return Ok(()) };
        match word {
            Word::Run(task, attempt) => {
                fake.received += 1;
                fake.queue.push_back((task, attempt, fake.received));
                return self.begin(node, worker);
            }
            Word::Recall(mut tasks) => {
                tasks.retain(|task| {
                    let at = fake.queue.iter().position(|(queued, ..)| queued == task);
                    at.is_some_and(|at| fake.queue.remove(at).is_some())
                });
                self.up(node, worker, 1, Input::Recalled { worker, tasks });
            }
            Word::Ping => self.up(node, worker, 1, Input::Heard { worker }),
            Word::Drain => {
                fake.leaving = true;
                match fake.below {
                    Some(below) => return self.step(below, Input::Shutdown { limit: Duration::ZERO }),
                    None => self.part(node, worker),
                }
            }
            Word::Granted(kind, n) => {
                if let Some(below) = fake.below {
                    return self.step(below, Input::Granted { kind, n });
                }
            }
            Word::Nudge => {
                if let Some(below) = fake.below {
                    return self.step(below, Input::Nudged);
                }
            }
        }
        Ok(())
    }

    /// Runs the next task, if there is one: it fans out, or it is a leaf and takes a while.
    fn begin(&mut self, node: Node, worker: WorkerId) -> Checked {
        let Some(level) = self.pools.get(&node).map(|pool| pool.level) else { return Ok(()) };
        let (fan, depth) = (self.fan, self.depth);
        let Some(fake) = self.fake(node, worker) else { return Ok(()) };
        if fake.running.is_some() {
            return Ok(());
        }
        let Some((task, attempt, position)) = fake.queue.pop_front() else { return Ok(()) };
        (fake.running, fake.begun) = (Some((task, attempt)), position);
        if level == depth {
            self.soon(30, Event::Done(node, worker));
            return Ok(());
        }
        fake.inner = fan;
        let below = match fake.below {
            Some(below) => below,
            None => {
                let workers = self.width;
                let config = Config { workers, below: true, ..Config::default() };
                let below = self.build(config, Some((node, worker)), level + 1);
                if let Some(fake) = self.fake(node, worker) {
                    fake.below = Some(below);
                }
                self.step(below, Input::Start)?;
                below
            }
        };
        for _ in 0..fan {
            self.submit(below)?;
        }
        Ok(())
    }

    pub(super) fn done(&mut self, node: Node, worker: WorkerId) -> Checked {
        let Some(fake) = self.fake(node, worker) else { return Ok(()) };
        let Some((task, attempt)) = fake.running.take() else { return Ok(()) };
        let (answer, used) = (Answer::Finished, Duration::from_millis(10));
        self.up(node, worker, 1, Input::Done { worker, task, attempt, answer, used });
        self.begin(node, worker)
    }

    /// A worker says its last word and ends. Its own pool, if it had one, has ended.
    pub(super) fn part(&mut self, node: Node, worker: WorkerId) {
        if self.fake(node, worker).is_some_and(|fake| fake.leaving) {
            self.up(node, worker, 1, Input::Bye { worker });
            self.die(node, worker);
        }
    }

    /// A worker dies, and with it at once what it knew; the processes below it some time after.
    pub(super) fn die(&mut self, node: Node, worker: WorkerId) {
        let Some(begun) = self.fake(node, worker).map(|fake| fake.begun) else { return };
        self.up(node, worker, 2, Input::Lost { worker, begun });
        let fake = self.pools.get_mut(&node).and_then(|pool| pool.fakes.remove(&worker));
        self.alive -= 1;
        let mut below: Vec<Node> = fake.and_then(|fake| fake.below).into_iter().collect();
        while let Some(pool) = below.pop().and_then(|node| self.pools.remove(&node)) {
            for fake in pool.fakes.into_values() {
                below.extend(fake.below);
                let delay = self.rng.millis(0..WATCHED);
                self.at(delay, Event::Died);
            }
        }
    }
}
