//! Memory that a parent and its worker share.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::ftruncate;

/// One page: larger ones cost nothing more, smaller ones do not exist.
const LENGTH: usize = 4096;

/// A page in which a worker notes, before user code runs, how many tasks of its link it has begun. The note survives
/// the worker, however it dies.
pub(crate) struct Page {
    start: NonNull<c_void>,
}

// SAFETY: the page is only ever read and written through the atomic at its start, and unmapped by the last owner.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

/// Makes the memory for a page, sealed so that the other side cannot shrink it under our feet (which would be a SIGBUS).
///
/// # Errors
///
/// What the kernel says, `ENOSYS` and `EMFILE` for example.
pub(crate) fn create() -> io::Result<OwnedFd> {
    let fd = memfd_create(c"procpool", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    ftruncate(&fd, LENGTH as i64)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

impl Page {
    /// Maps the memory that [`create`] made.
    ///
    /// # Errors
    ///
    /// When the descriptor is not one of ours: unsealed or of another length.
    pub(crate) fn map(fd: impl AsFd) -> io::Result<Self> {
        let seals = SealFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GET_SEALS)?);
        let length = nix::sys::stat::fstat(&fd)?.st_size;
        if !seals.contains(SealFlag::F_SEAL_SHRINK) || length < LENGTH as i64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a sealed page"));
        }
        let length = NonZeroUsize::new(LENGTH).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing. The file can't shrink: it is sealed.
        let start = unsafe {
            mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)?
        };
        Ok(Self { start })
    }

    /// How many tasks have begun.
    pub(crate) fn begun(&self) -> &AtomicU64 {
        // SAFETY: the mapping lives as long as self, is page-aligned, and is accessed as this atomic only, by both sides.
        unsafe { self.start.cast::<AtomicU64>().as_ref() }
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
        let fd = create().unwrap();
        let (ours, theirs) = (Page::map(&fd).unwrap(), Page::map(&fd).unwrap());
        theirs.begun().store(7, Ordering::SeqCst);
        assert_eq!(ours.begun().load(Ordering::SeqCst), 7);
    }

    #[test]
    fn a_page_cannot_be_shrunk_and_a_foreign_file_is_no_page() {
        let fd = create().unwrap();
        assert!(ftruncate(&fd, 0).is_err());
        assert!(Page::map(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
