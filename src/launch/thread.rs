//! A worker that is a thread of this process: started, told to end, seen to end. It does not know what the thread does and
//! cannot make it end: one that does not look at its link lives on, though nobody waits for it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;

use futures::channel::oneshot;
use nix::sys::socket::{Shutdown, shutdown};
use tokio_util::sync::CancellationToken;

use super::body::Body;
use super::process::Exited;
use super::{Launched, local};
use crate::error::Exit;
use crate::sys::socket;

/// As large as the stack of a process's main thread usually is: user code runs on it.
const STACK: usize = 8 << 20;

/// A worker's thread. Dropping it closes the worker's link.
#[derive(Debug)]
#[must_use = "dropping it ends the worker"]
pub(crate) struct Thread {
    control: Control,
    fate: Fate,
    gone: CancellationToken,
}

#[derive(Debug)]
enum Fate {
    Open(oneshot::Receiver<String>),
    /// It has ended, and said why if it was not told to.
    Known(String),
}

/// Ends a worker's thread, if that listens.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    /// The worker's end of the link.
    link: Arc<OwnedFd>,
}

/// Starts a thread that has `run` speak for the worker at its end of a new link, greeted like that of a process.
///
/// # Errors
///
/// What the kernel says when there is no descriptor or no thread left.
pub(crate) fn start(
    run: impl FnOnce(Arc<OwnedFd>) -> Result<(), String> + Send + 'static,
) -> io::Result<Launched> {
    let (ours, theirs) = socket::pair()?;
    let (page, arena) = local::greet(&ours, 0, false)?;
    let ours = UnixStream::from(ours);
    ours.set_nonblocking(true)?;
    let link = Arc::new(theirs);
    let control = Control { link: Arc::clone(&link) };
    let (ended, fate) = oneshot::channel();
    let gone = CancellationToken::new();
    let guard = gone.clone().drop_guard();
    // Fifteen characters are all that a name can have.
    thread::Builder::new().name("procpool-worker".into()).stack_size(STACK).spawn(move || {
        // The last thing that it does, whatever becomes of `run`.
        let _guard = guard;
        let _ = ended.send(run(link).err().unwrap_or_default());
    })?;
    let thread = Thread { control, fate: Fate::Open(fate), gone };
    Ok(Launched { socket: ours.into(), page, arena, body: Body::Thread(thread) })
}

impl Thread {
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    /// Closes the worker's link and resolves when its thread has ended.
    pub(crate) async fn gone(&self) {
        self.control.cut();
        self.gone.cancelled().await;
    }

    /// Resolves when the thread has ended; from then on always.
    pub(crate) fn poll_exited(&mut self, cx: &mut Context<'_>) -> Poll<Exited> {
        if let Fate::Open(fate) = &mut self.fate {
            let Poll::Ready(words) = Pin::new(fate).poll(cx) else { return Poll::Pending };
            self.fate = Fate::Known(words.unwrap_or_else(|_| "its thread has panicked".to_owned()));
        }
        Poll::Ready(Exited { exit: Exit::Thread, peak_kib: None, oom_kills: 0 })
    }

    /// Why it has ended, if it was not told to.
    pub(crate) fn words(&self) -> &str {
        match &self.fate {
            Fate::Open(_) => "",
            Fate::Known(words) => words,
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.control.cut();
    }
}

impl Control {
    /// Has the worker find the end of its link, behind what it was sent. What it still says is heard.
    pub(crate) fn hang_up(&self) {
        self.close(Shutdown::Read);
    }

    /// Closes the worker's end: nor does it say anything any more.
    pub(crate) fn cut(&self) {
        self.close(Shutdown::Both);
    }

    fn close(&self, how: Shutdown) {
        // Fails only if our end is closed already.
        let _ = shutdown(self.link.as_raw_fd(), how);
    }
}
