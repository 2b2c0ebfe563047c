//! Brief tasks that travel together: nobody notices but by the clock. Each has its own outcome, whatever becomes of its
//! neighbours and of their worker, and none runs twice.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use procpool::{Context, Error, Pool, PoolBuilder, Task, TaskId};
use serde::{Deserialize, Serialize};
use support::*;
use tokio_util::sync::CancellationToken;

procpool::worker_test!(worker());

fn worker() -> procpool::Worker {
    support::worker().task::<Deed>().task::<Below>()
}

/// Where deeds are noted.
const DEEDS: &str = "DEEDS";

/// Notes that it was begun, as eight bytes in a file, and does something.
#[derive(Serialize, Deserialize, Clone)]
struct Deed {
    n: u64,
    what: What,
}

#[derive(Serialize, Deserialize, Clone)]
enum What {
    Nothing,
    Panic,
    Exit,
    Sleep(u64),
    Await(u64),
    Give(usize),
    Take(Vec<u8>),
}

impl Task for Deed {
    const NAME: &'static str = "deed";
    type Output = (u64, TaskId, Vec<u8>);

    async fn run(self, cx: Context) -> Self::Output {
        static FILE: OnceLock<Option<File>> = OnceLock::new();
        let open = || {
            let path = std::env::var_os(DEEDS)?;
            File::options().append(true).create(true).open(path).ok()
        };
        if let Some(mut file) = FILE.get_or_init(open).as_ref() {
            file.write_all(&self.n.to_le_bytes()).unwrap();
        }
        let given = match self.what {
            What::Nothing => Vec::new(),
            What::Panic => panic!("deed {}", self.n),
            What::Exit => std::process::exit(3),
            What::Sleep(ms) => {
                std::thread::sleep(Duration::from_millis(ms));
                std::process::id().to_le_bytes().to_vec()
            }
            What::Await(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Vec::new()
            }
            What::Give(bytes) => vec![7; bytes],
            What::Take(bytes) => bytes,
        };
        (self.n, cx.task_id(), given)
    }
}

/// Maps in the pool of its worker.
#[derive(Serialize, Deserialize)]
struct Below(u64);

impl Task for Below {
    const NAME: &'static str = "below";
    type Output = u64;

    async fn run(self, cx: Context) -> u64 {
        let items = cx.pool().unwrap().map((0..self.0).map(Echo));
        items.map(Result::unwrap).fold(0, |sum, n| async move { sum + n }).await
    }
}

/// Nothing but `what` of some.
fn deeds(
    count: u64,
    what: impl Fn(u64) -> Option<What> + Send + 'static,
) -> impl Iterator<Item = Deed> + Send {
    (0..count).map(move |n| Deed { n, what: what(n).unwrap_or(What::Nothing) })
}

/// How often each was begun.
fn begun(path: &Path) -> BTreeMap<u64, u32> {
    let file = File::open(path).unwrap();
    let mut bytes = vec![0; length(path) as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let mut begun = BTreeMap::new();
    for n in bytes.chunks_exact(8) {
        *begun.entry(u64::from_le_bytes(n.try_into().unwrap())).or_default() += 1;
    }
    begun
}

/// The same, and none more than once.
fn begun_once(path: &Path) -> BTreeSet<u64> {
    let begun = begun(path);
    assert!(begun.values().all(|times| *times == 1), "some have run twice: {:?}", twice(&begun));
    begun.into_keys().collect()
}

fn twice(begun: &BTreeMap<u64, u32>) -> Vec<(&u64, &u32)> {
    begun.iter().filter(|(_, times)| **times > 1).collect()
}

async fn noting(builder: PoolBuilder, folder: &Folder) -> (Pool, std::path::PathBuf) {
    let path = folder.file("deeds");
    (builder.env(DEEDS, &path).build().await.unwrap(), path)
}

/// How many of the ids have their place in a table to themselves.
fn places(ids: &[TaskId]) -> usize {
    let place = |id: &TaskId| format!("{id:?}").split('@').next_back().unwrap().to_owned();
    ids.iter().map(place).collect::<BTreeSet<_>>().len()
}

#[test]
fn outputs_are_in_order_and_every_task_has_an_id_of_its_own() {
    on_both_runtimes(|| async {
        let pool = quick(2).build().await.unwrap();
        let outputs: Vec<_> = pool.map(deeds(50_000, |_| None)).map(Result::unwrap).collect().await;
        assert!(outputs.iter().map(|output| output.0).eq(0..50_000));
        let ids: Vec<_> = outputs.iter().map(|output| output.1).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 50_000);
        // Otherwise nothing here says anything.
        assert!(places(&ids[40_000..]) < 2000, "{} places: they were not packed", places(&ids[40_000..]));
        assert_eq!(pool.stats().finished, 50_000);
        assert_eq!(pool.drain().await.finished, 0);
    });
}

