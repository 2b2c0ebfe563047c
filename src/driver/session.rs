//! The task of one link: it brings its worker to life, moves frames between link and state, takes the lock once per
//! batch, and sees the worker out. What the frames mean is the state's business.
//!
//! ```text
//!  launch ─▶ Hello ─▶ ( read what is ready ─▶ state ─▶ outbox ─▶ write once )* ─▶ the process has ended
//!                                                                                     │
//!          reap ◀─ kill the group ◀─ Lost ◀─ deliver complete frames ◀─ drain the link┘
//! ```

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::{FutureExt, poll_fn};

use super::port::Port;
use super::report::Death;
use super::spin::Spin;
use super::{Fuse, Shared};
use crate::arena;
use crate::error::{Error, ErrorKind};
use crate::id::WorkerId;
use crate::launch::body::Body;
use crate::launch::process::Exited;
use crate::launch::service::Alarm;
use crate::launch::{Launched, Refusal};
use crate::link::{self, Link, Outbox, Socket};
use crate::sched::Input;
use crate::sys::memory::Page;
use crate::sys::process::{resident, start_time};
use crate::wire;
use crate::wire::codec::{Message, Violation};
use crate::wire::frame::{Ancestor, Hello, Sandbox, ToParent, ToWorker};
use crate::wire::payload::Payload;

/// How often a link's task goes round before it lets the runtime's other tasks have a turn.
const ROUNDS: usize = 16;

/// How often a worker is weighed at most. More often costs system calls, rarer lets it grow further.
const WEIGH: Duration = Duration::from_secs(1);

/// The life of one link.
pub(super) async fn run(mut fuse: Fuse) {
    let Some(worker) = fuse.worker else { return };
    let shared = Arc::clone(&fuse.shared);
    match launch(&shared, worker).await {
        Ok(mut session) => {
            poll_fn(|cx| session.poll(cx)).await;
            session.body.gone().await;
        }
        Err(refusal) => {
            let mut death = Death::default();
            if let Some(refusal) = refusal {
                (death.scarce, death.futile) = (refusal.scarce, refusal.futile);
                death.start = Some(refusal.error);
            }
            shared.with(|state, now| state.lost(now, worker, 0, Some(death)));
        }
    }
    fuse.done();
    shared.with(|state, _| state.left(worker));
}

