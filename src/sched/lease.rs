//! Who in the tree of pools holds how much of what is lent: places to work in, and processes. Each pool keeps a ledger of
//! what its workers' own pools hold; the root lends, those below hand questions on. It does not decide what a pool does
//! with what it gets.
//!
//! ```text
//!  a pool below            its worker's parent                              the root
//!     │ Lease ──────────────▶ asked: whose question is next ── Lease ────────▶ enough left?
//!     │ ◀── Granted (0: no) ─ lent += n                     ◀── Granted ────── lent += n
//!     │ Returned ───────────▶ lent -= n                     ── Returned ─────▶ lent -= n
//!     ✗ its worker dies       lent = 0                      ── Returned ─────▶ lent -= n
//!                             ◀── Nudge ─────────────────── ◀── Nudge ──────── to those that got too little
//! ```
//!
//! A question has one answer, at once; nobody waits for more than that. Answers come in the order of the questions. When
//! something comes free, those are told first who have least of it, and then those who were refused first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::id::WorkerId;
use crate::wire::frame::LeaseKind as Kind;

pub(super) const KINDS: [Kind; 2] = [Kind::Place, Kind::Process];

/// What is lent to the pools below, by kind.
#[derive(Debug, Default)]
pub(super) struct Leases {
    books: [Book; 2],
}

#[derive(Debug, Default)]
struct Book {
    /// By the worker whose pool has it.
    lent: BTreeMap<WorkerId, u32>,
    /// Who has got less than it asked for, the first to be refused first.
    hungry: Vec<WorkerId>,
    /// Who was told that there is some, and has not asked again.
    called: BTreeSet<WorkerId>,
    /// The questions that are under way above, each with how much it is about.
    asked: VecDeque<(Asker, u32)>,
}

/// Who has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// The pool itself.
    Own,
    /// The pool below this worker.
    Worker(WorkerId),
    /// One that has died since.
    Nobody,
}

impl Leases {
    fn book(&mut self, kind: Kind) -> &mut Book {
        &mut self.books[kind as usize]
    }

    /// How much is lent to all pools below.
    pub(super) fn lent(&self, kind: Kind) -> u32 {
        self.books[kind as usize].lent.values().sum()
    }

    /// Whether anybody got less than it asked for.
    pub(super) fn is_hungry(&self) -> bool {
        self.books.iter().any(|book| !book.hungry.is_empty())
    }

    #[cfg(test)]
    pub(super) fn is_hungry_for(&self, kind: Kind) -> bool {
        !self.books[kind as usize].hungry.is_empty()
    }

    /// The root lends to a worker's pool: as much as there is, if anything.
    pub(super) fn lend(&mut self, kind: Kind, worker: WorkerId, wanted: u32, left: u32) -> u32 {
        let granted = wanted.min(left);
        self.settle(kind, worker, wanted, granted);
        granted
    }

    /// Notes a question that is handed on.
    pub(super) fn ask(&mut self, kind: Kind, asker: Asker, wanted: u32) {
        self.book(kind).asked.push_back((asker, wanted));
    }

    /// Whether the pool itself has a question under way.
    pub(super) fn asks(&self, kind: Kind) -> bool {
        self.books[kind as usize].asked.iter().any(|(asker, _)| *asker == Asker::Own)
    }

    /// Whether any question is under way.
    pub(super) fn is_asking(&self, kind: Kind) -> bool {
        !self.books[kind as usize].asked.is_empty()
    }

    /// An answer from above: whom it is for. `None` if there was no question, or it was not about that much.
    pub(super) fn granted(&mut self, kind: Kind, granted: u32) -> Option<Asker> {
        let (asker, wanted) = self.book(kind).asked.pop_front()?;
        if granted > wanted {
            return None;
        }
        if let Asker::Worker(worker) = asker {
            self.settle(kind, worker, wanted, granted);
        }
        Some(asker)
    }

    fn settle(&mut self, kind: Kind, worker: WorkerId, wanted: u32, granted: u32) {
        let book = self.book(kind);
        if granted > 0 {
            *book.lent.entry(worker).or_default() += granted;
        }
        book.called.remove(&worker);
        if granted < wanted && !book.hungry.contains(&worker) {
            book.hungry.push(worker);
        }
    }

    /// A worker's pool gives something back. Whether it had that much.
    pub(super) fn returned(&mut self, kind: Kind, worker: WorkerId, n: u32) -> bool {
        let book = self.book(kind);
        let Some(lent) = book.lent.get_mut(&worker).filter(|lent| **lent >= n) else { return n == 0 };
        *lent -= n;
        if *lent == 0 {
            book.lent.remove(&worker);
        }
        true
    }

