//! Lists of seats by level, and which of them hold any: the emptiest worker is found at once, however many slots each has.
//! What a level means is not known here.

use crate::sched::queue::List;
use crate::sched::worker::Seat;

/// How many levels one word tells about.
const BITS: usize = u64::BITS as usize;

#[derive(Debug)]
pub(super) struct Levels {
    lists: Vec<List>,
    /// A bit for each list that is not empty.
    filled: Vec<u64>,
    /// How many seats are above level 0.
    above: u32,
}

impl Levels {
    pub(super) fn new(count: usize) -> Self {
        Self { lists: vec![List::default(); count], filled: vec![0; count.div_ceil(BITS)], above: 0 }
    }

    pub(super) fn push_front(&mut self, seats: &mut Vec<Seat>, level: u32, seat: u32) {
        self.lists[level as usize].push_front(seats, seat);
        self.above += u32::from(level > 0);
        self.note(level);
    }

    pub(super) fn push_back(&mut self, seats: &mut Vec<Seat>, level: u32, seat: u32) {
        self.lists[level as usize].push_back(seats, seat);
        self.above += u32::from(level > 0);
        self.note(level);
    }

    pub(super) fn unlink(&mut self, seats: &mut Vec<Seat>, level: u32, seat: u32) {
        self.lists[level as usize].unlink(seats, seat);
        self.above -= u32::from(level > 0);
        self.note(level);
    }

    pub(super) fn list(&self, level: u32) -> List {
        self.lists[level as usize]
    }

    /// The highest level that there is.
    pub(super) fn top(&self) -> u32 {
        (self.lists.len() - 1) as u32
    }

    /// The lowest level that holds any.
    #[inline]
    pub(super) fn lowest(&self) -> Option<u32> {
        let word = self.filled.iter().position(|&word| word != 0)?;
        Some((word * BITS) as u32 + self.filled[word].trailing_zeros())
    }

    /// How many seats are above level 0.
    pub(super) fn above(&self) -> u32 {
        self.above
    }

    /// The highest level that holds any.
    #[inline]
    pub(super) fn highest(&self) -> Option<u32> {
        let word = self.filled.iter().rposition(|&word| word != 0)?;
        Some((word * BITS + BITS - 1) as u32 - self.filled[word].leading_zeros())
    }

    #[inline]
    fn note(&mut self, level: u32) {
        let (word, bit) = (level as usize / BITS, 1 << (level as usize % BITS));
        match self.lists[level as usize].is_empty() {
            true => self.filled[word] &= !bit,
            false => self.filled[word] |= bit,
        }
    }

    /// The levels that hold any.
    #[cfg(test)]
    pub(super) fn filled(&self) -> impl Iterator<Item = u32> {
        (0..=self.top()).filter(|&level| !self.list(level).is_empty())
    }

    /// Whether the bits tell the truth.
    #[cfg(test)]
    pub(super) fn is_true(&self) -> bool {
        self.lists
            .iter()
            .enumerate()
            .all(|(level, list)| (self.filled[level / BITS] >> (level % BITS) & 1 == 1) != list.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_and_the_highest_level_are_those_that_hold_any() {
        let mut seats: Vec<Seat> = (0..3).map(|_| Seat::default()).collect();
        let mut levels = Levels::new(1017);
        assert_eq!((levels.lowest(), levels.highest(), levels.top()), (None, None, 1016));
        for (level, seat) in [(64, 0), (1016, 1), (64, 2)] {
            levels.push_back(&mut seats, level, seat);
            assert!(levels.is_true());
        }
        assert_eq!((levels.lowest(), levels.highest()), (Some(64), Some(1016)));
        assert_eq!(levels.above(), 3);
        levels.unlink(&mut seats, 64, 0);
        assert_eq!(levels.lowest(), Some(64));
        levels.unlink(&mut seats, 64, 2);
        assert_eq!((levels.lowest(), levels.highest()), (Some(1016), Some(1016)));
        levels.unlink(&mut seats, 1016, 1);
        levels.push_front(&mut seats, 63, 1);
        assert_eq!((levels.lowest(), levels.highest()), (Some(63), Some(63)));
        levels.push_front(&mut seats, 0, 0);
        assert_eq!((levels.lowest(), levels.above()), (Some(0), 1));
        assert!(levels.is_true());
    }
}
