//! Workers that are threads of this process: the promises are those of processes, but for force. This file has neither
//! `Worker::init` nor a worker entry, and what a task does can be seen in statics.

mod support;

use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use procpool::{Context, ErrorKind, Exit, Pool, PoolBuilder, Task, Worker};
use serde::{Deserialize, Serialize};
use support::*;
use tokio_util::sync::CancellationToken;

/// A pool of threads that know the tasks of all test files.
fn threads(n: usize) -> PoolBuilder {
    quick(n).in_process(support::worker)
}

#[test]
fn tasks_run_on_threads_of_this_process_in_any_runtime() {
    on_both_runtimes(|| async {
        let pool = threads(2).build().await.unwrap();
        open(&pool, 2).await;
        assert_eq!(pool.run(Pid).await.unwrap(), std::process::id());
        assert!(pool.stats().workers.iter().all(|worker| worker.pid.is_none()));
        let echoed: Vec<_> = pool.map((0..5000).map(Echo)).try_collect().await.unwrap();
        assert!(echoed.into_iter().eq(0..5000));
        assert_eq!(pool.run(Fill { bytes: 3 << 20 }).await.unwrap(), vec![7; 3 << 20]);
        pool.drain().await;
    });
}

#[test]
fn a_task_that_panics_fails_alone_and_the_error_shows_where() {
    on_a_runtime(|| async {
        let pool = threads(1).build().await.unwrap();
        let error = pool.run(Panic("boo".into())).await.unwrap_err();
        assert!(error.is_panicked() && error.worker_pid().is_none() && error.may_have_run());
        let text = error.to_string();
        assert!(text.contains("(panic): it panicked at tests/support/mod.rs:") && text.contains(": boo"));
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        assert_eq!(pool.stats().restarts, 0);
    });
}

