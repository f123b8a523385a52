//! When what was taken last of each destination was published, so that an earlier signed object cannot be played back.
//!
//! Invariant: with trusted keys, a far branch is only replaced by what was not published earlier, and only moves forward by what
//! was not published much earlier. What is about to be pushed counts as taken. Who can write to the bucket can withhold objects, but not turn the far side back.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::model::key::{CommitId, Destination};
use crate::model::manifest::Manifest;
use crate::text::timestamp;

/// The clocks of several producers may differ by this much, as long as the branch moves forward.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// What is published may be ahead of our clock by this much. It bounds for how long a clock that was wrong for a moment keeps
/// later objects from being taken.
pub const FUTURE_TOLERANCE: Duration = Duration::from_secs(24 * 60 * 60);
/// That holds for an object this long. Later, one of an earlier time was put back.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// More destinations are not remembered: those taken longest ago are forgotten first.
const MOST_DESTINATIONS: usize = 200_000;

/// What a push would do to a far branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// The far side has no such branch.
    Creates,
    /// The commit descends from the far branch's.
    Forward,
    /// The far branch's commit, this one, is not in the new commit's history.
    Replaces(CommitId),
}

/// Why a signed object is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untimely {
    /// It was published before what was taken last.
    #[error(
        "it was published at {}, and only what was published after {} is taken: an earlier object was put back into the \
         bucket, or the producer's clock was set back. Find out who can write to the bucket; to send it all the same, publish \
         it again with REPUBLISH on the near side after {}",
        shown(.published), shown(.after), shown(.after)
    )]
    Early {
        /// When it was published.
        published: SystemTime,
        /// When what was taken before was published.
        after: SystemTime,
    },
    /// Nothing is recorded of this destination, and it was not published since the record began.
    #[error(
        "it was published at {}, and what was taken is recorded only since {} in this WORKDIR: an earlier object may have been \
         put back into the bucket. Use the WORKDIR of the consumer that delivered the branch, or publish it again with \
         REPUBLISH on the near side",
        shown(.published), shown(.since)
    )]
    NotRecorded {
        /// When it was published.
        published: SystemTime,
        /// When the record began.
        since: SystemTime,
    },
    /// It was published more than [`FUTURE_TOLERANCE`] ahead of our clock.
    #[error(
        "it was published at {}, which lies in the future: the clock of the producer, of S3 or of this machine ({}) is wrong. \
         Find out which and correct that clock, then publish it again with REPUBLISH on the near side",
        shown(.published), shown(.now)
    )]
    Future {
        /// When it was published.
        published: SystemTime,
        /// The time here.
        now: SystemTime,
    },
}

/// When a signed object may have been published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Not before this, if anything was taken before.
    pub not_before: Option<SystemTime>,
    /// The time here.
    pub now: SystemTime,
}

impl Window {
    /// Whether an object that was published then may be taken.
    ///
    /// # Errors
    /// [`Untimely`].
    pub fn judge(self, published: SystemTime) -> Result<(), Untimely> {
        let Self { not_before, now } = self;
        match not_before {
            _ if published > now + FUTURE_TOLERANCE => Err(Untimely::Future { published, now }),
            Some(after) if published < after => Err(Untimely::Early { published, after }),
            Some(_) | None => Ok(()),
        }
    }
}

fn shown(time: &SystemTime) -> String {
    timestamp(*time).unwrap_or_default()
}

/// The memory itself. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// When the memory began. What was taken before that is not known.
    since: u64,
    destinations: BTreeMap<Destination, u64>,
}

impl Taken {
    /// A memory that begins now.
    pub fn since(now: SystemTime) -> Self {
        Self { since: millis(now), destinations: BTreeMap::new() }
    }

