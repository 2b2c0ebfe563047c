//! What the workers of these tests can do.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use serde::de::Error as _;
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::watch;

use crate::context::Context;
use crate::emit::Emitter;
use crate::task::{StreamTask, Task};

/// Declares a task: its fields, its output and its code.
macro_rules! task {
    ($name:ident($($field:ident: $type:ty),*) -> $output:ty, $cx:ident, $code:expr) => {
        #[derive(Debug, Serialize, Deserialize)]
        pub(crate) struct $name($(pub(crate) $type),*);

        impl Task for $name {
            const NAME: &'static str = stringify!($name);
            type Output = $output;

            async fn run(self, $cx: Context) -> $output {
                let Self($($field),*) = self;
                $code
            }
        }
    };
}

/// How a stream of numbers is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pace {
    /// As fast as there is credit, awaiting more or blocking for it.
    Await,
    Block,
    /// So many at once, then it computes and never asks.
    Then(u32),
}

/// Counts without end, as bytes of this length, until it is told to stop; the last item is the text that said so, if that
/// can still be sent, which it can't. So it leaves the text in a file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Numbers(pub(crate) Pace, pub(crate) usize, pub(crate) String);

impl StreamTask for Numbers {
    const NAME: &'static str = "Numbers";
    type Item = Vec<u8>;

    async fn run(self, _cx: Context, out: Emitter<Vec<u8>>) {
        for n in 0_u32.. {
            let mut item = n.to_le_bytes().to_vec();
            item.resize(self.1.max(4), 0);
            let sent = match self.0 {
                Pace::Await => out.send(item).await,
                Pace::Block => out.blocking_send(item),
                Pace::Then(most) if n == most => return spin(Duration::from_secs(60)),
                Pace::Then(_) => out.send(item).await,
            };
            if let Err(error) = sent {
                // Whoever was told may take its time.
                tokio::task::yield_now().await;
                std::fs::write(self.2, error.to_string()).unwrap();
                return;
            }
        }
    }
}

/// Has a subtask send this many numbers while the task itself waits for its end, and then for ever.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spawned(pub(crate) u32);

impl StreamTask for Spawned {
    const NAME: &'static str = "Spawned";
    type Item = u32;

