//! A queue that is full: who is refused, who waits, and that memory does not grow.

mod support;

use std::time::{Duration, Instant};

use futures::future::{FutureExt, join_all};
use futures::stream::{StreamExt, TryStreamExt};
use procpool::{ErrorKind, Permit, Pool};
use support::*;
use tokio_util::sync::CancellationToken;

procpool::worker_test!(support::worker());

/// One worker that is busy until the note's folder has a file of that name, and a queue of so many places that is empty.
struct Busy {
    pool: Pool,
    folder: Folder,
    running: procpool::Run<()>,
}

impl Busy {
    async fn new(queue_limit: usize) -> Self {
        let pool = Pool::builder().workers(1).queue_limit(queue_limit).build().await.unwrap();
        let folder = Folder::new();
        let running = pool.run(Spin { note: folder.file("note"), polite: true });
        until(|| !notes(&folder.file("note")).is_empty()).await;
        // One is sent ahead, whatever it is, and does not count any more.
        pool.run(Echo(0)).detach();
        until(|| pool.stats().in_flight == 2).await;
        Self { pool, folder, running }
    }

    async fn release(self) -> (Pool, Folder) {
        assert!(self.running.cancel().await.is_ok());
        (self.pool, self.folder)
    }
}

#[test]
fn a_full_queue_refuses_and_says_how_full_it_is() {
    on_both_runtimes(|| async {
        let busy = Busy::new(2).await;
        let pool = busy.pool.clone();
        let waiting = [pool.run(Echo(1)), pool.run(Echo(2))];
        assert_eq!(pool.stats().queued, 2);
        let error = pool.run(Echo(3)).await.unwrap_err();
        assert!(error.is_overloaded() && !error.may_have_run() && error.attempts() == 0, "{error:?}");
        let shown = error.to_string();
        for part in ["(echo)", "2 tasks wait", "at most 2 tasks", "reserve", "queue_limit"] {
            assert!(shown.contains(part), "{part:?} is missing: {shown}");
        }
        assert!(shown.len() < 300, "{shown}");
        assert!(pool.try_reserve().unwrap_err().is_overloaded());
        busy.release().await;
        for (n, run) in (1..).zip(waiting) {
            assert_eq!(run.await.unwrap(), n);
        }
        assert_eq!(pool.run(Echo(4)).await.unwrap(), 4);
    });
}

#[test]
fn bytes_are_bounded_too_and_one_giant_is_let_in() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).queue_bytes(1000).build().await.unwrap();
        let folder = Folder::new();
        let running = pool.run(Spin { note: folder.file("note"), polite: true });
        until(|| !notes(&folder.file("note")).is_empty()).await;
        pool.run(Echo(0)).detach();
        until(|| pool.stats().in_flight == 2).await;
        let giant = pool.run(Panic("x".repeat(10_000)));
        assert!(pool.run(Echo(1)).await.unwrap_err().is_overloaded());
        assert!(running.cancel().await.is_ok());
        assert!(giant.await.unwrap_err().is_panicked());
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    });
}

#[test]
fn places_are_waited_for_in_order_and_given_back() {
    on_a_runtime(|| async {
        let busy = Busy::new(1).await;
        let pool = busy.pool.clone();
        let first: Permit = pool.reserve().await.unwrap();
        let (mut second, mut third) = (Box::pin(pool.reserve()), Box::pin(pool.reserve()));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        // Whoever drops his turn or his place makes way.
        drop(first);
        let fourth = pool.reserve();
        assert!((&mut third).now_or_never().is_none(), "the third overtakes the second");
        drop(second);
        let third = third.await.unwrap();
        assert!(pool.run(Echo(1)).await.unwrap_err().is_overloaded());
        let run = third.run(Echo(3));
        let fourth = tokio::spawn(fourth);
        busy.release().await;
        assert_eq!(run.await.unwrap(), 3);
        assert_eq!(fourth.await.unwrap().unwrap().run(Echo(4)).await.unwrap(), 4);
        // A task that cannot even be submitted gives its place back.
        let unknown = pool.reserve().await.unwrap().run(Unheard).await.unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::UnknownTask);
        assert_eq!(pool.reserve().await.unwrap().run(Echo(5)).await.unwrap(), 5);
    });
}

