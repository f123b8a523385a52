//! What starts a pass early: pushes that GitLab reports, and a signal.
//!
//! Invariant: memory is bounded by the number of source branches, and push passes keep a distance, however many requests
//! arrive.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::target::Source;

/// How long a push waits for others to share its pass.
const COALESCE: Duration = Duration::from_millis(200);
/// Least time from the start of one push pass to the next.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// Requested passes that have not begun.
#[derive(Debug, Default)]
pub struct Triggers {
    pushes: Mutex<Pushes>,
    push_came: Notify,
    full_pass: Notify,
    /// The source branches in the last full pass's target list.
    accepted: Mutex<Vec<Source>>,
}

#[derive(Debug, Default)]
struct Pushes {
    pending: BTreeSet<Source>,
    last_pass: Option<Instant>,
}

impl Triggers {
    /// Requests a full pass. All requests during a pass together start one more.
    pub fn full_pass(&self) {
        self.full_pass.notify_one();
    }

    /// Waits until a full pass is requested.
    pub async fn full_pass_wanted(&self) {
        self.full_pass.notified().await;
    }

    /// From now on, only pushes to these branches count.
    pub fn accept(&self, sources: impl Iterator<Item = Source>) {
        *self.accepted.lock() = sources.collect::<BTreeSet<_>>().into_iter().collect();
    }

    /// Requests a pass if this branch is the source of a target, and returns whether it is. GitLab ignores case in project
    /// paths.
    pub fn pushed_to(&self, project: &str, branch: &str) -> bool {
        let accepted = self.accepted.lock();
        let sources = accepted.iter().filter(|it| it.project.eq_ignore_ascii_case(project) && it.branch == branch);
        let sources: Vec<_> = sources.cloned().collect();
        drop(accepted);
        let counts = !sources.is_empty();
        self.pushed(sources);
        counts
    }

    /// Requests a pass for these branches. They must come from the target list, which bounds memory.
    pub fn pushed(&self, sources: impl IntoIterator<Item = Source>) {
        self.pushes.lock().pending.extend(sources);
        self.push_came.notify_one();
    }

    /// Waits for pushes, then briefly for more. Dropping the future loses none.
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

/// When the pass for a push that arrives `now` begins.
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
