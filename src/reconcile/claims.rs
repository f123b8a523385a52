//! Which destinations are at work, so that a full pass and passes for pushes go on side by side and no two of them are at
//! one destination.
//!
//! Invariant: a claim is given back when it is dropped, whatever ends it, and a push that comes for a claimed destination
//! is asked for again then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::key::Destination;
use crate::plan::Action;
use crate::target::{Source, Target};
use crate::trigger::Triggers;

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
    /// What passes for pushes have claimed since the full pass under way began to look: what it sees of these destinations
    /// may be out of date.
    moved: BTreeSet<Destination>,
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
        let mut state = self.lock();
        state.moved = state.taken.keys().cloned().collect();
    }

    /// What passes for pushes were at since [`Self::look`].
    pub(super) fn moved(&self) -> BTreeSet<Destination> {
        self.lock().moved.clone()
    }

    /// Claims for a full pass's actions. Those for destinations that a pass for pushes was at since [`Self::look`] are
    /// left out: what was seen of these is out of date, and the next pass sees better.
    pub(super) fn of_full_pass(self: &Arc<Self>, actions: Vec<Action>) -> Vec<(Action, Claim)> {
        let mut state = self.lock();
        let free = actions.into_iter().filter(|action| !state.moved.contains(action.destination()));
        let work: Vec<_> = free.map(|action| (self.claim(action.destination()), action)).collect();
        for (claim, _) in &work {
            state.taken.entry(claim.destination.clone()).or_default();
        }
        drop(state);
        work.into_iter().map(|(claim, action)| (action, claim)).collect()
    }

    /// Claims for the targets that pushes are about. The pushes for claimed ones wait until these are free.
    pub(super) fn of_push_pass(self: &Arc<Self>, targets: Vec<Target>) -> Vec<(Target, Claim)> {
        let mut state = self.lock();
        let mut free = vec![];
        for target in targets {
            match state.taken.get_mut(&target.destination) {
                Some(waiting) => drop(waiting.insert(target.source)),
                None => {
                    state.taken.insert(target.destination.clone(), BTreeSet::new());
                    state.moved.insert(target.destination.clone());
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let waiting = self.claims.lock().taken.remove(&self.destination).unwrap_or_default();
        if !waiting.is_empty() {
            self.claims.triggers.pushed(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::plan::{Retire, RetireReason};

    fn target(name: &str) -> Target {
        Target {
            source: Source { project: format!("near/{name}"), branch: "main".to_owned() },
            destination: Destination { group: "far".into(), project: name.into(), branch: "main".into() },
        }
    }

    fn action(name: &str) -> Action {
        let reason = RetireReason::NoTarget;
        Action::Retire(Retire { destination: target(name).destination, keys: vec![], reason })
    }

    fn named(work: &[(Action, Claim)]) -> Vec<&str> {
        work.iter().map(|(action, _)| action.destination().project.as_str()).collect()
    }

    #[tokio::test]
    async fn a_push_for_a_destination_at_work_comes_back_when_that_is_free() {
        let triggers = Arc::new(Triggers::default());
        let claims = Claims::new(Arc::clone(&triggers));
        claims.look();
        let full = claims.of_full_pass(vec![action("a"), action("b")]);
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
        let during_the_look_and_before = claims.of_push_pass(vec![target("a")]);
        let over_before = claims.of_push_pass(vec![target("b")]);
        drop(over_before);
        claims.look();
        drop(during_the_look_and_before);
        drop(claims.of_push_pass(vec![target("c")]));
        let work = claims.of_full_pass(vec![action("a"), action("b"), action("c"), action("d")]);
        assert_eq!(named(&work), ["b", "d"]);
        assert_eq!(claims.moved(), [target("a").destination, target("c").destination].into());
        drop(work);
        claims.look();
        assert_eq!(claims.of_full_pass(vec![action("a"), action("c")]).len(), 2, "the next pass sees better");
    }
}
