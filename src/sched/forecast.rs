//! How long tasks of each kind take, learnt from what workers report. It decides nothing; workers can lie, and a lie
//! only costs time.

use std::time::Duration;

/// The weight of one more observation: 1/8, as for round-trip times in TCP (RFC 6298). Heavier jumps at every outlier;
/// lighter is slow to see that a kind has changed.
const WEIGHT: u64 = 8;

/// As how many times what is known one observation counts at most: it may have waited for its processor, which takes
/// milliseconds where many want one. Five in a row still make it two hundred times as much, so a kind that has changed is seen.
const OUTLIER: u64 = 16;

/// The weight of one more observation in the average: no-ops have forgotten the past in some milliseconds.
const LASTING: u64 = 4096;

/// Which average still goes with tasks that typically take no time at all: while three processes take turns on two processors,
/// no-ops take 2 us on average. One that takes a millisecond among a hundred makes it 10 us.
const TURNS: Worth = Worth::micros(3);

/// What a task costs its worker at least: frames, decoding, two looks at the clock. It keeps kinds whose tasks take no
/// measurable time from being worth nothing.
const LEAST: Worth = Worth(500);

/// How long something is predicted to take, in nanoseconds: all tasks pass through these sums, and a `Duration` has twice as much
/// to reckon with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth(u64);

impl Worth {
    pub(super) const fn micros(micros: u64) -> Self {
        Self(micros * 1000)
    }

    pub(super) const fn nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub(super) fn as_nanos(self) -> u64 {
        self.0
    }

    #[inline]
    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    #[inline]
    pub(super) fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    pub(super) fn times(self, n: u32) -> Self {
        Self(self.0.saturating_mul(n.into()))
    }

    /// The same, done by so many at once.
    #[inline]
    pub(super) fn shared_by(self, n: u32) -> Self {
        if n == 1 { self } else { Self(self.0 / u64::from(n)) }
    }
}

impl From<Duration> for Worth {
    #[inline]
    fn from(time: Duration) -> Self {
        Self(time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos().into()))
    }
}

/// Service times, by kind.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    kinds: Vec<Option<Known>>,
}

/// What is known of a kind.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// What is typical: outliers hardly count.
    typical: Worth,
    /// The average, with all outliers, in parts of a nanosecond: `LASTING` of them, so that nothing is too little to count.
    average: u64,
    /// Of how many, up to `LASTING`.
    count: u64,
}

impl Forecast {
    /// Takes in how long so many tasks took, one after the other. Those of a pack share their frames, and what it costs to send
    /// them is in what they took.
    pub(super) fn learn(&mut self, kind: u32, used: Duration, tasks: u32) {
        let kind = kind as usize;
        let used = Worth::from(used).shared_by(tasks.max(1));
        let Worth(used) = used.max(if tasks > 1 { LEAST.shared_by(10) } else { LEAST });
        if kind >= self.kinds.len() {
            self.kinds.resize(kind + 1, None);
        }
        let Some(known) = &mut self.kinds[kind] else {
            let average = used.saturating_mul(LASTING);
            self.kinds[kind] = Some(Known { typical: Worth(used), average, count: 1 });
            return;
        };
        let Known { typical: Worth(typical), average, count } = known;
        if used > *typical {
            *typical += (used - *typical).min(typical.saturating_mul(OUTLIER - 1)) / WEIGHT;
        } else {
            *typical -= (*typical - used) / WEIGHT;
        }
        *average = if *count == LASTING {
            // The same as below, in much less time.
            (*average - *average / LASTING).saturating_add(used)
        } else {
            *count += 1;
            (*average - *average / *count).saturating_add(used.saturating_mul(LASTING) / *count)
        };
    }

    /// How long the next one will take; `None` if nothing is known yet.
    #[inline]
    pub(super) fn of(&self, kind: u32) -> Option<Worth> {
        self.known(kind).map(|known| known.typical)
    }

    /// How long many of them take, for each: those of which few take long, too.
    #[inline]
    pub(super) fn of_many(&self, kind: u32) -> Option<Worth> {
        let &Known { typical, average, .. } = self.known(kind)?;
        let average = Worth(average / LASTING);
        Some(if average <= TURNS { typical } else { typical.max(average) })
    }

    #[inline]
    fn known(&self, kind: u32) -> Option<&Known> {
        self.kinds.get(kind as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_starts_at_the_first_observation_and_follows_the_others() {
        let mut forecast = Forecast::default();
        assert_eq!(forecast.of(3), None);
        forecast.learn(3, Duration::from_millis(8), 1);
        assert_eq!(forecast.of(3), Some(Worth::micros(8000)));
        forecast.learn(3, Duration::from_millis(16), 1);
        assert_eq!(forecast.of(3), Some(Worth::micros(9000)));
        forecast.learn(3, Duration::from_secs(9), 1);
        assert_eq!(forecast.of(3), Some(Worth::micros(9000 + 9000 * 15 / 8)), "sixteen times as much");
        for _ in 0..200 {
            forecast.learn(3, Duration::ZERO, 1);
        }
        assert!(forecast.of(3) < Some(LEAST.times(9)));
        for _ in 0..100 {
            forecast.learn(3, Duration::from_micros(20), 200);
        }
        assert!(forecast.of(3) < Some(LEAST.shared_by(4)));
        assert_eq!(forecast.of(2), None);
    }

    #[test]
    fn of_many_the_few_that_take_long_count_until_there_were_none_for_long() {
        let mut forecast = Forecast::default();
        let learn = |forecast: &mut Forecast, times: u32, micros: u64| {
            (0..times).for_each(|_| forecast.learn(0, Duration::from_micros(micros), 1));
        };
        for _ in 0..50 {
            learn(&mut forecast, 99, 0);
            learn(&mut forecast, 1, 1000);
        }
        let many = forecast.of_many(0).unwrap();
        assert!(Worth::micros(9) < many && many < Worth::micros(13), "{many:?}");
        assert!(forecast.of(0) < Some(LEAST.times(6)));
        learn(&mut forecast, 10_000, 0);
        assert_eq!(forecast.of_many(0), forecast.of(0));
        learn(&mut forecast, 4, 2000);
        assert_eq!(forecast.of_many(0), forecast.of(0), "one in a thousand");
    }
}
