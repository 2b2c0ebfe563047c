//! Memory for bulk: a mapping that two processes share, and large private buffers to copy it out to.
//!
//! Either process may die at any time and may be wrong about what it writes where. So nothing in shared memory is believed
//! here but its length, which is sealed; no reference into it is made except where the caller says that the other side
//! leaves it alone; and no access allocates, because what cannot be allocated is a `SIGBUS`: pages are made present first, by
//! a call that fails with an error instead. A worker gone wild can still punch holes into the memory between that call and the
//! access; the kernel fills them with new pages then, as long as it has any.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

/// The size of a page, everywhere where it matters here: what is not a multiple of the real one is refused by the kernel.
pub(crate) const PAGE: usize = 4096;

/// From this size on a private buffer asks for large pages: with small ones, making them takes longer than copying.
pub(crate) const HUGE: usize = 4 << 20;

/// A mapping of shared memory. What is in it may change at any time.
pub(crate) struct Memory {
    start: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: the mapping belongs to nobody's thread. Its bytes are copied in and out under the rules of `write`, `read` and
// `lend`, whoever calls them.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `length` bytes of a file from `offset` on, both multiples of the page size. The file must be so long and sealed
    /// against shrinking.
    ///
    /// # Errors
    ///
    /// What `mmap` says; `InvalidInput` for no bytes at all.
    pub(crate) fn map(fd: impl AsFd, offset: usize, length: usize) -> io::Result<Self> {
        let length = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, fd, offset as i64)? };
        let memory = Self { start, length };
        // A worker's core dump is about the worker. Where that cannot be said, it is only larger.
        let _ = memory.advise(0..length.get(), MmapAdvise::MADV_DONTDUMP);
        Ok(memory)
    }

    pub(crate) fn len(&self) -> usize {
        self.length.get()
    }

    /// Makes pages present, to be written. Until they are [discarded](Self::discard), writing there allocates nothing.
    ///
    /// # Errors
    ///
    /// When there is no memory for them, or the kernel (before Linux 5.14) can't say that.
    pub(crate) fn populate(&self, range: Range<usize>) -> io::Result<()> {
        self.advise_raw(range, libc::MADV_POPULATE_WRITE)
    }

    /// Makes pages present, to be read.
    ///
    /// # Errors
    ///
    /// As [`populate`](Self::populate).
    pub(crate) fn populate_read(&self, range: Range<usize>) -> io::Result<()> {
        self.advise_raw(range, libc::MADV_POPULATE_READ)
    }

    /// Gives pages back to the system. They are zero when they are used again.
    ///
    /// # Errors
    ///
    /// What `madvise` says; nothing depends on it but memory.
    pub(crate) fn discard(&self, range: Range<usize>) -> io::Result<()> {
        self.advise(range, MmapAdvise::MADV_REMOVE)
    }

    /// Copies into the memory. What does not lie within it is not copied.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        let Some(target) = self.at(at, bytes.len()) else { return };
        // SAFETY: the target lies within the mapping, as `at` has checked, and `bytes` does not: nothing makes a reference
        // to a part of it that this side writes. That another process may look meanwhile is its risk: it is told of the
        // bytes only when they are there.
        unsafe { target.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// Copies out to the end of `buffer`. What does not lie within the memory is not copied.
    pub(crate) fn read(&self, at: usize, length: usize, buffer: &mut Vec<u8>) {
        let Some(source) = self.at(at, length) else { return };
        buffer.reserve(length);
        // SAFETY: the source lies within the mapping, as `at` has checked, the target within the spare room of a buffer that
        // is exclusively ours, and after the copy those bytes are initialised. Another process may write the source
        // meanwhile. That is outside of this program and its memory model; what comes is some bytes, and bytes have no
        // invalid values. They are looked at only here, in private memory, where they don't change any more.
        unsafe {
            let target = buffer.as_mut_ptr().add(buffer.len());
            source.as_ptr().copy_to_nonoverlapping(target, length);
            buffer.set_len(buffer.len() + length);
        }
    }

    /// The bytes in place, as long as they are held. `end` is dropped with the last of their holders.
    ///
    /// To be called only for what nobody writes until then: by a worker for what its parent has sent, which it does not touch
    /// before it is told that it may, and by a parent whose user has vouched for the workers.
    pub(crate) fn lend<E: Send + 'static>(
        self: &Arc<Self>,
        at: usize,
        length: usize,
        end: E,
    ) -> Option<Bytes> {
        let start = self.at(at, length)?;
        Some(Bytes::from_owner(Lent { memory: Arc::clone(self), start, length, _end: end }))
    }

    /// The address of a range, if it lies within the mapping.
    fn at(&self, at: usize, length: usize) -> Option<NonNull<u8>> {
        let end = at.checked_add(length)?;
        // SAFETY: the offset is at most the length of the mapping.
        (end <= self.len()).then(|| unsafe { self.start.cast::<u8>().add(at) })
    }

    fn advise(&self, range: Range<usize>, advice: MmapAdvise) -> io::Result<()> {
        self.advise_raw(range, advice as i32)
    }

    /// The range is widened to whole pages.
    fn advise_raw(&self, range: Range<usize>, advice: i32) -> io::Result<()> {
        if range.end > self.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (from, until) = (range.start / PAGE * PAGE, range.end.next_multiple_of(PAGE).min(self.len()));
        let start = self.at(from, until.saturating_sub(from)).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the range lies within the mapping, which is ours. Of the advice that is given here, only MADV_REMOVE changes
        // what the memory holds, and that is shared memory, whose bytes may change at any time.
        let result = unsafe { libc::madvise(start.as_ptr().cast(), until - from, advice) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: start and length are what mmap was called with, and what is lent holds the mapping.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Memory").field(&self.length).finish()
    }
}

