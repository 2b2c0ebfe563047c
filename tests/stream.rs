//! Streams that go well, however their items are sent, and items and types that do not fit.

mod support;

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::stream::{FusedStream, Stream, StreamExt, TryStreamExt};
use procpool::{Blob, Context, Emitter, ErrorKind, Pool, StreamTask, Task};
use serde::{Deserialize, Serialize};
use support::*;

procpool::worker_test!(support::worker().stream::<Blobs>());

/// Blobs of these sizes, each among other things.
#[derive(Serialize, Deserialize)]
struct Blobs(Vec<usize>);

impl StreamTask for Blobs {
    const NAME: &'static str = "blobs";
    type Item = (u8, Blob, String);

    async fn run(self, _: Context, out: Emitter<Self::Item>) {
        for (n, size) in (0..).zip(self.0) {
            out.send((n, vec![n; size].into(), format!("behind {size}"))).await.unwrap();
        }
    }
}

#[test]
fn blobs_travel_in_items() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let sizes = vec![0, 1, 5000, 40_000, 1 << 20, 9 << 20, 3, 200_000, 0];
        let items: Vec<_> = pool.stream(Blobs(sizes.clone())).try_collect().await.unwrap();
        for ((n, blob, text), (expected, size)) in items.iter().zip((0..).zip(&sizes)) {
            assert_eq!((*n, text), (expected, &format!("behind {size}")));
            assert_eq!(*blob, vec![expected; *size]);
        }
        assert_eq!(items.len(), sizes.len());
    });
}

#[test]
fn items_come_in_order_and_then_the_stream_ends_for_good() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        for way in WAYS {
            let mut items = pool.stream(Count { to: 5000, way });
            for n in 0..5000 {
                assert_eq!(items.next().await.unwrap().unwrap(), n, "{way:?}");
            }
            assert!(!items.is_terminated());
            assert!(items.next().await.is_none());
            assert!(items.is_terminated());
            assert!(items.next().await.is_none());
        }
        let stats = pool.stats();
        assert_eq!((stats.restarts, stats.in_flight, stats.finished), (0, 0, 5));
    });
}

#[test]
fn an_empty_stream_ends_at_once() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let mut items = pool.stream(Count { to: 0, way: Sending::Await });
        assert!(items.next().await.is_none());
        assert_eq!(items.size_hint(), (0, Some(0)));
    });
}

#[test]
fn streams_and_tasks_share_the_workers() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let sums = (0..20).map(|_| async {
            let items = pool.stream(Count { to: 500, way: Sending::Await });
            items.try_fold(0, |sum, n| async move { Ok(sum + n) }).await.unwrap()
        });
        let (sums, echoes) = futures::join!(
            futures::future::join_all(sums),
            pool.map((0..500).map(Echo)).try_collect::<Vec<_>>()
        );
        assert_eq!(sums, [499 * 500 / 2; 20]);
        assert_eq!(echoes.unwrap(), (0..500).collect::<Vec<_>>());
    });
}

#[test]
fn a_first_item_does_not_wait_for_a_second() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        for then in [Then::Hang, Then::Spin] {
            let mut items = pool.stream(Burst { items: 3, then });
            for n in 0..3 {
                assert_eq!(items.next().await.unwrap().unwrap(), n);
            }
        }
    });
}

#[test]
fn an_abandoned_next_loses_nothing() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let mut items = pool.stream(Count { to: 2000, way: Sending::Await });
        let mut expected = 0;
        while expected < 2000 {
            match items.next().now_or_never() {
                None => tokio::task::yield_now().await,
                Some(item) => {
                    assert_eq!(item.unwrap().unwrap(), expected);
                    expected += 1;
                }
            }
        }
        assert!(items.next().await.is_none());
    });
}

