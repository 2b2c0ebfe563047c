//! One task, one outcome: values, errors of every kind that a living worker can bring, and what `run` promises.

mod support;

use futures::future::join_all;
use procpool::{Context, ErrorKind, Pool, Task};
use serde::{Deserialize, Serialize};
use support::*;

procpool::worker_test!(support::worker());

#[test]
fn a_task_gives_its_output() {
    on_both_runtimes(|| async {
        let pool = Pool::builder().workers(2).build().await.unwrap();
        assert_eq!(pool.run(Echo(7)).await.unwrap(), 7);
        let answers = join_all((0..1000).map(|n| pool.run(Echo(n)))).await;
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), n as u64);
        }
        pool.drain().await;
    });
}

#[test]
fn tasks_run_in_other_processes_and_on_all_workers() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(3).build().await.unwrap();
        let mut known = pids(&pool, 3).await;
        let blocks: Vec<_> = (0..3).map(|_| pool.run(Block { ms: 50 })).collect();
        let busy = pool.stats();
        assert_eq!((busy.queued, busy.in_flight), (0, 3), "{busy:?}");
        for block in blocks {
            block.await.unwrap();
        }
        known.sort_unstable();
        known.dedup();
        assert_eq!(known.len(), 3);
        assert!(!known.contains(&std::process::id()));
        assert!(known.contains(&pool.run(Pid).await.unwrap()));
    });
}

#[test]
fn a_pool_serves_many_threads_and_a_second_runtime() {
    // Its pool outlives those of the threads.
    let _test = Test::start();
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let pool = first.block_on(Pool::builder().workers(2).build()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let pool = pool.clone();
            scope.spawn(move || {
                on_a_runtime(|| async move {
                    for n in 0..100 {
                        assert_eq!(pool.run(Echo(thread * 1000 + n)).await.unwrap(), thread * 1000 + n);
                    }
                });
            });
        }
    });
}

#[test]
fn a_panic_is_an_outcome_and_its_worker_lives() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        let error = pool.run(Panic("no such luck".into())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let shown = error.to_string();
        assert!(shown.contains("no such luck") && shown.contains("support/mod.rs:"), "{shown}");
        assert!(shown.contains("(panic)") && error.may_have_run(), "{error:?}");
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn what_cannot_be_encoded_or_decoded_fails_alone() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        for _ in 0..20 {
            for way in [Way::Unencodable, Way::Undecodable] {
                let error = pool.run(Reply(way)).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Codec, "{error:?}");
                assert!(error.may_have_run());
            }
            assert_eq!(pool.run(Reply(Way::Fine)).await.unwrap(), Traveller(Way::Fine));
        }
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[derive(Serialize, Deserialize)]
struct Unknown;

impl Task for Unknown {
    const NAME: &'static str = "unknown";
    type Output = ();
    async fn run(self, _: Context) {}
}

/// Has the name of another task.
#[derive(Serialize, Deserialize)]
struct Impostor;

impl Task for Impostor {
    const NAME: &'static str = Echo::NAME;
    type Output = String;
    async fn run(self, _: Context) -> String {
        String::new()
    }
}

#[test]
fn a_task_that_the_worker_does_not_know_is_refused_by_name() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let error = pool.run(Unknown).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownTask);
        assert!(error.to_string().contains("unknown") && error.to_string().contains(".task::<"), "{error}");
        let error = pool.run(Impostor).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownTask);
        assert!(error.to_string().contains("String") && error.to_string().contains("u64"), "{error}");
        assert!(!error.may_have_run());
        assert_eq!(pool.run(Echo(1)).await.unwrap(), 1);
    });
}

#[test]
fn messages_of_any_size_up_to_the_limit_pass_and_larger_ones_fail_alone() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).message_limit(8 << 20).build().await.unwrap();
        let before = pool.run(Pid).await.unwrap();
        for bytes in [0, 1, 100, 4096, 65_536, 1 << 20, (8 << 20) - 200] {
            assert_eq!(pool.run(Fill { bytes }).await.unwrap(), vec![7; bytes]);
        }
        let error = pool.run(Fill { bytes: 9 << 20 }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
        let error = pool.run(Panic("x".repeat(9 << 20))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error:?}");
        assert!(!error.may_have_run());
        assert_eq!(pool.run(Pid).await.unwrap(), before);
    });
}

#[test]
fn a_run_that_is_polled_after_its_end_says_so() {
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(1).build().await.unwrap();
        let mut run = pool.run(Echo(1));
        assert_eq!((&mut run).await.unwrap(), 1);
        assert!(run.await.unwrap_err().is_closed());
    });
}
