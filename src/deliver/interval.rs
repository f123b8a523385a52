//! The pause between passes if `RECONCILE_SLEEP_TIME` does not say it.
//!
//! Invariant: plain functions. A bucket that takes many requests to list is not listed every few seconds, except for half a minute
//! while objects are just being replaced.

use std::time::Duration;

/// The pause where a pass costs one request: S3 lists up to 1,000 objects in one.
const SHORT_PAUSE: Duration = Duration::from_secs(10);
const SMALL_BUCKET_OBJECTS: usize = 1_000;
/// The pause of all others, and the longest one between passes that fail.
const LONG_PAUSE: Duration = Duration::from_secs(300);

/// What the passes so far say about the next pause.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Past {
    /// How many objects the last listing had, foreign ones included.
    pub(super) objects: usize,
    /// How many passes in a row made no plan.
    pub(super) failed: u32,
}

/// The pause: what is set; else short if the bucket is small, doubling while passes fail; else long. A dry run prints its plan
/// each time, so it is never in a hurry.
pub(super) fn pause(set: Option<Duration>, is_dry_run: bool, past: Past) -> Duration {
    match set {
        Some(set) => set,
        None if is_dry_run => LONG_PAUSE,
        None => by_default(past),
    }
}

/// The pause if none is set.
pub(crate) fn of_a_bucket_with(objects: usize) -> Duration {
    by_default(Past { objects, failed: 0 })
}

fn by_default(Past { objects, failed }: Past) -> Duration {
    if objects > SMALL_BUCKET_OBJECTS { LONG_PAUSE } else { doubled(failed) }
}

/// The short pause, doubled this often, up to the long one.
pub(super) fn doubled(times: u32) -> Duration {
    SHORT_PAUSE.saturating_mul(1 << times.min(16)).min(LONG_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(set: Option<u64>, is_dry_run: bool, objects: usize, failed: u32) -> u64 {
        pause(set.map(Duration::from_secs), is_dry_run, Past { objects, failed }).as_secs()
    }

    #[test]
    fn what_is_set_always_wins() {
        for (is_dry_run, objects, failed) in [(false, 0, 0), (true, 0, 0), (false, 5_000, 0), (false, 0, 9)] {
            assert_eq!(seconds(Some(1), is_dry_run, objects, failed), 1);
            assert_eq!(seconds(Some(7_200), is_dry_run, objects, failed), 7_200);
        }
    }

    #[test]
    fn by_default_a_bucket_that_one_request_lists_is_read_every_ten_seconds() {
        assert_eq!(
            [0, 1, 1_000, 1_001, 1_000_000].map(|objects| seconds(None, false, objects, 0)),
            [10, 10, 10, 300, 300]
        );
        assert_eq!(of_a_bucket_with(1_000), SHORT_PAUSE);
        assert_eq!(of_a_bucket_with(1_001), LONG_PAUSE);
    }

    #[test]
    fn passes_that_fail_are_repeated_less_and_less_often() {
        let pauses = [1, 2, 3, 4, 5, 6, u32::MAX].map(|failed| seconds(None, false, 3, failed));
        assert_eq!(pauses, [20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(seconds(None, false, 5_000, 1), 300, "never more often than without a failure");
    }

    #[test]
    fn a_dry_run_does_not_print_a_plan_every_ten_seconds() {
        assert_eq!(seconds(None, true, 1, 0), 300);
    }
}