    /// Whether a push may use a chain whose newest manifest this is. Its signature is good. In a chain with increments,
    /// `previous` is what its whole history names: an increment replaces nothing, and names no commit.
    ///
    /// # Errors
    /// [`Untimely`] if an earlier object was put back, or a clock is wrong.
    pub fn allow(&self, manifest: &Manifest, does: Move, now: SystemTime) -> Result<(), Untimely> {
        Window { not_before: None, now }.judge(manifest.published)?;
        let published = millis(manifest.published);
        let taken = self.destinations.get(&manifest.destination).copied();
        let (allowed, after) = match (does, taken) {
            (Move::Creates | Move::Forward, None) => (true, self.since),
            // The same object is taken again after somebody else has moved or removed the far branch.
            (Move::Creates | Move::Replaces(_), Some(taken)) => (published >= taken, taken),
            (Move::Forward, Some(taken)) => {
                let (tolerance, fresh) = (CLOCK_TOLERANCE.as_millis() as u64, FRESH.as_millis() as u64);
                let is_of_another_clock = published + tolerance >= taken && published + fresh >= millis(now);
                (published >= taken || is_of_another_clock, taken)
            }
            // The producer knew that it replaces this commit, or it published after the memory began.
            (Move::Replaces(from), None) => (manifest.previous == Some(from) || published > self.since, self.since),
        };
        let (published, after) = (time(published), time(after));
        match (allowed, taken) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err(Untimely::Early { published, after }),
            (false, None) => Err(Untimely::NotRecorded { published, since: after }),
        }
    }

    /// When an object that creates this destination's branch may have been published.
    pub fn window(&self, destination: &Destination, now: SystemTime) -> Window {
        let taken = self.destinations.get(destination);
        Window { not_before: taken.map(|published| time(*published)), now }
    }

    /// How many destinations are remembered.
    pub fn remembered(&self) -> usize {
        self.destinations.len()
    }

    /// The same memory. If it says that it began after this, a clock was wrong, and it begins now.
    #[must_use]
    pub fn begun_by(self, now: SystemTime) -> Self {
        Self { since: self.since.min(millis(now)), ..self }
    }

    /// What was published then was taken.
    pub fn note(&mut self, of: &Destination, published: SystemTime) {
        if self.destinations.len() >= MOST_DESTINATIONS && !self.destinations.contains_key(of) {
            let oldest = self.destinations.iter().min_by_key(|(_, published)| **published);
            if let Some((oldest, published)) = oldest.map(|(destination, published)| (destination.clone(), *published))
            {
                self.destinations.remove(&oldest);
                // What replaces its branch has to be published later still.
                self.since = self.since.max(published);
            }
        }
        let taken = self.destinations.entry(of.clone()).or_default();
        *taken = millis(published).max(*taken);
    }

    /// For a file.
    pub fn kept(&self) -> KeptTaken {
        let kept = |(destination, published): (&Destination, &u64)| KeptTakenOf {
            destination: destination.clone(),
            published_ms: *published,
        };
        KeptTaken { since_ms: self.since, destinations: self.destinations.iter().map(kept).collect() }
    }
}

impl From<KeptTaken> for Taken {
    fn from(kept: KeptTaken) -> Self {
        let of = |kept: KeptTakenOf| (kept.destination, kept.published_ms);
        Self { since: kept.since_ms, destinations: kept.destinations.into_iter().map(of).collect() }
    }
}

