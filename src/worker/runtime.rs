//! The main thread of a worker: reads, runs tasks one after the other, answers. What happens while it is stuck in user code
//! is the watcher's business; how several tasks run at once is told in `crowd`.
//!
//! ```text
//!     prepare ──▶ Open ──several slots──▶ crowd
//!        ┌──────────────── Wait ──────────────┐
//!        ▼                                    │
//!   reader.poll ──has work──▶ begin ──Task──▶ turn ──answer──▶ finish ──▶ (breathe) ──▶ begin
//!                               └───Leave──▶ Bye, exit
//! ```

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as Wake, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::unconstrained;
use tokio::time::{Sleep, sleep, sleep_until};

use super::Worker;
use super::crowd::Crowd;
use super::flow::Flow;
use super::io::{Next, Shared};
use super::lookout::Lookout;
use super::pack::Ended;
use super::prepare;
use super::queue::Queued;
use super::reader::Reader;
use super::turn::{Outcome, Turn, verdict};
use crate::context::{About, Seat, Slot, Ticket};
use crate::id::WorkerId;
use crate::state::States;
use crate::task::Table;
use crate::uplink::Uplink;
use crate::wire::KEPT;
use crate::wire::frame::{Open, Pack, ToParent};
use crate::wire::pack;
use crate::wire::payload::{Gather, Lent};

/// What is longer than this is not one of very many.
pub(super) const BRIEF: Duration = Duration::from_micros(20);

/// How long answers of brief tasks may gather while there is more to do. Longer saves few writes more, and what has
/// gathered when the worker is killed has to be taken as begun and lost: it would be hundreds.
pub(super) const GATHER: Duration = Duration::from_micros(50);

/// The same for longer tasks, of which a dozen at most gather. Each write wakes the parent, which on a busy machine takes
/// the processor away from a worker: longer saves little more, and callers wait for it.
pub(super) const PATIENCE: Duration = Duration::from_micros(250);

/// How many bytes of answers may gather: a good write.
pub(super) const GATHERED: usize = 60_000;

/// How long the main thread may go from task to task without looking at the link and letting what tasks have spawned run.
/// Half a millisecond of prefetched tasks is usual; an empty look costs about a microsecond.
pub(super) const BREATH: Duration = Duration::from_millis(1);

/// After how many brief tasks of a pack the clock is looked at: that takes as long as the briefest of them. One that is not brief
/// is seen by the watcher.
const STRIDE: u32 = 8;

/// A type whose last task took longer than this is not begun in front of answers that wait to be written.
pub(super) const LONG: Duration = Duration::from_millis(1);

/// Where a worker is.
pub(super) struct Place {
    pub(super) worker: WorkerId,
    pub(super) depth: u32,
    /// Whether it looks for tasks before it sleeps.
    pub(super) looks: bool,
}

/// What stays the same for all tasks of a worker.
pub(super) struct Scene<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) table: &'a Table,
    /// By slot.
    pub(super) seats: Box<[Arc<Seat>]>,
}

impl Scene<'_> {
    /// Decodes a task for a slot, as that turn of it.
    ///
    /// # Errors
    ///
    /// The verdict, if that is all that comes of it.
    pub(super) fn start(
        &self,
        slot: usize,
        turn: &mut Turn,
        index: u32,
        input: &Lent<'_>,
        about: &About,
    ) -> Outcome {
        let ticket = Ticket { seat: &self.seats[slot], about };
        turn.start(self.table, index, input, ticket, || {
            let flow = Arc::new(Flow::new(self.shared, slot, about.turn, (about.task, about.attempt)));
            self.shared.claim().running.open_stream(slot, &flow);
            flow
        })
    }

    /// The same for a task that was queued, with its input.
    pub(super) fn start_queued(&self, slot: usize, turn: &mut Turn, queued: &mut Queued, n: u64) -> Outcome {
        let Queued { task, attempt, index, deadline, .. } = *queued;
        // Not kept twice, so that what the task drops of a large one is really gone.
        let input = std::mem::take(&mut queued.input);
        self.start(slot, turn, index, &input.lend(), &About { task, attempt, deadline, turn: n })
    }
}

/// The runtime that tasks run in, with hooks that tell the watcher when its thread sleeps.
///
/// # Errors
///
/// When the kernel refuses what the runtime needs.
pub(super) fn build(shared: &Arc<Shared>) -> io::Result<tokio::runtime::Runtime> {
    let (parks, unparks) = (Arc::clone(shared), Arc::clone(shared));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || parks.pulse.sleep())
        .on_thread_unpark(move || unparks.pulse.rise())
        .build()
}

