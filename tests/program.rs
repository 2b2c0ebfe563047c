//! The program that the workers execute and what it finds: arguments, environment, working directory, niceness.

mod support;

use std::path::{Path, PathBuf};

use procpool::{Context, Error, Pool, PoolBuilder, Task, Worker};
use serde::{Deserialize, Serialize};
use support::*;

procpool::worker_test!(curious());

fn curious() -> Worker {
    support::worker().task::<Look>()
}

/// The main function of a dedicated worker program, when it is started as one: does nothing in an ordinary run.
#[test]
fn dedicated() {
    if std::env::var_os("DEDICATED").is_some() {
        curious().serve();
    }
}

/// What a worker's process finds.
#[derive(Serialize, Deserialize)]
struct Look {
    variables: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    args: Vec<String>,
    values: Vec<Option<String>>,
    folder: PathBuf,
    /// Of each thread.
    nice: Vec<i32>,
}

impl Task for Look {
    const NAME: &'static str = "look";
    type Output = Found;

    async fn run(self, _: Context) -> Found {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        Found {
            args: std::env::args().skip(1).collect(),
            values: self.variables.iter().map(|name| std::env::var(name).ok()).collect(),
            folder: std::env::current_dir().unwrap(),
            nice: threads.map(|thread| niceness(&thread.unwrap().path())).collect(),
        }
    }
}

fn niceness(thread: &Path) -> i32 {
    let stat = std::fs::read_to_string(thread.join("stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap()
}

/// Starts a pool, looks round in its worker, and ends it.
async fn look(builder: PoolBuilder, variables: &[&str]) -> Result<Found, Error> {
    let pool = builder.workers(1).build().await?;
    let variables = variables.iter().map(ToString::to_string).collect();
    let found = pool.run(Look { variables }).await?;
    pool.drain().await;
    Ok(found)
}

const ARGS: [&str; 4] = ["dedicated", "--exact", "--nocapture", "--test-threads=1"];

/// A pool whose workers execute this file's `dedicated`.
fn served() -> PoolBuilder {
    quick(1).program(std::env::current_exe().unwrap()).args(&ARGS[..3]).arg(ARGS[3]).env("DEDICATED", "1")
}

#[test]
fn a_dedicated_program_serves_with_its_arguments() {
    on_both_runtimes(|| async {
        let found = look(served(), &["DEDICATED"]).await.unwrap();
        assert_eq!(found.args, ARGS);
        assert_eq!(found.values, [Some("1".to_owned())]);
        let pool = served().build().await.unwrap();
        for n in 0..100 {
            assert_eq!(pool.run(Echo(n)).await.unwrap(), n);
        }
        assert!(pool.run(Die::Abort).await.unwrap_err().is_crashed());
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
        pool.drain().await;
    });
}

#[test]
fn arguments_without_a_program_are_refused() {
    on_a_runtime(|| async {
        let error = Pool::builder().arg("--fast").build().await.unwrap_err();
        assert!(error.to_string().contains("PoolBuilder::program"), "{error}");
    });
}

/// Runs a test in a process of its own whose environment has a plain variable and three secrets.
fn alone(name: &str, test: impl FnOnce()) {
    const MARK: &str = "PROGRAM_ALONE";
    if std::env::var_os(MARK).is_some() {
        return test();
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(MARK, "1");
    command.env("PLAIN", "p").env("MY_API_TOKEN", "t").env("pgpassword", "w").env("OLD_SECRET_2", "s");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

const VARIABLES: [&str; 4] = ["PLAIN", "MY_API_TOKEN", "pgpassword", "OLD_SECRET_2"];

fn values(found: &Found) -> Vec<&str> {
    found.values.iter().map(|value| value.as_deref().unwrap_or("-")).collect()
}

#[test]
fn secrets_are_inherited_only_by_name() {
    alone("secrets_are_inherited_only_by_name", || {
        on_a_runtime(|| async {
            for (builder, expected) in [
                (quick(1), ["p", "-", "-", "-"]),
                (quick(1).inherit_env("MY_API_TOKEN"), ["p", "t", "-", "-"]),
                (quick(1).env("pgpassword", "other").env("PLAIN", "q"), ["q", "-", "other", "-"]),
                (quick(1).env_remove("PLAIN").inherit_env("OLD_SECRET_2"), ["-", "-", "-", "s"]),
                (quick(1).inherit_env("MY_API_TOKEN").env_remove("MY_API_TOKEN"), ["p", "-", "-", "-"]),
                (quick(1).env("PLAIN", "q").env_clear(), ["-", "-", "-", "-"]),
                (
                    quick(1)
                        .env_clear()
                        .inherit_env("PLAIN")
                        .inherit_env("pgpassword")
                        .env("OLD_SECRET_2", "new"),
                    ["p", "-", "w", "new"],
                ),
            ] {
                let shown = format!("{builder:?}");
                assert!(!shown.contains("other"), "{shown}");
                let found = look(builder, &VARIABLES).await.unwrap();
                assert_eq!(values(&found), expected, "{shown}");
            }
            // A dedicated program is no exception, and is found without a PATH of its own.
            let found = look(served().env_remove("PATH"), &VARIABLES).await.unwrap();
            assert_eq!(values(&found), ["p", "-", "-", "-"]);
        });
    });
}

#[test]
fn workers_begin_in_the_directory_that_was_named() {
    on_a_runtime(|| async {
        let here = std::env::current_dir().unwrap();
        assert_eq!(look(quick(1), &[]).await.unwrap().folder, here);
        let folder = Folder::new();
        let path = folder.file("inner");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(
            look(quick(1).current_dir(&path), &[]).await.unwrap().folder,
            path.canonicalize().unwrap()
        );
        assert_eq!(look(quick(1).current_dir("tests"), &[]).await.unwrap().folder, here.join("tests"));
        // The program's path counts from here, wherever its workers begin.
        let link = folder.file("link");
        std::os::unix::fs::symlink("/bin/false", &link).unwrap();
        let up = "../".repeat(here.components().count() - 1);
        let script = Path::new(&up).join(link.strip_prefix("/").unwrap());
        let error = quick(1).program(&script).current_dir(&path).build().await.unwrap_err();
        assert!(error.to_string().contains("exited with code 1"), "{error}");
        let error = quick(1).current_dir(folder.file("absent")).build().await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("absent") && text.contains("no such working directory"), "{text}");
    });
}

#[test]
fn workers_are_as_nice_as_they_were_told_with_all_their_threads() {
    on_both_runtimes(|| async {
        let ours = niceness(Path::new("/proc/thread-self"));
        let found = look(quick(1), &[]).await.unwrap();
        assert!(found.nice.iter().all(|nice| *nice == ours), "{found:?}");
        for builder in [quick(1), served()] {
            let found = look(builder.nice(5), &[]).await.unwrap();
            assert!(
                found.nice.len() > 1 && found.nice.iter().all(|nice| *nice == (ours + 5).min(19)),
                "{found:?}"
            );
        }
        assert_eq!(niceness(Path::new("/proc/thread-self")), ours);
        // Whether this is allowed depends on who runs it.
        match look(quick(1).nice(-3), &[]).await {
            Ok(found) => assert!(found.nice.iter().all(|nice| *nice == (ours - 3).max(-20)), "{found:?}"),
            Err(error) => assert!(error.to_string().contains("needs a privilege"), "{error}"),
        }
        // Workers that take the place of others, and the pools that come after, are started as they should be.
        let found = look(quick(1), &[]).await.unwrap();
        assert!(found.nice.iter().all(|nice| *nice == ours), "{found:?}");
    });
}
