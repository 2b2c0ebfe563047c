//! Launching and losing real processes: what is reported, and that nothing is left behind. Plain programs stand in for
//! workers.

use std::ffi::OsString;
use std::fs;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tokio::runtime::{Builder, Runtime};

use super::local::{Local, Program};
use super::process::Exited;
use super::{Launched, Launcher, Refusal};
use crate::error::{Error, ErrorKind, Exit};
use crate::id::WorkerId;
use crate::sys::{memory::Page, socket};
use crate::wire::{TO_WORKER_MAGIC, arg0};

const WORKER: WorkerId = WorkerId::new(3, 1);

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn shell(script: &str) -> Local {
    Local::program("/bin/sh", ["-c".into(), script.into()])
}

fn try_launch(local: &Local) -> Result<Launched, Error> {
    runtime().block_on(local.launch(WORKER, Box::new(drop))).map_err(|refusal| refusal.error)
}

fn launch(script: &str) -> Launched {
    try_launch(&shell(script)).unwrap()
}

/// Waits in a runtime without timers for the end of the process.
fn exited(launched: &mut Launched) -> Exited {
    runtime().block_on(poll_fn(|cx| launched.body.poll_exited(cx)))
}

pub(super) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < give_up, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// State, parent and group of a process.
fn stat(pid: u32) -> Option<(char, u32, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The processes of a group. Zombies that are not ours to reap count as gone.
pub(super) fn group(of: u32) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        stat(*pid).is_some_and(|(state, parent, group)| {
            group == of && (!matches!(state, 'Z' | 'X') || parent == std::process::id())
        })
    })
    .collect()
}

fn children() -> usize {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, parent, _)| parent == std::process::id())).count()
}

/// Runs a test in a process of its own, for what would disturb the others or be disturbed by them.
fn alone(name: &str, test: impl FnOnce()) {
    alone_under(&["env"], name, test);
}

