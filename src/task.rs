//! What a user declares: tasks, and the table from their names to erased functions. It knows nothing of how inputs and
//! outputs travel.

use std::any::type_name;
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::task::{Poll, ready};

use pin_project_lite::pin_project;
use serde::{Serialize, de::DeserializeOwned};

use crate::context::Context;
use crate::wire::{frame::TaskType, payload::Gather, payload::Payload};

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

/// The tasks that a worker knows, in the order of their registration.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

/// One task type.
pub(crate) struct Row {
    pub(crate) kind: TaskType,
    start: fn(&Payload, Context) -> Result<Running, postcard::Error>,
}

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
    }
}

impl Table {
    /// Adds a task type.
    ///
    /// # Panics
    ///
    /// When there is one of that name already; the message names both types.
    pub(crate) fn add<T: Task>(&mut self) {
        self.push(Row { kind: describe::<T>(), start: start::<T> });
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

    /// Decodes the input of a task of the type at `index`; `None` if there is no such type.
    pub(crate) fn start(
        &self,
        index: u32,
        input: &Payload,
        cx: Context,
    ) -> Option<Result<Running, postcard::Error>> {
        self.rows.get(index as usize).map(|row| (row.start)(input, cx))
    }
}

fn start<T: Task>(input: &Payload, cx: Context) -> Result<Running, postcard::Error> {
    let task: T = input.decode()?;
    Ok(Box::pin(Typed { future: task.run(cx) }))
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
