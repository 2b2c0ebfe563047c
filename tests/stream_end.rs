//! Streams that end before they are over: by their consumer, their worker, their time, their pool.

mod support;

use std::time::{Duration, Instant};

use futures::stream::{FusedStream, StreamExt, TryStreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as Process;
use procpool::{Error, ErrorKind, Items, Pool};
use support::*;
use tokio_util::sync::CancellationToken;

procpool::worker_test!(support::worker());

/// How many items come, and the error behind them; after that the stream is over.
async fn to_the_end<O: serde::de::DeserializeOwned>(mut items: Items<O>) -> (usize, Option<Error>) {
    let mut count = 0;
    while let Some(item) = items.next().await {
        match item {
            Ok(_) => count += 1,
            Err(error) => {
                assert!(items.is_terminated() && items.next().await.is_none());
                return (count, Some(error));
            }
        }
    }
    assert!(items.is_terminated());
    (count, None)
}

#[test]
fn a_producer_whose_consumer_goes_is_told_and_keeps_its_worker() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        for blocking in [false, true] {
            for read in [0, 10, 3000] {
                let folder = Folder::new();
                let sent = folder.file("sent");
                let mut items = pool.stream(Produce { sent: sent.clone(), bytes: 10, blocking });
                for _ in 0..read {
                    items.next().await.unwrap().unwrap();
                }
                // It may wait for credit or be on its way to that: either is heard.
                until(|| length(&sent) >= 64).await;
                drop(items);
                until(|| notes(&sent.with_extension("error")) == ["Cancelled"]).await;
                until(|| pool.stats().in_flight == 0).await;
            }
        }
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn a_queued_stream_that_is_dropped_never_begins() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let sent = folder.file("sent");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let busy = pool.run(Block { ms: 50 });
        drop(pool.stream(Produce { sent: sent.clone(), bytes: 10, blocking: false }));
        busy.await.unwrap();
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        assert!(!sent.exists());
    });
}

#[test]
fn a_producer_that_never_looks_up_is_stopped_by_force() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let mut items = pool.stream(Burst { items: 5, then: Then::Spin });
        for _ in 0..5 {
            items.next().await.unwrap().unwrap();
        }
        drop(items);
        assert_ne!(pool.run(Pid).await.unwrap(), before);
        until(|| !exists(before)).await;
    });
}

#[test]
fn what_a_dying_worker_has_sent_arrives_and_then_the_error() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        for sent in [0, 1, 10, 1000] {
            let (came, error) = to_the_end(pool.stream(Burst { items: sent, then: Then::Abort })).await;
            let error = error.unwrap();
            assert_eq!(came as u64, sent);
            assert!(error.is_crashed() && error.may_have_run(), "{error:?}");
            assert_eq!(error.exit().and_then(|exit| exit.signal()).as_deref(), Some("SIGABRT"));
            assert_eq!((error.attempts(), error.task_name()), (1, Some("burst")));
        }
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    });
}

#[test]
fn a_worker_that_is_killed_in_mid_stream_leaves_no_gap() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        for read in [1, 100, 5000] {
            let pid = pool.run(Pid).await.unwrap();
            let mut items = pool.stream(Count { to: u64::MAX, way: Sending::Await });
            let mut next = 0;
            while next < read {
                assert_eq!(items.next().await.unwrap().unwrap(), next);
                next += 1;
            }
            kill(Process::from_raw(pid as i32), Signal::SIGKILL).unwrap();
            let error = loop {
                match items.next().await.unwrap() {
                    Ok(n) => assert_eq!(n, std::mem::replace(&mut next, n + 1)),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.exit().and_then(|exit| exit.signal()).as_deref(), Some("SIGKILL"));
            assert!(items.next().await.is_none() && items.is_terminated());
        }
    });
}

