//! W2c: 100 000 no-ops through `map`, beside what `multiprocessing.Pool.map` of Python makes of them with chunks of its
//! own choice.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use futures::StreamExt;

use crate::table::Table;
use crate::{Noop, TASKS, pool};

/// A pool of two, forked; for every line that it reads it maps once and says how long that took.
const PYTHON: &str = "
import multiprocessing, sys, time
def noop(n): return n
if __name__ == '__main__':
    with multiprocessing.get_context('fork').Pool(2) as pool:
        for line in sys.stdin:
            count = int(line)
            start = time.perf_counter()
            out = pool.map(noop, range(count))
            print(time.perf_counter() - start, flush=True)
            assert out == list(range(count))
";

pub(crate) async fn w2c(table: &mut Table) {
    let pool = pool(2).await;
    let mut python = Python::start();
    for round in 0..9 {
        let start = Instant::now();
        let mut answers = pool.map((0..TASKS).map(Noop));
        let mut n = 0;
        while let Some(answer) = answers.next().await {
            assert_eq!(answer.expect("an answer"), n);
            n += 1;
        }
        assert_eq!(n, TASKS);
        let rate = TASKS as f64 / start.elapsed().as_secs_f64();
        let theirs = python.as_mut().map_or(f64::NAN, |python| python.rate(TASKS));
        if round > 0 {
            table.round("W2c", "tasks/s", rate, theirs);
        }
    }
    if python.is_none() {
        println!("W2c: no python3, so nothing to lay it beside");
    }
    table.judge("W2c", |rate, theirs| (rate / theirs, ">= 1.0x", rate / theirs >= 1.0));
    table.stretch("W2c", "1.5-2x");
}

struct Python {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Python {
    fn start() -> Option<Self> {
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let answers = BufReader::new(child.stdout.take()?);
        Some(Self { child, answers })
    }

    fn rate(&mut self, tasks: u64) -> f64 {
        let input = self.child.stdin.as_mut().expect("its standard input");
        writeln!(input, "{tasks}").expect("a line to Python");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a line from Python");
        tasks as f64 / line.trim().parse::<f64>().expect("seconds from Python")
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
