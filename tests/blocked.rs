//! Runtimes that stand still, tasks that yield without end, callers on other threads, wakers that call back: none of it
//! makes a healthy worker look dead, leaves one behind, or locks the pool up.

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Wake, Waker};
use std::time::{Duration, Instant};

use procpool::Pool;
use support::*;

procpool::worker_test!(support::worker());

/// Longer than a worker may be silent.
const LONG: Duration = Duration::from_secs(8);

fn current() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Has a worker for a while and does nothing with it. The kernel takes the end of the thread that started a process for its
/// parent's; tokio ends threads that are idle for 10 s, and those that a blocking call has left without work.
async fn idle() {
    let pool = Pool::builder().workers(1).build().await.unwrap();
    let before = pool.run(Pid).await.unwrap();
    let end = Instant::now() + Duration::from_secs(times(15, 11) as u64);
    while Instant::now() < end {
        assert!(exists(before), "a healthy worker has gone");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((pool.run(Pid).await.unwrap(), pool.stats().restarts), (before, 0));
}

#[test]
fn a10_an_idle_worker_outlives_its_runtimes_threads() {
    let _test = Test::start();
    let on_current = || current().block_on(idle());
    let on_multi = || {
        let task = async {
            let handed_over = tokio::spawn(idle());
            tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(300)));
            handed_over.await.unwrap();
        };
        multi().block_on(async { tokio::spawn(task).await.unwrap() });
    };
    let on_local = || {
        let local = tokio::task::LocalSet::new();
        current().block_on(local.run_until(async { tokio::task::spawn_local(idle()).await.unwrap() }));
    };
    // It was built on a thread that has ended since.
    let elsewhere = || {
        let runtime = multi();
        let build = || runtime.block_on(Pool::builder().workers(1).build());
        let pool = std::thread::scope(|scope| scope.spawn(build).join().unwrap()).unwrap();
        let before = runtime.block_on(pool.run(Pid)).unwrap();
        runtime.block_on(idle());
        assert_eq!(runtime.block_on(pool.run(Pid)).unwrap(), before);
    };
    std::thread::scope(|scope| {
        let threads =
            [scope.spawn(on_current), scope.spawn(on_multi), scope.spawn(on_local), scope.spawn(elsewhere)];
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_task_that_yields_without_end_is_not_taken_for_dead() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let ms = LONG.as_millis() as u64;
        let rounds = pool.run(Yield { note: folder.file("note"), ms }).await.unwrap();
        assert!(rounds > 1000);
    });
}

#[test]
fn a_task_that_yields_without_end_hears_its_cancel() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let folder = Folder::new();
        let path = folder.file("note");
        let run = pool.run(Yield { note: path.clone(), ms: 60_000 });
        until(|| notes(&path) == ["begun"]).await;
        run.cancel().await.unwrap();
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn what_came_while_a_runtime_stood_still_is_heard_before_a_grace_is_over() {
    on_a_runtime(|| async {
        const GRACE: Duration = Duration::from_millis(50);
        let pool = Pool::builder().workers(1).cancel_grace(GRACE).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        for _ in 0..5 {
            let folder = Folder::new();
            let path = folder.file("note");
            let run = pool.run(Spin { note: path.clone(), polite: true });
            until(|| notes(&path) == ["begun"]).await;
            run.abort_handle().abort();
            let asked = Instant::now();
            // The link's turn, to say so. Then nobody has one until it is too late; much later would not count.
            tokio::task::yield_now().await;
            // It has answered when it sleeps.
            let answered =
                || notes(&path).len() == 2 && status(before).is_some_and(|(state, _)| state == 'S');
            while !answered() || asked.elapsed() < GRACE + GRACE / 2 {
                assert!(asked.elapsed() < limit(), "it does not stop");
                std::hint::spin_loop();
            }
            run.await.unwrap();
        }
        assert_eq!((pool.run(Pid).await.unwrap(), pool.stats().restarts), (before, 0));
    });
}

