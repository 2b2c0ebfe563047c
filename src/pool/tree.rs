//! How a tree of pools is configured: at its root how deep, how wide and how many it may be; in a worker what its own pool
//! begins with.

use std::sync::Arc;
use std::time::Duration;

use super::Pool;
use super::builder::{PoolBuilder, cores, count_slots, refused};
use crate::driver::Driver;
use crate::error::Error;
use crate::launch::Launcher;
use crate::launch::local::{Local, fits, room};
use crate::launch::setting::Setting;
use crate::sched::Config;
use crate::uplink::Uplink;
use crate::wire::frame::Tree;

/// How deep pools within pools may go by default. Deeper ones are mostly a recursion that does not end.
pub(super) const DEPTH_LIMIT: u8 = 8;

/// What libraries read that start a thread for every processor unless they are told not to.
const THREADS: [&str; 7] = [
    "RAYON_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
];

/// How patient a pool inside a worker is, measured by the pool that has that worker.
const LESS: f64 = 0.8;

impl PoolBuilder {
    /// What the pool of a worker begins with: it keeps to what its parent keeps to, and is a little less patient, so that it
    /// has given up what does not stop before its worker is given up for that.
    pub(crate) fn below(uplink: &Uplink) -> Self {
        let hello = uplink.hello();
        let (cancel, term) = hello.tree.graces_ms;
        let default = Config::default();
        let config = Config {
            cancel_grace: Duration::from_millis(cancel.into()),
            term_grace: Duration::from_millis(term.into()),
            leave_limit: default.leave_limit.mul_f64(LESS.powi(hello.depth.into())),
            below: true,
            processors: cores(),
            ..default
        };
        Self {
            message_limit: hello.limits.message,
            setting: Setting::handed_on(),
            config,
            depth_limit: hello.tree.deepest,
            ..Self::new()
        }
    }

    /// How deep pools within pools may go: the workers of the deepest pool are this many levels below this process.
    /// Default: 8; at least 1, which means no [pools in workers](crate::Context::pool) at all.
    ///
    /// The root's pool decides for the whole tree; in a worker this is ignored.
    pub fn depth_limit(mut self, levels: u8) -> Self {
        self.depth_limit = levels.max(1);
        self
    }

    /// How many workers may have something to do at once, in this pool and in all [pools below it](crate::Context::pool)
    /// together. Default: as many as this pool has workers; fewer than that count as that many.
    ///
    /// It bounds what a job that nests takes of the machine. This pool's own workers never wait: a task that comes while
    /// all places are lent to pools below begins at once, and the next places that come back make up for it. Below, the
    /// first worker of each pool works in the place of the task that has the pool, so that there is always progress; each
    /// further one needs a place of its own and works when there is one.
    ///
    /// The root's pool decides for the whole tree; in a worker this is ignored.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// // Four tasks at a time, and whatever they nest is spread over 16 workers.
    /// let pool = Pool::builder().workers(4).places(16).build().await?;
    /// println!("{:?} {:?}", pool.stats().places, pool.stats().processes);
    /// # Ok(()) }
    /// ```
    pub fn places(mut self, places: u32) -> Self {
        self.places = Some(places);
        self
    }

    /// How many worker processes there may be, in this pool and in all pools below it together. Default: 64, or 8 times the
    /// [`places`](Self::places) if that is more.
    ///
    /// A pool that cannot have one more process does with those that it has; one that has none fails its tasks with
    /// [`LimitExceeded`](crate::ErrorKind::LimitExceeded). This pool's own workers are provided for.
    ///
    /// The root's pool decides for the whole tree; in a worker this is ignored.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// let pool = Pool::builder().places(8).max_processes(32).depth_limit(3).build().await?;
    /// # drop(pool);
    /// # Ok(()) }
    /// ```
    pub fn max_processes(mut self, processes: u32) -> Self {
        self.max_processes = Some(processes);
        self
    }

