//! Packs: single rules, and a simulation of its own in which workers do right, die and are cut, judged task by task.

use std::collections::{HashMap, HashSet, VecDeque};

use super::*;
use crate::sched::sim::rng::Rng;

/// A pack of so many, as task `n`.
fn pack(n: u32, count: u32) -> Input {
    Input::Submit { task: task(n), spec: Spec { pack: count, ..Spec::default() } }
}

fn answers(by: WorkerId, n: u32, count: u32) -> Input {
    Input::Answers { worker: by, task: task(n), attempt: 1, n: count }
}

fn cut(by: WorkerId, n: u32, from: u32, rest: u32) -> Input {
    Input::Cut { worker: by, task: task(n), attempt: 1, from, rest: task(rest) }
}

fn parted(n: u32, begun: u32, kind: ErrorKind, by: WorkerId) -> Action {
    let outcome = Outcome::Failed { kind, worker: Some(by), attempts: 1, may_have_run: true };
    Action::Part { task: task(n), begun, outcome }
}

#[test]
fn a_pack_is_answered_in_parts_and_then_is_over() {
    let mut pool = Pool::open(1, 1);
    let by = worker(1, 0);
    pool.put(pack(1, 5));
    pool.wants(&[run(1, by, 1)]);
    pool.put(answers(by, 1, 2));
    pool.put(answers(by, 1, 3));
    pool.wants(&[Action::Deliver { task: task(1) }, Action::Deliver { task: task(1) }]);
    pool.done(1, by, 1);
    pool.wants(&[answered(1)]);
    assert_eq!(pool.scheduler.stats(pool.now).finished, 5);
}

#[test]
fn whoever_answers_more_than_there_is_or_ends_too_early_or_cuts_where_nothing_is_breaks_a_rule() {
    let by = worker(1, 0);
    let stranger =
        |n| Input::Done { worker: by, task: task(n), attempt: 1, answer: Answer::Finished, used: MS };
    let wrong = [
        vec![answers(by, 1, 6)],
        vec![answers(by, 1, 0)],
        vec![answers(by, 2, 1)],
        vec![answers(by, 1, 4), stranger(1)],
        vec![cut(by, 1, 0, 7)],
        vec![cut(by, 1, 5, 7)],
        vec![answers(by, 1, 3), cut(by, 1, 2, 7)],
        vec![Input::Answers { worker: by, task: task(1), attempt: 2, n: 1 }],
        vec![Input::Cut { worker: by, task: task(1), attempt: 2, from: 2, rest: task(7) }],
    ];
    for inputs in wrong {
        let mut pool = Pool::open(1, 1);
        pool.put(pack(1, 5));
        let what = format!("{inputs:?}");
        inputs.into_iter().for_each(|input| pool.put(input));
        assert_eq!(pool.wanted.last(), Some(&Action::Kill { worker: by }), "{what}");
    }
}

#[test]
fn a_lost_worker_costs_the_task_that_it_ran_and_the_rest_goes_on() {
    let mut pool = Pool::open(2, 1);
    let (first, second) = (worker(1, 0), worker(2, 1));
    pool.put(pack(1, 5));
    pool.put(answers(first, 1, 2));
    pool.wants(&[run(1, first, 1), Action::Deliver { task: task(1) }]);
    pool.lost(first, 3);
    let wanted = std::mem::take(&mut pool.wanted);
    assert_eq!(wanted[0], parted(1, 3, ErrorKind::Crashed, first));
    assert!(wanted.contains(&run(1, second, 1)), "{wanted:?}");
    pool.put(answers(second, 1, 2));
    pool.done(1, second, 1);
    assert!(pool.wanted.contains(&answered(1)));
}

#[test]
fn of_a_lost_worker_that_had_answered_all_nothing_is_lost() {
    let mut pool = Pool::open(1, 1);
    let by = worker(1, 0);
    pool.put(pack(1, 3));
    pool.put(answers(by, 1, 3));
    pool.wanted.clear();
    pool.lost(by, 3);
    assert_eq!(pool.wanted[..2], [parted(1, 3, ErrorKind::Crashed, by), answered(1)]);
}

#[test]
fn without_its_count_of_what_has_begun_all_may_have() {
    let mut pool = Pool::open(1, 1);
    let by = worker(1, 0);
    pool.put(pack(1, 3));
    pool.put(answers(by, 1, 1));
    pool.wanted.clear();
    pool.lost(by, u64::MAX);
    assert_eq!(pool.wanted[0], failed(1, ErrorKind::Crashed, Some(by), 1, true));
}