#[test]
fn an_item_that_cannot_be_encoded_fails_its_stream_and_not_the_worker() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let mut items = pool.stream(Parcel(Content::Travels(Way::Unencodable)));
        items.next().await.unwrap().unwrap();
        let error = items.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec);
        let text = error.to_string();
        assert!(text.contains("parcel") && text.contains("an item could not be encoded"), "{text}");
        assert!(items.next().await.is_none() && items.is_terminated());
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn an_item_that_cannot_be_decoded_ends_its_stream_with_an_error() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let mut items = pool.stream(Parcel(Content::Travels(Way::Undecodable)));
        items.next().await.unwrap().unwrap();
        let error = items.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(error.to_string().contains("an item could not be decoded"), "{error}");
        assert!(items.is_terminated() && items.next().await.is_none());
        until(|| pool.stats().in_flight == 0).await;
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn an_item_over_the_message_limit_fails_its_stream_and_a_large_one_arrives() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).message_limit(1 << 20).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let mut items = pool.stream(Parcel(Content::Bytes(1 << 20)));
        items.next().await.unwrap().unwrap();
        let error = items.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert!(error.to_string().contains("an item of 10485"), "{error}");
        assert!(items.next().await.is_none());
        let items: Vec<_> = pool.stream(Parcel(Content::Bytes((1 << 20) - 100))).try_collect().await.unwrap();
        assert!(matches!(&items[..], [_, Sealed::Bytes(bytes), _] if bytes.len() == (1 << 20) - 100));
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

/// Two types that the workers know by these names, each as the other thing.
#[derive(Serialize, Deserialize)]
struct Wrong;

impl Task for Wrong {
    const NAME: &'static str = "count";
    type Output = u64;

    async fn run(self, _: Context) -> u64 {
        0
    }
}

impl StreamTask for Wrong {
    const NAME: &'static str = "echo";
    type Item = u64;

    async fn run(self, _: Context, _: Emitter<u64>) {}
}

#[test]
fn a_stream_is_no_task_and_a_task_is_no_stream() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let error = pool.run(Wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownTask);
        let text = error.to_string();
        assert!(text.contains("know a stream of that name") && text.contains("Pool::stream"), "{text}");
        let mut items = pool.stream(Wrong);
        let error = items.next().await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.may_have_run()), (ErrorKind::UnknownTask, false));
        let text = error.to_string();
        assert!(text.contains("know a task of that name") && text.contains("Pool::run"), "{text}");
        assert!(items.is_terminated() && items.next().await.is_none());
    });
}

#[test]
#[should_panic(expected = "two tasks are named \"count\"")]
fn a_task_and_a_stream_of_one_name_are_refused() {
    let _ = procpool::Worker::new().stream::<Count>().task::<Wrong>();
}

#[test]
fn an_emitter_that_outlives_its_stream_is_refused() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("late");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let items: Vec<_> = pool.stream(Leak(path.clone())).try_collect().await.unwrap();
        assert_eq!(items, [1]);
        until(|| notes(&path) == ["Closed"]).await;
        assert_eq!(pool.run(Echo(3)).await.unwrap(), 3);
    });
}

#[test]
fn a_full_queue_refuses_a_stream_and_a_reserved_place_takes_one() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).queue_limit(1).build().await.unwrap();
        let folder = Folder::new();
        let path = folder.file("spin");
        let busy = pool.run(Spin { note: path.clone(), polite: true });
        until(|| notes(&path) == ["begun"]).await;
        // One more is sent ahead, and one waits.
        let ahead = pool.run(Echo(1));
        until(|| pool.stats().in_flight == 2).await;
        let permit = pool.try_reserve().unwrap();
        let mut refused = pool.stream(Count { to: 3, way: Sending::Await });
        assert!(refused.next().await.unwrap().unwrap_err().is_overloaded());
        assert!(refused.next().await.is_none());
        let items = permit.stream(Count { to: 3, way: Sending::Await });
        busy.cancel().await.unwrap();
        assert_eq!(items.try_collect::<Vec<_>>().await.unwrap(), [0, 1, 2]);
        ahead.await.unwrap();
    });
}

#[test]
fn a_place_that_was_lost_before_its_stream_came_says_why() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).queue_limit(1).build().await.unwrap();
        let soon = Instant::now() + Duration::from_millis(50);
        let permit = pool.with_deadline(soon).try_reserve().unwrap();
        // There is one place: that somebody else gets it shows that it was lost.
        until(|| pool.try_reserve().is_ok()).await;
        let mut items = permit.stream(Count { to: 3, way: Sending::Await });
        assert!(items.next().await.unwrap().unwrap_err().is_timed_out());
        assert!(items.next().await.is_none());
    });
}