    /// Tells libraries in the workers that start threads of their own how many processors are theirs: sets
    /// `RAYON_NUM_THREADS`, `OMP_NUM_THREADS`, `OPENBLAS_NUM_THREADS`, `MKL_NUM_THREADS`, `BLIS_NUM_THREADS`,
    /// `NUMEXPR_NUM_THREADS` and `VECLIB_MAXIMUM_THREADS` to [`Context::parallelism`](crate::Context::parallelism), save
    /// those that [`env`](Self::env) and its like name. Default: not.
    ///
    /// ```no_run
    /// # use procpool::{Error, Pool};
    /// # async fn example() -> Result<(), Error> {
    /// // Eight workers on eight processors: a BLAS or rayon in each of them had better use one thread.
    /// let pool = Pool::builder().workers(8).limit_threads().build().await?;
    /// # drop(pool);
    /// # Ok(()) }
    /// ```
    pub fn limit_threads(mut self) -> Self {
        self.thread_limits = true;
        self
    }

    /// What holds for a tree with this pool at its root.
    pub(super) fn tree(&mut self, cores: u32) -> Result<Tree, Error> {
        let workers = self.config.most_workers;
        let places = self.places.unwrap_or(0).max(workers);
        let most = self.max_processes.unwrap_or_else(|| places.saturating_mul(8).max(64));
        if most < workers {
            let message = format!("there cannot be {workers} workers in {most} processes");
            return Err(refused(message, "raise PoolBuilder::max_processes"));
        }
        (self.config.places, self.config.processes) = (places, most);
        Ok(Tree {
            path: Vec::new(),
            deepest: self.depth_limit,
            places,
            cores: (cores / places).max(1),
            graces_ms: self.graces(),
        })
    }

    /// Builds the pool of a worker. It is there at once; its workers are started meanwhile.
    ///
    /// # Errors
    ///
    /// As [`build`](PoolBuilder::build), and when another program is wanted. If no number of workers was asked for, there
    /// are as many as fit.
    pub(crate) fn build_below(mut self, uplink: Arc<Uplink>) -> Result<Pool, Error> {
        if self.program.is_some() || !self.args.is_empty() {
            let advice = "take PoolBuilder::program and arg out of Worker::nested";
            return Err(refused("workers below a worker run its own program".to_owned(), advice));
        }
        self.config.slots = count_slots(self.slots)?;
        let tree = Tree { graces_ms: self.graces(), ..uplink.tree() };
        self.hand_out(&tree);
        let launcher = match uplink.kin::<Arc<dyn Launcher>>() {
            Some(kin) => Arc::clone(kin),
            None => Arc::new(Local::below().with(self.setting.clone()).sharing(self.bulk, self.trusting)),
        };
        // How many there are between none and that is decided by what there is to do, and by what it is lent.
        let each = launcher.descriptors();
        self.workers.get_or_insert_with(|| {
            let places = tree.places.min(room(each)).max(1) as usize;
            (places, places)
        });
        let (_, most) = self.size()?;
        (self.config.workers, self.config.most_workers) = (most, most);
        fits(most, each)?;
        Driver::start(self.config, self.message_limit, launcher, tree, Some(uplink), self.low_latency)
            .map(Pool::start)
    }

    /// How long this pool's worker, and its workers, may take to leave.
    pub(crate) fn leave_limit(&self) -> Duration {
        self.config.leave_limit
    }

    /// Tells workers their share of the processors, if that is wanted.
    pub(super) fn hand_out(&mut self, tree: &Tree) {
        if self.thread_limits {
            for name in THREADS {
                self.setting.suggest(name.into(), tree.cores.to_string().into());
            }
        }
    }

    /// How patient the pools one level further down are.
    fn graces(&self) -> (u32, u32) {
        let less = |grace: Duration| u32::try_from(grace.mul_f64(LESS).as_millis()).unwrap_or(u32::MAX);
        (less(self.config.cancel_grace), less(self.config.term_grace))
    }
}
