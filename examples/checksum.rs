//! Prints the SHA-256 of every file below a directory, computed by a pool of worker processes.
//!
//! ```text
//! cargo run --release --example checksum -- --workers 4 photos > SUMS
//! sha256sum -c SUMS
//! ```
//!
//! The lines come in the order of the paths and are, byte for byte, those of GNU `sha256sum`. Hidden files count,
//! symbolic links are not followed. What cannot be read is reported on standard error and makes the exit status 1; the
//! others are not lost. At the end standard error gets a summary:
//!
//! ```text
//! 5000 files, 734003200 bytes, 0.61 s, 1203.3 MB/s; tasks per worker: 1254 1248 1239 1259
//! ```
//!
//! With `--nested` the lines are the same, but a task walks and reads one directory and hands those in it to tasks one level
//! further down. The lines come when all is done, and the summary counts the files that each worker has read, of all levels.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, StdoutLock, Write};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use clap::Parser;
use futures::StreamExt;
use futures::stream::SelectAll;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use procpool::{Context, Emitter, ErrorKind, Pool, StreamTask, Task, Worker};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

/// Print the SHA-256 of every file below a directory, as sha256sum does, on several processes.
#[derive(Parser)]
struct Args {
    /// How many worker processes [default: one per available core]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Walk by tasks within tasks, one for each directory
    #[arg(long)]
    nested: bool,
    /// Where to begin
    #[arg(default_value = ".")]
    directory: PathBuf,
}

/// Reads one file.
#[derive(Serialize, Deserialize)]
struct Checksum {
    /// The file's place in the list. Answers come in any order; it comes back with them.
    index: usize,
    path: OsString,
}

#[derive(Serialize, Deserialize)]
struct Sum {
    digest: [u8; 32],
    bytes: u64,
}

/// The message of what went wrong is all that anyone needs of it.
type Outcome = Result<Sum, String>;

impl Task for Checksum {
    const NAME: &'static str = "checksum";
    type Output = (usize, Outcome);

    async fn run(self, cx: Context) -> (usize, Outcome) {
        (self.index, sum(&self.path, &cx).map_err(|error| error.to_string()))
    }
}

/// Walks and reads one directory, and has those in it walked one level further down.
#[derive(Serialize, Deserialize)]
struct Walk(PathBuf);

/// What a walk comes across.
#[derive(Serialize, Deserialize)]
enum Found {
    File { path: OsString, outcome: Outcome, worker: u32 },
    Unlisted(String),
}

impl StreamTask for Walk {
    const NAME: &'static str = "walk";
    type Item = Found;

    async fn run(self, cx: Context, out: Emitter<Found>) {
        let mut folders = vec![self.0];
        while let Some(folder) = folders.pop() {
            let (mut files, mut below) = (Vec::new(), Vec::new());
            for entry in WalkDir::new(folder).max_depth(1) {
                match entry {
                    Ok(entry) if entry.file_type().is_file() => files.push(entry.into_path()),
                    Ok(entry) if entry.file_type().is_dir() && entry.depth() == 1 => {
                        below.push(entry.into_path());
                    }
                    Ok(_) => {}
                    Err(error) => drop(out.send(Found::Unlisted(error.to_string())).await),
                }
            }
            // They are walked while this one reads. At the deepest level there is no pool, and the loop goes on to them.
            let mut streams = SelectAll::new();
            if !below.is_empty()
                && let Ok(pool) = cx.pool()
            {
                streams.extend(below.drain(..).map(|folder| {
                    pool.stream(Self(folder.clone())).map(move |found| (folder.clone(), found))
                }));
            }
            folders.append(&mut below);
            for path in files.into_iter().map(PathBuf::into_os_string) {
                let outcome = sum(&path, &cx).map_err(|error| error.to_string());
                drop(out.send(Found::File { path, outcome, worker: std::process::id() }).await);
            }
            while let Some((folder, found)) = streams.next().await {
                match found {
                    Ok(found) => drop(out.send(found).await),
                    // There are as many processes as there may be, and none of them is one level down.
                    Err(error) if error.kind() == ErrorKind::LimitExceeded => folders.push(folder),
                    Err(error) => {
                        drop(out.send(Found::Unlisted(format!("{}: {error}", folder.display()))).await);
                    }
                }
            }
        }
    }
}

