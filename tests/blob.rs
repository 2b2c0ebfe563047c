//! Bulk: blobs of every size arrive whole, wherever they are in a value, whatever happens to the workers.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
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

/// Memory that asks a pool something when it is let go of.
struct Curious {
    bytes: Vec<u8>,
    pool: Pool,
    gone: Arc<AtomicU32>,
}

impl AsRef<[u8]> for Curious {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        let _ = self.pool.stats();
        self.gone.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn memory_of_somebody_elses_is_let_go_of_when_the_pool_can_be_asked() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let gone = Arc::new(AtomicU32::new(0));
        let curious = |pool: &Pool| {
            let memory = Curious { bytes: vec![1; MIB], pool: pool.clone(), gone: Arc::clone(&gone) };
            Count(Blob::from(Bytes::from_owner(memory)))
        };
        assert_eq!(pool.run(curious(&pool)).await.unwrap(), MIB as u64);
        until(|| gone.load(Ordering::SeqCst) == 1).await;
        // Some on their way, some still waiting, when everything ends.
        let runs: Vec<_> = (0..8).map(|_| pool.run(curious(&pool))).collect();
        pool.abort().await;
        join_all(runs).await;
        until(|| gone.load(Ordering::SeqCst) == 9).await;
    });
}
