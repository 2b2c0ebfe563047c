//! A slow consumer stops its producer: streams and their credit.
//!
//! Run it with `cargo run --example stream`. The producer counts as fast as it may. A second task in the same worker tells
//! how many numbers it has sent, so that it can be seen how far it is ahead of what is read here:
//!
//! ```text
//! 0 are read, 64 are sent, and the next one waits
//! 1000 are read, no more than 1024 are ahead
//! 100000 are read, no more than 1024 are ahead
//! nobody reads any more, and the producer was told
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use procpool::{Context, Emitter, Error, Pool, StreamTask, Task, Worker};
use serde::{Deserialize, Serialize};

// In the worker's process; in this one they stay as they are.
static SENT: AtomicU64 = AtomicU64::new(0);
static TOLD: AtomicBool = AtomicBool::new(false);

#[derive(Serialize, Deserialize)]
struct Count;

impl StreamTask for Count {
    const NAME: &'static str = "count";
    type Item = u64;

    async fn run(self, _cx: Context, out: Emitter<u64>) {
        // Waits when there is no credit, and fails when there is no consumer.
        while out.send(SENT.load(Ordering::Relaxed)).await.is_ok() {
            SENT.fetch_add(1, Ordering::Relaxed);
        }
        TOLD.store(true, Ordering::Relaxed);
    }
}

#[derive(Serialize, Deserialize)]
struct Progress;

impl Task for Progress {
    const NAME: &'static str = "progress";
    type Output = (u64, bool);

    async fn run(self, _cx: Context) -> (u64, bool) {
        (SENT.load(Ordering::Relaxed), TOLD.load(Ordering::Relaxed))
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    Worker::new().stream::<Count>().task::<Progress>().init();

    let pool = Pool::builder().workers(1).slots(2).build().await?;
    let mut numbers = pool.stream(Count);
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("0 are read, {} are sent, and the next one waits", pool.run(Progress).await?.0);

    let mut read = 0;
    for pause in [1000, 100_000] {
        while read < pause && numbers.try_next().await?.is_some() {
            read += 1;
        }
        let ahead = pool.run(Progress).await?.0 - read;
        let more = if ahead <= 1024 { "no more than 1024" } else { "too many" };
        println!("{read} are read, {more} are ahead");
    }

    drop(numbers);
    while !pool.run(Progress).await?.1 {}
    println!("nobody reads any more, and the producer was told");
    Ok(())
}