#[test]
fn whoever_waits_for_a_place_is_told_why_there_will_be_none() {
    on_both_runtimes(|| async {
        let busy = Busy::new(1).await;
        let pool = busy.pool.clone();
        let held = pool.reserve().await.unwrap();
        let by = Instant::now() + Duration::from_millis(20);
        assert!(pool.with_deadline(by).reserve().await.unwrap_err().is_timed_out());
        let token = CancellationToken::new();
        let cancelled = pool.with_token(token.clone()).reserve();
        let (cancelled, ()) = tokio::join!(cancelled, async { token.cancel() });
        assert!(cancelled.unwrap_err().is_cancelled());
        let closed = tokio::spawn(pool.reserve());
        let waiting = pool.map([Echo(1)]);
        let late = pool.shutdown(Duration::ZERO);
        assert!(closed.await.unwrap().unwrap_err().is_closed());
        assert!(held.run(Echo(1)).await.unwrap_err().is_closed());
        assert!(pool.try_reserve().unwrap_err().is_closed());
        let outcomes: Vec<_> = waiting.collect().await;
        assert!(outcomes.len() == 1 && outcomes[0].as_ref().is_err_and(|error| error.is_closed()));
        late.await;
    });
}

#[test]
fn maps_wait_for_places_and_keep_none_from_others() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(2).queue_limit(1).build().await.unwrap();
        let (ordered, unordered) = (pool.map((0..500).map(Echo)), pool.map_unordered((0..500).map(Echo)));
        let (ordered, unordered) =
            tokio::join!(ordered.try_collect::<Vec<_>>(), unordered.try_collect::<Vec<_>>());
        assert!(ordered.unwrap().into_iter().eq(0..500));
        let mut unordered = unordered.unwrap();
        unordered.sort_unstable();
        assert!(unordered.into_iter().eq(0..500));
        // A map that nobody polls while somebody else wants a place.
        let mut outer = pool.map((0..100).map(Echo));
        while let Some(n) = outer.next().await {
            let inner = pool.reserve().await.unwrap().run(Echo(n.unwrap()));
            inner.await.unwrap();
        }
    });
}

#[test]
fn h7_a_million_refusals_cost_no_memory() {
    on_a_runtime(|| async {
        let busy = Busy::new(1000).await;
        let pool = busy.pool.clone();
        let waiting: Vec<_> = (0..1000).map(|n| pool.run(Echo(n))).collect();
        let before = resident_kib();
        for n in 0..h7_count() {
            let refused = pool.run(Echo(n)).now_or_never().expect("an answer at once");
            assert!(refused.unwrap_err().is_overloaded());
        }
        h7_grown(before);
        busy.release().await;
        join_all(waiting).await;
    });
}

#[test]
fn h7_a_million_tasks_that_wait_for_places_cost_no_memory() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).queue_limit(1000).build().await.unwrap();
        let before = resident_kib();
        for n in 0..h7_count() {
            pool.reserve().await.unwrap().run(Echo(n)).detach();
        }
        h7_grown(before);
        let answers = pool.map_unordered((0..h7_count()).map(Echo)).map(|answer| answer.unwrap());
        assert_eq!(answers.count().await as u64, h7_count());
        h7_grown(before);
    });
}

/// The count is a million where the tests are asked for in full.
fn h7_count() -> u64 {
    if full() { 1_000_000 } else { 30_000 }
}

fn h7_grown(before: u64) {
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 50 << 10, "it cost {grown} KiB");
}

/// A task that no worker knows.
#[derive(serde::Serialize, serde::Deserialize)]
struct Unheard;

impl procpool::Task for Unheard {
    const NAME: &'static str = "unheard";
    type Output = ();

    async fn run(self, _: procpool::Context) {}
}
