//! A task that takes its whole process down, and the others, which do not notice.
//!
//! Run it with `cargo run --example crash`. The middle one of nine divisions aborts its worker. Its caller gets one
//! error that says how the worker ended and what it last wrote; the other eight are answered:
//!
//! ```text
//! 12 / -4 = -3
//! 12 / -3 = -4
//! 12 / -2 = -6
//! 12 / -1 = -12
//! 12 / 0: crashed, SIGABRT, last words: "there is no such number"
//! 12 / 1 = 12
//! 12 / 2 = 6
//! 12 / 3 = 4
//! 12 / 4 = 3
//! ```
//!
//! The error's own line, on standard error, also names the task and the worker.

use futures::StreamExt;
use procpool::{Context, Error, Pool, Task, Worker};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Divide(i32, i32);

impl Task for Divide {
    const NAME: &'static str = "divide";
    type Output = i32;

    async fn run(self, _cx: Context) -> i32 {
        if self.1 == 0 {
            // Not a panic, which would fail the task alone: this ends the process, as a fault in C code would.
            eprintln!("there is no such number");
            std::process::abort();
        }
        self.0 / self.1
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    Worker::new().task::<Divide>().init();

    let pool = Pool::builder().workers(2).build().await?;
    let mut quotients = pool.map((-4..=4).map(|by| Divide(12, by)));
    for by in -4..=4 {
        match quotients.next().await {
            Some(Ok(quotient)) => println!("12 / {by} = {quotient}"),
            Some(Err(error)) if error.is_crashed() => {
                let signal = error.exit().and_then(|exit| exit.signal()).unwrap_or_default();
                let words = error.stderr().lines().last().unwrap_or_default();
                println!("12 / {by}: crashed, {signal}, last words: {words:?}");
                eprintln!("{error}");
            }
            Some(Err(error)) => return Err(error),
            None => break,
        }
    }
    Ok(())
}
