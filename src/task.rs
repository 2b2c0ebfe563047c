//! What a user declares: tasks, streams, and the table from their names to erased functions. It knows nothing of how inputs and
//! outputs travel.

use std::any::type_name;
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use pin_project_lite::pin_project;
use serde::{Serialize, de::DeserializeOwned};

use crate::context::{Context, Ticket};
use crate::emit::{Emitter, Outlet};
use crate::wire::{frame::TaskType, payload::Gather, payload::Lent};

/// A piece of work that can run in another process.
///
/// The value is the input: it is encoded, sent to a worker, decoded there and run. A task may await, and it may also
/// block or compute for as long as it likes: with the default of one slot it has its worker for itself.
///
/// ```
/// use procpool::{Context, Task};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Square(u64);
///
/// impl Task for Square {
///     const NAME: &'static str = "square";
///     type Output = u64;
///
///     async fn run(self, _cx: Context) -> u64 {
///         self.0 * self.0
///     }
/// }
/// ```
pub trait Task: Serialize + DeserializeOwned + Send + 'static {
    /// The name under which the worker knows the task, unique among a worker's tasks.
    const NAME: &'static str;
    /// Raise it when the meaning of input or output changes, so that a worker of another build is refused. Default: 0.
    const VERSION: u32 = 0;
    /// What it gives back.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Does the work, in the worker.
    ///
    /// A panic fails this task only; its caller gets the message and the place. When the caller cancels, a task that has
    /// ever asked its context about cancellation is polled on so that it can clean up; one that never asked is dropped
    /// at its next await.
    fn run(self, cx: Context) -> impl Future<Output = Self::Output> + Send;
}

/// A piece of work that gives back many items, one by one, while it runs in another process.
///
/// As for a [`Task`], the value is the input, and the task may await, block or compute. What it gives back goes into an
/// [`Emitter`], at the pace at which it is read: see there for credit. The stream ends when `run` returns.
///
/// With the default of one slot a stream has its worker to itself until it ends, also while its consumer does not read.
///
/// ```
/// use procpool::{Context, Emitter, StreamTask};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Lines(std::path::PathBuf);
///
/// impl StreamTask for Lines {
///     const NAME: &'static str = "lines";
///     type Item = Result<String, String>;
///
///     async fn run(self, _cx: Context, out: Emitter<Self::Item>) {
///         let text = std::fs::read_to_string(self.0);
///         let lines = text.as_ref().map(|text| text.lines()).map_err(ToString::to_string);
///         let sent = match lines {
///             // It may block: the consumer's reading is heard all the same.
///             Ok(mut lines) => lines.try_for_each(|line| out.blocking_send(Ok(line.to_owned()))),
///             Err(error) => out.blocking_send(Err(error)),
///         };
///         if sent.is_err() {
///             // Nobody reads any more. There is nothing to clean up here.
///         }
///     }
/// }
/// ```
pub trait StreamTask: Serialize + DeserializeOwned + Send + 'static {
    /// The name under which the worker knows the task, unique among a worker's tasks and streams.
    const NAME: &'static str;
    /// Raise it when the meaning of input or items changes, so that a worker of another build is refused. Default: 0.
    const VERSION: u32 = 0;
    /// What it gives back, item by item.
    type Item: Serialize + DeserializeOwned + Send + 'static;

    /// Does the work, in the worker.
    ///
    /// A panic fails this stream only; its consumer gets what was sent before it, then an error with the message and the
    /// place. When the consumer goes or the time is over, sending fails, also where it waits for credit just then; what
    /// else is true of a cancelled [`Task`] holds here too. A stream that returns after it was told to stop counts as
    /// cancelled: its consumer must not take a part for the whole.
    fn run(self, cx: Context, out: Emitter<Self::Item>) -> impl Future<Output = ()> + Send;
}

/// The tasks that a worker knows, in the order of their registration.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

/// One task type.
pub(crate) struct Row {
    pub(crate) kind: TaskType,
    start: Start,
}

/// How a task is decoded and begun; a stream is told where its items go.
enum Start {
    Task(fn(&Lent<'_>, Ticket<'_>) -> Started),
    Stream(fn(&Lent<'_>, Ticket<'_>, Arc<dyn Outlet>) -> Started),
}

