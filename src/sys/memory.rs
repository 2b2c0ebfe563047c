//! Memory that a parent and its worker share.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::ftruncate;

/// How many bytes can be kept. As many as are gathered for one write; a page costs memory when it is first used.
const KEPT: usize = 64 << 10;

/// A page for the numbers, and what can be kept.
const LENGTH: usize = HEAD + KEPT;
const HEAD: usize = 4096;

/// Memory in which a worker notes, before user code runs, how many tasks of its link it has begun, and keeps what it has
/// said and not written yet. The notes survive the worker, however it dies.
///
/// ```text
///  0      8      16      24          4096                                  LENGTH
///  ┌──────┬──────┬───────┬───────────┬─────────────────────────────────────┬───────────────┐
///  │begun │ from │ until │           │ bytes from..until of what was said   │ bulk, if any  │
///  └──────┴──────┴───────┴───────────┴─────────────────────────────────────┴───────────────┘
/// ```
///
/// What lies behind is mapped by others.
pub(crate) struct Page {
    start: NonNull<c_void>,
}

// SAFETY: numbers are read and written as atomics. Kept bytes are written by one worker, whose lock orders that, and read
// as atomics by its parent. The memory is unmapped by the last owner.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

/// Makes the memory for a page and for so many bytes of bulk, sealed so that the other side cannot shrink it under our feet
/// (which would be a SIGBUS). It is sparse: what is not used takes no memory.
///
/// # Errors
///
/// What the kernel says, `ENOSYS` and `EMFILE` for example.
pub(crate) fn create(bulk: usize) -> io::Result<OwnedFd> {
    let length = LENGTH.checked_add(bulk).and_then(|length| i64::try_from(length).ok());
    let length = length.ok_or(io::ErrorKind::InvalidInput)?;
    // Said beforehand, because whoever oversteps this limit gets a signal that ends the process.
    if getrlimit(Resource::RLIMIT_FSIZE)?.0 < length as u64 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let fd = memfd_create(c"procpool", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&fd, length)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

/// Where in the memory the bulk begins, and how long it is. The length is sealed.
///
/// # Errors
///
/// When the descriptor is not one of ours: unsealed or of another length.
pub(crate) fn bulk(fd: impl AsFd) -> io::Result<(usize, usize)> {
    let seals = SealFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GET_SEALS)?);
    let length = usize::try_from(nix::sys::stat::fstat(&fd)?.st_size).unwrap_or_default();
    match length.checked_sub(LENGTH) {
        Some(bulk) if seals.contains(SealFlag::F_SEAL_SHRINK) => Ok((LENGTH, bulk)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not a sealed page")),
    }
}

