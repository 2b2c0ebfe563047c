//! Bulk: blobs of every size arrive whole, wherever they are in a value, whatever happens to the workers.

mod support;

use std::future::pending;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use nix::sys::socket::{MsgFlags, send};
use procpool::{Blob, Context, Emitter, ErrorKind, Pool, StreamTask, Task};
use serde::{Deserialize, Serialize};
use support::*;

procpool::worker_test!(
    support::worker()
        .task::<Mix>()
        .task::<Tally>()
        .task::<Hold>()
        .task::<Keep>()
        .task::<Pass>()
        .task::<Lie>()
        .stream::<Grow>()
        .stream::<Part>()
);

/// Gives back its blobs in reverse order, with a fresh one behind each.
#[derive(Clone, Serialize, Deserialize)]
struct Mix {
    name: String,
    blobs: Vec<Option<Blob>>,
    last: Blob,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mixed {
    blobs: Vec<(Blob, Blob)>,
    name: String,
}

impl Mix {
    fn new(sizes: &[usize]) -> Self {
        let blobs = sizes.iter().map(|size| Some(blob(*size))).collect();
        Self { name: "mix".into(), blobs, last: blob(sizes.len()) }
    }

    fn mixed(self) -> Mixed {
        let blobs = self.blobs.into_iter().flatten().chain([self.last]).rev();
        let blobs = blobs.map(|blob| (blob.clone(), vec![sum(&blob) as u8; blob.len()].into())).collect();
        Mixed { blobs, name: self.name }
    }
}

impl Task for Mix {
    const NAME: &'static str = "mix";
    type Output = Mixed;

    async fn run(self, _: Context) -> Mixed {
        self.mixed()
    }
}

/// Adds up bytes of a blob.
#[derive(Serialize, Deserialize)]
struct Tally(Blob);

impl Task for Tally {
    const NAME: &'static str = "tally";
    type Output = u64;

    async fn run(self, _: Context) -> u64 {
        sum(&self.0)
    }
}

/// Keeps a blob until it is cancelled, and notes that it does.
#[derive(Serialize, Deserialize)]
struct Hold {
    blob: Blob,
    note: PathBuf,
}

impl Task for Hold {
    const NAME: &'static str = "hold";
    type Output = ();

    async fn run(self, cx: Context) {
        note(&self.note, "held");
        cx.cancelled().await;
        drop(self.blob);
    }
}

/// Leaves a blob with the worker, for good, or lets go of all that were left there. Adds up bytes of all of them.
#[derive(Serialize, Deserialize)]
enum Keep {
    This(Blob),
    Nothing,
}

static KEPT: Mutex<Vec<Blob>> = Mutex::new(Vec::new());

impl Task for Keep {
    const NAME: &'static str = "keep";
    type Output = u64;

    async fn run(self, _: Context) -> u64 {
        let mut kept = KEPT.lock().unwrap();
        match self {
            Self::This(blob) => kept.push(blob),
            Self::Nothing => kept.clear(),
        }
        kept.iter().map(|blob| sum(blob)).sum()
    }
}

/// Passes a task on to the pool of its worker.
#[derive(Serialize, Deserialize)]
struct Pass(Mix);

impl Task for Pass {
    const NAME: &'static str = "pass";
    type Output = Mixed;

    async fn run(self, cx: Context) -> Mixed {
        cx.pool().unwrap().run(self.0).await.unwrap()
    }
}

/// Says something to the pool past the library, and waits for what becomes of it.
#[derive(Serialize, Deserialize)]
struct Lie(Vec<u8>);

impl Task for Lie {
    const NAME: &'static str = "lie";
    type Output = ();

    async fn run(self, _: Context) {
        for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
            let entry = entry.unwrap().path();
            let is_socket =
                std::fs::read_link(&entry).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
            if is_socket {
                let number = entry.file_name().unwrap().to_str().unwrap().parse().unwrap();
                // The runtime's own are not harmed by a few bytes.
                let _ = send(number, &self.0, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
            }
        }
        pending().await
    }
}

/// Gives blobs of growing size.
#[derive(Serialize, Deserialize)]
struct Grow {
    step: usize,
    items: usize,
}

impl StreamTask for Grow {
    const NAME: &'static str = "grow";
    type Item = (usize, Blob);