/// The memory in a file.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptTaken {
    since_ms: u64,
    destinations: Vec<KeptTakenOf>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptTakenOf {
    #[serde(flatten)]
    destination: Destination,
    published_ms: u64,
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use Move::{Creates, Forward, Replaces};

    fn commit(number: u8) -> CommitId {
        CommitId::from_bytes([number; 20])
    }

    /// Published so many seconds after the memory began.
    fn manifest(after: i64, previous: Option<u8>) -> Manifest {
        Manifest {
            destination: Destination { group: "far".into(), project: "p".into(), branch: "main".into() },
            commit: commit(2),
            base: None,
            previous: previous.map(commit),
            published: time(began().checked_add_signed(after * 1_000).unwrap()),
        }
    }

    fn began() -> u64 {
        1_800_000_000_000
    }

    fn note(taken: &mut Taken, Manifest { destination, published, .. }: &Manifest) {
        taken.note(destination, *published);
    }

    fn allowed(taken: &Taken, after: i64, does: Move) -> bool {
        taken.allow(&manifest(after, Some(7)), does, time(began())).is_ok()
    }

    #[test]
    fn nothing_earlier_replaces_what_was_taken() {
        let mut taken = Taken::since(time(began()));
        note(&mut taken, &manifest(100, None));
        let cases = [
            (Creates, [(100, true), (99, false), (101, true)]),
            (Forward, [(100, true), (40, true), (39, false)]),
            (Replaces(commit(1)), [(101, true), (100, true), (99, false)]),
            (Replaces(commit(7)), [(101, true), (100, true), (99, false)]),
        ];
        for (does, times) in cases {
            for (after, expected) in times {
                assert_eq!(allowed(&taken, after, does), expected, "{does:?} at {after}");
            }
        }
        let refused = taken.allow(&manifest(1, None), Creates, time(began())).unwrap_err().to_string();
        assert!(refused.contains("REPUBLISH") && refused.contains("2027-01-15"), "{refused}");
        // Another clock is no reason any more.
        let later = |after, now: u64| taken.allow(&manifest(after, None), Forward, time(began() + now * 1_000)).is_ok();
        assert!(later(40, 3_640) && !later(40, 3_641) && later(100, 10_000));
    }

    #[test]
    fn without_a_record_only_a_replacement_needs_proof() {
        let taken = Taken::since(time(began()));
        assert!(allowed(&taken, -1_000, Creates) && allowed(&taken, -1_000, Forward));
        assert!(!allowed(&taken, -1_000, Replaces(commit(1))) && !allowed(&taken, 0, Replaces(commit(1))));
        assert!(allowed(&taken, 1, Replaces(commit(1))), "published since");
        assert!(allowed(&taken, -1_000, Replaces(commit(7))), "the producer knew what it replaces");
    }

    #[test]
    fn what_lies_in_the_future_is_not_taken_whatever_it_does() {
        let (taken, day) = (Taken::since(time(began())), FUTURE_TOLERANCE.as_secs() as i64);
        for does in [Creates, Forward, Replaces(commit(1)), Replaces(commit(7))] {
            assert!(allowed(&taken, day, does) && !allowed(&taken, day + 1, does), "{does:?}");
        }
        let refused = taken.allow(&manifest(day + 1, None), Creates, time(began())).unwrap_err().to_string();
        assert!(refused.contains("correct that clock") && refused.contains("REPUBLISH"), "{refused}");
        assert_eq!(taken.clone().begun_by(time(0)), Taken::since(time(0)), "a record of the future begins now");
        assert_eq!(taken.clone().begun_by(time(began() + 1)), taken);
    }

    /// Moves forward are taken a little late; that makes room for nothing else.
    #[test]
    fn what_was_taken_a_little_late_is_not_the_newest() {
        let mut taken = Taken::since(time(began()));
        note(&mut taken, &manifest(100, None));
        assert!(allowed(&taken, 50, Forward));
        note(&mut taken, &manifest(50, None));
        assert!(!allowed(&taken, 60, Replaces(commit(1))) && !allowed(&taken, 0, Forward));
    }

    #[test]
    fn it_is_kept_and_bounded() {
        let mut taken = Taken::since(time(began()));
        note(&mut taken, &manifest(5, None));
        let kept = serde_json::to_string(&taken.kept()).unwrap();
        assert_eq!(Taken::from(serde_json::from_str::<KeptTaken>(&kept).unwrap()), taken);
        let other = |n: usize| Manifest {
            destination: Destination { group: "far".into(), project: format!("q{n}"), branch: "main".into() },
            ..manifest(10, None)
        };
        (0..MOST_DESTINATIONS).for_each(|n| note(&mut taken, &other(n)));
        assert_eq!(taken.destinations.len(), MOST_DESTINATIONS);
        let forgotten = manifest(5, None);
        assert!(!taken.destinations.contains_key(&forgotten.destination), "the oldest was forgotten");
        assert!(taken.allow(&forgotten, Replaces(commit(1)), time(began())).is_err(), "and replaces nothing again");
    }
}
