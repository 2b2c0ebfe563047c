//! Many slots: short async tasks on one worker, a thousand of them at once, beside the same tasks in a `JoinSet` of one
//! thread, which need no process, no socket and no encoding.

use std::time::Duration;

use futures::StreamExt;
use procpool::{Context, Pool, Task};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::rate;
use super::table::Table;

const TASKS: u64 = 100_000;
const SLOTS: usize = 1000;

/// An async task that is short.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Brief {
    /// It yields once.
    Yield,
    /// It waits for a millisecond, the shortest that tokio's clock knows.
    Wait,
}

impl Brief {
    async fn live(self) {
        match self {
            Self::Yield => tokio::task::yield_now().await,
            Self::Wait => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

impl Task for Brief {
    const NAME: &'static str = "brief";
    type Output = ();

    async fn run(self, _: Context) {
        self.live().await;
    }
}

pub(crate) async fn measure(table: &mut Table) {
    let pool = Pool::builder().workers(1).slots(SLOTS).build().await.expect("a pool");
    for (name, brief) in [("S yield", Brief::Yield), ("S wait", Brief::Wait)] {
        for round in 0..6 {
            let raw = rate(TASKS, join_set(brief)).await;
            let pooled = rate(TASKS, async {
                let mut answers =
                    futures::stream::iter((0..TASKS).map(|_| pool.run(brief))).buffer_unordered(SLOTS);
                while let Some(answer) = answers.next().await {
                    answer.expect("an answer");
                }
            })
            .await;
            if round > 0 {
                table.round(name, "tasks/s", pooled, raw);
            }
        }
        table.judge(name, |value, raw| (value / raw, "", true));
    }
}

/// As many at once, in this process.
async fn join_set(brief: Brief) {
    let mut set = JoinSet::new();
    for _ in 0..TASKS {
        if set.len() == SLOTS {
            set.join_next().await.expect("a full set").expect("an end");
        }
        set.spawn(brief.live());
    }
    while let Some(ended) = set.join_next().await {
        ended.expect("an end");
    }
}
