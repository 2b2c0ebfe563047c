//! How long tasks of each kind take, learnt from what workers report. It decides nothing; workers can lie, and a lie
//! only costs time.

use std::time::Duration;

/// The weight of one more observation: 1/8, as for round-trip times in TCP (RFC 6298). Heavier jumps at every outlier;
/// lighter is slow to see that a kind has changed.
const WEIGHT: u32 = 8;

/// What a task costs its worker at least: frames, decoding, two looks at the clock. It keeps kinds whose tasks take no
/// measurable time from being worth nothing.
const LEAST: Duration = Duration::from_nanos(500);

/// Service times, by kind.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    kinds: Vec<Option<Duration>>,
}

impl Forecast {
    /// Takes in how long so many tasks took, one after the other. Those of a pack share their frames, and what it costs to send
    /// them is in what they took.
    pub(super) fn learn(&mut self, kind: u32, used: Duration, tasks: u32) {
        let kind = kind as usize;
        let (used, least) = if tasks > 1 { (used / tasks, LEAST / 10) } else { (used, LEAST) };
        if kind >= self.kinds.len() {
            self.kinds.resize(kind + 1, None);
        }
        let used = used.max(least);
        self.kinds[kind] = Some(match self.kinds[kind] {
            None => used,
            Some(known) if used > known => known + (used - known) / WEIGHT,
            Some(known) => known - (known - used) / WEIGHT,
        });
    }

    /// How long the next one will take; `None` if nothing is known yet.
    pub(super) fn of(&self, kind: u32) -> Option<Duration> {
        self.kinds.get(kind as usize).copied().flatten()
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
        assert_eq!(forecast.of(3), Some(Duration::from_millis(8)));
        forecast.learn(3, Duration::from_millis(16), 1);
        assert_eq!(forecast.of(3), Some(Duration::from_millis(9)));
        for _ in 0..200 {
            forecast.learn(3, Duration::ZERO, 1);
        }
        assert!(forecast.of(3) < Some(LEAST * 9));
        for _ in 0..100 {
            forecast.learn(3, Duration::from_micros(20), 200);
        }
        assert!(forecast.of(3) < Some(LEAST / 4));
        assert_eq!(forecast.of(2), None);
    }
}