/// Starts the worker and greets it. `Err(None)`: it was no longer wanted.
async fn launch(shared: &Arc<Shared>, worker: WorkerId) -> Result<Session, Option<Refusal>> {
    let state = Arc::clone(shared);
    let started = Box::new(move |control| state.with(|state, _| state.launched(worker, control)));
    let mut launching = pin!(shared.launcher.launch(worker, started));
    let launched = poll_fn(|cx| {
        if let Poll::Ready(launched) = launching.poll_unpin(cx) {
            return Poll::Ready(launched.map_err(Some));
        }
        shared.lock(|state| match state.port_mut(worker) {
            Some(port) if !port.doomed => {
                port.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(Err(None)),
        })
    });
    let Launched { socket, page, arena, body } = launched.await?;
    let socket = Socket::new(socket).map_err(|cause| {
        let message = format!("failed to watch a worker's socket: {cause}");
        Some(Refusal::new(Error::new(ErrorKind::Launch, message), &cause))
    })?;
    let nonce = nonce();
    let hello = ToWorker::Hello(hello(shared, worker, nonce));
    shared.with(|state, _| state.send(worker, &hello));
    Ok(Session {
        link: Link::new(socket, arena, shared.limits.message),
        shared: Arc::clone(shared),
        worker,
        body,
        page,
        nonce,
        batch: Vec::new(),
        receiving: true,
        sending: true,
        hung_up: false,
        weighed: None,
        alarm: None,
        tidied: None,
        awaits: false,
        spin: Spin::new(shared.spin.clone()),
    })
}

/// A link and its worker while they live. Dropped, it ends what is left of the worker.
struct Session {
    shared: Arc<Shared>,
    worker: WorkerId,
    link: Link<Socket>,
    page: Option<Page>,
    body: Body,
    nonce: [u8; 16],
    batch: Vec<Message<ToParent, Payload>>,
    receiving: bool,
    sending: bool,
    /// The link ended before the worker was doomed.
    hung_up: bool,
    /// When it was last looked how large the worker is.
    weighed: Option<Instant>,
    /// Wakes this task when the memory for bulk is to be tidied, and when that is.
    alarm: Option<Alarm>,
    tidied: Option<Instant>,
    /// Whether the worker has something to answer.
    awaits: bool,
    spin: Spin,
}

impl Session {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            let mut trouble = None;
            let mut received = false;
            if self.receiving
                && let Poll::Ready(result) = self.receive(cx)
            {
                received = true;
                self.receiving = matches!(result, Ok(true));
                trouble = result.err();
            }
            let exited = match self.body.poll_exited(cx) {
                Poll::Ready(exited) => Some(exited),
                Poll::Pending => None,
            };
            if exited.is_some() && trouble.is_none() {
                trouble = self.gather().err();
            }
            if !self.exchange(received, trouble, cx) {
                return Poll::Ready(());
            }
            if let Some(exited) = exited {
                self.lost(exited);
                return Poll::Ready(());
            }
            if received && self.shared.weighs {
                self.weigh();
            }
            let sent = self.send(cx);
            if self.sending && self.link.is_departing() || self.receiving && self.link.is_arriving() {
                // After each slice it is the others' turn.
                break;
            }
            if received || sent {
                self.spin.extend(received);
            } else if self.tidy(cx) {
                self.spin.again(self.awaits, cx);
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Receives once. What is waited for busily is also waited for as ever: whatever comes when that is over wakes this task.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Violation>> {
        let Self { link, batch, spin, awaits, .. } = self;
        if *awaits && let received @ Poll::Ready(_) = spin.look(|| link.receive_now(batch)) {
            return received;
        }
        self.link.poll_receive(cx, &mut self.batch)
    }

    /// Looks how large the worker has become, now that it has said something, unless that was done just now.
    fn weigh(&mut self) {
        let now = Instant::now();
        if self.weighed.is_some_and(|at| now.saturating_duration_since(at) < WEIGH) {
            return;
        }
        self.weighed = Some(now);
        let worker = self.worker;
        // What a file says is read when the lock is free.
        let pid = self.shared.lock(|state| state.port(worker).and_then(Port::pid));
        if let Some(bytes) = pid.and_then(resident) {
            self.shared.with(|state, now| state.handle(now, Input::Weighed { worker, bytes }));
        }
    }

    /// Gives back memory for bulk when there has been none for a while. Whether there is nothing to be sent for that.
    fn tidy(&mut self, cx: &Context<'_>) -> bool {
        if !self.link.is_untidy() {
            return true;
        }
        self.link.wake_with(cx.waker());
        let now = Instant::now();
        let due = self.tidied.map(|at| at <= now);
        if due == Some(false) {
            return true;
        }
        if !self.link.was_used() && due == Some(true) {
            self.tidied = None;
            self.link.tidy();
            return self.link.is_flushed();
        }
        self.tidied = Some(now + arena::IDLE);
        // Without an alarm, which is not to be had without a thread, memory is kept until there is bulk again.
        let alarm = self.alarm.take().or_else(|| Alarm::new().ok());
        if let Some(alarm) = &alarm {
            alarm.set(now + arena::IDLE, cx.waker());
        }
        self.alarm = alarm;
        true
    }

    /// Gathers what a dead worker has left behind: in the link, and said but not written. Only the tasks that it died over
    /// are lost with it, not those that it had finished.
    fn gather(&mut self) -> Result<(), Violation> {
        if self.receiving {
            self.link.drain(&mut self.batch)?;
        }
        match &self.page {
            Some(page) => self.link.recover(|received| page.kept(received), &mut self.batch),
            None => Ok(()),
        }
    }

    /// One turn under the lock: in with what was received, out with what is to be sent. `false` when the worker has been
    /// given up.
    fn exchange(&mut self, received: bool, trouble: Option<Violation>, cx: &Context<'_>) -> bool {
        let Self { shared, worker, link, nonce, batch, receiving, sending, hung_up, awaits, .. } = self;
        let worker = *worker;
        // Dropped when the lock is free.
        let mut unsent = Outbox::default();
        let goes_on = shared.with(|state, now| {
            if !batch.is_empty() {
                let now = state.punctual(now);
                for Message { frame, body } in batch.drain(..) {
                    state.receive(now, worker, nonce, frame, body);
                }
                state.conclude();
            }
            match trouble {
                Some(violation) => state.violated(now, worker, violation.to_string()),
                None if received && !*receiving => {
                    *hung_up |= state.port(worker).is_some_and(|port| !port.doomed);
                    state.handle(now, Input::HungUp { worker });
                }
                None => {}
            }
            let Some(port) = state.port_mut(worker) else { return false };
            if !*sending {
                unsent = std::mem::take(&mut port.outbox);
            } else if link.is_flushed() {
                link.load(&mut port.outbox);
                port.loaded();
            }
            port.waker = Some(cx.waker().clone());
            port.woken = None;
            *awaits = port.awaits();
            true
        });
        drop(unsent);
        goes_on
    }

    /// Writes what there is. Whether everything was written and there may be more.
    fn send(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.sending || self.link.is_flushed() {
            return false;
        }
        match self.link.poll_send(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => {
                // Mostly it is dead or dying, and its process will say so. What it wrote before is still received.
                self.sending = false;
                if !link::is_gone(&error) {
                    let fault = format!("nothing can be sent to it any more ({error})");
                    self.shared.with(|state, now| state.violated(now, self.worker, fault));
                }
                false
            }
            Poll::Pending => false,
        }
    }

    fn lost(&mut self, exited: Exited) {
        let begun = self.page.as_ref().map_or(u64::MAX, |page| page.begun().load(Ordering::Acquire));
        let death = Death {
            exit: Some(exited.exit),
            pid: self.body.pid(),
            stderr: self.body.last_words(),
            words: self.body.words(),
            peak: exited.peak_kib.map(|kib| kib << 10),
            oom_kills: exited.oom_kills,
            stray: self.link.stray(),
            hung_up: self.hung_up,
            ..Death::default()
        };
        self.shared.with(|state, now| state.lost(now, self.worker, begun, Some(death)));
    }
}

fn hello(shared: &Shared, worker: WorkerId, nonce: [u8; 16]) -> Hello {
    let pid = std::process::id();
    let myself = start_time(pid).map(|start| Ancestor { pid, start });
    let above = shared.uplink.as_ref().map(|uplink| uplink.hello());
    Hello {
        version: wire::VERSION,
        worker,
        nonce,
        ancestors: myself
            .into_iter()
            .chain(above.into_iter().flat_map(|above| above.ancestors.clone()))
            .collect(),
        depth: above.map_or(1, |above| above.depth.saturating_add(1)),
        tree: shared.tree.clone(),
        limits: shared.limits,
        sandbox: Sandbox::Contain,
        log: 0,
        looks: shared.spin.is_some(),
    }
}

/// Sixteen bytes that nobody can guess by accident: the standard library seeds its hashers from the system.
fn nonce() -> [u8; 16] {
    let word = || RandomState::new().build_hasher().finish();
    (u128::from(word()) << 64 | u128::from(word())).to_le_bytes()
}