#[test]
fn what_cannot_travel_fails_as_it_does_between_processes() {
    on_a_runtime(|| async {
        let pool = threads(1).message_limit(100_000).build().await.unwrap();
        for way in [Way::Unencodable, Way::Undecodable] {
            assert_eq!(pool.run(Reply(way)).await.unwrap_err().kind(), ErrorKind::Codec);
        }
        let error = pool.run(Fill { bytes: 200_000 }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert_eq!(pool.run(Nested).await.unwrap_err().kind(), ErrorKind::UnknownTask);
    });
}

/// Tells where it runs, and what a pool that is built there says.
#[derive(Serialize, Deserialize)]
struct Nested;

impl Task for Nested {
    const NAME: &'static str = "nested";
    type Output = (Option<String>, String);

    async fn run(self, _: Context) -> Self::Output {
        let built = Pool::builder().in_process(support::worker).build().await;
        let name = std::thread::current().name().map(str::to_owned);
        (name, built.map_or_else(|error| error.to_string(), |_| "built".to_owned()))
    }
}

#[test]
fn a_worker_cannot_build_pools_there_either() {
    on_a_runtime(|| async {
        let pool = quick(1).in_process(|| Worker::new().task::<Nested>()).build().await.unwrap();
        let (thread, refusal) = pool.run(Nested).await.unwrap();
        assert_eq!(thread.as_deref(), Some("procpool-worker"));
        assert_eq!(
            refusal,
            "a worker cannot build pools; its tasks have one: call cx.pool(), and configure it with Worker::nested"
        );
    });
}

/// Counts the leaves of a tree of tasks, each level one pool further down, and the ways to them.
#[derive(Serialize, Deserialize)]
struct Tree(u32);

impl Task for Tree {
    const NAME: &'static str = "tree";
    type Output = Vec<Vec<procpool::WorkerId>>;

    async fn run(self, cx: Context) -> Self::Output {
        if self.0 == 0 {
            return vec![cx.path()];
        }
        let pool = cx.pool().unwrap();
        let below: Vec<_> = pool.map((0..3).map(move |_| Self(self.0 - 1))).try_collect().await.unwrap();
        below.concat()
    }
}

#[test]
fn tasks_have_pools_of_threads_one_level_down() {
    on_both_runtimes(|| async {
        let declare = || Worker::new().task::<Tree>().nested(|pool| pool.workers(2));
        let pool = quick(2).in_process(declare).build().await.unwrap();
        let ways = pool.run(Tree(3)).await.unwrap();
        assert!(ways.len() == 27 && ways.iter().all(|way| way.len() == 4), "{ways:?}");
        pool.drain().await;
    });
}

/// Says its name when it ends.
struct Noted(&'static str, &'static Mutex<Vec<&'static str>>);

impl Drop for Noted {
    fn drop(&mut self) {
        // There is a runtime, as in a process.
        tokio::runtime::Handle::current();
        self.1.lock().unwrap().push(self.0);
    }
}

struct First(u32, Noted);
struct Second(Noted);

/// Gives its worker and the number of that one's state.
#[derive(Serialize, Deserialize)]
struct Ask;

impl Task for Ask {
    const NAME: &'static str = "ask";
    type Output = (procpool::WorkerId, u32);

    async fn run(self, cx: Context) -> Self::Output {
        std::thread::sleep(Duration::from_millis(2));
        let (first, second) = (cx.state::<First>(), cx.state::<Second>());
        assert_eq!((first.1.0, second.0.0), ("first", "second"));
        (cx.worker_id(), first.0)
    }
}

#[test]
fn each_worker_builds_its_own_states_and_drops_them_when_it_leaves_the_last_one_first() {
    static BUILT: AtomicU32 = AtomicU32::new(0);
    static ENDED: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let declare = || {
        let first = || async { First(BUILT.fetch_add(1, Ordering::SeqCst), Noted("first", &ENDED)) };
        Worker::new().task::<Ask>().state(first).state(|| async { Second(Noted("second", &ENDED)) })
    };
    on_a_runtime(|| async {
        let pool = quick(2).in_process(declare).build().await.unwrap();
        open(&pool, 2).await;
        let mut known = std::collections::BTreeMap::new();
        while known.len() < 2 {
            let asked: Vec<_> = pool.map((0..8).map(|_| Ask)).try_collect().await.unwrap();
            for (worker, number) in asked {
                assert_eq!(*known.entry(worker).or_insert(number), number);
            }
        }
        assert_eq!(BUILT.load(Ordering::SeqCst), 2);
        pool.drain().await;
        let mut ended = std::mem::take(&mut *ENDED.lock().unwrap());
        assert_eq!(ended.len(), 4);
        assert!(ended[0] == "second" && ended[3] == "first", "{ended:?}");

        // A worker of a pool that is dropped is not killed, and so takes down what it has built.
        let pool = quick(1).in_process(declare).build().await.unwrap();
        drop(pool);
        until(|| ENDED.lock().unwrap().len() == 2).await;
        ended = std::mem::take(&mut *ENDED.lock().unwrap());
        assert_eq!(ended, ["second", "first"]);
    });
}

fn broken() -> u8 {
    panic!("no state")
}

#[test]
fn a_pool_whose_workers_cannot_begin_says_why() {
    static ENDED: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    type Declare = fn() -> Worker;
    let cases: [(Declare, &str); 4] = [
        (
            || {
                let first = || async { First(1, Noted("first", &ENDED)) };
                Worker::new().state(first).try_state(|| async { Err::<u8, _>("there is none") })
            },
            "state u8 was not initialised: there is none",
        ),
        (
            || Worker::new().state(|| async { broken() }),
            "state u8 was not initialised: it panicked at tests/in_process.rs:",
        ),
        (|| Worker::new().task::<Ask>().task::<Ask>(), "two tasks are named \"ask\""),
        (|| panic!("no worker"), "the worker was not declared: it panicked at tests/in_process.rs:"),
    ];
    on_a_runtime(|| async {
        for (declare, words) in cases {
            let error = Pool::builder().workers(1).in_process(declare).build().await.unwrap_err();
            assert_eq!((error.kind(), error.exit()), (ErrorKind::Launch, Some(Exit::Thread)));
            let text = error.to_string();
            assert!(text.contains("a worker ended its thread before it took tasks (worker "), "{text}");
            assert!(text.contains(words) && error.stderr().contains(words), "{text}");
        }
        // Three starts, and each has dropped what it had built.
        assert_eq!(*ENDED.lock().unwrap(), ["first"; 3]);
    });
}

#[test]
fn a_state_that_is_never_built_is_given_up_in_time() {
    on_a_runtime(|| async {
        let declare = || Worker::new().state(pending::<u8>);
        let builder = Pool::builder().workers(1).init_timeout(Duration::from_millis(50));
        let error = builder.in_process(declare).build().await.unwrap_err();
        let words = "a worker did not initialise its states within 50ms and was killed";
        assert!(error.to_string().contains(words), "{error}");
    });
}

#[test]
fn higher_priorities_go_first() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("order");
        let pool = threads(1).build().await.unwrap();
        let busy = pool.run(Spin { note: folder.file("busy"), polite: true });
        until(|| notes(&folder.file("busy")) == ["begun"]).await;
        let append = |line| Append { path: path.clone(), line, then_ms: 0 };
        let runs: Vec<_> =
            [0, 2, 1].into_iter().map(|n| pool.with_priority(n as i8).run(append(n))).collect();
        drop(busy);
        for run in runs {
            run.await.unwrap();
        }
        assert_eq!(notes(&path), ["2", "1", "0"]);
    });
}

