//! Urgent work goes first, and callers take turns.
//!
//! Run it with `cargo run --example priority`. One worker is kept busy while bulk work, then urgent work, then the work
//! of a second caller is submitted. The order in which it was done:
//!
//! ```text
//! urgent 1
//! urgent 2
//! first caller 1
//! second caller 1
//! first caller 2
//! second caller 2
//! first caller 3
//! bulk 1
//! bulk 2
//! ```

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use procpool::{Context, Error, Pool, Task, Worker};
use serde::{Deserialize, Serialize};

/// Takes a while, so that there is a queue to see.
#[derive(Serialize, Deserialize)]
struct Work(String, u64);

impl Task for Work {
    const NAME: &'static str = "work";
    type Output = String;

    async fn run(self, _cx: Context) -> String {
        std::thread::sleep(Duration::from_millis(self.1));
        self.0
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    Worker::new().task::<Work>().init();

    let pool = Pool::builder().workers(1).build().await?;
    let busy = pool.run(Work("busy".into(), 500));

    let done = FuturesUnordered::new();
    let submit = |view: &Pool, name: &str, n| done.push(view.run(Work(format!("{name} {n}"), 20)));

    // Views have options and are cheap; they are the same caller.
    let (bulk, urgent) = (pool.with_priority(-1), pool.with_priority(1));
    (1..=2).for_each(|n| submit(&bulk, "bulk", n));
    (1..=3).for_each(|n| submit(&pool, "first caller", n));
    // A clone is a caller of its own: its work does not wait for all of the first one's.
    let second = pool.clone();
    (1..=2).for_each(|n| submit(&second, "second caller", n));
    (1..=2).for_each(|n| submit(&urgent, "urgent", n));

    busy.await?;
    let order: Vec<_> = done.collect().await;
    for work in order {
        println!("{}", work?);
    }
    Ok(())
}
