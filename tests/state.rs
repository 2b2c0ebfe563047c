//! States: built once in each worker before it takes tasks, found by type, dropped when the worker leaves, and what becomes
//! of a pool whose workers cannot build them.

mod support;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use procpool::{Context, Error, ErrorKind, Pool, PoolBuilder, Task, Worker};
use serde::{Deserialize, Serialize};
use support::*;

procpool::worker_test!(stateful());

/// Who built this file's states goes wrong where a test says so: workers inherit the test's environment.
fn stateful() -> Worker {
    let fault = || std::env::var("STATE_FAULT").unwrap_or_default();
    let gate = move || async move {
        match fault().as_str() {
            "panic" => panic!("no gate\nfor this one"),
            "error" => return Err("the gate is rusty".to_owned()),
            "exit" => std::process::exit(9),
            "await" => std::future::pending().await,
            "block" => loop {
                std::thread::park();
            },
            _ => {}
        }
        Ok(Gate)
    };
    worker()
        .state(|| async {
            std::thread::sleep(Duration::from_millis(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
            Count { calls: AtomicU64::new(0), built: tokio::spawn(async { 1 }).await.unwrap() }
        })
        .try_state(gate)
        .include(Worker::new().try_state(|| async { Ok::<_, Infallible>(Bell(log("third"))) }).task::<Ring>())
        .task::<Call>()
        .task::<Missing>()
        .task::<Keep>()
}

struct Count {
    calls: AtomicU64,
    built: u64,
}

struct Gate;
struct Bell(Log);

/// Writes to a file, if the test gave one, and to standard error when it is dropped.
struct Log(&'static str);

fn log(name: &'static str) -> Log {
    record(&format!("built {name}"));
    Log(name)
}

fn record(line: &str) {
    if let Some(path) = std::env::var_os("STATE_NOTES") {
        note(path.as_ref(), line);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        eprintln!("farewell {}", self.0);
        record(&format!("dropped {}", self.0));
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        record("dropped first");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        record("dropped second");
        if std::env::var_os("STATE_NOTES").is_some() {
            panic!("a state that panics when it is dropped");
        }
    }
}

/// Counts in its worker's state, and tells how often it was called there and in which process.
#[derive(Serialize, Deserialize)]
struct Call;

impl Task for Call {
    const NAME: &'static str = "call";
    type Output = (u64, u64, u32);

    async fn run(self, cx: Context) -> (u64, u64, u32) {
        let count: &Count = cx.state();
        tokio::task::yield_now().await;
        (count.calls.fetch_add(1, Ordering::Relaxed) + 1, count.built, std::process::id())
    }
}

/// Finds what an included worker has declared.
#[derive(Serialize, Deserialize)]
struct Ring;

impl Task for Ring {
    const NAME: &'static str = "ring";
    type Output = String;

    async fn run(self, cx: Context) -> String {
        let elsewhere = cx.clone();
        tokio::spawn(async move { elsewhere.state::<Bell>().0.0.to_owned() }).await.unwrap()
    }
}

/// Asks for a state that nobody declares.
#[derive(Serialize, Deserialize)]
struct Missing;

impl Task for Missing {
    const NAME: &'static str = "missing";
    type Output = bool;

    async fn run(self, cx: Context) -> bool {
        assert!(cx.try_state::<Vec<u8>>().is_none());
        cx.state::<Vec<u8>>().is_empty()
    }
}

/// Leaves something behind that holds its context for ever.
#[derive(Serialize, Deserialize)]
enum Keep {
    Spawned,
    Thread,
}

impl Task for Keep {
    const NAME: &'static str = "keep";
    type Output = ();

    async fn run(self, cx: Context) {
        match self {
            Self::Spawned => drop(tokio::spawn(async move {
                let _cx = cx;
                std::future::pending::<()>().await;
            })),
            Self::Thread => drop(std::thread::spawn(move || {
                let _cx = cx;
                loop {
                    std::thread::park();
                }
            })),
        }
    }
}

/// Runs a test whose workers are to inherit a variable in a process of its own.
fn alone(name: &str, variable: &str, value: &str, test: impl FnOnce()) {
    const MARK: &str = "STATE_ALONE";
    if std::env::var_os(MARK).is_some() {
        return test();
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    let output = command.env(MARK, "1").env(variable, value).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_state_is_built_once_in_each_worker_and_again_in_the_next() {
    on_both_runtimes(|| async {
        let pool = quick(1).build().await.unwrap();
        let (_, built, before) = pool.run(Call).await.unwrap();
        assert_eq!(built, 1);
        for n in 2..=20 {
            assert_eq!(pool.run(Call).await.unwrap(), (n, 1, before));
        }
        assert!(pool.run(Die::Abort).await.unwrap_err().is_crashed());
        let (calls, built, after) = pool.run(Call).await.unwrap();
        assert!(calls == 1 && built == 1 && after != before);
        assert_eq!(pool.run(Ring).await.unwrap(), "third");
        pool.drain().await;
    });
}

#[test]
fn a_missing_state_fails_its_task_with_what_to_do_and_not_the_worker() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let error = pool.run(Missing).await.unwrap_err();
        assert!(error.is_panicked(), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("Vec<u8>") && text.contains(".state(") && text.contains("tests/state.rs"),
            "{text}"
        );
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn states_go_in_reverse_order_when_a_worker_leaves_and_what_they_print_is_heard() {
    let folder = Folder::new();
    let path = folder.file("notes");
    let name = "states_go_in_reverse_order_when_a_worker_leaves_and_what_they_print_is_heard";
    alone(name, "STATE_NOTES", path.to_str().unwrap(), || {
        let heard = Arc::<Mutex<String>>::default();
        tracing::subscriber::set_global_default(Heard(Arc::clone(&heard))).unwrap();
        let path = std::path::PathBuf::from(std::env::var_os("STATE_NOTES").unwrap());
        on_a_runtime(|| async {
            let pool = quick(1).build().await.unwrap();
            pool.run(Call).await.unwrap();
            assert_eq!(notes(&path), ["built third"]);
            pool.drain().await;
            assert_eq!(notes(&path), ["built third", "dropped third", "dropped second", "dropped first"]);
            until(|| heard.lock().unwrap().contains("farewell third")).await;
            // Killed: nothing is dropped.
            let pool = quick(1).build().await.unwrap();
            pool.abort().await;
            assert_eq!(notes(&path).len(), 5);
        });
    });
}

#[test]
fn what_tasks_leave_behind_does_not_keep_a_worker() {
    let folder = Folder::new();
    let path = folder.file("notes");
    let name = "what_tasks_leave_behind_does_not_keep_a_worker";
    alone(name, "STATE_NOTES", path.to_str().unwrap(), || {
        let path = std::path::PathBuf::from(std::env::var_os("STATE_NOTES").unwrap());
        on_a_runtime(|| async {
            // What was spawned ends with the runtime, before the states; a thread cannot be ended, and keeps them.
            for (keep, dropped) in [(Keep::Spawned, 3), (Keep::Thread, 0)] {
                let pool = quick(1).build().await.unwrap();
                pool.run(keep).await.unwrap();
                let begun = Instant::now();
                pool.drain().await;
                assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
                let notes = notes(&path);
                std::fs::remove_file(&path).unwrap();
                assert_eq!(
                    notes.iter().filter(|note| note.starts_with("dropped")).count(),
                    dropped,
                    "{notes:?}"
                );
            }
        });
    });
}

/// Keeps what is logged.
struct Heard(Arc<Mutex<String>>);

impl tracing::Subscriber for Heard {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("procpool")
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Words<'a>(&'a mut String);
        impl tracing::field::Visit for Words<'_> {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                *self.0 += &format!("{value:?}\n");
            }
        }
        event.record(&mut Words(&mut self.0.lock().unwrap()));
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Builds a pool that cannot be built.
fn refused(builder: PoolBuilder) -> Error {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    let error = runtime.block_on(builder.build()).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(error.kind(), ErrorKind::Launch, "{error:?}");
    error
}

#[test]
fn a_state_that_panics_fails_the_pool_with_its_type_and_its_words() {
    alone("a_state_that_panics_fails_the_pool_with_its_type_and_its_words", "STATE_FAULT", "panic", || {
        for workers in [1, 4] {
            let text = refused(quick(workers)).to_string();
            for part in ["state state::Gate was not initialised", "no gate for this one", "tests/state.rs"] {
                assert!(text.contains(part), "{part:?} is not in {text}");
            }
        }
    });
}

#[test]
fn a_state_that_fails_fails_the_pool_with_its_type_and_its_words() {
    alone("a_state_that_fails_fails_the_pool_with_its_type_and_its_words", "STATE_FAULT", "error", || {
        let text = refused(quick(2)).to_string();
        assert!(text.contains("state state::Gate was not initialised: the gate is rusty"), "{text}");
    });
}

#[test]
fn a_state_that_exits_fails_the_pool_with_the_exit_code() {
    alone("a_state_that_exits_fails_the_pool_with_the_exit_code", "STATE_FAULT", "exit", || {
        let error = refused(quick(2));
        assert_eq!(error.exit().and_then(|exit| exit.code()), Some(9), "{error:?}");
    });
}

fn overdue() {
    let text = refused(quick(2).init_timeout(Duration::from_millis(400))).to_string();
    assert!(text.contains("states within 400ms") && text.contains("init_timeout"), "{text}");
    until_blocking(|| tree().lines().all(|line| !line.contains("procpool-worker:")));
}

#[test]
fn a_state_that_awaits_for_ever_is_given_up() {
    alone("a_state_that_awaits_for_ever_is_given_up", "STATE_FAULT", "await", overdue);
}

#[test]
fn a_state_that_blocks_for_ever_is_given_up() {
    alone("a_state_that_blocks_for_ever_is_given_up", "STATE_FAULT", "block", overdue);
}

#[test]
fn a_pool_that_is_dropped_while_states_are_built_leaves_nothing_behind() {
    let name = "a_pool_that_is_dropped_while_states_are_built_leaves_nothing_behind";
    alone(name, "STATE_FAULT", "block", || {
        on_a_runtime(|| async {
            let build = Box::pin(Pool::builder().workers(2).build());
            let waited = tokio::time::timeout(Duration::from_millis(500), build).await;
            assert!(waited.is_err(), "the states were built");
            until(|| tree().lines().all(|line| !line.contains("procpool-worker:"))).await;
        });
    });
}

fn panic_of(act: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let payload = std::panic::catch_unwind(act).unwrap_err();
    payload.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn what_two_workers_both_declare_is_refused_by_name() {
    let text = panic_of(|| drop(worker().include(Worker::new().task::<Echo>())));
    assert!(text.contains("two tasks are named \"echo\"") && text.contains("support::Echo"), "{text}");
    let text = panic_of(|| drop(Worker::new().state(|| async { Gate }).include(stateful())));
    assert!(text.contains("two states") && text.contains("state::Gate"), "{text}");
}
