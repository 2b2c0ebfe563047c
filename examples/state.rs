//! State: what is dear to make is made once in each worker, before it takes tasks, and all its tasks share it.
//!
//! Run it with `cargo run --example state`. One worker builds a dictionary, answers three questions with it, crashes at
//! the fourth, and the worker that takes its place builds the dictionary again before it answers the fifth:
//!
//! ```text
//! house: casa (question 1 of this worker)
//! bread: pan (question 2 of this worker)
//! cheese: not in the dictionary (question 3 of this worker)
//! crash: worker exited with code 3
//! water: agua (question 1 of this worker)
//! ```
//!
//! What the dictionary prints when it is built, and at the pool's end when it is dropped, is the workers' own business:
//! their standard error goes to error reports and to `tracing`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use procpool::{Context, Error, Pool, Task, Worker};
use serde::{Deserialize, Serialize};

/// In earnest a model, a database connection, an index of some gigabytes.
struct Dictionary {
    words: HashMap<&'static str, &'static str>,
    asked: AtomicU32,
}

impl Dictionary {
    /// May await and block: the worker takes no tasks before it is done.
    async fn load() -> Self {
        eprintln!("process {} builds its dictionary", std::process::id());
        let words = HashMap::from([("house", "casa"), ("bread", "pan"), ("water", "agua")]);
        Self { words, asked: AtomicU32::new(0) }
    }
}

impl Drop for Dictionary {
    fn drop(&mut self) {
        eprintln!("process {} was asked {} times", std::process::id(), self.asked.get_mut());
    }
}

#[derive(Serialize, Deserialize)]
struct Translate(String);

impl Task for Translate {
    const NAME: &'static str = "translate";
    type Output = String;

    async fn run(self, cx: Context) -> String {
        let dictionary: &Dictionary = cx.state();
        let question = dictionary.asked.fetch_add(1, Ordering::Relaxed) + 1;
        if self.0 == "crash" {
            std::process::exit(3);
        }
        let word = dictionary.words.get(&*self.0).unwrap_or(&"not in the dictionary");
        format!("{word} (question {question} of this worker)")
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    Worker::new().task::<Translate>().state(Dictionary::load).init();

    let pool = Pool::builder().workers(1).build().await?;
    for word in ["house", "bread", "cheese", "crash", "water"] {
        match pool.run(Translate(word.to_owned())).await {
            Ok(answer) => println!("{word}: {answer}"),
            Err(error) => match error.exit() {
                Some(exit) => println!("{word}: worker {exit}"),
                None => return Err(error),
            },
        }
    }
    pool.drain().await;
    Ok(())
}
