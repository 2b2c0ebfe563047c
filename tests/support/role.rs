//! Tests with a `main` of their own start their own program again in other roles: as the root of a pool, which can then be
//! killed, for one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::DirEntry;
use std::io::{BufRead, BufReader, IoSlice, Lines};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::{Pid, geteuid, getpgrp, getpid};

use super::{Folder, dump};

/// The arguments of this process if it was started in a role: the role's name and what belongs to it.
pub(crate) fn role() -> Option<(String, Vec<String>)> {
    let mut args = std::env::args().skip(1);
    let role = args.next()?.strip_prefix("role:")?.to_owned();
    // A role ends with the test, however that ends. Who leads a group is on a terminal of the test's, and goes with that.
    if getpgrp() != getpid() {
        set_pdeathsig(Signal::SIGKILL).unwrap();
    }
    Some((role, args.collect()))
}

/// A command that starts `program`, a copy of this one, in a role. `prefix` is a command that executes it.
pub(crate) fn command(prefix: &[&str], program: &Path, role: &str, args: &[&str]) -> Command {
    let role = format!("role:{role}");
    let words = prefix.iter().map(OsStr::new).chain([program.as_os_str(), OsStr::new(&role)]);
    let mut words = words.chain(args.iter().map(OsStr::new));
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

/// This program.
pub(crate) fn program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// Another process of this program, in a role. Killed when dropped.
pub(crate) struct Actor {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Actor {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> Result<String, String> {
        let line = self.lines.next().ok_or("the other process ended early")?;
        line.map_err(|error| error.to_string())
    }

    /// As `line`, a list of process ids.
    pub(crate) fn seen(&mut self) -> Result<Vec<Seen>, String> {
        let line = self.line()?;
        line.split_whitespace().map(|pid| Seen::of(pid.parse().map_err(|_| line.clone())?)).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn send(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// A process and nobody who gets its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub pid: u32,
    start: u64,
}

impl Seen {
    /// A process that is there.
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        let (start, _) = look(pid).ok_or_else(|| format!("process {pid} has gone already"))?;
        Ok(Self { pid, start })
    }

    /// Whether it runs. One that waits for a parent that is not ours to reap it is dead.
    pub(crate) fn is_alive(self) -> bool {
        look(self.pid).is_some_and(|(start, state)| start == self.start && !matches!(state, 'Z' | 'X'))
    }

    pub(crate) fn state(self) -> char {
        look(self.pid).map_or('X', |(_, state)| state)
    }
}

/// When a process was started, and its state.
fn look(pid: u32) -> Option<(u64, char)> {
    let fields = super::stat(pid)?;
    Some((fields.get(19)?.parse().ok()?, fields.first()?.chars().next()?))
}

/// Waits until all have gone. How long it took.
///
/// # Errors
///
/// When that was longer than `limit`: how long, or who will not go at all.
pub(crate) fn gone(all: &[Seen], limit: Duration) -> Result<Duration, String> {
    let start = Instant::now();
    while let Some(alive) = all.iter().find(|seen| seen.is_alive()) {
        if start.elapsed() > limit + Duration::from_secs(10) {
            let shown = std::fs::read_to_string(format!("/proc/{}/status", alive.pid)).unwrap_or_default();
            return Err(format!(
                "{} of {all:?} does not go, promised {limit:?}:\n{shown}\n{}",
                alive.pid,
                dump()
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = start.elapsed();
    if took > limit {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        return Err(format!(
            "the last of {} has gone after {took:?}, promised {limit:?}; load {load}",
            all.len()
        ));
    }
    Ok(took)
}

/// A copy of this program and a folder that everybody may use.
pub(crate) fn for_everybody() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let copy = folder.file("program");
    std::fs::copy(program(), &copy).unwrap();
    folder.open_to_everybody();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    (folder, copy)
}

/// The command that executes another as a user without rights who cannot get any: as nobody, if this is root.
pub(crate) fn unprivileged() -> Vec<&'static str> {
    match geteuid().is_root() {
        true => vec!["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"],
        false => vec!["setpriv", "--no-new-privs"],
    }
}

/// Who plays the root, and where.
pub(crate) struct Stage {
    pub prefix: Vec<&'static str>,
    pub program: PathBuf,
    /// Holds the program's copy.
    _folder: Option<Folder>,
}

impl Stage {
    /// As who the test runs, or as somebody without rights.
    pub(crate) fn new(unprivileged_root: bool) -> Self {
        if !unprivileged_root {
            return Self { prefix: vec![], program: program(), _folder: None };
        }
        let (folder, program) = for_everybody();
        Self { prefix: unprivileged(), program, _folder: Some(folder) }
    }
}

/// Gives every socket that this process has to whoever holds the other end of this one, which keeps them open as a helper
/// would that was forked from this process. How many they are.
pub(crate) fn hand_out_sockets(to: BorrowedFd<'_>) -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let socket = |entry: DirEntry| {
        let socket = std::fs::read_link(entry.path()).ok()?.to_str()?.strip_prefix("socket:")?.to_owned();
        Some((socket, entry.file_name().to_str()?.parse().ok()?))
    };
    // One descriptor of each: how many may be under way is limited.
    let sockets: BTreeMap<String, i32> = entries.filter_map(socket).collect();
    let fds: Vec<i32> = sockets.into_values().collect();
    let message = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(b"x")], &message, MsgFlags::empty(), None).unwrap();
    fds.len()
}

/// The test, ignored where a command that it needs is not there; where `PROCPOOL_TEST` asks for the command, it has to be.
pub(crate) fn needing(needs: &str, test: Trial) -> Trial {
    let output = Command::new(needs).arg("--version").output();
    let found = match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(output.status.to_string()),
        Err(error) => Err(error.to_string()),
    };
    given(needs, found, test)
}

/// The test, ignored where it lacks something, with the reason for its kind; where `PROCPOOL_TEST` asks for that, it has to be
/// there.
pub(crate) fn given(what: &str, found: Result<(), String>, test: Trial) -> Trial {
    let Err(reason) = found else { return test };
    assert!(!super::is_wanted(what), "{what}: {reason}");
    test.with_kind(format!("needs {what}: {reason}")).with_ignored_flag(true)
}
