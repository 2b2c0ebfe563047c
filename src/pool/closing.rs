//! The end of a pool, as a future. It ends nothing itself.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use crate::driver::Driver;
use crate::event::Summary;

/// Resolves when a pool that was told to end has no task and no worker left, to what became of them. Dropping it changes
/// nothing: the pool ends all the same. It does not keep the pool alive.
///
/// Everybody who waits for the end of a pool gets the same [`Summary`], whichever call theirs was.
///
/// ```no_run
/// # use procpool::{Error, Pool};
/// # async fn example(pool: Pool) -> Result<(), Error> {
/// use std::time::Duration;
///
/// let summary = pool.shutdown(Duration::from_secs(5)).await;
/// if !summary.left_behind.is_empty() {
///     eprintln!("these processes do not even die of SIGKILL: {:?}", summary.left_behind);
/// }
/// # Ok(()) }
/// ```
pub struct Closing {
    closed: BoxFuture<'static, Summary>,
}

impl Closing {
    pub(super) fn new(driver: &Driver) -> Self {
        Self { closed: Box::pin(driver.closed()) }
    }
}

impl Future for Closing {
    type Output = Summary;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Summary> {
        self.closed.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Closing").finish_non_exhaustive()
    }
}
