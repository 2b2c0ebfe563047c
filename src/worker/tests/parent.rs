//! A parent without a pool: starts one worker from this test binary and speaks to it frame by frame.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Serialize;
use tokio_util::codec::{Decoder, Encoder};

use crate::id::{TaskId, WorkerId};
use crate::sys::memory::{self, Page};
use crate::sys::{pidfd, process, socket};
use crate::task::{StreamTask, Task};
use crate::wire::codec::{Codec, Message, append, take_magic};
use crate::wire::frame::{
    Ancestor, Hello, Limits, Open, Ready, Run, Sandbox, ToParent, ToWorker, Tree, Verdict,
};
use crate::wire::payload::Payload;
use crate::wire::{MESSAGE_LIMIT, TO_WORKER_MAGIC, VERSION, arg0};
use crate::worker::tests::worker;

/// Longer than anything here takes, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn hello(ancestors: Vec<Ancestor>) -> Hello {
    Hello {
        version: VERSION,
        worker: WorkerId::new(7, 0),
        nonce: [3; 16],
        ancestors,
        depth: 1,
        tree: Tree { path: vec![], deepest: 8, places: 2, cores: 1, graces_ms: (800, 800) },
        limits: Limits { message: MESSAGE_LIMIT, slots: 1 },
        sandbox: Sandbox::Contain,
        log: 0,
        looks: false,
    }
}

/// This process as an ancestor.
pub(crate) fn myself() -> Ancestor {
    let pid = std::process::id();
    Ancestor { pid, start: process::start_time(pid).unwrap() }
}

/// One answer, with what belongs to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) task: TaskId,
    pub(crate) attempt: u32,
    pub(crate) verdict: Verdict,
    pub(crate) body: Bytes,
}

impl Done {
    pub(crate) fn value<T: Task>(&self) -> T::Output {
        assert_eq!(self.verdict, Verdict::Returned, "{:?}", self.task);
        Payload::from(self.body.clone()).decode().unwrap()
    }
}

pub(crate) struct Parent {
    pub(crate) link: UnixStream,
    pub(crate) page: Page,
    pub(crate) ready: Ready,
    pub(crate) open: Open,
    /// What was on the link before the magic.
    pub(crate) preamble: Bytes,
    codec: Codec<ToParent>,
    bytes: BytesMut,
    /// How many bytes came, those before the magic not counted.
    pub(crate) received: u64,
    serial: u32,
    child: Child,
    stderr: Option<JoinHandle<String>>,
}

/// A worker that was started and has been sent the magic.
pub(crate) fn spawn(entry: &str) -> (Child, UnixStream, Page) {
    let (ours, theirs) = socket::pair().unwrap();
    let memory = memory::create(0).unwrap();
    socket::send_with(ours.as_fd(), &TO_WORKER_MAGIC, memory.as_fd()).unwrap();
    let page = Page::map(&memory).unwrap();
    let name = arg0::format(std::process::id(), 7);
    let child = command(entry, &name).stdin(theirs.try_clone().unwrap()).stdout(theirs).spawn().unwrap();
    let link = UnixStream::from(ours);
    link.set_read_timeout(Some(PATIENCE)).unwrap();
    (child, link, page)
}

