//! What one seed stands for: the pool, its users, and how badly its workers behave.

use std::time::Duration;

use super::rng::Rng;
use crate::sched::{Config, Input};

/// What a worker may do with a task, or on its way to being open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The task dies with its worker, begun or not.
    Die,
    /// Blocks its worker for a while, where nobody gets on then, or never answers; whether it heeds `Cancel` and pings is another matter.
    Hang,
    /// Answers twice.
    Twice,
    /// Answers for a task that is on another worker, or on none.
    Stranger,
    /// Answers with another attempt's number.
    Stale,
    /// Its link ends; the process lives on for a while.
    HangUp,
    /// Sends what the driver cannot decode.
    Garble,
    /// Says `Bye` unasked, and may go on talking.
    Bye,
    /// Says that the task was cancelled.
    Quit,
    /// Greets or opens once too often.
    Greet,
    /// Gives back what nobody has asked for, or what it has begun.
    Return,
    /// Sends items without credit.
    Flood,
    /// Sends items of another task, of none, or of another attempt.
    Ghost,
    /// Sends an item after the answer.
    Late,
}

pub(super) const FAULTS: [Fault; 14] = [
    Fault::Die,
    Fault::Hang,
    Fault::Twice,
    Fault::Stranger,
    Fault::Stale,
    Fault::HangUp,
    Fault::Garble,
    Fault::Bye,
    Fault::Quit,
    Fault::Greet,
    Fault::Return,
    Fault::Flood,
    Fault::Ghost,
    Fault::Late,
];

pub(super) struct Plan {
    pub(super) config: Config,
    pub(super) tasks: u64,
    /// How long the bad times last.
    pub(super) chaos: Duration,
    /// Faults that occur, and how often per task, in percent.
    pub(super) faults: Vec<Fault>,
    pub(super) faulty: u64,
    /// How often a start fails or hangs, in percent; and when none succeeds at all.
    pub(super) bad_start: u64,
    pub(super) blackout: Option<(Duration, Duration)>,
    /// How often one that fails says that the next will, too, in percent.
    pub(super) futile: u64,
    /// How often a launch is refused for want of something, in percent.
    pub(super) scarce: u64,
    /// How often a worker ignores `Cancel`, SIGTERM, SIGKILL or `Drain`, in percent.
    pub(super) stubborn: u64,
    pub(super) immortal: u64,
    /// How often a task is cancelled, in percent.
    pub(super) cancels: u64,
    /// How often a task takes seconds, in percent.
    pub(super) slow: u64,
    /// How often a task is a stream, in percent.
    pub(super) streams: u64,
    /// How many callers there are, which priorities they use, and how often they set a timeout or a deadline, in percent.
    pub(super) lanes: u64,
    pub(super) priorities: &'static [i8],
    pub(super) timed: u64,
    /// How often tasks may be tried again at most, and whether those of one kind always kill their worker.
    pub(super) retries: u64,
    pub(super) poison: bool,
    /// How large inputs are at most, and how many callers wait for a place rather than be refused, in percent.
    pub(super) bytes: u64,
    pub(super) patient: u64,
    /// How many ask for a place first, in percent.
    pub(super) asks: u64,
    pub(super) stalls: Vec<(Duration, Duration)>,
    /// How and when its size is set.
    pub(super) resizes: Vec<(Duration, Input)>,
    /// How and when the pool is closed, the first time and perhaps again.
    pub(super) closes: Vec<(Duration, Input)>,
}

