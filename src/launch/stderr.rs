//! What one worker writes to its standard error: the end of it is kept for errors, its lines go to the log. It never stops
//! reading, since a worker whose pipe is full is stuck, and it never holds more than a few KiB.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::id::WorkerId;
use crate::sys::{ready, socket};

/// How much is read at once, which is what a pipe holds: less costs calls, more keeps the service thread from others.
const PIECE: usize = 64 << 10;

/// How much is read after a worker's end before that end is reported. Pipes hold at most 1 MiB unless root says otherwise;
/// without a bound, a process that the worker has left behind could write for ever.
const REST: usize = 1 << 20;

/// How much of the end is kept. A panic with a backtrace fits; each worker costs this much memory.
const KEPT: usize = 16 << 10;

/// How much of what is kept an error shows: some forty lines. More would bury what the error itself says.
const TAIL: usize = 4 << 10;

/// How long a line in the log may be. A line is held until it ends, so this is memory per worker.
const LINE: usize = 4 << 10;

/// How many bytes of lines may go to the log at once, and how many per second after that. Some thousand lines of ordinary
/// chatter pass; what a worker can do to the log's disk in an hour stays below 1 GiB.
const BURST: u64 = 1 << 20;
/// See [`BURST`].
const PER_SECOND: u64 = 256 << 10;
/// What a line costs on top of its bytes: a log adds a time, a level, a target.
const LINE_COST: u64 = 64;

/// The end of what a worker has written. Its process handle and its reader share it.
#[derive(Debug, Default)]
pub(super) struct Tail {
    kept: Mutex<VecDeque<u8>>,
}

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = (kept.len() + bytes.len()).saturating_sub(KEPT);
        kept.drain(..excess);
        kept.extend(bytes);
    }

    /// The last [`TAIL`] bytes, shown as text.
    pub(super) fn text(&self) -> String {
        self.last(TAIL)
    }

    /// All that is kept, shown as text.
    pub(super) fn whole(&self) -> String {
        self.last(KEPT)
    }

    fn last(&self, most: usize) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let cut = kept.len().saturating_sub(most);
        // Bytes that continue a character whose beginning was cut off.
        let torn =
            if cut == 0 { 0 } else { kept.range(cut..).take(3).take_while(|b| **b & 0xC0 == 0x80).count() };
        let bytes: Vec<u8> = kept.range(cut + torn..).copied().collect();
        drop(kept);
        printable(&bytes)
    }
}

/// Text with everything escaped that could do something to a terminal. Newlines and tabs stay.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !matches!(c, '\n' | '\t') { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Reads a worker's standard error, on the service thread.
#[derive(Debug)]
pub(super) struct Reader {
    /// `None` when it has ended or is no longer listened to.
    pipe: Option<AsyncFd<Arc<OwnedFd>>>,
    tail: Arc<Tail>,
    lines: Lines,
    log: Log,
}

/// Whose lines these are.
#[derive(Clone, Copy, Debug)]
struct Log {
    worker: WorkerId,
    pid: u32,
}

impl Reader {
    /// To be called on the service thread. Without a way to wait for the pipe, it is not read at all.
    pub(super) fn new(pipe: OwnedFd, tail: Arc<Tail>, worker: WorkerId, pid: u32) -> Self {
        let log = Log { worker, pid };
        let pipe = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(io::Error::from)
            .and_then(|_| ready::watch(pipe, Interest::READABLE))
            .inspect_err(|error| log.line(&format!("[not read: {error}]")))
            .ok();
        Self { pipe, tail, lines: Lines::new(Instant::now()), log }
    }

