//! One task, from the caller's side: a future that cancels when it is dropped. Encoding and decoding happen here, on
//! the caller's side of the lock.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde::{Serialize, de::DeserializeOwned};

use crate::driver::{Driver, Options, Place, Submitted};
use crate::error::{Error, ErrorKind};
use crate::id::TaskId;
use crate::task::Task;
use crate::wire::payload::{Gather, Payload};

/// Inputs up to this size are encoded on the stack and cost one allocation of their exact size. It covers the small
/// tasks of which there are many; a larger input is encoded a second time from its beginning.
const SMALL: usize = 256;

/// What a frame needs beside its body, at most.
const HEADER: usize = 128;

/// A task that is under way: a future of its output. Dropping it cancels the task.
///
/// A task that is cancelled is asked to stop, then its worker gets SIGTERM, then SIGKILL, each after a grace
/// ([`PoolBuilder`](crate::PoolBuilder)); a task that had not begun never runs.
///
/// ```no_run
/// # use procpool::{Context, Pool, Task, Error};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Square(u64);
/// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
/// # async fn example(pool: Pool) -> Result<(), Error> {
/// use std::time::Duration;
///
/// let mut run = pool.run(Square(12));
/// tokio::select! {
///     square = &mut run => println!("{}", square?),
///     () = tokio::time::sleep(Duration::from_secs(1)) => println!("not yet"),
/// }
/// // Dropped here: if it was not done, it is cancelled.
/// # Ok(()) }
/// ```
///
/// # Cancel safety
///
/// Borrow it (`&mut run`) to keep the task across a `select!`. Once it has resolved, polling it again gives
/// [`Closed`](ErrorKind::Closed).
#[must_use = "dropping a Run cancels its task; await it, or call detach()"]
pub struct Run<O> {
    driver: Driver,
    name: &'static str,
    state: State,
    /// How many bytes the input has when it is encoded.
    pub(super) bytes: usize,
    /// Whether it did not have to wait for a place in the queue.
    pub(super) placed: bool,
    output: PhantomData<fn() -> O>,
}

#[derive(Debug)]
enum State {
    /// Submitted, and the answer has not been fetched.
    Running(TaskId),
    /// It could not be submitted.
    Refused(Error),
    /// The answer has been fetched.
    Over,
}

/// Stops a task from elsewhere; from [`Run::abort_handle`]. Dropping it does nothing.
///
/// ```no_run
/// # use procpool::{Context, Pool, Task, Error};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Square(u64);
/// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
/// # async fn example(pool: Pool) -> Result<(), Error> {
/// let run = pool.run(Square(12));
/// let handle = run.abort_handle();
/// tokio::spawn(async move {
///     tokio::time::sleep(std::time::Duration::from_secs(1)).await;
///     handle.abort();
/// });
/// # drop(run.await?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct AbortHandle {
    driver: Driver,
    task: Option<TaskId>,
}

impl<O: DeserializeOwned> Run<O> {
    pub(super) fn start<T: Task<Output = O>>(
        driver: &Driver,
        options: &Options,
        task: &T,
        place: Place,
    ) -> Self {
        let mut bytes = 0;
        let submitted = encode(task, driver.limit()).and_then(|input| {
            bytes = input.len();
            driver.submit::<T>(input, options, place)
        });
        let (state, placed) = match submitted {
            Ok(Submitted { task, placed }) => (State::Running(task), placed),
            Err(error) => {
                (State::Refused(error.with(|report| report.task_name = Some(T::NAME.into()))), true)
            }
        };
        Self { driver: driver.clone(), name: T::NAME, state, bytes, placed, output: PhantomData }
    }

    /// Resolves when the task has a place in the queue, or an answer. To be asked before the answer is asked for.
    pub(super) fn poll_place(&self, cx: &Context<'_>) -> Poll<()> {
        match self.state {
            State::Running(task) if !self.placed => self.driver.poll_place(task, cx).map(drop),
            _ => Poll::Ready(()),
        }
    }

