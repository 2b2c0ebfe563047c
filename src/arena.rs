//! The memory for bulk that both ends of a link share: who may write where, what is in use, and how it becomes free again. It
//! does not know what the bytes are, nor when it pays to bring them here.
//!
//! Each side writes only into its own half and alone decides what is free there, so no lock is shared. It tells the other
//! where something lies, and may use the place again when the other says that it has *released* it.
//!
//! ```text
//!             parent                                     worker
//!   reserve ─▶ copy in ─▶ place ──── Spans, Run ────▶ lend ─▶ the task reads in place
//!              free    ◀──────────── Released ◀─────── dropped
//!
//!   copied out, or lent  ◀────────── Spans, Done ◀──── place ◀─ copy in ◀─ reserve
//!              dropped ─────────────  Released ─────▶ free
//! ```
//!
//! A parent copies out what its worker could still change before anybody looks at it, unless it has been told to trust. The
//! first half is the parent's, the second the worker's.

mod own;

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::own::{BLOCK, Own};
use crate::sys::bulk::{HUGE, Memory, PAGE, buffer};
use crate::sys::memory;

/// How long memory is kept after its use. Getting it back takes longer than a copy, so that who sends bulk every second or
/// two would be slower than without; keeping it longer costs memory.
pub(crate) const IDLE: Duration = Duration::from_secs(5);

/// The most places that are released by one message, which a message of any limit has room for that allows bulk at all.
const RELEASED: usize = 1024;

/// A place in the sender's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// One side's view of the shared memory.
pub(crate) struct Arena {
    memory: Arc<Memory>,
    /// Where our half and theirs begin, and how long each is.
    ours: usize,
    theirs: usize,
    half: usize,
    own: Mutex<Own>,
    dropped: Arc<Dropped>,
    /// What the other side sends is not changed by it any more.
    trusting: bool,
}

/// A large buffer that was copied out to, lent to whoever gets the bytes.
struct Loan {
    buffer: Vec<u8>,
    home: Weak<Arena>,
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else { return };
        let mut own = home.own();
        match &mut own.spare {
            Some(spare) if spare.capacity() < self.buffer.capacity() => {
                std::mem::swap(spare, &mut self.buffer)
            }
            _ => {}
        }
        // What is not kept is freed without the lock.
        drop(own);
    }
}

/// What was lent of the other side's half and is not used here any more.
#[derive(Debug, Default)]
struct Dropped {
    /// How many bytes: asked more often than there are any.
    bytes: AtomicUsize,
    offsets: Mutex<(Vec<u64>, Option<Waker>)>,
}

/// Holds a place of the other side's half.
struct Holder {
    span: Span,
    dropped: Arc<Dropped>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.dropped.add(self.span);
    }
}

impl Arena {
    /// The parent's side of what `memory::create` has made.
    ///
    /// # Errors
    ///
    /// What `mmap` says; when there is no memory for bulk in it.
    pub(crate) fn parent(fd: impl AsFd, trusting: bool) -> io::Result<Self> {
        let arena = Self::map(fd)?;
        Ok(Self { trusting, ..arena })
    }

    /// The worker's side, which trusts its parent.
    ///
    /// # Errors
    ///
    /// As [`parent`](Self::parent).
    pub(crate) fn worker(fd: impl AsFd) -> io::Result<Self> {
        let arena = Self::map(fd)?;
        let (ours, theirs) = (arena.theirs, arena.ours);
        Ok(Self { ours, theirs, trusting: true, ..arena })
    }

    fn map(fd: impl AsFd) -> io::Result<Self> {
        let (offset, length) = memory::bulk(&fd)?;
        let half = length / 2 / PAGE * PAGE;
        let memory = Arc::new(Memory::map(fd, offset, 2 * half)?);
        let (ours, theirs, own) = (0, half, Mutex::new(Own::new(half)));
        Ok(Self { memory, ours, theirs, half, own, dropped: Arc::default(), trusting: false })
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a place aside for these bytes; `None` when there is none.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: Bytes) -> Option<Inward> {
        let length = u32::try_from(bytes.len()).ok()?;
        let offset = self.own().reserve(bytes.len().next_multiple_of(PAGE))?;
        let span = Span { offset: offset as u64, length };
        Some(Inward { arena: Arc::clone(self), bytes, span, copied: 0, placed: false })
    }