    async fn run(self, _: Context, out: Emitter<(usize, Blob)>) {
        for n in 1..=self.items {
            if out.send((n, blob(n * self.step))).await.is_err() {
                return;
            }
        }
    }
}

/// Gives a blob whose memory gives another when it is let go of, and ends then.
#[derive(Serialize, Deserialize)]
struct Part;

struct Parting {
    bytes: Vec<u8>,
    out: Emitter<Blob>,
}

static PARTED: AtomicBool = AtomicBool::new(false);

impl AsRef<[u8]> for Parting {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Parting {
    fn drop(&mut self) {
        self.out.blocking_send(blob(1)).unwrap();
        PARTED.store(true, Ordering::SeqCst);
    }
}

impl StreamTask for Part {
    const NAME: &'static str = "part";
    type Item = Blob;

    async fn run(self, _: Context, out: Emitter<Blob>) {
        PARTED.store(false, Ordering::SeqCst);
        let parting = Parting { bytes: blob(MIB).to_vec(), out: out.clone() };
        out.send(Bytes::from_owner(parting).into()).await.unwrap();
        until(|| PARTED.load(Ordering::SeqCst)).await;
    }
}

/// Bytes that look different wherever they are cut.
fn blob(size: usize) -> Blob {
    let mut bytes = (0..=250).collect::<Vec<u8>>().repeat(size / 251 + 1);
    bytes.truncate(size);
    bytes.into()
}

/// Made of the length of some bytes and of one in a hundred.
fn sum(bytes: &[u8]) -> u64 {
    bytes.len() as u64 + bytes.iter().step_by(97).map(|byte| u64::from(*byte)).sum::<u64>()
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

#[test]
fn blobs_of_every_size_arrive_whole_and_in_their_places() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let sizes = [0, 1, 4 * KIB, 4 * KIB + 1, 32 * KIB, 32 * KIB + 1, 100_000, MIB + 3];
        for mix in [Mix::new(&[]), Mix::new(&sizes), Mix::new(&[100 * KIB; 40]), Mix::new(&[9 * MIB])] {
            assert_eq!(pool.run(mix.clone()).await.unwrap(), mix.mixed());
        }
    });
}

#[test]
fn many_large_blobs_in_flight_arrive_whole() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        let blobs: Vec<_> = (1..200).map(|n| blob(n * 3 * KIB)).collect();
        let sums = join_all(blobs.iter().map(|blob| pool.run(Tally(blob.clone())))).await;
        for (blob, counted) in blobs.iter().zip(sums) {
            assert_eq!(counted.unwrap(), sum(blob));
        }
    });
}

/// Memory that asks a pool something when it is let go of.
struct Curious {
    bytes: Vec<u8>,
    pool: Pool,
    gone: Arc<AtomicU32>,
}

impl AsRef<[u8]> for Curious {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        let _ = self.pool.stats();
        self.gone.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn memory_of_somebody_elses_is_let_go_of_when_the_pool_can_be_asked() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let gone = Arc::new(AtomicU32::new(0));
        let curious = |pool: &Pool| {
            let memory = Curious { bytes: vec![1; MIB], pool: pool.clone(), gone: Arc::clone(&gone) };
            Tally(Blob::from(Bytes::from_owner(memory)))
        };
        assert_eq!(pool.run(curious(&pool)).await.unwrap(), sum(&vec![1; MIB]));
        until(|| gone.load(Ordering::SeqCst) == 1).await;
        // Some on their way, some still waiting, when everything ends.
        let runs: Vec<_> = (0..8).map(|_| pool.run(curious(&pool))).collect();
        pool.abort().await;
        join_all(runs).await;
        until(|| gone.load(Ordering::SeqCst) == 9).await;
    });
}

/// The memory that a worker shares with this process, by its inode.
fn memory(worker: u32) -> Option<String> {
    let theirs = std::fs::read_to_string(format!("/proc/{worker}/maps")).unwrap();
    let memory = theirs.lines().find(|line| line.contains("memfd:procpool"))?;
    Some(memory.split_whitespace().nth(4).unwrap().to_owned())
}

/// How much of such memory this process has mapped and is present, in bytes.
fn present(inode: &str) -> usize {
    let ours = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut within = false;
    let sizes = ours.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        match (words.next()?, words.nth(3)) {
            (range, Some(theirs)) if range.contains('-') => within = theirs == inode,
            ("Rss:", _) if within => return line.split_whitespace().nth(1)?.parse::<usize>().ok(),
            _ => {}
        }
        None
    });
    sizes.sum::<usize>() * KIB
}

#[test]
fn ten_thousand_blobs_in_flight_arrive_whole() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(2).shared_memory(16 * MIB).build().await.unwrap();
        let mix = Mix { name: String::new(), blobs: vec![Some(blob(40 * KIB))], last: Blob::default() };
        let expected = mix.clone().mixed();
        let mut runs: FuturesUnordered<_> = (0..10_000).map(|_| pool.run(mix.clone())).collect();
        while let Some(mixed) = runs.next().await {
            assert!(mixed.unwrap() == expected);
        }
    });
}

