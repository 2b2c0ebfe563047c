//! What has to be tried in a process of its own, with means that only this crate has.

use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_bytes::ByteBuf;

use crate::error::ErrorKind;
use crate::pool::{Pool, PoolBuilder};
use crate::sys::signal::heed_broken_pipes;
use crate::task::describe;
use crate::uplink::{Link, News, Uplink};
use crate::wire::frame::{LeaseKind, ToParent};
use crate::worker::tests::parent::hello;
use crate::worker::tests::tasks::{Noop, Weigh};

/// A link to a pool above. Whoever speaks on it must not hold the lock of the pool that speaks: it may write.
#[derive(Default)]
struct Witness {
    pool: OnceLock<Pool>,
    /// What was said, and whether the lock was free then.
    said: Mutex<Vec<(ToParent, bool)>>,
}

impl Link for Witness {
    fn say(&self, frame: ToParent) {
        let (tell, told) = mpsc::channel();
        // It asks for the first process before anybody else has it.
        let pool = self.pool.get().cloned();
        thread::spawn(move || tell.send(pool.map(|pool| pool.stats().in_flight)));
        let free = told.recv_timeout(Duration::from_secs(5)).is_ok();
        self.said.lock().unwrap().push((frame, free));
    }
}

#[test]
fn a_pool_below_speaks_to_the_one_above_when_its_lock_is_free() {
    let witness = Arc::new(Witness::default());
    let link: Arc<dyn Link> = Arc::<Witness>::clone(&witness);
    let uplink = Arc::new(Uplink::new(hello(vec![]), vec![describe::<Noop>()], None, None, link));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = PoolBuilder::below(&uplink).build_below(Arc::clone(&uplink)).unwrap();
        witness.pool.set(pool.clone()).unwrap();
        let refuse = || uplink.hear(News::Granted(LeaseKind::Process, 0));
        refuse();
        tokio::task::yield_now().await;
        let run = pool.run(Noop());
        assert_eq!(witness.said.lock().unwrap().len(), 2);
        refuse();
        assert_eq!(run.await.unwrap_err().kind(), ErrorKind::LimitExceeded);
        pool.drain().await;
    });
    let asked = (ToParent::Lease { kind: LeaseKind::Process, n: 1 }, true);
    assert_eq!(*witness.said.lock().unwrap(), [asked.clone(), asked]);
}

#[test]
fn i5_a_worker_that_dies_while_much_is_written_to_it_ends_nobody_else() {
    const MARK: &str = "PROCPOOL_TEST_ALONE";
    if std::env::var_os(MARK).is_none() {
        let name = "pool::tests::i5_a_worker_that_dies_while_much_is_written_to_it_ends_nobody_else";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(MARK, "1");
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Through shared memory all of it would be there at once.
        let pool = Pool::builder().workers(1).shared_memory(0).build().await.unwrap();
        let full = std::env::var_os("PROCPOOL_FULL").is_some();
        let (rounds, size) = (if full { 10 } else { 2 }, 10 << 20);
        // As the standard library has set it, then as programs have it that were begun by others.
        for heeds in [false, true] {
            if heeds {
                heed_broken_pipes();
            }
            for _ in 0..rounds {
                pool.run(Noop()).await.unwrap();
                let pid = Pid::from_raw(pool.stats().workers[0].pid.unwrap().cast_signed());
                // What is written stays in the socket, and more is waiting to be.
                kill(pid, Signal::SIGSTOP).unwrap();
                let run = pool.run(Weigh(ByteBuf::from(vec![1; size])));
                tokio::time::sleep(Duration::from_millis(5)).await;
                kill(pid, Signal::SIGKILL).unwrap();
                // It had not begun, so it runs on the next worker.
                assert_eq!(run.await.unwrap(), size);
            }
        }
        pool.drain().await;
    });
}
