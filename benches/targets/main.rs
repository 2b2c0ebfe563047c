//! Measures procpool beside what the machine itself can do, in one run: every workload is interleaved with a raw
//! yardstick, because figures of different runs on a shared machine cannot be compared.
//!
//! ```text
//! cargo bench --bench targets                      # everything, as a table
//! cargo bench --bench targets -- --only W1,W2      # some of it
//! cargo bench --bench targets -- --json out.jsonl  # one JSON object a line as well
//! ```
//!
//! | workload | what | yardstick |
//! |---|---|---|
//! | W1 | one no-op in flight, p50 in us | epoll ping-pong over a socket pair, on two processors |
//! | W1 low | the same in a pool with `low_latency` | W1 |
//! | W2 | 100 000 no-ops in a window of 1 024, tasks/s | windowed echo of frames over two socket pairs |
//! | W2j, W2b | the same through `join_all` and `buffer_unordered` | the same |
//! | W2j 300k, W2b 300k | the same with 300 000, tasks/s | W2j and W2b |
//! | W2c | the same through `map` | `multiprocessing.Pool.map` of Python, if there is one |
//! | W3b, W3i | echo of a `Blob` of 4 KiB to 64 MiB, through shared memory and through the socket, MB/s in and out | bulk echo over a socket pair |
//! | W3s, W3v | the same as `Vec<u8>`, with serde_bytes and without | the same |
//! | W4 | pool of 2 and of 8, until every worker has answered its greeting and one a task, ms | none |
//! | W5 | 4 tasks, each of which starts a pool of 2 in its worker and runs 100 no-ops there, ms | none |
//! | W6 | `SIGKILL` of a busy worker: until its caller is told, until its place is filled, ms | none |
//! | W7 | 1 000 Pareto sleeps over 2 and 8 workers, makespan | the bound max(sum / workers, longest) |
//! | W7 mix, p95 | 99 no-ops for each 5 ms: makespan; p95 of the no-ops when they trickle in | the bound sum / workers |
//! | W8 | a waiting task beyond its input and its `Run`, bytes; proportional memory of an idle worker, MiB | none |
//! | W9 | one task that emits 1 M small items, items/s | windowed echo of frames over one socket pair |
//! | W9m | 1 GB of items from a fast producer to a slow consumer: how much this process grows | none |
//! | W10 | cost per task with 2, 256, 1 000 workers; idle wake-ups; 10 M waiting; 100 000 dropped | 2 workers; 10 x 10 000 |
//! | S | 100 000 short async tasks, 1 000 at once on one worker, tasks/s | the same in a `JoinSet` of one thread |

mod faults;
mod map;
mod memory;
mod mixed;
mod scale;
mod slots;
mod table;
mod w3;
mod yardstick;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use procpool::{Context, Emitter, Error, Pool, StreamTask, Task, Worker};
use serde::{Deserialize, Serialize};
use table::Table;

#[derive(Serialize, Deserialize)]
struct Noop(u64);

impl Task for Noop {
    const NAME: &'static str = "noop";
    type Output = u64;

    async fn run(self, _: Context) -> u64 {
        self.0
    }
}

#[derive(Serialize, Deserialize)]
struct Nap(u64);

impl Task for Nap {
    const NAME: &'static str = "nap";
    type Output = ();

    async fn run(self, _: Context) {
        std::thread::sleep(Duration::from_micros(self.0));
    }
}

/// Numbers, or items of this many bytes.
#[derive(Serialize, Deserialize)]
struct Count(u64);

impl StreamTask for Count {
    const NAME: &'static str = "count";
    type Item = u64;

