//! Which destinations are at work, so that a full pass and passes for pushes go on side by side and no two of them are at
//! one destination.
//!
//! Invariant: a claim is given back when it is dropped, whatever ends it, and a push that comes for a claimed destination
//! is asked for again then.

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
    /// What passes for pushes have claimed since the full pass under way began to look, and whether they came to an end
    /// there: what the full pass sees of these destinations may be out of date.
    moved: BTreeMap<Destination, bool>,
}

/// One destination, for whoever has this.
#[derive(Debug)]
pub struct Claim {
    claims: Arc<Claims>,
    destination: Destination,
}

impl Claims {
    /// Nothing is claimed. Pushes that have to wait come back through `triggers`.
    pub(super) fn new(triggers: Arc<Triggers>) -> Arc<Self> {
        Arc::new(Self { triggers, state: Mutex::default() })
    }

    /// A full pass begins to look.
    pub(super) fn look(&self) {
        let mut state = self.state.lock();
        state.moved = state.taken.keys().map(|destination| (destination.clone(), false)).collect();
    }

    /// What passes for pushes were at since [`Self::look`].
    pub(super) fn moved(&self) -> BTreeSet<Destination> {
        self.state.lock().moved.keys().cloned().collect()
    }

    /// A pass for pushes has brought this destination up to date.
    pub(super) fn settled(&self, destination: &Destination) {
        if let Some(settled) = self.state.lock().moved.get_mut(destination) {
            *settled = true;
        }
    }

    /// The claim for an action of the full pass that is about to begin. `None` where a pass for pushes was at its
    /// destination since [`Self::look`]: what was seen of it is out of date. Where that pass came to nothing, another one
    /// is asked for.
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

    /// Claims for the targets that pushes are about. The pushes for claimed ones wait until these are free.
    pub(super) fn of_push_pass(self: &Arc<Self>, targets: Vec<Target>) -> Vec<(Target, Claim)> {
        let mut state = self.state.lock();
        let mut free = vec![];
        for target in targets {
            match state.taken.get_mut(&target.destination) {
                Some(waiting) => drop(waiting.insert(target.source)),
                None => {
                    state.taken.insert(target.destination.clone(), BTreeSet::new());
                    state.moved.insert(target.destination.clone(), false);
                    free.push((self.claim(&target.destination), target));
                }
            }
        }
        drop(state);
        free.into_iter().map(|(claim, target)| (target, claim)).collect()
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
    async fn a_push_for_a_destination_at_work_comes_back_when_that_is_free() {
        let triggers = Arc::new(Triggers::default());
        let claims = Claims::new(Arc::clone(&triggers));
        claims.look();
        let full = claims.of_full_pass(&action("a"));
        assert!(full.is_some());
        let push = claims.of_push_pass(vec![target("a"), target("c")]);
        assert_eq!(push.iter().map(|(target, _)| target.clone()).collect::<Vec<_>>(), [target("c")]);
        assert_eq!(triggers.pushes().now_or_never(), None, "a is at work");
        drop(full);
        assert_eq!(triggers.pushes().await, [target("a").source].into());
        assert_eq!(claims.of_push_pass(vec![target("a")]).len(), 1);
    }

    #[test]
    fn a_full_pass_leaves_alone_what_a_push_was_at_since_it_looked() {
        let claims = Claims::new(Arc::default());
        let since_before = claims.of_push_pass(vec![target("a")]);
        drop(claims.of_push_pass(vec![target("b")]));
        claims.look();
        drop(since_before);
        drop(claims.of_push_pass(vec![target("c")]));
        let left = ["a", "b", "c", "d"].map(|name| claims.of_full_pass(&action(name)).is_none());
        assert_eq!(left, [true, false, true, false]);
        assert_eq!(claims.moved(), [target("a").destination, target("c").destination].into());
        claims.look();
        assert!(claims.of_full_pass(&action("a")).is_some(), "the next pass sees better");
    }

    #[tokio::test]
    async fn what_is_left_to_a_push_that_came_to_nothing_is_asked_for_again() {
        let triggers = Arc::new(Triggers::default());
        let claims = Claims::new(Arc::clone(&triggers));
        claims.look();
        drop(claims.of_push_pass(vec![target("failed")]));
        drop(claims.of_push_pass(vec![target("done")]));
        claims.settled(&target("done").destination);
        let at_work = claims.of_push_pass(vec![target("at_work")]);
        for name in ["failed", "done", "at_work"] {
            assert!(claims.of_full_pass(&action(name)).is_none());
        }
        assert_eq!(triggers.pushes().await, [target("failed").source].into());
        drop(at_work);
        assert_eq!(triggers.pushes().await, [target("at_work").source].into());
    }
}
