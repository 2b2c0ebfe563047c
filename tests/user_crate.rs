//! A crate as its user would write it, built and run as its user would: `cargo test`, `cargo run`, `cargo nextest run`.
//! It is in `tests/user-crate`; what its tests claim is asserted there, here that they ran and how they ended.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long one command may take, a build on a busy machine included. It only serves to end a test that hangs.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn a_users_own_crate_is_built_tested_and_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // With our versions of everything that both need, nothing is fetched and little is compiled again.
    std::fs::copy(root.join("Cargo.lock"), root.join("tests/user-crate/Cargo.lock")).unwrap();

    let tests = cargo(&["test", "--offline"]);
    for fact in [
        "test tests::tasks_run_in_other_processes ... ok",
        "test tests::a_map_keeps_the_order ... ok",
        "own main: HELLO 42 elsewhere",
        "test a_pool_runs_a_program_that_serves ... ok",
        "test a_program_that_serves_has_an_environment_of_its_own ... ok",
        "test a_program_that_serves_explains_itself_to_a_person ... ok",
        "test the_error_names_the_macro_that_is_missing ... ok",
    ] {
        assert!(tests.stdout.contains(fact), "{fact:?} is missing:\n{}", tests.stdout);
    }

    for (program, words) in [("plain-main", "plain main"), ("tokio-main", "tokio main")] {
        let run = cargo(&["run", "--offline", "--bin", program]);
        // Its own words only: what the task printed did not go the same way.
        assert_eq!(run.stdout, format!("{words}: HELLO 42 elsewhere\n"));
    }

    b2_a_panic_that_nothing_unwinds_is_told();

    if has_nextest() {
        let tests = cargo(&["nextest", "run", "--offline"]);
        // A test is leaky when a process that it started outlives it.
        let fine = tests.stderr.contains(" passed") && !tests.stderr.contains("leaky");
        assert!(fine, "{}", tests.stderr);
    }
}

/// B2: an answer in a program that unwinds, the death of the worker in one that is built to abort.
fn b2_a_panic_that_nothing_unwinds_is_told() {
    let told = |strategy: &str| {
        let flag = format!("-Cpanic={strategy}");
        cargo(&["rustc", "--offline", "--bin", "aborting-main", "--", &flag]);
        let mut command = Command::new(target().join("debug/aborting-main"));
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = output_within(LIMIT, command);
        (String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr)).into_owned()
    };
    let unwound = told("unwind");
    assert!(unwound.starts_with("Panicked  said nothing, None, 42\n"), "{unwound}");
    let aborted = told("abort");
    let start = "Crashed SIGABRT said so, Some(\"it panicked at src/lib.rs:";
    assert!(aborted.starts_with(start) && aborted.contains(": far too much\"), 42\n"), "{aborted}");
}

/// The target folder. It is ours: cargo holds no lock on it while it runs tests.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Whether nextest is there. Where `PROCPOOL_TEST` asks for it, it has to be.
fn has_nextest() -> bool {
    let version = Command::new(env!("CARGO")).args(["nextest", "--version"]).output();
    let found = version.is_ok_and(|output| output.status.success());
    let wanted = std::env::var("PROCPOOL_TEST").is_ok_and(|wanted| wanted.contains("nextest"));
    assert!(found || !wanted, "cargo nextest is not installed");
    found
}

struct Said {
    stdout: String,
    stderr: String,
}

/// Runs cargo in the user's crate and returns what it printed.
fn cargo(arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/user-crate"));
    command.args(arguments).env("CARGO_TARGET_DIR", target()).env("CARGO_TERM_COLOR", "never");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("NEXTEST")) {
            command.env_remove(name);
        }
    }
    let output = output_within(LIMIT, command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = Said { stdout: text(&output.stdout), stderr: text(&output.stderr) };
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}: {}\n{}",
        output.status,
        said.stdout,
        said.stderr
    );
    said
}

fn output_within(limit: Duration, mut command: Command) -> Output {
    let child = command.spawn().unwrap();
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (done, output) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    output
        .recv_timeout(limit)
        .unwrap_or_else(|_| {
            let _ = killpg(group, Signal::SIGKILL);
            let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
            panic!("cargo {} did not end within {limit:?}", arguments.join(" "))
        })
        .unwrap()
}
