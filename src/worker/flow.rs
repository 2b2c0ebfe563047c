//! One stream's account in the worker: takes its items to the link while there is credit, and wakes whoever waits for more.
//! It does not read the link; whoever does tells it what came.
//!
//! Two locks, always in this order: the link's, under which items, answers and credit pass one another, then the account's,
//! on which threads can wait.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use super::io::{Io, Shared};
use super::runtime::{GATHER, GATHERED};
use super::turn::Outcome;
use crate::context::Slot;
use crate::emit::{Encoded, Outlet};
use crate::error::{Error, ErrorKind};
use crate::id::TaskId;
use crate::wire::codec::Unsendable;
use crate::wire::credit::{FIRST, cost};
use crate::wire::frame::{ToParent, Verdict};

/// The account of one attempt at a stream.
pub(super) struct Flow {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    turn: u64,
    task: TaskId,
    attempt: u32,
    state: Mutex<State>,
    /// Where threads wait for credit.
    room: Condvar,
}

struct State {
    /// Below zero after an item that cost more than there was.
    credit: i64,
    stage: Stage,
    /// Tasks that wait for credit; and how many threads.
    wakers: Vec<Waker>,
    sleepers: u32,
    /// Whether the last one that came with an item was told to wait. It may have been woken since, and not have come again.
    waits: bool,
    /// Whether the task is being polled, so that the main thread looks at the link soon.
    polled: bool,
    /// When items were last written, as far as is known here.
    flushed: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The task was told to stop.
    Stopped,
    /// An item could not be sent: that is what becomes of the stream.
    Failed(Verdict),
    /// The task has ended.
    Over,
}

impl Shared {
    /// The main thread is about to wait for what the parent says, in user code: the watcher reads and writes from now on, and
    /// not after two ticks.
    fn hand_over(&self) {
        let mut io = self.lock();
        self.flush(&mut io);
        if !std::mem::replace(&mut io.standin, true) || io.has_output() {
            self.pulse.ring();
        }
    }
}

impl Flow {
    pub(super) fn new(shared: &Arc<Shared>, slot: usize, turn: u64, (task, attempt): (TaskId, u32)) -> Self {
        let state = State {
            credit: FIRST.into(),
            stage: Stage::Open,
            wakers: Vec::new(),
            sleepers: 0,
            waits: false,
            polled: false,
            flushed: Instant::now(),
        };
        Self {
            slot: Arc::clone(&shared.slots[slot]),
            shared: Arc::clone(shared),
            turn,
            task,
            attempt,
            state: Mutex::new(state),
            room: Condvar::new(),
        }
    }

    /// Nothing that runs under the lock leaves it half-changed by a panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an item could be sent now.
    fn has_credit(&self) -> bool {
        let state = self.lock();
        state.stage == Stage::Open && state.credit > 0
    }

    /// Notes whether the task is being polled.
    pub(super) fn polled(&self, polled: bool) {
        self.lock().polled = polled;
    }

    /// The parent grants credit. The wakers are to be woken when the link's lock is free.
    pub(super) fn grant(&self, credit: u32, wakers: &mut Vec<Waker>) {
        let mut state = self.lock();
        state.credit += i64::from(credit);
        if state.credit > 0 {
            self.call(&mut state, wakers);
        }
    }

    /// The task is to stop. One that waits for credit learns of it and may clean up, as if it had asked.
    pub(super) fn stop(&self, wakers: &mut Vec<Waker>) {
        let mut state = self.lock();
        if state.stage == Stage::Open {
            state.stage = Stage::Stopped;
        }
        if state.waits {
            self.slot.ask(self.turn);
        }
        self.call(&mut state, wakers);
    }

    /// What has become of the stream while its task is not over.
    pub(super) fn failure(&self) -> Option<Verdict> {
        match &self.lock().stage {
            Stage::Failed(verdict) => Some(verdict.clone()),
            _ => None,
        }
    }

