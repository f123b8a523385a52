//! Lines that passes of both programs write to the log.

use std::cell::RefCell;
use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::bucket::Foreign;
use crate::text::remote_text;

/// How many targets with an equal reason get a line each, and how many examples a line for more of them names.
pub const NAMED: usize = 3;
/// How many foreign keys the log names; the rest are only counted.
const FOREIGN_SHOWN: usize = 5;

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
