//! Moves frames over a byte stream, both ways, for the parent, and bulk through shared memory beside it. It decides nothing:
//! what a frame means, and what to do when the stream ends, is its owner's business.

pub(crate) mod bulk;
mod socket;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};

use self::bulk::{Arrival, Departure, SLICE, malformed};
pub(crate) use self::socket::{Socket, Stream};
use crate::arena::Arena;
use crate::blob::LARGE;
use crate::wire::KEPT;
use crate::wire::chain::Chain;
use crate::wire::codec::{Codec, Found, Message, Violation, excerpt, take_magic};
use crate::wire::frame::{Shape, ToParent, ToWorker};
use crate::wire::payload::Payload;

/// The parent's end of a link.
pub(crate) struct Link<S> {
    stream: S,
    codec: Codec<ToParent>,
    inbox: BytesMut,
    greeted: bool,
    /// What the worker wrote before its greeting.
    stray: Bytes,
    /// How many bytes came from the greeting on.
    received: u64,
    outbox: Chain,
    /// What comes behind it: with bulk, that is put into the outbox piece by piece.
    loaded: Outbox,
    limit: u32,
    arena: Option<Arc<Arena>>,
    /// Whether the worker has the shared memory too.
    sharing: bool,
    /// The bulk that is being copied into the shared memory.
    departing: Option<(ToWorker, Departure)>,
    /// What is to be fetched from there, and once that is known, for which message.
    arriving: Option<Arrival>,
    arrived: Option<Message<ToParent>>,
    /// Whether there was bulk since the memory was tidied, and since somebody asked.
    untidy: bool,
    used: bool,
}

/// What is to be sent through a link, as its owner gathers it: small frames as bytes, bulk as it is.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: BytesMut,
    bulk: VecDeque<Bulk>,
    /// How many of the bytes stand before the last bulk.
    marked: usize,
}

/// A frame with a large body.
struct Bulk {
    /// How many bytes stand between the bulk before it and this.
    before: usize,
    frame: ToWorker,
    body: Payload,
}

impl<S: Stream> Link<S> {
    pub(crate) fn new(stream: S, arena: Option<Arc<Arena>>, limit: u32) -> Self {
        Self {
            stream,
            codec: Codec::new(limit),
            inbox: BytesMut::new(),
            greeted: false,
            stray: Bytes::new(),
            received: 0,
            outbox: Chain::default(),
            loaded: Outbox::default(),
            limit,
            arena,
            sharing: false,
            departing: None,
            arriving: None,
            arrived: None,
            untidy: false,
            used: false,
        }
    }