#[test]
fn without_shared_memory_and_without_room_in_it_blobs_take_the_other_way() {
    // None, hardly any, too little for one of them, and more than any machine has.
    for bytes in [0, 1, 256 * KIB, 2 * MIB, usize::MAX / 4] {
        on_a_runtime(|| async {
            let pool = Pool::builder().workers(1).shared_memory(bytes).build().await.unwrap();
            let mixes = || (0..6).map(|n| Mix::new(&[40 * KIB, 300 * KIB + n, 5, 800 * KIB, 2 * MIB]));
            let mixed = join_all(mixes().map(|mix| pool.run(mix))).await;
            for (mix, mixed) in mixes().zip(mixed) {
                assert!(mixed.unwrap() == mix.mixed(), "{bytes}");
            }
        });
    }
}

#[test]
fn memory_of_a_task_is_let_go_of_when_its_worker_can_be_asked() {
    for bytes in [0, 4 * MIB] {
        on_a_runtime(|| async {
            let pool = Pool::builder().workers(1).shared_memory(bytes).build().await.unwrap();
            for _ in 0..10 {
                let mut items: Vec<_> = pool.stream(Part).map(Result::unwrap).collect().await;
                items.sort_by_key(|item| item.len());
                assert!(items == [blob(1), blob(MIB)]);
            }
        });
    }
}

#[test]
fn blobs_outlive_their_worker_and_their_pool() {
    for trusted in [false, true] {
        on_a_runtime(|| async {
            let pool = Pool::builder().workers(1).trusted_workers(trusted).build().await.unwrap();
            let pid = pids(&pool, 1).await[0];
            let mixes = || (0..20).map(|n| Mix::new(&[n * 50 * KIB, 5 * MIB]));
            let held = join_all(mixes().map(|mix| pool.run(mix))).await;
            let first = held[0].as_ref().unwrap().blobs[0].0.slice(1..);
            assert!(pool.run(Die::Abort).await.is_err());
            // What is sent now does not go where those lie.
            pool.run(Mix::new(&[9 * MIB])).await.unwrap();
            pool.abort().await;
            drop(pool);
            assert!(!exists(pid));
            for (mix, mixed) in mixes().zip(held) {
                assert!(mixed.unwrap() == mix.mixed(), "trusted: {trusted}");
            }
            assert_eq!(first, blob(2).slice(1..));
        });
    }
}

#[test]
fn workers_that_are_killed_over_bulk_take_nothing_else_along() {
    on_both_runtimes(|| async {
        let pool = quick(2).build().await.unwrap();
        let mix = Mix::new(&[6 * MIB, 100 * KIB]);
        for round in 0..3 {
            let mut runs: FuturesUnordered<_> = (0..12).map(|_| pool.run(mix.clone())).collect();
            for _ in 0..=round {
                runs.next().await.unwrap().unwrap();
            }
            // One may have done it all so far: the other was not there yet, or is new.
            let pids = pids(&pool, 2).await;
            let mut sharing = pids.into_iter().filter_map(|pid| Some((pid, memory(pid)?)));
            let (victim, memory) = sharing.find(|(_, memory)| present(memory) > 0).unwrap();
            kill(victim);
            let mut lost = 0;
            while let Some(mixed) = runs.next().await {
                match mixed {
                    Ok(mixed) => assert!(mixed == mix.clone().mixed()),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Crashed, "{error}");
                        lost += 1;
                    }
                }
            }
            assert!(lost <= 1, "{lost} tasks died with one worker");
            // Nothing of what was on its way is left.
            until(|| present(&memory) == 0).await;
        }
    });
}

#[test]
fn what_a_worker_keeps_of_its_inputs_stays_as_it_is_until_it_lets_go() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).shared_memory(8 * MIB).build().await.unwrap();
        let mut total = 0;
        // More than there is room for: some stay in the shared memory, later ones do not.
        for n in 1..12 {
            let kept = blob(n * 100 * KIB);
            total += sum(&kept);
            assert_eq!(pool.run(Keep::This(kept)).await.unwrap(), total);
            let other = blob(n * 130 * KIB);
            assert_eq!(pool.run(Tally(other.clone())).await.unwrap(), sum(&other));
        }
        assert_eq!(pool.run(Keep::Nothing).await.unwrap(), 0);
        let mix = Mix::new(&[3 * MIB]);
        assert!(pool.run(mix.clone()).await.unwrap() == mix.mixed());
    });
}

