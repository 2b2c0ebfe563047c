//! W8: what a waiting task and an idle worker cost in memory.

use std::fs;

use procpool::Run;

use crate::table::Table;
use crate::{Nap, Noop, pool};

const WAITING: usize = 1_000_000;

/// One round: the allocator keeps what it has had, so a second one would measure nothing.
pub(crate) async fn w8(table: &mut Table) {
    // What they share counts for each in part, so it takes some to see what one more costs.
    let many = pool(8).await;
    for worker in many.stats().workers {
        let kib = pss_kib(worker.pid.expect("a worker that runs"));
        table.round("W8 idle", "MiB", kib / 1024.0, f64::NAN);
    }
    table.judge("W8 idle", |mib, _| (f64::NAN, "<= 0.6", mib <= 0.6));
    many.abort().await;
    let pool = pool(2).await;
    let _busy: Vec<_> = (0..2).map(|_| pool.run(Nap(600_000_000))).collect();
    let mut runs: Vec<Run<u64>> = Vec::with_capacity(WAITING);
    let before = resident();
    // Inputs of one encoded length: four bytes each.
    runs.extend((0..WAITING as u64).map(|n| pool.run(Noop((1 << 21) + n))));
    let own = (WAITING * (size_of::<Run<u64>>() + 4)) as f64;
    table.round("W8 task", "bytes", (resident() - before - own) / WAITING as f64, f64::NAN);
    table.judge("W8 task", |bytes, _| (f64::NAN, "<= 128", bytes <= 128.0));
    table.stretch("W8 task", "96");
    drop(runs);
    pool.abort().await;
}

/// How much memory this process has in use, in bytes.
pub(crate) fn resident() -> f64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: f64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("a number of pages");
    pages * 4096.0
}

fn pss_kib(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("an idle worker");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a proportional set size");
    line.split_whitespace().next().and_then(|field| field.parse().ok()).expect("a number")
}
