//! Claims on destinations: full passes and push passes run side by side, but only one of them works on a destination.
//!
//! Invariant: dropping a claim releases it, and repeats the pushes that arrived for the destination meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::triggers::Triggers;
use crate::model::key::Destination;
use crate::model::target::{Source, Target};
use crate::plan::Action;

/// All claims.
#[derive(Debug)]
pub(super) struct Claims {
    triggers: Arc<Triggers>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Claimed destinations, each with the branches that were pushed to meanwhile.
    taken: BTreeMap<Destination, BTreeSet<Source>>,
    /// Destinations that a push pass claimed since the current full pass began to observe, and whether it brought them up
    /// to date. What the full pass observed of them may be stale.
    moved: BTreeMap<Destination, bool>,
}

/// The exclusive right to work on one destination, until dropped.
#[derive(Debug)]
pub struct Claim {
    claims: Arc<Claims>,
    destination: Destination,
}

impl Claims {
    /// No claims. Pushes that had to wait are repeated through `triggers`.
    pub(super) fn new(triggers: Arc<Triggers>) -> Arc<Self> {
        Arc::new(Self { triggers, state: Mutex::default() })
    }

    /// A full pass begins to observe.
    pub(super) fn observing(&self) {
        let mut state = self.state.lock();
        state.moved = state.taken.keys().map(|destination| (destination.clone(), false)).collect();
    }

    /// Destinations that push passes claimed since [`Self::observing`].
    pub(super) fn moved(&self) -> BTreeSet<Destination> {
        self.state.lock().moved.keys().cloned().collect()
    }

    /// A push pass has brought this destination up to date.
    pub(super) fn settled(&self, destination: &Destination) {
        if let Some(settled) = self.state.lock().moved.get_mut(destination) {
            *settled = true;
        }
    }

    /// A claim for an action of the full pass. `None` if a push pass claimed the destination since [`Self::observing`]: the
    /// action rests on stale facts. If that push pass did not finish the destination, the push is repeated.
    pub(super) fn of_full_pass(self: &Arc<Self>, action: &Action) -> Option<Claim> {
        let destination = action.destination();
        let mut state = self.state.lock();
        let Some(settled) = state.moved.get(destination).copied() else {
            state.taken.entry(destination.clone()).or_default();
            return Some(self.claim(destination));
        };
        let Action::Publish(publish) = action else { return None };
        if settled {
            return None;
        }
        let source = publish.target.source.clone();
        match state.taken.get_mut(destination) {
            Some(waiting) => drop(waiting.insert(source)),
            None => {
                drop(state);
                self.triggers.pushed([source]);
            }
        }
        None
    }

    /// Claims for pushed targets. If a target is claimed already, its push is repeated when that claim is dropped.
    pub(super) fn of_push_pass(self: &Arc<Self>, targets: Vec<Target>) -> Vec<(Target, Claim)> {
        let mut state = self.state.lock();
        let mut free = vec![];
        for target in targets {
            match state.taken.get_mut(&target.destination) {
                Some(waiting) => drop(waiting.insert(target.source)),
                None => {
                    state.taken.insert(target.destination.clone(), BTreeSet::new());
                    state.moved.insert(target.destination.clone(), false);
                    let claim = self.claim(&target.destination);
                    free.push((target, claim));
                }
            }
        }
        free
    }

    fn claim(self: &Arc<Self>, destination: &Destination) -> Claim {
        Claim { claims: Arc::clone(self), destination: destination.clone() }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let waiting = self.claims.state.lock().taken.remove(&self.destination).unwrap_or_default();
        if !waiting.is_empty() {
            self.claims.triggers.pushed(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::model::key::{ArchiveFormat, CommitId};
    use crate::plan::{OnRewrite, Publish, PublishReason};

    fn target(name: &str) -> Target {
        Target {
            source: Source { project: format!("near/{name}"), branch: "main".to_owned() },
            destination: Destination { group: "far".into(), project: name.into(), branch: "main".into() },
        }
    }

    fn action(name: &str) -> Action {
        let publish = Publish {
            target: target(name),
            commit: CommitId::from_bytes([1; 20]),
            format: ArchiveFormat::Zip,
            key: name.to_owned(),
            supersedes: vec![],
            held_bytes: 0,
            on_rewrite: OnRewrite::Publish,
            reason: PublishReason::New,
        };
        Action::Publish(publish)
    }

    #[tokio::test]
    async fn a_push_for_a_claimed_destination_is_repeated_when_that_is_free() {
        let triggers = Arc::new(Triggers::default());
        let claims = Claims::new(Arc::clone(&triggers));
        claims.observing();
        let full = claims.of_full_pass(&action("a"));
        assert!(full.is_some());
        let push = claims.of_push_pass(vec![target("a"), target("c")]);
        assert_eq!(push.iter().map(|(target, _)| target.clone()).collect::<Vec<_>>(), [target("c")]);
        assert_eq!(triggers.pushes().now_or_never(), None, "a is claimed");
        drop(full);
        assert_eq!(triggers.pushes().await, [target("a").source].into());
        assert_eq!(claims.of_push_pass(vec![target("a")]).len(), 1);
    }

    #[test]
    fn a_full_pass_skips_what_a_push_pass_claimed_since_it_began_to_observe() {
        let claims = Claims::new(Arc::default());
        let since_before = claims.of_push_pass(vec![target("a")]);
        drop(claims.of_push_pass(vec![target("b")]));
        claims.observing();
        drop(since_before);
        drop(claims.of_push_pass(vec![target("c")]));
        let left = ["a", "b", "c", "d"].map(|name| claims.of_full_pass(&action(name)).is_none());
        assert_eq!(left, [true, false, true, false]);
        assert_eq!(claims.moved(), [target("a").destination, target("c").destination].into());
        claims.observing();
        assert!(claims.of_full_pass(&action("a")).is_some(), "the next pass observes it again");
    }

    #[tokio::test]
    async fn a_push_that_a_full_pass_relied_on_is_repeated_if_it_failed() {
        let triggers = Arc::new(Triggers::default());
        let claims = Claims::new(Arc::clone(&triggers));
        claims.observing();
        drop(claims.of_push_pass(vec![target("failed")]));
        drop(claims.of_push_pass(vec![target("done")]));
        claims.settled(&target("done").destination);
        let running = claims.of_push_pass(vec![target("running")]);
        for name in ["failed", "done", "running"] {
            assert!(claims.of_full_pass(&action(name)).is_none());
        }
        assert_eq!(triggers.pushes().await, [target("failed").source].into());
        drop(running);
        assert_eq!(triggers.pushes().await, [target("running").source].into());
    }
}