    async fn run(self, _: Context, out: Emitter<u64>) {
        for n in 0..self.0 {
            if out.send(n).await.is_err() {
                return;
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Pour(u64, usize);

impl StreamTask for Pour {
    const NAME: &'static str = "pour";
    type Item = serde_bytes::ByteBuf;

    async fn run(self, _: Context, out: Emitter<serde_bytes::ByteBuf>) {
        for _ in 0..self.0 {
            if out.send(serde_bytes::ByteBuf::from(vec![1; self.1])).await.is_err() {
                return;
            }
        }
    }
}

/// Fans no-ops out over its worker's pool.
#[derive(Serialize, Deserialize)]
struct Nest(u64);

impl Task for Nest {
    const NAME: &'static str = "nest";
    type Output = Result<u64, Error>;

    async fn run(self, cx: Context) -> Result<u64, Error> {
        let pool = cx.pool()?;
        let answers = join_all((0..self.0).map(|n| pool.run(Noop(n)))).await;
        answers.into_iter().sum()
    }
}

const TASKS: u64 = 100_000;
const ITEMS: u64 = 1_000_000;
const WINDOW: usize = 1024;

fn main() {
    Worker::new()
        .task::<Noop>()
        .task::<w3::Return>()
        .task::<w3::Bulk>()
        .task::<w3::Plain>()
        .task::<Nap>()
        .task::<slots::Brief>()
        .stream::<Count>()
        .stream::<Pour>()
        .task::<Nest>()
        .nested(|pool| pool.workers(2))
        .init();
    if std::env::args().nth(1).as_deref() == Some("yardstick") {
        return yardstick::child();
    }
    let mut table = Table::from_args();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if table.wants("W1") {
        runtime.block_on(w1(&mut table));
    }
    if table.wants("W2") {
        runtime.block_on(w2(&mut table));
    }
    if table.wants("W2c") {
        runtime.block_on(map::w2c(&mut table));
    }
    if table.wants("W3") {
        runtime.block_on(w3::run(&mut table));
    }
    if table.wants("W4") {
        runtime.block_on(w4(&mut table));
    }
    if table.wants("W5") {
        runtime.block_on(w5(&mut table));
    }
    if table.wants("W6") {
        runtime.block_on(faults::w6(&mut table));
    }
    if table.wants("W7") {
        runtime.block_on(w7(&mut table));
        runtime.block_on(mixed::mixed(&mut table));
    }
    if table.wants("W8") {
        runtime.block_on(memory::w8(&mut table));
    }
    if table.wants("W10") {
        runtime.block_on(scale::w10(&mut table));
    }
    if table.wants("W9") {
        runtime.block_on(w9(&mut table));
    }
    if table.wants("S") {
        runtime.block_on(slots::measure(&mut table));
    }
    table.finish();
}

async fn pool(workers: usize) -> Pool {
    let pool = Pool::builder().workers(workers).build().await.expect("a pool");
    pool.ready().await.expect("its workers");
    pool
}

async fn w1(table: &mut Table) {
    let pool = pool(1).await;
    let quick = Pool::builder().workers(1).low_latency(true).build().await.expect("a pool");
    let mut raw = yardstick::PingPong::start();
    for _ in 0..9 {
        let p50 = p50_us(&pool).await;
        table.round("W1", "us", p50, raw.p50_us(2000));
        table.round("W1 low", "us", p50_us(&quick).await, p50);
    }
    table.judge("W1", |value, raw| (value / raw, "<= 1.2x", value / raw <= 1.2));
    table.stretch("W1", "1.0x");
    table.judge("W1 low", |value, plain| (value / plain, "<= 0.4x", value / plain <= 0.4));
    table.stretch("W1 low", "0.05x");
}

/// How long one no-op at a time takes.
async fn p50_us(pool: &Pool) -> f64 {
    let mut times = Vec::new();
    for n in 0..2000 {
        let start = Instant::now();
        assert_eq!(pool.run(Noop(n)).await.expect("an answer"), n);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

async fn w2(table: &mut Table) {
    let pool = pool(2).await;
    let mut raw = yardstick::Echo::start(2);
    for round in 0..7 {
        let frames = raw.frames_per_second(10 * TASKS, 256);
        let windowed = rate(TASKS, window(&pool, TASKS)).await;
        let at_once = rate(TASKS, joined(&pool, TASKS)).await;
        let streamed = rate(TASKS, buffered(&pool, TASKS)).await;
        if round > 0 {
            table.round("W2", "tasks/s", windowed, frames);
            table.round("W2j", "tasks/s", at_once, frames);
            table.round("W2b", "tasks/s", streamed, frames);
        }
        if round > 3 {
            table.round("W2j 300k", "tasks/s", rate(3 * TASKS, joined(&pool, 3 * TASKS)).await, at_once);
            table.round("W2b 300k", "tasks/s", rate(3 * TASKS, buffered(&pool, 3 * TASKS)).await, streamed);
        }
    }
    table.judge("W2", |value, raw| (value / raw, ">= 2 M/s", value >= 2e6));
    table.stretch("W2", "3.6 M/s");
    table.judge("W2j", |value, raw| (value / raw, ">= 1.2 M/s", value >= 1.2e6));
    table.judge("W2b", |value, raw| (value / raw, ">= 1.2 M/s", value >= 1.2e6));
    table.stretch("W2j", "2.5 M/s");
    table.stretch("W2b", "2.5 M/s");
    // As many a second as of a third as many: what grows with the square would have a third.
    table.judge("W2j 300k", |many, few| (many / few, "linear", many / few >= 0.67));
    table.judge("W2b 300k", |many, few| (many / few, "linear", many / few >= 0.67));
}

async fn joined(pool: &Pool, tasks: u64) {
    for (n, answer) in join_all((0..tasks).map(|n| pool.run(Noop(n)))).await.into_iter().enumerate() {
        assert_eq!(answer.expect("an answer"), n as u64);
    }
}

async fn buffered(pool: &Pool, tasks: u64) {
    let mut answers = futures::stream::iter((0..tasks).map(|n| pool.run(Noop(n)))).buffer_unordered(WINDOW);
    while let Some(answer) = answers.next().await {
        answer.expect("an answer");
    }
}

/// Submits one by one and awaits the oldest when the window is full.
async fn window(pool: &Pool, tasks: u64) {
    let mut runs = VecDeque::with_capacity(WINDOW);
    for n in 0..tasks {
        if runs.len() == WINDOW {
            let oldest: procpool::Run<u64> = runs.pop_front().expect("a full window");
            oldest.await.expect("an answer");
        }
        runs.push_back(pool.run(Noop(n)));
    }
    for run in runs {
        run.await.expect("an answer");
    }
}

async fn rate(tasks: u64, work: impl Future<Output = ()>) -> f64 {
    let start = Instant::now();
    work.await;
    tasks as f64 / start.elapsed().as_secs_f64()
}

async fn w4(table: &mut Table) {
    for (name, workers, limit) in [("W4 x2", 2, 2.5), ("W4 x8", 8, 9.0)] {
        for _ in 0..15 {
            let start = Instant::now();
            let pool = Pool::builder().workers(workers).build().await.expect("a pool");
            // Each worker has said what it can do and that it takes tasks; and one does take them.
            pool.ready().await.expect("its workers");
            pool.run(Noop(0)).await.expect("an answer");
            let time = start.elapsed().as_secs_f64() * 1e3;
            table.round(name, "ms", time, f64::NAN);
            pool.abort().await;
        }
        table.judge(name, |value, _| {
            (f64::NAN, if workers == 2 { "<= 2.5 ms" } else { "<= 9 ms" }, value <= limit)
        });
        table.stretch(name, if workers == 2 { "1.3 ms" } else { "4.7 ms" });
    }
}

async fn w5(table: &mut Table) {
    for _ in 0..15 {
        let pool = Pool::builder().workers(4).places(12).build().await.expect("a pool");
        pool.ready().await.expect("its workers");
        let start = Instant::now();
        for answer in join_all((0..4).map(|_| pool.run(Nest(100)))).await {
            assert_eq!(answer.expect("an answer").expect("a sum"), 4950);
        }
        table.round("W5", "ms", start.elapsed().as_secs_f64() * 1e3, f64::NAN);
        pool.abort().await;
    }
    table.judge("W5", |value, _| (f64::NAN, "<= 12 ms", value <= 12.0));
    table.stretch("W5", "6 ms");
}

async fn w7(table: &mut Table) {
    for (name, workers, target) in [("W7 x2", 2, 1.06), ("W7 x8", 8, 1.20)] {
        let naps = yardstick::pareto_us(1000);
        let longest = naps.iter().copied().max().unwrap_or(0) as f64 / 1e6;
        let bound = (naps.iter().sum::<u64>() as f64 / 1e6 / workers as f64).max(longest);
        let pool = pool(workers).await;
        let start = Instant::now();
        join_all(naps.into_iter().map(|us| pool.run(Nap(us)))).await;
        table.round(name, "s", start.elapsed().as_secs_f64(), bound);
        table.judge(name, |value, bound| {
            let shown = if workers == 2 { "<= 1.06x" } else { "<= 1.20x" };
            (value / bound, shown, value / bound <= target)
        });
    }
}

async fn w9(table: &mut Table) {
    let pool = pool(1).await;
    let mut raw = yardstick::Echo::start(1);
    for round in 0..7 {
        let frames = raw.frames_per_second(ITEMS, WINDOW);
        let streamed = rate(ITEMS, async {
            let (mut items, mut expected) = (pool.stream(Count(ITEMS)), 0);
            while let Some(item) = items.next().await {
                assert_eq!(item.expect("an item"), expected);
                expected += 1;
            }
            assert_eq!(expected, ITEMS);
        })
        .await;
        if round > 0 {
            table.round("W9", "items/s", streamed, frames);
        }
    }
    table.judge("W9", |value, raw| (value / raw, ">= 3 M/s", value >= 3e6));
    for _ in 0..3 {
        let before = yardstick::resident_mib();
        let (mut items, mut read, mut most) = (pool.stream(Pour(ITEMS, 1 << 10)), 0, before);
        while let Some(item) = items.next().await {
            item.expect("an item");
            read += 1;
            if read % 500 == 0 {
                most = most.max(yardstick::resident_mib());
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        assert_eq!(read, ITEMS);
        table.round("W9m", "MiB", most - before, f64::NAN);
    }
    table.judge("W9m", |value, _| (f64::NAN, "<= 8 MiB", value <= 8.0));
}