#[test]
fn what_waits_behind_a_long_task_is_taken_back_and_run_elsewhere() {
    on_a_runtime(|| async {
        let pool = threads(2).build().await.unwrap();
        open(&pool, 2).await;
        // Both workers learn that these are short, and are sent many at once.
        let short: Vec<_> = pool.map((0..4000).map(Echo)).try_collect().await.unwrap();
        assert_eq!(short.len(), 4000);
        let folder = Folder::new();
        let long = pool.run(Spin { note: folder.file("long"), polite: true });
        let all: Vec<_> = pool.map_unordered((0..4000).map(Echo)).try_collect().await.unwrap();
        assert_eq!(all.len(), 4000);
        assert_eq!(notes(&folder.file("long")), ["begun"]);
        // It was done, if only with stopping: that is its answer.
        long.cancel().await.unwrap();
    });
}

#[test]
fn a_dropped_run_stops_its_task_and_the_worker_goes_on() {
    on_both_runtimes(|| async {
        let folder = Folder::new();
        let pool = threads(1).build().await.unwrap();
        let worker = pool.stats().workers[0].id;
        let spin = folder.file("spin");
        let run = pool.run(Spin { note: spin.clone(), polite: true });
        until(|| notes(&spin) == ["begun"]).await;
        drop(run);
        until(|| notes(&spin) == ["begun", "stopped"]).await;

        let wait = folder.file("wait");
        let run = pool.run(Wait { note: wait.clone(), polite: true });
        until(|| notes(&wait) == ["begun"]).await;
        drop(run);
        until(|| notes(&wait) == ["begun", "cleaned up"]).await;

        let deaf = folder.file("deaf");
        let run = pool.run(Wait { note: deaf.clone(), polite: false });
        until(|| notes(&deaf) == ["begun"]).await;
        let error = run.cancel().await.unwrap_err();
        assert!(error.is_cancelled() && error.may_have_run(), "{error:?}");
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        assert_eq!(pool.stats().workers[0].id, worker);
    });
}

#[test]
fn a_token_cancels_what_waits_and_what_runs() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (path, token) = (folder.file("wait"), CancellationToken::new());
        let pool = threads(1).build().await.unwrap();
        let view = pool.with_token(token.clone());
        let runs = view.run(Wait { note: path.clone(), polite: false });
        until(|| notes(&path) == ["begun"]).await;
        let waits = view.run(Echo(1));
        token.cancel();
        let (ran, never) = (runs.await.unwrap_err(), waits.await.unwrap_err());
        assert!(ran.is_cancelled() && ran.may_have_run(), "{ran:?}");
        assert!(never.is_cancelled() && !never.may_have_run(), "{never:?}");
    });
}

