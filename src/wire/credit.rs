//! What a stream's items cost. Worker and parent keep the same account, each for itself; who grants more, and when, is
//! decided elsewhere.

/// The credit that a stream begins with, on both sides without a word. More lets a stream that is dropped soon produce
/// more in vain; less lets a short one wait for a round trip.
pub(crate) const FIRST: u32 = 64;

/// The most credit that a stream has out and unread at a time: 1 024 small items, or 4 MiB. More costs memory for every
/// slow consumer; less lets a fast producer wait while its consumer's grant is on its way.
pub(crate) const MOST: u32 = 1024;

/// How many bytes one credit buys.
const UNIT: usize = 4 << 10;

/// What an item of so many bytes costs. It may cost more than there is, so that one of any size can be sent: the next one
/// has to wait until the account is in credit again.
pub(crate) fn cost(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_costs_something_and_bulk_costs_by_its_size() {
        let costs = [0, 1, UNIT, UNIT + 1, MOST as usize * UNIT, usize::MAX].map(cost);
        assert_eq!(costs, [1, 1, 1, 2, MOST, u32::MAX]);
    }
}
