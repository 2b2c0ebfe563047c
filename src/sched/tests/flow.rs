//! Credit of streams: what may come, what is granted, and what becomes of a stream that is lost.

use super::{MS, Pool, answered, failed, run, task, worker};
use crate::error::ErrorKind::*;
use crate::id::WorkerId;
use crate::sched::{Action, Input, Spec};

const ONE: u32 = 1;

fn streaming(workers: u32) -> (Pool, WorkerId) {
    let mut pool = Pool::open(workers, 1);
    pool.put(Input::Submit { task: task(1), spec: Spec { stream: true, ..Spec::default() } });
    pool.wants(&[run(1, worker(1, 0), 1)]);
    (pool, worker(1, 0))
}

fn item(pool: &mut Pool, by: WorkerId, attempt: u32, cost: u32) {
    pool.put(Input::Item { worker: by, task: task(1), attempt, cost });
}

fn items(pool: &mut Pool, by: WorkerId, count: usize) {
    (0..count).for_each(|_| item(pool, by, 1, ONE));
    pool.wants(&vec![Action::Deliver { task: task(1) }; count]);
}

fn read(pool: &mut Pool, cost: u32) {
    pool.put(Input::Read { task: task(1), cost });
}

fn credit(by: WorkerId, credit: u32) -> Action {
    Action::Credit { worker: by, task: task(1), credit }
}

#[test]
fn half_a_window_read_earns_credit_and_the_window_grows_to_its_most() {
    let (mut pool, one) = streaming(1);
    items(&mut pool, one, 64);
    read(&mut pool, 31);
    pool.wants(&[]);
    read(&mut pool, 1);
    // What was read, and as much again as the window was.
    pool.wants(&[credit(one, 32 + 64)]);
    for (count, earned) in [(64, 64 + 128), (128, 128 + 256), (256, 256 + 512), (512, 512), (600, 600)] {
        items(&mut pool, one, count);
        read(&mut pool, count as u32);
        pool.wants(&[credit(one, earned)]);
    }
    pool.done(1, one, 1);
    pool.wants(&[answered(1)]);
}

#[test]
fn an_item_without_credit_kills_its_sender() {
    let (mut pool, one) = streaming(1);
    items(&mut pool, one, 64);
    item(&mut pool, one, 1, ONE);
    pool.wants(&[Action::Kill { worker: one }]);
    pool.lost(one, 1);
    pool.wants(&[failed(1, Protocol, Some(one), 1, true), Action::Launch { worker: worker(2, 0) }]);
}

#[test]
fn an_item_may_cost_more_than_there_is_and_the_next_one_waits_until_it_is_paid_for() {
    let (mut pool, one) = streaming(1);
    item(&mut pool, one, 1, 65_536);
    pool.wants(&[Action::Deliver { task: task(1) }]);
    read(&mut pool, 65_536);
    pool.wants(&[credit(one, 65_536 + 64)]);
    items(&mut pool, one, 128);
    item(&mut pool, one, 1, ONE);
    pool.wants(&[Action::Kill { worker: one }]);
}

#[test]
fn items_of_another_attempt_another_worker_a_plain_task_or_after_the_end_kill_their_sender() {
    let (mut pool, one) = streaming(1);
    item(&mut pool, one, 2, ONE);
    pool.wants(&[Action::Kill { worker: one }]);

    let (mut pool, _) = streaming(2);
    item(&mut pool, worker(2, 1), 1, ONE);
    pool.wants(&[Action::Kill { worker: worker(2, 1) }]);

    let mut pool = Pool::open(1, 1);
    pool.submit([1]);
    pool.wanted.clear();
    item(&mut pool, worker(1, 0), 1, ONE);
    pool.wants(&[Action::Kill { worker: worker(1, 0) }]);

    let (mut pool, one) = streaming(1);
    pool.done(1, one, 1);
    pool.wants(&[answered(1)]);
    item(&mut pool, one, 1, ONE);
    pool.wants(&[Action::Kill { worker: one }]);
}

#[test]
fn reading_earns_nothing_where_it_would_be_in_vain() {
    let (mut pool, one) = streaming(1);
    items(&mut pool, one, 64);
    pool.put(Input::Cancel { task: task(1) });
    pool.wants(&[Action::Cancel { worker: one, task: task(1), grace: 1000 * MS }]);
    read(&mut pool, 64);
    pool.wants(&[]);

    let (mut pool, one) = streaming(1);
    items(&mut pool, one, 64);
    pool.put(Input::HungUp { worker: one });
    read(&mut pool, 64);
    pool.lost(one, 1);
    read(&mut pool, 64);
    pool.wants(&[failed(1, Crashed, Some(one), 1, true), Action::Launch { worker: worker(2, 0) }]);
}

#[test]
fn what_comes_while_a_stream_is_being_stopped_is_delivered() {
    let (mut pool, one) = streaming(1);
    pool.put(Input::Cancel { task: task(1) });
    pool.wanted.clear();
    items(&mut pool, one, 64);
}

#[test]
fn a_stream_that_had_not_begun_is_sent_again_with_a_new_account() {
    let (mut pool, one) = streaming(1);
    pool.lost(one, 0);
    pool.opens(worker(2, 0));
    pool.wants(&[Action::Launch { worker: worker(2, 0) }, run(1, worker(2, 0), 1)]);
    (0..64).for_each(|_| item(&mut pool, worker(2, 0), 1, ONE));
    pool.wants(&vec![Action::Deliver { task: task(1) }; 64]);
}

#[test]
fn a_stream_of_which_an_item_came_has_begun_whatever_else_is_said() {
    let (mut pool, one) = streaming(1);
    items(&mut pool, one, 1);
    pool.lost(one, 0);
    pool.wants(&[failed(1, Crashed, Some(one), 1, true), Action::Launch { worker: worker(2, 0) }]);

    // Nor can it be given back.
    let mut pool = Pool::sent_ahead(1, 1, 1).opened(1);
    pool.submit([2]);
    pool.put(Input::Submit { task: task(1), spec: Spec { stream: true, ..Spec::default() } });
    pool.put(Input::Shutdown { limit: 5000 * MS });
    pool.wanted.clear();
    items(&mut pool, one, 1);
    pool.put(Input::Recalled { worker: one, tasks: vec![task(1)] });
    pool.wants(&[Action::Kill { worker: one }]);
}

#[test]
fn a_stream_is_tried_again_only_as_long_as_no_item_has_come() {
    for came in [false, true] {
        let mut pool = Pool::open(1, 1);
        let one = worker(1, 0);
        pool.put(Input::Submit { task: task(1), spec: Spec { stream: true, retries: 1, ..Spec::default() } });
        pool.wanted.clear();
        if came {
            items(&mut pool, one, 1);
        }
        pool.lost(one, 1);
        let launch = Action::Launch { worker: worker(2, 0) };
        match came {
            true => pool.wants(&[failed(1, Crashed, Some(one), 1, true), launch]),
            false => pool
                .wants(&[Action::Retry { task: task(1), worker: one, kind: Crashed, attempts: 1 }, launch]),
        }
    }
}
