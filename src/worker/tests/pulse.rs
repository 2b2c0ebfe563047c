//! What the watcher sees of the main thread, step by step. What two threads can make of it is in `tests/models.rs`.

use crate::worker::pulse::{Pulse, asleep};

#[test]
fn the_epoch_is_even_only_in_sleep_and_always_grows() {
    let pulse = Pulse::new().unwrap();
    let mut last = pulse.epoch();
    let mut step = |step: fn(&Pulse), sleeps| {
        step(&pulse);
        assert!(asleep(pulse.epoch()) == sleeps && pulse.epoch() > last);
        last = pulse.epoch();
    };
    step(Pulse::beat, false);
    step(Pulse::sleep, true);
    step(Pulse::rise, false);
    step(Pulse::rise, false);
    step(Pulse::sleep, true);
    step(Pulse::rise, false);
}

#[test]
fn a_dozing_watcher_is_woken_by_the_first_rise_and_only_by_that() {
    let pulse = Pulse::new().unwrap();
    pulse.sleep();
    assert!(!pulse.doze(1), "it dozed although the main thread had moved");
    assert!(pulse.doze(pulse.epoch()));
    assert!(pulse.bell().read().is_err());
    pulse.rise();
    assert_eq!(pulse.bell().read(), Ok(1));
    pulse.rise();
    assert!(pulse.bell().read().is_err());
}