/// This test binary, to be entered at the test `entry`.
pub(crate) fn command(entry: &str, name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(name)
        .args([entry, "--nocapture", "--test-threads=1"])
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

impl Parent {
    /// Starts a worker and greets it.
    pub(crate) fn start() -> Self {
        Self::start_at("__procpool_worker", hello(vec![myself()]))
    }

    pub(crate) fn start_at(entry: &str, hello: Hello) -> Self {
        let (mut child, mut link, page) = spawn(entry);
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let nonce = hello.nonce;
        link.write_all(&encode(hello_frame(hello))).unwrap();
        let (mut codec, mut bytes) = (Codec::<ToParent>::new(MESSAGE_LIMIT), BytesMut::new());
        let mut received = 0;
        let mut more = |bytes: &mut BytesMut| {
            let n = fill(&mut link, bytes);
            received += n as u64;
            n
        };
        let preamble = loop {
            if let Some(preamble) = take_magic(&mut bytes).unwrap() {
                break preamble;
            }
            assert_ne!(more(&mut bytes), 0, "no greeting: {}", stderr.join().unwrap());
        };
        let mut next = || loop {
            if let Some(message) = codec.decode(&mut bytes).unwrap() {
                return message.frame;
            }
            assert_ne!(more(&mut bytes), 0);
        };
        let (ToParent::Ready(ready), ToParent::Open(open)) = (next(), next()) else { panic!("not greeted") };
        assert_eq!((ready.nonce, ready.pid, ready.version), (nonce, child.id(), VERSION));
        let stderr = Some(stderr);
        received -= preamble.len() as u64;
        Self { link, page, ready, open, preamble, codec, bytes, received, serial: 0, child, stderr }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn say(&mut self, frame: ToWorker) {
        self.link.write_all(&encode(frame)).unwrap();
    }

    /// The frame that runs a task, and its id.
    pub(crate) fn run_frame<T: Task>(&mut self, task: &T) -> (TaskId, Message<ToWorker>) {
        self.frame_for(T::NAME, task)
    }

    fn frame_for<T: Serialize>(&mut self, name: &str, task: &T) -> (TaskId, Message<ToWorker>) {
        let mut body = BytesMut::new();
        append(task, &mut body).unwrap();
        let index = self.ready.tasks.iter().position(|kind| kind.name == name).unwrap_or(999);
        self.serial += 1;
        let id = TaskId::new(self.serial, self.serial % 64);
        let run = Run { task: id, attempt: 1, index: index as u32, remaining_us: None, trace: None };
        (id, Message { frame: ToWorker::Run(run), body: body.freeze() })
    }

    pub(crate) fn stream<T: StreamTask>(&mut self, task: &T) -> TaskId {
        let (id, message) = self.frame_for(T::NAME, task);
        self.link.write_all(&encode(message)).unwrap();
        id
    }

    /// The next frame, which is an item of this stream.
    pub(crate) fn item(&mut self, stream: TaskId) -> Bytes {
        match self.hear() {
            Some(Message { frame: ToParent::Item { task, attempt: 1 }, body }) if task == stream => body,
            other => panic!("no item but {other:?}"),
        }
    }

    pub(crate) fn run<T: Task>(&mut self, task: &T) -> TaskId {
        let (id, message) = self.run_frame(task);
        self.link.write_all(&encode(message)).unwrap();
        id
    }

    /// Runs a task to its end.
    pub(crate) fn call<T: Task>(&mut self, task: &T) -> Done {
        let id = self.run(task);
        let done = self.done();
        assert_eq!((done.task, done.attempt), (id, 1));
        done
    }

    /// The next message, or `None` at the end of the link.
    pub(crate) fn hear(&mut self) -> Option<Message<ToParent>> {
        loop {
            if let Some(message) = self.codec.decode(&mut self.bytes).unwrap() {
                return Some(message);
            }
            let n = fill(&mut self.link, &mut self.bytes);
            self.received += n as u64;
            if n == 0 {
                assert!(self.bytes.is_empty(), "the link ended within a frame");
                return None;
            }
        }
    }

    pub(crate) fn frame(&mut self) -> ToParent {
        self.hear().expect("the worker has gone").frame
    }

    pub(crate) fn done(&mut self) -> Done {
        match self.hear() {
            Some(Message { frame: ToParent::Done { task, attempt, verdict, .. }, body }) => {
                Done { task, attempt, verdict, body }
            }
            other => panic!("no answer but {other:?}"),
        }
    }

    /// Waits until so many tasks have begun.
    pub(crate) fn await_begun(&self, count: u64) {
        eventually("the task begins", || self.page.begun().load(Ordering::SeqCst) >= count);
    }

    /// Says `Drain`; the worker must finish and exit well. Gives back what it wrote to standard error.
    pub(crate) fn drain(mut self) -> String {
        self.say(ToWorker::Drain);
        self.drained()
    }

    /// The worker was told to leave; it must finish and exit well.
    pub(crate) fn drained(mut self) -> String {
        assert_eq!(self.frame(), ToParent::Bye);
        assert!(self.hear().is_none());
        let (status, stderr) = self.end();
        assert!(status.success(), "{status}: {stderr}");
        stderr
    }

    /// Waits for the worker's own end.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (status, self.stderr.take().unwrap().join().unwrap())
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Not yet reaped, so the group is still this worker's; if it is, this is a process that nobody waits for.
        if let Ok(None) = self.child.try_wait() {
            let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn hello_frame(hello: Hello) -> ToWorker {
    ToWorker::Hello(hello)
}

pub(crate) fn encode(message: impl Into<Message<ToWorker>>) -> BytesMut {
    let mut bytes = BytesMut::new();
    Codec::<ToParent>::new(MESSAGE_LIMIT).encode(message.into(), &mut bytes).unwrap();
    bytes
}

/// Reads once; a reset is the end as well.
fn fill(link: &mut UnixStream, bytes: &mut BytesMut) -> usize {
    let mut chunk = [0; 64 << 10];
    match link.read(&mut chunk) {
        Ok(n) => {
            bytes.extend_from_slice(&chunk[..n]);
            n
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
        Err(error) => panic!("nothing came: {error}"),
    }
}

/// Waits for a condition.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for the end of a process that need not be ours, and says how long it took.
pub(crate) fn await_end(pidfd: &OwnedFd) -> Duration {
    let begun = Instant::now();
    let mut fds = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
    let limit = nix::poll::PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(nix::poll::poll(&mut fds, limit), Ok(1), "it lives on");
    begun.elapsed()
}

/// A descriptor for a process that lives.
pub(crate) fn watch(pid: u32) -> OwnedFd {
    pidfd::open(pid).unwrap()
}

#[test]
fn the_table_of_a_worker_is_what_it_was_given() {
    let parent = Parent::start();
    let names: Vec<_> = parent.ready.tasks.iter().map(|kind| kind.name.clone()).collect();
    let known: Vec<_> = worker().table.kinds().into_iter().map(|kind| kind.name).collect();
    assert_eq!(names, known);
}
