//! Speaking on the link beside the main thread and the watcher: what the worker's own pool has to say to the pool above. It
//! reads nothing.

use super::io::Shared;
use crate::uplink::Link;
use crate::wire::frame::ToParent;

impl Link for Shared {
    fn say(&self, frame: ToParent) {
        let waiter = {
            let mut io = self.lock();
            io.say(frame);
            self.flush(&mut io);
            if !io.has_output() {
                return;
            }
            io.call_reader()
        };
        // What the parent has yet to make room for is written by the main thread, or by the watcher if that one is stuck.
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        self.pulse.ring();
    }
}
