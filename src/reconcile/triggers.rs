//! What starts a pass before its time: pushes that GitLab reports, and a signal.
//!
//! Invariant: however many requests come in, what is remembered is bounded by the number of source branches there are,
//! and passes for pushes keep their distance.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::target::Source;

/// How long a push waits for others to join it.
const COALESCE: Duration = Duration::from_millis(200);
/// Least time from the start of one pass for pushes to the next.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// What was asked for and has not begun.
#[derive(Debug, Default)]
pub struct Triggers {
    pushes: Mutex<Pushes>,
    push_came: Notify,
    full_pass: Notify,
    /// The source branches of the target list, as the last full pass saw it.
    accepted: Mutex<Vec<Source>>,
}

#[derive(Debug, Default)]
struct Pushes {
    pending: BTreeSet<Source>,
    last_pass: Option<Instant>,
}

impl Triggers {
    /// Asks for a full pass. Requests that come while one is under way are one request for another.
    pub fn full_pass(&self) {
        self.full_pass.notify_one();
    }

    /// Waits until a full pass is asked for.
    pub async fn full_pass_wanted(&self) {
        self.full_pass.notified().await;
    }

    /// From now on pushes to these branches count, and no others.
    pub(super) fn accept(&self, sources: impl Iterator<Item = Source>) {
        *self.accepted.lock() = sources.collect::<BTreeSet<_>>().into_iter().collect();
    }

    /// Somebody pushed to a branch: asks for a pass if it is the source of a target. GitLab does not tell upper from
    /// lower case in paths.
    ///
    /// Returns whether it is.
    pub fn pushed_to(&self, project: &str, branch: &str) -> bool {
        let accepted = self.accepted.lock();
        let sources = accepted.iter().filter(|it| it.project.eq_ignore_ascii_case(project) && it.branch == branch);
        let sources: Vec<_> = sources.cloned().collect();
        drop(accepted);
        let counts = !sources.is_empty();
        self.pushed(sources);
        counts
    }

    /// Asks for a pass for these branches. They have to be branches of the target list: that bounds what is kept.
    pub(super) fn pushed(&self, sources: impl IntoIterator<Item = Source>) {
        self.pushes.lock().pending.extend(sources);
        self.push_came.notify_one();
    }

    /// Waits for pushes, and then a little for more of them. Nothing is lost where waiting is given up.
    pub async fn pushes(&self) -> BTreeSet<Source> {
        while self.pushes.lock().pending.is_empty() {
            self.push_came.notified().await;
        }
        let last_pass = self.pushes.lock().last_pass;
        tokio::time::sleep_until(begin_at(Instant::now(), last_pass)).await;
        let mut pushes = self.pushes.lock();
        pushes.last_pass = Some(Instant::now());
        std::mem::take(&mut pushes.pending)
    }
}

/// When a pass for a push that came `now` begins.
fn begin_at(now: Instant, last_pass: Option<Instant>) -> Instant {
    let coalesced = now + COALESCE;
    last_pass.map_or(coalesced, |last| coalesced.max(last + LEAST_INTERVAL))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn source(branch: &str) -> Source {
        Source { project: "g/p".to_owned(), branch: branch.to_owned() }
    }

    #[test]
    fn passes_for_pushes_keep_their_distance() {
        let now = Instant::now();
        assert_eq!(begin_at(now, None), now + COALESCE);
        assert_eq!(begin_at(now, Some(now)), now + LEAST_INTERVAL);
        assert_eq!(begin_at(now, Some(now - LEAST_INTERVAL)), now + COALESCE);
    }

    #[tokio::test]
    async fn pushes_that_wait_together_are_one_pass() {
        let triggers = Triggers::default();
        triggers.pushed([source("b")]);
        triggers.pushed([source("a"), source("b")]);
        assert_eq!(triggers.pushes().await, [source("a"), source("b")].into());
        assert_eq!(triggers.pushes().now_or_never(), None, "nothing is left");
    }

    #[tokio::test]
    async fn giving_up_the_wait_loses_no_push() {
        let triggers = Triggers::default();
        triggers.pushed([source("a")]);
        assert_eq!(triggers.pushes().now_or_never(), None, "others may join it");
        assert_eq!(triggers.pushes().await, [source("a")].into());
    }

    #[tokio::test]
    async fn a_full_pass_that_is_asked_for_twice_is_one() {
        let triggers = Triggers::default();
        triggers.full_pass();
        triggers.full_pass();
        triggers.full_pass_wanted().await;
        assert_eq!(triggers.full_pass_wanted().now_or_never(), None);
    }
}
