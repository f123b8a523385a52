//! Objects that the producer replaces at this moment, which is no failure.
//!
//! Invariant: each object is let off for a short time only, so a bucket that stays as it is starts no endless row of passes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::key::HeldObject;
use crate::plan::delivery::DeliveryPlan;

/// How long after that the next pass begins. It leaves the producer the time to end what it is doing.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// What was let off.
#[derive(Debug)]
pub(super) struct Superseded {
    /// How long the producer may take to replace the objects of a destination.
    settles: Duration,
    /// Since when, by key and time: a key may be written again.
    since: Mutex<BTreeMap<(String, SystemTime), Instant>>,
    came: Notify,
}

impl Superseded {
    pub(super) fn new(settles: Duration) -> Self {
        Self { settles, since: Mutex::default(), came: Notify::new() }
    }

    /// An object is gone that was listed. Whether it is let off: once, for the next listing has another one then.
    pub(super) fn lets_off(&self, object: &HeldObject) -> bool {
        let is_first = self.since.lock().insert(of(object), Instant::now()).is_none();
        if is_first {
            self.came.notify_one();
        }
        is_first
    }

    /// The plan without obstacles that are over when the producer has replaced the objects.
    pub(super) fn without(&self, mut plan: DeliveryPlan, now: Instant) -> DeliveryPlan {
        let mut since = self.since.lock();
        let mut is_let_off = |object: &HeldObject| {
            let since = *since.entry(of(object)).or_insert(now);
            now.saturating_duration_since(since) < self.settles
        };
        let unsettled = plan.blocked.extract_if(.., |it| it.obstacle.may_settle() && is_let_off(&it.object));
        plan.unsettled = unsettled.map(|it| it.object).collect();
        if !plan.unsettled.is_empty() {
            self.came.notify_one();
        }
        plan
    }

    /// Forgets what is not listed any more.
    pub(super) fn keep_only(&self, held: &[HeldObject]) {
        let mut since = self.since.lock();
        if !since.is_empty() {
            let held: BTreeSet<_> = held.iter().map(|object| (object.key.as_str(), object.last_modified)).collect();
            since.retain(|(key, written), _| held.contains(&(key.as_str(), *written)));
        }
    }

    /// Waits until an object was let off and it is time for the next pass.
    pub(super) async fn next_pass(&self) {
        self.came.notified().await;
        tokio::time::sleep(SOON).await;
    }
}

fn of(object: &HeldObject) -> (String, SystemTime) {
    (object.key.clone(), object.last_modified)
}

#[cfg(test)]
mod tests {
    use super::super::rests::tests::delivery;
    use super::*;
    use crate::plan::delivery::{Obstacle, Undeliverable};

    const SETTLES: Duration = Duration::from_secs(30);

    fn blocked(obstacles: &[Obstacle]) -> DeliveryPlan {
        let object = |n: usize| delivery(&format!("p{n}"), 1, None).object;
        let blocked = obstacles.iter().enumerate();
        let blocked = blocked.map(|(n, obstacle)| Undeliverable { object: object(n), obstacle: obstacle.clone() });
        DeliveryPlan { blocked: blocked.collect(), ..DeliveryPlan::default() }
    }

    #[test]
    fn what_may_settle_is_let_off_for_a_while_and_everything_else_not_at_all() {
        let (superseded, begin) = (Superseded::new(SETTLES), Instant::now());
        let obstacles = [Obstacle::Order, Obstacle::Name("odd".to_owned()), Obstacle::NoWhole];
        for (seconds, unsettled) in [(0, 2), (1, 2), (29, 2), (30, 0), (3_000, 0)] {
            let plan = superseded.without(blocked(&obstacles), begin + Duration::from_secs(seconds));
            assert_eq!((plan.unsettled.len(), plan.blocked.len()), (unsettled, 3 - unsettled), "{seconds}");
        }
        // It is another object, or the same one that was written again.
        superseded.keep_only(&[]);
        let plan = superseded.without(blocked(&obstacles), begin + Duration::from_secs(3_001));
        assert_eq!(plan.unsettled.len(), 2);
    }

    #[test]
    fn an_object_that_is_gone_is_let_off_once() {
        let (superseded, mut object) = (Superseded::new(SETTLES), delivery("p", 1, None).object);
        assert!(superseded.lets_off(&object));
        assert!(!superseded.lets_off(&object));
        superseded.keep_only(std::slice::from_ref(&object));
        assert!(!superseded.lets_off(&object));
        object.last_modified += Duration::from_secs(1);
        assert!(superseded.lets_off(&object), "it was written again");
    }

    #[tokio::test]
    async fn a_pass_comes_soon_after_something_was_let_off() {
        let superseded = Superseded::new(SETTLES);
        let is_due = async || tokio::time::timeout(2 * SOON, superseded.next_pass()).await.is_ok();
        assert!(!is_due().await);
        superseded.without(blocked(&[Obstacle::Name("odd".to_owned())]), Instant::now());
        assert!(!is_due().await);
        superseded.without(blocked(&[Obstacle::Order]), Instant::now());
        assert!(is_due().await);
        assert!(!is_due().await);
    }
}
