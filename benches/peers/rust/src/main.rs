//! One workload on procspawn's pool, or on two processes with raw ipc-channels; prints one JSON object.
//! usage: peers (procspawn|ipc-channel) WORKLOAD

use std::collections::{HashSet, VecDeque};
use std::env;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender};
use procspawn::{JoinHandle, Pool};

const TASKS: u64 = 100_000;

fn main() {
    if env::args().nth(1).as_deref() == Some("child") {
        return child(env::args().nth(2).expect("a name"));
    }
    procspawn::init();
    let [_, peer, work] = &env::args().collect::<Vec<_>>()[..] else { panic!("usage: peers PEER WORKLOAD") };
    let (kind, size) = work.split_once('_').unwrap_or((work, "2"));
    let size: usize = size.parse().expect("a number");
    let value = match &**peer {
        "procspawn" => procspawn(kind, size),
        "ipc-channel" => ipc_channel(kind, size),
        _ => panic!("no such peer"),
    };
    println!("{{\"value\":{}}}", value.map_or("null".to_owned(), |value| value.to_string()));
    // Who started this ends what is left.
    std::process::exit(0);
}

fn median(times: impl Iterator<Item = f64>) -> f64 {
    let mut times: Vec<_> = times.collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn timed<T>(f: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// Seconds, the same list as in the other languages.
fn pareto() -> Vec<f64> {
    let mut seed = 7_u64;
    let naps = (0..1000).map(|_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = ((seed >> 11) as f64 + 1.0) / ((1_u64 << 53) as f64 + 1.0);
        (0.001 / uniform.powf(1.0 / 1.3)).min(0.25)
    });
    naps.collect()
}

fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    statm.split(' ').nth(1).expect("a second field").parse::<f64>().expect("pages") * 4096.0
}

fn nap(pool: &Pool, seconds: f64) -> JoinHandle<u32> {
    procspawn::spawn!(in pool, (seconds) || {
        sleep(Duration::from_secs_f64(seconds));
        std::process::id()
    })
}

fn procspawn(kind: &str, size: usize) -> Option<f64> {
    let start = Instant::now();
    let workers = if matches!(kind, "W4" | "W7") { size } else { 2 };
    let pool = Pool::new(workers).expect("a pool");
    if kind == "W4" {
        let mut seen = HashSet::new();
        while seen.len() < workers {
            let runs: Vec<_> = (0..workers).map(|_| nap(&pool, 0.001)).collect();
            seen.extend(runs.into_iter().map(|run| run.join().expect("an answer")));
        }
        return Some(start.elapsed().as_secs_f64() * 1e3);
    }
    let noop = |n: u64| procspawn::spawn!(in pool, (n) || n);
    for n in 0..100 {
        noop(n).join().expect("an answer");
    }
    match kind {
        "W1" => Some(median((0..2000).map(|n| timed(|| noop(n).join()))) * 1e6),
        "W2" => {
            let tasks = TASKS / 5;
            let time = timed(|| {
                let mut window = VecDeque::new();
                for n in 0..tasks {
                    if window.len() == 500 {
                        window.pop_front().map(JoinHandle::join);
                    }
                    window.push_back(noop(n));
                }
                window.into_iter().for_each(|run| drop(run.join()));
            });
            Some(tasks as f64 / time)
        }
        "W3" => {
            let data = vec![7_u8; size << 20];
            let times = (0..if size == 1 { 30 } else { 3 }).map(|_| {
                let data = data.clone();
                timed(|| procspawn::spawn!(in pool, (data) || data).join().expect("an answer"))
            });
            Some(2.0 * (size << 20) as f64 / median(times) / 1e6)
        }
        "W7" => {
            let naps = pareto();
            let bound =
                (naps.iter().sum::<f64>() / workers as f64).max(naps.iter().copied().fold(0.0, f64::max));
            let time = timed(|| {
                let runs: Vec<_> = naps.iter().map(|&seconds| nap(&pool, seconds)).collect();
                runs.into_iter().for_each(|run| drop(run.join()));
            });
            Some(time / bound)
        }
        "W8" => {
            let _busy = [nap(&pool, 600.0), nap(&pool, 600.0)];
            let before = resident();
            let runs: Vec<_> = (0..2000).map(noop).collect();
            let grown = resident() - before;
            println!("{{\"value\":{}}}", grown / runs.len() as f64);
            std::process::exit(0);
        }
        _ => None,
    }
}

type Ends = (IpcSender<u64>, IpcReceiver<u64>, IpcBytesSender, IpcBytesReceiver);

/// The other end: answers numbers and bytes with themselves.
fn child(name: String) {
    let (send, numbers) = ipc::channel::<u64>().expect("a channel");
    let (answer, answers) = ipc::channel::<u64>().expect("a channel");
    let (pour, bytes) = ipc::bytes_channel().expect("a channel");
    let (back, echoes) = ipc::bytes_channel().expect("a channel");
    let server = IpcSender::<Ends>::connect(name).expect("the parent");
    server.send((send, answers, pour, echoes)).expect("the parent");
    std::thread::spawn(move || {
        while let Ok(data) = bytes.recv() {
            back.send(&data).expect("the parent");
        }
    });
    while let Ok(n) = numbers.recv() {
        if answer.send(n).is_err() {
            return;
        }
    }
}

fn ipc_channel(kind: &str, size: usize) -> Option<f64> {
    let start = Instant::now();
    let program = env::current_exe().expect("this program");
    let servers: Vec<(IpcOneShotServer<Ends>, Child)> = (0..if kind == "W4" { size } else { 2 })
        .map(|_| {
            let (server, name) = IpcOneShotServer::new().expect("a server");
            (server, Command::new(&program).args(["child", &name]).spawn().expect("a child"))
        })
        .collect();
    let ends: Vec<Ends> =
        servers.into_iter().map(|(server, _)| server.accept().expect("a greeting").1).collect();
    let call = |at: usize, n: u64| {
        ends[at].0.send(n).expect("a child");
        ends[at].1.recv().expect("an answer")
    };
    match kind {
        "W1" => Some(median((0..2000).map(|n| timed(|| call(0, n)))) * 1e6),
        "W2" => Some(TASKS as f64 / timed(|| windowed(&ends))),
        "W3" => {
            let data = vec![7_u8; size << 20];
            let times = (0..if size == 1 { 30 } else { 3 }).map(|_| {
                timed(|| {
                    ends[0].2.send(&data).expect("a child");
                    ends[0].3.recv().expect("an answer")
                })
            });
            Some(2.0 * data.len() as f64 / median(times) / 1e6)
        }
        "W4" => {
            assert!((0..ends.len()).all(|at| call(at, 1) == 1));
            Some(start.elapsed().as_secs_f64() * 1e3)
        }
        _ => None,
    }
}

/// Keeps 64 numbers under way with each of two processes.
fn windowed(ends: &[Ends]) {
    let (mut sent, mut got, mut away) = (0, 0, [0; 2]);
    while got < TASKS {
        for (at, away) in away.iter_mut().enumerate() {
            while *away < 64 && sent < TASKS {
                ends[at].0.send(sent).expect("a child");
                (sent, *away) = (sent + 1, *away + 1);
            }
        }
        for (at, away) in away.iter_mut().enumerate() {
            if *away > 0 {
                ends[at].1.recv().expect("an answer");
                (got, *away) = (got + 1, *away - 1);
                while *away > 0 && ends[at].1.try_recv().is_ok() {
                    (got, *away) = (got + 1, *away - 1);
                }
            }
        }
    }
}
