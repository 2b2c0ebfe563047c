//! From the first line of `main` to a serving worker: the steps, in the order in which they have to come. What a step does
//! is told where it is done.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgrp, getpid, setpgid};

use super::greet::{self, Greeting, Refusal};
use super::io::Shared;
use super::leave::Way;
use super::watch::{self, Lives};
use super::{Worker, leave, prepare, runtime, stdio, turn};
use crate::sys::signal;
use crate::task::Table;
use crate::uplink::{Kin, Link, Uplink};
use crate::wire::frame::{Hello, Limits, Open, Ready, Sandbox, ToParent};
use crate::wire::{OTHER_VERSION, SLOTS_LIMIT, TO_PARENT_MAGIC, VERSION};

/// The main thread's stack where it can't be the process's own: as large as that usually is.
const STACK: usize = 8 << 20;

/// Becomes a worker. `parent` is the process that executed this one, unless something stands between the two.
pub(super) fn run(worker: Worker, parent: Option<u32>) -> ! {
    if tokio::runtime::Handle::try_current().is_err() {
        become_worker(worker, parent)
    }
    // `main` is a task of a runtime already, and runtimes do not nest on a thread. That one waits here for ever.
    let thread = thread::Builder::new().stack_size(STACK).spawn(move || become_worker(worker, parent));
    match thread.map(thread::JoinHandle::join) {
        Err(error) => leave::fail(leave::UNFIT, &format!("failed to start a thread ({error})")),
        // It does not return, so it has panicked, and has said so.
        Ok(_) => leave::fail(leave::UNFIT, "the worker's main thread has ended"),
    }
}

fn become_worker(worker: Worker, parent: Option<u32>) -> ! {
    let started = start(parent).unwrap_or_else(|error| {
        leave::fail(leave::UNFIT, &format!("failed to start ({error})"));
    });
    match serve(started, worker, parent) {
        // The one way out that runs exit handlers: everything is answered, and the parent waits.
        Ok(()) => std::process::exit(0),
        Err(error) => leave::fail(leave::UNFIT, &format!("failed to serve ({error})")),
    }
}

/// What is there once the parent has said what it wants.
struct Started {
    ends: stdio::Ends,
    lives: Lives,
    greeting: Greeting,
}

/// Everything before `Hello` is understood.
fn start(parent: Option<u32>) -> io::Result<Started> {
    let ends = stdio::claim()?;
    signal::reset()?;
    if getpgrp() != getpid() {
        // The launcher has done it if it could. A session leader can't, and behind a prefix it is a courtesy.
        let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    }
    // Only wakes a stopped worker so that its watcher can run. It fires when the *thread* that started us ends, so it must
    // do no harm to a healthy one.
    let _ = prctl::set_pdeathsig(Signal::SIGCONT);
    let lives = parent.map(Lives::parent).transpose()?.unwrap_or_default();
    let greeted = greet::receive(ends.input.as_fd(), lives.first().map(AsFd::as_fd));
    match greeted {
        Ok(greeting) => Ok(Started { ends, lives, greeting }),
        Err(Refusal::Closed) if parent.is_some() => leave::die(),
        Err(refusal @ (Refusal::Closed | Refusal::Stranger(_))) => not_a_pool(&refusal.to_string()),
        Err(refusal @ Refusal::OtherVersion(_)) => leave::fail(OTHER_VERSION, &refusal.to_string()),
        Err(refusal) => leave::fail(leave::MISUNDERSTOOD, &refusal.to_string()),
    }
}

/// Tells a person who has started a worker program by hand what it is.
pub(super) fn not_a_pool(found: &str) -> ! {
    let advice = "this program is a worker of a procpool pool: a pool starts it and speaks to it over its standard input";
    leave::fail(leave::NOT_A_POOL, &format!("{advice}; {found}"))
}

/// Everything from `Hello` to `Bye`.
fn serve(started: Started, worker: Worker, parent: Option<u32>) -> io::Result<()> {
    let Started { ends, mut lives, greeting } = started;
    lives.ancestors(parent, &greeting.hello.ancestors);
    let enforced = contain(greeting.hello.sandbox)?;
    // Fifteen characters are all that a name can have.
    let _ = prctl::set_name(c"procpool-worker");
    let (shared, hello) = share(ends, greeting, Way::Process)?;
    attend(&shared, worker, hello, lives, enforced, None)
}

/// Makes what the worker's two threads share.
pub(super) fn share(ends: stdio::Ends, greeting: Greeting, way: Way) -> io::Result<(Arc<Shared>, Hello)> {
    let Greeting { hello, page, arena, rest } = greeting;
    turn::note_panics();
    ends.unblock()?;
    let limits = Limits { slots: hello.limits.slots.clamp(1, SLOTS_LIMIT), ..hello.limits };
    Ok((Arc::new(Shared::new(ends, page, arena, limits, rest, way)?), hello))
}

/// Everything from `Ready` to `Bye`.
pub(super) fn attend(
    shared: &Arc<Shared>,
    mut worker: Worker,
    hello: Hello,
    lives: Lives,
    enforced: Vec<String>,
    kin: Option<Kin>,
) -> io::Result<()> {
    greet_back(shared, &worker.table, &hello);
    watch::start(shared, lives)?;
    let Hello { worker: id, depth, looks, .. } = hello;
    let place = runtime::Place { worker: id, depth: depth.into(), looks };
    let link: Arc<dyn Link> = Arc::<Shared>::clone(shared);
    let uplink = Arc::new(Uplink::new(hello, worker.table.kinds(), worker.nested.take(), kin, link));
    let _ = shared.uplink.set(Arc::downgrade(&uplink));
    let runtime = runtime::build(shared)?;
    let open = Open { enforced };
    let states = runtime.block_on(runtime::serve(shared, worker, &place, open, uplink))?;
    prepare::finish(runtime, states);
    Ok(())
}

/// Shuts the worker in while it has one thread, and says how.
fn contain(sandbox: Sandbox) -> io::Result<Vec<String>> {
    match sandbox {
        Sandbox::Contain => prctl::set_no_new_privs()?,
    }
    let mut enforced = vec!["no new privileges".to_owned()];
    if getpgrp() == getpid() {
        enforced.push("own process group".to_owned());
    }
    Ok(enforced)
}

/// Says `Ready`, before any user code runs. What came behind `Hello` is understood now.
fn greet_back(shared: &Shared, table: &Table, hello: &Hello) {
    let effects = {
        let mut io = shared.claim();
        io.say_raw(&TO_PARENT_MAGIC);
        io.say(ToParent::Ready(Ready {
            version: VERSION,
            nonce: hello.nonce,
            pid: std::process::id(),
            slots: shared.slots.len() as u32,
            tasks: table.kinds(),
            build: build(),
            bulk: shared.depot.is_shared(),
        }));
        shared.flush(&mut io);
        shared.parse(&mut io)
    };
    effects.perform();
}

/// The program's name and the version of this crate in it.
fn build() -> String {
    let program = std::env::current_exe().ok();
    let name =
        program.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    format!("{} (procpool {})", name.unwrap_or_default(), env!("CARGO_PKG_VERSION"))
}
