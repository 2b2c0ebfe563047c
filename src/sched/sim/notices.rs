//! What those who listen must be told: the bystander's idea of how workers end, and of how well the pool is staffed.

use std::collections::BTreeMap;

use super::model::{Known, Model};
use super::{Checked, ensure};
use crate::error::ErrorKind;
use crate::event::Leave;
use crate::id::WorkerId;
use crate::sched::{End, Notice, Outcome, Strength, Tally};

/// What was told, and what has to be.
#[derive(Default)]
pub(super) struct News {
    /// The workers whose end has to be told before the call is over, as one of these.
    ends: BTreeMap<WorkerId, Vec<End>>,
    closing: bool,
    /// `None`: full, as from the beginning.
    strength: Option<Strength>,
    /// Whether a task was refused in this call, since starting has been given up.
    pub(super) hopeless: bool,
    /// What became of everything since the pool was told to end.
    pub(super) tally: Tally,
}

impl News {
    pub(super) fn count(&mut self, outcome: Outcome) {
        let Tally { finished, closed, failed, .. } = &mut self.tally;
        *match outcome {
            Outcome::Answered => finished,
            Outcome::Failed { kind: ErrorKind::Closed, .. } => closed,
            Outcome::Failed { .. } => failed,
        } += 1;
    }

    fn strength(&self) -> Strength {
        self.strength.unwrap_or(Strength::Full)
    }
}

impl Model {
    /// Whether the pool is said to have all the workers that it should have.
    pub(super) fn is_strong(&self) -> bool {
        self.news.strength() == Strength::Full
    }

    /// A worker has gone: that has to be told.
    pub(super) fn ended(&mut self, worker: WorkerId, known: &Known, blames: Vec<ErrorKind>) {
        let closing = self.closing.as_ref();
        let aborted = closing.is_some_and(|closing| closing.aborted);
        let left = |reason| End::Left(reason);
        let lost = blames.into_iter().map(End::Lost);
        let ends = match known.opened {
            None if known.violated => vec![End::Unstarted],
            None if known.retired.is_some() => known.retired.into_iter().map(left).collect(),
            None if closing.is_some() && known.killed.is_some() => {
                vec![End::Unstarted, left(Leave::Closing)]
            }
            None => vec![End::Unstarted],
            Some(_) if known.violated => lost.collect(),
            Some(_) if known.drained => {
                let mut ends = vec![];
                ends.extend(known.terminated.then_some(left(Leave::Stopped)));
                ends.extend(closing.map(|_| left(Leave::Closing)));
                ends.extend(known.retired.map(left));
                ends
            }
            Some(_) if aborted && known.killed.is_some() => {
                let kinds = [ErrorKind::Collateral, ErrorKind::Unresponsive, ErrorKind::Crashed];
                let left = [known.retired.unwrap_or(Leave::Closing), Leave::Closing].map(left);
                lost.chain(kinds.map(End::Lost)).chain(left).collect()
            }
            Some(_) => lost.collect(),
        };
        self.news.ends.insert(worker, ends);
    }

    /// Judges what is told.
    pub(super) fn told(&mut self, notice: &Notice) -> Checked {
        match *notice {
            Notice::Opened { worker } => {
                let known = self.workers.get_mut(&worker).ok_or("a stranger is told to have opened")?;
                ensure!(known.opened.is_some() && !known.announced, "{worker:?} is told to have opened");
                known.announced = true;
            }
            Notice::Leaving { worker, reason } => return self.leaves(worker, reason),
            Notice::Gone { worker, end } => {
                let ends = self.news.ends.remove(&worker).ok_or("an end is told that was none")?;
                ensure!(ends.contains(&end), "{worker:?} is told to have ended: {end:?}, not {ends:?}");
            }
            Notice::Closing => {
                ensure!(self.closing.is_some() && !self.news.closing, "closing is told");
                self.news.closing = true;
            }
            Notice::Strength(strength) => {
                ensure!(self.closing.is_none(), "{strength:?} is told at the end");
                ensure!(strength != self.news.strength(), "{strength:?} is told again");
                let (least, most) = (self.sizes.least as usize, self.sizes.most as usize);
                let short = self.staying() < most || self.may_have_given_up() || self.spent() > 0;
                let opened = self.workers.values().filter(|known| known.opened.is_some()).count();
                let takes = self.workers.values().any(Known::is_open);
                let right = match strength {
                    Strength::Full => opened >= least,
                    // Whoever has opened may have been given the last task that it may do at once.
                    Strength::Weak => short || self.news.strength() == Strength::None && opened > 0,
                    Strength::None => short && self.may_have_given_up() && !takes,
                };
                ensure!(right, "{strength:?} is told of {} workers, {opened} opened", self.workers.len());
                self.news.strength = Some(strength);
            }
        }
        Ok(())
    }

    /// Everything has been told, once the call is over.
    pub(super) fn is_told_all(&mut self) -> Checked {
        let ended = self.news.ends.keys().next();
        ensure!(ended.is_none(), "the end of {ended:?} is not told");
        let silent = self.workers.iter().find(|(_, known)| known.opened.is_some() && !known.announced);
        ensure!(silent.is_none(), "{:?} has opened, untold", silent.map(|(worker, _)| worker));
        ensure!(self.news.closing == self.closing.is_some(), "the end is not told");
        let hopeless = std::mem::take(&mut self.news.hopeless);
        if self.closing.is_some() {
            return Ok(());
        }
        let strength = self.news.strength();
        let (least, most) = (self.sizes.least as usize, self.sizes.most as usize);
        // One that is to make room for a fresh one does so when it has gone.
        let stays = |known: &Known| known.retired.is_none_or(|reason| reason == Leave::Replaced);
        let staying = |known: &&Known| stays(known) && known.given < self.config.most_tasks;
        let staying = self.workers.values().filter(staying).count();
        ensure!(!hopeless || strength == Strength::None, "tasks are refused, yet it is {strength:?}");
        ensure!(strength != Strength::Full || staying >= least, "it is short of workers, untold");
        let open = self.workers.values().filter(|known| known.is_open()).count();
        ensure!(
            strength == Strength::Full || open < most || self.spent() > 0,
            "all are open, yet it is {strength:?}"
        );
        ensure!(strength != Strength::None || open == 0, "somebody is open, yet it is {strength:?}");
        Ok(())
    }
}
