//! A worker that builds its states, block and await as they may: the link is served, and its end is heard.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::parent::{await_end, encode, hello, myself, spawn, watch};
use crate::wire::MESSAGE_LIMIT;
use crate::wire::codec::{Codec, take_magic};
use crate::wire::frame::{ToParent, ToWorker};
use crate::worker::Worker;

#[test]
fn blocking() {
    Worker::new()
        .state(|| async {
            std::thread::sleep(Duration::from_secs(60));
        })
        .init_in_test();
}

#[test]
fn awaiting() {
    Worker::new().state(std::future::pending::<()>).init_in_test();
}

const ENTRIES: [&str; 2] = ["prepare::blocking", "prepare::awaiting"];

#[test]
fn pings_are_answered_while_states_are_built() {
    for entry in ENTRIES {
        let (mut child, mut link, _page) = spawn(entry);
        link.write_all(&encode(ToWorker::Hello(hello(vec![myself()])))).unwrap();
        link.write_all(&encode(ToWorker::Ping { nonce: 5 })).unwrap();
        let (mut codec, mut bytes) = (Codec::<ToParent>::new(MESSAGE_LIMIT), BytesMut::new());
        let (mut frames, mut greeted) = (Vec::new(), false);
        while frames.len() < 3 {
            let mut chunk = [0; 4096];
            let n = link.read(&mut chunk).unwrap();
            bytes.extend_from_slice(&chunk[..n]);
            greeted = greeted || take_magic(&mut bytes).unwrap().is_some();
            while greeted && let Some(message) = codec.decode(&mut bytes).unwrap() {
                frames.push(message.frame);
                if frames.len() == 2 {
                    // Once more, when whatever came with the greeting has been dealt with.
                    link.write_all(&encode(ToWorker::Ping { nonce: 6 })).unwrap();
                }
            }
        }
        assert!(
            matches!(
                frames[..],
                [ToParent::Ready(_), ToParent::Pong { nonce: 5 }, ToParent::Pong { nonce: 6 }]
            ),
            "{entry}: {frames:?}"
        );
        // The link ends, and nobody waits for the states.
        let worker = watch(child.id());
        drop(link);
        assert!(await_end(&worker) < Duration::from_secs(5), "{entry}");
        child.wait().unwrap();
    }
}