#[test]
fn i7_a_runtime_that_stands_still_while_others_submit_blames_nobody() {
    let _test = Test::start();
    let runtime = current();
    let pool = runtime.block_on(Pool::builder().workers(1).build()).unwrap();
    let elsewhere = pool.clone();
    runtime.block_on(async move {
        let folder = Folder::new();
        let path = folder.file("note");
        let run = pool.run(Append { path: path.clone(), line: 1, then_ms: 6000 });
        until(|| notes(&path) == ["1"]).await;
        let end = Instant::now() + LONG;
        let submitter = std::thread::spawn(move || {
            while Instant::now() < end {
                elsewhere.run(Echo(1)).detach();
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        std::thread::sleep(LONG);
        assert_eq!(run.await.unwrap(), 1);
        submitter.join().unwrap();
    });
}

#[test]
fn i7_a_task_that_blocks_a_runtimes_thread_after_it_submitted_blames_nobody() {
    let _test = Test::start();
    let runtime = multi();
    runtime.block_on(async {
        let task = async {
            let pool = Pool::builder().workers(1).build().await.unwrap();
            let folder = Folder::new();
            let path = folder.file("note");
            let first = pool.run(Append { path: path.clone(), line: 1, then_ms: 6000 });
            until(|| notes(&path) == ["1"]).await;
            let second = pool.run(Echo(2));
            std::thread::sleep(LONG);
            (first.await.unwrap(), second.await.unwrap())
        };
        assert_eq!(tokio::spawn(task).await.unwrap(), (1, 2));
    });
}

#[test]
fn a_cancel_that_could_not_be_sent_is_no_reason_to_kill() {
    let _test = Test::start();
    let runtime = multi();
    runtime.block_on(async {
        let task = async {
            let pool = Pool::builder().workers(1).build().await.unwrap();
            let before = pool.run(Pid).await.unwrap();
            let folder = Folder::new();
            let path = folder.file("note");
            let run = pool.run(Yield { note: path.clone(), ms: 60_000 });
            until(|| notes(&path) == ["begun"]).await;
            run.abort_handle().abort();
            std::thread::sleep(Duration::from_secs(3));
            run.await.unwrap();
            (before, pool.run(Pid).await.unwrap())
        };
        let (before, after) = tokio::spawn(task).await.unwrap();
        assert_eq!(before, after);
    });
}

#[test]
fn workers_that_are_still_starting_do_not_outlive_a_pool_that_nobody_drives() {
    let _test = Test::start();
    let runtime = current();
    for _ in 0..5 {
        drop(runtime.block_on(Pool::builder().workers(6).build()).unwrap());
        until_blocking(|| !tree().contains("procpool-worker:") || others_run());
    }
}

/// Whether the workers below this process may be those of the other tests, which are up to ten seconds at it.
fn others_run() -> bool {
    std::env::var_os("NEXTEST").is_none() && tree().matches("procpool-worker:").count() < 6
}

/// A waker that calls back into the pool.
struct Caller(Pool);

impl std::task::Wake for Caller {
    fn wake(self: Arc<Self>) {
        assert_eq!(self.0.stats().queued, 0);
    }
}

#[test]
fn a_waker_may_call_the_pool() {
    let _test = Test::start();
    let runtime = multi();
    let pool = runtime.block_on(Pool::builder().workers(1).build()).unwrap();
    let waker: Waker = Arc::new(Caller(pool.clone())).into();
    let mut cx = Wake::from_waker(&waker);
    let mut run = pool.run(Block { ms: 50 });
    assert!(Pin::new(&mut run).poll(&mut cx).is_pending());
    let mut closing = pool.drain();
    assert!(Pin::new(&mut closing).poll(&mut cx).is_pending());
    until_blocking(|| Pin::new(&mut closing).poll(&mut Wake::from_waker(Waker::noop())).is_ready());
    assert_eq!(runtime.block_on(run).unwrap(), 50);
}

#[test]
fn a_large_message_is_not_paid_for_for_ever() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        assert_eq!(pool.run(Fill { bytes: 40 << 20 }).await.unwrap().len(), 40 << 20);
        let pid = pool.run(Pid).await.unwrap();
        // What both share is kept for some seconds, for what may follow.
        let kib = || -> u64 {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            resident.trim().trim_end_matches(" kB").parse().unwrap()
        };
        until(|| kib() < 24 << 10).await;
    });
}

#[test]
fn a_worker_that_does_not_start_in_time_says_so() {
    on_a_runtime(|| async {
        let start = Instant::now();
        let limit = Duration::from_millis(300);
        let error =
            Pool::builder().workers(1).program("/bin/cat").start_limit(limit).build().await.unwrap_err();
        assert!(error.to_string().contains("echoes"), "{error}");
        let error =
            Pool::builder().workers(1).program("/bin/true").start_limit(limit).build().await.unwrap_err();
        assert!(error.to_string().contains("exited with code 0"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    });
}
