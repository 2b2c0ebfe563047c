//! How fast it is. Measurements, not rules.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use super::{Pool, task, worker};
use crate::id::TaskId;
use crate::sched::{Action, Answer, Input, Spec};

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
