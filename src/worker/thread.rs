//! A worker that is a thread of its pool's own process. It hears and says what a process would from `Hello` on; what concerns
//! a process as a whole, its standard input and output, signals, group and parent, is none of its business.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::greet::{self, Refusal};
use super::io::Shared;
use super::leave::Way;
use super::watch::Lives;
use super::{Worker, init, prepare, stdio, turn};
use crate::uplink::Kin;

thread_local! {
    static IS_ONE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is a worker.
pub(super) fn is_one() -> bool {
    IS_ONE.get()
}

/// Becomes a worker for as long as its end of the link is open and its parent wants it. `kin` starts others like it.
///
/// # Errors
///
/// Why it left before it was told to.
pub(crate) fn run(declare: impl FnOnce() -> Worker, kin: Kin, link: Arc<OwnedFd>) -> Result<(), String> {
    IS_ONE.set(true);
    turn::note_panics();
    let worker = turn::guard(declare)
        .map_err(|panic| format!("the worker was not declared: {}", prepare::reason(panic)))?;
    let greeting = match greet::receive(link.as_fd(), None) {
        Ok(greeting) => greeting,
        Err(Refusal::Closed) => return Ok(()),
        Err(refusal) => return Err(refusal.to_string()),
    };
    serve(worker, kin, link, greeting)
        .map_err(|error| format!("failed to serve ({error})"))?
        .map_or(Ok(()), Err)
}

/// Everything from `Hello` to `Bye`; why it did not come to that.
fn serve(
    worker: Worker,
    kin: Kin,
    link: Arc<OwnedFd>,
    greeting: greet::Greeting,
) -> io::Result<Option<String>> {
    let output = link.as_fd().try_clone_to_owned()?.into();
    let ends = stdio::Ends { input: Arc::clone(&link), output };
    let (shared, hello) = init::share(ends, greeting, Way::Thread { link, words: None })?;
    let _ending = Ending(&shared);
    init::attend(&shared, worker, hello, Lives::default(), Vec::new(), Some(kin))?;
    Ok(shared.lock().way.words())
}

/// Ends the watcher with its worker, and takes out the waker that is left: it holds the runtime, whose hooks hold this.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let _waker = self.0.lock().call_reader();
        self.0.pulse.end();
    }
}