impl Page {
    /// Maps the memory that [`create`] made.
    ///
    /// # Errors
    ///
    /// When the descriptor is not one of ours: unsealed or of another length.
    pub(crate) fn map(fd: impl AsFd) -> io::Result<Self> {
        bulk(&fd)?;
        let length = NonZeroUsize::new(LENGTH).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing. The file can't shrink: it is sealed.
        let start = unsafe {
            mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)?
        };
        Ok(Self { start })
    }

    /// How many tasks have begun.
    pub(crate) fn begun(&self) -> &AtomicU64 {
        self.number(0)
    }

    /// The worker's side: keeps bytes that begin so far into what it has said. What follows no kept bytes, or finds no room,
    /// is not kept.
    pub(crate) fn keep(&self, at: u64, bytes: &[u8]) {
        let (from, until) = (self.number(1).load(Ordering::Relaxed), self.number(2).load(Ordering::Relaxed));
        let place = at.wrapping_sub(from);
        if at != until || place.saturating_add(bytes.len() as u64) > KEPT as u64 {
            return;
        }
        // SAFETY: the range was just seen to lie within the mapping.
        unsafe { self.put(place as usize, bytes) };
        self.number(2).store(at + bytes.len() as u64, Ordering::Release);
    }

    /// The worker's side: the same for two pieces, and then the four bytes at `head` are others: the length of what has grown. Killed
    /// in between, the worker has kept nothing that can be understood from there on.
    pub(crate) fn extend(&self, at: u64, pieces: [&[u8]; 2], head: u64, length: [u8; 4]) {
        let (from, until) = (self.number(1).load(Ordering::Relaxed), self.number(2).load(Ordering::Relaxed));
        let [first, second] = pieces;
        let (place, more) = (at.wrapping_sub(from), first.len() as u64 + second.len() as u64);
        let fits = place.saturating_add(more) <= KEPT as u64;
        if at != until || !fits || head < from || head.saturating_add(4) > until {
            return;
        }
        // SAFETY: all three ranges were just seen to lie within the mapping. The first is within what is kept, and the parent
        // reads when this process is dead.
        unsafe {
            self.put((head - from) as usize, &length);
            self.put(place as usize, first);
            self.put(place as usize + first.len(), second);
        }
        self.number(2).store(at + more, Ordering::Release);
    }

    /// # Safety
    ///
    /// The bytes have room from there on in what can be kept.
    unsafe fn put(&self, place: usize, bytes: &[u8]) {
        // SAFETY: the caller has seen to the range; nobody reads there while this worker lives.
        unsafe {
            let target = self.start.cast::<u8>().add(HEAD + place);
            target.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
        }
    }

    /// The worker's side: everything before `at` is written and need not be kept.
    pub(crate) fn written(&self, at: u64) {
        // Killed between the two stores, it has kept nothing behind `at`, and what is before is known to be written.
        self.number(1).store(at, Ordering::Release);
        self.number(2).store(at, Ordering::Release);
    }

    /// The parent's side, when the worker is dead: what it had said and kept behind the first `received` bytes.
    pub(crate) fn kept(&self, received: u64) -> Vec<u8> {
        let (from, until) = (self.number(1).load(Ordering::Acquire), self.number(2).load(Ordering::Acquire));
        let sane = until.checked_sub(from).is_some_and(|kept| kept <= KEPT as u64);
        if !sane || !(from..until).contains(&received) {
            return Vec::new();
        }
        let range = (received - from) as usize..(until - from) as usize;
        // SAFETY: the range lies within the mapping, as was just checked. Whoever still has the memory may change it: it is
        // read byte by byte as atomics, and believed no more than what comes through the link.
        let byte =
            |at| unsafe { self.start.cast::<AtomicU8>().add(HEAD + at).as_ref() }.load(Ordering::Relaxed);
        range.map(byte).collect()
    }

    fn number(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the mapping lives as long as self and is page-aligned; its first words are accessed as atomics only, by
        // both sides. The callers' indices are below 3.
        unsafe { self.start.cast::<AtomicU64>().add(index).as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: start and LENGTH are what mmap was called with, and the references from begun() have ended with self.
        let _ = unsafe { munmap(self.start, LENGTH) };
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Page").field(&self.begun().load(Ordering::Relaxed)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_a_page_see_the_same_count() {
        let fd = create(0).unwrap();
        let (ours, theirs) = (Page::map(&fd).unwrap(), Page::map(&fd).unwrap());
        theirs.begun().store(7, Ordering::SeqCst);
        assert_eq!(ours.begun().load(Ordering::SeqCst), 7);
    }

    #[test]
    fn what_was_said_and_not_written_is_kept() {
        let fd = create(0).unwrap();
        let (ours, theirs) = (Page::map(&fd).unwrap(), Page::map(&fd).unwrap());
        assert_eq!(ours.kept(0), b"");
        theirs.keep(0, b"one");
        theirs.keep(3, b"two");
        assert_eq!(ours.kept(0), b"onetwo");
        assert_eq!(ours.kept(4), b"wo");
        assert_eq!((ours.kept(6), ours.kept(7)), (Vec::new(), Vec::new()));
        theirs.written(6);
        theirs.keep(6, b"three");
        assert_eq!((ours.kept(6), ours.kept(3)), (b"three".to_vec(), Vec::new()));
        // What does not fit leaves a gap, and behind a gap nothing is kept.
        theirs.keep(11, &vec![1; KEPT]);
        theirs.keep(11 + KEPT as u64, b"four");
        assert_eq!(ours.kept(6), b"three");
        theirs.written(15 + KEPT as u64);
        theirs.keep(15 + KEPT as u64, &vec![7; KEPT]);
        assert_eq!(ours.kept(15 + KEPT as u64), vec![7; KEPT]);
    }

    #[test]
    fn a_page_that_lies_gives_nothing() {
        let fd = create(0).unwrap();
        let (ours, theirs) = (Page::map(&fd).unwrap(), Page::map(&fd).unwrap());
        for (from, until) in [(5, 3), (0, KEPT as u64 + 1), (u64::MAX, 0), (0, u64::MAX)] {
            theirs.number(1).store(from, Ordering::SeqCst);
            theirs.number(2).store(until, Ordering::SeqCst);
            assert_eq!(ours.kept(from), b"", "{from}..{until}");
        }
    }

    #[test]
    fn a_page_cannot_be_shrunk_and_a_foreign_file_is_no_page() {
        let fd = create(0).unwrap();
        assert!(ftruncate(&fd, 0).is_err());
        assert!(Page::map(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
