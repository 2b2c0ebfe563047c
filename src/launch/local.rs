//! Workers that this process executes itself, joined to it by a socket pair and a shared page. It does not speak the
//! protocol beyond the first magic.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use nix::sys::resource::{Resource, getrlimit};
use tokio::process::Command;

use crate::arena::Arena;
use crate::error::{Error, ErrorKind};
use crate::id::WorkerId;
use crate::launch::body::Body;
use crate::launch::process::Process;
use crate::launch::setting::Setting;
use crate::launch::{Launched, Launcher, Refusal, Started, service};
use crate::sys::{memory, socket};
use crate::wire::{TO_WORKER_MAGIC, arg0};

/// How often and after which pauses, in milliseconds, an executable that is still being written is tried again. Compilers and installers
/// are done after some milliseconds; a file that stays open is a mistake to be told of.
const BUSY: [u64; 4] = [5, 20, 80, 320];

/// How many descriptors a worker takes: its link, which is registered twice while it is full, its standard error, and two
/// that tell of its end.
const EACH: u64 = 5;

/// How many serve all pools, or are open while a worker is being started.
const ALL: u64 = 16;

/// Launches workers on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    recipe: Arc<Recipe>,
}

/// What a worker executes, and how it begins.
#[derive(Clone, Debug)]
struct Recipe {
    program: Program,
    setting: Setting,
    /// How much memory for bulk is shared with a worker.
    bulk: usize,
    /// Whether outputs are looked at where the worker has put them.
    trusting: bool,
}

/// What a worker executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// The program that runs now, even if its file has been replaced or removed meanwhile.
    Itself { args: Vec<OsString> },
    /// Another program.
    Path { path: PathBuf, args: Vec<OsString> },
}

impl Local {
    pub(crate) fn new(program: Program) -> Self {
        Self { recipe: Arc::new(Recipe { program, setting: Setting::default(), bulk: 0, trusting: false }) }
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

    /// Workers that run what this worker runs, with the same arguments: however it was entered, they enter as it did.
    pub(crate) fn below() -> Self {
        Self::new(Program::Itself { args: std::env::args_os().skip(1).collect() })
    }

    /// Workers that run another program: one without a slash is looked for in `PATH`, now.
    pub(crate) fn program(path: impl Into<PathBuf>, args: impl IntoIterator<Item = OsString>) -> Self {
        Self::new(Program::Path { path: find(path.into()), args: args.into_iter().collect() })
    }

    /// The same workers, with which so much memory is shared for bulk, and which are trusted with it or not.
    pub(crate) fn sharing(mut self, bulk: usize, trusting: bool) -> Self {
        let recipe = Arc::make_mut(&mut self.recipe);
        (recipe.bulk, recipe.trusting) = (bulk, trusting);
        self
    }

    /// The same workers, which begin like this.
    pub(crate) fn with(mut self, setting: Setting) -> Self {
        Arc::make_mut(&mut self.recipe).setting = setting;
        self
    }
}

/// The absolute path of a program, if there is one: neither the workers' directory nor their `PATH` is to decide what they
/// execute.
fn find(program: PathBuf) -> PathBuf {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return std::path::absolute(&program).unwrap_or(program);
    }
    let executable = |path: &PathBuf| {
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(&program)).find(executable);
    found.and_then(|path| std::path::absolute(path).ok()).unwrap_or(program)
}

impl Launcher for Local {
    fn launch(&self, worker: WorkerId, started: Started) -> BoxFuture<'static, Result<Launched, Refusal>> {
        let recipe = Arc::clone(&self.recipe);
        Box::pin(async move {
            let (result, receiver) = oneshot::channel();
            // Not in the caller's runtime: the pauses need a clock. If the caller has gone, its worker is dropped.
            service::spawn(async move {
                let launched = start(recipe, worker).await;
                if let Ok(launched) = &launched {
                    started(launched.body.control());
                }
                drop(result.send(launched));
            })?;
            receiver.await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Launch, "the thread that starts workers has failed").into())
            })
        })
    }

    fn descriptors(&self) -> u64 {
        EACH
    }
}

async fn start(recipe: Arc<Recipe>, worker: WorkerId) -> Result<Launched, Refusal> {
    let mut pauses = BUSY.into_iter().map(Duration::from_millis);
    loop {
        let tried = Arc::clone(&recipe);
        match service::execute(move || attempt(&tried, worker)).await? {
            Ok(launched) => return Ok(launched),
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(explain(&recipe, worker, &error)),
            },
            Err(error) => return Err(explain(&recipe, worker, &error)),
        }
    }
}

