//! What starts a pass before its time: pushes that GitLab reports, and a signal.
//!
//! Invariant: however many requests come in, what is remembered is bounded by the number of source branches there are,
//! and passes for pushes keep their distance.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::target::Source;

/// How long a push waits for others to join it.
const COALESCE: Duration = Duration::from_millis(200);
/// Least time from the start of one pass for pushes to the next.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// Why a pass began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// It was due.
    Schedule,
    /// Somebody sent SIGUSR1.
    Signal,
    /// GitLab reported pushes: a pass for their targets only.
    Push,
}

impl Trigger {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Schedule, Self::Signal, Self::Push];

    /// Whether the pass is about all targets.
    pub const fn is_full(self) -> bool {
        match self {
            Self::Schedule | Self::Signal => true,
            Self::Push => false,
        }
    }

    /// Its name, in metrics and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Signal => "signal",
            Self::Push => "push",
        }
    }
}

/// What was asked for and has not begun.
#[derive(Debug, Default)]
pub struct Triggers {
    pushes: Mutex<Pushes>,
    push_came: Notify,
    full_pass: Notify,
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

    /// Asks for a pass for these branches. They have to be branches of the target list: that bounds what is kept.
    pub fn pushed(&self, sources: impl IntoIterator<Item = Source>) {
        self.lock().pending.extend(sources);
        self.push_came.notify_one();
    }

    /// Waits for pushes, and then a little for more of them. Nothing is lost where waiting is given up.
    pub async fn pushes(&self) -> BTreeSet<Source> {
        while self.lock().pending.is_empty() {
            self.push_came.notified().await;
        }
        let last_pass = self.lock().last_pass;
        tokio::time::sleep_until(begin_at(Instant::now(), last_pass)).await;
        let mut pushes = self.lock();
        pushes.last_pass = Some(Instant::now());
        std::mem::take(&mut pushes.pending)
    }

    fn lock(&self) -> MutexGuard<'_, Pushes> {
        self.pushes.lock().unwrap_or_else(PoisonError::into_inner)
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
