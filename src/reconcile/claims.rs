//! Claims on destinations: full passes and push passes run side by side, but only one of them works on a destination.
//!
//! Invariant: dropping a claim releases it, and repeats the pushes that arrived for the destination meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::key::Destination;
use crate::model::target::{Source, Target};
use crate::passes::Triggers;
use crate::plan::Action;

/// All claims.
#[derive(Debug)]
pub(super) struct Claims {
    triggers: Arc<Triggers>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: BTreeMap<Destination, Taken>,
    /// Destinations that another pass had claimed when the current full pass began to observe, or claimed since. What the
    /// full pass observed of them may be stale.
    moved: BTreeMap<Destination, By>,
}

#[derive(Debug)]
struct Taken {
    by: By,
    /// The branches that were pushed to meanwhile.
    waiting: BTreeSet<Source>,
}

/// The pass that claimed a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// A full pass. Later ones leave the destination to it, and observe it again once it is free.
    Full,
    /// A push pass, which has not brought the destination up to date.
    Push,
    /// A push pass, which has.
    SettledPush,
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
        state.moved = state.taken.iter().map(|(destination, taken)| (destination.clone(), taken.by)).collect();
    }

    /// Destinations that other passes had at [`Self::observing`], or claimed since.
    pub(super) fn moved(&self) -> BTreeSet<Destination> {
        self.state.lock().moved.keys().cloned().collect()
    }

    /// A push pass has brought this destination up to date.
    pub(super) fn settled(&self, destination: &Destination) {
        if let Some(settled) = self.state.lock().moved.get_mut(destination) {
            *settled = By::SettledPush;
        }
    }

    /// A claim for an action of a full pass. `None` if another pass has the destination now, had the destination at [`Self::observing`], or
    /// claimed it since: the action rests on stale facts. If that is a push pass that did not finish the destination, the
    /// push is repeated.
    pub(super) fn of_full_pass(self: &Arc<Self>, action: &Action) -> Option<Claim> {
        let destination = action.destination();
        let mut state = self.state.lock();
        let Some(by) = state.moved.get(destination).copied() else {
            // A later full pass has it, and knows more.
            if state.taken.contains_key(destination) {
                return None;
            }
            let taken = Taken { by: By::Full, waiting: BTreeSet::new() };
            state.taken.insert(destination.clone(), taken);
            return Some(self.claim(destination));
        };
        let (Action::Publish(publish), By::Push) = (action, by) else { return None };
        let source = publish.target.source.clone();
        match state.taken.get_mut(destination) {
            Some(taken) => drop(taken.waiting.insert(source)),
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
                Some(taken) => drop(taken.waiting.insert(target.source)),
                None => {
                    let taken = Taken { by: By::Push, waiting: BTreeSet::new() };
                    state.taken.insert(target.destination.clone(), taken);
                    state.moved.insert(target.destination.clone(), By::Push);
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
        let taken = self.claims.state.lock().taken.remove(&self.destination);
        if let Some(Taken { waiting, .. }) = taken.filter(|taken| !taken.waiting.is_empty()) {
            self.claims.triggers.pushed(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::model::key::{ArchiveFormat, CommitId};
    use crate::plan::{How, OnRewrite, Publish, PublishReason, WhyWhole};

    fn target(name: &str) -> Target {
        Target {
            source: Source { project: format!("near/{name}"), branch: "main".to_owned() },
            destination: Destination { group: "far".into(), project: name.into(), branch: "main".into() },
        }
    }

    /// The pushes that are to be repeated. Without any, this would wait for ever.
    async fn pushes(triggers: &Triggers) -> BTreeSet<Source> {
        tokio::time::timeout(Duration::from_secs(10), triggers.pushes()).await.unwrap_or_default()
    }

    fn action(name: &str) -> Action {
        let publish = Publish {
            target: target(name),
            commit: CommitId::from_bytes([1; 20]),
            format: ArchiveFormat::Zip,
            key: name.to_owned(),
            how: How::Whole(WhyWhole::Setting),
            supersedes: vec![],
            overwrites: false,
            held_bytes: 0,
            newest_written: None,
            on_rewrite: OnRewrite::Publish,
            reason: PublishReason::New,
        };
        Action::Publish(Box::new(publish))
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
        assert_eq!(pushes(&triggers).await, [target("a").source].into());
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
    async fn a_full_pass_leaves_a_destination_to_an_earlier_one_that_still_works_on_it() {
        let triggers = Arc::new(Triggers::default());
        let claims = Claims::new(Arc::clone(&triggers));
        claims.observing();
        let earlier = claims.of_full_pass(&action("slow"));
        claims.observing();
        assert_eq!(claims.moved(), [target("slow").destination].into());
        assert!(claims.of_full_pass(&action("slow")).is_none());
        assert!(claims.of_full_pass(&action("other")).is_some());
        drop(earlier);
        assert!(claims.of_full_pass(&action("slow")).is_none(), "it rests on what was observed before");
        claims.observing();
        assert!(claims.of_full_pass(&action("slow")).is_some(), "the next pass observes it again");
        assert_eq!(triggers.pushes().now_or_never(), None, "nobody pushed");
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
        assert_eq!(pushes(&triggers).await, [target("failed").source].into());
        drop(running);
        assert_eq!(pushes(&triggers).await, [target("running").source].into());
    }
}
