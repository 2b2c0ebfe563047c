//! Looking for the next task before the main thread sleeps until it comes, in pools with low latency. What comes is read and
//! understood as ever; the main thread asks for it as ever, too.

use std::thread::{available_parallelism, yield_now};
use std::time::Instant;

use super::io::Io;
use super::reader::Reader;
use crate::vigil::{LOOKS, Rest, SPIN, Vigil};

/// How often they may until the runtime has its turn: about 8 us, which what tasks have spawned there can wait.
const TURN: u32 = 8;

/// The main thread's part in it.
#[derive(Debug)]
pub(super) struct Lookout {
    vigil: Vigil,
    rest: Rest,
    /// When the waiting began.
    since: Instant,
}

impl Lookout {
    /// `None` where there is one processor: whoever else looks, or has something to say, needs it.
    pub(super) fn new() -> Option<Self> {
        let several = available_parallelism().is_ok_and(|processors| processors.get() > 1);
        several.then(|| Self { vigil: Vigil::default(), rest: Rest::default(), since: Instant::now() })
    }

    /// Looks until there is something to do, or it is not worth it.
    pub(super) async fn look(&mut self, reader: &mut Reader) {
        let Self { vigil, rest, since } = self;
        let mut now = Instant::now();
        *since = now;
        if !vigil.pays() || rest.is_on(now) {
            return;
        }
        for n in 1.. {
            if (0..LOOKS).any(|_| reader.look(Io::has_work)) {
                return;
            }
            yield_now();
            let gave = std::mem::replace(&mut now, Instant::now());
            if !rest.is_back(gave, now) || now - *since > SPIN {
                return;
            }
            if n % TURN == 0 {
                tokio::task::yield_now().await;
                now = Instant::now();
            }
        }
    }

    /// There is something to do.
    pub(super) fn came(&mut self, now: Instant) {
        self.vigil.came(now - self.since);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Waker};

    use bytes::BytesMut;

    use super::*;
    use crate::wire::frame::{Limits, ToWorker};
    use crate::worker::io::{Next, Shared};
    use crate::worker::leave::Way;
    use crate::worker::stdio::Ends;
    use crate::worker::tests::parent::encode;

    /// For a test that looks, in a runtime of its own.
    fn on_a_link<F: Future<Output = ()>>(test: impl FnOnce(Lookout, Reader, Arc<Shared>, UnixStream) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (parent, worker) = UnixStream::pair().unwrap();
            worker.set_nonblocking(true).unwrap();
            let end = Arc::new(OwnedFd::from(worker));
            let ends = Ends { input: Arc::clone(&end), output: end };
            let limits = Limits { message: 1 << 20, slots: 1 };
            let shared = Shared::new(ends, None, None, limits, BytesMut::new(), Way::Process).unwrap();
            let shared = Arc::new(shared);
            let reader = Reader::new(&shared).unwrap();
            let lookout = Lookout { vigil: Vigil::default(), rest: Rest::default(), since: Instant::now() };
            test(lookout, reader, shared, parent).await;
        });
    }

    #[test]
    fn what_was_sent_is_found_before_the_runtime_has_heard_of_it() {
        on_a_link(|mut lookout, mut reader, shared, mut parent| async move {
            parent.write_all(&encode(ToWorker::Drain)).unwrap();
            let mut looking = pin!(lookout.look(&mut reader));
            assert!(looking.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
            assert!(matches!(shared.begin(0), Next::Leave));
        });
    }

    #[test]
    fn what_tasks_have_spawned_has_its_turn_while_nothing_is_found() {
        on_a_link(|mut lookout, mut reader, _shared, parent| async move {
            // Its end would be this process's.
            let _parent = parent;
            let (done, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
            let mark = Arc::clone(&done);
            tokio::spawn(async move { mark.store(true, Ordering::Relaxed) });
            while !done.load(Ordering::Relaxed) {
                assert!(begun.elapsed().as_secs() < 20, "it has no turn");
                lookout.look(&mut reader).await;
            }
        });
    }
}
