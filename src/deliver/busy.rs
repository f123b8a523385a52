//! Which destinations a delivery is under way for: passes overlap, and only one of them works on a destination.
//!
//! Invariant: dropping a claim releases it.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::key::Destination;
use crate::plan::delivery::DeliveryPlan;

/// All claims.
#[derive(Debug, Default)]
pub(super) struct Busy(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    claimed: BTreeSet<Destination>,
    /// Destinations that were claimed when the current pass began to observe, or since. What it observed of them may be
    /// stale.
    moved: BTreeSet<Destination>,
}

/// The exclusive right to push to one destination, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    busy: Arc<Busy>,
    destination: Destination,
}

impl Busy {
    /// A pass begins to observe.
    pub(super) fn observing(&self) {
        let mut state = self.0.lock();
        state.moved = state.claimed.clone();
    }

    /// The plan without the destinations that an earlier pass still works on.
    pub(super) fn without(&self, mut plan: DeliveryPlan) -> DeliveryPlan {
        let state = self.0.lock();
        plan.deliveries.retain(|it| !state.moved.contains(it.destination()));
        plan.blocked.retain(|it| !state.moved.contains(it.destination()));
        plan
    }

    /// Destinations that the current pass leaves to an earlier one.
    pub(super) fn moved(&self) -> BTreeSet<Destination> {
        self.0.lock().moved.clone()
    }

    /// The claim on a destination; `None` if another pass has it.
    pub(super) fn claim(self: &Arc<Self>, destination: &Destination) -> Option<Claim> {
        let claimed = self.0.lock().claimed.insert(destination.clone());
        claimed.then(|| Claim { busy: Arc::clone(self), destination: destination.clone() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy.0.lock().claimed.remove(&self.destination);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_destination_is_claimed_once_and_stays_out_of_a_pass_that_began_meanwhile() {
        let (busy, name) = (Arc::new(Busy::default()), |project: &str| Destination {
            group: "g".to_owned(),
            project: project.to_owned(),
            branch: "main".to_owned(),
        });
        let claim = busy.claim(&name("a")).unwrap();
        assert!(busy.claim(&name("a")).is_none());
        assert!(busy.claim(&name("b")).is_some());
        busy.observing();
        drop(claim);
        assert_eq!(busy.moved(), [name("a")].into(), "it was under way when the pass began to observe");
        assert!(busy.claim(&name("a")).is_some());
        busy.observing();
        assert!(busy.moved().is_empty());
    }
}
