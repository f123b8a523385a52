//! When objects are published, as their manifests say it.
//!
//! Invariant: the time of a destination's next object is later than that of its last one, whatever the clocks say, unless
//! that one is more than a day ahead of our clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::model::key::Destination;
use crate::plan::delivery::FUTURE_TOLERANCE;

/// What times are counted in.
const MILLISECOND: Duration = Duration::from_millis(1);

/// The last time that this process has given to each destination.
#[derive(Debug, Default)]
pub(super) struct Times(Mutex<BTreeMap<Destination, SystemTime>>);

impl Times {
    /// The time of a destination's next object; `newest` is when its newest one was written, by the server's clock.
    pub(super) fn next(&self, destination: &Destination, newest: Option<SystemTime>) -> SystemTime {
        self.next_at(SystemTime::now(), destination, newest)
    }

    fn next_at(&self, now: SystemTime, destination: &Destination, newest: Option<SystemTime>) -> SystemTime {
        let mut last = self.0.lock();
        // Nobody takes what lies that far in the future: a clock was wrong when it was written.
        let is_possible = |time: &SystemTime| *time <= now + FUTURE_TOLERANCE;
        let earlier = [newest, last.get(destination).copied()].map(|time| time.filter(is_possible));
        let next = later_than(earlier, now);
        last.insert(destination.clone(), next);
        next
    }

    /// Forgets the other destinations.
    pub(super) fn keep_only<'a>(&self, wanted: impl Iterator<Item = &'a Destination>) {
        let wanted: BTreeSet<_> = wanted.collect();
        self.0.lock().retain(|destination, _| wanted.contains(destination));
    }
}

/// The present time in whole milliseconds, or at least one more than each of these.
fn later_than(times: impl IntoIterator<Item = Option<SystemTime>>, now: SystemTime) -> SystemTime {
    let next = |time: SystemTime| {
        let whole = floor(time);
        let ceiling = if whole == time { whole } else { plus_one(whole) };
        plus_one(ceiling)
    };
    times.into_iter().flatten().map(next).fold(floor(now), SystemTime::max)
}

fn floor(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::new(since.as_secs(), since.subsec_millis() * 1_000_000)
}

fn plus_one(time: SystemTime) -> SystemTime {
    time.checked_add(MILLISECOND).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(project: &str) -> Destination {
        Destination { group: "far".into(), project: project.into(), branch: "main".into() }
    }

    /// So many microseconds after some day.
    fn at(micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_000 + micros)
    }

    #[test]
    fn it_is_the_present_time_in_whole_milliseconds() {
        let times = Times::default();
        assert_eq!(times.next_at(at(1_234_567), &destination("a"), None), at(1_234_000));
        assert_eq!(times.next_at(at(9_000_000), &destination("a"), Some(at(5_000_000))), at(9_000_000));
    }

    #[test]
    fn it_is_later_than_the_newest_object_if_the_server_s_clock_is_ahead() {
        let next = |newest| Times::default().next_at(at(0), &destination("a"), Some(newest));
        assert_eq!(next(at(5_000_000)), at(5_001_000));
        assert_eq!(next(at(5_000_001)), at(5_002_000), "at least a millisecond later");
        assert_eq!(next(at(0)), at(1_000));
        let day = FUTURE_TOLERANCE.as_micros() as u64;
        assert_eq!((next(at(day)), next(at(day + 1_000))), (at(day + 1_000), at(0)), "but not if it cannot be right");
    }

    #[test]
    fn it_never_goes_back_and_each_object_of_a_destination_is_later() {
        let times = Times::default();
        assert_eq!(times.next_at(at(7_000_000), &destination("a"), None), at(7_000_000));
        assert_eq!(times.next_at(at(7_000_100), &destination("a"), None), at(7_001_000), "the same millisecond");
        assert_eq!(times.next_at(at(1_000_000), &destination("a"), None), at(7_002_000), "the clock was set back");
        assert_eq!(times.next_at(at(1_000_000), &destination("b"), None), at(1_000_000));
        // A server that is ahead of us concerns its own objects.
        assert_eq!(times.next_at(at(8_000_000), &destination("c"), Some(at(90_000_000))), at(90_001_000));
        assert_eq!(times.next_at(at(8_000_000), &destination("b"), None), at(8_000_000));
        let wrong = at(FUTURE_TOLERANCE.as_micros() as u64 * 2);
        assert_eq!(times.next_at(wrong, &destination("d"), None), wrong);
        assert_eq!(
            times.next_at(at(9_000_000), &destination("d"), None),
            at(9_000_000),
            "the clock was wrong for a moment"
        );
        times.keep_only([destination("a")].iter());
        assert_eq!(times.next_at(at(9_000_000), &destination("c"), None), at(9_000_000));
    }

    #[test]
    fn no_clock_makes_it_panic() {
        let far = UNIX_EPOCH + Duration::from_secs(i64::MAX.unsigned_abs() / 2);
        let before = UNIX_EPOCH - Duration::from_secs(9);
        for (now, newest) in [(before, None), (before, Some(before)), (far, Some(far))] {
            assert!(Times::default().next_at(now, &destination("a"), newest) >= UNIX_EPOCH);
        }
    }
}
