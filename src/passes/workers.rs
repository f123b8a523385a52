//! Workers that share the actions of one plan.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::num::NonZeroUsize;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How many actions run at the same time.
#[derive(Clone, Copy)]
pub struct Workers<'a> {
    /// Of this plan.
    pub concurrency: NonZeroUsize,
    /// Of all passes together: each running action holds a permit.
    pub slots: &'a Semaphore,
    /// Cancelled when the last action has begun.
    pub all_begun: &'a CancellationToken,
}

/// Runs all actions, a few at a time. Workers take the one with the largest weight first, so that the longest does not
/// start last. One worker takes the smallest first, so that small ones do not wait for all the large ones.
pub async fn work_off<A>(mut actions: Vec<A>, weight: impl Fn(&A) -> u64, workers: Workers<'_>, run: impl AsyncFn(A)) {
    actions.sort_by_key(|action| Reverse(weight(action)));
    let queue = RefCell::new(VecDeque::from(actions));
    let worker = async |next: fn(&mut VecDeque<A>) -> Option<A>| {
        while !queue.borrow().is_empty() {
            // The semaphore is never closed.
            let _slot = workers.slots.acquire().await;
            let Some(action) = next(&mut queue.borrow_mut()) else { return };
            if queue.borrow().is_empty() {
                workers.all_begun.cancel();
            }
            run(action).await;
        }
    };
    let order = |n| if n == 0 { VecDeque::pop_back } else { VecDeque::pop_front };
    join_all((0..workers.concurrency.get()).map(|n| worker(order(n)))).await;
}
