//! A slow consumer stops its own producer, and nobody else: credit by count and by bytes, however the producer waits.

mod support;

use std::time::{Duration, Instant};

use futures::stream::{StreamExt, TryStreamExt};
use procpool::{Items, Pool};
use serde_bytes::ByteBuf;
use support::*;

procpool::worker_test!(support::worker());

/// What a stream begins with, and the most that may be unread: see `Emitter`.
const FIRST: u64 = 64;
const MOST: u64 = 1024;

async fn read(items: &mut Items<ByteBuf>) {
    items.next().await.unwrap().unwrap();
}

#[test]
fn a_producer_is_ahead_by_a_little_at_first_and_never_by_more_than_the_window() {
    on_both_runtimes(|| async {
        for blocking in [false, true] {
            let folder = Folder::new();
            let sent = folder.file("sent");
            let pool = Pool::builder().workers(1).build().await.unwrap();
            let mut items = pool.stream(Produce { sent: sent.clone(), bytes: 10, blocking });
            until(|| length(&sent) == FIRST).await;
            for n in 1.. {
                read(&mut items).await;
                assert!(length(&sent) <= n + MOST);
                // Now that it is read fast it may use all of the window. How much of that depends on when it hears what was read.
                if n > 10_000 && length(&sent) > n + MOST / 5 {
                    break;
                }
                assert!(n < 1_000_000, "it is never ahead by more than {}", MOST / 5);
            }
        }
    });
}

#[test]
fn a_slow_consumer_holds_up_nobody_else() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let sent = folder.file("sent");
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let mut slow = pool.stream(Produce { sent: sent.clone(), bytes: 10, blocking: false });
        until(|| length(&sent) == FIRST).await;
        let outputs: Vec<u64> = pool.map((0..2000).map(Echo)).try_collect().await.unwrap();
        assert_eq!(outputs.len(), 2000);
        let counted: Vec<u64> =
            pool.stream(Count { to: 20_000, way: Sending::Await }).try_collect().await.unwrap();
        assert_eq!(counted.len(), 20_000);
        assert_eq!(length(&sent), FIRST);
        assert_eq!(pool.stats().in_flight, 1);
        for _ in 0..5000 {
            read(&mut slow).await;
        }
    });
}

#[test]
fn large_items_are_bounded_by_bytes() {
    on_a_runtime(|| async {
        // More than what a stream begins with, and a sixteenth of what it may get to.
        const SIZE: usize = 256 << 10;
        for blocking in [false, true] {
            let folder = Folder::new();
            let sent = folder.file("sent");
            let pool = Pool::builder().workers(1).build().await.unwrap();
            let mut items = pool.stream(Produce { sent: sent.clone(), bytes: SIZE, blocking });
            // One may always be under way, however large.
            until(|| length(&sent) == 1).await;
            for n in 1..100 {
                read(&mut items).await;
                assert!(length(&sent) <= n + 16 + 1, "{} of 256 KiB are sent, {n} are read", length(&sent));
            }
        }
    });
}

#[test]
fn items_larger_than_the_window_come_one_by_one() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let sent = folder.file("sent");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let mut items = pool.stream(Produce { sent: sent.clone(), bytes: 5 << 20, blocking: false });
        for n in 1..10 {
            read(&mut items).await;
            assert!(length(&sent) <= n + 1);
        }
    });
}

#[test]
fn sizes_that_jump_do_not_break_the_bounds() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let sent = folder.file("sent");
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let mut items = pool.stream(Swell { sent: sent.clone(), small: 3000, large: 1 << 20 });
        for _ in 0..3000 {
            items.next().await.unwrap().unwrap();
        }
        for n in 3001..3030 {
            assert_eq!(items.next().await.unwrap().unwrap().len(), 1 << 20);
            assert!(length(&sent) <= n + 4 + 1);
        }
    });
}

/// Whoever waits for credit must not look dead, wherever it waits.
#[test]
fn a_producer_may_wait_longer_than_a_worker_may_be_silent() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (one, two) = (folder.file("one"), folder.file("two"));
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let before = pids(&pool, 2).await;
        let mut awaits = pool.stream(Produce { sent: one.clone(), bytes: 10, blocking: false });
        let mut blocks = pool.stream(Produce { sent: two.clone(), bytes: 10, blocking: true });
        until(|| length(&one) == FIRST && length(&two) == FIRST).await;
        let start = Instant::now();
        until(|| start.elapsed() > Duration::from_secs(6)).await;
        for _ in 0..3000 {
            read(&mut awaits).await;
            read(&mut blocks).await;
        }
        assert_eq!(pids(&pool, 2).await, before);
    });
}

#[test]
fn with_slots_a_stalled_stream_leaves_its_worker_to_others() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let sent = folder.file("sent");
        let pool = Pool::builder().workers(1).slots(40).build().await.unwrap();
        let mut slow = pool.stream(Produce { sent: sent.clone(), bytes: 10, blocking: false });
        until(|| length(&sent) == FIRST).await;
        let pool = &pool;
        let many = (0..30).map(|n| async move {
            let way = [Sending::Await, Sending::Sink, Sending::Subtask, Sending::Thread][n % 4];
            let counted: Vec<u64> = pool.stream(Count { to: 3000, way }).try_collect().await.unwrap();
            assert_eq!(counted, (0..3000).collect::<Vec<_>>());
        });
        futures::future::join_all(many).await;
        assert_eq!(length(&sent), FIRST);
        for _ in 0..5000 {
            read(&mut slow).await;
        }
        drop(slow);
        until(|| notes(&sent.with_extension("error")) == ["Cancelled"]).await;
        assert_eq!(pool.stats().restarts, 0);
    });
}
