//! procpool
#![warn(missing_docs)]
mod context;
mod error;
mod event;
mod id;
mod launch;
mod sched;
mod sys;
mod task;
mod wire;
mod worker;

pub use context::Context;
pub use error::{Error, ErrorKind, Exit};
pub use id::{TaskId, WorkerId};
pub use task::Task;
pub use worker::Worker;
