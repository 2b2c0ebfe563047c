//! The root of a pool is killed: its workers, and what they had started, are gone soon after, whatever they were doing.
//!
//! This test has a `main` of its own: it is the root, the worker and the test in turn.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use procpool::{Context, Pool, Task, Worker};
use serde::{Deserialize, Serialize};

/// The promise is one second on an idle machine; beside other tests it may take this long.
const SOON: Duration = Duration::from_secs(10);

/// What the workers do when their root dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Doing {
    Nothing,
    Computing,
    Sleeping,
    Masked,
}

impl Task for Doing {
    const NAME: &'static str = "doing";
    type Output = ();

    async fn run(self, _: Context) {
        match self {
            Self::Nothing => {}
            Self::Computing => loop {
                std::hint::spin_loop();
            },
            Self::Sleeping => std::thread::sleep(Duration::from_secs(1000)),
            Self::Masked => {
                SigSet::all().thread_block().unwrap();
                loop {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

/// Starts a plain child that nobody will end.
#[derive(Serialize, Deserialize)]
struct Child1000;

impl Task for Child1000 {
    const NAME: &'static str = "child";
    type Output = u32;

    async fn run(self, _: Context) -> u32 {
        #[expect(clippy::zombie_processes, reason = "it is to be left behind")]
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        child.id()
    }
}

fn main() {
    Worker::new().task::<Doing>().task::<Child1000>().init();
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, doing] = &arguments[..]
        && role == "root"
    {
        return root(match doing.as_str() {
            "computing" => Doing::Computing,
            "sleeping" => Doing::Sleeping,
            "masked" => Doing::Masked,
            _ => Doing::Nothing,
        });
    }
    let trial = |name: &str, doing: &'static str, before: fn(&[u32])| {
        Trial::test(name, move || no_orphans(doing, before))
    };
    let trials = vec![
        trial("idle_workers_die_with_their_root", "nothing", |_| {}),
        trial("computing_workers_die_with_their_root", "computing", |_| {}),
        trial("blocked_workers_die_with_their_root", "sleeping", |_| {}),
        trial("workers_that_block_all_signals_die_with_their_root", "masked", |_| {}),
        trial("stopped_workers_die_with_their_root", "computing", |workers| {
            for worker in workers {
                kill(Pid::from_raw(*worker as i32), Signal::SIGSTOP).unwrap();
            }
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Builds a pool, makes its workers busy, tells the pids of the workers and their children, and waits to be killed.
#[tokio::main(flavor = "current_thread")]
async fn root(doing: Doing) {
    let pool = Pool::builder().workers(4).build().await.unwrap();
    while pool.stats().workers.iter().any(|worker| worker.state != procpool::WorkerState::Open) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut pids: Vec<u32> = pool.stats().workers.iter().filter_map(|worker| worker.pid).collect();
    for _ in 0..4 {
        pids.push(pool.run(Child1000).await.unwrap());
    }
    let runs: Vec<_> = (0..4).map(|_| pool.run(doing)).collect();
    println!("{}", pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
    futures::future::join_all(runs).await;
    std::future::pending::<()>().await;
}

/// Ends the root if a test fails half-way.
struct Root(Child);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn no_orphans(doing: &str, before: fn(&[u32])) -> Result<(), Failed> {
    let rounds = if std::env::var_os("PROCPOOL_FULL").is_some() { 50 } else { 2 };
    for _ in 0..rounds {
        let child =
            Command::new(std::env::current_exe()?).args(["root", doing]).stdout(Stdio::piped()).spawn()?;
        let mut root = Root(child);
        let output = root.0.stdout.take().ok_or("no output")?;
        let line = BufReader::new(output).lines().next().ok_or("the root said nothing")??;
        let pids = line.split(' ').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
        // The others are children of the workers: not ours to wait for.
        before(&pids[..4]);
        root.0.kill()?;
        root.0.wait()?;
        let end = Instant::now() + SOON;
        while let Some(alive) = pids.iter().find(|pid| is_alive(**pid)) {
            if Instant::now() > end {
                return Err(format!("{alive} of {pids:?} outlived its root").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Whether it runs; one that waits for a parent that is not ours to reap it is dead.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
