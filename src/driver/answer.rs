//! How the outcome of a task becomes the answer of its call, with what the driver holds in its hand. What the outcome is was
//! decided by the scheduler.

use std::borrow::Cow;

use super::report::{self, About};
use super::state::{Hand, State};
use crate::error::{Error, ErrorKind};
use crate::id::{TaskId, WorkerId};
use crate::sched::Outcome;
use crate::wire::frame::Verdict;
use crate::wire::payload::Payload;

impl State {
    pub(super) fn resolve(&mut self, task: TaskId, outcome: Outcome, hand: &mut Hand) {
        let answer = match outcome {
            // It has its answers already.
            Outcome::Answered if self.calls.packed(task).is_some() => Ok(Payload::new()),
            Outcome::Answered => match hand {
                Hand::Answer { verdict: Verdict::Returned, body, .. } => Ok(std::mem::take(body)),
                Hand::Answer { worker, attempt, used, verdict, .. } => {
                    let about = About { ran: Some(*used), ..self.about(task, Some(*worker), *attempt) };
                    Err(report::unanswered(about, std::mem::replace(verdict, Verdict::Returned)))
                }
                // The scheduler says Answered only while it handles Done.
                Hand::Empty | Hand::Item(_) | Hand::Answers { .. } | Hand::Death(..) => Err(report::closed()),
            },
            Outcome::Failed { kind: ErrorKind::Overloaded, .. } => {
                Err(report::overloaded(self.about(task, None, 0), self.sched.fullness()))
            }
            Outcome::Failed { kind, worker, attempts, may_have_run } => {
                if may_have_run && matches!(hand, Hand::Death(..)) {
                    self.all_of(task).into_iter().for_each(|task| self.fall(task, worker, hand, true));
                }
                let error = self.failed(kind, task, worker, attempts, hand);
                Err(error.with(|report| report.may_have_run = may_have_run))
            }
        };
        let answer = self.calls.with_earlier(task, answer);
        let (waker, input) = self.calls.answer(task, answer.map_err(|error| self.place(error)));
        if let Some(waker) = waker {
            self.woken.push(waker);
        }
        if let Some(input) = input {
            self.spent.push(input);
        }
    }

    /// Notes that a task has fallen with its worker, for those who listen.
    pub(super) fn fall(&mut self, task: TaskId, worker: Option<WorkerId>, hand: &Hand, may_have_run: bool) {
        let fell = matches!(hand, Hand::Death(dead, _) if worker == Some(*dead));
        self.fallen.extend((fell && may_have_run && !self.bus.is_silent()).then_some(task));
    }

    /// Words the failure of an attempt, with what the driver holds in its hand.
    pub(super) fn failed(
        &self,
        kind: ErrorKind,
        task: TaskId,
        worker: Option<WorkerId>,
        attempts: u32,
        hand: &Hand,
    ) -> Error {
        let mut about = self.about(task, worker, attempts);
        let death = match hand {
            Hand::Death(dead, death) if worker == Some(*dead) => Some(&**death),
            Hand::Answer { task: answered, used, .. } if *answered == task => {
                about.ran = Some(*used);
                None
            }
            _ => None,
        };
        let error = report::failed(kind, about, death, self.start_error.as_ref());
        if self.can_kill { error } else { report::unkillable(error) }
    }

    /// What errors say about a task.
    fn about(&self, task: TaskId, worker: Option<WorkerId>, attempts: u32) -> About {
        let name = self.name(task).map(Cow::Borrowed);
        let pid = worker.and_then(|worker| self.port(worker)?.pid());
        About { task, name, worker, pid, attempts, stream: self.calls.is_stream(task), ran: None }
    }
}
