//! What a worker takes of this process's descriptors: what is said of it before a pool is built has to be true.

mod support;

use procpool::{Pool, PoolBuilder};
use support::*;

procpool::worker_test!(support::worker());

/// Builders of both kinds, and how many descriptors each worker may take.
const KINDS: [(fn() -> PoolBuilder, usize); 2] =
    [(Pool::builder, 5), (|| Pool::builder().in_process(support::worker), 8)];

#[test]
fn a_worker_takes_as_many_descriptors_as_is_said() {
    on_a_runtime(|| async {
        for (builder, each) in KINDS {
            // What serves all pools is there.
            builder().workers(1).build().await.unwrap().drain().await;
            let before = fds();
            let pool = builder().workers(12).build().await.unwrap();
            open(&pool, 12).await;
            let runs: Vec<_> = (0..24).map(|_| pool.run(Fill { bytes: 1 << 20 })).collect();
            for run in runs {
                run.await.unwrap();
                assert!(fds() <= before + 12 * each, "{} from {before}", fds());
            }
            pool.drain().await;
            until(|| fds() <= before).await;
        }
    });
}
