//! Bulk, as a worker handles it: inputs are looked at in the memory that the parent shares, outputs are copied into it. It
//! does not write to the link, and knows no tasks.

use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use crate::arena::Arena;
use crate::link::bulk::{Arrival, Departure, malformed};
use crate::wire::codec::Violation;
use crate::wire::frame::{Placed, ToParent};
use crate::wire::payload::Payload;

/// What a frame needs beside its body, at most.
const HEADER: usize = 128;

/// The shared memory, if there is some.
#[derive(Clone, Debug)]
pub(super) struct Depot {
    arena: Option<Arc<Arena>>,
    /// The largest message.
    limit: u32,
}

impl Depot {
    pub(super) fn new(arena: Option<Arc<Arena>>, limit: u32) -> Self {
        Self { arena, limit }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.arena.is_some()
    }

    /// Copies what is large in an output or item, as far as there is room. It takes its time: not to be done under a lock. A
    /// body that is larger than a message may be is left as it is, for whoever says it to refuse.
    pub(super) fn depart(&self, body: &Payload) -> Departure {
        let mut departure = Departure::new(body);
        let fits = body.len().saturating_add(HEADER) <= self.limit as usize;
        departure.step(self.arena.as_ref().filter(|_| fits), usize::MAX);
        departure
    }

    /// The parent has placed parts of the next input.
    ///
    /// # Errors
    ///
    /// When they are not where they can be.
    pub(super) fn expect(&self, placed: &[Placed]) -> Result<Arrival, Violation> {
        Arrival::new(self.arena.as_ref(), placed, self.limit)
    }

    /// The whole of an input, with what was placed.
    ///
    /// # Errors
    ///
    /// When the parts do not fit.
    pub(super) fn complete(&self, arrival: Option<Arrival>, body: Bytes) -> Result<Payload, Violation> {
        let whole = match arrival {
            // At once: it is looked at where it is.
            Some(mut arrival) => arrival.step(&body, usize::MAX, self.limit)?,
            None => None,
        };
        Ok(whole.unwrap_or_else(|| body.into()))
    }

    /// The parent does not need these places any more.
    ///
    /// # Errors
    ///
    /// When it was never told of one.
    pub(super) fn free(&self, offsets: &[u64]) -> Result<(), Violation> {
        let free = |offset: &u64| self.arena.as_ref().is_some_and(|arena| arena.free(*offset).is_ok());
        if offsets.iter().all(free) { Ok(()) } else { Err(malformed("it released what it was not given")) }
    }

    /// What is to be said about inputs that are not needed any more.
    #[inline]
    pub(super) fn release(&self) -> Option<ToParent> {
        let arena = self.arena.as_ref().filter(|arena| arena.dropped() > 0)?;
        Some(ToParent::Released { offsets: arena.release() })
    }

    /// Has whoever sleeps woken when a part of an input is dropped that was left with others, so that it is released then and
    /// not when there is something else to say.
    pub(super) fn await_drops(&self, waker: &Waker) {
        if let Some(arena) = self.arena.as_ref().filter(|arena| arena.is_lending()) {
            arena.wake_with(waker);
        }
    }

    /// Whether there is memory to be given back.
    pub(super) fn is_slack(&self) -> bool {
        self.arena.as_ref().is_some_and(|arena| arena.is_slack())
    }

    /// Gives memory back to the system: bulk is over for now.
    pub(super) fn trim(&self) {
        if let Some(arena) = &self.arena {
            arena.trim();
        }
    }
}
