//! What comes back one by one: the outputs of many tasks, or the items of one. How either is fetched is its own file's
//! business.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::{FusedStream, Stream};
use serde::de::DeserializeOwned;

use super::many::Many;
use super::one::One;
use crate::error::Error;

/// A stream of `Result`s: the items of one task, from [`Pool::stream`](crate::Pool::stream), or the outputs of many, from
/// [`Pool::map`](crate::Pool::map) and its siblings. Dropping it cancels the tasks that are under way.
///
/// The items of one task end with that task: with nothing more if it returned, else with one error. Outputs of many end
/// when the inputs have ended and every task is done. Either stays ended ([`FusedStream`]).
///
/// ```no_run
/// # use procpool::{Context, Pool, Task, Error};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Square(u64);
/// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
/// # async fn example(pool: Pool) -> Result<(), Error> {
/// use futures::StreamExt;
///
/// let mut squares = pool.map((0..100).map(Square));
/// while let Some(square) = squares.next().await {
///     match square {
///         Ok(square) => println!("{square}"),
///         Err(error) => eprintln!("input {:?}: {error}", error.index()),
///     }
/// }
/// # Ok(()) }
/// ```
///
/// # Cancel safety
///
/// `next()` can be dropped and asked for again at any time: nothing is lost.
#[must_use = "dropping Items cancels the tasks that are under way; poll it"]
pub struct Items<O> {
    source: Source<O>,
}

enum Source<O> {
    One(One<O>),
    Many(Many<O>),
}

impl<O> From<One<O>> for Items<O> {
    fn from(one: One<O>) -> Self {
        Self { source: Source::One(one) }
    }
}

impl<O> From<Many<O>> for Items<O> {
    fn from(many: Many<O>) -> Self {
        Self { source: Source::Many(many) }
    }
}

impl<O: DeserializeOwned> Stream for Items<O> {
    type Item = Result<O, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.source {
            Source::One(one) => one.poll_next(cx),
            Source::Many(many) => many.poll_next(cx),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.source {
            Source::One(one) => one.size_hint(),
            Source::Many(many) => many.size_hint(),
        }
    }
}

impl<O: DeserializeOwned> FusedStream for Items<O> {
    fn is_terminated(&self) -> bool {
        match &self.source {
            Source::One(one) => one.is_terminated(),
            Source::Many(many) => many.is_terminated(),
        }
    }
}

impl<O> std::fmt::Debug for Items<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::One(one) => one.fmt(f),
            Source::Many(many) => many.fmt(f),
        }
    }
}
