//! Timeouts, deadlines and tokens, through the views of a pool.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use procpool::{Context, ErrorKind, Pool, Task};
use serde::{Deserialize, Serialize};
use support::*;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

procpool::worker_test!(support::worker().task::<Left>().task::<Unmoved>());

const MS: Duration = Duration::from_millis(1);

/// Tells how long it has left.
#[derive(Serialize, Deserialize)]
struct Left;

impl Task for Left {
    const NAME: &'static str = "left";
    type Output = Option<Duration>;

    async fn run(self, cx: Context) -> Option<Duration> {
        cx.deadline().map(|at| at.saturating_duration_since(Instant::now()))
    }
}

/// Computes for ever, and listens to SIGTERM without ever hearing it.
#[derive(Serialize, Deserialize)]
struct Unmoved(PathBuf);

impl Task for Unmoved {
    const NAME: &'static str = "unmoved";
    type Output = ();

    async fn run(self, _: Context) {
        let _term = signal(SignalKind::terminate()).unwrap();
        note(&self.0, "begun");
        loop {
            std::hint::spin_loop();
        }
    }
}

#[test]
fn d1_a_task_that_awaits_is_stopped_at_its_deadline_and_its_worker_is_kept() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let start = Instant::now();
        let wait = Wait { note: folder.file("wait"), polite: false };
        let error = pool.with_deadline(start + 200 * MS).run(wait).await.unwrap_err();
        let took = start.elapsed();
        assert!(error.is_timed_out() && error.may_have_run(), "{error:?}");
        assert!(took >= 200 * MS && took < within(300 * MS), "{took:?}");
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn d3_a_loop_that_hears_nothing_is_stopped_by_force_and_replaced() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let folder = Folder::new();
        let path = folder.file("deaf");
        let start = Instant::now();
        let error = pool.with_deadline(start + 200 * MS).run(Unmoved(path.clone())).await.unwrap_err();
        let took = start.elapsed();
        assert!(error.is_timed_out() && error.may_have_run(), "{error:?}");
        // We did it, and it says so; the two graces are a second each.
        assert!(error.to_string().contains("did not stop: its worker was killed"), "{error}");
        assert_eq!(error.exit().and_then(|exit| exit.signal()).as_deref(), Some("SIGKILL"), "{error:?}");
        assert!(took >= 2200 * MS && took < within(2700 * MS), "{took:?}");
        assert_ne!(pool.run(Pid).await.unwrap(), before);
        assert_eq!(notes(&path), ["begun"]);
    });
}

#[test]
fn a_loop_that_never_looks_up_is_stopped_by_force() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let pool = quick(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let start = Instant::now();
        let spin = Spin { note: folder.file("spin"), polite: false };
        let error = pool.with_timeout(100 * MS).run(spin).await.unwrap_err();
        assert!(error.is_timed_out() && error.may_have_run(), "{error:?}");
        // The timeout, the two graces, and what a busy machine takes.
        let took = start.elapsed();
        assert!(took >= 300 * MS && took < 5000 * MS, "{took:?}");
        assert_ne!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn a_polite_task_that_finishes_late_is_answered_and_keeps_its_worker() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let path = folder.file("wait");
        let wait = Wait { note: path.clone(), polite: true };
        pool.with_timeout(50 * MS).run(wait).await.unwrap();
        assert_eq!(notes(&path), ["begun", "cleaned up"]);
        let wait = Wait { note: folder.file("other"), polite: false };
        let error = pool.with_timeout(50 * MS).run(wait).await.unwrap_err();
        assert!(error.is_timed_out() && error.may_have_run() && error.exit().is_none(), "{error:?}");
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn a_timeout_does_not_count_the_waiting_and_the_last_one_set_counts() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let blocks = pool.run(Block { ms: 300 });
        let view = pool.with_timeout(MS).with_timeout(200 * MS);
        let (first, second) = (view.run(Block { ms: 20 }), view.run(Echo(2)));
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (20, 2));
        blocks.await.unwrap();
    });
}

