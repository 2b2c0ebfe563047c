//! Workers that crash again and again: restarts are held back and told, the others do not notice, and all is well again
//! when the cause is gone.

mod support;

use std::time::{Duration, Instant};

use procpool::{Event, Status};
use support::*;

procpool::worker_test!(gated());

fn started(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Started { .. })).count()
}

#[test]
fn c7_a_task_that_always_crashes_does_not_make_the_pool_spin_and_c8_it_recovers() {
    on_a_runtime(|| async {
        let pool = quick(2).build().await.unwrap();
        pool.ready().await.unwrap();
        let mut events = pool.events();
        let bad: Vec<_> = (0..1000).map(|_| pool.run(Die::Exit(1))).collect();
        until(|| pool.stats().restarts >= 5).await;
        until(|| pool.health().status == Status::Degraded).await;
        let burst = told(&mut events);
        assert!(burst.iter().any(|event| matches!(event, Event::Degraded { .. })), "{burst:?}");
        // Visible while it lasts: who is missing, and for how long still.
        until(|| pool.stats().held_back > 0 && pool.stats().next_start.is_some()).await;
        let window = Duration::from_secs(if full() { 10 } else { 4 });
        let (begun, before) = (Instant::now(), computed());
        tokio::time::sleep(window).await;
        let (watched, used) = (begun.elapsed(), computed() - before);
        let spawned = started(&told(&mut events));
        assert!(spawned as f64 <= 2.0 * watched.as_secs_f64() + 1.0, "{spawned} in {watched:?}");
        assert!(used < watched / times(10, 4) as u32, "{used:?} of {watched:?}");
        drop(bad);
        let begun = Instant::now();
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        assert!(begun.elapsed() < Duration::from_secs(31), "{:?}", begun.elapsed());
        pool.ready().await.unwrap();
        let seen = told(&mut events);
        assert!(seen.iter().any(|event| matches!(event, Event::Recovered)), "{seen:?}");
        assert_eq!(pool.health().status, Status::Ready);
    });
}

#[test]
fn c9_one_place_that_cannot_be_filled_does_not_delay_the_others() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let gate = folder.file("gate");
        let pool = quick(2).env("GATE", &gate).build().await.unwrap();
        let before = pids(&pool, 2).await;
        let measure = async || {
            let mut times = Vec::new();
            for n in 0..300 {
                let begun = Instant::now();
                assert_eq!(pool.run(Echo(n)).await.unwrap(), n);
                times.push(begun.elapsed());
            }
            times.sort_unstable();
            (times[150], times[297])
        };
        let baseline = measure().await;
        let mut events = pool.events();
        note(&gate, "shut");
        kill(before[0]);
        until(|| pool.health().status == Status::Degraded).await;
        let mut rounds = Vec::new();
        let mut seen = Vec::new();
        while seen.iter().filter(|event| matches!(event, Event::StartFailed { .. })).count() < 5 {
            rounds.push(measure().await);
            seen.extend(told(&mut events));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Other processes use the same processors: the best round tells whether the pool is in the way.
        let (median, late) = *rounds.iter().min().unwrap();
        assert!(median < 2 * baseline.0.max(Duration::from_micros(100)), "{median:?}, was {baseline:?}");
        assert!(late < 2 * baseline.1.max(Duration::from_millis(5)), "{late:?}, was {baseline:?}");
        assert!(seen.iter().all(|event| !matches!(event, Event::Failed { .. })), "{seen:?}");
        std::fs::remove_file(&gate).unwrap();
        until(|| pool.health().open == 2).await;
    });
}
