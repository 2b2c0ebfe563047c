//! What a worker says: frames into its outbox, until its last word. When they are written is decided elsewhere.

use super::io::{Io, Stage};
use super::leave;
use crate::emit::Encoded;
use crate::link::bulk::Departure;
use crate::wire::codec::Unsendable;
use crate::wire::frame::{ToParent, Verdict};
use crate::wire::payload::Payload;

impl Io {
    /// Says the last word. Whatever is read from now on is not answered.
    pub(super) fn bye(&mut self) {
        if !self.has_left() {
            self.say(ToParent::Bye);
            self.stage = Stage::Left;
        }
    }

    /// Adds bytes that are no frame: the magic.
    pub(super) fn say_raw(&mut self, bytes: &[u8]) {
        self.out.add_raw(bytes);
    }

    pub(super) fn say(&mut self, frame: ToParent) {
        self.say_with(&frame, &[]);
    }

    /// Adds an answer to what is to be written. One that is larger than a message may be is replaced by one that says so.
    pub(super) fn say_with(&mut self, frame: &ToParent, body: &[u8]) {
        if !self.has_left() {
            let added = self.out.add(&self.codec, frame, body);
            self.said(frame, added);
        }
    }

    /// The same for a large body, which is not copied any more.
    pub(super) fn say_bulk(&mut self, frame: &ToParent, body: Departure) {
        let body = self.place(body);
        if let Some(body) = body.small() {
            self.say_with(frame, body);
        } else if !self.has_left() {
            let added = self.out.add_bulk(&self.codec, frame, body);
            self.said(frame, added);
        }
    }

    /// Adds an item, of which parts may have been copied. One that cannot be sent is none.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(super) fn say_item(
        &mut self,
        frame: &ToParent,
        item: Encoded<'_>,
        copied: Option<Departure>,
    ) -> Result<(), Unsendable> {
        match (item, copied) {
            (Encoded::Small(bytes), _) => self.out.add(&self.codec, frame, bytes),
            (Encoded::Large(payload), None) => self.out.add_bulk(&self.codec, frame, payload.clone()),
            (Encoded::Large(_), Some(copied)) => {
                let rest = self.place(copied);
                self.out.add_bulk(&self.codec, frame, rest)
            }
        }
    }

    /// Says where that lies which was copied. The rest has to follow.
    fn place(&mut self, body: Departure) -> Payload {
        let (placed, rest) = body.end();
        if !placed.is_empty() {
            self.say(ToParent::Spans { placed });
        }
        rest
    }

    fn said(&mut self, frame: &ToParent, added: Result<(), Unsendable>) {
        let Err(error) = added else { return };
        match (frame, &error) {
            (
                ToParent::Done { task, attempt, used_us, verdict: Verdict::Returned },
                Unsendable::TooLarge { bytes, .. },
            ) => {
                let verdict = Verdict::TooLarge { bytes: *bytes as u64 };
                self.say(ToParent::Done { task: *task, attempt: *attempt, used_us: *used_us, verdict });
            }
            _ => self.fail(leave::UNFIT, &format!("an answer can't be sent: {error}")),
        }
    }
}
