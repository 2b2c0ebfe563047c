//! A worker's end of what joins it to the tree of pools above: what it was told of the tree, and where the pool that it
//! is the parent of is kept and asks for more. It starts no pool and does not know what one is.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;

use crate::id::WorkerId;
use crate::wire::frame::{Hello, LeaseKind, TaskType, ToParent, Tree};

/// What a worker knows of the tree above it. One per worker; its tasks find it among the states.
pub(crate) struct Uplink {
    hello: Hello,
    kinds: Vec<TaskType>,
    wish: Option<Box<dyn Any + Send + Sync>>,
    kin: Option<Kin>,
    below: Mutex<Option<Arc<dyn Below>>>,
    link: Arc<dyn Link>,
    lines: Mutex<Lines>,
}

/// The worker's link to its parent, for those who speak on it beside the worker itself.
pub(crate) trait Link: Send + Sync {
    /// Says this as soon as it can be said. Nothing comes of it when the worker is leaving.
    fn say(&self, frame: ToParent);
}

/// Who speaks to the pool above. Mostly one; more while a pool that was ended is on its way out.
#[derive(Default)]
struct Lines {
    all: Vec<Weak<Line>>,
    /// Whose questions are under way, by kind. Answers come in their order.
    asked: [VecDeque<Weak<Line>>; 2],
}

/// What a pool in a worker asks the pool above with, and where the answers go.
pub(crate) struct Line {
    uplink: Weak<Uplink>,
    /// What is to be said, in this order. Filled under the pool's lock, said without it.
    words: Mutex<VecDeque<ToParent>>,
    mail: Mutex<Mail>,
}

#[derive(Default)]
struct Mail {
    news: VecDeque<News>,
    waker: Option<Waker>,
}

/// What the pool above says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The answer to the oldest question of this kind.
    Granted(LeaseKind, u32),
    /// What was refused may be there now.
    Nudge,
}

/// What starts workers like this one, where it is not by starting this program; who reads it knows the type.
pub(crate) type Kin = Box<dyn Any + Send + Sync>;

/// What is below a worker: pools of its own.
pub(crate) trait Below: Any + Send + Sync {
    /// Ends it, politely at first; resolves when nothing is left or the parent would not wait any longer.
    fn end(&self) -> BoxFuture<'static, ()>;
}

impl Uplink {
    /// `kinds`: the tasks of this program. `wish`: what its author has said of pools below; who reads it knows the type.
    pub(crate) fn new(
        hello: Hello,
        kinds: Vec<TaskType>,
        wish: Option<Box<dyn Any + Send + Sync>>,
        kin: Option<Kin>,
        link: Arc<dyn Link>,
    ) -> Self {
        Self { hello, kinds, wish, kin, below: Mutex::default(), link, lines: Mutex::default() }
    }

    /// A line for one more pool.
    pub(crate) fn line(self: &Arc<Self>) -> Arc<Line> {
        let line =
            Arc::new(Line { uplink: Arc::downgrade(self), words: Mutex::default(), mail: Mutex::default() });
        let mut lines = lock(&self.lines);
        lines.all.retain(|line| line.strong_count() > 0);
        lines.all.push(Arc::downgrade(&line));
        line
    }

    /// The parent has said this. Wakes those whom it concerns.
    pub(crate) fn hear(&self, news: News) {
        let to: Vec<Weak<Line>> = {
            let mut lines = lock(&self.lines);
            match news {
                News::Granted(kind, _) => lines.asked[kind as usize].pop_front().into_iter().collect(),
                News::Nudge => lines.all.clone(),
            }
        };
        for line in to {
            match (line.upgrade(), news) {
                (Some(line), _) => line.deliver(news),
                // Whoever asked is gone.
                (None, News::Granted(kind, n)) if n > 0 => self.link.say(ToParent::Returned { kind, n }),
                (None, _) => {}
            }
        }
    }

    /// How the parent has greeted.
    pub(crate) fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The table of this program's tasks, which is also that of the workers below.
    pub(crate) fn kinds(&self) -> &[TaskType] {
        &self.kinds
    }

    pub(crate) fn wish<T: 'static>(&self) -> Option<&T> {
        self.wish.as_ref()?.downcast_ref()
    }

    pub(crate) fn kin<T: 'static>(&self) -> Option<&T> {
        self.kin.as_ref()?.downcast_ref()
    }

    /// The workers from the root's own down to this one.
    pub(crate) fn path(&self) -> Vec<WorkerId> {
        self.hello.tree.path.iter().copied().chain([self.hello.worker]).collect()
    }

    /// What holds for workers below this one.
    pub(crate) fn tree(&self) -> Tree {
        Tree { path: self.path(), ..self.hello.tree.clone() }
    }

    /// Where the pool below is kept, once there is one.
    pub(crate) fn below(&self) -> MutexGuard<'_, Option<Arc<dyn Below>>> {
        lock(&self.below)
    }

    /// Ends what is below, if anything is.
    pub(crate) async fn end(&self) {
        let below = self.below().clone();
        if let Some(below) = below {
            below.end().await;
        }
    }
}

impl Line {
    /// Asks for so much more. One `Granted` answers it. It is said by the next [`speak`](Self::speak).
    pub(crate) fn ask(&self, kind: LeaseKind, n: u32) {
        lock(&self.words).push_back(ToParent::Lease { kind, n });
    }

    /// Gives so much back. It is said by the next [`speak`](Self::speak).
    pub(crate) fn give_back(&self, kind: LeaseKind, n: u32) {
        lock(&self.words).push_back(ToParent::Returned { kind, n });
    }

    /// Says what is to be said. It may write to the link, so not under the pool's lock.
    pub(crate) fn speak(self: &Arc<Self>) {
        let Some(uplink) = self.uplink.upgrade() else { return };
        // Held all the while: of those who come at once nobody overtakes another, and answers come in the order in which
        // the questions are said.
        let mut lines = lock(&uplink.lines);
        loop {
            let Some(word) = lock(&self.words).pop_front() else { return };
            if let ToParent::Lease { kind, .. } = word {
                lines.asked[kind as usize].push_back(Arc::downgrade(self));
            }
            uplink.link.say(word);
        }
    }

    /// The next thing that the pool above has said.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<News> {
        let mut mail = lock(&self.mail);
        if let Some(news) = mail.news.pop_front() {
            return Poll::Ready(news);
        }
        mail.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn deliver(&self, news: News) {
        let waker = {
            let mut mail = lock(&self.mail);
            mail.news.push_back(news);
            mail.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Nothing that runs under these locks leaves anything half-changed by a panic.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").field("hello", &self.hello).finish_non_exhaustive()
    }
}