/// A part of the memory that nobody writes while this is held.
struct Lent<E> {
    memory: Arc<Memory>,
    start: NonNull<u8>,
    length: usize,
    _end: E,
}

// SAFETY: it is a range of a mapping that it keeps, read only.
unsafe impl<E: Send> Send for Lent<E> {}

impl<E> AsRef<[u8]> for Lent<E> {
    fn as_ref(&self) -> &[u8] {
        debug_assert!(self.memory.len() >= self.length);
        // SAFETY: the range lies within the mapping, which is held, and was made present; nobody writes it, as the caller of
        // `lend` has made sure.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

/// A private buffer with room for so many bytes. Where it is large, its first use takes a tenth of the time.
pub(crate) fn buffer(length: usize) -> Vec<u8> {
    let mut buffer = Vec::<u8>::with_capacity(length);
    if length >= HUGE {
        let room = buffer.spare_capacity_mut();
        let start = room.as_mut_ptr().cast::<c_void>();
        let skip = start.align_offset(PAGE);
        if let Some(start) = NonNull::new(start.wrapping_byte_add(skip)) {
            let inner = room.len().saturating_sub(skip) / PAGE * PAGE;
            // SAFETY: whole pages within memory that is ours; the advice changes nothing that it holds.
            let _ = unsafe { madvise(start, inner, MmapAdvise::MADV_HUGEPAGE) };
        }
    }
    buffer
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::unistd::ftruncate;

    use super::*;

    fn shared(length: usize) -> (Arc<Memory>, Arc<Memory>, std::os::fd::OwnedFd) {
        let fd = memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap();
        ftruncate(&fd, (PAGE + length) as i64).unwrap();
        let map = || Arc::new(Memory::map(&fd, PAGE, length).unwrap());
        (map(), map(), fd)
    }

    fn resident(fd: &std::os::fd::OwnedFd) -> i64 {
        nix::sys::stat::fstat(fd).unwrap().st_blocks * 512
    }

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let (ours, theirs, _fd) = shared(8 * PAGE);
        theirs.populate(PAGE..3 * PAGE).unwrap();
        theirs.write(PAGE + 5, b"bulk");
        let mut out = b"the ".to_vec();
        ours.read(PAGE + 5, 4, &mut out);
        assert_eq!(out, b"the bulk");
        assert_eq!(&ours.lend(PAGE + 5, 4, ()).unwrap()[..], b"bulk");
    }

    #[test]
    fn what_lies_outside_is_left_alone() {
        let (ours, ..) = shared(2 * PAGE);
        for (at, length) in
            [(2 * PAGE, 1), (0, 2 * PAGE + 1), (usize::MAX, 2), (1, usize::MAX), (3 * PAGE, 0)]
        {
            let mut out = Vec::new();
            ours.read(at, length, &mut out);
            assert!(out.is_empty() && ours.lend(at, length, ()).is_none(), "{at} {length}");
            assert!(ours.populate(at..at.saturating_add(length)).is_err(), "{at} {length}");
        }
        ours.write(2 * PAGE - 1, b"ab");
        assert_eq!(&ours.lend(2 * PAGE - 1, 1, ()).unwrap()[..], &[0]);
    }

    #[test]
    fn pages_are_there_when_they_are_asked_for_and_go_when_they_are_given_back() {
        let (ours, theirs, fd) = shared(64 * PAGE);
        assert_eq!(resident(&fd), 0);
        ours.populate(0..10 * PAGE).unwrap();
        ours.write(0, &[7; 10 * PAGE]);
        assert_eq!(resident(&fd), 10 * PAGE as i64);
        theirs.populate_read(0..10 * PAGE).unwrap();
        assert_eq!(theirs.lend(9 * PAGE, 1, ()).unwrap()[0], 7);
        ours.discard(2 * PAGE..10 * PAGE).unwrap();
        assert_eq!(resident(&fd), 2 * PAGE as i64);
        assert_eq!(theirs.lend(PAGE, 1, ()).unwrap()[0], 7);
    }

    #[test]
    fn what_is_lent_keeps_the_memory_and_tells_when_it_is_dropped() {
        struct Told(mpsc::Sender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let (ours, theirs, fd) = shared(PAGE);
        theirs.write(0, b"kept");
        let (told, end) = mpsc::channel();
        let view = ours.lend(0, 4, Told(told)).unwrap();
        drop((ours, theirs, fd));
        let part = view.slice(1..3);
        drop(view);
        assert_eq!(&part[..], b"ep");
        assert!(end.try_recv().is_err());
        drop(part);
        end.try_recv().unwrap();
    }

    #[test]
    fn a_private_buffer_has_the_room_that_was_asked_for() {
        for length in [0, 1, HUGE - 1, HUGE, 3 * HUGE + 1] {
            let mut buffer = buffer(length);
            assert!(buffer.capacity() >= length);
            buffer.resize(length, 1);
        }
    }
}
