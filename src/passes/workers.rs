//! Workers that share the actions of one plan.
//!
//! Invariant: two actions for one place never run at the same time, and none of them keeps another place waiting.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;

use futures_util::future::join_all;
use tokio::sync::{Notify, Semaphore};
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

/// Runs all actions, a few at a time, those with an equal `place` one after the other. Workers take the one with the largest
/// weight first, so that the longest does not start last. One worker takes the smallest first, so that small ones do not wait
/// for all the large ones.
pub async fn work_off<A, P: Ord>(
    mut actions: Vec<A>,
    weight: impl Fn(&A) -> u64,
    place: impl Fn(&A) -> P,
    workers: Workers<'_>,
    run: impl AsyncFn(A),
) {
    actions.sort_by_key(|action| Reverse(weight(action)));
    let queue = RefCell::new(VecDeque::from(actions));
    let (busy, ended) = (RefCell::new(BTreeSet::new()), Notify::new());
    let worker = async |smallest_first: bool| {
        while !queue.borrow().is_empty() {
            // The semaphore is never closed.
            let slot = workers.slots.acquire().await;
            let is_free = |action: &A| !busy.borrow().contains(&place(action));
            let next = match smallest_first {
                true => queue.borrow().iter().rposition(is_free),
                false => queue.borrow().iter().position(is_free),
            };
            let Some(action) = next.and_then(|next| queue.borrow_mut().remove(next)) else {
                drop(slot);
                if !queue.borrow().is_empty() {
                    ended.notified().await;
                }
                continue;
            };
            if queue.borrow().is_empty() {
                workers.all_begun.cancel();
            }
            busy.borrow_mut().insert(place(&action));
            let place = place(&action);
            run(action).await;
            busy.borrow_mut().remove(&place);
            ended.notify_waiters();
        }
    };
    join_all((0..workers.concurrency.get()).map(|n| worker(n == 0))).await;
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tokio::task::yield_now;

    use super::*;

    /// Runs actions, each a place and a weight, three at a time. All take equally long. Returns them in the order they began.
    async fn order(actions: &[(char, u64)]) -> Vec<(char, u64)> {
        let (slots, all_begun) = (Semaphore::new(3), CancellationToken::new());
        let workers = Workers { concurrency: 3.try_into().unwrap(), slots: &slots, all_begun: &all_begun };
        let (began, running) = (RefCell::new(vec![]), RefCell::new(BTreeSet::new()));
        let run = async |action: (char, u64)| {
            assert!(running.borrow_mut().insert(action.0), "two at a time: {action:?}");
            began.borrow_mut().push(action);
            assert_eq!(all_begun.is_cancelled(), began.borrow().len() == actions.len());
            yield_now().await;
            running.borrow_mut().remove(&action.0);
        };
        work_off(actions.to_vec(), |it| it.1, |it| it.0, workers, run).await;
        began.into_inner()
    }

    #[tokio::test]
    async fn the_largest_come_first_and_one_worker_takes_the_smallest() {
        let order = order(&[('a', 1), ('b', 5), ('c', 4), ('d', 3), ('e', 2)]).await;
        assert_eq!(order, [('a', 1), ('b', 5), ('c', 4), ('e', 2), ('d', 3)]);
    }

    #[tokio::test]
    async fn actions_for_one_place_come_one_after_the_other_and_others_do_not_wait() {
        let order = order(&[('a', 9), ('a', 8), ('a', 7), ('b', 6), ('c', 5), ('d', 4)]).await;
        assert_eq!(order, [('d', 4), ('a', 9), ('b', 6), ('c', 5), ('a', 8), ('a', 7)]);
    }
}
