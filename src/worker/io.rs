//! The link as the worker's two threads share it: what was read, what is queued, what is to be written, all under one
//! lock. It runs no user code, and nobody may while holding the lock.

use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio_util::codec::Decoder;

use super::depot::Depot;
use super::effects::Effects;
use super::leave::{self, Way};
use super::outbox::Outbox;
use super::pack::Ongoing;
use super::pulse::Pulse;
use super::queue::{Queue, Queued};
use super::running::Running;
use super::stdio::Ends;
use crate::arena::Arena;
use crate::context::Slot;
use crate::id::TaskId;
use crate::link::bulk::{Arrival, malformed};
use crate::sys::buffer;
use crate::sys::memory::Page;
use crate::uplink::{News, Uplink};
use crate::wire::codec::{Codec, Violation};
use crate::wire::frame::{Limits, ToParent, ToWorker, Verdict};
use crate::wire::payload::Gather;

/// How much is read at once. The parent's socket holds about three times as much; more would only delay the first task.
const ROOM: usize = 64 << 10;

/// How many bytes of answers may wait for a parent that doesn't read before no further task begins. More costs memory,
/// less makes a fast worker wait for a parent that is merely busy.
const UNREAD: usize = 1 << 20;

/// What main thread and watcher share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ends: Ends,
    pub(super) pulse: Pulse,
    /// Where tasks run, one in each at a time.
    pub(super) slots: Box<[Arc<Slot>]>,
    /// The thread on which tasks run.
    main: ThreadId,
    /// What tasks' own pools hear the parent by.
    pub(super) uplink: OnceLock<Weak<Uplink>>,
    pub(super) depot: Depot,
    io: Mutex<Io>,
}

/// The link's state.
#[derive(Debug)]
pub(super) struct Io {
    pub(super) codec: Codec<ToWorker>,
    pub(super) depot: Depot,
    /// Parts of the next frame's body.
    arriving: Option<Arrival>,
    /// Read and not yet understood: at most one frame and a read's worth.
    unparsed: BytesMut,
    queue: Queue,
    pub(super) running: Running,
    /// The pack that runs, in the only slot.
    pub(super) pack: Option<Ongoing>,
    pub(super) out: Outbox,
    /// Wakes the main thread when the watcher has read something for it: the bytes are gone from the socket, so nothing
    /// else would.
    reader: Option<Waker>,
    /// Whether the watcher reads and writes, because the main thread is stuck in user code.
    pub(super) standin: bool,
    pub(super) stage: Stage,
    pub(super) way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Serving,
    /// `Drain` was read: finish and leave.
    Draining,
    /// `Bye` is written, or on its way: nothing may follow it.
    Left,
    /// The link has ended, and with it all that this worker, a thread, was there for. Processes do not live to see it.
    Gone,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Run this, as that turn of its slot.
    Task(Queued, u64),
    Wait,
    Leave,
}

impl Shared {
    /// Of a worker whose main thread this is.
    pub(super) fn new(
        ends: Ends,
        page: Option<Page>,
        arena: Option<Arc<Arena>>,
        limits: Limits,
        unparsed: BytesMut,
        way: Way,
    ) -> nix::Result<Self> {
        let slots: Box<[_]> = (0..limits.slots).map(|_| Arc::default()).collect();
        let depot = Depot::new(arena, limits.message);
        let io = Io {
            depot: depot.clone(),
            arriving: None,
            codec: Codec::new(limits.message),
            unparsed,
            queue: Queue::default(),
            running: Running::new(slots.len()),
            pack: None,
            out: Outbox::new(page),
            reader: None,
            standin: false,
            stage: Stage::Serving,
            way,
        };
        let (pulse, main) = (Pulse::new()?, thread::current().id());
        Ok(Self { ends, pulse, slots, main, depot, uplink: OnceLock::new(), io: Mutex::new(io) })
    }

    /// Whether this is the thread on which tasks run.
    pub(super) fn is_main(&self) -> bool {
        thread::current().id() == self.main
    }