/// As [`alone`], executed by a command that leaves something to inherit.
fn alone_under(prefix: &[&str], name: &str, test: impl FnOnce()) {
    const MARK: &str = "PROCPOOL_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return test();
    }
    let mut command = Command::new(prefix[0]);
    command.args(&prefix[1..]).arg(std::env::current_exe().unwrap());
    command.args([&format!("launch::tests::{name}"), "--exact", "--nocapture", "--test-threads=1"]);
    let output = command.env(MARK, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn command(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// A shell that has run `first`, and its background child; both are running.
fn family(first: &str) -> Launched {
    let mut launched = launch(&format!("{first}; sleep 600 & echo; wait"));
    hear(&mut launched, b"\n");
    let pid = launched.body.pid().unwrap();
    // A shell's copy that has not become `sleep` yet may still have the shell's traps.
    wait_for("the sleeper to run", || group(pid).into_iter().any(|member| command(member) == "sleep"));
    launched
}

/// Reads exactly these bytes from the link.
fn hear(launched: &mut Launched, expected: &[u8]) {
    let mut socket = UnixStream::from(launched.socket.try_clone().unwrap());
    socket.set_nonblocking(false).unwrap();
    let mut bytes = vec![0; expected.len()];
    socket.read_exact(&mut bytes).unwrap();
    socket.set_nonblocking(true).unwrap();
    assert_eq!(bytes, expected);
}

#[test]
fn exit_codes_and_signals_are_reported_as_they_are() {
    for (script, exit, name) in [
        ("exit 0", Exit::Code(0), None),
        ("exit 101", Exit::Code(101), None),
        ("kill -SEGV $$", Exit::Signal { number: 11, core: false }, Some("SIGSEGV")),
        ("kill -KILL $$", Exit::Signal { number: 9, core: false }, Some("SIGKILL")),
        ("kill -40 $$", Exit::Signal { number: 40, core: false }, Some("signal 40")),
    ] {
        let mut launched = launch(&format!("ulimit -c 0; {script}"));
        let first = exited(&mut launched);
        assert_eq!(first.exit, exit, "{script}");
        assert_eq!(first.exit.signal().as_deref(), name);
        // Less than ours is not told.
        assert!(first.peak_kib.is_none_or(|kib| kib > 1000), "{first:?}");
        assert_eq!(exited(&mut launched), first, "it can be asked again");
        let pid = launched.body.pid().unwrap();
        assert_eq!(stat(pid).map(|(state, ..)| state), Some('Z'), "unreaped while the handle is held");
        drop(launched);
        wait_for("the zombie to be reaped", || stat(pid).is_none());
    }
}

#[test]
fn the_end_of_a_long_stderr_is_there_to_the_last_byte_when_the_exit_is() {
    let mut launched =
        launch("ulimit -c 0; seq 1 200000 >&2; printf '\\033[0mlast \\377' >&2; kill -ABRT $$");
    assert_eq!(exited(&mut launched).exit.signal().unwrap(), "SIGABRT");
    let tail = launched.body.last_words();
    let end = "\\u{1b}[0mlast \u{fffd}";
    let lines = tail.strip_suffix(end).unwrap_or_else(|| panic!("{tail:?}"));
    let whole: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(lines.len(), 4096 - "\x1b[0mlast \x00".len());
    assert!(whole.ends_with(lines));
}

#[test]
fn a_stderr_that_is_held_open_delays_nothing_and_is_let_go() {
    // The helper leaves the group and never stops writing. The magic that the shell reads has two lines.
    let mut launched = launch("setsid sh -c 'echo $$; exec yes >&2' & read a; read b; read c; exit 6");
    let mut socket = UnixStream::from(launched.socket.try_clone().unwrap());
    socket.set_nonblocking(false).unwrap();
    let mut said = String::new();
    while !said.ends_with('\n') {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        said.push(byte[0].into());
    }
    let helper: u32 = said.trim().parse().unwrap();
    socket.write_all(b"\n").unwrap();
    assert_eq!(exited(&mut launched).exit, Exit::Code(6));
    let living = || stat(helper).is_some_and(|(state, ..)| !matches!(state, 'Z' | 'X'));
    // Its pipe breaks, although the handle is still held.
    wait_for("the helper to see its pipe closed", || !living());
}

#[test]
fn a_signal_goes_to_the_whole_group() {
    let mut launched = family("trap 'exit 5' TERM");
    let pid = launched.body.pid().unwrap();
    launched.body.control().signal(Signal::SIGTERM);
    assert_eq!(exited(&mut launched).exit, Exit::Code(5));
    wait_for("the sleeper to end", || group(pid) == [pid]);
    // The group can be signalled as long as its leader is a zombie, and nothing comes of it.
    launched.body.control().signal(Signal::SIGTERM);
    launched.body.control().signal(Signal::SIGKILL);
    assert_eq!(exited(&mut launched).exit, Exit::Code(5));
}

#[test]
fn a_stopped_process_can_be_killed() {
    let mut launched = launch("kill -STOP $$");
    let pid = launched.body.pid().unwrap();
    wait_for("it to stop", || stat(pid).is_some_and(|(state, ..)| state.eq_ignore_ascii_case(&'T')));
    launched.body.control().signal(Signal::SIGKILL);
    assert_eq!(exited(&mut launched).exit.signal().unwrap(), "SIGKILL");
}

#[test]
fn a_dropped_handle_leaves_nothing_whoever_drops_it() {
    let gone = |pid| wait_for("the group to be gone", || group(pid).is_empty() && stat(pid).is_none());
    let outside = family(":");
    let pid = outside.body.pid().unwrap();
    drop(outside);
    gone(pid);

    let pid = runtime().block_on(async {
        let inside = shell("sleep 600 & wait").launch(WORKER, Box::new(drop)).await.unwrap();
        inside.body.pid().unwrap()
    });
    gone(pid);

    let gone_runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let orphan = gone_runtime.block_on(shell("sleep 600 & wait").launch(WORKER, Box::new(drop))).unwrap();
    let pid = orphan.body.pid().unwrap();
    drop(gone_runtime);
    assert!(stat(pid).is_some_and(|(state, ..)| state != 'Z'), "a runtime's end is nothing to a worker");
    drop(orphan);
    gone(pid);

    let unwound = family(":");
    let pid = unwound.body.pid().unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _unwound = unwound;
        std::panic::resume_unwind(Box::new("planted"));
    }));
    assert!(panicked.is_err());
    gone(pid);
}