#[test]
fn a_timeout_and_a_deadline_stop_what_awaits_and_what_asks() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let pool = threads(1).build().await.unwrap();
        let view = pool.with_timeout(Duration::from_millis(50));
        view.run(Spin { note: folder.file("spin"), polite: true }).await.unwrap();
        let error = view.run(Wait { note: folder.file("wait"), polite: false }).await.unwrap_err();
        assert!(error.is_timed_out() && error.may_have_run() && error.exit().is_none(), "{error:?}");
        let late = pool.with_deadline(Instant::now());
        let error = late.run(Echo(1)).await.unwrap_err();
        assert!(error.is_timed_out() && !error.may_have_run(), "{error:?}");
        assert_eq!(pool.stats().restarts, 0);
    });
}

#[test]
fn a_worker_whose_task_returns_after_its_grace_goes_and_another_takes_its_place() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("append");
        // A grace of nothing, and then time to return.
        let pool = threads(1)
            .cancel_grace(Duration::from_millis(1))
            .term_grace(Duration::from_secs(30))
            .build()
            .await
            .unwrap();
        let before = pool.stats().workers[0].id;
        let run = pool.run(Append { path: path.clone(), line: 1, then_ms: 300 });
        until(|| notes(&path) == ["1"]).await;
        let error = run.cancel().await.unwrap_err();
        assert!(error.is_cancelled() && error.exit() == Some(Exit::Thread), "{error:?}");
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        assert_ne!(pool.stats().workers[0].id, before);
    });
}

#[test]
fn shutdown_lets_running_tasks_finish_and_fails_queued_ones() {
    on_both_runtimes(|| async {
        let pool = threads(2).build().await.unwrap();
        open(&pool, 2).await;
        let running: Vec<_> = (0..2).map(|_| pool.run(Block { ms: 100 })).collect();
        let queued: Vec<_> = (0..100).map(|n| pool.run(Echo(n))).collect();
        let closing = pool.shutdown(Duration::from_secs(30));
        for run in running {
            assert_eq!(run.await.unwrap(), 100);
        }
        for run in queued {
            let error = run.await.unwrap_err();
            assert!(error.is_closed() && !error.may_have_run());
        }
        closing.await;
        assert!(pool.stats().workers.is_empty());
    });
}

#[test]
fn drain_finishes_everything_and_abort_nothing() {
    on_both_runtimes(|| async {
        let pool = threads(2).build().await.unwrap();
        let runs: Vec<_> = (0..500).map(|n| pool.run(Echo(n))).collect();
        pool.drain().await;
        for (n, run) in runs.into_iter().enumerate() {
            assert_eq!(run.await.unwrap(), n as u64);
        }

        let folder = Folder::new();
        let path = folder.file("spin");
        let pool = threads(2).build().await.unwrap();
        let run = pool.run(Spin { note: path.clone(), polite: true });
        until(|| notes(&path) == ["begun"]).await;
        pool.abort().await;
        assert!(run.await.unwrap_err().is_closed());
        until(|| notes(&path) == ["begun", "stopped"]).await;
    });
}

#[test]
fn a_map_ends_with_its_pool() {
    on_a_runtime(|| async {
        let pool = threads(2).build().await.unwrap();
        let mut items = pool.map((0..).map(Echo));
        for n in 0..100 {
            assert_eq!(items.next().await.unwrap().unwrap(), n);
        }
        drop(pool);
        let ended = loop {
            if let Err(error) = items.next().await.unwrap() {
                break error;
            }
        };
        assert!(ended.is_closed(), "{ended:?}");
    });
}