    /// The lock, whoever asks. Nothing that runs under it leaves it half-changed by a panic.
    pub(super) fn lock(&self) -> Held<'_> {
        Held { io: self.io.lock().unwrap_or_else(PoisonError::into_inner), spent: Vec::new() }
    }

    /// The lock for the main thread, which is reader and writer again by taking it.
    pub(super) fn claim(&self) -> Held<'_> {
        let mut io = self.lock();
        if io.standin {
            io.standin = false;
            self.pulse.ring();
        }
        io
    }

    /// Takes the next task into a slot and marks it begun, both under the lock under which tasks are recalled and cancelled:
    /// each is either given back or begun.
    pub(super) fn begin(&self, slot: usize) -> Next {
        let mut io = self.claim();
        if !io.has_work() {
            return Next::Wait;
        }
        let Some(queued) = io.queue.pop() else { return Next::Leave };
        io.running.begin(slot, queued.task);
        let turn = self.slots[slot].begin();
        io.out.begun(queued.position);
        io.pack = queued.pack.map(|pack| Ongoing::new(&pack, queued.position));
        self.pulse.beat();
        Next::Task(queued, turn)
    }

    /// Ends the task in a slot with an answer, and writes what has gathered if `flush` says so of its size and of the type
    /// of the task that is next.
    pub(super) fn finish(
        &self,
        slot: usize,
        answer: &ToParent,
        body: &mut Gather,
        flush: impl FnOnce(usize, Option<u32>) -> bool,
    ) {
        // Copying takes its time.
        let bulk = body.small().is_none().then(|| self.depot.depart(&body.take()));
        let token = {
            let mut io = self.claim();
            io.running.end(slot);
            match (bulk, body.small()) {
                (Some(bulk), _) => io.say_bulk(answer, bulk),
                (None, body) => io.say_with(answer, body.unwrap_or_default()),
            }
            if flush(io.out.len(), io.queue.first().map(|queued| queued.index)) {
                self.flush(&mut io);
            }
            self.slots[slot].end()
        };
        if let Some(token) = token {
            token.cancel();
        }
    }

    /// Reads once and understands all of it before anything is begun: a task that is cancelled in the same breath
    /// never runs. `None` when there was nothing to read.
    ///
    /// Nobody survives the end of the link, here or in [`flush`](Self::flush).
    pub(super) fn read(&self, io: &mut Io) -> Option<Effects> {
        if io.is_gone() {
            return None;
        }
        let room = ROOM.max(io.unparsed.len());
        match buffer::read(self.ends.input.as_fd(), &mut io.unparsed, room) {
            Ok(0) => {
                io.way.die();
                Some(self.gone(io))
            }
            Ok(_) => Some(self.parse(io)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == ErrorKind::Interrupted => Some(Effects::default()),
            Err(error) => {
                io.lost(&error);
                // What is read next is the end.
                Some(Effects::default())
            }
        }
    }

    /// Leaves with one line that says why.
    pub(super) fn fail(&self, code: i32, reason: &str) {
        let effects = {
            let mut io = self.lock();
            io.fail(code, reason);
            let effects = self.gone(&mut io);
            io.on_behalf(effects)
        };
        // It may be the watcher that fails.
        effects.perform_on_behalf();
    }

    /// A thread's link is closed: what runs is to stop, and nothing follows it.
    fn gone(&self, io: &mut Io) -> Effects {
        let mut effects = Effects { news: true, ..Effects::default() };
        io.stage = Stage::Gone;
        io.queue.clear();
        io.out.discard();
        for slot in io.running.taken() {
            io.running.cancel(slot, Instant::now(), &mut effects.wakers);
            effects.tokens.extend(self.slots[slot].cancel());
        }
        effects
    }

    /// Understands what was read.
    pub(super) fn parse(&self, io: &mut Io) -> Effects {
        let (mut effects, mut bulky) = (Effects::default(), false);
        loop {
            let mut unparsed = std::mem::take(&mut io.unparsed);
            let message = io.codec.decode(&mut unparsed);
            io.unparsed = unparsed;
            let done = match message {
                Ok(Some(message)) => {
                    bulky |= message.body.len() > UNREAD;
                    io.heard(message.frame, message.body, &self.slots, &mut effects)
                }
                Ok(None) => break,
                Err(violation) => Err(violation),
            };
            if let Err(violation) = done {
                io.fail(leave::MISUNDERSTOOD, &format!("the parent can't be understood: {violation}"));
                let mut gone = self.gone(io);
                gone.tokens.append(&mut effects.tokens);
                gone.wakers.append(&mut effects.wakers);
                return gone;
            }
        }
        if !effects.news_below.is_empty() {
            effects.uplink = self.uplink.get().and_then(Weak::upgrade);
        }
        if bulky {
            // Lets go of the memory that one large input took, once that is done with.
            io.unparsed = BytesMut::from(&io.unparsed[..]);
        }
        effects
    }

    /// Writes until all is written or the parent has to read first.
    pub(super) fn flush(&self, io: &mut Io) {
        while let Some(released) = self.depot.release() {
            io.say(released);
        }
        match io.out.write(&self.ends.output) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // A thread hears of it when it reads next.
            Err(error) => io.lost(&error),
        }
    }
}

/// The link's lock. What was written under it is dropped when it is free again: a blob's memory may be anybody's.
pub(super) struct Held<'a> {
    // Dropped in this order.
    io: MutexGuard<'a, Io>,
    spent: Vec<Bytes>,
}

impl Deref for Held<'_> {
    type Target = Io;

    fn deref(&self) -> &Io {
        &self.io
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Io {
        &mut self.io
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.io.out.has_spent() {
            self.spent = self.io.out.take_spent();
        }
    }
}