#[test]
fn what_a_worker_leaves_in_its_group_is_killed_before_it_is_reaped() {
    let mut launched = launch("sleep 600 & exit 2");
    let pid = launched.body.pid().unwrap();
    assert_eq!(exited(&mut launched).exit, Exit::Code(2));
    assert_eq!(group(pid).len(), 2, "a zombie and what it left");
    drop(launched);
    wait_for("the group to be gone", || group(pid).is_empty() && stat(pid).is_none());
}

#[test]
fn a_launch_that_nobody_waits_for_leaves_nothing() {
    alone("a_launch_that_nobody_waits_for_leaves_nothing", || {
        for _ in 0..20 {
            let mut launching = shell("sleep 600").launch(WORKER, Box::new(drop));
            assert!((&mut launching).now_or_never().is_none());
        }
        // A launch that is waited for comes after those on the spawning thread.
        drop(launch("exit 0"));
        wait_for("no children", || children() == 0);
    });
}

#[test]
fn the_link_is_both_stdin_and_stdout_and_ends_with_the_worker() {
    let mut launched = try_launch(&Local::program("/bin/cat", [])).unwrap();
    hear(&mut launched, &TO_WORKER_MAGIC);
    nix::unistd::write(&launched.socket, b"echo").unwrap();
    hear(&mut launched, b"echo");
    let mut byte = [0];
    let blocked = UnixStream::from(launched.socket.try_clone().unwrap()).read(&mut byte).unwrap_err();
    assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock, "our end does not block");
    launched.body.control().signal(Signal::SIGKILL);
    exited(&mut launched);
    // Nobody else holds the worker's end: not the command, not a sibling.
    assert_eq!(UnixStream::from(launched.socket.try_clone().unwrap()).read(&mut byte).unwrap(), 0);
}

#[test]
fn a_worker_is_executed_under_its_name_and_shares_a_page() {
    let arg0 = std::env::args_os().next().unwrap();
    if let Some(parent) = arg0::parse(&arg0) {
        // This is the worker.
        assert_eq!(parent, std::os::unix::process::parent_id());
        let mut magic = [0; 16];
        let (n, fd) = socket::receive_with(io::stdin().as_fd(), &mut magic).unwrap();
        assert_eq!((n, magic), (16, TO_WORKER_MAGIC));
        Page::map(fd.unwrap()).unwrap().begun().store(7, Ordering::SeqCst);
        std::process::exit(9);
    }
    let name = "launch::tests::a_worker_is_executed_under_its_name_and_shares_a_page";
    let args = [name, "--exact", "--nocapture", "--test-threads=1"].map(OsString::from);
    for local in [
        Local::program(std::env::current_exe().unwrap(), args.clone()),
        Local::new(Program::Itself { args: args.to_vec() }),
    ] {
        let mut launched = try_launch(&local).unwrap();
        let exit = exited(&mut launched).exit;
        assert_eq!(exit, Exit::Code(9), "{}", launched.body.last_words());
        assert_eq!(launched.page.unwrap().begun().load(Ordering::SeqCst), 7);
    }
}

/// A directory of this test's own, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("procpool-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_cannot_be_started_is_named_with_the_reason() {
    let folder = Folder::new("unstartable");
    for (path, errno, advice) in [
        (folder.0.join("missing"), "os error 2", "check the path"),
        (folder.file("plain", b"#!/bin/sh\n", 0o644), "os error 13", "execute permission"),
        (folder.0.clone(), "os error 13", "execute permission"),
        (
            folder.file("foreign", b"\x7fELF\x02\x01\x01 of another machine", 0o755),
            "os error 8",
            "this machine",
        ),
        (folder.file("script", b"#!/no/such/interpreter\n", 0o755), "os error 2", "interpreter"),
    ] {
        let error = try_launch(&Local::program(&path, [])).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Launch);
        assert_eq!(error.worker_id(), Some(WORKER));
        for part in [path.to_str().unwrap(), errno, advice] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}