type Started = Result<Running, postcard::Error>;

/// A task that has been decoded and can be polled.
pub(crate) type Running = Pin<Box<dyn Erased + Send>>;

/// A task whose types are forgotten.
pub(crate) trait Erased {
    /// Polls the task. When it returns, its output is appended to `out`, encoded.
    ///
    /// # Errors
    ///
    /// When the output could not be encoded; `out` may then hold a part of it.
    fn poll(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        out: &mut Gather,
    ) -> Poll<Result<(), postcard::Error>>;
}

/// The row that describes `T`, as each side of a link derives it from its own build.
pub(crate) fn describe<T: Task>() -> TaskType {
    TaskType {
        name: Cow::Borrowed(T::NAME),
        version: T::VERSION,
        input: Cow::Borrowed(type_name::<T>()),
        output: Cow::Borrowed(type_name::<T::Output>()),
        stream: false,
    }
}

/// As [`describe`], for a stream.
pub(crate) fn describe_stream<T: StreamTask>() -> TaskType {
    TaskType {
        name: Cow::Borrowed(T::NAME),
        version: T::VERSION,
        input: Cow::Borrowed(type_name::<T>()),
        output: Cow::Borrowed(type_name::<T::Item>()),
        stream: true,
    }
}

impl Table {
    /// Adds a task type.
    ///
    /// # Panics
    ///
    /// When there is one of that name already; the message names both types.
    pub(crate) fn add<T: Task>(&mut self) {
        self.push(Row { kind: describe::<T>(), start: Start::Task(start::<T>) });
    }

    /// Adds a stream type.
    ///
    /// # Panics
    ///
    /// As [`add`](Self::add).
    pub(crate) fn add_stream<T: StreamTask>(&mut self) {
        self.push(Row { kind: describe_stream::<T>(), start: Start::Stream(start_stream::<T>) });
    }

    /// Adds the task types of another table, behind those that are there.
    ///
    /// # Panics
    ///
    /// As [`add`](Self::add).
    pub(crate) fn append(&mut self, other: Self) {
        for row in other.rows {
            self.push(row);
        }
    }

    fn push(&mut self, row: Row) {
        let kind = &row.kind;
        if let Some(other) = self.rows.iter().find(|row| row.kind.name == kind.name) {
            panic!("two tasks are named {:?}: {} and {}", kind.name, other.kind.input, kind.input);
        }
        self.rows.push(row);
    }

    /// How many types there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// What `Ready` tells of the table.
    pub(crate) fn kinds(&self) -> Vec<TaskType> {
        self.rows.iter().map(|row| row.kind.clone()).collect()
    }

    /// Decodes the input of a task of the type at `index`; `None` if there is no such type. Where its items go is asked of a
    /// stream only.
    pub(crate) fn start(
        &self,
        index: u32,
        input: &Lent<'_>,
        ticket: Ticket<'_>,
        outlet: impl FnOnce() -> Arc<dyn Outlet>,
    ) -> Option<Started> {
        self.rows.get(index as usize).map(|row| match row.start {
            Start::Task(start) => start(input, ticket),
            Start::Stream(start) => start(input, ticket, outlet()),
        })
    }
}

fn start<T: Task>(input: &Lent<'_>, ticket: Ticket<'_>) -> Started {
    let task: T = input.decode()?;
    // Room first: the future is made where it stays.
    let room = Box::new_uninit();
    let running: Box<Typed<_>> = Box::write(room, Typed { future: task.run(ticket.context()) });
    Ok(Box::into_pin(running))
}

fn start_stream<T: StreamTask>(input: &Lent<'_>, ticket: Ticket<'_>, outlet: Arc<dyn Outlet>) -> Started {
    let task: T = input.decode()?;
    Ok(Box::pin(Typed { future: task.run(ticket.context(), Emitter::new(outlet)) }))
}

pin_project! {
    struct Typed<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future<Output: Serialize>> Erased for Typed<F> {
    fn poll(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        out: &mut Gather,
    ) -> Poll<Result<(), postcard::Error>> {
        let output = ready!(self.project().future.poll(cx));
        Poll::Ready(out.append(&output))
    }
}
