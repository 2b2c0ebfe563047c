//! A user's own crate: two tasks, and unit tests that run them on a pool.

use procpool::{Context, Error, Pool, Task, Worker};
use serde::{Deserialize, Serialize};

/// Doubles a number.
#[derive(Serialize, Deserialize)]
pub struct Double(pub u64);

impl Task for Double {
    const NAME: &'static str = "double";
    type Output = u64;

    async fn run(self, _cx: Context) -> u64 {
        self.0 * 2
    }
}

/// Panics.
#[derive(Serialize, Deserialize)]
pub struct Panic(pub String);

impl Task for Panic {
    const NAME: &'static str = "panic";
    type Output = ();

    async fn run(self, _cx: Context) {
        panic!("{}", self.0);
    }
}

/// Makes a text loud, and prints it where a careless task would: on standard output.
#[derive(Serialize, Deserialize)]
pub struct Shout(pub String);

/// What [`Shout`] gives back: the text and the process that made it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shouted {
    pub text: String,
    pub pid: u32,
}

impl Task for Shout {
    const NAME: &'static str = "shout";
    type Output = Shouted;

    async fn run(self, _cx: Context) -> Shouted {
        let text = self.0.to_uppercase();
        println!("printed by the task: {text}");
        Shouted { text, pid: std::process::id() }
    }
}

/// The worker of this crate, for every program that has one.
pub fn worker() -> Worker {
    Worker::new().task::<Double>().task::<Shout>().task::<Panic>()
}

/// What each program of this crate does once it has passed its worker's entry; returns what to print.
///
/// # Errors
///
/// When the pool or a task fails.
pub async fn tour() -> Result<String, Error> {
    tour_of(&Pool::builder().workers(2).build().await?).await
}

/// The same with a pool that is there already.
///
/// # Errors
///
/// When a task fails.
pub async fn tour_of(pool: &Pool) -> Result<String, Error> {
    let (shout, double) = (pool.run(Shout("hello".to_owned())), pool.run(Double(21)));
    let (shouted, double) = (shout.await?, double.await?);
    let place = if shouted.pid == std::process::id() { "here" } else { "elsewhere" };
    Ok(format!("{} {double} {place}", shouted.text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    procpool::worker_test!(worker());

    #[tokio::test]
    async fn tasks_run_in_other_processes() -> Result<(), Error> {
        assert_eq!(tour().await?, "HELLO 42 elsewhere");
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_map_keeps_the_order() -> Result<(), Error> {
        let pool = Pool::builder().workers(2).build().await?;
        let doubled: Vec<_> = pool.map((0..500).map(Double)).collect().await;
        for (n, double) in doubled.into_iter().enumerate() {
            assert_eq!(double?, 2 * n as u64);
        }
        Ok(())
    }
}
