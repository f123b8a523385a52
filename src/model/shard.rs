//! Which of several replicas a destination belongs to.
//!
//! Invariant: every replica, on any machine and of any version, gives the same answer, and every destination has exactly
//! one owner. `docs/scaling.md` defines the hash, with test vectors; changing it is a breaking change.

use std::fmt;
use std::num::NonZeroU32;

use sha2::{Digest, Sha256};

use crate::model::key::Destination;

/// One of `SHARD_COUNT` shares of all destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: NonZeroU32,
}

impl Shard {
    /// The only shard: everything.
    pub const WHOLE: Self = Self { index: 0, count: NonZeroU32::MIN };

    /// Shard `index` of `count`, counted from 0; `None` if `index` is too high.
    pub fn new(index: u32, count: NonZeroU32) -> Option<Self> {
        (index < count.get()).then_some(Self { index, count })
    }

    /// Its number, from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        self.count.get()
    }

    /// Whether it is the shard that reports what belongs to no share.
    pub fn is_first(self) -> bool {
        self.index == 0
    }

    /// Whether the destination belongs to this shard.
    pub fn owns(self, destination: &Destination) -> bool {
        self == Self::WHOLE || owner(destination, self.count) == self.index
    }

    /// Removes from the list what belongs to other shards.
    pub fn keep_own<T>(self, list: &mut Vec<T>, destination: impl Fn(&T) -> &Destination) {
        list.retain(|item| self.owns(destination(item)));
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// The shard with the highest score for the destination (rendezvous hashing): an additional shard takes its share evenly
/// from all others, and nothing moves between those.
pub fn owner(destination: &Destination, count: NonZeroU32) -> u32 {
    // By path, not by group and project: two spellings of one place have one owner.
    let place = Sha256::new()
        .chain_update(destination.path())
        .chain_update([0])
        .chain_update(&destination.branch)
        .chain_update([0]);
    let score = |index: u32| {
        let digest: [u8; 32] = place.clone().chain_update(index.to_string()).finalize().into();
        digest.first_chunk().map(|first| u64::from_be_bytes(*first))
    };
    // The lower number wins a tie: `max_by_key` keeps the last of equals.
    (0..count.get()).rev().max_by_key(|index| score(*index)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use proptest::prelude::*;

    fn destination(group: &str, project: &str, branch: &str) -> Destination {
        Destination { group: group.into(), project: project.into(), branch: branch.into() }
    }

    fn count(count: u32) -> NonZeroU32 {
        NonZeroU32::new(count).unwrap()
    }

    /// Destinations as they are in practice: few groups, many projects, hardly any branches.
    fn many(n: u32) -> Vec<Destination> {
        (0..n).map(|n| destination(&format!("mirror/group-{}", n % 7), &format!("project-{n}"), "main")).collect()
    }

    /// `docs/scaling.md` has the same table; `printf 'GROUP/PROJECT\0BRANCH\0INDEX' | sha256sum` gives the scores.
    #[test]
    fn owners_are_as_documented() {
        let document = include_str!("../../docs/scaling.md");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
        let vectors: Vec<_> =
            rows.filter(|row| row.contains("` | `main` |") || row.contains("` | `rel/1` |")).collect();
        assert_eq!(vectors.len(), 4, "{vectors:#?}");
        for row in vectors {
            let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let (group, project) = cells[0].rsplit_once('/').unwrap();
            let found =
                [2, 3, 4, 10].map(|shards| owner(&destination(group, project, cells[1]), count(shards)).to_string());
            assert_eq!(cells[2..6], found, "{row}");
        }
    }

    #[test]
    fn one_shard_owns_everything_and_there_is_no_second() {
        assert_eq!(Shard::new(0, count(1)), Some(Shard::WHOLE));
        assert_eq!(Shard::new(1, count(1)), None);
        assert!(many(100).iter().all(|destination| Shard::WHOLE.owns(destination)));
    }

    #[test]
    fn shares_are_even() {
        for shards in [2, 3, 5, 10] {
            let mut shares = vec![0_u32; usize::try_from(shards).unwrap()];
            for destination in many(10_000) {
                shares[usize::try_from(owner(&destination, count(shards))).unwrap()] += 1;
            }
            // Five standard deviations of a fair choice; the destinations are always the same, and so is the result.
            let fair = 10_000 / shards;
            let slack = 5 * fair.isqrt();
            assert!(shares.iter().all(|share| share.abs_diff(fair) < slack), "{shards}: {shares:?}");
        }
    }

    #[test]
    fn one_more_shard_takes_its_share_and_no_more() {
        let all = many(10_000);
        for shards in 1..10 {
            let moved: Vec<_> = all
                .iter()
                .filter(|destination| owner(destination, count(shards)) != owner(destination, count(shards + 1)))
                .collect();
            assert!(moved.iter().all(|destination| owner(destination, count(shards + 1)) == shards), "{shards}");
            let fair = 10_000 / (shards + 1);
            let moved = u32::try_from(moved.len()).unwrap();
            assert!(moved.abs_diff(fair) < 5 * fair.isqrt(), "{shards}: {moved} of {fair}");
        }
    }

    #[test]
    fn two_spellings_of_one_place_have_one_owner() {
        for shards in 1..20 {
            let (one, other) = (destination("a", "b/c", "main"), destination("a/b", "c", "main"));
            assert_eq!(owner(&one, count(shards)), owner(&other, count(shards)));
        }
    }

    proptest! {
        #[test]
        fn every_destination_has_exactly_one_owner(
            group in "\\PC{1,20}", project in "\\PC{1,20}", branch in "\\PC{1,20}", shards in 1_u32..20
        ) {
            let destination = destination(&group, &project, &branch);
            let owners = (0..shards).filter(|index| Shard::new(*index, count(shards)).unwrap().owns(&destination));
            prop_assert_eq!(owners.count(), 1);
        }

        #[test]
        fn what_moves_goes_to_a_new_shard(project in "\\PC{1,20}", before in 1_u32..12, more in 1_u32..12) {
            let destination = destination("g", &project, "main");
            let (old, new) = (owner(&destination, count(before)), owner(&destination, count(before + more)));
            prop_assert!(new == old || new >= before, "{} → {}", old, new);
        }
    }
}
