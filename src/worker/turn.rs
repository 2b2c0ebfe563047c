//! One task from its bytes to its answer. User code runs here and nowhere else in the worker, and whatever it panics with
//! ends here; when it is to stop is decided by the caller.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::task::{Context as Wake, Poll};

use super::flow::Flow;
use crate::context::Ticket;
use crate::emit::Outlet;
use crate::task::{Running, Table};
use crate::wire::frame::Verdict;
use crate::wire::payload::{Gather, Lent};

/// How much of a panic's message is passed on. The rest is on standard error.
const MESSAGE: usize = 2 << 10;

thread_local! {
    /// Where this thread has panicked last.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Has every panic of this process leave its place behind, ahead of what the hook in force does with it.
pub(super) fn note_panics() {
    static NOTED: Once = Once::new();
    NOTED.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // A thread that is going down has no place to keep it.
            let _ = PLACE.try_with(|place| place.set(info.location().map(ToString::to_string)));
            next(info);
        }));
    });
}

/// What has come of a task: the verdict, if that is not [`Returned`](Verdict::Returned). In a box, which is one word, because it
/// is handed on several times per task, and copying what was only just written is slow.
pub(super) type Outcome = Result<(), Box<Verdict>>;

/// A task that runs, or has, or will: it can be started again when one has ended.
#[derive(Default)]
pub(super) struct Turn {
    running: Option<Running>,
    /// Its account, if it is a stream.
    flow: Option<Arc<Flow>>,
}

impl Turn {
    /// Decodes the input. A stream is given an account.
    ///
    /// # Errors
    ///
    /// The verdict, if that is all that comes of it.
    pub(super) fn start(
        &mut self,
        table: &Table,
        index: u32,
        input: &Lent<'_>,
        ticket: Ticket<'_>,
        open: impl FnOnce() -> Arc<Flow>,
    ) -> Outcome {
        PLACE.set(None);
        let flow = &mut self.flow;
        let outlet = || -> Arc<dyn Outlet> { Arc::<Flow>::clone(flow.insert(open())) };
        let verdict = match guard(|| table.start(index, input, ticket, outlet)) {
            Ok(Some(Ok(running))) => {
                self.running = Some(running);
                return Ok(());
            }
            Ok(Some(Err(error))) => Box::new(Verdict::BadInput { reason: error.to_string() }),
            Ok(None) => Box::new(Verdict::UnknownTask),
            Err(panicked) => panicked,
        };
        self.end(Err(verdict))
    }

    /// Runs the task to its next await. When it returns, its output is appended to `out`.
    pub(super) fn poll(&mut self, cx: &mut Wake<'_>, out: &mut Gather) -> Poll<Outcome> {
        let Some(running) = &mut self.running else {
            return Poll::Ready(Err(cancelled()));
        };
        if let Some(flow) = &self.flow {
            flow.polled(true);
        }
        let polled = guard(|| running.as_mut().poll(cx, out));
        let failure = self.flow.as_ref().and_then(|flow| {
            flow.polled(false);
            flow.failure()
        });
        let outcome = match polled {
            Ok(Poll::Pending) => match failure {
                Some(failure) => Err(Box::new(failure)),
                None => return Poll::Pending,
            },
            Ok(Poll::Ready(Ok(()))) => Ok(()),
            Ok(Poll::Ready(Err(error))) => Err(Box::new(Verdict::BadOutput { reason: error.to_string() })),
            Err(panicked) => Err(panicked),
        };
        Poll::Ready(self.end(outcome))
    }

    /// Drops the task at its await.
    pub(super) fn stop(&mut self) -> Outcome {
        self.end(Err(cancelled()))
    }

    /// Drops what is left of the task. If that panics, and nothing has before, it is what came of it.
    fn end(&mut self, outcome: Outcome) -> Outcome {
        let running = self.running.take();
        let outcome = match guard(|| drop(running)) {
            Err(panicked) if !has_panicked(&outcome) => Err(panicked),
            _ => outcome,
        };
        match self.flow.take() {
            Some(flow) => flow.end(outcome),
            None => outcome,
        }
    }
}

/// As the link says it.
pub(super) fn verdict(outcome: Outcome) -> Verdict {
    outcome.map_or_else(|verdict| *verdict, |()| Verdict::Returned)
}

fn cancelled() -> Box<Verdict> {
    Box::new(Verdict::Cancelled { began: true })
}

fn has_panicked(outcome: &Outcome) -> bool {
    outcome.as_ref().is_err_and(|verdict| matches!(**verdict, Verdict::Panicked { .. }))
}

/// Runs user code.
///
/// Nothing that it may have left half-changed is looked at after a panic: the task is dropped.
pub(super) fn guard<T>(code: impl FnOnce() -> T) -> Result<T, Box<Verdict>> {
    catch_unwind(AssertUnwindSafe(code)).map_err(panicked)
}

#[cold]
fn panicked(payload: Box<dyn Any + Send>) -> Box<Verdict> {
    let (message, location) = (clip(&text(&*payload)), PLACE.take());
    // A payload can be anything, and panic in its turn when it is dropped.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(payload);
    }
    Box::new(Verdict::Panicked { message, location })
}

fn text(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a value that is not text".to_owned(),
    }
}

fn clip(text: &str) -> String {
    if text.len() <= MESSAGE {
        return text.to_owned();
    }
    let end = (0..=MESSAGE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}
