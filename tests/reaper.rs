//! A program that reaps children that it did not start. It is alone in its file: nothing here is safe from it.

mod support;

use futures::future::join_all;
use nix::sys::wait::{WaitPidFlag, waitpid};
use procpool::{Exit, Pool};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::*;

procpool::worker_test!(support::worker());

#[test]
fn b10_a_thread_that_reaps_everything_takes_statuses_and_nothing_else() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let reaper = std::thread::spawn(|| {
        while !OVER.load(Ordering::Relaxed) {
            // Without children, or with none that has ended, it looks again.
            let _ = waitpid(None, Some(WaitPidFlag::WNOHANG));
            std::thread::sleep(Duration::from_micros(50));
        }
    });
    on_a_runtime(|| async {
        let pool = Pool::builder().workers(4).build().await.unwrap();
        let echoes: Vec<_> = (0..180).map(|n| pool.run(Echo(n))).collect();
        let deaths: Vec<_> = (0..20).map(|_| pool.run(Die::Exit(3))).collect();
        for (n, echo) in join_all(echoes).await.into_iter().enumerate() {
            assert_eq!(echo.unwrap(), n as u64);
        }
        for death in join_all(deaths).await {
            let error = death.unwrap_err();
            assert!(error.is_crashed(), "{error:?}");
            assert!(matches!(error.exit(), Some(Exit::Unknown | Exit::Code(3))), "{error:?}");
        }
    });
    OVER.store(true, Ordering::Relaxed);
    reaper.join().unwrap();
}