#[test]
fn tasks_with_limits_and_pools_that_count_have_none_packed() {
    on_a_runtime(|| async {
        let pool = quick(2).build().await.unwrap();
        let counted = quick(2).queue_limit(500).build().await.unwrap();
        let far = std::time::Instant::now() + Duration::from_secs(1000);
        let views = [
            pool.with_timeout(Duration::from_secs(1000)),
            pool.with_retries(1),
            pool.with_deadline(far),
            counted.with_priority(0),
        ];
        for view in views {
            let outputs: Vec<_> = view.map(deeds(5000, |_| None)).map(Result::unwrap).collect().await;
            let ids: Vec<_> = outputs.iter().map(|output| output.1).collect();
            // Each in its own, of a window of a thousand.
            assert!(places(&ids) >= 500, "{} places", places(&ids));
        }
    });
}

#[test]
fn a_panic_is_that_task_s_alone() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (pool, path) = noting(quick(2), &folder).await;
        let items = pool.map(deeds(20_000, |n| (n % 500 == 7).then_some(What::Panic)));
        let results: Vec<_> = items.collect().await;
        for (n, result) in (0..).zip(&results) {
            match result {
                Ok(output) => assert_eq!(output.0, n),
                Err(error) => {
                    assert_eq!(
                        (n % 500, error.index(), error.is_panicked()),
                        (7, Some(n), true),
                        "{error:?}"
                    );
                    assert!(error.to_string().contains(&format!("deed {n}")), "{error}");
                    assert!(error.task_id().is_some() && error.worker_id().is_some());
                }
            }
        }
        assert_eq!(results.iter().filter(|result| result.is_err()).count(), 40);
        assert_eq!(begun_once(&path).len(), 20_000);
    });
}

#[test]
fn a_death_is_that_task_s_alone() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (pool, path) = noting(quick(2), &folder).await;
        let dies = |n: u64| n % 2000 == 1777;
        let items = pool.map(deeds(20_000, move |n| dies(n).then_some(What::Exit)));
        let results: Vec<_> = items.collect().await;
        for (n, result) in (0..).zip(&results) {
            match result {
                Ok(output) => assert!(!dies(n) && output.0 == n),
                Err(error) => {
                    assert!(dies(n) && error.index() == Some(n), "{error:?}");
                    assert_eq!(error.exit().and_then(|exit| exit.code()), Some(3));
                    assert!(error.may_have_run());
                }
            }
        }
        assert_eq!(results.len(), 20_000);
        assert_eq!(begun_once(&path).len(), 20_000);
    });
}

/// What has an output has run; what says that it has not run has not; nothing has run twice.
fn is_true(results: &[Result<<Deed as Task>::Output, Error>], path: &Path) {
    let begun = begun_once(path);
    for (n, result) in (0..).zip(results) {
        match result {
            Ok(output) => assert!(output.0 == n && begun.contains(&n)),
            Err(error) => {
                assert_eq!(error.index(), Some(n));
                assert!(error.may_have_run() || !begun.contains(&n), "{n} has run, yet: {error:?}");
            }
        }
    }
}