/// Builds the states, opens, and serves the link until the parent says `Drain`. Gives the states back.
///
/// # Errors
///
/// When the link can't be waited for.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    worker: Worker,
    place: &Place,
    open: Open,
    uplink: Arc<Uplink>,
) -> io::Result<Arc<States>> {
    let Worker { table, states, .. } = worker;
    let mut reader = Reader::new(shared)?;
    let mut states = prepare::build(shared, &mut reader, states).await;
    states.push(Box::new(Arc::clone(&uplink)));
    let states = Arc::new(states);
    shared.claim().say(ToParent::Open(open));
    let Place { worker, depth, looks } = *place;
    let seat = |slot: &Arc<Slot>| {
        let (slot, states) = (Arc::clone(slot), Arc::clone(&states));
        Arc::new(Seat { slot, states, worker, depth })
    };
    let scene = Scene { shared, table: &table, seats: shared.slots.iter().map(seat).collect() };
    match shared.slots.len() {
        1 => Main::new(scene, &mut reader, looks).serve().await,
        _ => Crowd::new(scene, &mut reader).serve().await,
    }
    if !shared.lock().is_gone() {
        end_below(&uplink, &mut reader).await;
    }
    // What is below knows its uplink: neither would ever be dropped.
    let below = uplink.below().take();
    drop(below);
    shared.claim().bye();
    poll_fn(|cx| reader.poll(cx, |io| !io.has_output())).await;
    Ok(states)
}

/// Ends the worker's own pool, leaves first, while the link is served. The parent waits only so long.
async fn end_below(uplink: &Uplink, reader: &mut Reader) {
    let mut ending = pin!(uplink.end());
    poll_fn(|cx| {
        let _ = reader.poll(cx, |_| false);
        ending.as_mut().poll(cx)
    })
    .await;
}

/// The only slot.
const SLOT: usize = 0;

/// The main thread's own state.
struct Main<'a> {
    scene: Scene<'a>,
    reader: &'a mut Reader,
    /// The running task's output. Encoding is user code and takes its time, so it is done here and not under the lock.
    output: Gather,
    /// When the last task ended: the one reading of the clock per task.
    now: Instant,
    /// How long answers had gathered by then.
    gathered: Duration,
    /// How long it had been since the link was looked at, and the runtime had the thread.
    breathless: Duration,
    /// By task type: whether the last one took long.
    long: Vec<bool>,
    lookout: Option<Lookout>,
}

impl<'a> Main<'a> {
    fn new(scene: Scene<'a>, reader: &'a mut Reader, looks: bool) -> Self {
        let (now, output, none) = (Instant::now(), Gather::default(), Duration::ZERO);
        let long = vec![false; scene.table.len()];
        let lookout = if looks { Lookout::new() } else { None };
        Self { scene, reader, output, now, gathered: none, breathless: none, long, lookout }
    }

    /// Reads the clock. How much time has passed since it did so last: adding that up takes less than comparing three times.
    fn tick(&mut self) -> Duration {
        let now = Instant::now();
        let passed = now - std::mem::replace(&mut self.now, now);
        self.gathered += passed;
        self.breathless += passed;
        passed
    }

    async fn serve(mut self) {
        loop {
            match self.scene.shared.begin(SLOT) {
                Next::Task(Queued { pack: Some(pack), input, .. }, turn) => {
                    self.run_pack(pack, input.join(), turn).await
                }
                Next::Task(queued, turn) => self.run(queued, turn).await,
                Next::Wait => self.wait().await,
                Next::Leave => break,
            }
        }
    }

    async fn wait(&mut self) {
        if let Some(lookout) = &mut self.lookout {
            lookout.look(self.reader).await;
        }
        let mut slept = false;
        poll_fn(|cx| {
            let polled = self.reader.poll(cx, super::io::Io::has_work);
            slept |= polled.is_pending();
            polled
        })
        .await;
        self.tick();
        self.gathered = Duration::ZERO;
        if slept {
            self.breathless = Duration::ZERO;
        }
        if let Some(lookout) = &mut self.lookout {
            lookout.came(self.now);
        }
    }

