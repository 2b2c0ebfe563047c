//! How a pool is configured to carry bulk. It carries none.

use super::PoolBuilder;

/// How much memory is shared with a worker for bulk by default. Each direction gets a half, which holds two of the 64 MiB
/// messages for which it was measured, so that one is copied while the other is read. It is memory only where it is used.
pub(super) const DEFAULT: usize = 256 << 20;

impl PoolBuilder {
    /// How much memory each worker shares with this process, in bytes, half of it for either direction. Default: 256 MiB; 0:
    /// none.
    ///
    /// [`Blob`](crate::Blob)s, and whatever else is more than 32 KiB in one piece, travel through it, two to five times as
    /// fast as through the link. What finds no room goes through the link, as all does where there is no such memory: with
    /// workers that are threads, before Linux 5.14, and behind programs that only pass standard input and output on. It is
    /// taken from the system when it is first used, used again and again, and given back when there was no bulk for five
    /// seconds. It counts as shared memory of this process's control group, and is neither a file nor in `/dev/shm`. Both
    /// processes set aside so much address space, but no memory, for each worker.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), procpool::Error> {
    /// // Films: each worker may have a gigabyte on its way in, and as much on its way back.
    /// let pool = procpool::Pool::builder().shared_memory(2 << 30).build().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn shared_memory(mut self, bytes: usize) -> Self {
        self.bulk = bytes;
        self
    }

    /// Vouches that the workers leave what they have sent alone. Default: no.
    ///
    /// [`Blob`](crate::Blob)s of outputs are then views of the [shared memory](Self::shared_memory), which is used again when
    /// the last clone of them is dropped: they cost no copy, but while they are held there is less room for others. Otherwise
    /// they are copied before anybody looks at them, since a worker that has gone wild could change them under the eyes of
    /// code that has already checked them.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), procpool::Error> {
    /// // The workers run our own code, all of it in safe Rust.
    /// let pool = procpool::Pool::builder().trusted_workers(true).build().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn trusted_workers(mut self, trusted: bool) -> Self {
        self.trusting = trusted;
        self
    }
}