#[test]
fn whoever_kills_workers_costs_what_they_ran_and_nothing_else() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (pool, path) = noting(quick(2), &folder).await;
        let (total, mut kills) = (150_000, 0);
        let mut items = pool.map(deeds(total, |_| None));
        let mut results = Vec::new();
        while let Some(result) = items.next().await {
            results.push(result);
            if results.len() % 15_000 == 0 {
                let pid = pool.stats().workers.iter().find_map(|worker| worker.pid);
                pid.into_iter().for_each(|pid| {
                    kill(pid);
                    kills += 1;
                });
            }
        }
        assert_eq!((results.len() as u64, kills), (total, 10));
        is_true(&results, &path);
        let lost: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(lost.iter().all(|error| error.is_crashed() && error.may_have_run()), "{lost:?}");
        // One each, or what had gathered within the last microseconds if it was killed while it wrote that down.
        assert!(lost.len() <= 2 * kills, "{} were lost by {kills} kills", lost.len());
    });
}

#[test]
fn a_slow_task_holds_up_nobody() {
    on_a_runtime(|| async {
        let pool = quick(2).build().await.unwrap();
        for slow in [What::Sleep(3000), What::Await(3000)] {
            let slow = move |n| (n == 12_345).then(|| slow.clone());
            let mut items = pool.map_unordered(deeds(20_000, slow));
            let mut order = Vec::new();
            while let Some(output) = items.next().await {
                order.push(output.unwrap().0);
            }
            assert_eq!((order.len(), order.last()), (20_000, Some(&12_345)));
        }
    });
}

#[test]
fn what_turns_slow_is_spread() {
    on_a_runtime(|| async {
        let pool = quick(4).build().await.unwrap();
        // Packed because those before were brief: a hundred times too much for one worker.
        let slow = |n| (n >= 10_000).then_some(What::Sleep(20));
        let mut items = pool.map_unordered(deeds(10_100, slow));
        let mut slept = BTreeMap::<Vec<u8>, u32>::new();
        while let Some(output) = items.next().await {
            let (n, _, worker) = output.unwrap();
            if n >= 10_000 {
                *slept.entry(worker).or_default() += 1;
            }
        }
        let most = slept.values().max().unwrap();
        assert!(slept.len() == 4 && *most <= 50, "by worker: {slept:?}");
    });
}

#[test]
fn dropping_in_the_middle_cancels_what_has_not_begun() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (pool, path) = noting(quick(2), &folder).await;
        let mut items = pool.map(deeds(u64::MAX, |_| None));
        for n in 0..20_000 {
            assert_eq!(items.next().await.unwrap().unwrap().0, n);
        }
        drop(items);
        until(|| pool.stats().in_flight + pool.stats().queued == 0).await;
        let begun = begun_once(&path);
        assert!(begun.len() < 20_000 + 40_000, "{} have begun", begun.len());
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    });
}

#[test]
fn a_token_stops_all_and_nothing_is_said_that_is_not_true() {
    on_a_runtime(|| async {
        let folder = Folder::new();
        let (pool, path) = noting(quick(2), &folder).await;
        let token = CancellationToken::new();
        let mut items = pool.with_token(token.clone()).map(deeds(u64::MAX, |_| None));
        let mut results = Vec::new();
        while let Some(result) = items.next().await {
            results.push(result);
            if results.len() == 20_000 {
                token.cancel();
            }
        }
        is_true(&results, &path);
        let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(
            !errors.is_empty() && errors.iter().all(|error| error.is_cancelled()),
            "{:?}",
            errors.first()
        );
        assert!(errors.iter().any(|error| !error.may_have_run()));
    });
}

#[test]
fn a_pool_that_ends_finishes_what_it_has_or_says_that_it_did_not() {
    on_a_runtime(|| async {
        for drains in [true, false] {
            let folder = Folder::new();
            let (pool, path) = noting(quick(2), &folder).await;
            let mut items = pool.map(deeds(u64::MAX, |_| None));
            let mut results = Vec::new();
            while results.len() < 20_000 {
                results.push(items.next().await.unwrap());
            }
            let (rest, summary) = tokio::join!(
                async {
                    let mut rest = Vec::new();
                    while let Some(result) = items.next().await {
                        let over = result.is_err();
                        rest.push(result);
                        if over && rest.len() > 20_000 {
                            break;
                        }
                    }
                    rest
                },
                async {
                    if drains { pool.drain().await } else { pool.shutdown(Duration::from_secs(10)).await }
                }
            );
            results.extend(rest);
            drop(items);
            is_true(&results, &path);
            let errors = results.iter().filter_map(|result| result.as_ref().err());
            assert!(errors.clone().all(Error::is_closed), "{:?}", errors.clone().next());
            if drains {
                assert_eq!((summary.closed, summary.failed), (0, 0));
                assert_eq!(begun_once(&path).len(), results.iter().filter(|result| result.is_ok()).count());
            }
        }
    });
}

