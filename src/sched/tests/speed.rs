//! How fast it is. Measurements, not rules.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use super::{Config, Pool, task, worker};
use crate::id::TaskId;
use crate::sched::{Action, Answer, Input, Spec};

const SECOND: Duration = Duration::from_secs(1);

/// How fast it is: `cargo test --release --lib sched::tests::speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, for release builds"]
fn speed() {
    for (workers, slots, waiting) in
        [(1, 1, 0), (8, 1, 1000), (64, 4, 100_000), (1000, 1, 0), (1000, 16, 100_000)]
    {
        let mut pool = Pool::starting(workers, slots);
        (0..workers).for_each(|seat| pool.opens(worker(seat + 1, seat)));
        pool.wanted.clear();
        let mut sent = VecDeque::new();
        let (mut serial, rounds) = (0, 2_000_000);
        let mut free: Vec<u32> = (0..waiting + workers * slots).rev().collect();
        let start = Instant::now();
        for _ in 0..rounds {
            // As many calls of `now` as a driver makes that takes single events.
            while let Some(place) = free.pop() {
                serial += 1;
                pool.scheduler.handle(
                    Instant::now(),
                    Input::Submit { task: TaskId::new(serial, place), spec: Spec::default() },
                );
                if waiting == 0 {
                    break;
                }
            }
            loop {
                while let Some(action) = pool.scheduler.poll_action() {
                    match action {
                        Action::Run { worker, task, attempt, .. } => sent.push_back((worker, task, attempt)),
                        Action::Resolve { task, .. } => free.push(task.index),
                        _ => {}
                    }
                }
                if !free.is_empty() {
                    break;
                }
                let Some((worker, task, attempt)) = sent.pop_front() else { break };
                let done =
                    Input::Done { worker, task, attempt, answer: Answer::Finished, used: Duration::ZERO };
                pool.scheduler.handle(Instant::now(), done);
            }
        }
        let cycle = start.elapsed() / serial;
        let rate = 1e3 / cycle.as_nanos() as f64;
        println!(
            "{workers:>4} workers, {slots:>2} slots, {waiting:>6} waiting: {cycle:?} per cycle, {rate:.1} M/s"
        );
    }
}

#[test]
#[ignore = "a measurement, for release builds"]
fn cancelling_many() {
    for tasks in [100_000, 1_000_000] {
        let mut pool = Pool::open(1, 1);
        (0..=tasks).for_each(|n| {
            pool.scheduler.handle(pool.now, Input::Submit { task: task(n), spec: Spec::default() })
        });
        let start = Instant::now();
        (1..=tasks).for_each(|n| pool.scheduler.handle(start, Input::Cancel { task: task(n) }));
        println!("{tasks} cancelled in {:?}", start.elapsed());
    }
}