#[test]
fn an_executable_that_is_being_written_is_tried_again() {
    let folder = Folder::new("busy");
    let program = folder.file("true", &fs::read("/bin/true").unwrap(), 0o755);
    let open = || fs::OpenOptions::new().append(true).open(&program).unwrap();
    let local = Local::program(&program, []);
    for _ in 0..5 {
        let writer = open();
        let mut launching = local.launch(WORKER, Box::new(drop));
        assert!((&mut launching).now_or_never().is_none());
        drop(writer);
        let mut launched = runtime().block_on(launching).unwrap();
        assert_eq!(exited(&mut launched).exit, Exit::Code(0));
    }
    let _writer = open();
    let text = try_launch(&local).unwrap_err().to_string();
    assert!(text.contains("os error 26") && text.contains("open for writing"), "{text}");
}

#[test]
fn a11_a_large_process_starts_others_as_fast_as_a_small_one() {
    alone("a11_a_large_process_starts_others_as_fast_as_a_small_one", || {
        // Copying the tables of this much memory takes 15 ms, or 60.
        let full = std::env::var_os("PROCPOOL_FULL").is_some();
        let (bytes, limit) = if full { (1 << 30, 10) } else { (256 << 20, 100) };
        let memory = std::hint::black_box(vec![1_u8; bytes]);
        drop(launch("exit 0"));
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..40 {
            let start = Instant::now();
            let launched = launch("exit 0");
            times.push(start.elapsed());
            drop(launched);
        }
        times.sort();
        println!("half take {:?}, 95 of 100 {:?}", times[20], times[38]);
        assert!(times[38] < Duration::from_millis(limit), "{times:?}");
        assert_eq!(memory.len(), bytes);
    });
}

#[test]
fn spawning_without_end_uses_up_nothing() {
    alone("spawning_without_end_uses_up_nothing", || {
        let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        let ours = |entry: &fs::DirEntry| {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            target.to_str().is_some_and(|target| target.starts_with("pipe:") || target.contains("pidfd"))
        };
        let held = || fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok).filter(ours).count();
        let inherited = held();
        // The pipe of standard error outlives the process for a moment.
        let settled = || wait_for("descriptors to be closed", || held() == inherited);
        drop(launch("exit 0"));
        wait_for("no children", || children() == 0);
        settled();
        let (fds, threads) = (count("fd"), count("task"));
        for round in 0..200 {
            match round % 4 {
                0 => drop(family(":")),
                1 => drop(launch("exit 1")),
                2 => drop(shell("sleep 600").launch(WORKER, Box::new(drop)).now_or_never()),
                _ => drop(try_launch(&Local::program("/no/such/program", []))),
            }
        }
        drop(launch("exit 0"));
        wait_for("no children", || children() == 0);
        settled();
        assert_eq!((count("fd"), count("task")), (fds, threads));
    });
}

#[test]
fn running_out_of_descriptors_is_an_error_with_advice_and_passes() {
    alone("running_out_of_descriptors_is_an_error_with_advice_and_passes", || {
        drop(launch("exit 0"));
        // Whoever runs the tests may have left some open.
        let numbers = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
        let held = numbers.filter(|number| number.to_str().unwrap().parse::<u64>().unwrap() < 40).count();
        let limit = held as u64 + 29;
        setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
        let mut launched = Vec::new();
        let error = loop {
            match try_launch_within(&shell("sleep 600")) {
                Ok(one) => launched.push(one),
                Err(error) => break error,
            }
            assert!(launched.len() < 40);
        };
        let text = error.to_string();
        assert!(text.contains("os error 24") && text.contains("ulimit -n"), "{text}");
        assert!(launched.len() >= 7, "{}", launched.len());
        launched.truncate(1);
        wait_for("the others to be gone", || children() == 1);
        wait_for("room for another", || try_launch_within(&shell("exit 0")).is_ok());
        drop(launched);
        wait_for("no children", || children() == 0);
    });
}