#[test]
fn memory_is_given_back_when_there_is_no_bulk_for_a_while() {
    on_both_runtimes(|| async {
        let pool = quick(1).build().await.unwrap();
        let memory = memory(pids(&pool, 1).await[0]).unwrap();
        let held = pool.run(Mix::new(&[20 * MIB; 2])).await.unwrap();
        assert!(present(&memory) > 40 * MIB, "{}", present(&memory));
        // One is cancelled while it holds its input, one before it begins.
        let folder = Folder::new();
        let note = folder.file("note");
        let running = pool.run(Hold { blob: blob(10 * MIB), note: note.clone() });
        let queued = pool.run(Hold { blob: blob(10 * MIB), note: note.clone() });
        until(|| !notes(&note).is_empty()).await;
        drop(queued);
        running.cancel().await.unwrap();
        until(|| present(&memory) < MIB).await;
        // And taken again.
        assert!(pool.run(Mix::new(&[20 * MIB; 2])).await.unwrap() == held);
    });
}

#[test]
fn blobs_pass_through_pools_within_pools_and_several_slots() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).slots(3).build().await.unwrap();
        let mixes = || (1..5).map(|n| Mix::new(&[n * 70 * KIB, 3, MIB]));
        let mixed = join_all(mixes().map(|mix| pool.run(Pass(mix)))).await;
        for (mix, mixed) in mixes().zip(mixed) {
            assert!(mixed.unwrap() == mix.mixed());
        }
    });
}

#[test]
fn blobs_in_the_items_of_a_stream_arrive_whole_also_when_nobody_takes_the_rest() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(1).shared_memory(4 * MIB).build().await.unwrap();
        for step in [5 * KIB, 33 * KIB, 300 * KIB] {
            let mut items = pool.stream(Grow { step, items: 20 });
            for n in 1..=20 {
                assert!(items.next().await.unwrap().unwrap() == (n, blob(n * step)), "{n} of {step}");
            }
            assert!(items.next().await.is_none());
            let mut few = pool.stream(Grow { step, items: 1000 });
            assert!(few.next().await.unwrap().unwrap() == (1, blob(step)));
        }
        let mix = Mix::new(&[MIB]);
        assert!(pool.run(mix.clone()).await.unwrap() == mix.mixed());
    });
}

#[test]
fn threads_of_this_process_take_blobs_as_well() {
    on_a_runtime(|| async {
        let tasks = || support::worker().task::<Mix>();
        let pool = Pool::builder().workers(2).in_process(tasks).build().await.unwrap();
        for mix in [Mix::new(&[33 * KIB, 5, MIB]), Mix::new(&[9 * MIB])] {
            assert!(pool.run(mix.clone()).await.unwrap() == mix.mixed());
        }
    });
}

#[test]
fn a_worker_that_lies_about_shared_memory_is_killed_and_the_error_says_why() {
    // Frames as they are on the wire: their length, then which they are.
    let far = [&[14, 0, 0, 0, 0x10, 1, 0][..], &[0xff; 9], &[1, 1]].concat();
    let twice = vec![8, 0, 0, 0, 0x10, 2, 0, 0, 10, 0, 0, 10, 1, 0, 0, 0, 0x0c];
    let none = vec![2, 0, 0, 0, 0x10, 0];
    let released = vec![4, 0, 0, 0, 0x11, 1, 0xac, 2];
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        let mix = Mix::new(&[100 * KIB, MIB]);
        for (lie, fault) in [
            (far, "bulk outside of the memory that is shared"),
            (twice, "bulk for a frame that has no body"),
            (none, "bulk that is not a message's"),
            (released, "it released what it was not given"),
        ] {
            let memory = memory(pids(&pool, 1).await[0]).unwrap();
            let error = pool.run(Lie(lie)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
            assert!(error.to_string().contains(fault), "{fault}: {error}");
            assert!(pool.run(mix.clone()).await.unwrap() == mix.clone().mixed());
            assert_eq!(present(&memory), 0);
        }
    });
}

#[test]
fn a_blob_that_is_too_large_fails_its_task_only() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).message_limit(MIB as u32).build().await.unwrap();
        assert_eq!(pool.run(Tally(blob(MIB))).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
        // The output has twice as many bytes as the input.
        let error = pool.run(Mix::new(&[600 * KIB])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        let fits = Mix::new(&[500 * KIB]);
        assert!(pool.run(fits.clone()).await.unwrap() == fits.mixed());
    });
}
