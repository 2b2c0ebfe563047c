//! Real workers, started from this test binary by a parent that is no pool.

mod cancel;
mod control;
mod death;
mod entry;
mod pace;
mod pack;
pub(crate) mod parent;
mod prepare;
mod pulse;
mod slots;
mod stdio;
mod stream;
mod stress;
pub(crate) mod tasks;
mod thread;
mod verdict;

use super::Worker;
use tasks::*;

/// The worker of this test binary.
pub(crate) fn worker() -> Worker {
    Worker::new()
        .task::<Noop>()
        .task::<Sum>()
        .task::<Weigh>()
        .task::<Block>()
        .task::<Spin>()
        .task::<Sleep>()
        .task::<Big>()
        .task::<About>()
        .task::<Compute>()
        .task::<Stubborn>()
        .task::<Deaf>()
        .task::<Forever>()
        .task::<Polite>()
        .task::<Leave>()
        .task::<Quit>()
        .task::<Meet>()
        .task::<Gather>()
        .task::<Idle>()
        .task::<Polls>()
        .task::<Yield>()
        .task::<Append>()
        .task::<Grandchild>()
        .task::<Chatter>()
        .task::<Inherited>()
        .task::<Signals>()
        .task::<Panic>()
        .task::<Undecodable>()
        .stream::<Numbers>()
        .stream::<Spawned>()
}

crate::worker_test!(worker());

/// A path for one test of this process, and nothing there.
fn path(name: &str) -> String {
    let path = std::env::temp_dir().join(format!("procpool-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path.to_str().unwrap().to_owned()
}
