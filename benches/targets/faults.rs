//! W6: what the loss of a busy worker costs its caller, and how soon its place is filled again.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procpool::WorkerState;

use crate::table::Table;
use crate::{Nap, pool, window};

/// Between two losses: a pool replaces one worker a second without limit, and a few at once.
const PAUSE: Duration = Duration::from_millis(1100);

pub(crate) async fn w6(table: &mut Table) {
    let pool = pool(2).await;
    for _ in 0..9 {
        let victim = pool.run(Nap(60_000_000));
        let task = victim.id().expect("a task that was submitted");
        let holder = loop {
            let stats = pool.stats();
            let holds = |worker: &procpool::WorkerStats| worker.tasks.iter().any(|held| held.id == task);
            match stats.workers.iter().find(|worker| holds(worker)).and_then(|worker| worker.pid) {
                Some(pid) => break pid,
                None => tokio::task::yield_now().await,
            }
        };
        // Until it sleeps in the task.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let start = Instant::now();
        kill(Pid::from_raw(holder.cast_signed()), Signal::SIGKILL).expect("a worker that can be killed");
        let error = victim.await.expect_err("the loss");
        let told = start.elapsed();
        assert!(error.is_crashed(), "{error}");
        let open = || pool.stats().workers.iter().filter(|it| it.state == WorkerState::Open).count();
        while open() < 2 {
            tokio::task::yield_now().await;
        }
        let back = start.elapsed();
        table.round("W6 error", "ms", told.as_secs_f64() * 1e3, f64::NAN);
        table.round("W6 back", "ms", back.as_secs_f64() * 1e3, f64::NAN);
        // Whose worker has done something is not made to wait.
        window(&pool, 1000).await;
        tokio::time::sleep(PAUSE).await;
    }
    table.judge("W6 error", |ms, _| (f64::NAN, "< 1 ms", ms < 1.0));
    table.judge("W6 back", |ms, _| (f64::NAN, "< 6 ms", ms < 6.0));
}