impl Io {
    /// Whether the main thread has something to do that is not waiting, if it has a slot that is free.
    pub(super) fn has_work(&self) -> bool {
        match self.stage {
            Stage::Serving => !self.queue.is_empty() && self.out.len() <= UNREAD,
            Stage::Draining => self.queue.is_empty() || self.out.len() <= UNREAD,
            Stage::Left | Stage::Gone => self.out.is_empty(),
        }
    }

    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// How much is to be written.
    pub(super) fn gathered(&self) -> usize {
        self.out.len()
    }

    /// Whether the last word was said.
    pub(super) fn has_left(&self) -> bool {
        matches!(self.stage, Stage::Left | Stage::Gone)
    }

    /// Whether the link has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.stage == Stage::Gone
    }

    fn lost(&mut self, error: &io::Error) {
        self.way.lost(error);
        self.out.discard();
    }

    pub(super) fn fail(&mut self, code: i32, reason: &str) {
        self.way.fail(code, reason);
        self.out.discard();
    }

    /// Whether nothing is left but to leave, once what has begun is done.
    pub(super) fn is_over(&self) -> bool {
        self.has_left() || self.stage == Stage::Draining && self.queue.is_empty()
    }

    /// Leaves its waker for whoever reads in the main thread's place.
    pub(super) fn wake_with(&mut self, waker: &Waker) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Gives out what wakes the main thread where it waits for something to read. It has to leave it again.
    pub(super) fn call_reader(&mut self) -> Option<Waker> {
        self.reader.take()
    }

    /// What the stand-in has to do outside the lock: the same, and wake the main thread if it should look.
    pub(super) fn on_behalf(&mut self, mut effects: Effects) -> Effects {
        if effects.news {
            effects.reader = self.call_reader();
        }
        effects
    }

    /// One frame from the parent.
    fn heard(
        &mut self,
        frame: ToWorker,
        body: Bytes,
        slots: &[Arc<Slot>],
        effects: &mut Effects,
    ) -> Result<(), Violation> {
        if self.has_left() {
            return Ok(());
        }
        if self.arriving.is_some() && !matches!(frame, ToWorker::Run(_)) {
            return Err(malformed("bulk for a frame that is no task"));
        }
        match frame {
            ToWorker::Run(run) => {
                let input = self.depot.complete(self.arriving.take(), body)?;
                self.queue.add(run, input);
            }
            ToWorker::Spans { placed } => self.arriving = Some(self.depot.expect(&placed)?),
            ToWorker::Released { offsets } => self.depot.free(&offsets)?,
            ToWorker::Pack(_) if slots.len() > 1 => return Err(malformed("a pack for many slots")),
            ToWorker::Pack(pack) => self.queue.add_pack(pack, body)?,
            ToWorker::Recall { tasks } => self.recall(tasks),
            ToWorker::Cancel { task, grace_ms } => self.cancel(task, grace_ms, slots, effects),
            ToWorker::Credit { task, credit } => self.running.grant(task, credit, &mut effects.wakers),
            ToWorker::Drain => self.stage = Stage::Draining,
            ToWorker::Ping { nonce } => self.say(ToParent::Pong { nonce }),
            ToWorker::Granted { kind, n } => effects.news_below.push(News::Granted(kind, n)),
            ToWorker::Nudge => effects.news_below.push(News::Nudge),
            ToWorker::Hello(_) => {
                return Err(Violation::Malformed { reason: "a second greeting".into() });
            }
            // Nothing asks for these yet; a parent that says them does no harm.
            ToWorker::Chunk { .. }
            | ToWorker::Pong { .. }
            | ToWorker::Lease { .. }
            | ToWorker::Returned { .. } => {
                effects.ignored += 1;
                return Ok(());
            }
        }
        effects.news = true;
        Ok(())
    }

    /// Gives back those that have not begun. The answer comes even if there are none, so that the parent can wait for it.
    fn recall(&mut self, mut tasks: Vec<TaskId>) {
        tasks.retain(|task| self.queue.take(*task).is_some());
        self.say(ToParent::Recalled { tasks });
    }

    /// A task that is unknown has been answered meanwhile.
    fn cancel(&mut self, task: TaskId, grace_ms: u32, slots: &[Arc<Slot>], effects: &mut Effects) {
        if let Some(queued) = self.queue.take(task) {
            let verdict = Verdict::Cancelled { began: false };
            return self.say(ToParent::Done { task, attempt: queued.attempt, used_us: 0, verdict });
        }
        let Some(slot) = self.running.find(task) else { return };
        // Under the lock that ends the turn, so that the flag can't hit the next one.
        let until = Instant::now() + Duration::from_millis(grace_ms.into());
        self.running.cancel(slot, until, &mut effects.wakers);
        effects.tokens.extend(slots[slot].cancel());
    }
}