#[test]
fn pools_of_threads_stand_beside_each_other_with_statics_in_common() {
    static SHARED: AtomicU32 = AtomicU32::new(0);

    #[derive(Serialize, Deserialize)]
    struct Add(u32);

    impl Task for Add {
        const NAME: &'static str = "add";
        type Output = ();

        async fn run(self, _: Context) {
            SHARED.fetch_add(self.0, Ordering::SeqCst);
        }
    }

    on_a_runtime(|| async {
        let declare = || Worker::new().task::<Add>();
        let (a, b) = futures::join!(
            quick(2).in_process(declare).build(),
            quick(1).program("/nonexistent").nice(-20).in_process(declare).build()
        );
        let (a, b) = (a.unwrap(), b.unwrap());
        let mut added = a.map((1..=100).map(Add)).chain(b.map((1..=100).map(Add)));
        while let Some(added) = added.next().await {
            added.unwrap();
        }
        assert_eq!(SHARED.load(Ordering::SeqCst), 2 * 5050);
    });
}

/// Tells what its standard input and output are.
#[derive(Serialize, Deserialize)]
struct Streams;

impl Task for Streams {
    const NAME: &'static str = "streams";
    type Output = [std::path::PathBuf; 3];

    async fn run(self, _: Context) -> Self::Output {
        streams()
    }
}

fn streams() -> [std::path::PathBuf; 3] {
    [0, 1, 2].map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap())
}

#[test]
fn standard_input_and_output_stay_what_they_are() {
    let before = streams();
    on_a_runtime(|| async {
        let pool = quick(1).in_process(|| Worker::new().task::<Streams>()).build().await.unwrap();
        assert_eq!(pool.run(Streams).await.unwrap(), before);
    });
    assert_eq!(streams(), before);
}

#[test]
fn a_loop_that_never_looks_up_is_given_up_and_its_thread_goes_when_it_can() {
    static ENDED: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    on_a_runtime(|| async {
        let declare = || support::worker().task::<Deaf>().state(|| async { Second(Noted("second", &ENDED)) });
        let pool = quick(1).in_process(declare).build().await.unwrap();
        let before = pool.stats().workers[0].id;
        let error = pool.with_timeout(Duration::from_millis(50)).run(Deaf).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unresponsive);
        assert!(error.may_have_run());
        let text = error.to_string();
        assert!(text.contains("(deaf): it did not stop, and its worker was given up (worker 1)"), "{text}");
        assert!(text.ends_with(
            "; a thread cannot be killed: have the task ask cx.is_cancelled(), or run it in a process"
        ));
        // The place works again while the thread is still there.
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        assert_ne!(pool.stats().workers[0].id, before);

        // A closing pool does not wait for it.
        let run = pool.run(Deaf);
        until(|| pool.stats().in_flight == 1).await;
        pool.abort().await;
        assert!(run.await.unwrap_err().is_closed());
        RELEASED.store(true, Ordering::SeqCst);
        until(|| ENDED.lock().unwrap().len() == 2).await;
    });
}

#[test]
fn streams_flow_there_and_their_producers_are_told_to_stop() {
    on_both_runtimes(|| async {
        let pool = threads(1).build().await.unwrap();
        for way in WAYS {
            let counted: Vec<u64> = pool.stream(Count { to: 3000, way }).try_collect().await.unwrap();
            assert_eq!(counted, (0..3000).collect::<Vec<_>>(), "{way:?}");
        }
        for (blocking, aborted) in [(false, false), (true, false), (false, true), (true, true)] {
            let folder = Folder::new();
            let sent = folder.file("sent");
            let pool = threads(1).build().await.unwrap();
            let items = pool.stream(Produce { sent: sent.clone(), bytes: 10, blocking });
            until(|| length(&sent) == 64).await;
            if aborted {
                pool.abort().await;
                let came = items.collect::<Vec<_>>().await;
                assert!(
                    came.len() <= 65 && came.last().unwrap().as_ref().is_err_and(|error| error.is_closed())
                );
            } else {
                drop(items);
                until(|| notes(&sent.with_extension("error")) == ["Cancelled"]).await;
                assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
            }
        }
    });
}
