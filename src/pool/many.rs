//! Many tasks, from the caller's side: started lazily, within bounds, their outputs in order or as they come. Which worker runs which is not its
//! business.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::stream::{FuturesUnordered, Stream, StreamExt};
use serde::de::DeserializeOwned;

use super::pack::Pack;
use super::run::Run;
use crate::driver::{Driver, Options, Place};
use crate::error::Error;
use crate::task::Task;
use crate::wire::pack;

/// How many tasks a stream keeps ahead of its consumer. Fewer starve the workers when tasks are short; more cost memory
/// and make a dropped stream cancel more.
const AHEAD: usize = 1024;

/// How many packs it keeps ahead of tasks that are so brief that they are packed, if those are more. So many take some
/// milliseconds: as long as a consumer that takes out what is there may keep the runtime's thread from sending on.
const PACKS: usize = 128;

/// How many bytes of encoded input it keeps ahead. One input may always be under way, however large.
const AHEAD_BYTES: usize = 4 << 20;

/// How many tasks are under way one by one before others are packed: so few would be better spread over idle workers.
const SPREAD: usize = 64;

/// After how many tasks it is asked again whether to pack them.
const ASKED: u64 = 32;

/// How large inputs in packs are at most, and how many bytes a pack has. What is larger gains nothing.
const SMALL: usize = 1024;
const FULL: usize = 8 << 10;

/// Many tasks, of which some are under way.
pub(super) struct Many<O> {
    /// Where the tasks come from; `None` when there are no more.
    source: Option<Box<dyn Source<O>>>,
    /// How many were started, and how many of these have given their output.
    started: u64,
    given: u64,
    room: Room,
    /// How many are packed, and when that was asked.
    pack: u32,
    asked: u64,
    running: Running<O>,
    /// What was started last, while it waits for a place in the queue.
    waiting: Option<Entry<O>>,
}

/// What is under way, in bytes.
struct Room {
    /// The inputs.
    ahead: usize,
    /// About what an output takes of those that are packed; not nothing. They are all taken for large until they are seen.
    output: usize,
}