#[test]
fn what_waits_at_its_deadline_never_runs() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let path = folder.file("notes");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let blocks = pool.run(Block { ms: 400 });
        let ahead = pool.run(Echo(1));
        let start = Instant::now();
        let late = pool.with_deadline(start + 50 * MS);
        let append = Append { path: path.clone(), line: 1, then_ms: 0 };
        let error = late.run(append).await.unwrap_err();
        assert!(error.is_timed_out() && !error.may_have_run() && error.attempts() == 0, "{error:?}");
        assert!(start.elapsed() >= 50 * MS && start.elapsed() < 350 * MS, "{:?}", start.elapsed());
        // Too late already: it is told at once, and nothing is sent.
        let append = Append { path: path.clone(), line: 2, then_ms: 0 };
        let error = late.run(append).now_or_never().unwrap().unwrap_err();
        assert!(error.is_timed_out() && !error.may_have_run(), "{error:?}");
        blocks.await.unwrap();
        ahead.await.unwrap();
        assert_eq!(notes(&path), [] as [&str; 0]);
    });
}

#[test]
fn a_task_knows_its_deadline_and_is_stopped_at_it() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = quick(1).build().await.unwrap();
        assert_eq!(pool.run(Left).await.unwrap(), None);
        let left = pool.with_deadline(Instant::now() + 60_000 * MS).run(Left).await.unwrap().unwrap();
        assert!(left > 50_000 * MS && left <= 60_000 * MS, "{left:?}");
        let view = pool.with_timeout(60_000 * MS).with_deadline(Instant::now() + 100 * MS);
        let error = view.run(Spin { note: folder.file("spin"), polite: false }).await.unwrap_err();
        assert!(error.is_timed_out() && error.may_have_run(), "{error:?}");
    });
}

#[test]
fn a_deadline_bounds_a_map_without_end() {
    on_both_runtimes(|| async {
        let pool = quick(2).build().await.unwrap();
        let start = Instant::now();
        let view = pool.with_deadline(start + 200 * MS);
        let results: Vec<_> = view.map((0..).map(|_| Block { ms: 10 })).collect().await;
        assert!(start.elapsed() < 5000 * MS, "{:?}", start.elapsed());
        assert!(results.first().is_some_and(Result::is_ok), "{:?}", results.first());
        let last = results.last().unwrap().as_ref().unwrap_err();
        assert!(last.is_timed_out() && !last.may_have_run(), "{last:?}");
        assert_eq!(last.index(), Some(results.len() as u64 - 1));
        let unexpected = results.iter().filter_map(|it| it.as_ref().err()).find(|it| !it.is_timed_out());
        assert!(unexpected.is_none(), "{unexpected:?}");
    });
}

#[test]
fn a_token_cancels_everything_that_was_submitted_under_it_and_nothing_else() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let pool = quick(2).build().await.unwrap();
        let token = CancellationToken::new();
        let view = pool.with_token(token.clone());
        let path = folder.file("wait");
        let begun = view.run(Wait { note: path.clone(), polite: false });
        let other = pool.run(Block { ms: 100 });
        until(|| notes(&path) == ["begun"]).await;
        let queued: Vec<_> = (0..10).map(|n| view.run(Echo(n))).collect();
        let kept: Vec<_> = (0..10).map(|n| pool.run(Echo(n))).collect();
        drop(view);
        token.cancel();
        let error = begun.await.unwrap_err();
        assert!(error.is_cancelled() && error.may_have_run(), "{error:?}");
        for run in queued {
            let result = run.await;
            // The second worker may have been faster with the first of them.
            assert!(
                result.as_ref().is_ok() || result.as_ref().is_err_and(|it| it.is_cancelled()),
                "{result:?}"
            );
        }
        other.await.unwrap();
        for (n, run) in (0..).zip(kept) {
            assert_eq!(run.await.unwrap(), n);
        }
    });
}

#[test]
fn under_a_cancelled_token_nothing_is_sent_and_a_map_ends() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let token = CancellationToken::new();
        let view = pool.with_token(token.clone());
        let mut items = view.map((0..).map(Echo));
        assert_eq!(items.next().await.unwrap().unwrap(), 0);
        token.cancel();
        let error = view.run(Echo(1)).now_or_never().unwrap().unwrap_err();
        assert!(error.is_cancelled() && !error.may_have_run(), "{error:?}");
        let rest: Vec<_> = items.collect().await;
        let last = rest.last().unwrap().as_ref().unwrap_err();
        assert!(last.is_cancelled() && last.index() == Some(rest.len() as u64), "{last:?}");
        let late = pool.with_token(token).run(Echo(1)).now_or_never().unwrap().unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Cancelled);
        assert_eq!(pool.run(Echo(7)).await.unwrap(), 7);
    });
}

#[test]
fn a_view_keeps_its_pool_alive() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let view = pool.with_timeout(10_000 * MS).with_priority(1);
        drop(pool);
        assert_eq!(view.run(Echo(3)).await.unwrap(), 3);
    });
}