/// What a task costs in a window that is always full, by how many workers there are; `used`: how long it is said to take.
fn cost(workers: u32, window: u32, used: Duration) -> f64 {
    let mut pool = Pool::configured(Config { workers, ..Config::default() }, workers);
    (0..workers).for_each(|seat| pool.opens(worker(seat + 1, seat)));
    pool.wanted.clear();
    let mut sent = VecDeque::new();
    let (mut serial, mut free) = (0, (0..window).collect::<Vec<_>>());
    let (rounds, start) = (1_000_000, Instant::now());
    while serial < rounds {
        while let Some(place) = free.pop() {
            serial += 1;
            let task = TaskId::new(serial, place);
            pool.scheduler.handle(Instant::now(), Input::Submit { task, spec: Spec::default() });
        }
        while let Some(action) = pool.scheduler.poll_action() {
            match action {
                Action::Run { worker, task, attempt, .. } => sent.push_back((worker, task, attempt)),
                Action::Resolve { task, .. } => free.push(task.index),
                Action::Recall { worker, .. } => {
                    pool.scheduler.handle(Instant::now(), Input::Recalled { worker, tasks: Vec::new() });
                }
                _ => {}
            }
        }
        if !free.is_empty() {
            continue;
        }
        let Some((worker, task, attempt)) = sent.pop_front() else { break };
        let done = Input::Done { worker, task, attempt, answer: Answer::Finished, used };
        pool.scheduler.handle(Instant::now(), done);
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(serial)
}

#[test]
#[ignore = "a measurement, for release builds"]
fn cost_by_workers() {
    for (window, used) in [(1024, 0), (1024, 100), (100_000, 0), (200, 0)] {
        let costs = [2, 16, 64, 256, 1000].map(|workers| {
            let cost = cost(workers, window, Duration::from_micros(used));
            format!("{workers}: {cost:.0} ns")
        });
        println!("window {window}, tasks of {used} us: {}", costs.join(", "));
        let costs = [2, 16, 64, 256, 1000].map(|workers| {
            let cost = bursts(workers, window, Duration::from_micros(used));
            format!("{workers}: {cost:.0} ns")
        });
        println!("  in bursts: {}", costs.join(", "));
    }
}

#[test]
#[ignore = "a measurement, for release builds"]
fn ten_million_waiting() {
    for tasks in [1_000_000, 10_000_000] {
        let mut pool = Pool::open(1, 1);
        let start = Instant::now();
        for n in 0..tasks {
            pool.scheduler.handle(start, Input::Submit { task: task(n), spec: Spec::default() });
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("").to_owned();
        println!("{tasks} queued in {:?}, {memory}", start.elapsed());
        let start = Instant::now();
        pool.scheduler.handle(start, Input::Abort);
        println!("failed in {:?}", start.elapsed());
    }
}

/// Those that were sent are asked to stop, one by one.
#[test]
#[ignore = "a measurement, for release builds"]
fn cancelling_what_was_sent() {
    for (workers, slots, tasks) in [(100, 1, 10_000), (100, 1, 100_000), (10, 1000, 10_000), (1, 1000, 2000)]
    {
        let mut pool = Pool::configured(Config { workers, slots, ..Config::default() }, workers);
        (0..workers).for_each(|seat| pool.opens(worker(seat + 1, seat)));
        let now = pool.now;
        (0..tasks)
            .for_each(|n| pool.scheduler.handle(now, Input::Submit { task: task(n), spec: Spec::default() }));
        let start = Instant::now();
        (0..tasks).for_each(|n| pool.scheduler.handle(now, Input::Cancel { task: task(n) }));
        println!("{tasks} on {workers} workers with {slots} slots cancelled in {:?}", start.elapsed());
        let (start, mut now) = (Instant::now(), now);
        while let Some(at) = pool.scheduler.poll_timeout().filter(|at| *at < pool.now + 4 * SECOND) {
            now = at.max(now);
            pool.scheduler.handle(now, Input::Tick);
        }
        println!("  and killed for it in {:?}", start.elapsed());
    }
}

/// What a task costs when workers answer all that they have at once, and new tasks come when a quarter of the window is free:
/// some idle while others have more than they run.
fn bursts(workers: u32, window: u32, used: Duration) -> f64 {
    let mut pool = Pool::configured(Config { workers, ..Config::default() }, workers);
    (0..workers).for_each(|seat| pool.opens(worker(seat + 1, seat)));
    pool.wanted.clear();
    let mut sent = vec![VecDeque::new(); workers as usize];
    let (mut serial, mut free, mut next) = (0, (0..window).collect::<Vec<_>>(), 0);
    let (rounds, start) = (1_000_000, Instant::now());
    while serial < rounds {
        while free.len() >= window as usize / 4
            && let Some(place) = free.pop()
        {
            serial += 1;
            let task = TaskId::new(serial, place);
            pool.scheduler.handle(Instant::now(), Input::Submit { task, spec: Spec::default() });
        }
        let mut actions: VecDeque<_> = std::iter::from_fn(|| pool.scheduler.poll_action()).collect();
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Run { worker, task, attempt, .. } => {
                    sent[worker.slot()].push_back((worker, task, attempt))
                }
                Action::Resolve { task, .. } => free.push(task.index),
                Action::Recall { worker, tasks } => {
                    sent[worker.slot()].retain(|(_, task, _)| !tasks.contains(task));
                    pool.scheduler.handle(Instant::now(), Input::Recalled { worker, tasks });
                    actions.extend(std::iter::from_fn(|| pool.scheduler.poll_action()));
                }
                _ => {}
            }
        }
        next = (next + 1) % workers as usize;
        while let Some((worker, task, attempt)) = sent[next].pop_front() {
            let done = Input::Done { worker, task, attempt, answer: Answer::Finished, used };
            pool.scheduler.handle(Instant::now(), done);
        }
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(serial)
}