    /// Reads once and appends the frames that are complete to `batch`. `false` is the end of the stream.
    ///
    /// # Errors
    ///
    /// The rule that the worker broke. The frames before it are in the batch.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Message<ToParent, Payload>>,
    ) -> Poll<Result<bool, Violation>> {
        if self.arrived.is_some() {
            return Poll::Ready(self.decode(batch).map(|()| true));
        }
        let read = ready!(self.stream.poll_read(cx, &mut self.inbox));
        Poll::Ready(self.received(read, batch))
    }

    /// As `poll_receive`, but asks the kernel itself. Whoever is told `Pending` is not woken.
    ///
    /// # Errors
    ///
    /// As `poll_receive`.
    pub(crate) fn receive_now(
        &mut self,
        batch: &mut Vec<Message<ToParent, Payload>>,
    ) -> Poll<Result<bool, Violation>> {
        if self.arrived.is_some() {
            return Poll::Pending;
        }
        match self.stream.read_now(&mut self.inbox) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Poll::Pending
            }
            read => Poll::Ready(self.received(read, batch)),
        }
    }

    /// Whether it has bulk to copy in before it can send on, and only lets others have their turn first.
    pub(crate) fn is_departing(&self) -> bool {
        self.departing.is_some()
    }

    /// The same for bulk to copy out before it can receive on.
    pub(crate) fn is_arriving(&self) -> bool {
        self.arrived.is_some()
    }

    /// Appends what a dead worker has left behind to `batch`.
    ///
    /// # Errors
    ///
    /// As `poll_receive`.
    pub(crate) fn drain(&mut self, batch: &mut Vec<Message<ToParent, Payload>>) -> Result<(), Violation> {
        loop {
            match self.stream.read_now(&mut self.inbox) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                read => {
                    if !self.received(read, batch)? {
                        return Ok(());
                    }
                    while self.arrived.is_some() {
                        self.decode(batch)?;
                    }
                }
            }
        }
    }

    /// Appends what a dead worker had said and not written. `kept` is asked for what follows the bytes that came.
    ///
    /// # Errors
    ///
    /// As `poll_receive`.
    pub(crate) fn recover(
        &mut self,
        kept: impl FnOnce(u64) -> Vec<u8>,
        batch: &mut Vec<Message<ToParent, Payload>>,
    ) -> Result<(), Violation> {
        if self.greeted {
            self.inbox.extend_from_slice(&kept(self.received));
            self.decode(batch)?;
            while self.arrived.is_some() {
                self.decode(batch)?;
            }
        }
        Ok(())
    }

    /// Whether there is nothing left to send.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outbox.is_empty() && self.loaded.is_empty() && self.departing.is_none()
    }

    /// Takes over what is to be sent; only when flushed. `outbox` gets an empty buffer in exchange.
    pub(crate) fn load(&mut self, outbox: &mut Outbox) {
        if let Some(arena) = &self.arena
            && arena.dropped() > 0
            && (!outbox.is_empty() || arena.is_much(arena.dropped()))
        {
            // Ahead of what may need the room.
            self.release();
            if outbox.bulk.is_empty() {
                self.outbox.end().extend_from_slice(&outbox.bytes);
                outbox.bytes.clear();
                outbox.marked = 0;
                return;
            }
        }
        if outbox.bulk.is_empty() {
            std::mem::swap(self.outbox.end(), &mut outbox.bytes);
        } else {
            std::mem::swap(&mut self.loaded, outbox);
        }
    }

    /// Tells the worker what is not used any more of what it has placed.
    fn release(&mut self) {
        let Some(arena) = &self.arena else { return };
        while arena.dropped() > 0 {
            let offsets = arena.release();
            let sent = self.codec.encode_head(&ToWorker::Released { offsets }, self.outbox.end(), 0);
            debug_assert!(sent.is_ok(), "{sent:?}");
        }
    }

    /// Whether there may be shared memory in use that nobody needs.
    pub(crate) fn is_untidy(&self) -> bool {
        self.untidy || self.arena.as_ref().is_some_and(|arena| arena.dropped() > 0)
    }

    /// Whether there was bulk since this was asked last.
    pub(crate) fn was_used(&mut self) -> bool {
        std::mem::take(&mut self.used)
    }

    /// Releases what is not used, though there is nothing else to say, and gives memory back to the system.
    pub(crate) fn tidy(&mut self) {
        if let Some(arena) = &self.arena {
            arena.trim();
        }
        self.release();
        self.untidy = false;
    }

    /// Has `waker` woken when bulk that was lent is dropped.
    pub(crate) fn wake_with(&self, waker: &Waker) {
        if let Some(arena) = self.arena.as_ref().filter(|arena| arena.is_lending()) {
            arena.wake_with(waker);
        }
    }

    /// Writes until all is sent or the stream is full, or until there is something to be copied first.
    ///
    /// # Errors
    ///
    /// What the stream says. Nothing can be sent any more, but what the worker wrote can still be received.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.outbox.is_empty() {
                if self.is_flushed() {
                    return Poll::Ready(Ok(()));
                }
                self.stage();
                if self.outbox.is_empty() {
                    return Poll::Pending;
                }
            }
            let written = match self.outbox.single() {
                Some(bytes) => self.stream.poll_write(cx, bytes),
                None => {
                    let (slices, n) = self.outbox.slices();
                    self.stream.poll_write_pieces(cx, &slices[..n])
                }
            };
            match ready!(written) {
                Ok(n) => {
                    self.outbox.advance(n, KEPT);
                    drop(self.outbox.take_spent());
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Puts what was loaded into the outbox, up to the first bulk and that. Bulk is copied a slice at a time.
    fn stage(&mut self) {
        let (frame, mut departure) = match (self.departing.take(), self.loaded.bulk.pop_front()) {
            (Some(departing), next) => {
                next.into_iter().for_each(|next| self.loaded.bulk.push_front(next));
                departing
            }
            (None, Some(Bulk { before, frame, body })) => {
                self.loaded.marked -= before;
                self.outbox.end().extend_from_slice(&self.loaded.bytes.split_to(before));
                (frame, Departure::new(&body))
            }
            (None, None) => return std::mem::swap(self.outbox.end(), &mut self.loaded.bytes),
        };
        if !departure.step(self.arena.as_ref().filter(|_| self.sharing), SLICE) {
            self.departing = Some((frame, departure));
            return;
        }
        let (placed, rest) = departure.end();
        let mut send = |frame: &ToWorker, body| {
            let sent = self.codec.encode_head(frame, self.outbox.end(), body);
            // Sizes are checked where inputs are encoded.
            debug_assert!(sent.is_ok(), "{sent:?}");
        };
        if !placed.is_empty() {
            (self.untidy, self.used) = (true, true);
            send(&ToWorker::Spans { placed }, 0);
        }
        send(&frame, rest.len());
        for piece in rest.pieces() {
            self.outbox.push(piece.clone());
        }
    }

    /// What the worker wrote where a greeting belongs.
    pub(crate) fn stray(&self) -> Option<String> {
        let stray = if self.greeted { &self.stray } else { &self.inbox[..] };
        (!stray.is_empty()).then(|| excerpt(stray))
    }

    fn received(
        &mut self,
        read: io::Result<usize>,
        batch: &mut Vec<Message<ToParent, Payload>>,
    ) -> Result<bool, Violation> {
        match read {
            Ok(0) => return Ok(false),
            Ok(n) => self.received += n as u64,
            // A worker that is killed with unread frames in its socket resets the connection: it is gone all the same.
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if !self.greeted {
            let Some(stray) = take_magic(&mut self.inbox)? else { return Ok(true) };
            self.greeted = true;
            self.received -= stray.len() as u64;
            self.stray = stray;
        }
        self.decode(batch)?;
        Ok(true)
    }

    /// Understands what was read, up to bulk that is still to be fetched.
    fn decode(&mut self, batch: &mut Vec<Message<ToParent, Payload>>) -> Result<(), Violation> {
        let (mut understood, mut large) = (0, false);
        let result = self.understand(batch, &mut understood, &mut large);
        self.inbox.advance(understood);
        if large {
            self.inbox = BytesMut::from(&self.inbox[..]);
        }
        result
    }

    /// The same. So many bytes have to be taken out of the inbox after that: it is done once, or where there is bulk.
    fn understand(
        &mut self,
        batch: &mut Vec<Message<ToParent, Payload>>,
        understood: &mut usize,
        large: &mut bool,
    ) -> Result<(), Violation> {
        loop {
            if self.arrived.is_some() && !self.fetch(batch)? {
                return Ok(());
            }
            if self.arriving.is_none()
                && let Some((frame, body, end)) = self.codec.brief(&self.inbox[*understood..])
            {
                batch.push(Message { frame, body: Payload::copied(body) });
                *understood += end;
                continue;
            }
            let Some(Found { frame, body }) = self.codec.find(&self.inbox[*understood..])? else {
                return Ok(());
            };
            *large |= body.len() > KEPT;
            let body = if body.len() <= LARGE {
                let start = *understood + body.start;
                *understood += body.end;
                Ok(&self.inbox[start..*understood])
            } else {
                self.inbox.advance(std::mem::take(understood) + body.start);
                Err(self.inbox.split_to(body.len()).freeze())
            };
            if self.arriving.is_some() {
                if !frame.has_body() {
                    return Err(malformed("bulk for a frame that has no body"));
                }
                let body = body.map_or_else(|bulk| bulk, Bytes::copy_from_slice);
                self.arrived = Some(Message { frame, body });
                continue;
            }
            match frame {
                ToParent::Spans { placed } => {
                    self.arriving = Some(Arrival::new(self.arena.as_ref(), &placed, self.limit)?);
                    (self.untidy, self.used) = (true, true);
                }
                ToParent::Released { offsets } => self.freed(&offsets)?,
                frame => {
                    if let ToParent::Ready(ready) = &frame {
                        self.sharing = ready.bulk;
                    }
                    batch.push(Message { frame, body: body.map_or_else(Payload::from, Payload::copied) });
                }
            }
        }
    }

    /// Copies a slice of what is to be fetched. Whether the message is complete, and in the batch.
    fn fetch(&mut self, batch: &mut Vec<Message<ToParent, Payload>>) -> Result<bool, Violation> {
        let (Some(arrival), Some(message)) = (&mut self.arriving, &self.arrived) else { return Ok(true) };
        let Some(body) = arrival.step(&message.body, SLICE, self.limit)? else { return Ok(false) };
        self.arriving = None;
        batch.extend(self.arrived.take().map(|Message { frame, .. }| Message { frame, body }));
        Ok(true)
    }

    /// The worker does not need these places any more.
    fn freed(&mut self, offsets: &[u64]) -> Result<(), Violation> {
        self.untidy = true;
        let arena = self.arena.as_ref();
        let free = |offset: &u64| arena.is_some_and(|arena| arena.free(*offset).is_ok());
        if offsets.iter().all(free) {
            return Ok(());
        }
        Err(malformed("it released what it was not given"))
    }
}

impl Outbox {
    /// Adds a frame, whose size was looked at where the body was encoded.
    pub(crate) fn add(&mut self, codec: &Codec<ToParent>, frame: &ToWorker, body: &[u8]) {
        let sent = codec.encode_with(frame, &mut self.bytes, |bytes| {
            bytes.extend_from_slice(body);
            Ok(())
        });
        debug_assert!(sent.is_ok(), "{sent:?}");
    }

    /// Adds a frame with a large body, which is neither copied nor encoded yet.
    pub(crate) fn add_bulk(&mut self, frame: ToWorker, body: Payload) {
        let before = self.bytes.len() - std::mem::replace(&mut self.marked, self.bytes.len());
        self.bulk.push_back(Bulk { before, frame, body });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.bulk.is_empty()
    }
}

/// Whether an error of a stream means that the other end is closed.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use futures::future::poll_fn;
    use tokio_util::codec::Decoder;

    use super::*;
    use crate::arena::Span;
    use crate::blob;
    use crate::id::TaskId;
    use crate::sys::memory;
    use crate::wire::TO_PARENT_MAGIC;
    use crate::wire::frame::{Placed, Ready, Run};

    const LIMIT: u32 = 16 << 20;

    /// A link, and a worker's end of it.
    struct Pair {
        link: Link<Socket>,
        worker: UnixStream,
        arena: Arc<Arena>,
        codec: Codec<ToWorker>,
        bytes: BytesMut,
    }

    impl Pair {
        fn new() -> Self {
            let (ours, mut worker) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            worker.write_all(&TO_PARENT_MAGIC).unwrap();
            let fd = memory::create(8 << 20).unwrap();
            let arena = Arc::new(Arena::parent(&fd, false).unwrap());
            let link = Link::new(Socket::new(ours.into()).unwrap(), Some(arena), LIMIT);
            let arena = Arc::new(Arena::worker(&fd).unwrap());
            Self { link, worker, arena, codec: Codec::new(LIMIT), bytes: BytesMut::new() }
        }

        fn say(&mut self, frame: &ToParent, body: &[u8]) {
            let mut bytes = BytesMut::new();
            let whole = self.codec.encode_with(frame, &mut bytes, |bytes| {
                bytes.extend_from_slice(body);
                Ok(())
            });
            whole.unwrap();
            self.worker.write_all(&bytes).unwrap();
        }

        /// All that the link receives until it has received so many messages.
        async fn receive(&mut self, n: usize) -> Result<Vec<Message<ToParent, Payload>>, Violation> {
            let mut batch = Vec::new();
            while batch.len() < n {
                poll_fn(|cx| self.link.poll_receive(cx, &mut batch)).await?;
            }
            Ok(batch)
        }

        /// Sends what was loaded, slice by slice.
        async fn send(&mut self, outbox: &mut Outbox) {
            self.link.load(outbox);
            poll_fn(|cx| match self.link.poll_send(cx) {
                Poll::Pending if self.link.is_departing() => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                sent => sent,
            })
            .await
            .unwrap();
        }

        fn hear(&mut self) -> Message<ToWorker> {
            loop {
                if let Some(message) = self.codec.decode(&mut self.bytes).unwrap() {
                    return message;
                }
                let mut buffer = [0; 64 << 10];
                let n = self.worker.read(&mut buffer).unwrap();
                self.bytes.extend_from_slice(&buffer[..n]);
            }
        }
    }

    fn item() -> ToParent {
        ToParent::Item { task: TaskId::new(1, 0), attempt: 1 }
    }

    fn ready(bulk: bool) -> ToParent {
        let (nonce, tasks, build) = ([0; 16], Vec::new(), String::new());
        ToParent::Ready(Ready { version: 1, nonce, pid: 1, slots: 1, tasks, build, bulk })
    }

    fn run(serial: u32) -> ToWorker {
        let task = TaskId::new(serial, 0);
        ToWorker::Run(Run { task, attempt: 1, index: 0, remaining_us: None, trace: None })
    }

    fn on_a_runtime(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn bulk_and_small_frames_leave_in_their_order_and_bulk_through_memory_that_is_shared() {
        on_a_runtime(async {
            for shared in [false, true] {
                let mut pair = Pair::new();
                pair.say(&ready(shared), b"");
                pair.receive(1).await.unwrap();
                let (body, mut outbox) = (Bytes::from(vec![7; blob::LARGE + 1]), Outbox::default());
                let codec = pair.link.codec.clone();
                outbox.add(&codec, &ToWorker::Ping { nonce: 1 }, b"");
                outbox.add_bulk(run(2), body.clone().into());
                outbox.add_bulk(run(3), vec![body.slice(..5), body.clone()].into());
                outbox.add(&codec, &run(4), b"small");
                pair.send(&mut outbox).await;
                assert_eq!(pair.hear().frame, ToWorker::Ping { nonce: 1 });
                for (n, length) in [(2, 0), (3, 5)] {
                    if shared {
                        assert!(matches!(pair.hear().frame, ToWorker::Spans { placed } if placed.len() == 1));
                    }
                    let message = pair.hear();
                    let expected = if shared { length } else { length + body.len() };
                    assert_eq!((message.frame, message.body.len()), (run(n), expected));
                }
                assert_eq!(pair.hear(), Message { frame: run(4), body: Bytes::from_static(b"small") });
                assert!(pair.link.is_flushed() && !pair.link.is_departing());
            }
        });
    }

    #[test]
    fn bulk_is_fetched_in_slices_between_the_frames_around_it_and_released() {
        on_a_runtime(async {
            let mut pair = Pair::new();
            let large = Bytes::from(vec![9; 3 * SLICE]);
            let mut inward = pair.arena.reserve(large.clone()).unwrap();
            assert!(inward.step(usize::MAX).unwrap());
            pair.say(&ToParent::Nudge, b"");
            pair.say(&ToParent::Spans { placed: vec![Placed { at: 1, span: inward.place() }] }, b"");
            pair.say(&item(), b"ab");
            pair.say(&ToParent::Pong { nonce: 3 }, b"");
            let mut batch = pair.receive(1).await.unwrap();
            assert!(batch.len() == 1 && pair.link.is_arriving(), "all of it at once");
            batch.extend(pair.receive(2).await.unwrap());
            let frames: Vec<_> = batch.iter().map(|message| message.frame.clone()).collect();
            assert_eq!(frames, [ToParent::Nudge, item(), ToParent::Pong { nonce: 3 }]);
            assert_eq!(batch[1].body.join(), [b"a", &large[..], b"b"].concat());
            let (codec, mut outbox) = (pair.link.codec.clone(), Outbox::default());
            outbox.add(&codec, &ToWorker::Drain, b"");
            pair.send(&mut outbox).await;
            assert_eq!(pair.hear().frame, ToWorker::Released { offsets: vec![0] });
            assert_eq!(pair.hear().frame, ToWorker::Drain);
        });
    }

    #[test]
    fn a_worker_that_lies_about_bulk_breaks_a_rule() {
        on_a_runtime(async {
            let spans = |offset, length| {
                let span = Span { offset, length };
                ToParent::Spans { placed: vec![Placed { at: 0, span }] }
            };
            for (lie, then) in [
                (spans(4 << 20, 1), None),
                (spans(u64::MAX, u32::MAX), None),
                (ToParent::Spans { placed: Vec::new() }, None),
                (spans(0, 10), Some(ToParent::Nudge)),
                (spans(0, 10), Some(spans(0, 10))),
                (
                    ToParent::Spans { placed: vec![Placed { at: 1, span: Span { offset: 0, length: 1 } }] },
                    Some(item()),
                ),
                (ToParent::Released { offsets: vec![0] }, None),
            ] {
                let mut pair = Pair::new();
                pair.say(&lie, b"");
                if let Some(then) = &then {
                    pair.say(then, b"");
                }
                let violation = pair.receive(2).await.unwrap_err();
                assert!(matches!(violation, Violation::Malformed { .. }), "{lie:?} {then:?}: {violation}");
            }
        });
    }
}