/// Where tasks come from.
trait Source<O>: Send {
    /// Asks for the next input and starts its task. With how many there are in what was started.
    fn next(&mut self, cx: &mut Context<'_>, index: u64) -> Poll<Option<(Entry<O>, u32)>>;

    /// How many are worth being packed now; less than two: none.
    fn pack(&self) -> u32;

    /// Asks for the next inputs and starts their tasks together, as far as they are there and small. How many those are.
    fn next_pack(&mut self, cx: &mut Context<'_>, index: u64, most: u32) -> Poll<Option<(Entry<O>, u32)>>;
}

/// Tasks of one type.
struct Typed<T, F> {
    driver: Driver,
    options: Options,
    tasks: F,
    /// Whether there are no more inputs, or one has come too late.
    over: bool,
    /// Inputs that are to be packed, and how many there are.
    inputs: Vec<u8>,
    count: u32,
    /// One that was asked for, and was too large for a pack.
    held: Option<T>,
}

/// In which order outputs are given.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// That of the inputs.
    Inputs,
    /// As they come.
    Outputs,
}

enum Running<O> {
    Ordered(VecDeque<Entry<O>>),
    /// With the pack that was the last to have something.
    Unordered(FuturesUnordered<Entry<O>>, Option<Box<Pack<O>>>),
}

/// What is under way.
enum Entry<O> {
    /// A task that knows its place among the inputs.
    One(Run<O>, u64),
    /// Until it is ready.
    Pack(Option<Box<Pack<O>>>),
}

/// What has come of it.
enum Step<O> {
    /// With the size of its input.
    One(usize, Result<O, Error>),
    Pack(Option<Box<Pack<O>>>),
}

impl<O: DeserializeOwned> Many<O> {
    pub(super) fn start<T: Task<Output = O>>(
        driver: Driver,
        options: Options,
        mut tasks: impl Iterator<Item = T> + Send + 'static,
        order: Order,
    ) -> Self {
        Self::new(driver, options, move |_: &mut Context<'_>| Poll::Ready(tasks.next()), order)
    }

    /// The same, with inputs that come when they like.
    pub(super) fn start_stream<T: Task<Output = O>>(
        driver: Driver,
        options: Options,
        tasks: impl Stream<Item = T> + Send + 'static,
        order: Order,
    ) -> Self {
        let mut tasks = Box::pin(tasks);
        Self::new(driver, options, move |cx: &mut Context<'_>| tasks.as_mut().poll_next(cx), order)
    }

    fn new<T: Task<Output = O>>(
        driver: Driver,
        options: Options,
        tasks: impl FnMut(&mut Context<'_>) -> Poll<Option<T>> + Send + 'static,
        order: Order,
    ) -> Self {
        let running = match order {
            Order::Inputs => Running::Ordered(VecDeque::new()),
            Order::Outputs => Running::Unordered(FuturesUnordered::new(), None),
        };
        Self {
            source: Some(Box::new(Typed {
                driver,
                options,
                tasks,
                over: false,
                inputs: Vec::new(),
                count: 0,
                held: None,
            })),
            started: 0,
            given: 0,
            room: Room { ahead: 0, output: AHEAD_BYTES / AHEAD },
            pack: 0,
            asked: 0,
            running,
            waiting: None,
        }
    }

    /// Starts tasks until enough are under way, no input is there, or one has to wait for a place in the queue. That one is
    /// submitted: it needs nobody to poll it, and keeps no place from others while nobody does. Whether enough are: whatever
    /// else it was will wake the task.
    fn fill(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            if let Some(waiting) = self.waiting.take() {
                if waiting.poll_place(cx).is_pending() {
                    self.waiting = Some(waiting);
                    return false;
                }
                self.running.push(waiting);
            }
            if self.room.ahead >= AHEAD_BYTES {
                return true;
            }
            let (ahead, started) = (self.under_way(), self.started);
            let Some(source) = &mut self.source else { return false };
            let full = |pack: u32| {
                let (pack, then) = (pack as usize, ahead + pack as usize);
                then > AHEAD && (then > pack * PACKS || then * self.room.output > AHEAD_BYTES)
            };
            if ahead >= SPREAD && self.pack > 1 && full(self.pack) {
                return true;
            }
            if ahead >= SPREAD && (self.pack > 1 || started - self.asked >= ASKED) {
                (self.pack, self.asked) = (source.pack(), started);
            }
            let next = if self.pack > 1 && ahead >= SPREAD {
                if full(self.pack) {
                    return true;
                }
                source.next_pack(cx, started, self.pack)
            } else if ahead >= AHEAD {
                return true;
            } else {
                source.next(cx, started)
            };
            match next {
                Poll::Ready(Some((entry, n))) => {
                    self.room.ahead += entry.bytes();
                    self.started += u64::from(n);
                    self.waiting = Some(entry);
                }
                Poll::Ready(None) => {
                    self.source = None;
                    return false;
                }
                Poll::Pending => return false,
            }
        }
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<O, Error>>> {
        loop {
            let enough = self.fill(cx);
            match ready!(self.running.poll_next(cx, &mut self.room)) {
                Some(result) => {
                    self.given += 1;
                    return Poll::Ready(Some(result));
                }
                None if self.is_terminated() => return Poll::Ready(None),
                // What was enough had been read already, and is over now.
                None if enough && self.under_way() == 0 => {}
                // Nothing has its place, but something waits for one, or there may be inputs to come.
                None => return Poll::Pending,
            }
        }
    }

    pub(super) fn size_hint(&self) -> (usize, Option<usize>) {
        (self.under_way(), self.source.is_none().then_some(self.under_way()))
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.source.is_none() && self.under_way() == 0
    }
}

impl<O> Many<O> {
    fn under_way(&self) -> usize {
        // Each has its place in a table.
        (self.started - self.given) as usize
    }
}

impl<T: Task, F: FnMut(&mut Context<'_>) -> Poll<Option<T>>> Typed<T, F> {
    /// Starts what is to be packed, if there is anything. Until then it is kept here: an input that panics takes no other with it.
    fn packed(&mut self, index: u64) -> Option<(Entry<T::Output>, u32)> {
        let count = std::mem::take(&mut self.count);
        let inputs = std::mem::take(&mut self.inputs);
        let start = || Pack::start::<T>(&self.driver, &self.options, (inputs, count), index);
        (count > 0).then(|| (Entry::Pack(Some(Box::new(start()))), count))
    }

    fn input(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.held.take() {
            Some(held) => Poll::Ready(Some(held)),
            None => (self.tasks)(cx),
        }
    }
}

impl<T: Task, F: FnMut(&mut Context<'_>) -> Poll<Option<T>> + Send> Source<T::Output> for Typed<T, F> {
    fn next(&mut self, cx: &mut Context<'_>, index: u64) -> Poll<Option<(Entry<T::Output>, u32)>> {
        if let Some(pack) = self.packed(index) {
            return Poll::Ready(Some(pack));
        }
        // The first input that comes too late says so, and stands for the rest: there may be no end of them.
        if self.over {
            return Poll::Ready(None);
        }
        let task = ready!(self.input(cx));
        self.over = self.options.is_over();
        let start = |task| Run::start(&self.driver, &self.options, &task, Place::Awaited);
        Poll::Ready(task.map(|task| (Entry::One(start(task), index), 1)))
    }

    fn pack(&self) -> u32 {
        if self.options.is_plain() { self.driver.pack::<T>() } else { 0 }
    }

    fn next_pack(
        &mut self,
        cx: &mut Context<'_>,
        index: u64,
        most: u32,
    ) -> Poll<Option<(Entry<T::Output>, u32)>> {
        let mut room = [0; pack::INPUT + SMALL];
        while self.count < most && self.inputs.len() < FULL && !self.over && !self.options.is_over() {
            let task = match self.input(cx) {
                Poll::Ready(Some(task)) => task,
                Poll::Ready(None) => {
                    self.over = true;
                    break;
                }
                Poll::Pending if self.count == 0 => return Poll::Pending,
                // It is asked again when the pack is on its way.
                Poll::Pending => break,
            };
            let length = postcard::to_slice(&task, &mut room[pack::INPUT..]).map(|input| input.len());
            match length {
                Ok(length) if pack::put_input(&mut self.inputs, &mut room[..pack::INPUT + length]) => {
                    self.count += 1;
                }
                _ => {
                    self.held = Some(task);
                    break;
                }
            }
        }
        self.next(cx, index)
    }
}

impl<O> std::fmt::Debug for Many<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Items")
            .field("started", &self.started)
            .field("under_way", &self.under_way())
            .finish_non_exhaustive()
    }
}

impl<O: DeserializeOwned> Entry<O> {
    fn bytes(&self) -> usize {
        match self {
            Self::One(run, _) => run.bytes,
            Self::Pack(pack) => pack.as_ref().map_or(0, |pack| pack.bytes),
        }
    }

