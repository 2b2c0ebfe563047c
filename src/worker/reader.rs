//! The main thread's way of waiting: for something to read, or for room to write. It decides nothing; what it waits for is
//! asked by whoever polls it.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::poll_fn;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::unconstrained;

use super::effects::Effects;
use super::io::{Io, Shared};
use super::leave;
use crate::sys::ready;

/// Reads the link and writes it, as long as its turn is polled.
///
/// The input is registered for reading only, and the output, which is another descriptor, for writing only while it is
/// full: on a socket pair every read by the parent would else wake this thread.
pub(super) struct Reader {
    shared: Arc<Shared>,
    input: AsyncFd<Arc<OwnedFd>>,
    output: Option<AsyncFd<Arc<OwnedFd>>>,
}

impl Reader {
    /// # Errors
    ///
    /// When the link can't be waited for, because it is a regular file for example.
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        let input = ready::watch(Arc::clone(&shared.ends.input), Interest::READABLE)?;
        Ok(Self { shared: Arc::clone(shared), input, output: None })
    }

    /// Writes and reads until `enough` says so (`Ready`) or there is nothing to be read (`Pending`).
    ///
    /// After `Pending` the thread is woken by whatever comes next, read by itself or by the watcher in its place.
    ///
    /// A task that is polled beside this may have spent the runtime's budget for cooperation, poll after poll. The link is
    /// read all the same: who does not hear the parent is taken for dead.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, enough: impl Fn(&Io) -> bool) -> Poll<()> {
        let mut served = pin!(unconstrained(poll_fn(|cx| self.serve(cx, &enough))));
        served.as_mut().poll(cx)
    }

    /// Writes and reads once, whatever the runtime has heard of, and says whether that is `enough`. It wakes nobody later.
    pub(super) fn look(&mut self, enough: impl Fn(&Io) -> bool) -> bool {
        let effects = {
            let mut io = self.shared.claim();
            self.shared.flush(&mut io);
            if enough(&io) {
                return true;
            }
            self.shared.read(&mut io)
        };
        effects.map(Effects::perform).is_some() && enough(&self.shared.lock())
    }

    fn serve(&mut self, cx: &mut Context<'_>, enough: &impl Fn(&Io) -> bool) -> Poll<()> {
        loop {
            let full = {
                let mut io = self.shared.claim();
                self.shared.flush(&mut io);
                if enough(&io) {
                    return Poll::Ready(());
                }
                if io.is_gone() {
                    // Nothing more will come, and a closed socket always looks as if something had.
                    return Poll::Pending;
                }
                io.wake_with(cx.waker());
                io.has_output()
            };
            if full && self.poll_output(cx).is_ready() {
                continue;
            }
            match self.input.poll_read_ready(cx) {
                Poll::Pending => {
                    self.shared.depot.await_drops(cx.waker());
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => {
                    self.failed(&error);
                    // The end that is asked for next time.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(mut guard)) => {
                    let effects = self.shared.read(&mut self.shared.claim());
                    match effects {
                        Some(effects) => effects.perform(),
                        // Only now: after a short read there may be more that raises no new edge.
                        None => guard.clear_ready(),
                    }
                }
            }
        }
    }

    /// Waits for room; `Ready` when something could be written.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let output = match self.output.take() {
            Some(output) => output,
            None => match ready::watch(Arc::clone(&self.shared.ends.output), Interest::WRITABLE) {
                Ok(output) => output,
                Err(error) => {
                    self.failed(&error);
                    return Poll::Ready(());
                }
            },
        };
        loop {
            match output.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => {
                    self.failed(&error);
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(mut guard)) => {
                    let mut io = self.shared.claim();
                    self.shared.flush(&mut io);
                    if !io.has_output() {
                        return Poll::Ready(());
                    }
                    guard.clear_ready();
                }
            }
        }
        self.output = Some(output);
        Poll::Pending
    }

    fn failed(&self, error: &io::Error) {
        self.shared.fail(leave::UNFIT, &format!("the link to the parent can't be waited for ({error})"));
    }
}
