#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod arena;
mod blob;
mod context;
mod driver;
mod emit;
mod error;
mod event;
mod id;
mod launch;
mod link;
mod nested;
mod pool;
mod sched;
mod state;
mod sys;
mod task;
mod uplink;
mod vigil;
mod wire;
mod worker;

pub use blob::Blob;
pub use context::Context;
pub use emit::Emitter;
pub use error::{Error, ErrorKind, Exit};
pub use event::{Budget, Event, Health, Leave, Stats, Status, Summary, TaskStats, WorkerState, WorkerStats};
pub use id::{TaskId, WorkerId};
pub use pool::{AbortHandle, Closing, Events, Items, Permit, Pool, PoolBuilder, Run};
pub use task::{StreamTask, Task};
pub use worker::Worker;
