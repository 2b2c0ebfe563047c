//! What pools of threads leave behind when they end, in whatever way: no thread, no descriptor.

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use procpool::{Context, ErrorKind, Pool, PoolBuilder, Task};
use serde::{Deserialize, Serialize};
use support::*;

/// The tests count this process's threads, so there is one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn threads(n: usize) -> PoolBuilder {
    quick(n).in_process(|| support::worker().task::<Deaf>().task::<Leave>().task::<Nest>().task::<Tidy>())
}

/// How many threads of workers there are.
fn count() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    names
        .filter(|name| {
            ["procpool-worker\n", "procpool-watch\n", "procpool-nested\n"].contains(&name.as_str())
        })
        .count()
}

/// A pool of `n` workers that take tasks: two threads each.
async fn built(n: usize) -> Pool {
    let pool = threads(n).build().await.unwrap();
    open(&pool, n).await;
    assert_eq!(count(), 2 * n);
    pool
}

/// Leaves a task of its own behind, which holds its context and never ends.
#[derive(Serialize, Deserialize)]
struct Leave;

impl Task for Leave {
    const NAME: &'static str = "leave";
    type Output = ();

    async fn run(self, cx: Context) {
        tokio::spawn(async move {
            cx.cancelled().await;
            std::future::pending::<()>().await;
        });
    }
}

/// Waits for ever for a task of its own.
#[derive(Serialize, Deserialize)]
struct Nest(std::path::PathBuf);

impl Task for Nest {
    const NAME: &'static str = "nest";
    type Output = ();

    async fn run(self, cx: Context) {
        cx.pool().unwrap().run(Wait { note: self.0, polite: false }).await.unwrap();
    }
}

#[test]
fn every_end_of_a_pool_is_the_end_of_its_threads() {
    let _alone = alone();
    let ends: [fn(Pool) -> Option<Pool>; 3] = [
        |_dropped| None,
        |pool| {
            drop(pool.abort());
            None
        },
        // The pool is still there when its runtime has gone.
        Some,
    ];
    let mut before = usize::MAX;
    for end in ends {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = Folder::new();
        let kept = runtime.block_on(async {
            let pool = built(4).await;
            let (spin, wait, nest) = (folder.file("spin"), folder.file("wait"), folder.file("nest"));
            pool.run(Leave).await.unwrap();
            pool.run(Spin { note: spin.clone(), polite: true }).detach();
            pool.run(Wait { note: wait.clone(), polite: false }).detach();
            pool.run(Nest(nest.clone())).detach();
            until(|| [&spin, &wait, &nest].iter().all(|note| notes(note) == ["begun"])).await;
            end(pool)
        });
        assert!(kept.is_none() || count() > 8);
        drop(runtime);
        until_blocking(|| count() == 0);
        drop(kept);
        until_blocking(|| fds() <= before);
        before = fds();
        assert_eq!(notes(&folder.file("spin")), ["begun", "stopped"]);
    }
}

#[test]
fn drain_and_shutdown_are_over_when_the_threads_are() {
    let _alone = alone();
    on_both_runtimes(|| async {
        for limit in [None, Some(Duration::from_secs(30)), Some(Duration::ZERO)] {
            let pool = built(2).await;
            pool.run(Echo(1)).await.unwrap();
            match limit {
                Some(limit) => _ = pool.shutdown(limit).await,
                None => _ = pool.drain().await,
            }
            // The kernel counts a thread for a moment longer than it runs.
            until(|| count() == 0).await;
        }
    });
}

#[test]
fn threads_that_were_given_up_go_when_their_task_returns() {
    let _alone = alone();
    on_a_runtime(|| async {
        let pool = built(1).await;
        let error = pool.with_timeout(Duration::from_millis(10)).run(Deaf).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unresponsive, "{error:?}");
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        // The stuck thread alone: what watched it has nothing left to watch. And the two of the next worker.
        until(|| count() == 3).await;
        drop(pool);
        until(|| count() == 1).await;
        RELEASED.store(true, Ordering::SeqCst);
        until(|| count() == 0).await;
    });
}

/// Cleans up for ever, once it has been told to stop.
#[derive(Serialize, Deserialize)]
struct Tidy(std::path::PathBuf);

impl Task for Tidy {
    const NAME: &'static str = "tidy";
    type Output = ();

    async fn run(self, cx: Context) {
        note(&self.0, "begun");
        cx.cancelled().await;
        note(&self.0, "tidies");
        std::future::pending().await
    }
}

#[test]
fn a_thread_with_several_slots_does_not_wait_for_what_cleans_up() {
    let _alone = alone();
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("tidy");
        let pool = threads(1).slots(2).cancel_grace(Duration::from_secs(300)).build().await.unwrap();
        let run = pool.run(Tidy(path.clone()));
        until(|| notes(&path) == ["begun"]).await;
        drop(run);
        until(|| notes(&path) == ["begun", "tidies"]).await;
        pool.abort().await;
        until(|| count() == 0).await;
    });
}

#[test]
fn a_thousand_pools_leave_nothing_behind() {
    let _alone = alone();
    on_a_runtime(|| async {
        let once = async |n: usize| {
            let pool = threads(1 + n % 2).build().await.unwrap();
            assert_eq!(pool.run(Echo(7)).await.unwrap(), 7);
            if n.is_multiple_of(3) {
                pool.drain().await;
            }
        };
        once(0).await;
        until(|| count() == 0).await;
        let before = fds();
        for n in 0..1000 {
            once(n).await;
        }
        until(|| count() == 0 && fds() <= before).await;
    });
}
