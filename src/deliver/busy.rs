//! Which destinations a delivery is under way for: passes overlap, and only one of them works on a destination.
//!
//! Invariant: dropping a claim releases it, and starts a pass if a newer object came for the destination meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::key::{Destination, folded_path};
use crate::passes::Triggers;
use crate::plan::delivery::{Deliver, DeliveryPlan};

/// All claims.
#[derive(Debug)]
pub(super) struct Busy {
    triggers: Arc<Triggers>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    claimed: BTreeMap<Destination, Claimed>,
    /// Destinations that were claimed when the current pass began to observe, and the key of the object on its way. What it
    /// observed of them may be stale.
    moved: BTreeMap<Destination, String>,
}

#[derive(Debug)]
struct Claimed {
    /// The key of the object on its way.
    key: String,
    /// Whether a pass found another object for the destination, or for another branch of its project, meanwhile.
    is_outdated: bool,
}

/// The exclusive right to push to one destination, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    busy: Arc<Busy>,
    destination: Destination,
}

impl Busy {
    /// No claims. A pass for what came meanwhile is requested through `triggers`.
    pub(super) fn new(triggers: Arc<Triggers>) -> Arc<Self> {
        Arc::new(Self { triggers, state: Mutex::default() })
    }

    /// A pass begins to observe.
    pub(super) fn observing(&self) {
        let mut state = self.state.lock();
        let claimed = state.claimed.iter();
        state.moved = claimed.map(|(destination, claimed)| (destination.clone(), claimed.key.clone())).collect();
    }

    /// The plan without the destinations that an earlier pass still works on.
    pub(super) fn without(&self, mut plan: DeliveryPlan) -> DeliveryPlan {
        let mut state = self.state.lock();
        let State { claimed, moved } = &mut *state;
        let mut is_left = |deliver: &Deliver| {
            let Some(key) = moved.get(deliver.destination()) else { return false };
            if *key != deliver.object.key {
                match claimed.get_mut(deliver.destination()) {
                    Some(claimed) => claimed.is_outdated = true,
                    // It ended while this pass observed.
                    None => self.triggers.bucket_changed(),
                }
            }
            true
        };
        plan.deliveries.retain(|deliver| !is_left(deliver));
        plan.blocked.retain(|it| !moved.contains_key(it.destination()));
        plan
    }

    /// Destinations that the current pass leaves to an earlier one.
    pub(super) fn moved(&self) -> BTreeSet<Destination> {
        self.state.lock().moved.keys().cloned().collect()
    }

    /// The claim on a delivery's destination; `None` if another pass has one on its project. GitLab takes pushes to one project
    /// one at a time.
    pub(super) fn claim(self: &Arc<Self>, deliver: &Deliver) -> Option<Claim> {
        let destination = deliver.destination();
        let mut state = self.state.lock();
        let project = project(destination);
        let mut of_the_project = state.claimed.iter_mut().filter(|(claimed, _)| self::project(claimed) == project);
        if let Some((_, claimed)) = of_the_project.next() {
            // Otherwise it would wait for the next pass on schedule: the event for it is used up.
            claimed.is_outdated |= claimed.key != deliver.object.key;
            return None;
        }
        let claimed = Claimed { key: deliver.object.key.clone(), is_outdated: false };
        state.claimed.insert(destination.clone(), claimed);
        Some(Claim { busy: Arc::clone(self), destination: destination.clone() })
    }
}

/// The project, as GitLab tells projects apart.
pub(super) fn project(destination: &Destination) -> String {
    folded_path(&destination.path())
}

impl Drop for Claim {
    fn drop(&mut self) {
        let claimed = self.busy.state.lock().claimed.remove(&self.destination);
        if claimed.is_some_and(|claimed| claimed.is_outdated) {
            self.busy.triggers.bucket_changed();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use super::super::rests::tests::delivery;
    use super::*;

    /// Whether a pass is requested.
    async fn is_requested(triggers: &Triggers) -> bool {
        tokio::time::timeout(Duration::from_millis(400), triggers.bucket_change()).await.is_ok()
    }

    fn plan(deliver: Deliver) -> DeliveryPlan {
        DeliveryPlan { deliveries: vec![deliver], ..DeliveryPlan::default() }
    }

    #[test]
    fn a_destination_is_claimed_once_and_stays_out_of_a_pass_that_began_meanwhile() {
        let (busy, a) = (Busy::new(Arc::default()), delivery("a", 1, None));
        let claim = busy.claim(&a).unwrap();
        assert!(busy.claim(&a).is_none());
        let mut of_the_same_project = delivery("A", 1, None);
        of_the_same_project.object.name.destination.branch = "release".to_owned();
        assert!(busy.claim(&of_the_same_project).is_none(), "the same project");
        assert!(busy.claim(&delivery("b", 1, None)).is_some());
        busy.observing();
        drop(claim);
        assert_eq!(busy.moved(), [a.destination().clone()].into(), "it was under way when the pass began to observe");
        assert_eq!(busy.without(plan(a.clone())).deliveries, []);
        assert_eq!(busy.without(plan(delivery("b", 1, None))).deliveries.len(), 1);
        assert!(busy.claim(&a).is_some());
        busy.observing();
        assert!(busy.moved().is_empty());
    }

    /// A delivery of one object is under way while a pass plans one of `other`. Whether another pass is requested before
    /// the first delivery ends, and after it.
    async fn requested(other: Deliver, ends_first: bool) -> (bool, bool) {
        let triggers = Arc::new(Triggers::default());
        let busy = Busy::new(Arc::clone(&triggers));
        let claim = busy.claim(&delivery("a", 1, None)).unwrap();
        busy.observing();
        let mut claim = Some(claim).filter(|_| !ends_first);
        assert_eq!(busy.without(plan(other)).deliveries, [], "what was observed may be stale");
        let before = is_requested(&triggers).await;
        drop(claim.take());
        (before, is_requested(&triggers).await)
    }

    #[tokio::test]
    async fn an_object_for_another_branch_of_a_busy_project_gets_a_pass_when_that_is_free() {
        let triggers = Arc::new(Triggers::default());
        let busy = Busy::new(Arc::clone(&triggers));
        let claim = busy.claim(&delivery("a", 1, None)).unwrap();
        let mut other = delivery("a", 2, None);
        other.object.name.destination.branch = "release".to_owned();
        assert!(busy.claim(&other).is_none());
        assert!(!is_requested(&triggers).await, "it is not free yet");
        drop(claim);
        assert!(is_requested(&triggers).await);
    }

    #[tokio::test]
    async fn a_newer_object_for_a_busy_destination_starts_a_pass_when_that_is_free() {
        let (same, newer) = (delivery("a", 1, None), delivery("a", 2, None));
        assert_eq!(requested(same.clone(), false).await, (false, false), "the same object brings nothing new");
        assert_eq!(requested(same, true).await, (false, false));
        assert_eq!(requested(newer.clone(), false).await, (false, true));
        assert_eq!(requested(newer, true).await, (true, true), "it ended while the pass observed");
    }
}
