//! What user code does with its standard streams, and what comes over into a worker: nothing reaches the link, every line
//! reaches the log once, and nothing that somebody holds open delays an answer.

mod support;

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use futures::future::join_all;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::Signal;
use procpool::{Context, Pool, Task};
use serde::{Deserialize, Serialize};
use support::role::send;
use support::*;

procpool::worker_test!(support::worker().task::<Say>().task::<Streams>().task::<Held>());

/// Says its number in every way that there is.
#[derive(Serialize, Deserialize)]
struct Say(u64);

impl Task for Say {
    const NAME: &'static str = "say";
    type Output = ();

    async fn run(self, _: Context) {
        let Self(n) = self;
        println!("printed {n}");
        nix::unistd::write(std::io::stdout(), format!("written {n}\n").as_bytes()).unwrap();
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        cat.stdin.take().unwrap().write_all(format!("by a child {n}\n").as_bytes()).unwrap();
        assert!(cat.wait().unwrap().success());
        print!("begun {n}, ");
        println!("ended {n}");
    }
}

/// Does something to the descriptors 0 to 2, or tells about what there is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Streams {
    Close,
    Unblock,
    Tell,
}

impl Task for Streams {
    const NAME: &'static str = "streams";
    type Output = Vec<String>;

    async fn run(self, _: Context) -> Vec<String> {
        match self {
            Self::Close => (0..3).for_each(|fd| nix::unistd::close(fd).unwrap()),
            Self::Unblock => {
                let unblock = || FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
                fcntl(std::io::stdin(), unblock()).unwrap();
                fcntl(std::io::stdout(), unblock()).unwrap();
                fcntl(std::io::stderr(), unblock()).unwrap();
            }
            Self::Tell => {}
        }
        targets("self").into_iter().map(|(_, target)| target).collect()
    }
}

/// Leaves a process behind that is out of reach and holds the standard streams, and gives its number.
#[derive(Serialize, Deserialize)]
struct Held;

impl Task for Held {
    const NAME: &'static str = "held";
    type Output = u32;

    async fn run(self, _: Context) -> u32 {
        escape(Stdio::inherit())
    }
}

/// The descriptors of a process and what they are.
fn targets(process: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
    let target =
        |path: &Path| std::fs::read_link(path).map(|to| to.display().to_string()).unwrap_or_default();
    entries.map(|entry| (entry.file_name().into_string().unwrap(), target(&entry.path()))).collect()
}

/// The lines that workers have written since the first call, with their pids.
fn log() -> Arc<Mutex<Vec<String>>> {
    static SEEN: Mutex<Option<Arc<Mutex<Vec<String>>>>> = Mutex::new(None);
    static ONCE: Once = Once::new();
    let lines = Arc::clone(SEEN.lock().unwrap().get_or_insert_default());
    ONCE.call_once(|| tracing::subscriber::set_global_default(Collect(Arc::clone(&lines))).unwrap());
    lines
}

/// How many of the lines are exactly this.
fn count(line: &str) -> usize {
    log().lock().unwrap().iter().filter(|seen| *seen == line).count()
}

struct Collect(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Collect {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "procpool::worker"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn f1_every_line_that_tasks_print_arrives_once_and_no_link_is_disturbed() {
    log();
    on_a_runtime(|| async {
        let tasks = times(1000, 100) as u64;
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let said = join_all((0..tasks).map(|n| pool.run(Say(n)))).await;
        assert!(said.iter().all(Result::is_ok), "{said:?}");
        assert_eq!(pool.stats().restarts, 0);
        for n in 0..tasks {
            for line in [
                format!("printed {n}"),
                format!("written {n}"),
                format!("by a child {n}"),
                format!("begun {n}, ended {n}"),
            ] {
                until(|| count(&line) > 0).await;
                assert_eq!(count(&line), 1, "{line}");
            }
        }
    });
}

#[test]
fn f2_user_code_reads_an_empty_standard_input() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        // Queued behind, so that there is something on the link that could be stolen.
        let runs: Vec<_> = (0..50).map(|n| (pool.run(Print(n)), pool.run(Echo(n)))).collect();
        for (n, (print, echo)) in (0..).zip(runs) {
            assert_eq!((print.await.unwrap(), echo.await.unwrap()), (0, n));
        }
        assert_eq!(pool.stats().restarts, 0);
    });
}

#[test]
fn f3_closing_the_standard_streams_disturbs_no_link() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        pool.run(Streams::Close).await.unwrap();
        for n in 0..100 {
            assert_eq!(pool.run(Echo(n)).await.unwrap(), n);
        }
        // What it prints now goes nowhere, or to whatever user code has opened in its place.
        let _ = pool.run(Panic("to a closed standard error".into())).await.unwrap_err();
        assert_eq!(pool.run(Pid).await.unwrap(), before);
        pool.drain().await;
    });
}

#[test]
fn f4_streams_that_do_not_block_stay_in_their_worker() {
    let flags = || OFlag::from_bits_truncate(fcntl(std::io::stderr(), FcntlArg::F_GETFL).unwrap());
    on_a_runtime(|| async {
        let before = flags();
        let pool = Pool::builder().workers(2).build().await.unwrap();
        join_all((0..4).map(|_| pool.run(Streams::Unblock))).await;
        assert_eq!(flags(), before, "our own standard error has changed");
        // A sibling's has not either, and what is written is still read.
        let error = pool.run(Die::Abort).await.unwrap_err();
        assert!(error.stderr().contains("about to abort"), "{error:?}");
    });
}

#[test]
fn f5_what_tasks_start_holds_nothing_of_the_link() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let child = pool.run(Grandchild).await.unwrap();
        let sleeps =
            || std::fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name == "sleep\n");
        until(sleeps).await;
        // At first it still reads its libraries.
        let held = || targets(&child.to_string());
        until(|| held().len() == 3).await;
        let held = held();
        for (fd, target) in &held {
            let harmless = if fd == "0" { target == "/dev/null" } else { target.starts_with("pipe:") };
            assert!(harmless, "{held:?}");
        }
    });
}

#[test]
fn f6_streams_that_are_held_open_delay_no_outcome() {
    let lines = log();
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let holder = pool.run(Held).await.unwrap();
        let worker = pids(&pool, 1).await[0];
        let start = Instant::now();
        let error = pool.run(Die::Exit(5)).await.unwrap_err();
        let took = start.elapsed();
        assert!(error.is_crashed(), "{error:?}");
        assert!(took < within(Duration::from_millis(200)), "{took:?}");
        assert!(exists(holder), "it is out of reach, as the documentation says");
        until(|| !exists(worker)).await;
        until(|| lines.lock().unwrap().iter().any(|line| line.contains("no longer read"))).await;
        send(holder, Signal::SIGKILL);
    });
}

#[test]
fn f8_descriptors_of_the_parent_are_absent_in_workers() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let path = folder.file("open");
        let file = std::fs::File::create(&path).unwrap();
        fcntl(file.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        for contained in [false, true] {
            let pool = Pool::builder().workers(1).contained(contained).build().await.unwrap();
            let open = pool.run(Streams::Tell).await.unwrap();
            assert!(open.len() > 5, "{open:?}");
            assert!(!open.iter().any(|target| target == path.to_str().unwrap()), "{open:?}");
            // Nor does a guardian keep it open.
            let parent = status(pool.run(Pid).await.unwrap()).unwrap().1;
            let kept =
                targets(&parent.to_string()).iter().any(|(_, target)| target == path.to_str().unwrap());
            assert_eq!(kept, !contained, "by the parent of the worker");
        }
        assert!(file.as_raw_fd() > 2);
    });
}
