//! Bulk: blobs of every size arrive whole, wherever they are in a value, whatever happens to the workers.

mod support;

use futures::future::join_all;
use procpool::{Blob, Context, Pool, Task};
use serde::{Deserialize, Serialize};
use support::*;

procpool::worker_test!(support::worker().task::<Mix>().task::<Count>());

/// Gives back its blobs in reverse order, with a fresh one behind each.
#[derive(Clone, Serialize, Deserialize)]
struct Mix {
    name: String,
    blobs: Vec<Option<Blob>>,
    last: Blob,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mixed {
    blobs: Vec<(Blob, Blob)>,
    name: String,
}

impl Mix {
    fn new(sizes: &[usize]) -> Self {
        let blobs = sizes.iter().map(|size| Some(blob(*size))).collect();
        Self { name: "mix".into(), blobs, last: blob(sizes.len()) }
    }

    fn mixed(self) -> Mixed {
        let blobs = self.blobs.into_iter().flatten().chain([self.last]).rev();
        let blobs = blobs.map(|blob| (blob.clone(), blob.iter().map(|byte| !byte).collect())).collect();
        Mixed { blobs, name: self.name }
    }
}

impl Task for Mix {
    const NAME: &'static str = "mix";
    type Output = Mixed;

    async fn run(self, _: Context) -> Mixed {
        self.mixed()
    }
}

/// Adds up the bytes of a blob.
#[derive(Serialize, Deserialize)]
struct Count(Blob);

impl Task for Count {
    const NAME: &'static str = "tally";
    type Output = u64;

    async fn run(self, _: Context) -> u64 {
        sum(&self.0)
    }
}

fn blob(size: usize) -> Blob {
    (0..size).map(|n| (n * 7 % 251) as u8).collect()
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[test]
fn blobs_of_every_size_arrive_whole_and_in_their_places() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let sizes = [0, 1, 4 * KIB, 4 * KIB + 1, 32 * KIB, 32 * KIB + 1, 100_000, MIB + 3];
        for mix in [Mix::new(&[]), Mix::new(&sizes), Mix::new(&[100 * KIB; 40]), Mix::new(&[9 * MIB])] {
            assert_eq!(pool.run(mix.clone()).await.unwrap(), mix.mixed());
        }
    });
}

#[test]
fn many_large_blobs_in_flight_arrive_whole() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let blobs: Vec<_> = (1..200).map(|n| blob(n * 3 * KIB)).collect();
        let sums = join_all(blobs.iter().map(|blob| pool.run(Count(blob.clone())))).await;
        for (blob, counted) in blobs.iter().zip(sums) {
            assert_eq!(counted.unwrap(), sum(blob));
        }
    });
}
