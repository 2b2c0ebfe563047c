//! Looking for something again and again, for a moment, instead of sleeping until it comes: whether that pays, and whether it
//! is in the way of others. It looks at nothing itself, and is told what time it is.

use std::time::{Duration, Instant};

/// How long to look. Falling asleep and being woken rarely takes longer, so that what does has little to gain.
pub(crate) const SPIN: Duration = Duration::from_micros(50);

/// How many looks there are until others may have the processor. An empty look costs a third of a microsecond, as does
/// giving the processor away to nobody.
pub(crate) const LOOKS: usize = 2;

/// How many times looking may be in vain in a row. More costs processor time; less misses the brief among tasks that are not.
const VAIN: u32 = 8;

/// What comes to a sleeper within this may come within [`SPIN`] to one who looks: the rest may be what waking took.
const SOON: Duration = Duration::from_micros(120);

/// Who gives the processor away has it back within a microsecond if nobody wants it, and within a few if the one who does is
/// looking for something as well. Others keep it for a millisecond or more.
const KEPT: Duration = Duration::from_micros(100);

/// How long not to look once others keep the processor, at first and at most. It is found out by waiting for them, for some
/// milliseconds: less loses more of these, more is slow to see that they have gone.
const REST: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(2)];

/// How many times as long as the last rest it must go well until that is forgotten.
const CALM: u32 = 8;

/// Whether what is awaited tends to come soon.
#[derive(Debug, Default)]
pub(crate) struct Vigil {
    /// How many times in a row it has not.
    vain: u32,
}

impl Vigil {
    /// Whether it is worth looking.
    pub(crate) fn pays(&self) -> bool {
        self.vain < VAIN
    }

    /// What was awaited for so long has come.
    pub(crate) fn came(&mut self, after: Duration) {
        self.vain = match self.pays() {
            true if after <= SPIN => 0,
            // Once, to see whether it does.
            false if after <= SOON => VAIN - 1,
            _ => VAIN.min(self.vain + 1),
        };
    }
}

/// Whether others want the processor.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    until: Option<Instant>,
    /// How long this one is, or the last one was.
    length: Duration,
}

impl Rest {
    /// Whether it is theirs for now.
    pub(crate) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// The processor was given away at `gave` and is back. Whether nobody has kept it; else the rest begins.
    pub(crate) fn is_back(&mut self, gave: Instant, now: Instant) -> bool {
        if now.saturating_duration_since(gave) < KEPT {
            return true;
        }
        let [least, most] = REST;
        let calm = self.until.is_none_or(|until| now.saturating_duration_since(until) > CALM * self.length);
        self.length = if calm { least } else { most.min(2 * self.length) };
        self.until = Some(now + self.length);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_in_vain_time_and_again_stops_until_something_comes_soon() {
        let mut vigil = Vigil::default();
        let late = SPIN + Duration::from_micros(1);
        for _ in 0..VAIN - 1 {
            vigil.came(late);
        }
        assert!(vigil.pays());
        vigil.came(SPIN);
        for _ in 0..VAIN {
            assert!(vigil.pays(), "it was not in vain every time");
            vigil.came(late);
        }
        assert!(!vigil.pays());
        vigil.came(SOON + Duration::from_micros(1));
        assert!(!vigil.pays());
        for came in [late, SOON] {
            vigil.came(SOON);
            assert!(vigil.pays(), "it may have come soon");
            vigil.came(came);
            assert!(!vigil.pays(), "it does not");
        }
        vigil.came(SOON);
        vigil.came(Duration::ZERO);
        vigil.came(late);
        assert!(vigil.pays(), "it does");
    }

    #[test]
    fn others_who_keep_the_processor_have_it_for_longer_each_time_until_all_is_calm() {
        let mut rest = Rest::default();
        let mut now = Instant::now();
        let [least, most] = REST;
        let mut lose = |rest: &mut Rest, after: Duration| {
            let gave = now + after;
            assert!(!rest.is_on(gave) && rest.is_back(gave, gave + KEPT / 2) && !rest.is_on(gave));
            now = gave + KEPT;
            assert!(!rest.is_back(gave, now) && rest.is_on(now));
            let until = (0..).map(|n| now + n * least).find(|at| !rest.is_on(*at)).unwrap();
            let length = until - now;
            now = until;
            length
        };
        let lengths: Vec<_> = (0..9).map(|_| lose(&mut rest, Duration::from_micros(5))).collect();
        assert!((0..6).all(|n| lengths[n] == least * (1 << n)), "{lengths:?}");
        assert_eq!(lengths[8], most);
        assert_eq!(lose(&mut rest, most), most, "that is not calm for long");
        assert_eq!(lose(&mut rest, (CALM + 1) * most), least);
    }
}
