//! The smallest program: one task, and the two doors. `Worker` is the door of the processes that run tasks, `Pool` that
//! of the process that wants them run; both are this program.
//!
//! Run it with `cargo run --example hello`. It prints one line per greeting, each with the number of the process that
//! made it, which is never the one that prints:
//!
//! ```text
//! hello, world (said by process 4242)
//! ```

use procpool::{Context, Error, Pool, Task, Worker};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Greet(String);

impl Task for Greet {
    const NAME: &'static str = "greet";
    type Output = String;

    async fn run(self, _cx: Context) -> String {
        format!("hello, {} (said by process {})", self.0, std::process::id())
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    Worker::new().task::<Greet>().init(); // In a worker the program ends here.

    let pool = Pool::builder().workers(2).build().await?;
    let world = pool.run(Greet("world".to_owned()));
    let moon = pool.run(Greet("moon".to_owned())); // Both run now.
    println!("{}\n{}", world.await?, moon.await?);
    Ok(())
}
