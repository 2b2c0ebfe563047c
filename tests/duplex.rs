//! Much goes both ways at once, through links that hold little: nobody waits for the other to read first, however deep the
//! tree is.

mod support;

use futures::{StreamExt, TryStreamExt};
use procpool::{Blob, Context, Emitter, Error, Pool, StreamTask, Task};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use support::{on_a_runtime, times};

procpool::worker_test!(support::worker().task::<Inline>().task::<Shared>().stream::<Flood>());

/// How much goes each way, in pieces of a mebibyte.
fn mebibytes() -> u64 {
    times(64, 16) as u64
}

/// Gives back what it gets, from so many levels further down.
#[derive(Serialize, Deserialize)]
struct Inline(u32, ByteBuf);

impl Task for Inline {
    const NAME: &'static str = "inline";
    type Output = Result<ByteBuf, Error>;

    async fn run(self, cx: Context) -> Self::Output {
        match self.0 {
            0 => Ok(self.1),
            n => cx.pool()?.run(Self(n - 1, self.1)).await?,
        }
    }
}

/// The same beside the messages.
#[derive(Serialize, Deserialize)]
struct Shared(u32, Blob);

impl Task for Shared {
    const NAME: &'static str = "shared";
    type Output = Result<Blob, Error>;

    async fn run(self, cx: Context) -> Self::Output {
        match self.0 {
            0 => Ok(self.1),
            n => cx.pool()?.run(Self(n - 1, self.1)).await?,
        }
    }
}

/// Sends so many pieces up while it is sent some itself, from so many levels further down.
#[derive(Serialize, Deserialize)]
struct Flood(u32, u64);

impl StreamTask for Flood {
    const NAME: &'static str = "flood";
    type Item = ByteBuf;

    async fn run(self, cx: Context, out: Emitter<ByteBuf>) {
        if self.0 == 0 {
            for n in 0..self.1 {
                out.send(piece(n)).await.unwrap();
            }
            return;
        }
        let mut pieces = cx.pool().unwrap().stream(Self(self.0 - 1, self.1));
        while let Some(piece) = pieces.next().await {
            out.send(piece.unwrap()).await.unwrap();
        }
    }
}

/// Bytes of which each piece has others.
fn piece(n: u64) -> ByteBuf {
    ByteBuf::from(vec![n as u8; 1 << 20])
}

/// Each level has one worker and two slots: it sends and is sent to on one link.
async fn pool() -> Pool {
    Pool::builder().workers(1).slots(2).build().await.unwrap()
}

#[test]
fn g7_much_goes_both_ways_at_once() {
    for levels in [0, 2] {
        on_a_runtime(|| async move {
            let pool = pool().await;
            // More under way than a link holds, in both directions.
            let answers = pool.map((0..mebibytes()).map(move |n| Inline(levels, piece(n))));
            let mut n = 0;
            answers
                .try_for_each(|answer| {
                    assert_eq!(answer.unwrap(), piece(n));
                    n += 1;
                    std::future::ready(Ok(()))
                })
                .await
                .unwrap();
            assert_eq!(n, mebibytes());
        });
    }
}

#[test]
fn g7_one_message_each_way_is_as_large_as_all() {
    for levels in [0, 2] {
        on_a_runtime(|| async move {
            let pool = pool().await;
            let bytes = ByteBuf::from(vec![7; (mebibytes() << 20) as usize]);
            let blob = Blob::from(bytes.to_vec());
            // Two of each: one comes up while the next goes down.
            let (a, b, c, d) = futures::try_join!(
                pool.run(Inline(levels, bytes.clone())),
                pool.run(Inline(levels, bytes.clone())),
                pool.run(Shared(levels, blob.clone())),
                pool.run(Shared(levels, blob.clone()))
            )
            .unwrap();
            assert!(a.unwrap() == bytes && b.unwrap() == bytes);
            assert!(c.unwrap() == blob && d.unwrap() == blob);
        });
    }
}

#[test]
fn g7_a_stream_comes_up_while_inputs_go_down() {
    for levels in [0, 2] {
        on_a_runtime(|| async move {
            let pool = pool().await;
            let mut pieces = pool.stream(Flood(levels, mebibytes()));
            let inputs = pool.map((0..mebibytes()).map(move |n| Inline(levels, piece(n))));
            let up = async {
                let mut n = 0;
                while let Some(item) = pieces.next().await {
                    assert_eq!(item.unwrap(), piece(n));
                    n += 1;
                }
                n
            };
            let (up, down) = futures::join!(up, inputs.try_collect::<Vec<_>>());
            assert_eq!((up, down.unwrap().len() as u64), (mebibytes(), mebibytes()));
        });
    }
}
