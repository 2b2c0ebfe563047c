//! What one side knows of its own half: what is in use, what is free, and of which pages there are any. It touches no memory.

use std::collections::BTreeMap;
use std::ops::Range;

/// How much is made present and given back at once. More costs memory for little bulk, less costs system calls for much.
pub(super) const BLOCK: usize = 256 << 10;

/// What is in use of our half.
pub(super) struct Own {
    /// Length by offset, in whole pages, and whether the other side knows of it.
    pub(super) used: BTreeMap<usize, (usize, bool)>,
    /// The gaps between those, length by offset.
    pub(super) free: BTreeMap<usize, usize>,
    /// Which blocks are present.
    pub(super) present: Vec<bool>,
    /// A large buffer that was copied out to and is free again: making its pages takes longer than filling them. None is kept
    /// until there was another, once memory was given back.
    pub(super) spare: Option<Vec<u8>>,
}

impl Own {
    /// Of a half of which nothing is in use.
    pub(super) fn new(half: usize) -> Self {
        let present = vec![false; half.div_ceil(BLOCK)];
        Self { used: BTreeMap::new(), free: BTreeMap::from([(0, half)]), present, spare: None }
    }

    /// The lowest gap that is large enough: so the pages in use stay together and few.
    pub(super) fn reserve(&mut self, length: usize) -> Option<usize> {
        let (&offset, &gap) = self.free.iter().find(|(_, gap)| **gap >= length)?;
        self.free.remove(&offset);
        if gap > length {
            self.free.insert(offset + length, gap - length);
        }
        self.used.insert(offset, (length, false));
        Some(offset)
    }

    /// Makes a place a gap again, one with those beside it.
    pub(super) fn free(&mut self, mut offset: usize) {
        let Some((mut length, _)) = self.used.remove(&offset) else { return };
        if let Some(behind) = self.free.remove(&(offset + length)) {
            length += behind;
        }
        let before = self.free.range(..offset).next_back().map(|(at, gap)| (*at, *gap));
        if let Some((at, gap)) = before.filter(|(at, gap)| at + gap == offset) {
            (offset, length) = (at, length + gap);
        }
        self.free.insert(offset, length);
    }

    /// The blocks that lie in gaps and of which some are present.
    pub(super) fn slack(&self, half: usize) -> Vec<Range<usize>> {
        let blocks = |(&offset, &gap): (&usize, &usize)| {
            let end = offset + gap;
            // The last block may be a short one.
            offset.div_ceil(BLOCK)..if end == half { end.div_ceil(BLOCK) } else { end / BLOCK }
        };
        let present = |blocks: &Range<usize>| {
            self.present.get(blocks.clone()).is_some_and(|blocks| blocks.contains(&true))
        };
        self.free.iter().map(blocks).filter(present).collect()
    }
}