/// Blocks while it reads: a task may, its worker has nothing else to do.
fn sum(path: &OsStr, cx: &Context) -> io::Result<Sum> {
    let mut file = File::open(path)?;
    // Small files, which are most, do not pay for a large buffer; large files get by with few calls.
    let size = file.metadata()?.len().clamp(4 << 10, 256 << 10);
    let mut buffer = vec![0; size as usize];
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    loop {
        if cx.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Sum { digest: hasher.finalize().into(), bytes }),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn main() -> ExitCode {
    Worker::new().task::<Checksum>().stream::<Walk>().init();

    match run(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        // Whoever read our lines, `head` for one, has had enough of them.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("checksum: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Does the job and returns how many files or directories could not be read.
#[tokio::main(flavor = "current_thread")]
async fn run(args: &Args) -> io::Result<usize> {
    let start = Instant::now();
    let (report, tasks, unlisted) = if args.nested { nested(args).await? } else { flat(args).await? };
    let seconds = start.elapsed().as_secs_f64();
    let tasks: Vec<_> = tasks.iter().map(ToString::to_string).collect();
    complain(&format!(
        "{} files, {} bytes, {seconds:.2} s, {:.1} MB/s; tasks per worker: {}",
        report.files,
        report.bytes,
        report.bytes as f64 / 1e6 / seconds,
        tasks.join(" ")
    ));
    Ok(unlisted + report.unreadable)
}

/// What is reported in the end, how many tasks each worker has done, and how much could not be listed.
type Done = (Report<BufWriter<StdoutLock<'static>>>, Vec<u64>, usize);

/// One task for each file, on the workers of one pool.
async fn flat(args: &Args) -> io::Result<Done> {
    let mut builder = Pool::builder();
    if let Some(n) = args.workers {
        builder = builder.workers(n.get());
    }
    // The list is made while the workers start.
    let directory = args.directory.clone();
    let walking = thread::spawn(move || walk(&directory));
    let pool = builder.build().await?;

    let (paths, unlisted) = walking.join().map_err(|_| io::Error::other("listing the files failed"))?;
    for error in &unlisted {
        complain(&format!("checksum: {error}"));
    }
    let paths: Arc<[OsString]> = paths.into();
    let list = Arc::clone(&paths);
    let tasks = (0..paths.len()).map(move |index| Checksum { index, path: list[index].clone() });

    // As they are done and not in order, so that one large file delays neither the bar nor the files behind it.
    let mut answers = pool.map_unordered(tasks);
    let mut report = Report::new(paths, BufWriter::new(io::stdout().lock()));
    let terminal = io::stdout().is_terminal();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok((index, outcome)) => report.add(index, outcome)?,
            // The worker died over this file. The others are read by the one that takes its place.
            Err(error) => match error.index() {
                Some(index) => report.add(index as usize, Err(error.to_string()))?,
                None => return Err(error.into()),
            },
        }
        if terminal {
            report.flush()?;
        }
    }
    report.flush()?;
    report.bar.finish_and_clear();
    let finished = pool.stats().workers.iter().map(|worker| worker.finished).collect();
    Ok((report, finished, unlisted.len()))
}

/// One task for each directory, on the workers of a tree of pools.
async fn nested(args: &Args) -> io::Result<Done> {
    let places = args.workers.map_or_else(thread::available_parallelism, Ok)?;
    let places = u32::try_from(places.get()).map_err(io::Error::other)?;
    // Its one task is the outermost directory.
    let pool = Pool::builder().workers(1).places(places).build().await?;
    let mut walk = pool.stream(Walk(args.directory.clone()));
    let (mut files, mut workers, mut unlisted) = (BTreeMap::new(), BTreeMap::new(), 0);
    while let Some(found) = walk.next().await {
        match found? {
            Found::File { path, outcome, worker } => {
                *workers.entry(worker).or_default() += 1;
                files.insert(path, outcome);
            }
            Found::Unlisted(error) => {
                complain(&format!("checksum: {error}"));
                unlisted += 1;
            }
        }
    }
    let (paths, outcomes): (Vec<_>, Vec<_>) = files.into_iter().unzip();
    let mut report = Report::new(paths.into(), BufWriter::new(io::stdout().lock()));
    for (index, outcome) in outcomes.into_iter().enumerate() {
        report.add(index, outcome)?;
    }
    report.flush()?;
    report.bar.finish_and_clear();
    Ok((report, workers.into_values().collect(), unlisted))
}

/// The regular files at or below `root` in the order of their bytes, and what could not be listed.
fn walk(root: &Path) -> (Vec<OsString>, Vec<walkdir::Error>) {
    let (mut paths, mut errors) = (Vec::new(), Vec::new());
    for entry in WalkDir::new(root) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => paths.push(entry.into_path().into_os_string()),
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
    }
    paths.sort_unstable();
    (paths, errors)
}

/// Writes the lines in order while the answers come in any.
struct Report<W> {
    paths: Arc<[OsString]>,
    /// Answers that came before one that is still awaited.
    early: BTreeMap<usize, Outcome>,
    /// The first file that has no answer yet.
    next: usize,
    out: W,
    bar: ProgressBar,
    files: usize,
    bytes: u64,
    unreadable: usize,
}

impl<W: Write> Report<W> {
    fn new(paths: Arc<[OsString]>, out: W) -> Self {
        // Shows itself on a terminal only.
        let bar = ProgressBar::with_draw_target(Some(paths.len() as u64), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} files, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { paths, early: BTreeMap::new(), next: 0, out, bar, files: 0, bytes: 0, unreadable: 0 }
    }

    fn add(&mut self, index: usize, outcome: Outcome) -> io::Result<()> {
        self.bar.inc(1);
        self.early.insert(index, outcome);
        while let Some(outcome) = self.early.remove(&self.next) {
            let path = &self.paths[self.next];
            self.next += 1;
            match outcome {
                Ok(sum) => {
                    self.out.write_all(&line(&sum.digest, path))?;
                    self.files += 1;
                    self.bytes += sum.bytes;
                }
                Err(message) => {
                    self.bar.suspend(|| complain(&format!("checksum: {path:?}: {message}")));
                    self.unreadable += 1;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.bar.suspend(|| self.out.flush())
    }
}

/// What `sha256sum` prints for a file: a backslash in front says that the name is escaped.
fn line(digest: &[u8; 32], path: &OsStr) -> Vec<u8> {
    let mut line = Vec::with_capacity(2 * digest.len() + path.len() + 4);
    let name = path.as_bytes();
    if name.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
        line.push(b'\\');
    }
    for byte in digest {
        let hex = b"0123456789abcdef";
        line.extend([hex[usize::from(byte >> 4)], hex[usize::from(byte & 15)]]);
    }
    line.extend(b"  ");
    for &byte in name {
        match byte {
            b'\\' => line.extend(br"\\"),
            b'\n' => line.extend(br"\n"),
            b'\r' => line.extend(br"\r"),
            _ => line.push(byte),
        }
    }
    line.push(b'\n');
    line
}

/// Unlike `eprintln!` it does not mind when nobody listens.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &[u8]) -> Vec<u8> {
        line(&[0xab; 32], OsStr::from_bytes(name))
    }

    #[test]
    fn a_line_is_that_of_sha256sum() {
        let hex = "ab".repeat(32);
        let plain = |name: &[u8]| [hex.as_bytes(), b"  ", name, b"\n"].concat();
        let escaped = |name: &[u8]| [b"\\", hex.as_bytes(), b"  ", name, b"\n"].concat();
        assert_eq!(written(b"./a b"), plain(b"./a b"));
        assert_eq!(written(b"\xff\xfe\t"), plain(b"\xff\xfe\t"));
        assert_eq!(written(b"a\nb"), escaped(br"a\nb"));
        assert_eq!(written(b"a\rb"), escaped(br"a\rb"));
        assert_eq!(written(b"\\\n"), escaped(br"\\\n"));
    }

    #[test]
    fn lines_come_in_order_and_an_unreadable_file_takes_none_with_it() -> io::Result<()> {
        let paths = ["a", "b", "c", "d"].map(OsString::from);
        let sum = |byte| Ok(Sum { digest: [byte; 32], bytes: 10 });
        let mut report = Report::new(paths.into(), Vec::new());
        report.add(3, sum(3))?;
        report.add(2, Err("no".to_owned()))?;
        assert!(report.out.is_empty());
        assert_eq!(report.bar.position(), 2);
        report.add(0, sum(0))?;
        assert_eq!(report.out, line(&[0; 32], OsStr::new("a")));
        report.add(1, sum(1))?;
        let all = [(0, "a"), (1, "b"), (3, "d")].map(|(byte, name)| line(&[byte; 32], OsStr::new(name)));
        assert_eq!(report.out, all.concat());
        assert_eq!((report.files, report.bytes, report.unreadable), (3, 30, 1));
        Ok(())
    }
}