#[test]
fn what_is_cut_off_goes_to_whoever_has_nothing_to_do() {
    let mut pool = Pool::open(2, 1);
    let (first, second) = (worker(1, 0), worker(2, 1));
    pool.put(pack(1, 5));
    pool.put(cut(first, 1, 2, 9));
    let split = Action::Split { task: task(1), at: 2, rest: task(9) };
    pool.wants(&[run(1, first, 1), split, run(9, second, 1)]);
    pool.put(answers(first, 1, 2));
    pool.done(1, first, 1);
    pool.wants(&[Action::Deliver { task: task(1) }, answered(1)]);
}

#[test]
fn what_is_cut_off_while_the_pool_drains_has_a_worker_called_back_for_it() {
    let mut pool = Pool::open(2, 1);
    let (first, second) = (worker(1, 0), worker(2, 1));
    pool.put(pack(1, 5));
    pool.put(Input::Drain);
    pool.put(Input::Bye { worker: second });
    pool.lost(second, 0);
    pool.wanted.clear();
    pool.put(cut(first, 1, 2, 9));
    pool.pass(2000 * MS);
    assert!(pool.wanted.iter().any(|action| matches!(action, Action::Launch { .. })), "{:?}", pool.wanted);
}

#[test]
fn what_is_cut_off_of_a_pack_that_is_to_stop_stops_too() {
    let mut pool = Pool::open(1, 1);
    let by = worker(1, 0);
    pool.put(pack(1, 5));
    pool.put(Input::Cancel { task: task(1) });
    pool.wanted.clear();
    pool.put(cut(by, 1, 2, 9));
    let split = Action::Split { task: task(1), at: 2, rest: task(9) };
    pool.wants(&[split, failed(9, ErrorKind::Cancelled, None, 0, false)]);
    pool.put(answers(by, 1, 1));
    pool.put(Input::Done {
        worker: by,
        task: task(1),
        attempt: 1,
        answer: Answer::Cancelled { began: true },
        used: MS,
    });
    pool.wants(&[Action::Deliver { task: task(1) }, parted(1, 2, ErrorKind::Cancelled, by), answered(1)]);
}

#[test]
fn what_is_brief_is_packed_by_time_where_nobody_counts() {
    let packed = |config: Config, used: Duration| {
        let mut pool = Pool::configured(config, 1).opened(1);
        assert_eq!(pool.scheduler.pack(0), 0, "nothing is known yet");
        pool.submit([1]);
        let by = worker(1, 0);
        pool.put(Input::Done { worker: by, task: task(1), attempt: 1, answer: Answer::Finished, used });
        pool.scheduler.pack(0)
    };
    let us = Duration::from_micros;
    let plain = Config::default;
    assert_eq!(
        [us(0), us(1), us(10), us(20), us(21)].map(|used| packed(plain(), used)),
        [200, 100, 10, 5, 0]
    );
    for config in [
        Config { slots: 2, ..plain() },
        Config { most_tasks: 1000, ..plain() },
        Config { queue_limit: 1000, ..plain() },
    ] {
        assert_eq!(packed(config, us(1)), 0);
    }
}

/// A worker that does right: what it was sent, what it runs.
#[derive(Default)]
struct Hand {
    received: u64,
    queue: VecDeque<Sent>,
    /// With how many of it have begun, are finished, are answered, and will be run.
    runs: Option<(Sent, [usize; 4])>,
    told: HashSet<TaskId>,
}

#[derive(Clone)]
struct Sent {
    task: TaskId,
    attempt: u32,
    position: u64,
    items: Vec<u32>,
}

/// What comes of an action.
enum Next {
    Open(WorkerId),
    Recalled(WorkerId, Vec<TaskId>),
    Dies(WorkerId),
}

