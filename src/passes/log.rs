//! Lines that passes of both programs write to the log.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::bucket::Foreign;
use crate::model::key::Destination;
use crate::text::{error_chain, printable, remote_text};

/// How many targets with an equal reason get a line each, and how many examples a line for more of them names.
pub const NAMED: usize = 3;
/// How many foreign keys the log names; the rest are only counted.
const FOREIGN_SHOWN: usize = 5;

/// After this long, the log says again what has not changed since.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// What the log last said of something that each pass finds. Passes may come every few seconds, and most find what the one
/// before them found.
#[derive(Debug, Default)]
pub struct LastSaid {
    hasher: RandomState,
    /// A hash of it, and when it was said.
    last: Mutex<Option<(u64, Instant)>>,
}

impl LastSaid {
    /// Whether the log says this now: it is not what was said last, or that was long ago.
    pub fn is_news(&self, what: impl Hash, now: Instant) -> bool {
        let what = self.hasher.hash_one(what);
        let mut last = self.last.lock();
        if last.is_some_and(|(said, at)| said == what && now.duration_since(at) < SAID_AGAIN_AFTER) {
            return false;
        }
        *last = Some((what, now));
        true
    }
}

/// Failures of a pass by their reasons. The first few of each are logged at once, and the others in one line at the end.
#[derive(Debug, Default)]
pub struct Failures(RefCell<BTreeMap<String, usize>>);

impl Failures {
    /// Whether the next failure for this reason is logged at once.
    pub fn is_named(&self, reason: String) -> bool {
        let mut reasons = self.0.borrow_mut();
        let count = reasons.entry(reason).or_default();
        *count += 1;
        *count <= NAMED
    }
}

impl Drop for Failures {
    fn drop(&mut self) {
        for (error, count) in self.0.take() {
            if let Some(count) = count.checked_sub(NAMED).filter(|count| *count > 0) {
                tracing::error!(count, error, "failed: {count} more for the same reason");
            }
        }
    }
}

/// Those that have an equal reason, by that reason.
pub fn by_reason<T>(all: &[T], reason: impl Fn(&T) -> String) -> BTreeMap<String, Vec<&T>> {
    let mut alike: BTreeMap<String, Vec<&T>> = BTreeMap::new();
    for one in all {
        alike.entry(reason(one)).or_default().push(one);
    }
    alike
}

/// The names of the first few of these.
pub fn examples<'a>(destinations: impl IntoIterator<Item = &'a Destination>) -> String {
    let names: Vec<_> = destinations.into_iter().take(NAMED).map(|it| printable(&it.to_string())).collect();
    names.join(", ")
}

/// One line for a pass that ended without a plan.
pub fn failed_pass(error: &(dyn std::error::Error + 'static), was_stopped: bool) {
    if was_stopped {
        tracing::warn!("stopped before the pass was complete");
    } else {
        tracing::error!(error = error_chain(error), pass = "failed", "the pass failed and nothing was changed");
    }
}

/// What the log said of foreign objects. Only examples are remembered, so a bucket full of them takes no memory.
#[derive(Debug, Default)]
pub struct ForeignLog(Mutex<Foreign>);

impl ForeignLog {
    /// Logs what is new since the last time.
    pub fn log(&self, foreign: &Foreign) {
        let before = std::mem::replace(&mut *self.0.lock(), foreign.clone());
        let is_new = |key: &&String| !before.examples.contains(key);
        let new: Vec<_> = foreign.examples.iter().filter(is_new).collect();
        if foreign.count <= before.count && new.is_empty() {
            return;
        }
        let examples = if new.is_empty() { foreign.examples.iter().collect() } else { new };
        let shown: Vec<_> = examples.into_iter().take(FOREIGN_SHOWN).map(|key| remote_text(key.as_bytes())).collect();
        tracing::warn!(
            count = foreign.count,
            examples = shown.join(" "),
            "the bucket holds objects with foreign names, which are left alone"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_changed_is_said_every_ten_minutes() {
        let (said, start) = (LastSaid::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let times = (0..3_600).step_by(10).filter(|second| said.is_news(("pass", 3), at(*second)));
        assert_eq!(times.collect::<Vec<_>>(), [0, 600, 1_200, 1_800, 2_400, 3_000]);
    }

    #[test]
    fn what_has_changed_is_said_at_once() {
        let (said, now) = (LastSaid::default(), Instant::now());
        assert!(said.is_news(1, now));
        assert!(!said.is_news(1, now));
        assert!(said.is_news(2, now));
        assert!(said.is_news(1, now), "also if it is as it was before that");
    }
}
