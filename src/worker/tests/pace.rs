//! How fast a worker is, for people: figures are printed, nothing is asserted. Run with `--release -- --ignored pace`.

use std::io::Write;
use std::time::{Duration, Instant};

use super::parent::{Parent, encode};
use super::tasks::{Compute, Noop, Stubborn};
use crate::wire::frame::{ToParent, ToWorker};

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{what}: p50 {:?}, p95 {:?}, max {:?}", at(50), at(95), at(100));
}

#[test]
#[ignore = "a measurement"]
fn one_no_op_in_flight() {
    let mut parent = Parent::start();
    for round in 0..3 {
        let times = (0..10_000).map(|_| {
            let begun = Instant::now();
            parent.call(&Noop());
            begun.elapsed()
        });
        show(&format!("W1, round {round}"), times.collect());
    }
    parent.drain();
}

#[test]
#[ignore = "a measurement"]
fn no_ops_with_a_window() {
    const WINDOW: usize = 1024;
    const COUNT: usize = 1_000_000;
    let mut parent = Parent::start();
    let frame = encode(parent.run_frame(&Noop()).1);
    for round in 0..5 {
        let (begun, mut sent, mut done) = (Instant::now(), 0, 0);
        while done < COUNT {
            let more = (COUNT - sent).min(WINDOW - (sent - done));
            if more > 0 {
                parent.link.write_all(&frame.repeat(more)).unwrap();
                sent += more;
            }
            for _ in 0..WINDOW.min(sent - done).div_ceil(2) {
                parent.hear().unwrap();
                done += 1;
            }
        }
        println!("W2, round {round}: {:.2} M/s", COUNT as f64 / begun.elapsed().as_secs_f64() / 1e6);
    }
    parent.drain();
}

#[test]
#[ignore = "a measurement"]
fn control_frames_while_user_code_computes() {
    let mut parent = Parent::start();
    let cancels = (0..40).map(|_| {
        let id = parent.run(&Compute());
        parent.await_begun(u64::from(id.serial));
        let said = Instant::now();
        parent.say(ToWorker::Cancel { task: id, grace_ms: 60_000 });
        parent.done();
        said.elapsed()
    });
    show("cancel to answer", cancels.collect());
    parent.run(&Stubborn());
    let pings = (0..100).map(|nonce| {
        let said = Instant::now();
        parent.say(ToWorker::Ping { nonce });
        assert_eq!(parent.frame(), ToParent::Pong { nonce });
        said.elapsed()
    });
    show("ping to pong", pings.collect());
}

#[test]
#[ignore = "a measurement"]
fn from_spawn_to_open() {
    let times = (0..50).map(|_| {
        let begun = Instant::now();
        let parent = Parent::start();
        let took = begun.elapsed();
        drop(parent);
        took
    });
    show("spawn to open", times.collect());
}
