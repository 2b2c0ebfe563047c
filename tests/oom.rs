//! Workers that the kernel kills for want of memory: their tasks fail with evidence of that, and the pool goes on.
//!
//! It takes a memory control group of the test's own, below the one that it is in, for some seconds. Who may not make one
//! there, as most users who are not root, or does not get the memory controller with it, as in version 2 of control groups
//! wherever a process is in the group above, can't limit memory like that: then the test is ignored, and its kind says why.
//! `PROCPOOL_TEST=cgroup` asks for it.
//!
//! This test has a `main` of its own: it is the root of a pool within the group, its worker, and the test in turn.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::Signal;
use procpool::{Context, ErrorKind, Pool, Task};
use serde::{Deserialize, Serialize};
use support::role::{Actor, command, given, program, role, send};
use support::{Echo, Folder, Test, Wait, notes, pids, serial, until, until_blocking};

/// How much memory the root and its workers may have together. A root and a worker have a tenth of it.
const LIMIT: u64 = 256 << 20;

/// Allocates until there is nothing more, and far more than there may be.
#[derive(Serialize, Deserialize)]
struct Devour;

impl Task for Devour {
    const NAME: &'static str = "devour";
    type Output = usize;

    async fn run(self, _: Context) -> usize {
        let mut all = Vec::new();
        while all.len() < 2 * (LIMIT as usize >> 20) {
            all.push(std::hint::black_box(vec![1_u8; 1 << 20]));
        }
        all.len()
    }
}

fn main() {
    support::worker().task::<Devour>().init();
    if role().is_some() {
        return starved();
    }
    let name = "a_worker_that_the_kernel_kills_for_want_of_memory_is_told_from_one_that_somebody_kills";
    let (group, found) = match Group::new() {
        Ok(group) => (Some(group), Ok(())),
        Err(reason) => (None, Err(reason)),
    };
    let trial = Trial::test(name, || {
        let _test = Test::start();
        group.map_or(Ok(()), starve)
    });
    let trial = given("cgroup", found, trial);
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit();
}

/// A control group that limits memory, below that of this process. Removed when dropped.
struct Group(PathBuf);

impl Group {
    /// # Errors
    ///
    /// Why there can't be one.
    fn new() -> Result<Self, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let mut reasons = vec![];
        for line in groups.lines() {
            let Some((controllers, path)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(':'))
            else {
                continue;
            };
            let (mount, file) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max"),
                _ if controllers.split(',').any(|controller| controller == "memory") => {
                    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
                }
                _ => continue,
            };
            let above = Path::new(mount).join(path.trim_start_matches('/'));
            match Self::below(&above, file) {
                Ok(group) => return Ok(group),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("; "))
    }

    fn below(above: &Path, limit: &str) -> Result<Self, String> {
        const PREFIX: &str = "procpool-test-";
        // What runs that were killed have left.
        for group in fs::read_dir(above).into_iter().flatten().flatten() {
            let name = group.file_name().into_string().unwrap_or_default();
            let owner = name.strip_prefix(PREFIX).and_then(|name| name.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir(group.path());
            }
        }
        let path = above.join(format!("{PREFIX}{}-{}", std::process::id(), serial()));
        let words = |error| format!("{}: {error}", above.display());
        fs::create_dir(&path).map_err(words)?;
        let group = Self(path);
        // Where the controller is not, neither is its file.
        let file = fs::File::options().write(true).open(group.0.join(limit));
        file.and_then(|mut file| file.write_all(LIMIT.to_string().as_bytes()))
            .map_err(|error| format!("{limit} in {}: {error}", above.display()))?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // As soon as the last of its processes has been reaped.
        until_blocking(|| fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

fn starve(group: Group) -> Result<(), Failed> {
    let procs = group.0.join("cgroup.procs");
    let script = format!("echo $$ > '{}' && exec \"$0\" \"$@\"", procs.display());
    let mut starved = command(&["sh", "-c", &script], &program(), "starved", &[]);
    let mut root = Actor::start(starved.stdin(Stdio::piped()));
    let pid = root.pid();
    if root.line()? != "fine" {
        return Err("it did not get to its end".into());
    }
    assert!(notes(&procs).contains(&pid.to_string()), "the root is not in its group: {:?}", notes(&procs));
    drop(root.child.stdin.take());
    assert!(root.wait().success());
    drop(group);
    Ok(())
}

/// Loses workers for want of memory, and one by another's hand.
#[tokio::main(flavor = "current_thread")]
async fn starved() {
    for contained in [false, true] {
        let pool = Pool::builder().workers(1).contained(contained).build().await.unwrap();
        for _ in 0..2 {
            let error = pool.run(Devour).await.unwrap_err();
            let signal = error.exit().and_then(|exit| exit.signal());
            assert_eq!((error.kind(), signal.as_deref()), (ErrorKind::Crashed, Some("SIGKILL")), "{error:?}");
            assert!(error.hint().is_some_and(|hint| hint.starts_with("out of memory: ")), "{error:?}");
            assert!(error.to_string().contains("out of memory: ") && !error.killed_by_pool(), "{error}");
            assert!(error.peak_memory().is_none_or(|peak| peak > LIMIT / 2), "{error:?}");
            assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        }
        // Those have been explained.
        let before = pids(&pool, 1).await;
        let folder = Folder::new();
        let run = pool.run(Wait { note: folder.file("note"), polite: false });
        until(|| !notes(&folder.file("note")).is_empty()).await;
        send(before[0], Signal::SIGKILL);
        let error = run.await.unwrap_err();
        assert!(error.is_crashed() && error.hint().is_none(), "{error:?}");
        pool.drain().await;
    }
    println!("fine");
    // Until it has been looked at.
    let _ = std::io::stdin().read(&mut [0]);
}