    async fn run(self, _cx: Context, out: Emitter<u32>) {
        let subtask = tokio::spawn(async move {
            for n in 0..self.0 {
                out.send(n).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        subtask.await.unwrap();
    }
}

/// A sum that notices torn, swapped and lost bytes.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Burns processor time.
fn spin(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

task!(Noop() -> (), _cx, ());
task!(Sum(bytes: Vec<u8>) -> (u64, Vec<u8>), _cx, (checksum(&bytes), bytes));
task!(Weigh(bytes: serde_bytes::ByteBuf) -> usize, _cx, bytes.len());
task!(Block(ms: u64) -> (), _cx, std::thread::sleep(Duration::from_millis(ms)));
task!(Spin(ms: u64) -> (), _cx, spin(Duration::from_millis(ms)));
task!(Sleep(ms: u64) -> (), _cx, tokio::time::sleep(Duration::from_millis(ms)).await);
task!(Big(bytes: usize) -> Vec<u8>, _cx, vec![1; bytes]);
task!(About() -> (u32, u32, bool, bool), cx, {
    (cx.attempt(), cx.depth(), cx.deadline().is_some_and(|at| at > Instant::now()), cx.is_cancelled())
});

// Computes until it is cancelled, and says for how long it did. Gives up by itself only long after the tests' patience.
task!(Compute() -> u64, cx, {
    let begun = Instant::now();
    while !cx.is_cancelled() && begun.elapsed() < Duration::from_secs(60) {
        std::hint::spin_loop();
    }
    begun.elapsed().as_micros() as u64
});

// Computes and never asks.
task!(Stubborn() -> (), _cx, spin(Duration::from_secs(60)));

// As Stubborn, deaf to every signal that one can be deaf to.
task!(Deaf() -> (), _cx, {
    nix::sys::signal::SigSet::all().thread_block().unwrap();
    spin(Duration::from_secs(60));
});

// Awaits for ever, without asking; its drop leaves a file.
task!(Forever(path: String) -> (), _cx, {
    let _mark = Mark(path);
    std::future::pending::<()>().await;
});

// Awaits its cancellation and takes a while to clean up.
task!(Polite(ms: u64) -> String, cx, {
    cx.cancelled().await;
    tokio::time::sleep(Duration::from_millis(ms)).await;
    "cleaned up".to_owned()
});

// Ends the process, if it is to.
task!(Quit(now: bool) -> (), _cx, if now {
    std::process::exit(9)
});

// Leaves a subtask behind that blocks the runtime's thread after the task has been answered.
task!(Leave(ms: u64) -> (), _cx, {
    tokio::spawn(async move {
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(ms));
    });
});

// Has two subtasks meet in the worker's runtime.
task!(Meet() -> u32, _cx, {
    let (send, receive) = tokio::sync::oneshot::channel();
    let other = tokio::spawn(async move { receive.await.unwrap_or(0) + 1 });
    send.send(41).unwrap();
    other.await.unwrap()
});

/// How many have come to gather in this worker.
static GATHERED: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::Sender::new(0));

// Waits until so many of its kind are, or have been, there.
task!(Gather(count: u64) -> (), _cx, {
    GATHERED.send_modify(|gathered| *gathered += 1);
    GATHERED.subscribe().wait_for(|gathered| *gathered >= count).await.unwrap();
});

/// How often idle tasks were polled.
static POLLS: AtomicU64 = AtomicU64::new(0);

// Waits for ever and counts how often it is polled for nothing.
task!(Idle() -> (), _cx, {
    std::future::poll_fn(|_| {
        POLLS.fetch_add(1, Ordering::SeqCst);
        Poll::<()>::Pending
    })
    .await;
});

task!(Polls() -> u64, _cx, POLLS.load(Ordering::SeqCst));

// Yields so often.
task!(Yield(times: u64) -> (), _cx, {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
});

// Appends its number to a file.
task!(Append(path: String, number: u64) -> (), _cx, {
    let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
    file.write_all(&number.to_le_bytes()).unwrap();
});

// Starts a process that outlives the task, and says which.
task!(Grandchild() -> u32, _cx, Command::new("sleep").arg("600").spawn().unwrap().id());

// Writes and reads in all the ways that could touch the link, and gives back what it could read.
task!(Chatter() -> String, _cx, {
    println!("println");
    eprintln!("eprintln");
    nix::unistd::write(std::io::stdout(), b"write\n").unwrap();
    crate::sys::stdio::print_in_c();
    Command::new("echo").arg("echo").status().unwrap();
    let cat = Command::new("cat").stdout(Stdio::piped()).output().unwrap();
    let mut read = std::io::read_to_string(std::io::stdin()).unwrap();
    read.push_str(&String::from_utf8(cat.stdout).unwrap());
    read
});

// What is open beyond standard error and stays so over exec.
task!(Inherited() -> Vec<String>, _cx, {
    let listed = Command::new("sh").args(["-c", "ls /proc/self/fd"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    // ls itself has the directory open.
    listed.split_whitespace().filter(|fd| fd.parse::<i32>().unwrap() > 3).map(str::to_owned).collect()
});

// The effect of a signal and whether it is blocked, as the kernel shows it: SigBlk and SigIgn.
task!(Signals() -> (String, String), _cx, {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    (field("SigBlk:"), field("SigIgn:"))
});

/// Where to panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Where {
    Run,
    AfterAwait,
    Resumed,
    Poisonous,
    TaskDrop,
    OutputDrop,
    OutputSerialize,
    OutputError,
}

task!(Panic(place: Where) -> Bomb, _cx, match place {
    Where::Run => panic!("in {}", "run"),
    Where::AfterAwait => {
        tokio::task::yield_now().await;
        panic!("after an await")
    }
    Where::Resumed => std::panic::resume_unwind(Box::new(7)),
    Where::Poisonous => std::panic::panic_any(Bomb(Where::TaskDrop)),
    place => Bomb(place),
});

/// Panics, or fails, where it is told to.
#[derive(Debug)]
pub(crate) struct Bomb(pub(crate) Where);

impl Serialize for Bomb {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Where::OutputSerialize => panic!("in serialize"),
            Where::OutputError => serializer.serialize_seq(None)?.end(),
            _ => serializer.serialize_unit(),
        }
    }
}

impl<'de> Deserialize<'de> for Bomb {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Self(Where::Run))
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        if matches!(self.0, Where::OutputDrop | Where::TaskDrop) {
            panic!("in drop");
        }
    }
}

/// Its input can't be decoded: it panics at it, or fails.
#[derive(Debug)]
pub(crate) struct Undecodable(pub(crate) bool);

impl Serialize for Undecodable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Undecodable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match bool::deserialize(deserializer)? {
            true => panic!("in deserialize"),
            false => Err(D::Error::custom("no")),
        }
    }
}

impl Task for Undecodable {
    const NAME: &'static str = "Undecodable";
    type Output = ();

    async fn run(self, _cx: Context) {}
}

/// Leaves an empty file when it is dropped.
struct Mark(String);

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, "");
    }
}
