//! What the kernel itself can do, with nothing of procpool in it: the lengths that the workloads are laid beside.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::Pid;

/// A frame of the windowed echo, and a message of the ping-pong.
const FRAME: usize = 16;

/// A child that echoes everything, and our non-blocking end of the socket pair to it.
struct Peer {
    child: Child,
    socket: UnixStream,
}

impl Peer {
    fn start() -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let input = theirs.try_clone().expect("a descriptor");
        let child = Command::new("/proc/self/exe")
            .arg0("procpool-yardstick")
            .arg("yardstick")
            .stdin(Stdio::from(OwnedFd::from(input)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("the yardstick's child");
        ours.set_nonblocking(true).expect("a non-blocking socket");
        Self { child, socket: ours }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs in the child: gives back what comes, as it comes.
pub(crate) fn child() {
    let mut input = std::io::stdin().lock();
    let output = std::io::stdout().as_fd().try_clone_to_owned().expect("a descriptor");
    let mut output = std::fs::File::from(output);
    let mut buffer = vec![0; 256 << 10];
    while let Ok(n @ 1..) = input.read(&mut buffer) {
        if output.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

fn epoll(peers: &[Peer], flags: EpollFlags) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    for (n, peer) in peers.iter().enumerate() {
        epoll.add(&peer.socket, EpollEvent::new(flags, n as u64)).expect("epoll");
    }
    epoll
}

fn wait(epoll: &Epoll, events: &mut [EpollEvent]) -> usize {
    epoll.wait(events, EpollTimeout::NONE).expect("epoll")
}

fn pin(process: Pid, processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("a processor");
    sched_setaffinity(process, &set).expect("a machine with two processors");
}

/// One message in flight.
pub(crate) struct PingPong {
    peer: [Peer; 1],
}

impl PingPong {
    pub(crate) fn start() -> Self {
        Self { peer: [Peer::start()] }
    }

    /// On two processors: on one, where the kernel puts such a pair now and then, a switch costs a fifth of a wake-up, and
    /// nobody chooses which it is.
    pub(crate) fn p50_us(&mut self, count: usize) -> f64 {
        let before = sched_getaffinity(Pid::from_raw(0)).expect("the processors");
        let child = Pid::from_raw(self.peer[0].child.id().cast_signed());
        pin(Pid::from_raw(0), 0);
        pin(child, 1);
        let p50 = self.unpinned_p50_us(count);
        sched_setaffinity(Pid::from_raw(0), &before).expect("the processors back");
        p50
    }

    fn unpinned_p50_us(&mut self, count: usize) -> f64 {
        let epoll = epoll(&self.peer, EpollFlags::EPOLLIN);
        let socket = &mut self.peer[0].socket;
        let mut times = Vec::new();
        let mut events = [EpollEvent::empty()];
        for _ in 0..count {
            let start = Instant::now();
            socket.write_all(&[1; FRAME]).expect("a write");
            wait(&epoll, &mut events);
            let mut message = [0; FRAME];
            socket.read_exact(&mut message).expect("a read");
            times.push(start.elapsed());
        }
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    }
}

/// Many small frames in flight, coalesced both ways.
pub(crate) struct Echo {
    peers: Vec<Peer>,
}

impl Echo {
    pub(crate) fn start(peers: usize) -> Self {
        Self { peers: (0..peers).map(|_| Peer::start()).collect() }
    }

    pub(crate) fn frames_per_second(&mut self, frames: u64, window: usize) -> f64 {
        let epoll = epoll(&self.peers, EpollFlags::EPOLLIN);
        let start = Instant::now();
        let mut left = frames as usize * FRAME;
        for peer in &mut self.peers {
            peer.socket.write_all(&vec![1; window * FRAME]).expect("a write");
        }
        let mut events = vec![EpollEvent::empty(); self.peers.len()];
        let mut buffer = vec![0; window * FRAME];
        // What is in flight at the end is read as well, so that the next round starts clean.
        let mut owed = self.peers.len() * window * FRAME;
        while owed > 0 {
            let ready = wait(&epoll, &mut events);
            for event in &events[..ready] {
                let socket = &mut self.peers[event.data() as usize].socket;
                let n = socket.read(&mut buffer).expect("a read");
                owed -= n;
                let more = n.min(left);
                left -= more;
                owed += more;
                socket.write_all(&buffer[..more]).expect("a write");
            }
        }
        frames as f64 / start.elapsed().as_secs_f64()
    }
}

/// One large message in flight.
pub(crate) struct Bulk {
    peer: [Peer; 1],
}

impl Bulk {
    pub(crate) fn start() -> Self {
        Self { peer: [Peer::start()] }
    }

    /// Counts both directions.
    pub(crate) fn megabytes_per_second(&mut self, size: usize, count: usize) -> f64 {
        let epoll = epoll(&self.peer, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET);
        let socket = &mut self.peer[0].socket;
        let message = vec![1; size];
        let mut answer = vec![0; size];
        let mut events = [EpollEvent::empty()];
        let start = Instant::now();
        for _ in 0..count {
            let (mut sent, mut received) = (0, 0);
            while received < size {
                let mut moved = false;
                if sent < size
                    && let Ok(n) = socket.write(&message[sent..])
                {
                    sent += n;
                    moved = true;
                }
                if let Ok(n) = socket.read(&mut answer[received..]) {
                    received += n;
                    moved = true;
                }
                if !moved {
                    wait(&epoll, &mut events);
                }
            }
        }
        (2 * size * count) as f64 / start.elapsed().as_secs_f64() / 1e6
    }
}

/// The fixed list of naps: Pareto with shape 1.3 between 1 and 250 ms, from a linear congruential generator (Knuth's
/// MMIX constants) so that every run has the same.
pub(crate) fn pareto_us(count: usize) -> Vec<u64> {
    let mut state: u64 = 42;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    (0..count).map(|_| (1000.0 / uniform().powf(1.0 / 1.3)).min(250_000.0) as u64).collect()
}

/// How much memory this process has, in MiB.
pub(crate) fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096.0 / f64::from(1 << 20)
}