#[test]
fn a_panic_comes_behind_the_items_that_were_sent() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let (came, error) = to_the_end(pool.stream(Burst { items: 100, then: Then::Panic })).await;
        let error = error.unwrap();
        assert_eq!(came, 100);
        assert!(error.is_panicked() && error.to_string().contains("after 100 items"), "{error}");
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

/// The producer returns as if all were well: what it left out must not pass for the end.
#[test]
fn a_stream_whose_time_is_over_ends_with_an_error_and_a_polite_producer_keeps_its_worker() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let limit = Duration::from_millis(200);
        for blocking in [false, true] {
            let token = CancellationToken::new();
            let views = [
                (pool.with_timeout(limit), ErrorKind::TimedOut),
                (pool.with_deadline(Instant::now() + limit), ErrorKind::TimedOut),
                (pool.with_token(token.clone()), ErrorKind::Cancelled),
            ];
            for (view, kind) in views {
                let folder = Folder::new();
                let sent = folder.file("sent");
                // The deadline may have passed while the others had their turn.
                let items = view.stream(Produce { sent: sent.clone(), bytes: 10, blocking });
                if kind == ErrorKind::Cancelled {
                    until(|| length(&sent) >= 64).await;
                    token.cancel();
                }
                let (_, error) = to_the_end(items).await;
                assert_eq!(error.unwrap().kind(), kind);
            }
        }
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn a_deadline_bounds_a_stream_that_nobody_reads() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let sent = folder.file("sent");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let view = pool.with_timeout(Duration::from_millis(300));
        let items = view.stream(Produce { sent: sent.clone(), bytes: 10, blocking: true });
        until(|| notes(&sent.with_extension("error")) == ["Cancelled"]).await;
        let (came, error) = to_the_end(items).await;
        assert_eq!((came, error.unwrap().kind()), (64, ErrorKind::TimedOut));
    });
}

#[test]
fn a_stream_that_had_not_begun_is_sent_again_and_nobody_notices() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("spin");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let pid = pool.run(Pid).await.unwrap();
        let spin = pool.run(Spin { note: path.clone(), polite: false });
        let items = pool.stream(Count { to: 3000, way: Sending::Await });
        until(|| notes(&path) == ["begun"] && pool.stats().in_flight == 2).await;
        kill(Process::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        assert!(spin.await.unwrap_err().is_crashed());
        let numbers: Vec<u64> = items.try_collect().await.unwrap();
        assert_eq!(numbers, (0..3000).collect::<Vec<_>>());
    });
}

#[test]
fn an_aborted_or_dropped_pool_closes_its_streams_behind_what_had_come() {
    on_both_runtimes(|| async {
        for dropped in [false, true] {
            let folder = Folder::new();
            let sent = folder.file("sent");
            let pool = Pool::builder().workers(1).build().await.unwrap();
            let mut items = pool.stream(Produce { sent: sent.clone(), bytes: 10, blocking: false });
            items.next().await.unwrap().unwrap();
            if dropped {
                drop(pool)
            } else {
                pool.abort().await;
            }
            let (came, error) = to_the_end(items).await;
            assert!(came < 1024 && error.unwrap().is_closed());
        }
    });
}

#[test]
fn a_drain_lets_a_stream_end_and_a_shutdown_bounds_it() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let items = pool.stream(Count { to: 5000, way: Sending::Await });
        let drained = pool.drain();
        let (came, error) = to_the_end(items).await;
        assert!((came, error.is_none()) == (5000, true));
        drained.await;
        assert!(
            pool.stream(Count { to: 1, way: Sending::Await }).next().await.unwrap().unwrap_err().is_closed()
        );

        let folder = Folder::new();
        let sent = folder.file("sent");
        let pool = quick(1).build().await.unwrap();
        let items = pool.stream(Produce { sent: sent.clone(), bytes: 10, blocking: false });
        until(|| length(&sent) >= 64).await;
        let shut = pool.shutdown(Duration::from_millis(100));
        let (_, error) = to_the_end(items).await;
        assert!(error.unwrap().is_closed());
        shut.await;
    });
}
