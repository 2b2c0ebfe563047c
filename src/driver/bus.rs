//! Events on their way to those who listen: one ring for all, and a place in it for each. It does not know what they
//! mean.
//!
//! It is guarded by the pool's lock, so that everybody sees one order; whom it wakes is woken when the lock is free.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use slab::Slab;

use crate::event::Event;

/// How many events are kept for a slow listener. Fewer drop some in a burst, as when a hundred workers start; more cost
/// memory for somebody who has forgotten to listen: up to a few KiB each where workers died, for their last words.
pub(super) const KEPT: usize = 1024;

/// The ring.
#[derive(Default)]
pub(super) struct Bus {
    ring: VecDeque<Event>,
    /// The number of the ring's first event.
    first: u64,
    listeners: Slab<Listener>,
    /// Whether the last event is there.
    over: bool,
}

struct Listener {
    /// The number of the event that it reads next.
    next: u64,
    waker: Option<Waker>,
}

impl Bus {
    /// Whether nobody listens: then nothing needs to be said.
    pub(super) fn is_silent(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Whether the last event was published.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Adds an event. Those who wait for one are to be woken when the lock is free.
    pub(super) fn publish(&mut self, event: Event, woken: &mut Vec<Waker>) {
        self.over |= matches!(event, Event::Closed);
        if self.is_silent() {
            return;
        }
        if self.ring.len() == KEPT {
            self.ring.pop_front();
            self.first += 1;
        }
        self.ring.push_back(event);
        woken.extend(self.listeners.iter_mut().filter_map(|(_, listener)| listener.waker.take()));
    }

    /// Adds a listener, who hears what comes from now on.
    pub(super) fn subscribe(&mut self) -> usize {
        self.listeners.insert(Listener { next: self.first + self.ring.len() as u64, waker: None })
    }

    /// The next event; `None` after the last. What is given back besides is to be dropped when the lock is free.
    pub(super) fn poll(&mut self, key: usize, new: Waker) -> (Poll<Option<Event>>, Option<Waker>) {
        let end = self.first + self.ring.len() as u64;
        let listener = &mut self.listeners[key];
        if listener.next == end {
            return match self.over {
                true => (Poll::Ready(None), Some(new)),
                false => (Poll::Pending, listener.waker.replace(new)),
            };
        }
        if listener.next < self.first {
            let lost = self.first - listener.next;
            listener.next = self.first;
            return (Poll::Ready(Some(Event::Lagged(lost))), Some(new));
        }
        let event = self.ring.get((listener.next - self.first) as usize).cloned();
        listener.next += 1;
        self.trim();
        (Poll::Ready(event), Some(new))
    }

    /// Removes a listener. What is given back is to be dropped when the lock is free.
    pub(super) fn leave(&mut self, key: usize) -> Option<Waker> {
        let left = self.listeners.try_remove(key)?;
        self.trim();
        left.waker
    }

    /// Drops what everybody has read.
    fn trim(&mut self) {
        let end = self.first + self.ring.len() as u64;
        let next = self.listeners.iter().map(|(_, listener)| listener.next).min().unwrap_or(end);
        let read = next.saturating_sub(self.first);
        self.ring.drain(..read as usize);
        self.first += read;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(bus: &mut Bus, key: usize) -> Poll<Option<Event>> {
        bus.poll(key, Waker::noop().clone()).0
    }

    fn publish(bus: &mut Bus, count: u64) {
        (0..count).for_each(|n| bus.publish(Event::Lagged(n), &mut Vec::new()));
    }

    #[test]
    fn everybody_hears_everything_from_his_beginning_on_and_nothing_is_kept_longer() {
        let mut bus = Bus::default();
        publish(&mut bus, 3);
        let early = bus.subscribe();
        publish(&mut bus, 2);
        let late = bus.subscribe();
        publish(&mut bus, 1);
        for expected in [0, 1, 0] {
            assert!(matches!(next(&mut bus, early), Poll::Ready(Some(Event::Lagged(n))) if n == expected));
        }
        assert!(next(&mut bus, early).is_pending());
        assert_eq!(bus.ring.len(), 1);
        assert!(matches!(next(&mut bus, late), Poll::Ready(Some(Event::Lagged(0)))));
        assert!(bus.ring.is_empty());
        publish(&mut bus, 5);
        bus.leave(early);
        bus.leave(late);
        assert!(bus.ring.is_empty() && bus.is_silent());
    }

    #[test]
    fn a_slow_listener_loses_the_oldest_and_is_told_how_many() {
        let mut bus = Bus::default();
        let slow = bus.subscribe();
        publish(&mut bus, KEPT as u64 + 7);
        assert!(matches!(next(&mut bus, slow), Poll::Ready(Some(Event::Lagged(7)))));
        for n in 7..KEPT as u64 + 7 {
            assert!(matches!(next(&mut bus, slow), Poll::Ready(Some(Event::Lagged(m))) if m == n));
        }
        assert!(next(&mut bus, slow).is_pending());
    }

    #[test]
    fn whoever_waits_is_woken_and_the_last_event_is_the_end() {
        let mut bus = Bus::default();
        let key = bus.subscribe();
        assert!(next(&mut bus, key).is_pending());
        let mut woken = Vec::new();
        bus.publish(Event::Closing, &mut woken);
        bus.publish(Event::Closed, &mut woken);
        assert_eq!(woken.len(), 1);
        assert!(matches!(next(&mut bus, key), Poll::Ready(Some(Event::Closing))));
        assert!(matches!(next(&mut bus, key), Poll::Ready(Some(Event::Closed))));
        assert!(matches!(next(&mut bus, key), Poll::Ready(None)));
        let late = bus.subscribe();
        assert!(matches!(next(&mut bus, late), Poll::Ready(None)));
    }
}
