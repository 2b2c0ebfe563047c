//! Nobody outlives the root, and what has begun is known however the worker dies.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::parent::{Parent, await_end, command, eventually, watch};
use super::path;
use super::tasks::{Append, Deaf, Grandchild, Noop, Sleep, Stubborn};
use crate::wire::frame::{ToWorker, Verdict};

/// The name under which [`root`] is one; what follows says what its worker does.
const ROOT: &str = "procpool-test-root:";

/// A parent that can be killed: tells which processes it has made, then waits for ever. Does nothing in an ordinary run.
#[test]
fn root() {
    let name = std::env::args().next().unwrap();
    let Some(what) = name.strip_prefix(ROOT) else { return };
    let mut parent = Parent::start();
    let mut pids = vec![parent.pid()];
    let mut held = None;
    match what {
        "computing" => drop(parent.run(&Stubborn())),
        "deaf" => drop(parent.run(&Deaf())),
        "sleeping" => drop(parent.run(&Sleep(600_000))),
        "grandchild" => pids.push(parent.call(&Grandchild()).value::<Grandchild>()),
        "held" => {
            // Someone else holds the parent's end of the link, so the worker does not see it end.
            let link = OwnedFd::from(parent.link.try_clone().unwrap());
            let Held(child) =
                held.insert(Held(Command::new("sleep").arg("600").stdin(link).spawn().unwrap()));
            // Not a process that has to end: the test ends it.
            pids.push(child.id());
            parent.run(&Stubborn());
        }
        _ => {}
    }
    if what != "idle" {
        parent.await_begun(1);
    }
    eprintln!("pids {}", pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
    let _ = std::io::stdin().read(&mut [0]);
    drop((parent, held));
}

/// Ends the process should the root fail.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A root with its worker doing `what`, and the processes that it has made.
fn start(what: &str) -> (Child, Vec<u32>) {
    let name = format!("{ROOT}{what}");
    let mut root = command("death::root", &name).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(root.stderr.take().unwrap()).lines();
    let pids =
        lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("pids ")?.to_owned())).unwrap();
    (root, pids.split(' ').map(|pid| pid.parse().unwrap()).collect())
}

fn killed_root(what: &str, meanwhile: impl FnOnce(u32)) {
    let (mut root, pids) = start(what);
    let watched: Vec<_> = pids.iter().map(|pid| watch(*pid)).collect();
    meanwhile(pids[0]);
    root.kill().unwrap();
    let must_end = if what == "held" { &watched[..1] } else { &watched[..] };
    let times: Vec<_> = must_end.iter().map(await_end).collect();
    println!("{what}: gone after {times:?}");
    root.wait().unwrap();
    if what == "held" {
        kill(Pid::from_raw(pids[1] as i32), Signal::SIGKILL).unwrap();
    }
}

#[test]
fn a_worker_dies_with_its_root_idle_or_sleeping() {
    killed_root("idle", drop);
    killed_root("sleeping", drop);
}

#[test]
fn a_worker_dies_with_its_root_in_a_computation() {
    killed_root("computing", drop);
}

#[test]
fn a_worker_dies_with_its_root_deaf_to_all_signals() {
    killed_root("deaf", drop);
}

#[test]
fn a_worker_dies_with_its_root_while_someone_else_holds_the_link() {
    killed_root("held", drop);
}

#[test]
fn a_worker_dies_with_its_root_and_takes_what_it_started_along() {
    killed_root("grandchild", drop);
}

#[test]
fn a_worker_dies_with_its_root_though_it_is_stopped() {
    killed_root("computing", |worker| {
        kill(Pid::from_raw(worker as i32), Signal::SIGSTOP).unwrap();
        eventually("it is stopped", || {
            let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
            stat.rsplit_once(')').unwrap().1.trim_start().starts_with('T')
        });
    });
}

#[test]
fn what_has_begun_is_known_though_the_worker_is_killed() {
    let file = path("begun");
    let mut ahead = 0;
    for round in 0..20 {
        let mut parent = Parent::start();
        let mut bytes = Vec::new();
        for number in 1..=2000 {
            let (_, message) = parent.run_frame(&Append(file.clone(), number));
            bytes.extend_from_slice(&super::parent::encode(message));
        }
        parent.link.set_nonblocking(true).unwrap();
        let _ = parent.link.write(&bytes);
        parent.await_begun(1 + round * 7);
        killpg(Pid::from_raw(parent.pid() as i32), Signal::SIGKILL).unwrap();
        await_end(&watch(parent.pid()));
        let begun = parent.page.begun().load(Ordering::SeqCst);
        let ran = std::fs::metadata(&file).map_or(0, |file| file.len() / 8);
        assert!(begun == ran || begun == ran + 1, "{begun} begun, {ran} ran");
        ahead += begun - ran;
        let _ = std::fs::remove_file(&file);
    }
    println!("killed between mark and code: {ahead} of 20");
}

#[test]
fn a_recalled_or_cancelled_task_keeps_its_number() {
    let mut parent = Parent::start();
    let first = parent.run(&Sleep(30));
    let (second, third) = (parent.run(&Noop()), parent.run(&Noop()));
    parent.say(ToWorker::Recall { tasks: vec![second] });
    let mut seen = vec![];
    for _ in 0..3 {
        match parent.frame() {
            crate::wire::frame::ToParent::Recalled { tasks } => assert_eq!(tasks, [second]),
            crate::wire::frame::ToParent::Done { task, verdict, .. } => {
                assert_eq!(verdict, Verdict::Returned);
                seen.push(task);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((seen, parent.page.begun().load(Ordering::SeqCst)), (vec![first, third], 3));
    parent.drain();
}