    /// Runs the tasks of a pack and answers each.
    async fn run_pack(&mut self, frame: Pack, inputs: Bytes, turn: u64) {
        let Pack { attempt, index, .. } = frame;
        let (began, mut inputs, mut unseen, mut stride) = (self.now, &inputs[..], 0, 1);
        let mut task = Turn::default();
        let mut about = About { task: frame.task, attempt, deadline: None, turn };
        for n in 0.. {
            // They were counted when they came.
            let input = Lent::Small(pack::take_input(&mut inputs).unwrap_or_default());
            about.task = super::pack::id(&frame, n);
            let mut outcome = self.scene.start(SLOT, &mut task, index, &input, &about);
            if outcome.is_ok() {
                outcome = self.drive(&mut task, true).await;
            }
            unseen += 1;
            let (mut due, mut late) = (false, false);
            if unseen == stride {
                let took = self.tick();
                due = self.gathered >= if took > BRIEF { PATIENCE } else { GATHER };
                late = self.now - began > BREATH;
                stride = if took > BRIEF { 1 } else { (2 * stride).min(STRIDE) };
                unseen = 0;
            }
            let mut wrote = false;
            let flush = |gathered| {
                wrote = due || gathered > GATHERED;
                wrote
            };
            let ended = Ended { outcome, began, late };
            let next = self.scene.shared.next(SLOT, &ended, &mut self.output, flush);
            if wrote {
                self.gathered = Duration::ZERO;
            }
            self.output.clear(KEPT);
            let Some(next) = next else { break };
            about.turn = next;
        }
        self.tick();
        if self.breathless >= BREATH {
            self.breathe().await;
        }
    }

    /// Runs one task and answers.
    async fn run(&mut self, mut queued: Queued, turn: u64) {
        let mut task = Turn::default();
        let mut outcome = self.scene.start_queued(SLOT, &mut task, &mut queued, turn);
        if outcome.is_ok() {
            outcome = self.drive(&mut task, false).await;
        }
        if outcome.is_err() {
            self.output.clear(KEPT);
        }
        self.answer(&queued, outcome);
        if self.breathless >= BREATH {
            self.breathe().await;
        }
    }

    /// Polls the task, and the link whenever the task awaits, until there is a verdict. One that is `packed` and awaits for long
    /// does not keep those behind it.
    async fn drive(&mut self, turn: &mut Turn, mut packed: bool) -> Outcome {
        let (mut grace, mut breath) = (None, None);
        poll_fn(|cx| {
            self.scene.shared.pulse.beat();
            if let Poll::Ready(outcome) = turn.poll(cx, &mut self.output) {
                return Poll::Ready(outcome);
            }
            if packed {
                let breath: &mut Pin<Box<_>> = breath.get_or_insert_with(|| Box::pin(sleep(BREATH)));
                if pin!(unconstrained(breath.as_mut())).poll(cx).is_ready() {
                    packed = false;
                    self.scene.shared.claim().cut();
                }
            }
            self.await_with(turn, &mut grace, cx)
        })
        .await
    }

    /// The task awaits: serves the link, and stops the task if it was cancelled and is not, or no longer, cleaning up.
    fn await_with(
        &mut self,
        turn: &mut Turn,
        grace: &mut Option<Pin<Box<Sleep>>>,
        cx: &mut Wake<'_>,
    ) -> Poll<Outcome> {
        // Polled until it is pending, else nothing would wake us; that includes once more after a Cancel was seen.
        while self.reader.poll(cx, |io| grace.is_none() && io.running.cancelled(SLOT).is_some()).is_ready() {
            if let Some(until) = self.scene.shared.lock().running.cancelled(SLOT) {
                *grace = Some(Box::pin(sleep_until(until.into())));
            }
        }
        let Some(over) = grace else { return Poll::Pending };
        // As for the reader: the task must not be able to spend the budget of the clock that ends it.
        if !self.scene.shared.slots[SLOT].asked()
            || self.scene.shared.lock().is_gone()
            || pin!(unconstrained(over.as_mut())).poll(cx).is_ready()
        {
            return Poll::Ready(turn.stop());
        }
        Poll::Pending
    }

    fn answer(&mut self, queued: &Queued, outcome: Outcome) {
        let took = self.tick();
        if let Some(long) = self.long.get_mut(queued.index as usize) {
            *long = took > LONG;
        }
        let used_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let Queued { task, attempt, .. } = *queued;
        let done = ToParent::Done { task, attempt, used_us, verdict: verdict(outcome) };
        let due = self.gathered >= if took > BRIEF { PATIENCE } else { GATHER };
        let long = &self.long;
        let mut wrote = false;
        self.scene.shared.finish(SLOT, &done, &mut self.output, |gathered, next| {
            let next_is_long = next.is_some_and(|index| long.get(index as usize) == Some(&true));
            wrote = due || gathered > GATHERED || next_is_long;
            wrote
        });
        if wrote {
            self.gathered = Duration::ZERO;
        }
        self.output.clear(KEPT);
    }

    /// Looks at the link between two tasks, then lets the runtime have the thread for a moment.
    async fn breathe(&mut self) {
        poll_fn(|cx| {
            // Whether it is ready does not matter: the next task is begun either way.
            let _ = self.reader.poll(cx, |_| false);
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
        self.tick();
        (self.gathered, self.breathless) = (Duration::ZERO, Duration::ZERO);
    }
}
