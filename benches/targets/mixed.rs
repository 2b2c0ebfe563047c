//! W7 mixed: short tasks between long ones, as many as fit and in a trickle.

use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::runtime::Handle;

use crate::table::Table;
use crate::{Nap, Noop, pool};

/// How long the long ones are, and how many in a hundred they are.
const LONG: Duration = Duration::from_millis(5);
const EVERY: u64 = 100;

/// The trickle: 8 000 tasks a second make a fifth of what two workers can do.
const GAP: Duration = Duration::from_micros(125);
const TRICKLE: u64 = 16_000;

pub(crate) async fn mixed(table: &mut Table) {
    let pool = pool(2).await;
    for _ in 0..3 {
        let tasks: u64 = 40_000;
        let start = Instant::now();
        let long = join_all((0..tasks / EVERY).map(|_| pool.run(Nap(LONG.as_micros() as u64))));
        let short = join_all((0..tasks - tasks / EVERY).map(|n| pool.run(Noop(n))));
        futures::join!(long, short);
        let bound = (tasks / EVERY) as f64 * LONG.as_secs_f64() / 2.0;
        table.round("W7 mix", "s", start.elapsed().as_secs_f64(), bound);
        let (short, pool, runtime) = (pool.clone(), pool.clone(), Handle::current());
        // A thread that sleeps: tokio's timers know milliseconds only.
        let (done, answered) = tokio::sync::oneshot::channel();
        thread::spawn(move || {
            let _ = nix::sys::prctl::set_timerslack(1);
            let (start, mut answers) = (Instant::now(), Vec::new());
            for n in 0..TRICKLE {
                let due = start + GAP * n as u32;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let begun = Instant::now();
                if n % EVERY == 50 {
                    let nap = pool.run(Nap(LONG.as_micros() as u64));
                    runtime.spawn(async { nap.await.expect("an answer") });
                } else {
                    let run = short.run(Noop(n));
                    answers.push(runtime.spawn(async move {
                        run.await.expect("an answer");
                        begun.elapsed()
                    }));
                }
            }
            done.send(answers).expect("somebody who waits");
        });
        let mut times = Vec::new();
        for answer in answered.await.expect("the trickle") {
            times.push(answer.await.expect("a time"));
        }
        times.sort_unstable();
        table.round("W7 p95", "us", times[times.len() * 95 / 100].as_secs_f64() * 1e6, f64::NAN);
    }
    table.judge("W7 mix", |value, bound| (value / bound, "<= 1.12x", value / bound <= 1.12));
    table.stretch("W7 mix", "1.05x");
    table.judge("W7 p95", |us, _| (f64::NAN, "<= 120 us", us <= 120.0));
    table.stretch("W7 p95", "70 us");
}