#[test]
fn inputs_end_once_and_one_that_panics_takes_no_other_with_it() {
    on_a_runtime(|| async {
        let pool = quick(2).build().await.unwrap();
        // Panics when it is polled again.
        let inputs = futures::stream::unfold(0, |n| async move { (n < 20_050).then_some((Echo(n), n + 1)) });
        let outputs: Vec<_> = pool.map_stream(inputs).map(Result::unwrap).collect().await;
        assert!(outputs.into_iter().eq(0..20_050));
        let mut n = 0;
        let mut items = pool.map(std::iter::from_fn(move || {
            n += 1;
            assert_ne!(n, 20_051, "the one");
            (n < 30_000).then_some(Echo(n))
        }));
        let mut outputs = Vec::new();
        loop {
            match std::panic::AssertUnwindSafe(items.next()).catch_unwind().await {
                Ok(Some(output)) => outputs.push(output.unwrap()),
                Ok(None) => break,
                Err(_) => {}
            }
        }
        assert!(outputs.into_iter().eq((1..30_000).filter(|n| *n != 20_051)));
    });
}

#[test]
fn whoever_listens_is_told_which_were_lost() {
    on_a_runtime(|| async {
        let pool = quick(2).build().await.unwrap();
        let mut events = pool.events();
        let items = pool.map(deeds(10_000, |n| (n % 1000 == 777).then_some(What::Exit)));
        let results: Vec<_> = items.collect().await;
        let lost = results.iter().filter_map(|result| result.as_ref().err()?.task_id());
        let lost: BTreeSet<_> = lost.collect();
        assert_eq!(lost.len(), 10);
        let mut named = BTreeSet::new();
        until(|| {
            for event in told(&mut events) {
                if let procpool::Event::Lost { tasks, .. } = event {
                    named.extend(tasks);
                }
            }
            named.len() >= 10
        })
        .await;
        assert_eq!(named, lost);
    });
}

#[test]
fn what_is_large_travels_by_itself_and_in_its_place() {
    on_a_runtime(|| async {
        let pool = quick(2).build().await.unwrap();
        let what = |n: u64| match n % 1000 {
            1 => Some(What::Give(100_000)),
            2 => Some(What::Take(vec![7; 100_000])),
            3 => Some(What::Give(1000)),
            4 => Some(What::Take(vec![7; 1000])),
            _ => None,
        };
        let mut items = pool.map(deeds(10_000, what));
        for n in 0..10_000 {
            let (m, _, given) = items.next().await.unwrap().unwrap();
            let length = match n % 1000 {
                1 | 2 => 100_000,
                3 | 4 => 1000,
                _ => 0,
            };
            assert_eq!((m, given.len()), (n, length));
            assert!(given.iter().all(|byte| *byte == 7));
        }
    });
}

#[test]
fn an_output_that_is_too_large_is_that_task_s_error() {
    on_a_runtime(|| async {
        let pool = quick(1).message_limit(64 << 10).build().await.unwrap();
        let items = pool.map(deeds(5000, |n| (n == 4000).then_some(What::Give(100_000))));
        let results: Vec<_> = items.collect().await;
        let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert_eq!(errors.len(), 1);
        assert_eq!((errors[0].index(), errors[0].kind()), (Some(4000), procpool::ErrorKind::LimitExceeded));
    });
}

#[test]
fn pools_of_workers_and_workers_that_are_threads_pack_too() {
    on_a_runtime(|| async {
        let pool = quick(1).build().await.unwrap();
        assert_eq!(pool.run(Below(20_000)).await.unwrap(), (0..20_000).sum::<u64>());
        let pool = quick(2).in_process(worker).build().await.unwrap();
        let outputs: Vec<_> = pool.map(deeds(20_000, |_| None)).map(Result::unwrap).collect().await;
        assert!(outputs.iter().map(|output| output.0).eq(0..20_000));
    });
}
