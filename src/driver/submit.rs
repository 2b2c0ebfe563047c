//! How a task comes into the state: its type is looked up, its token asked, its input kept, and the scheduler told. Whether
//! there is a place for it is the scheduler's to say.

use std::any::TypeId;
use std::time::Instant;

use super::calls::UNKNOWN;
use super::report;
use super::state::{Hand, State};
use super::{Options, Place};
use crate::error::Error;
use crate::id::TaskId;
use crate::sched::{Input, Spec};
use crate::task::{Task, describe};
use crate::wire::frame::TaskType;
use crate::wire::payload::Payload;

/// A task that was submitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Submitted {
    pub(crate) task: TaskId,
    /// Whether it does not wait for a place in the queue.
    pub(crate) placed: bool,
}

impl State {
    pub(super) fn submit<T: Task>(
        &mut self,
        input: Payload,
        options: &Options,
        place: Place,
    ) -> Result<Submitted, Error> {
        let kind = self.kind(TypeId::of::<T>(), T::NAME, describe::<T>)?;
        let spec = options.spec(kind, input.len(), matches!(place, Place::Awaited));
        self.admit(input, options, spec, place)
    }

    /// Submits a task of any type. What time it is is asked only if it matters: that takes longer than most of this.
    pub(super) fn admit(
        &mut self,
        input: Payload,
        options: &Options,
        spec: Spec,
        place: Place,
    ) -> Result<Submitted, Error> {
        // Asked under the lock: whoever watches the token looks for its tasks later, and finds this one.
        if options.is_cancelled() {
            return Err(report::token_cancelled());
        }
        if let Place::Reserved(task) = place {
            if self.calls.redeem(task, spec.kind, input, spec.stream) {
                self.handle(Instant::now(), Input::Redeem { task, spec });
                self.rearm();
            }
            return Ok(Submitted { task, placed: true });
        }
        let task = self.calls.insert(spec.kind, input, options.leash.clone(), spec.stream)?;
        if self.sched.submit_behind(task, &spec) {
            self.act(&mut Hand::Empty);
        } else {
            self.handle(Instant::now(), Input::Submit { task, spec });
            self.rearm();
        }
        Ok(Submitted { task, placed: !spec.patient || self.calls.is_placed(task) })
    }

    /// Asks for a place in the queue. What comes of it can be asked for as the answer of a task can.
    pub(super) fn reserve(
        &mut self,
        now: Instant,
        options: &Options,
        patient: bool,
    ) -> Result<TaskId, Error> {
        if options.is_cancelled() {
            return Err(report::token_cancelled());
        }
        let task = self.calls.insert(UNKNOWN, Payload::new(), options.leash.clone(), false)?;
        let spec = options.spec(UNKNOWN, 0, patient);
        self.handle(now, Input::Reserve { task, spec });
        Ok(task)
    }

    /// The position of a type in the workers' table.
    pub(super) fn kind(
        &mut self,
        id: TypeId,
        name: &'static str,
        describe: fn() -> TaskType,
    ) -> Result<u32, Error> {
        // Many of one type come one after the other.
        if let Some((_, kind)) = self.latest.filter(|(latest, _)| *latest == id) {
            return Ok(kind);
        }
        if let Some((kind, _)) = self.kinds.get(&id) {
            self.latest = Some((id, *kind));
            return Ok(*kind);
        }
        let position = report::find(self.table.as_deref().unwrap_or_default(), &describe())?;
        self.kinds.insert(id, (position, name));
        Ok(position)
    }
}
