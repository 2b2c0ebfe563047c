//! Builds the states that tasks share, between `Ready` and `Open`, and takes them down at a clean end. Meanwhile the link is
//! served: by the main thread while they await, by the watcher while they block.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::runtime::Runtime;

use super::io::Shared;
use super::leave;
use super::reader::Reader;
use super::turn::guard;
use crate::state::{Building, Init, Inits, States, Value};
use crate::wire::frame::Verdict;

/// Builds the states one after the other. A worker that lacks one is of no use: it leaves, with the reason, and a thread
/// takes along those that it has built.
pub(super) async fn build(shared: &Shared, reader: &mut Reader, inits: Inits) -> States {
    let mut states = States::default();
    for Init { name, start, .. } in inits {
        let built = match guard(start) {
            Ok(building) => drive(shared, reader, building).await,
            Err(verdict) => Err(reason(verdict)),
        };
        match built {
            Ok(state) => states.push(state),
            Err(reason) => {
                // One line, or the last of them would be all that a short report shows.
                let reason = reason.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
                shared.fail(leave::UNPREPARED, &format!("state {name} was not initialised: {reason}"));
                break;
            }
        }
    }
    states
}

async fn drive(shared: &Shared, reader: &mut Reader, mut building: Building) -> Result<Value, String> {
    let built = poll_fn(|cx| {
        shared.pulse.beat();
        match guard(|| building.as_mut().poll(cx)) {
            Ok(Poll::Ready(built)) => Poll::Ready(built),
            Ok(Poll::Pending) => {
                // Tasks that come before `Open` wait in the queue; all else is answered.
                let _ = reader.poll(cx, |_| false);
                if shared.lock().is_gone() {
                    return Poll::Ready(Err("nobody waits for it any more".to_owned()));
                }
                Poll::Pending
            }
            Err(verdict) => Poll::Ready(Err(reason(verdict))),
        }
    })
    .await;
    guard(|| drop(building)).map_err(reason).and(built)
}

/// What user code panicked with.
#[expect(clippy::boxed_local, reason = "it comes in a box")]
pub(super) fn reason(verdict: Box<Verdict>) -> String {
    match *verdict {
        Verdict::Panicked { message, location: Some(place) } => format!("it panicked at {place}: {message}"),
        Verdict::Panicked { message, location: None } => format!("it panicked: {message}"),
        _ => "it did not end".to_owned(),
    }
}

/// Ends the runtime, and with it what tasks have left behind there, then drops the states, the last one first. Those whose
/// context a thread still holds are not dropped.
///
/// The parent has `Bye` and waits for the exit.
pub(super) fn finish(runtime: Runtime, states: Arc<States>) {
    let handle = runtime.handle().clone();
    drop(runtime);
    // Some types want to be dropped where there is a runtime, even if nothing runs there any more.
    let _entered = handle.enter();
    let Some(mut states) = Arc::into_inner(states) else { return };
    while let Some(state) = states.pop() {
        // What it panics with is on standard error; the others are dropped all the same.
        let _ = guard(|| drop(state));
    }
}
