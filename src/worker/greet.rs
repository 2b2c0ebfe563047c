//! What a worker hears before it is one: the magic, the shared page that travels with it, and `Hello`. It blocks, and ends
//! before there is a second thread; it does not answer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::BytesMut;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio_util::codec::Decoder;

use super::leave;
use crate::arena::Arena;
use crate::sys::memory::Page;
use crate::sys::{buffer, socket};
use crate::wire::codec::{Codec, Violation, excerpt};
use crate::wire::frame::{Hello, ToWorker};
use crate::wire::{TO_WORKER_MAGIC, VERSION};

/// The largest first message. A greeting has some hundred bytes; a longer one is something else.
const LIMIT: u32 = 64 << 10;

/// The least that `Hello` may allow for a message: room for an answer that explains why there is no other.
const LEAST_LIMIT: u32 = 4 << 10;

/// What the parent said first.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) hello: Hello,
    pub(super) page: Option<Page>,
    /// The memory for bulk, if the parent shares some.
    pub(super) arena: Option<Arc<Arena>>,
    /// What was read behind `Hello`.
    pub(super) rest: BytesMut,
}

/// Why there is no greeting.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Nobody is there, or no longer.
    #[error("its standard input ended")]
    Closed,
    #[error("its standard input begins with {0}")]
    Stranger(String),
    #[error("{0}")]
    Misunderstood(String),
    #[error(
        "the parent speaks version {0} of the protocol and this program version {VERSION}; build both with the same version \
         of procpool"
    )]
    OtherVersion(u16),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            // A parent that closes with something unread, or dies, is heard as a reset.
            Some(Errno::ECONNRESET) => Self::Closed,
            _ => Self::Misunderstood(format!("its standard input can't be read ({error})")),
        }
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Self::Misunderstood(format!("the parent can't be understood: {violation}"))
    }
}

/// Reads the greeting. When `parent` ends meanwhile, so does this process.
///
/// # Errors
///
/// [`Refusal`], which says what came instead.
pub(super) fn receive(input: BorrowedFd<'_>, parent: Option<BorrowedFd<'_>>) -> Result<Greeting, Refusal> {
    let memory = magic(input, parent)?;
    let page = match memory.as_ref().map(Page::map).transpose() {
        Ok(page) => page,
        Err(error) => {
            return Err(Refusal::Misunderstood(format!("the shared page can't be mapped ({error})")));
        }
    };
    // Without it bulk goes through the link. The parent is told.
    let arena = memory.and_then(|memory| Arena::worker(memory).ok()).map(Arc::new);
    let (mut codec, mut rest) = (Codec::<ToWorker>::new(LIMIT), BytesMut::new());
    loop {
        if let Some(version) = version(&rest).filter(|version| *version != VERSION) {
            return Err(Refusal::OtherVersion(version));
        }
        match codec.decode(&mut rest)?.map(|message| message.frame) {
            None => {}
            Some(ToWorker::Hello(hello)) if hello.limits.message < LEAST_LIMIT => {
                let limit = hello.limits.message;
                return Err(Refusal::Misunderstood(format!("a message limit of {limit} bytes is too small")));
            }
            Some(ToWorker::Hello(hello)) => return Ok(Greeting { hello, page, arena, rest }),
            Some(frame) => {
                return Err(Refusal::Misunderstood(format!(
                    "the parent began with {frame:?} instead of a greeting"
                )));
            }
        }
        wait(input, parent)?;
        if again(buffer::read(input, &mut rest, LIMIT as usize))? == Some(0) {
            return Err(Refusal::Closed);
        }
    }
}

/// Reads the magic and not a byte more, and gives back the descriptor that came with it.
fn magic(input: BorrowedFd<'_>, parent: Option<BorrowedFd<'_>>) -> Result<Option<OwnedFd>, Refusal> {
    let mut bytes = [0; TO_WORKER_MAGIC.len()];
    let (mut filled, mut memory) = (0, None);
    while filled < bytes.len() {
        wait(input, parent)?;
        let received = match socket::receive_with(input, &mut bytes[filled..]) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => {
                nix::unistd::read(input, &mut bytes[filled..]).map(|n| (n, None)).map_err(io::Error::from)
            }
            received => received,
        };
        match again(received)? {
            None => {}
            Some((0, _)) => return Err(Refusal::Closed),
            Some((n, fd)) => {
                filled += n;
                memory = memory.or(fd);
            }
        }
        if !TO_WORKER_MAGIC.starts_with(&bytes[..filled]) {
            return Err(Refusal::Stranger(excerpt(&bytes[..filled])));
        }
    }
    Ok(memory)
}

/// The version that a greeting states: its first field, readable whatever the other version's greeting looks like.
fn version(bytes: &[u8]) -> Option<u16> {
    const PREFIX: usize = size_of::<u32>();
    const HELLO: u8 = 0;

    let (tag, rest) = bytes.get(PREFIX..)?.split_first()?;
    let (version, _) = postcard::take_from_bytes(rest).ok()?;
    (*tag == HELLO).then_some(version)
}

/// Waits for something to read. The end of the parent counts even if someone else holds its end of the link open.
fn wait(input: BorrowedFd<'_>, parent: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut ready = vec![PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    ready.extend(parent.map(|parent| PollFd::new(parent, PollFlags::POLLIN)));
    match poll(&mut ready, PollTimeout::NONE) {
        Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
        Ok(_) if ready.get(1).is_some_and(|parent| parent.any() == Some(true)) => leave::die(),
        Ok(_) => Ok(()),
    }
}

/// Interrupted, or nothing there after all: not an error, come again.
fn again<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::wire::frame::ToWorker;
    use crate::worker::tests::parent::hello;

    fn said(bytes: &[u8]) -> Result<Greeting, Refusal> {
        let (mut parent, worker) = UnixStream::pair().unwrap();
        parent.write_all(bytes).unwrap();
        drop(parent);
        receive(worker.as_fd(), None)
    }

    fn framed(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        [&TO_WORKER_MAGIC, &length[..], payload].concat()
    }

    #[test]
    fn a_greeting_is_read_and_what_follows_is_kept() {
        let frame = postcard::to_stdvec(&ToWorker::Hello(hello(vec![]))).unwrap();
        let greeting = said(&[&framed(&frame), &b"next"[..]].concat()).unwrap();
        assert_eq!((greeting.hello, &greeting.rest[..]), (hello(vec![]), &b"next"[..]));
    }

    #[test]
    fn whatever_is_no_greeting_is_refused_and_the_refusal_shows_it() {
        assert_eq!(said(b"").unwrap_err(), Refusal::Closed);
        assert_eq!(said(&TO_WORKER_MAGIC).unwrap_err(), Refusal::Closed);
        assert_eq!(said(b"hi\n").unwrap_err(), Refusal::Stranger("\"hi\\n\"".into()));
        let ping = postcard::to_stdvec(&ToWorker::Ping { nonce: 1 }).unwrap();
        assert!(said(&framed(&ping)).unwrap_err().to_string().contains("Ping"));
        assert!(matches!(said(&framed(&[255; 20])), Err(Refusal::Misunderstood(_))));
    }

    #[test]
    fn another_version_is_named_even_if_its_greeting_has_another_shape() {
        let refusal = said(&framed(&[0, 77, 1, 2, 3])).unwrap_err().to_string();
        assert!(
            refusal.contains("version 77") && refusal.contains(&format!("version {VERSION}")),
            "{refusal}"
        );
    }
}
