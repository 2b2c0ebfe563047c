//! W3: echo of large values with one in flight, as a blob and as plain bytes, beside a bulk echo over a socket pair.

use std::time::Instant;

use procpool::{Blob, Context, Pool, Task};
use serde::{Deserialize, Serialize};

use crate::table::Table;
use crate::yardstick;

/// Gives a blob back.
#[derive(Serialize, Deserialize)]
pub(crate) struct Return(Blob);

impl Task for Return {
    const NAME: &'static str = "return";
    type Output = Blob;

    async fn run(self, _: Context) -> Blob {
        self.0
    }
}

/// Bytes there and back, as serde_bytes would carry them: one length and one copy.
#[derive(Serialize, Deserialize)]
pub(crate) struct Bulk(#[serde(with = "serde_bytes")] Vec<u8>);

impl Task for Bulk {
    const NAME: &'static str = "bulk";
    type Output = serde_bytes::ByteBuf;

    async fn run(self, _: Context) -> serde_bytes::ByteBuf {
        serde_bytes::ByteBuf::from(self.0)
    }
}

/// Bytes there and back, each by itself through serde.
#[derive(Serialize, Deserialize)]
pub(crate) struct Plain(Vec<u8>);

impl Task for Plain {
    const NAME: &'static str = "plain";
    type Output = Vec<u8>;

    async fn run(self, _: Context) -> Vec<u8> {
        self.0
    }
}

const SIZES: [(&str, usize, usize); 4] =
    [("4K", 4 << 10, 2000), ("64K", 64 << 10, 400), ("1M", 1 << 20, 60), ("64M", 64 << 20, 4)];

const ROUNDS: usize = 7;

/// The names of the rows, by size.
const ROWS: [[&str; 4]; 4] = [
    ["W3b 4K", "W3i 4K", "W3s 4K", "W3v 4K"],
    ["W3b 64K", "W3i 64K", "W3s 64K", "W3v 64K"],
    ["W3b 1M", "W3i 1M", "W3s 1M", "W3v 1M"],
    ["W3b 64M", "W3i 64M", "W3s 64M", "W3v 64M"],
];

pub(crate) async fn run(table: &mut Table) {
    let shared = crate::pool(1).await;
    let inline = Pool::builder().workers(1).shared_memory(0).build().await.expect("a pool");
    for ((name, size, count), rows) in SIZES.into_iter().zip(ROWS) {
        let mut raw = yardstick::Bulk::start();
        for round in 0..=ROUNDS {
            let blob = Blob::from(vec![round as u8; size]);
            let limit = raw.megabytes_per_second(size, count);
            let rates = [
                blobs(&shared, &blob, count).await,
                blobs(&inline, &blob, count).await,
                bytes(&inline, &blob, count).await,
                plain(&inline, &blob, count.div_ceil(8)).await,
            ];
            // The first round warms up.
            for (row, rate) in rows.into_iter().zip(rates).filter(|_| round > 0) {
                table.round(row, "MB/s", rate, limit);
            }
        }
        let judge = |table: &mut Table, row, target: f64, shown| {
            table.judge(row, move |value, raw| (value / raw, shown, value >= target));
        };
        let targets = match name {
            "1M" => [(8e3, ">= 8 k MB/s"), (2.5e3, ">= 2.5 k MB/s")],
            "64M" => [(4e3, ">= 4 k MB/s"), (1.1e3, ">= 1.1 k MB/s")],
            _ => [(0.0, ""), (0.0, "")],
        };
        for (row, (target, shown)) in rows.into_iter().zip(targets.into_iter().chain([(0.0, ""); 2])) {
            judge(table, row, target, shown);
        }
    }
}

fn rate(size: usize, count: usize, start: Instant) -> f64 {
    (2 * size * count) as f64 / start.elapsed().as_secs_f64() / 1e6
}

async fn blobs(pool: &Pool, blob: &Blob, count: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..count {
        let back = pool.run(Return(blob.clone())).await.expect("an answer");
        assert_eq!((back.len(), back.last()), (blob.len(), blob.last()));
    }
    rate(blob.len(), count, start)
}

/// The bytes are there before the clock starts, as a caller would have them.
async fn bytes(pool: &Pool, blob: &Blob, count: usize) -> f64 {
    let mut inputs: Vec<_> = (0..count).map(|_| Bulk(blob.to_vec())).collect();
    let start = Instant::now();
    while let Some(input) = inputs.pop() {
        assert_eq!(pool.run(input).await.expect("an answer").len(), blob.len());
    }
    rate(blob.len(), count, start)
}

async fn plain(pool: &Pool, blob: &Blob, count: usize) -> f64 {
    let mut inputs: Vec<_> = (0..count).map(|_| Plain(blob.to_vec())).collect();
    let start = Instant::now();
    while let Some(input) = inputs.pop() {
        assert_eq!(pool.run(input).await.expect("an answer").len(), blob.len());
    }
    rate(blob.len(), count, start)
}
