//! Writing as a C library would, past Rust's standard streams. Only tests do.

/// Prints a line with C's own buffered output, and flushes it.
pub(crate) fn print_in_c() {
    // SAFETY: a constant format without arguments, and a flush of every stream.
    unsafe {
        libc::printf(c"printf\n".as_ptr());
        libc::fflush(std::ptr::null_mut());
    }
}
