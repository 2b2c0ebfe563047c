//! A loop without end, stopped by force when its time is over, and a deadline for a whole stream.
//!
//! Run it with `cargo run --example timeout`. The loop never looks up, so its worker is killed; another takes its place.
//! Of the naps only those that fit before the deadline are answered; how many there are, the stream ends:
//!
//! ```text
//! the loop: timed out, its code may have run: true
//! the next task: 42
//! the naps: some were answered, the last error: timed out
//! ```

use std::time::{Duration, Instant};

use futures::StreamExt;
use procpool::{Context, Error, Pool, Task, Worker};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Loop;

impl Task for Loop {
    const NAME: &'static str = "loop";
    type Output = ();

    async fn run(self, _cx: Context) {
        loop {
            std::hint::spin_loop();
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Nap(u64);

impl Task for Nap {
    const NAME: &'static str = "nap";
    type Output = u64;

    async fn run(self, _cx: Context) -> u64 {
        std::thread::sleep(Duration::from_millis(self.0));
        self.0
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    Worker::new().task::<Loop>().task::<Nap>().init();

    let grace = Duration::from_millis(200);
    let pool = Pool::builder().workers(2).cancel_grace(grace).term_grace(grace).build().await?;

    match pool.with_timeout(Duration::from_millis(500)).run(Loop).await {
        Err(error) if error.is_timed_out() => {
            println!("the loop: timed out, its code may have run: {}", error.may_have_run());
            eprintln!("{error}");
        }
        other => println!("the loop: {other:?}"),
    }
    println!("the next task: {}", pool.run(Nap(42)).await?);

    let bounded = pool.with_deadline(Instant::now() + Duration::from_millis(500));
    let naps: Vec<_> = bounded.map(std::iter::repeat_with(|| Nap(20))).collect().await;
    let answered = if naps.iter().any(Result::is_ok) { "some" } else { "none" };
    let last = naps.iter().rev().find_map(|nap| nap.as_ref().err());
    let late = last.map_or("none", |error| if error.is_timed_out() { "timed out" } else { "another" });
    println!("the naps: {answered} were answered, the last error: {late}");
    Ok(())
}