    /// The other side does not need this any more.
    ///
    /// # Errors
    ///
    /// When it was never told of it.
    pub(crate) fn free(&self, offset: u64) -> Result<(), ()> {
        let offset = usize::try_from(offset).map_err(|_| ())?;
        let mut own = self.own();
        match own.used.get(&offset) {
            Some((_, true)) => {
                own.free(offset);
                Ok(())
            }
            _ => Err(()),
        }
    }

    /// Takes over what the other side has placed. It becomes bytes by a [copy](Outward::step), or at once when nothing will
    /// change it.
    ///
    /// # Errors
    ///
    /// When it does not lie in the other side's half.
    pub(crate) fn take(self: &Arc<Self>, span: Span) -> Result<Outward, ()> {
        let end = span.offset.checked_add(span.length.into()).ok_or(())?;
        if end > self.half as u64 || span.length == 0 {
            return Err(());
        }
        let holder = Holder { span, dropped: Arc::clone(&self.dropped) };
        let at = self.theirs + span.offset as usize;
        if self.trusting {
            let lent = self.memory.lend(at, span.length as usize, holder);
            return lent.map(Outward::Lent).ok_or(());
        }
        let (arena, length) = (Arc::clone(self), span.length as usize);
        Ok(Outward::Copied(Copy { arena, at, length, buffer: Vec::new(), _holder: holder }))
    }

