//! The wire: frames to bytes and back, with the limits and the version that both sides hold to. It does no I/O and knows
//! no meaning beyond a frame's shape.
//!
//! ```text
//!  once per direction      then, any number of times
//! ┌────────────────┐ ┌──────────────┬────────────────────┬─────────────────────┐
//! │ magic, 16 bytes│ │ length u32 LE│ header (postcard)  │ body (raw bytes)    │ …
//! └────────────────┘ └──────────────┴────────────────────┴─────────────────────┘
//!                                   └──────────── length bytes ────────────────┘
//! ```
//!
//! The two directions have enums of their own and magics of their own: a side that hears itself is recognised by the
//! magic, not by the frames, some of which look alike. Bodies are carried outside postcard: bulk is never copied through
//! serde.

pub(crate) mod arg0;
pub(crate) mod brief;
pub(crate) mod chain;
pub(crate) mod codec;
#[cfg(test)]
pub(crate) mod counted;
pub(crate) mod credit;
pub(crate) mod frame;
pub(crate) mod pack;
pub(crate) mod payload;
#[cfg(test)]
mod tests;

/// The version of everything in this room. Both sides must have the same.
pub(crate) const VERSION: u16 = 1;

/// The exit code of a worker whose parent has another version: no worker of that program would understand it.
pub(crate) const OTHER_VERSION: i32 = 77;

/// How each direction begins. They differ so that a program that echoes its input is recognised as one, and begin with a
/// NUL and end like PNG's so that text can't contain one and a mangled line end shows.
pub(crate) const TO_WORKER_MAGIC: [u8; 16] = *b"\0procpool->w\r\n\x1a\n";
/// See [`TO_WORKER_MAGIC`].
pub(crate) const TO_PARENT_MAGIC: [u8; 16] = *b"\0procpool->p\r\n\x1a\n";

/// The largest message by default, header and body. Larger ones cost a pool more memory per worker; smaller ones refuse
/// honest bulk. It is checked where a message is made, so that one fat result fails one task and not the link.
pub(crate) const MESSAGE_LIMIT: u32 = 256 << 20;

/// How many tasks a worker may be asked to have begun at once, at most. One thread polls them all, and both sides keep a
/// table of them, which this keeps from being absurd.
pub(crate) const SLOTS_LIMIT: u32 = 1 << 16;

/// The largest header. The body, which is bulk, is not in it. A task table of thousands of rows and a long panic message fit;
/// decoded, hostile ones take up to some fifty times their length, as lists of empty strings for example.
pub(crate) const HEADER_LIMIT: u32 = 1 << 20;

/// The largest buffer that is kept for what comes next, by whoever keeps one; what a larger message took is let go of. More
/// costs memory for every link and task that once had one, less costs making its pages again for each that follows.
pub(crate) const KEPT: usize = 1 << 20;

/// How many bytes a worker may write before its magic. A test harness writes a line or two, a chatty banner some hundred;
/// what writes more is not a worker, and we keep all of it for the error.
pub(crate) const PREAMBLE_LIMIT: usize = 64 << 10;
