//! A stream task's way out: encodes items and hands them on, waiting for credit where it has to. Where they go, and when
//! there is credit, is not known here.

use std::cell::Cell;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use futures::Sink;
use serde::Serialize;

use crate::error::Error;
use crate::wire::KEPT;
use crate::wire::codec::Unsendable;
use crate::wire::payload::{Gather, Payload};

thread_local! {
    /// Where items are encoded. Not under anybody's lock: encoding is user code.
    static SCRATCH: Cell<Gather> = Cell::default();
}

/// Where a [`StreamTask`](crate::StreamTask) puts its items.
///
/// A stream has credit: a producer may be ahead of its consumer by 64 items at first, by up to 1 024 when they are read
/// fast, and by 4 MiB of large ones. When that is used up, sending waits until the consumer has read. So a slow consumer
/// costs little memory, and stops its own producer and nobody else.
///
/// An item is on its way when a send has returned; it is written at once or, if more follow, soon: within some ten
/// milliseconds where the task computes without a pause.
/// Sending fails when the task is to stop, because its consumer is gone or its time is over, and when an item cannot be
/// encoded or is larger than a message may be: then the whole stream fails with that, whatever the task does next.
///
/// Clones send into the same stream, from wherever they are: other tasks of the runtime, other threads. The stream ends
/// when the task's `run` returns; what clones send after that is refused.
///
/// As a [`Sink`] it holds back one item until there is credit: flush it, or send the next one, to be sure of it.
pub struct Emitter<I> {
    outlet: Arc<dyn Outlet>,
    /// An item that was taken as a sink and could not be handed on yet.
    held: Option<Payload>,
    items: PhantomData<fn(I)>,
}

/// An encoded item: few bytes, which are copied, or as it is.
#[derive(Clone, Copy)]
pub(crate) enum Encoded<'a> {
    Small(&'a [u8]),
    Large(&'a Payload),
}

impl Encoded<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Small(bytes) => bytes.len(),
            Self::Large(payload) => payload.len(),
        }
    }
}

impl<'a> From<&'a Payload> for Encoded<'a> {
    fn from(payload: &'a Payload) -> Self {
        payload.small().map_or(Self::Large(payload), Self::Small)
    }
}

/// Where encoded items go.
pub(crate) trait Outlet: Send + Sync {
    /// Takes an item. `false`: there is no credit for it; the waker, if there is one, is woken when there may be.
    ///
    /// # Errors
    ///
    /// When the task is to stop or over, or the item cannot be sent.
    fn put(&self, item: Encoded<'_>, waker: Option<&Waker>) -> Result<bool, Error>;

    /// Blocks this thread until there may be credit, or there is an error to be had.
    fn wait(&self);

    /// An item could not be encoded: the stream has failed. What the caller is told.
    fn fail(&self, reason: Unsendable) -> Error;
}

impl<I> Emitter<I> {
    pub(crate) fn new(outlet: Arc<dyn Outlet>) -> Self {
        Self { outlet, held: None, items: PhantomData }
    }

    fn poll_put(&self, item: &Payload, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        match self.outlet.put(item.into(), Some(cx.waker())) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Hands on what is held back.
    fn poll_held(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let Some(item) = &self.held else { return Poll::Ready(Ok(())) };
        let put = ready!(self.poll_put(item, cx));
        self.held = None;
        Poll::Ready(put)
    }
}

impl<I: Serialize> Emitter<I> {
    /// Sends an item, as soon as there is credit for it.
    ///
    /// # Errors
    ///
    /// [`Cancelled`](crate::ErrorKind::Cancelled) when the task is to stop: clean up and return. [`Codec`](crate::ErrorKind::Codec)
    /// and [`LimitExceeded`](crate::ErrorKind::LimitExceeded) when the item cannot be encoded or is too large.
    ///
    /// # Cancel safety
    ///
    /// An item whose `send` is dropped before it has returned is not sent.
    ///
    /// ```
    /// use procpool::{Context, Emitter, StreamTask};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Count(u64);
    ///
    /// impl StreamTask for Count {
    ///     const NAME: &'static str = "count";
    ///     type Item = u64;
    ///
    ///     async fn run(self, _cx: Context, out: Emitter<u64>) {
    ///         for n in 0..self.0 {
    ///             if out.send(n).await.is_err() {
    ///                 return; // Nobody is there to read it.
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    pub async fn send(&self, item: I) -> Result<(), Error> {
        match self.offer(item)? {
            None => Ok(()),
            Some(item) => poll_fn(|cx| self.poll_put(&item, cx)).await,
        }
    }

    /// As [`send`](Self::send), for code that blocks its thread. The consumer, cancellation and limits are heard meanwhile.
    ///
    /// Called on the worker's main thread, where `run` is, it blocks everything else there.
    ///
    /// ```
    /// # use procpool::{Context, Emitter, StreamTask};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Serialize, Deserialize)]
    /// struct Primes;
    ///
    /// impl StreamTask for Primes {
    ///     const NAME: &'static str = "primes";
    ///     type Item = u64;
    ///
    ///     async fn run(self, _cx: Context, out: Emitter<u64>) {
    ///         for n in 2_u64.. {
    ///             // A computation, which has nothing to await; it ends when nobody reads on.
    ///             if (2..n).all(|d| n % d != 0) && out.blocking_send(n).is_err() {
    ///                 return;
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn blocking_send(&self, item: I) -> Result<(), Error> {
        let Some(item) = self.offer(item)? else { return Ok(()) };
        while !self.outlet.put(Encoded::from(&item), None)? {
            self.outlet.wait();
        }
        Ok(())
    }

    /// Encodes an item and hands it on. Gives it back, encoded, if there is no credit for it.
    fn offer(&self, item: I) -> Result<Option<Payload>, Error> {
        let mut gather = SCRATCH.take();
        if let Err(error) = gather.append(&item) {
            return Err(self.outlet.fail(Unsendable::Encode(error)));
        }
        let back = match gather.small() {
            Some(bytes) if self.outlet.put(Encoded::Small(bytes), None)? => None,
            Some(_) => Some(gather.take()),
            None => {
                let payload = gather.take();
                (!self.outlet.put(Encoded::Large(&payload), None)?).then_some(payload)
            }
        };
        gather.clear(KEPT);
        SCRATCH.set(gather);
        Ok(back)
    }
}

impl<I: Serialize> Sink<I> for Emitter<I> {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_held(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, item: I) -> Result<(), Error> {
        self.held = self.offer(item)?;
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_held(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_held(cx)
    }
}

/// The same stream, with nothing held back.
impl<I> Clone for Emitter<I> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.outlet))
    }
}

impl<I> std::fmt::Debug for Emitter<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emitter").finish_non_exhaustive()
    }
}

const _: fn() = || {
    fn is_shared<T: Send + Sync + Unpin + 'static>() {}
    // Whatever the items are: an emitter holds them encoded.
    is_shared::<Emitter<std::rc::Rc<()>>>();
};