    /// How many bytes of the other side's half are not used any more and were not released yet.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped.bytes.load(Ordering::Acquire)
    }

    /// What is to be released, with the word that it is. To be asked again as long as [something is](Self::dropped).
    pub(crate) fn release(&self) -> Vec<u64> {
        let mut offsets = self.dropped.lock();
        let rest = offsets.0.len().saturating_sub(RELEASED);
        if rest == 0 {
            self.dropped.bytes.store(0, Ordering::Release);
        }
        offsets.0.split_off(rest)
    }

    /// Wakes this when something is dropped.
    pub(crate) fn wake_with(&self, waker: &Waker) {
        let mut offsets = self.dropped.lock();
        match &mut offsets.1 {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Whether something of the other side's half is held.
    pub(crate) fn is_lending(&self) -> bool {
        Arc::strong_count(&self.dropped) > 1
    }

    /// Whether so many bytes are a good part of a half: enough to be released by a message of their own.
    pub(crate) fn is_much(&self, bytes: usize) -> bool {
        bytes > self.half / 4
    }

    /// Whether there is something to [trim](Self::trim).
    pub(crate) fn is_slack(&self) -> bool {
        let own = self.own();
        own.spare.is_some() || !own.slack(self.half).is_empty()
    }

    /// Gives back the pages that are not in use, and the spare buffer.
    pub(crate) fn trim(&self) {
        let mut own = self.own();
        let spare = own.spare.take();
        // Under the lock, or somebody could write to what is being discarded. When there was no bulk for a while nobody waits.
        for blocks in own.slack(self.half) {
            let (from, until) = (blocks.start * BLOCK, self.half.min(blocks.end * BLOCK));
            if self.memory.discard(self.ours + from..self.ours + until).is_ok() {
                own.present[blocks].fill(false);
            }
        }
        drop(own);
        drop(spare);
    }

    /// A private buffer for so many bytes.
    fn buffer(&self, length: usize) -> Vec<u8> {
        if length < HUGE {
            return buffer(length);
        }
        let mut spare = std::mem::take(self.own().spare.get_or_insert_default());
        if spare.capacity() < length {
            // One that is too small has had its day.
            return buffer(length);
        }
        spare.clear();
        spare
    }

    /// Makes the pages of a range of our half present. It is reserved, so that nobody discards them meanwhile: what takes time
    /// is done without the lock.
    fn populate(&self, range: Range<usize>) -> io::Result<()> {
        for block in range.start / BLOCK..range.end.div_ceil(BLOCK) {
            if self.own().present.get(block) == Some(&false) {
                let (from, until) = (block * BLOCK, self.half.min((block + 1) * BLOCK));
                self.memory.populate(self.ours + from..self.ours + until)?;
                self.own().present[block] = true;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena").field("half", &self.half).finish_non_exhaustive()
    }
}

impl Dropped {
    fn lock(&self) -> MutexGuard<'_, (Vec<u64>, Option<Waker>)> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, span: Span) {
        let waker = {
            let mut offsets = self.lock();
            offsets.0.push(span.offset);
            self.bytes.fetch_add(span.length as usize, Ordering::Release);
            offsets.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Bytes on their way into our half. Dropped before they are [placed](Self::place), they leave nothing there.
#[derive(Debug)]
pub(crate) struct Inward {
    arena: Arc<Arena>,
    bytes: Bytes,
    span: Span,
    copied: usize,
    placed: bool,
}

impl Inward {
    /// Copies at most so many bytes. Whether all are there.
    ///
    /// # Errors
    ///
    /// When there is no memory for them: they have to take another way.
    pub(crate) fn step(&mut self, most: usize) -> io::Result<bool> {
        let (start, length) = (self.span.offset as usize, self.len());
        let end = length.min(self.copied.saturating_add(most));
        self.arena.populate(start + self.copied..start + end)?;
        self.arena.memory.write(self.arena.ours + start + self.copied, &self.bytes[self.copied..end]);
        self.copied = end;
        if end == length {
            // Let go of here, since whoever places it may hold a lock: the drop of anybody's memory is anybody's code.
            self.bytes = Bytes::new();
        }
        Ok(end == length)
    }

    pub(crate) fn len(&self) -> usize {
        self.span.length as usize
    }

    /// Where they lie, to tell the other side: from now on it says when the place is free.
    pub(crate) fn place(mut self) -> Span {
        self.placed = true;
        if let Some((_, known)) = self.arena.own().used.get_mut(&(self.span.offset as usize)) {
            *known = true;
        }
        self.span
    }

    /// The bytes, which take another way, if not all of them are there.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Inward {
    fn drop(&mut self) {
        if !self.placed {
            self.arena.own().free(self.span.offset as usize);
        }
    }
}

/// Bytes on their way out of the other side's half.
#[derive(Debug)]
pub(crate) enum Outward {
    Lent(Bytes),
    Copied(Copy),
}

/// A copy that is being made.
pub(crate) struct Copy {
    arena: Arc<Arena>,
    at: usize,
    length: usize,
    buffer: Vec<u8>,
    _holder: Holder,
}

impl Outward {
    /// Copies at most so many bytes. The bytes, when all are there.
    ///
    /// # Errors
    ///
    /// When the memory cannot be read: the other side has never filled it, and there is none to be had.
    pub(crate) fn step(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        let copy = match self {
            Self::Lent(bytes) => return Ok(Some(std::mem::take(bytes))),
            Self::Copied(copy) => copy,
        };
        if copy.buffer.capacity() < copy.length {
            copy.buffer = copy.arena.buffer(copy.length);
        }
        let from = copy.at + copy.buffer.len();
        let length = most.min(copy.length - copy.buffer.len());
        let memory = &copy.arena.memory;
        memory.populate_read(from..from + length)?;
        memory.read(from, length, &mut copy.buffer);
        if copy.buffer.len() < copy.length {
            return Ok(None);
        }
        let buffer = std::mem::take(&mut copy.buffer);
        Ok(Some(match copy.length {
            HUGE.. => Bytes::from_owner(Loan { buffer, home: Arc::downgrade(&copy.arena) }),
            _ => buffer.into(),
        }))
    }
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes", self.buffer.len(), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: usize = 64 * PAGE;

    fn both(trusting: bool) -> (Arc<Arena>, Arc<Arena>) {
        let fd = memory::create(2 * HALF).unwrap();
        (Arc::new(Arena::parent(&fd, trusting).unwrap()), Arc::new(Arena::worker(&fd).unwrap()))
    }

    fn send(from: &Arc<Arena>, bytes: &Bytes) -> Option<Span> {
        let mut inward = from.reserve(bytes.clone())?;
        while !inward.step(PAGE).unwrap() {}
        Some(inward.place())
    }

    fn receive(to: &Arc<Arena>, span: Span) -> Bytes {
        let mut outward = to.take(span).unwrap();
        loop {
            if let Some(bytes) = outward.step(PAGE).unwrap() {
                return bytes;
            }
        }
    }

    fn settle(from: &Arena, to: &Arena) {
        for offset in to.release() {
            from.free(offset).unwrap();
        }
    }

    fn bytes(n: usize) -> Bytes {
        (0..n).map(|at| (at * 7 % 251) as u8).collect()
    }

    #[test]
    fn bytes_go_both_ways_and_their_places_are_used_again() {
        let (parent, worker) = both(false);
        for n in 1..200 {
            for (from, to) in [(&parent, &worker), (&worker, &parent)] {
                let sent = bytes(n * 1000);
                let span = send(from, &sent).unwrap();
                assert_eq!(span.offset, 0);
                assert_eq!(receive(to, span), sent);
                assert_eq!(to.dropped(), n * 1000);
                settle(from, to);
                assert_eq!(to.dropped(), 0);
            }
        }
    }

    #[test]
    fn a_full_half_takes_no_more_until_something_is_released() {
        let (parent, worker) = both(false);
        let quarter = bytes(HALF / 4);
        let spans: Vec<_> = (0..4).map(|_| send(&parent, &quarter).unwrap()).collect();
        assert!(send(&parent, &bytes(1)).is_none() && send(&worker, &quarter).is_some());
        let mut held: Vec<_> = spans.iter().map(|span| receive(&worker, *span)).collect();
        held.remove(2);
        assert!(send(&parent, &quarter).is_none(), "used before it was released");
        settle(&parent, &worker);
        assert_eq!(send(&parent, &quarter), Some(spans[2]));
        held.truncate(1);
        settle(&parent, &worker);
        // Places that lie side by side are one again; the first and the third are still in use.
        assert_eq!(held[0], quarter);
        assert!(send(&parent, &bytes(HALF / 4 + 1)).is_none() && send(&parent, &quarter).is_some());
        assert!(parent.reserve(bytes(HALF + 1)).is_none());
    }

    #[test]
    fn what_is_not_placed_leaves_nothing_behind() {
        let (parent, _worker) = both(false);
        let mut inward = parent.reserve(bytes(HALF)).unwrap();
        assert!(!inward.step(PAGE).unwrap() && parent.reserve(bytes(1)).is_none());
        assert_eq!(parent.free(0), Err(()), "released before it was placed");
        drop(inward);
        assert!(parent.reserve(bytes(HALF)).is_some());
    }

    #[test]
    fn lies_about_places_are_seen() {
        let (parent, worker) = both(false);
        let half = HALF as u64;
        for (offset, length) in [(half, 1), (0, 0), (half - 1, 2), (u64::MAX, 1), (u64::MAX - 1, u32::MAX)] {
            assert!(parent.take(Span { offset, length }).is_err(), "{offset} {length}");
        }
        let span = send(&parent, &bytes(10)).unwrap();
        for offset in [1, PAGE as u64, half, u64::MAX] {
            assert_eq!(parent.free(offset), Err(()), "{offset}");
        }
        assert_eq!((parent.free(span.offset), parent.free(span.offset)), (Ok(()), Err(())));
        // A place that was never filled reads as zeros.
        let span = Span { offset: 5, length: 3 * PAGE as u32 };
        assert_eq!(receive(&parent, span), vec![0; 3 * PAGE]);
        assert_eq!(worker.dropped(), 0);
    }

    #[test]
    fn a_parent_keeps_what_it_has_seen_and_one_that_trusts_sees_it_in_place() {
        let (parent, worker) = both(false);
        let (span, theirs) = (send(&worker, &bytes(PAGE)).unwrap(), HALF);
        let seen = receive(&parent, span);
        worker.memory.write(theirs, &[9; PAGE]);
        assert_eq!(seen, bytes(PAGE));
        let (parent, worker) = both(true);
        let span = send(&worker, &bytes(PAGE)).unwrap();
        let seen = receive(&parent, span);
        let part = seen.slice(1..2);
        drop(seen);
        assert_eq!((part[0], parent.dropped()), (7, 0));
        drop((worker, part));
        assert_eq!((parent.dropped(), parent.release()), (PAGE, vec![0]));
    }

    #[test]
    fn pages_that_are_not_used_are_given_back_wherever_they_lie() {
        // The last block of each half is a short one.
        let fd = memory::create(2 * (4 * BLOCK + PAGE)).unwrap();
        let resident = || nix::sys::stat::fstat(&fd).unwrap().st_blocks as usize * 512;
        let (parent, worker) =
            (Arc::new(Arena::parent(&fd, false).unwrap()), Arc::new(Arena::worker(&fd).unwrap()));
        let large = bytes(BLOCK + 2 * PAGE);
        let mut spans: Vec<_> = (0..3).map(|_| send(&parent, &large).unwrap()).collect();
        spans.push(send(&parent, &bytes(BLOCK - 5 * PAGE)).unwrap());
        assert!(!parent.is_slack());
        assert_eq!(resident(), 4 * BLOCK + PAGE);
        // Blocks that are in use in part are kept.
        for (free, left) in [(1, 4 * BLOCK + PAGE), (3, 4 * BLOCK), (0, 2 * BLOCK)] {
            parent.free(spans[free].offset).unwrap();
            parent.trim();
            assert_eq!((parent.is_slack(), resident()), (false, left), "{free}");
            assert_eq!(receive(&worker, spans[2]), large);
        }
        parent.free(spans[2].offset).unwrap();
        assert!(parent.is_slack());
        parent.trim();
        assert_eq!(resident(), 0);
        let again = send(&parent, &bytes(4 * BLOCK)).unwrap();
        assert_eq!(receive(&worker, again), bytes(4 * BLOCK));
    }

    #[test]
    fn what_was_dropped_is_released_in_messages_of_bounded_size() {
        let fd = memory::create(2 * 3000 * PAGE).unwrap();
        let (parent, worker) =
            (Arc::new(Arena::parent(&fd, false).unwrap()), Arc::new(Arena::worker(&fd).unwrap()));
        let sent: Vec<_> = (0..2500).map(|_| send(&parent, &bytes(1)).unwrap()).collect();
        sent.iter().for_each(|span| drop(receive(&worker, *span)));
        let mut messages = Vec::new();
        while worker.dropped() > 0 {
            let offsets = worker.release();
            messages.push(offsets.len());
            offsets.into_iter().for_each(|offset| parent.free(offset).unwrap());
        }
        assert_eq!(messages, [1024, 1024, 452]);
        assert!(parent.reserve(bytes(3000 * PAGE)).is_some());
    }

    #[test]
    fn a_large_buffer_is_used_again_until_there_is_no_bulk_for_a_while() {
        let fd = memory::create(6 * HUGE).unwrap();
        let (parent, worker) =
            (Arc::new(Arena::parent(&fd, false).unwrap()), Arc::new(Arena::worker(&fd).unwrap()));
        let (large, larger) = (bytes(HUGE), bytes(HUGE + 1));
        let mut seen = Vec::new();
        for sent in [&larger, &large, &larger] {
            let span = send(&worker, sent).unwrap();
            let received = receive(&parent, span);
            assert_eq!(received, sent);
            seen.push(received.as_ptr());
            drop(received);
            settle(&worker, &parent);
        }
        assert_eq!(seen[1..], [seen[0]; 2]);
        let kept = receive(&parent, send(&worker, &large).unwrap());
        settle(&worker, &parent);
        parent.trim();
        assert!(parent.own().spare.is_none());
        drop(kept);
        assert!(parent.own().spare.is_none(), "kept until there is bulk again, though there may never be");
        let kept = receive(&parent, send(&worker, &large).unwrap());
        drop(parent);
        assert_eq!(kept, large);
    }

    #[test]
    fn whoever_waits_is_woken_by_a_drop() {
        use std::sync::atomic::AtomicBool;
        struct Flag(AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let (parent, worker) = both(false);
        let view = receive(&worker, send(&parent, &bytes(5)).unwrap());
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        worker.wake_with(&Arc::clone(&flag).into());
        assert!(!flag.0.load(Ordering::SeqCst));
        drop(view);
        assert!(flag.0.load(Ordering::SeqCst));
    }
}