    pub(super) fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Waits for bytes, takes at most [`PIECE`] of them and lets others have their turn. Never resolves once the pipe has
    /// ended.
    ///
    /// # Cancel safety
    ///
    /// What was read has been dealt with before the next await.
    pub(super) async fn read(&mut self) {
        let Some(pipe) = &self.pipe else { return std::future::pending().await };
        let mut piece = Vec::new();
        let ended = loop {
            let Ok(mut ready) = pipe.readable().await else { break true };
            piece.reserve(PIECE);
            match socket::read_to_vec(pipe.as_fd(), &mut piece) {
                Ok(n) => break n == 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        self.take(&piece);
        if ended {
            self.close();
        }
        tokio::task::yield_now().await;
    }

    /// Takes what is there now, up to [`REST`], whatever the runtime knows of it.
    pub(super) fn drain(&mut self) {
        let mut rest = REST;
        while let Some(pipe) = self.pipe.as_ref().filter(|_| rest > 0) {
            let mut piece = Vec::with_capacity(PIECE);
            match socket::read_to_vec(pipe.as_fd(), &mut piece) {
                Ok(0) => self.close(),
                Ok(n) => {
                    self.take(&piece);
                    rest = rest.saturating_sub(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.close(),
            }
        }
    }

    /// Stops listening although somebody may still write: that one gets a broken pipe.
    pub(super) fn abandon(&mut self) {
        if self.is_open() {
            self.close();
            self.log
                .line("[no longer read: the worker has ended, a process that it started still writes here]");
        }
    }

    fn close(&mut self) {
        self.pipe = None;
        self.lines.finish(Instant::now(), &mut |line| self.log.line(line));
    }

    fn take(&mut self, piece: &[u8]) {
        self.tail.push(piece);
        self.lines.push(Instant::now(), piece, &mut |line| self.log.line(line));
    }
}

impl Log {
    /// What listens to the log is the user's code. If it panics, the worker must stay watched.
    fn line(&self, line: &str) {
        let Self { worker, pid } = *self;
        let _ = catch_unwind(AssertUnwindSafe(|| {
            tracing::info!(target: "procpool::worker", worker = worker.serial, pid, "{line}");
        }));
    }
}

/// Cuts what a worker writes into lines and says which of them go to the log. Knows time only as it is told.
#[derive(Debug)]
struct Lines {
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    /// The line was too long and has been dealt with: its rest is dropped.
    cut: bool,
    /// How many bytes may go to the log, as of `at`.
    allowance: u64,
    at: Instant,
    /// How many lines have not gone to the log since the last that has.
    suppressed: u64,
}

impl Lines {
    fn new(now: Instant) -> Self {
        Self { begun: Vec::new(), cut: false, allowance: BURST, at: now, suppressed: 0 }
    }

    fn push(&mut self, now: Instant, bytes: &[u8], log: &mut dyn FnMut(&str)) {
        self.refill(now);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            if !self.cut {
                let room = LINE - self.begun.len();
                self.begun.extend_from_slice(&text[..text.len().min(room)]);
                if text.len() > room {
                    self.cut = true;
                    self.emit(" [the rest of the line is dropped]", log);
                }
            }
            if ended {
                self.emit("", log);
                self.cut = false;
            }
        }
    }

    /// The line that was begun will not be ended.
    fn finish(&mut self, now: Instant, log: &mut dyn FnMut(&str)) {
        self.refill(now);
        self.emit("", log);
        self.note(log);
    }

    fn refill(&mut self, now: Instant) {
        let earned = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        let earned = earned.saturating_mul(PER_SECOND) / 1000;
        // Parts of a millisecond are not lost: the clock is only moved on when something was earned.
        if earned > 0 {
            self.allowance = self.allowance.saturating_add(earned).min(BURST);
            self.at = now;
        }
    }

    fn emit(&mut self, ending: &str, log: &mut dyn FnMut(&str)) {
        let begun = std::mem::take(&mut self.begun);
        let line = begun.strip_suffix(b"\r").unwrap_or(&begun);
        if line.is_empty() {
            return;
        }
        let cost = line.len() as u64 + LINE_COST;
        if self.allowance < cost {
            self.suppressed += 1;
            return;
        }
        self.allowance -= cost;
        self.note(log);
        log(&format!("{}{ending}", printable(line)));
    }

    fn note(&mut self, log: &mut dyn FnMut(&str)) {
        match std::mem::take(&mut self.suppressed) {
            0 => {}
            1 => log("[1 line suppressed]"),
            n => log(&format!("[{n} lines suppressed]")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn log(pieces: &[&[u8]]) -> Vec<String> {
        let now = Instant::now();
        let (mut lines, mut out) = (Lines::new(now), Vec::new());
        for piece in pieces {
            lines.push(now, piece, &mut |line| out.push(line.to_owned()));
        }
        lines.finish(now, &mut |line| out.push(line.to_owned()));
        out
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let text = b"one\ntwo\r\n\n\tthree \xc3\xa4\nfour";
        let whole = log(&[text]);
        assert_eq!(whole, ["one", "two", "\tthree \u{e4}", "four"]);
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            assert_eq!(log(&[head, tail]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut_once_and_the_next_line_is_whole() {
        let long = vec![b'x'; 3 * LINE];
        let lines = log(&[&long, &long, b"\nnext\n"]);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("xxx") && lines[0].ends_with("dropped]") && lines[0].len() < LINE + 100);
        assert_eq!(lines[1], "next");
        // Exactly as long as a line may be.
        assert_eq!(log(&[&long[..LINE], b"\n"]), [String::from_utf8(long[..LINE].to_vec()).unwrap()]);
    }

    #[test]
    fn control_characters_cannot_reach_a_terminal() {
        assert_eq!(
            log(&[b"\x1b[31mred\x07\rover\0\xff\x9b\n"]),
            ["\\u{1b}[31mred\\u{7}\\rover\\u{0}\u{fffd}\u{fffd}"]
        );
        assert_eq!(printable("a\u{9b}b".as_bytes()), "a\\u{9b}b");
    }

    #[test]
    fn a_flood_is_suppressed_counted_and_forgiven() {
        let mut now = Instant::now();
        let (mut lines, mut out) = (Lines::new(now), Vec::new());
        let flood = b"0123456789\n".repeat(100_000);
        lines.push(now, &flood, &mut |line| out.push(line.to_owned()));
        let passed = out.len();
        assert_eq!(passed as u64, BURST / (10 + LINE_COST));
        now += Duration::from_secs(1);
        lines.push(now, b"later\n", &mut |line| out.push(line.to_owned()));
        assert_eq!(out[passed..], [format!("[{} lines suppressed]", 100_000 - passed), "later".to_owned()]);
        // Time that comes in crumbs counts as well.
        lines.push(now, &flood, &mut |_| {});
        let before = lines.allowance;
        for _ in 0..10_000 {
            now += Duration::from_micros(100);
            lines.push(now, b"", &mut |_| {});
        }
        assert!(lines.allowance >= before + PER_SECOND * 9 / 10, "{} of {PER_SECOND}", lines.allowance);
    }

    #[test]
    fn the_tail_is_the_end_and_begins_with_a_whole_character() {
        let tail = Tail::default();
        assert_eq!(tail.text(), "");
        tail.push(b"short");
        assert_eq!(tail.text(), "short");
        for round in 0..1000 {
            tail.push(format!("line {round}\n").repeat(10).as_bytes());
        }
        assert_eq!(tail.kept.lock().unwrap().len(), KEPT);
        assert!(tail.text().ends_with("line 999\n") && tail.text().len() == TAIL);
        tail.push(&b"y".repeat(5 * KEPT));
        assert_eq!(tail.text(), "y".repeat(TAIL));
        tail.push("\u{20ac}".repeat(2000).as_bytes());
        assert_eq!(tail.text(), "\u{20ac}".repeat(TAIL / 3));
        assert!(tail.kept.lock().unwrap().capacity() <= 2 * KEPT);
    }
}
