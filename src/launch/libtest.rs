//! Whether this process is a test binary whose `main` belongs to the standard test harness. It does not know what to do
//! about it.

use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;

use memchr::memmem::Finder;

/// Whether this process runs the standard test harness, whose `main` cannot have passed `Worker::init()`.
///
/// Read once from the executable, when somebody asks. A test with `harness = false` has a `main` of its own, and so has a
/// documentation test.
pub(crate) fn in_libtest() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    // Documentation tests of one crate are merged into one binary with the harness in it, which runs itself once per
    // test, with this in the environment: the process of a test calls that test's main and not the harness.
    const MERGED_DOCTEST: &str = "RUSTDOC_DOCTEST_RUN_NB_TEST";
    *ANSWER.get_or_init(|| {
        std::env::var_os(MERGED_DOCTEST).is_none()
            && File::open("/proc/self/exe").and_then(carries_libtest).unwrap_or(false)
    })
}

/// Whether the harness is linked into this executable: then it has the places at which the harness can panic, and stripping
/// does not remove those.
fn carries_libtest(mut executable: impl Read) -> io::Result<bool> {
    /// Large enough that the search is what costs, small enough to go unnoticed.
    const PIECE: usize = 256 << 10;
    // Put together here so that no program carries it because of us.
    let needle = ["library", "test", "src", ""].join("/");
    let finder = Finder::new(&needle);
    let mut piece = vec![0; PIECE];
    let mut kept = 0;
    loop {
        let n = executable.read(&mut piece[kept..])?;
        let filled = kept + n;
        if n == 0 || finder.find(&piece[..filled]).is_some() {
            return Ok(n > 0);
        }
        // The needle may be cut in two by the piece's end.
        let start = filled.saturating_sub(needle.len() - 1);
        piece.copy_within(start..filled, 0);
        kept = filled - start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_binary_is_recognised() {
        assert!(in_libtest());
    }

    #[test]
    fn other_programs_are_not_taken_for_test_binaries() {
        // A large program in Rust that handles tests, and one in C.
        for program in [env!("CARGO"), "/bin/sh"] {
            assert!(!carries_libtest(File::open(program).unwrap()).unwrap(), "{program}");
        }
    }

    #[test]
    fn the_needle_is_found_wherever_a_read_cuts_it() {
        let mark = ["library", "test", "src", "lib.rs"].join("/");
        for cut in 0..mark.len() {
            let (head, tail) = mark.split_at(cut);
            let padded = vec![b'x'; 300];
            let text = padded.chain(head.as_bytes()).chain(tail.as_bytes());
            assert!(carries_libtest(text).unwrap(), "cut at {cut}");
        }
        assert!(!carries_libtest(mark.replace("src", "sr").as_bytes()).unwrap());
        assert!(!carries_libtest(io::empty()).unwrap());
    }
}
