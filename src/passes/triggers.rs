//! What starts a pass early: pushes that GitLab reports, changes that the bucket reports, and a signal.
//!
//! Invariant: memory is bounded by the number of source branches, and the passes of reports keep a distance, however many
//! requests arrive.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::key::is_same_path;
use crate::model::target::Source;

/// How long a report waits for others to share its pass.
const COALESCE: Duration = Duration::from_millis(200);
/// Least time from the start of one pass to the next that a report starts.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// Requested passes that have not begun.
#[derive(Debug, Default)]
pub struct Triggers {
    pushes: Mutex<Pushes>,
    push_came: Notify,
    changes: Mutex<Changes>,
    change_came: Notify,
    full_pass: Notify,
    /// The source branches in the last full pass's target list.
    accepted: Mutex<Vec<Source>>,
}

#[derive(Debug, Default)]
struct Pushes {
    pending: BTreeSet<Source>,
    last_pass: Option<Instant>,
}

/// Whether the bucket has changed since the last full pass began. What has changed is in its listing.
#[derive(Debug, Default)]
struct Changes {
    pending: bool,
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

    /// The bucket has changed: requests a full pass. All changes before it begins share it.
    pub fn bucket_changed(&self) {
        self.changes.lock().pending = true;
        self.change_came.notify_one();
    }

    /// Waits until the bucket has changed, then briefly for more changes. The change is pending until a pass begins.
    pub async fn bucket_change(&self) {
        while !self.changes.lock().pending {
            self.change_came.notified().await;
        }
        let last_pass = self.changes.lock().last_pass;
        tokio::time::sleep_until(begin_at(Instant::now(), last_pass)).await;
    }

    /// A full pass begins, and sees all changes so far.
    pub fn full_pass_begins(&self) {
        *self.changes.lock() = Changes { pending: false, last_pass: Some(Instant::now()) };
    }

    /// From now on, only pushes to these branches count.
    pub fn accept(&self, sources: impl Iterator<Item = Source>) {
        *self.accepted.lock() = sources.collect::<BTreeSet<_>>().into_iter().collect();
    }

    /// Requests a pass if this branch is the source of a target, and returns whether it is.
    pub fn pushed_to(&self, project: &str, branch: &str) -> bool {
        let accepted = self.accepted.lock();
        let sources = accepted.iter().filter(|it| it.branch == branch && is_same_path(&it.project, project));
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

/// When the pass for a report that arrives `now` begins.
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
    async fn a_push_is_to_a_target_s_project_in_any_case_and_to_its_branch_as_it_is_written() {
        let triggers = Triggers::default();
        triggers.accept([source("Main")].into_iter());
        assert!(!triggers.pushed_to("g/p", "main") && !triggers.pushed_to("g/pp", "Main"));
        assert_eq!(triggers.pushes().now_or_never(), None);
        assert!(triggers.pushed_to("G/P", "Main"));
        assert_eq!(triggers.pushes().await, [source("Main")].into());
    }

    #[tokio::test]
    async fn giving_up_the_wait_loses_no_push() {
        let triggers = Triggers::default();
        triggers.pushed([source("a")]);
        assert_eq!(triggers.pushes().now_or_never(), None, "others may join it");
        assert_eq!(triggers.pushes().await, [source("a")].into());
    }

    #[tokio::test]
    async fn changes_share_the_next_pass_and_those_during_it_the_one_after_it() {
        let triggers = Triggers::default();
        assert_eq!(triggers.bucket_change().now_or_never(), None);
        (0..1_000).for_each(|_| triggers.bucket_changed());
        assert_eq!(triggers.bucket_change().now_or_never(), None, "others may join it");
        triggers.bucket_change().await;
        triggers.full_pass_begins();
        let (begun, nothing) = (Instant::now(), triggers.bucket_change().now_or_never());
        assert_eq!(nothing, None, "nothing is left");
        (0..1_000).for_each(|_| triggers.bucket_changed());
        triggers.bucket_change().await;
        assert!(begun.elapsed() >= LEAST_INTERVAL - Duration::from_millis(100), "{:?}", begun.elapsed());
        triggers.full_pass_begins();
        assert_eq!(triggers.bucket_change().now_or_never(), None);
    }

    #[tokio::test]
    async fn a_pass_that_begins_for_another_reason_covers_what_has_changed_before() {
        let triggers = Triggers::default();
        triggers.bucket_changed();
        triggers.full_pass_begins();
        let waited = tokio::time::timeout(2 * COALESCE, triggers.bucket_change()).await;
        assert!(waited.is_err(), "no pass is left to do");
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