    /// A worker is gone, and its pool with it: what that had is free.
    pub(super) fn lost(&mut self, kind: Kind, worker: WorkerId) -> u32 {
        let book = self.book(kind);
        book.hungry.retain(|hungry| *hungry != worker);
        book.called.remove(&worker);
        for (asker, _) in &mut book.asked {
            if *asker == Asker::Worker(worker) {
                *asker = Asker::Nobody;
            }
        }
        book.lent.remove(&worker).unwrap_or(0)
    }

    /// Takes out so many of those that got less of this than they asked for: there is some now. Those come first that have
    /// least, or `most`.
    pub(super) fn feed(&mut self, kind: Kind, n: usize, most: bool) -> Vec<WorkerId> {
        let book = self.book(kind);
        let lent = |worker: &WorkerId| book.lent.get(worker).copied().unwrap_or(0);
        // It keeps the order of those that have the same.
        book.hungry.sort_by_key(|worker| if most { u32::MAX - lent(worker) } else { lent(worker) });
        book.hungry.drain(..n.min(book.hungry.len())).collect()
    }

    /// Notes that what is free is kept for this one until it has asked, or [`forget`](Self::forget_called).
    pub(super) fn call(&mut self, kind: Kind, worker: WorkerId) {
        self.book(kind).called.insert(worker);
    }

    /// For how many others than this one something is kept.
    pub(super) fn kept(&self, kind: Kind, worker: Option<WorkerId>) -> u32 {
        self.books[kind as usize].called.iter().filter(|called| Some(**called) != worker).count() as u32
    }

    /// Those who were told that there is some and have not asked do not need it.
    pub(super) fn forget_called(&mut self) {
        self.books.iter_mut().for_each(|book| book.called.clear());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(n: u32) -> WorkerId {
        WorkerId::new(n, n)
    }

    #[test]
    fn the_root_lends_what_there_is_and_gets_it_back_from_the_living_and_the_dead() {
        let mut leases = Leases::default();
        assert_eq!(leases.lend(Kind::Place, worker(1), 2, 3), 2);
        assert_eq!(leases.lend(Kind::Place, worker(2), 2, 1), 1);
        assert_eq!((leases.lent(Kind::Place), leases.lent(Kind::Process)), (3, 0));
        assert!(leases.returned(Kind::Place, worker(1), 1));
        assert!(!leases.returned(Kind::Place, worker(1), 2), "it has one");
        assert!(!leases.returned(Kind::Process, worker(1), 1), "it has none of those");
        assert_eq!(leases.lost(Kind::Place, worker(1)), 1);
        assert_eq!(leases.lent(Kind::Place), 1);
        assert_eq!(leases.feed(Kind::Place, 9, false), [worker(2)]);
        assert!(!leases.is_hungry());
    }

    #[test]
    fn who_has_least_is_fed_first_and_then_who_was_refused_first() {
        let mut leases = Leases::default();
        leases.lend(Kind::Place, worker(1), 1, 1);
        for n in [1, 3, 2] {
            assert_eq!(leases.lend(Kind::Place, worker(n), 1, 0), 0);
        }
        assert_eq!(leases.feed(Kind::Place, 1, false), [worker(3)]);
        leases.call(Kind::Place, worker(3));
        assert_eq!(
            (leases.kept(Kind::Place, Some(worker(2))), leases.kept(Kind::Place, Some(worker(3)))),
            (1, 0)
        );
        assert_eq!(leases.feed(Kind::Place, 9, false), [worker(2), worker(1)]);
        leases.lend(Kind::Place, worker(3), 1, 1);
        assert_eq!(leases.kept(Kind::Place, None), 0);
    }

    #[test]
    fn answers_go_to_those_who_asked_in_that_order() {
        let mut leases = Leases::default();
        leases.ask(Kind::Process, Asker::Own, 1);
        leases.ask(Kind::Process, Asker::Worker(worker(1)), 2);
        leases.ask(Kind::Process, Asker::Worker(worker(2)), 1);
        assert!(leases.asks(Kind::Process) && !leases.asks(Kind::Place));
        assert_eq!(leases.granted(Kind::Process, 1), Some(Asker::Own));
        assert_eq!(leases.lost(Kind::Process, worker(2)), 0);
        assert_eq!(leases.granted(Kind::Process, 2), Some(Asker::Worker(worker(1))));
        assert_eq!(leases.granted(Kind::Process, 1), Some(Asker::Nobody));
        assert_eq!(leases.granted(Kind::Process, 0), None, "nobody had asked");
        assert_eq!(leases.lent(Kind::Process), 2);
    }

    #[test]
    fn more_than_was_asked_for_is_no_answer() {
        let mut leases = Leases::default();
        leases.ask(Kind::Place, Asker::Own, 1);
        assert_eq!(leases.granted(Kind::Place, 2), None);
    }
}
