//! Many tasks as a stream: order, laziness, bounds, errors by index, endless inputs, inputs that come as a stream, and
//! dropping in the middle.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::{FusedStream, StreamExt, TryStreamExt};
use futures::{FutureExt, SinkExt};
use procpool::Pool;
use support::*;

procpool::worker_test!(support::worker());

#[test]
fn outputs_come_in_the_order_of_the_inputs() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let outputs: Vec<u64> = pool.map((0..5000).map(Echo)).try_collect().await.unwrap();
        assert_eq!(outputs, (0..5000).collect::<Vec<_>>());
    });
}

#[test]
fn unordered_outputs_are_all_there_and_a_slow_one_holds_up_nobody() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let inputs = [400, 1, 2, 3, 4].map(|ms| Block { ms });
        let outputs: Vec<u64> = pool.map_unordered(inputs).try_collect().await.unwrap();
        assert_eq!(outputs.last(), Some(&400));
        let mut outputs: Vec<u64> = pool.map_unordered((0..3000).map(Echo)).try_collect().await.unwrap();
        outputs.sort_unstable();
        assert_eq!(outputs, (0..3000).collect::<Vec<_>>());
    });
}

#[test]
fn an_empty_input_gives_an_ended_stream() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let mut items = pool.map(std::iter::empty::<Echo>());
        assert!(items.next().await.is_none());
        assert!(items.is_terminated());
        assert!(items.next().await.is_none());
    });
}

#[test]
fn an_endless_input_is_taken_lazily_and_within_bounds() {
    on_a_runtime(|| async {
        let taken = Arc::new(AtomicUsize::new(0));
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let count = Arc::clone(&taken);
        let mut items = pool.map((0..).map(move |n| {
            count.fetch_add(1, Ordering::Relaxed);
            Echo(n)
        }));
        assert_eq!(taken.load(Ordering::Relaxed), 0, "nothing is taken before the first poll");
        for n in 0..3000 {
            assert_eq!(items.next().await.unwrap().unwrap(), n);
            assert!(taken.load(Ordering::Relaxed) <= n as usize + 1 + 32_768);
        }
        drop(items);
        until(|| pool.stats().in_flight + pool.stats().queued == 0).await;
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    });
}

#[test]
fn large_inputs_are_bounded_by_bytes() {
    on_a_runtime(|| async {
        let taken = Arc::new(AtomicUsize::new(0));
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let count = Arc::clone(&taken);
        let mut items = pool.map((0..).map(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Panic("x".repeat(1 << 20))
        }));
        assert!(items.next().await.unwrap().unwrap_err().is_panicked());
        assert!(taken.load(Ordering::Relaxed) <= 6, "{taken:?} inputs of 1 MiB were taken");
    });
}

#[test]
fn an_error_names_its_input_and_does_not_end_the_stream() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let inputs = (0..20).map(|n| if n == 7 { Die::Exit(3) } else { Die::Exit(0) }).take(8);
        let errors: Vec<_> = pool.map(inputs).map(Result::unwrap_err).collect().await;
        assert_eq!(errors.len(), 8);
        for (n, error) in errors.iter().enumerate() {
            assert_eq!(error.index(), Some(n as u64));
        }
        assert_eq!(errors[7].exit().and_then(|exit| exit.code()), Some(3));
    });
}

#[test]
fn a_stream_does_not_keep_its_pool_alive() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let mut items = pool.map((0..).map(|_| Block { ms: 10 }));
        items.next().await.unwrap().unwrap();
        drop(pool);
        // What had been answered may still come; then every further input is refused.
        let closed = items.take(5000).filter(|item| std::future::ready(item.is_err())).next().await;
        assert!(closed.unwrap().unwrap_err().is_closed());
    });
}

#[test]
fn inputs_may_come_as_a_stream_in_their_own_time() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let (mut sender, receiver) = futures::channel::mpsc::channel(0);
        let mut items = pool.map_stream(receiver.map(Echo));
        for n in 0..100 {
            // Nothing is there, nothing is under way: that is not the end.
            assert!(items.next().now_or_never().is_none() && !items.is_terminated());
            let (sent, item) = futures::join!(sender.send(n), items.next());
            sent.unwrap();
            assert_eq!(item.unwrap().unwrap(), n);
        }
        drop(sender);
        assert!(items.next().await.is_none() && items.is_terminated());
        assert!(items.next().await.is_none());
    });
}

#[test]
fn outputs_of_a_stream_of_inputs_come_in_order_or_as_they_come() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let inputs = || futures::stream::iter([300, 1, 2, 3]).map(|ms| Block { ms });
        let ordered: Vec<u64> = pool.map_stream(inputs()).try_collect().await.unwrap();
        assert_eq!(ordered, [300, 1, 2, 3]);
        let unordered: Vec<u64> = pool.map_stream_unordered(inputs()).try_collect().await.unwrap();
        assert_eq!(unordered.last(), Some(&300));
    });
}

#[test]
fn a_stream_of_inputs_is_read_lazily_and_within_bounds() {
    on_a_runtime(|| async {
        let taken = Arc::new(AtomicUsize::new(0));
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let count = Arc::clone(&taken);
        let inputs = futures::stream::iter(0..).map(move |n| {
            count.fetch_add(1, Ordering::Relaxed);
            Echo(n)
        });
        let mut items = pool.map_stream(inputs);
        assert_eq!(taken.load(Ordering::Relaxed), 0, "nothing is taken before the first poll");
        for n in 0..3000 {
            assert_eq!(items.next().await.unwrap().unwrap(), n);
            assert!(taken.load(Ordering::Relaxed) <= n as usize + 1 + 32_768);
        }
        drop(items);
        until(|| pool.stats().in_flight + pool.stats().queued == 0).await;
    });
}

#[test]
fn one_pools_items_can_be_anothers_inputs() {
    on_a_runtime(|| async {
        let (first, second) =
            futures::try_join!(Pool::builder().workers(1).build(), Pool::builder().workers(1).build())
                .unwrap();
        let numbers = first.stream(Count { to: 5000, way: Sending::Await });
        let inputs = numbers.map(|number| Echo(number.unwrap()));
        let outputs: Vec<u64> = second.map_stream(inputs).try_collect().await.unwrap();
        assert_eq!(outputs, (0..5000).collect::<Vec<_>>());
    });
}