#[test]
fn h2_a_launch_that_lacks_a_descriptor_at_any_step_leaves_none_behind() {
    alone("h2_a_launch_that_lacks_a_descriptor_at_any_step_leaves_none_behind", || {
        let works = || try_launch_within(&shell("exit 0")).map(drop);
        works().unwrap();
        let held = || fs::read_dir("/proc/self/fd").unwrap().count();
        wait_for("no children", || children() == 0);
        let (before, mut refused) = (held(), 0);
        for spare in 0..12 {
            // The lowest free numbers are given out first: the limit is put so far behind the last of them.
            let mut fillers = vec![fs::File::open("/dev/null").unwrap()];
            let last = |fillers: &[fs::File]| fillers.last().map_or(0, |file| file.as_raw_fd() as usize);
            // All up to the last, and the one that counts them.
            while held() > last(&fillers) + 2 {
                fillers.push(fs::File::open("/dev/null").unwrap());
            }
            let limit = last(&fillers) as u64 + 1 + spare;
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
            let launched = runtime_free(&shell("exit 0")).map(drop);
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
            if let Err(refusal) = launched {
                assert!(refusal.scarce, "{refusal:?}");
                assert!(refusal.error.to_string().contains("os error 24"), "{}", refusal.error);
                refused += 1;
            }
            drop(fillers);
            wait_for("no children", || children() == 0);
            wait_for("descriptors to be closed", || held() == before);
            works().unwrap();
            wait_for("no children", || children() == 0);
        }
        // With the first few there is not enough, with the last there is.
        assert!((4..12).contains(&refused), "{refused}");
    });
}

/// Launches without a runtime, which would need descriptors itself.
fn try_launch_within(local: &Local) -> Result<Launched, Error> {
    runtime_free(local).map_err(|refusal| refusal.error)
}

fn runtime_free(local: &Local) -> Result<Launched, Refusal> {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut launching = local.launch(WORKER, Box::new(drop));
    loop {
        match launching.poll_unpin(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(result) => return result,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn a_process_that_somebody_else_reaps_is_reported_as_unknown() {
    alone("a_process_that_somebody_else_reaps_is_reported_as_unknown", || {
        std::thread::spawn(|| {
            loop {
                if nix::sys::wait::wait().is_err() {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        });
        for _ in 0..20 {
            // It waits until it is watched: the magic has two lines.
            let mut launched = launch("sleep 600 & read a; read b; read c; exit 3");
            let pid = launched.body.pid().unwrap();
            nix::unistd::write(&launched.socket, b"\n").unwrap();
            assert!(matches!(exited(&mut launched).exit, Exit::Unknown | Exit::Code(3)));
            drop(launched);
            wait_for("the group to be gone", || group(pid).is_empty());
        }
    });
}

#[test]
fn ignored_child_signals_cost_the_status_and_nothing_else() {
    alone_under(
        &["env", "--ignore-signal=CHLD"],
        "ignored_child_signals_cost_the_status_and_nothing_else",
        || {
            let mut launched = launch("sleep 600 & read a; read b; read c; echo last words >&2; exit 3");
            let pid = launched.body.pid().unwrap();
            nix::unistd::write(&launched.socket, b"\n").unwrap();
            assert_eq!(exited(&mut launched).exit, Exit::Unknown);
            assert_eq!(launched.body.last_words(), "last words\n");
            drop(launched);
            wait_for("the group to be gone", || group(pid).is_empty());
        },
    );
}

#[test]
fn lines_of_stderr_are_logged_even_if_the_log_panics() {
    alone("lines_of_stderr_are_logged_even_if_the_log_panics", || {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        tracing::subscriber::set_global_default(Collect(Arc::clone(&seen))).unwrap();
        std::panic::set_hook(Box::new(|_| {}));
        let mut launched = launch("echo one >&2; echo panic >&2; echo two >&2; exit 9");
        assert_eq!(exited(&mut launched).exit, Exit::Code(9));
        let pid = launched.body.pid().unwrap();
        drop(launched);
        wait_for("it to be reaped", || stat(pid).is_none());
        let _ = std::panic::take_hook();
        let of = |text: &str| format!("worker=3 pid={pid} message={text}");
        assert_eq!(*seen.lock().unwrap(), [of("one"), of("two")]);
    });
}

/// Collects what is logged for workers, and panics when it is told to.
struct Collect(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Collect {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "procpool::worker" && *metadata.level() == tracing::Level::INFO
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        assert!(!fields.0.contains("panic"), "planted");
        self.0.lock().unwrap().push(fields.0.trim_start().to_owned());
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[derive(Default)]
struct Fields(String);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        // The message is recorded first or last, depending on the macro.
        if field.name() == "message" {
            self.0 = format!("{} message={value:?}", self.0);
        } else {
            let at = self.0.find(" message=").unwrap_or(self.0.len());
            self.0.insert_str(at, &format!(" {}={value:?}", field.name()));
        }
    }
}