/// What has become of every single task, and what the scheduler makes of it.
struct World {
    pool: Pool,
    rng: Rng,
    packs: HashMap<TaskId, (Vec<u32>, usize)>,
    begun: HashSet<u32>,
    over: HashSet<u32>,
    hands: HashMap<WorkerId, Hand>,
    items: u32,
    ids: u32,
    hand: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let config = Config { workers: 3, ..Config::default() };
        let pool = Pool::configured(config, 3);
        let mut world = Self {
            pool,
            rng: Rng::new(seed),
            packs: HashMap::new(),
            begun: HashSet::new(),
            over: HashSet::new(),
            hands: HashMap::new(),
            items: 0,
            ids: 0,
            hand: 0,
        };
        (0..3).for_each(|seat| world.open(worker(seat + 1, seat)));
        world
    }

    fn open(&mut self, worker: WorkerId) {
        self.hands.insert(worker, Hand::default());
        self.put(Input::Ready { worker });
        self.put(Input::Open { worker });
    }

    /// One call of the scheduler, and what comes of it, in that order.
    fn put(&mut self, input: Input) {
        self.pool.now += Duration::from_micros(10);
        self.pool.put(input);
        self.pool.told.clear();
        let mut later = Vec::new();
        for action in std::mem::take(&mut self.pool.wanted) {
            later.extend(self.does(action));
        }
        for next in later {
            match next {
                Next::Open(worker) => self.open(worker),
                Next::Recalled(worker, tasks) => self.gives_back(worker, &tasks),
                Next::Dies(worker) => self.dies(worker),
            }
        }
    }

    fn gives_back(&mut self, worker: WorkerId, tasks: &[TaskId]) {
        let Some(hand) = self.hands.get_mut(&worker) else { return };
        let waits = |task: &&TaskId| hand.queue.iter().any(|sent| sent.task == **task);
        let tasks: Vec<_> = tasks.iter().filter(waits).copied().collect();
        hand.queue.retain(|sent| !tasks.contains(&sent.task));
        self.put(Input::Recalled { worker, tasks });
    }

    fn over(&mut self, item: u32, ran: Option<bool>) {
        assert!(self.over.insert(item), "{item} is resolved twice");
        let begun = self.begun.contains(&item);
        assert!(ran.is_none_or(|ran| ran == begun), "{item}: may have run is {ran:?}, and it has: {begun}");
    }

    fn does(&mut self, action: Action) -> Option<Next> {
        match action {
            Action::Launch { worker } => return Some(Next::Open(worker)),
            Action::Run { worker, task, attempt, .. } => {
                let items = self.packs[&task].0.clone();
                let hand = self.hands.get_mut(&worker).unwrap();
                let position = hand.received + 1;
                hand.received += items.len() as u64;
                hand.queue.push_back(Sent { task, attempt, position, items });
            }
            Action::Deliver { task } => {
                let (items, done) = self.packs.get_mut(&task).unwrap();
                let new = items[*done..*done + self.hand].to_vec();
                *done += self.hand;
                new.into_iter().for_each(|item| self.over(item, Some(true)));
            }
            Action::Part { task, begun, .. } => {
                let (items, done) = self.packs.get_mut(&task).unwrap();
                let parted: Vec<_> = items.drain(..begun as usize).skip(*done).collect();
                *done = 0;
                parted.into_iter().for_each(|item| self.over(item, Some(true)));
            }
            Action::Split { task, at, rest } => {
                let rest_items = self.packs.get_mut(&task).unwrap().0.split_off(at as usize);
                self.packs.insert(rest, (rest_items, 0));
            }
            Action::Resolve { task, outcome } => {
                let (items, done) = self.packs.remove(&task).unwrap();
                match outcome {
                    Outcome::Answered => assert_eq!(done, items.len()),
                    Outcome::Failed { may_have_run, .. } => {
                        items[done..].iter().for_each(|&item| self.over(item, Some(may_have_run)));
                    }
                }
            }
            Action::Recall { worker, tasks } => return Some(Next::Recalled(worker, tasks)),
            Action::Cancel { worker, task, .. } => {
                self.hands.get_mut(&worker).unwrap().told.insert(task);
            }
            Action::Kill { worker } | Action::Terminate { worker } => return Some(Next::Dies(worker)),
            _ => {}
        }
        None
    }

    fn submit(&mut self) {
        self.ids += 1;
        let (task, count) = (task(self.ids), self.rng.within(1..30) as u32);
        self.packs.insert(task, ((self.items..self.items + count).collect(), 0));
        self.items += count;
        self.put(Input::Submit { task, spec: Spec { pack: count, ..Spec::default() } });
    }

    /// Says the answers that have gathered.
    fn flush(&mut self, worker: WorkerId) {
        let Some((sent, [_, finished, said, _])) = &mut self.hands.get_mut(&worker).unwrap().runs else {
            return;
        };
        let (task, attempt, n) = (sent.task, sent.attempt, *finished - *said);
        *said = *finished;
        if n > 0 {
            self.hand = n;
            self.put(Input::Answers { worker, task, attempt, n: n as u32 });
        }
    }

    fn ends(&mut self, worker: WorkerId, answer: Answer) {
        self.flush(worker);
        let (Sent { task, attempt, .. }, _) = self.hands.get_mut(&worker).unwrap().runs.take().unwrap();
        self.put(Input::Done { worker, task, attempt, answer, used: Duration::from_micros(50) });
    }

    fn begins(&mut self, worker: WorkerId) {
        let hand = self.hands.get_mut(&worker).unwrap();
        if hand.runs.is_none() {
            let Some(sent) = hand.queue.pop_front() else { return };
            if hand.told.contains(&sent.task) {
                let (task, attempt, answer) = (sent.task, sent.attempt, Answer::Cancelled { began: false });
                return self.put(Input::Done { worker, task, attempt, answer, used: Duration::ZERO });
            }
            let until = sent.items.len();
            hand.runs = Some((sent, [0, 0, 0, until]));
        }
        let Some((sent, [begun, ..])) = &mut hand.runs else { return };
        let item = sent.items[*begun];
        *begun += 1;
        assert!(self.begun.insert(item) && !self.over.contains(&item), "{item} has begun before");
    }

    fn step(&mut self, worker: WorkerId) {
        let hand = self.hands.get_mut(&worker).unwrap();
        let Some((sent, [begun, finished, _, until])) = &mut hand.runs else { return self.begins(worker) };
        let told = hand.told.contains(&sent.task);
        match self.rng.within(0..10) {
            0 if *begun < *until => {
                *until = *begun;
                let (task, attempt, from) = (sent.task, sent.attempt, *begun as u32);
                self.ids += 1;
                let rest = super::task(self.ids);
                self.put(Input::Cut { worker, task, attempt, from, rest });
            }
            1 => self.flush(worker),
            2 if told => self.ends(worker, Answer::Cancelled { began: true }),
            _ => {
                *finished = *begun;
                match (begun, until) {
                    (begun, until) if begun == until => self.ends(worker, Answer::Finished),
                    _ if told => {
                        self.ends(worker, Answer::Cancelled { began: false });
                    }
                    _ => self.begins(worker),
                }
            }
        }
    }

    /// Everything that it has finished was said; perhaps it was just between two tasks.
    fn dies(&mut self, worker: WorkerId) {
        self.flush(worker);
        let Some(hand) = self.hands.remove(&worker) else { return };
        let before = hand.queue.front().map_or(hand.received, |next| next.position - 1);
        let begun = hand.runs.map_or(before, |(sent, [begun, ..])| sent.position - 1 + begun as u64);
        self.put(Input::Lost { worker, begun });
    }

    fn any(&mut self) -> Option<WorkerId> {
        let mut workers: Vec<_> = self.hands.keys().copied().collect();
        workers.sort_unstable();
        (!workers.is_empty()).then(|| workers[self.rng.within(0..workers.len() as u64) as usize])
    }

    fn run(mut self) {
        for _ in 0..2000 {
            match self.rng.within(0..100) {
                0..10 if self.packs.len() < 20 => self.submit(),
                10 => {
                    let mut tasks: Vec<_> = self.packs.keys().copied().collect();
                    tasks.sort_unstable();
                    if !tasks.is_empty() {
                        let task = tasks[self.rng.within(0..tasks.len() as u64) as usize];
                        self.put(Input::Cancel { task });
                    }
                }
                11 => self.any().into_iter().for_each(|worker| self.dies(worker)),
                12 => self.tick(),
                _ => self.any().into_iter().for_each(|worker| self.step(worker)),
            }
        }
        self.put(Input::Drain);
        for _ in 0..100_000 {
            if self.packs.is_empty() {
                break;
            }
            self.tick();
            self.any().into_iter().for_each(|worker| self.step(worker));
        }
        assert_eq!(self.over.len(), self.items as usize, "{:?} are not resolved", self.packs);
    }

    fn tick(&mut self) {
        if let Some(at) = self.pool.scheduler.poll_timeout().filter(|_| self.rng.percent(20)) {
            self.pool.now = self.pool.now.max(at);
        }
        self.put(Input::Tick);
    }
}

#[test]
fn every_task_of_every_pack_has_one_outcome_whatever_dies_and_wherever_it_parts() {
    for seed in 0..500 {
        println!("seed {seed}");
        World::new(seed).run();
    }
}