/// Starts a worker once, from nothing.
fn attempt(recipe: &Recipe, worker: WorkerId) -> io::Result<Launched> {
    let (ours, theirs) = socket::pair()?;
    let (page, arena) = greet(&ours, recipe.bulk, recipe.trusting)?;
    let mut command = recipe.program.command();
    recipe.setting.apply(&mut command);
    let parent = std::process::id();
    command.arg0(match recipe.setting.contained {
        true => arg0::format_guardian(parent, worker),
        false => arg0::format(parent, worker.serial),
    });
    command.stdin(Stdio::from(theirs.try_clone()?)).stdout(Stdio::from(theirs));
    let process = recipe.setting.spawn(|| Process::spawn(&mut command, worker, recipe.setting.contained))?;
    // With it goes our copy of the worker's end: from here on the worker alone holds the link open.
    drop(command);
    let ours = UnixStream::from(ours);
    ours.set_nonblocking(true)?;
    Ok(Launched { socket: ours.into(), page, arena, body: Body::Process(process) })
}

/// Puts the magic into the link, and with it the memory that the two will share. Without such memory the worker counts
/// everything that was sent to it as begun, and bulk goes through the link; that is no reason not to start it.
pub(super) fn greet(
    socket: &OwnedFd,
    bulk: usize,
    trusting: bool,
) -> io::Result<(Option<memory::Page>, Option<Arc<Arena>>)> {
    match share(bulk, trusting).or_else(|_| share(0, false)) {
        Ok((page, arena, fd)) => {
            socket::send_with(socket.as_fd(), &TO_WORKER_MAGIC, fd.as_fd())?;
            Ok((Some(page), arena))
        }
        Err(error) => {
            tracing::debug!(%error, "no memory to share with a worker");
            nix::unistd::write(socket, &TO_WORKER_MAGIC)?;
            Ok((None, None))
        }
    }
}

/// Makes the memory that is shared with a worker. It fails when there is no address space for so much, for example.
fn share(bulk: usize, trusting: bool) -> io::Result<(memory::Page, Option<Arc<Arena>>, OwnedFd)> {
    let fd = memory::create(bulk)?;
    let arena = if bulk > 0 { Some(Arc::new(Arena::parent(&fd, trusting)?)) } else { None };
    Ok((memory::Page::map(&fd)?, arena, fd))
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

/// Whether this process may have the descriptors open that so many workers need, of which each takes as many as is said.
///
/// # Errors
///
/// With the numbers: running out of them half-way would be told of in other words by whatever runs out first.
pub(crate) fn fits(workers: u32, each: u64) -> Result<(), Error> {
    let Some((limit, open)) = descriptors() else { return Ok(()) };
    let needed = u64::from(workers) * each + ALL;
    if needed.saturating_add(open) <= limit {
        return Ok(());
    }
    let message = format!(
        "a pool of {workers} workers needs {needed} descriptors beside the {open} that are open, and this process may \
         have {limit}"
    );
    Err(Error::new(ErrorKind::LimitExceeded, message)
        .with(|report| report.advice = Some("raise it with `ulimit -n`, or ask for fewer workers".into())))
}

/// How many workers there may be for the sake of descriptors, if nobody has said a number.
pub(crate) fn room(each: u64) -> u32 {
    let fitting = descriptors().map_or(u64::MAX, |(limit, open)| limit.saturating_sub(open + ALL) / each);
    u32::try_from(fitting).unwrap_or(u32::MAX)
}

/// How many descriptors this process may have open, and how many are.
fn descriptors() -> Option<(u64, u64)> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    Some((limit, std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64)))
}

fn explain(recipe: &Recipe, worker: WorkerId, error: &io::Error) -> Refusal {
    let Recipe { program, setting, .. } = recipe;
    let place = setting.folder().map_or_else(String::new, |folder| format!(" in {}", folder.display()));
    let message = format!("could not start {}{place}: {error}", program.path().display());
    let told = Error::new(ErrorKind::Launch, message).with(|report| {
        report.worker = Some(worker);
        report.advice = advice(program, setting, error).map(Into::into);
    });
    Refusal::new(told, error)
}

/// What can be done about an error of `spawn`.
fn advice(program: &Program, setting: &Setting, error: &io::Error) -> Option<String> {
    let limit = |resource| getrlimit(resource).map_or(0, |(soft, _)| soft);
    Some(match error.raw_os_error()? {
        libc::ENOENT | libc::EACCES | libc::ENOTDIR
            if setting.folder().is_some_and(|folder| !folder.is_dir()) =>
        {
            "there is no such working directory".into()
        }
        libc::EPERM | libc::EACCES if setting.nice < 0 => {
            "a niceness below this process's needs a privilege".into()
        }
        libc::EMFILE => format!(
            "this process may have {} descriptors open and each worker takes up to {EACH}: raise it with `ulimit -n`",
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