    /// Resolves when it has a place in the queue, or an answer.
    fn poll_place(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::One(run, _) => run.poll_place(cx),
            Self::Pack(pack) => pack.as_ref().map_or(Poll::Ready(()), |pack| pack.poll_place(cx)),
        }
    }
}

impl<O: DeserializeOwned> Running<O> {
    fn push(&mut self, entry: Entry<O>) {
        match self {
            Self::Ordered(entries) => entries.push_back(entry),
            Self::Unordered(entries, _) => entries.push(entry),
        }
    }

    /// The next output. What has become of its input's bytes, and how large it is, is noted.
    fn poll_next(&mut self, cx: &mut Context<'_>, room: &mut Room) -> Poll<Option<Result<O, Error>>> {
        loop {
            let pack = match self {
                Self::Ordered(entries) => match entries.front_mut() {
                    Some(Entry::Pack(pack)) => pack,
                    Some(one) => {
                        if let Step::One(size, result) = ready!(Pin::new(one).poll(cx)) {
                            room.ahead -= size;
                            entries.pop_front();
                            return Poll::Ready(Some(result));
                        }
                        continue;
                    }
                    None => return Poll::Ready(None),
                },
                Self::Unordered(entries, pack) => {
                    if pack.is_none() {
                        match ready!(entries.poll_next_unpin(cx)) {
                            Some(Step::One(size, result)) => {
                                room.ahead -= size;
                                return Poll::Ready(Some(result));
                            }
                            Some(Step::Pack(ready)) => *pack = ready,
                            None => return Poll::Ready(None),
                        }
                    }
                    pack
                }
            };
            if let Some((size, result)) = pack.as_mut().and_then(|pack| pack.next()) {
                room.output += size.div_ceil(8);
                room.output -= room.output.div_ceil(8) - 1;
                return Poll::Ready(Some(result));
            }
            ready!(self.turn(cx, &mut room.ahead));
        }
    }

    /// The pack whose turn it was has nothing more at the moment.
    fn turn(&mut self, cx: &mut Context<'_>, bytes: &mut usize) -> Poll<()> {
        match self {
            Self::Ordered(entries) => {
                let Some(Entry::Pack(Some(pack))) = entries.front_mut() else { return Poll::Ready(()) };
                if !pack.is_over() {
                    return pack.poll_ready(cx);
                }
                *bytes -= pack.bytes;
                entries.pop_front();
            }
            Self::Unordered(entries, pack) => {
                let Some(mut pack) = pack.take() else { return Poll::Ready(()) };
                entries.extend(pack.take_rests().into_iter().map(|rest| Entry::Pack(Some(Box::new(rest)))));
                match pack.is_over() {
                    true => *bytes -= pack.bytes,
                    false => entries.push(Entry::Pack(Some(pack))),
                }
            }
        }
        Poll::Ready(())
    }
}

impl<O: DeserializeOwned> Future for Entry<O> {
    type Output = Step<O>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match &mut *self {
            Self::One(run, index) => {
                let result = ready!(Pin::new(&mut *run).poll(cx));
                let result = result.map_err(|error| error.with(|report| report.index = Some(*index)));
                Step::One(run.bytes, result)
            }
            Self::Pack(pack) => {
                if let Some(pack) = pack {
                    ready!(pack.poll_more(cx));
                }
                Step::Pack(pack.take())
            }
        })
    }
}