impl Plan {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let (workers, most_workers) = match rng.within(0..5) {
            0 => (0, rng.within(1..5) as u32),
            1 => (rng.within(1..4) as u32, rng.within(4..7) as u32),
            _ => (rng.within(1..6) as u32, 0),
        };
        let config = Config {
            workers,
            most_workers,
            idle: rng.pick(&[None, Some(50), Some(300), Some(2000)]).map(Duration::from_millis),
            most_tasks: rng.pick(&[u64::MAX, u64::MAX, u64::MAX, 1, 3, 20]),
            most_age: rng.pick(&[None, None, None, Some(300), Some(3000)]).map(Duration::from_millis),
            most_memory: rng.pick(&[u64::MAX, u64::MAX, 20]),
            slots: rng.pick(&[1, 1, 2, 3, 5, 40]),
            ahead: rng.pick(&[0, 1, 1, 3, 1024]),
            processors: rng.pick(&[1, 2, u32::MAX]),
            queue_limit: rng.pick(&[1, 5, 20, u32::MAX, u32::MAX, u32::MAX]),
            queue_bytes: rng.pick(&[100, 100 << 10, 1 << 30, 1 << 30, 1 << 30]),
            start_limit: rng.millis(2_500..10_000),
            init_limit: rng.millis(2_500..10_000),
            cancel_grace: Duration::from_millis(rng.pick(&[0, 100, 1000, 3000])),
            term_grace: Duration::from_millis(rng.pick(&[0, 100, 1000, 3000])),
            ..Config::default()
        };
        let chaos = rng.millis(500..12_000);
        let within = |rng: &mut Rng| rng.millis(0..chaos.as_millis() as u64);
        let faults = match rng.within(0..4) {
            0 => Vec::new(),
            1 if rng.percent(50) => vec![Fault::Die],
            1 => vec![rng.pick(&FAULTS)],
            2 => vec![rng.pick(&FAULTS), rng.pick(&FAULTS)],
            _ => FAULTS.to_vec(),
        };
        let resizes = match rng.within(0..3) {
            0 => (0..rng.within(1..8)).map(|_| (within(rng), resize(rng))).collect(),
            _ => Vec::new(),
        };
        let mut closes = Vec::new();
        if rng.percent(40) {
            let mut at = within(rng);
            for _ in 0..rng.pick(&[1, 1, 2, 3]) {
                closes.push((at, close(rng)));
                at += rng.millis(0..1500);
            }
        }
        let stalls = match rng.within(0..3) {
            0 => (0..rng.within(1..4)).map(|_| (within(rng), rng.millis(200..15_000))).collect(),
            _ => Vec::new(),
        };
        let blackout = rng.percent(15).then(|| (within(rng), rng.millis(200..20_000)));
        Self {
            tasks: rng.pick(&[5, 20, 60, 60, 120]),
            faulty: rng.pick(&[2, 10, 10, 40]),
            bad_start: rng.pick(&[0, 0, 0, 5, 30, 70]),
            scarce: rng.pick(&[0, 0, 0, 10, 60, 100]),
            futile: rng.pick(&[0, 0, 20, 100]),
            blackout: if rng.percent(8) { Some((Duration::ZERO, chaos)) } else { blackout },
            stubborn: rng.pick(&[0, 20, 60, 60]),
            immortal: rng.pick(&[0, 0, 10, 40]),
            cancels: rng.pick(&[0, 10, 40, 80]),
            slow: rng.pick(&[2, 2, 10, 50]),
            streams: rng.pick(&[0, 20, 20, 70]),
            lanes: rng.pick(&[1, 2, 5]),
            priorities: rng.pick::<&[i8]>(&[&[0], &[0, 0, 0, 7], &[-128, -1, 0, 0, 127]]),
            timed: rng.pick(&[0, 0, 10, 60]),
            retries: rng.pick(&[0, 0, 1, 3]),
            poison: rng.percent(15),
            bytes: rng.pick(&[1, 100, 1000, 1 << 20]),
            patient: rng.pick(&[0, 20, 80, 100]),
            asks: rng.pick(&[0, 10, 50]),
            config,
            chaos,
            faults,
            stalls,
            resizes,
            closes,
        }
    }

    pub(super) fn is_black(&self, now: Duration) -> bool {
        self.blackout.is_some_and(|(from, length)| now >= from && now < from + length)
    }
}

fn resize(rng: &mut Rng) -> Input {
    let (least, most) = (rng.within(0..7) as u32, rng.within(1..7) as u32);
    Input::Resize { least, most: if rng.percent(30) { most } else { 0 } }
}

pub(super) fn close(rng: &mut Rng) -> Input {
    match rng.within(0..4) {
        0 => Input::Abort,
        1 => Input::Drain,
        2 => Input::Shutdown { limit: rng.millis(0..3000) },
        _ => Input::Shutdown { limit: Duration::from_secs(rng.pick(&[0, 1, 30])) },
    }
}
