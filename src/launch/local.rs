//! Workers that this process executes itself, joined to it by a socket pair and a shared page. It does not speak the
//! protocol beyond the first magic.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use nix::sys::resource::{Resource, getrlimit};
use tokio::process::Command;

use crate::error::{Error, ErrorKind};
use crate::id::WorkerId;
use crate::launch::process::Process;
use crate::launch::{Launched, Launcher, Started, service};
use crate::sys::{memory, socket};
use crate::wire::{TO_WORKER_MAGIC, arg0};

/// How often and after which pauses, in milliseconds, an executable that is still being written is tried again. Compilers and installers
/// are done after some milliseconds; a file that stays open is a mistake to be told of.
const BUSY: [u64; 4] = [5, 20, 80, 320];

/// Launches workers on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    program: Arc<Program>,
}

/// What a worker executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// The program that runs now, even if its file has been replaced or removed meanwhile.
    Itself { args: Vec<OsString> },
    /// Another program: one without a slash is looked for in `PATH`.
    Path { path: PathBuf, args: Vec<OsString> },
}

impl Local {
    pub(crate) fn new(program: Program) -> Self {
        Self { program: Arc::new(program) }
    }

    /// Workers that run this program.
    pub(crate) fn itself() -> Self {
        Self::new(Program::Itself { args: Vec::new() })
    }

    /// Workers that run this test binary: the standard harness runs the one test of that name, which becomes the worker.
    pub(crate) fn libtest() -> Self {
        let args = ["__procpool_worker", "--nocapture", "--test-threads=1"].map(OsString::from).to_vec();
        Self::new(Program::Itself { args })
    }

    /// Workers that run another program.
    pub(crate) fn program(path: impl Into<PathBuf>, args: impl IntoIterator<Item = OsString>) -> Self {
        Self::new(Program::Path { path: path.into(), args: args.into_iter().collect() })
    }
}

impl Launcher for Local {
    fn launch(&self, worker: WorkerId, started: Started) -> BoxFuture<'static, Result<Launched, Error>> {
        let program = Arc::clone(&self.program);
        Box::pin(async move {
            let (result, receiver) = oneshot::channel();
            // Not in the caller's runtime: the pauses need a clock. If the caller has gone, its worker is dropped.
            service::spawn(async move {
                let launched = start(program, worker).await;
                if let Ok(launched) = &launched {
                    started(launched.process.control());
                }
                drop(result.send(launched));
            })?;
            receiver.await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Launch, "the thread that starts workers has failed"))
            })
        })
    }
}

async fn start(program: Arc<Program>, worker: WorkerId) -> Result<Launched, Error> {
    let mut pauses = BUSY.into_iter().map(Duration::from_millis);
    loop {
        let tried = Arc::clone(&program);
        match service::execute(move || attempt(&tried, worker)).await? {
            Ok(launched) => return Ok(launched),
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(explain(&program, worker, &error)),
            },
            Err(error) => return Err(explain(&program, worker, &error)),
        }
    }
}

/// Starts a worker once, from nothing.
fn attempt(program: &Program, worker: WorkerId) -> io::Result<Launched> {
    let (ours, theirs) = socket::pair()?;
    let page = greet(&ours)?;
    let mut command = program.command();
    command.arg0(arg0::format(std::process::id(), worker));
    command.stdin(Stdio::from(theirs.try_clone()?)).stdout(Stdio::from(theirs));
    let process = Process::spawn(&mut command, worker)?;
    // With it goes our copy of the worker's end: from here on the worker alone holds the link open.
    drop(command);
    let ours = UnixStream::from(ours);
    ours.set_nonblocking(true)?;
    Ok(Launched { socket: ours.into(), page, process })
}

/// Puts the magic into the link, and with it the memory of the page that the two will share. Without such memory the worker
/// counts everything that was sent to it as begun; that is no reason not to start it.
fn greet(socket: &OwnedFd) -> io::Result<Option<memory::Page>> {
    let shared = memory::create().and_then(|fd| Ok((memory::Page::map(&fd)?, fd)));
    match shared {
        Ok((page, fd)) => {
            socket::send_with(socket.as_fd(), &TO_WORKER_MAGIC, fd.as_fd())?;
            Ok(Some(page))
        }
        Err(error) => {
            tracing::debug!(%error, "no memory to share with a worker");
            nix::unistd::write(socket, &TO_WORKER_MAGIC)?;
            Ok(None)
        }
    }
}

impl Program {
    /// Nothing here may ask for more than `posix_spawn` can do, or the standard library copies this process instead.
    fn command(&self) -> Command {
        let (Self::Itself { args } | Self::Path { args, .. }) = self;
        let mut command = Command::new(self.path());
        command.args(args);
        command
    }

    fn path(&self) -> &Path {
        match self {
            Self::Itself { .. } => Path::new("/proc/self/exe"),
            Self::Path { path, .. } => path,
        }
    }
}

fn explain(program: &Program, worker: WorkerId, error: &io::Error) -> Error {
    let message = format!("could not start {}: {error}", program.path().display());
    Error::new(ErrorKind::Launch, message).with(|report| {
        report.worker = Some(worker);
        report.advice = advice(program, error).map(Into::into);
    })
}

/// What can be done about an error of `spawn`.
fn advice(program: &Program, error: &io::Error) -> Option<String> {
    let limit = |resource| getrlimit(resource).map_or(0, |(soft, _)| soft);
    Some(match error.raw_os_error()? {
        libc::EMFILE => format!(
            "this process may have {} descriptors open and each worker takes up to 5: raise it with `ulimit -n`",
            limit(Resource::RLIMIT_NOFILE)
        ),
        libc::ENFILE => "the whole system has too many files open: see /proc/sys/fs/file-nr".into(),
        libc::EAGAIN => format!(
            "this user may have {} processes and threads: raise it with `ulimit -u`, or the pids limit of the container",
            limit(Resource::RLIMIT_NPROC)
        ),
        libc::ENOMEM => "there is not enough memory for another process".into(),
        libc::ENOENT if matches!(program, Program::Itself { .. }) => "is /proc mounted?".into(),
        libc::ENOENT => "check the path; of a script, also the interpreter in its first line".into(),
        libc::EACCES => {
            "it has to be a file with execute permission, on a file system that is not mounted noexec".into()
        }
        libc::ENOEXEC => "it is not a program for this machine; a script has to begin with #!".into(),
        libc::ETXTBSY => "something still has it open for writing".into(),
        _ => return None,
    })
}