    /// The task has ended: nothing follows. What becomes of the stream then.
    pub(super) fn end(&self, outcome: Outcome) -> Outcome {
        let mut wakers = Vec::new();
        let stage = {
            let mut state = self.lock();
            self.call(&mut state, &mut wakers);
            std::mem::replace(&mut state.stage, Stage::Over)
        };
        wakers.into_iter().for_each(Waker::wake);
        match (stage, outcome) {
            (Stage::Failed(failure), _) => Err(Box::new(failure)),
            // It may have left something out.
            (Stage::Stopped, Ok(())) => Err(Box::new(Verdict::Cancelled { began: true })),
            (_, outcome) => outcome,
        }
    }

    fn call(&self, state: &mut State, wakers: &mut Vec<Waker>) {
        wakers.append(&mut state.wakers);
        if state.sleepers > 0 {
            self.room.notify_all();
        }
    }

    /// Why nothing is taken, if it is not for want of credit.
    fn refusal(&self, stage: &Stage) -> Error {
        let error = match stage {
            Stage::Open | Stage::Stopped => {
                self.slot.ask(self.turn);
                Error::new(ErrorKind::Cancelled, "the stream is to stop: nobody waits for its items any more")
            }
            Stage::Failed(Verdict::TooLarge { bytes }) => Error::new(
                ErrorKind::LimitExceeded,
                format!("an item of {bytes} bytes is larger than a message may be"),
            ),
            Stage::Failed(Verdict::BadOutput { reason }) => {
                Error::new(ErrorKind::Codec, format!("an item could not be encoded: {reason}"))
            }
            Stage::Failed(_) | Stage::Over => {
                Error::new(ErrorKind::Closed, "the stream is over: its task has ended")
            }
        };
        error.with(|report| report.task = Some(self.task))
    }

    /// Whether what has gathered is written now, later by the main thread, which may have to be woken, or by the watcher.
    fn gather(&self, io: &mut Io, state: &mut State) -> Option<Waker> {
        let now = Instant::now();
        if io.gathered() > GATHERED || now - state.flushed >= GATHER {
            self.shared.flush(io);
            state.flushed = now;
        }
        if state.polled || !io.has_output() { None } else { io.call_reader() }
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flow").field(&self.task).finish()
    }
}

impl Outlet for Flow {
    fn put(&self, item: Encoded<'_>, waker: Option<&Waker>) -> Result<bool, Error> {
        // Cloned and dropped without the locks: both may be anybody's code.
        let mut waker = waker.cloned();
        let mut reader = None;
        // A copy takes its time: it is made before, if it seems that there is credit.
        let copied = match item {
            Encoded::Large(payload) if self.has_credit() => Some(self.shared.depot.depart(payload)),
            _ => None,
        };
        let put = {
            let mut io = self.shared.lock();
            let mut state = self.lock();
            if !matches!(state.stage, Stage::Open) {
                return Err(self.refusal(&state.stage));
            }
            state.waits = state.credit <= 0;
            if state.waits {
                if waker.as_ref().is_some_and(|new| !state.wakers.iter().any(|old| old.will_wake(new))) {
                    state.wakers.extend(waker.take());
                }
                Ok(false)
            } else {
                let frame = ToParent::Item { task: self.task, attempt: self.attempt };
                io.say_item(&frame, item, copied).map(|()| {
                    state.credit -= i64::from(cost(item.len()));
                    reader = self.gather(&mut io, &mut state);
                    true
                })
            }
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        put.map_err(|reason| self.fail(reason))
    }

    fn wait(&self) {
        if self.shared.is_main() {
            self.shared.hand_over();
        }
        let mut state = self.lock();
        state.sleepers += 1;
        while state.credit <= 0 && state.stage == Stage::Open {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.sleepers -= 1;
    }

    fn fail(&self, reason: Unsendable) -> Error {
        let verdict = match reason {
            Unsendable::TooLarge { bytes, .. } => Verdict::TooLarge { bytes: bytes as u64 },
            Unsendable::Encode(error) => Verdict::BadOutput { reason: error.to_string() },
            Unsendable::Io(reason) => Verdict::BadOutput { reason },
        };
        let mut wakers = Vec::new();
        let error = {
            let mut state = self.lock();
            if matches!(state.stage, Stage::Open | Stage::Stopped) {
                state.stage = Stage::Failed(verdict);
            }
            self.call(&mut state, &mut wakers);
            self.refusal(&state.stage)
        };
        wakers.into_iter().for_each(Waker::wake);
        error
    }
}