    /// Cancels the task and resolves when it is really gone: with its output if it was done first, otherwise with
    /// [`Cancelled`](ErrorKind::Cancelled) or whatever else became of it.
    ///
    /// ```no_run
    /// # use procpool::{Context, Pool, Task, Error};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// let run = pool.run(Square(12));
    /// // Resolves when it is really gone.
    /// let outcome = run.cancel().await;
    /// # drop(outcome);
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// The task stays cancelled when this future is dropped.
    pub async fn cancel(self) -> Result<O, Error> {
        self.abort_handle().abort();
        self.await
    }

    /// Lets go of the task: it runs on, and nobody will know how it ended.
    ///
    /// ```no_run
    /// # use procpool::{Context, Pool, Task, Error};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Square(u64);
    /// # impl Task for Square { const NAME: &'static str = "square"; type Output = u64; async fn run(self, _: Context) -> u64 { self.0 * self.0 } }
    /// # async fn example(pool: Pool) -> Result<(), Error> {
    /// pool.run(Square(12)).detach();
    /// # Ok(()) }
    /// ```
    pub fn detach(mut self) {
        if let State::Running(task) = std::mem::replace(&mut self.state, State::Over) {
            self.driver.release(task, false);
        }
    }
}

impl<O> Run<O> {
    /// The task's identity in logs, statistics and errors; `None` if it could not even be submitted.
    pub fn id(&self) -> Option<TaskId> {
        match self.state {
            State::Running(task) => Some(task),
            State::Refused(_) | State::Over => None,
        }
    }

    /// A handle that can cancel the task from elsewhere. It keeps neither the task nor the pool alive.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle { driver: self.driver.clone(), task: self.id() }
    }
}

impl<O: DeserializeOwned> Future for Run<O> {
    type Output = Result<O, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Running(task) = self.state {
            let Poll::Ready(answer) = self.driver.poll_answer(task, cx) else { return Poll::Pending };
            self.state = State::Over;
            return Poll::Ready(answer.and_then(|output| decode(task, self.name, "its output", &output)));
        }
        Poll::Ready(Err(match std::mem::replace(&mut self.state, State::Over) {
            State::Refused(error) => error,
            State::Running(_) | State::Over => {
                Error::new(ErrorKind::Closed, "this task's answer was taken before")
            }
        }))
    }
}

impl<O> Drop for Run<O> {
    fn drop(&mut self) {
        if let State::Running(task) = self.state {
            self.driver.release(task, true);
        }
    }
}

impl<O> std::fmt::Debug for Run<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Run").field(&self.state).finish()
    }
}

impl AbortHandle {
    /// Cancels the task. Does nothing if it is over.
    pub fn abort(&self) {
        if let Some(task) = self.task {
            self.driver.cancel(task);
        }
    }

    /// The task's identity; `None` if it could not even be submitted.
    pub fn id(&self) -> Option<TaskId> {
        self.task
    }
}

impl std::fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AbortHandle").field(&self.task).finish()
    }
}

pub(super) fn encode<T: Serialize>(task: &T, limit: u32) -> Result<Payload, Error> {
    let failed = |error: postcard::Error| {
        Error::new(ErrorKind::Codec, format!("its input could not be encoded: {error}"))
    };
    let mut small = [0; SMALL];
    match postcard::to_slice(task, &mut small) {
        Ok(bytes) => return Ok(Payload::copied(bytes)),
        Err(postcard::Error::SerializeBufferFull) => {}
        Err(error) => return Err(failed(error)),
    }
    let mut input = Gather::with_capacity(4 * SMALL);
    input.append(task).map_err(failed)?;
    let input = input.take();
    let bytes = input.len();
    if bytes + HEADER > limit as usize {
        let message = format!("its input of {bytes} bytes is larger than the message limit of {limit}");
        return Err(Error::new(ErrorKind::LimitExceeded, message).with(|report| {
            report.advice = Some("raise PoolBuilder::message_limit or send less at once".into())
        }));
    }
    Ok(input)
}

pub(super) fn decode<O: DeserializeOwned>(
    task: TaskId,
    name: &'static str,
    what: &str,
    payload: &Payload,
) -> Result<O, Error> {
    payload.decode().map_err(|error| {
        Error::new(ErrorKind::Codec, format!("{what} could not be decoded: {error}")).with(|report| {
            report.task = Some(task);
            report.task_name = Some(name.into());
            report.may_have_run = true;
        })
    })
}
