//! W10: whether a pool stays as good when it gets large: many workers, many waiting tasks, many dropped at once.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procpool::{Pool, Run};

use crate::memory::resident;
use crate::table::Table;
use crate::{Nap, Noop, TASKS, pool, rate, window};

pub(crate) async fn w10(table: &mut Table) {
    // A worker takes up to five descriptors.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit on descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("as many descriptors as there may be");
    many_workers(table).await;
    many_tasks(table).await;
}

async fn many_workers(table: &mut Table) {
    let mut few = 0.0;
    for (work, workers) in [("W10 2", 2), ("W10 256", 256), ("W10 1000", 1000)] {
        let before = resident();
        let pool = pool(workers).await;
        window(&pool, TASKS).await;
        let mut costs = Vec::new();
        for _ in 0..5 {
            costs.push(1e9 / rate(TASKS, window(&pool, TASKS)).await);
        }
        costs.sort_by(f64::total_cmp);
        if workers == 2 {
            few = costs[2];
        }
        costs.iter().for_each(|cost| table.round(work, "ns/task", *cost, few));
        if workers == 256 {
            table.judge(work, |cost, few| (cost / few, "<= 1.5x", cost / few <= 1.5));
            table.stretch(work, "1.2x");
        } else {
            table.judge(work, |cost, few| (cost / few, "", true));
        }
        if workers == 1000 {
            table.round("W10 each", "KiB", (resident() - before) / 1024.0 / workers as f64, f64::NAN);
            table.judge("W10 each", |_, _| (f64::NAN, "", true));
            table.round("W10 idle", "wakes/s", idle_wakes().await, f64::NAN);
            table.judge("W10 idle", |wakes, _| (f64::NAN, "< 1", wakes < 1.0));
        }
        pool.abort().await;
    }
}

/// How often a second any thread of this process wakes up although there is nothing to do.
async fn idle_wakes() -> f64 {
    // The watching of workers that were busy goes on for a second or two.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = switches();
    let time = Duration::from_secs(3);
    tokio::time::sleep(time).await;
    // The sleep itself wakes this thread.
    (switches() - before).saturating_sub(1) as f64 / time.as_secs_f64()
}

fn switches() -> u64 {
    let threads = fs::read_dir("/proc/self/task").expect("/proc");
    let switched = threads.filter_map(|thread| {
        let status = fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    });
    switched.sum()
}

async fn many_tasks(table: &mut Table) {
    let pool = pool(2).await;
    let dropped = |runs: Vec<Run<u64>>, pool: &Pool| {
        let start = Instant::now();
        drop(runs);
        while pool.stats().queued > 0 {
            std::hint::spin_loop();
        }
        start.elapsed().as_secs_f64() * 1e3
    };
    let _busy: Vec<_> = (0..2).map(|_| pool.run(Nap(600_000_000))).collect();
    let submit = |count: u64| (0..count).map(|n| pool.run(Noop(n))).collect::<Vec<_>>();
    for _ in 0..5 {
        let tenth = dropped(submit(10_000), &pool);
        table.round("W10 drop", "ms", dropped(submit(100_000), &pool), 10.0 * tenth);
    }
    table.judge("W10 drop", |ms, linear| (ms / linear, "linear", ms / linear <= 2.0));
    let before = resident();
    let queued = submit(10_000_000);
    assert_eq!(pool.stats().queued, 10_000_000);
    table.round("W10 10M", "MiB", (resident() - before) / f64::from(1 << 20), f64::NAN);
    table.judge("W10 10M", |_, _| (f64::NAN, "fit", true));
    drop(queued);
    pool.abort().await;
}
