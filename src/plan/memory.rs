//! What passes remember of earlier ones, so that retirements add up over a day and a renamed destination is recognised.
//!
//! Invariant: no decision to delete rests on it. A memory that was lost only makes the guard count from now on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::waiting::folded;
use crate::model::key::Destination;
use crate::model::target::{Source, Target};

/// How long what was retired counts, in hours.
pub const WINDOW_HOURS: u64 = 24;
const WINDOW: Duration = Duration::from_secs(WINDOW_HOURS * 3_600);
/// What happens within this time is one entry of the memory.
const PERIOD: Duration = Duration::from_secs(900);
/// As many entries as fit the window.
const MOST_PERIODS: usize = (WINDOW.as_secs() / PERIOD.as_secs()) as usize + 2;

/// The retire guard's facts about the last 24 hours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuardBudget {
    /// The most destinations held at any time.
    pub most_held: usize,
    /// How many destinations were retired.
    pub retired_before: usize,
    /// The fewest apps of the target list without a list of components; `None` if no earlier pass is known.
    pub fewest_unlisted: Option<usize>,
}

/// The memory itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The oldest first.
    #[serde(default)]
    periods: Vec<Period>,
    /// For each destination the source project it was last published from. Both are hashes: there can be many.
    #[serde(default)]
    sources: BTreeMap<u64, u64>,
    /// Destinations whose retirement was counted by the last pass, as hashes: no later pass has seen that they are gone.
    #[serde(default)]
    unconfirmed: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Period {
    /// In seconds since 1970.
    began: u64,
    most_held: usize,
    retired: usize,
    fewest_unlisted: Option<usize>,
}

impl Period {
    /// When it began; at the latest now, so that a clock that was set back keeps nothing for longer than the window.
    fn began(&self, now: u64) -> u64 {
        self.began.min(now)
    }

    fn counts(&self, now: u64) -> bool {
        self.began(now) + PERIOD.as_secs() + WINDOW.as_secs() > now
    }
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Memory {
    /// What counts at this time.
    pub fn budget(&self, now: SystemTime) -> GuardBudget {
        let now = seconds(now);
        let mut budget = GuardBudget::default();
        for period in self.periods.iter().filter(|period| period.counts(now)) {
            budget.most_held = budget.most_held.max(period.most_held);
            budget.retired_before = budget.retired_before.saturating_add(period.retired);
            budget.fewest_unlisted = fewer(budget.fewest_unlisted, period.fewest_unlisted);
        }
        budget
    }

    /// A pass holds this many destinations and is about to retire some of them. They count before they are deleted, so
    /// that a process that is killed meanwhile has counted them; [`Self::confirm`] takes back what did not happen.
    /// `unlisted_apps` is `None` if the list is in doubt.
    pub fn count<'a>(
        &mut self,
        now: SystemTime,
        held: usize,
        retiring: impl Iterator<Item = &'a Destination>,
        unlisted_apps: Option<usize>,
    ) {
        self.unconfirmed = retiring.map(mark_of).collect();
        let retiring = self.unconfirmed.len();
        let now = seconds(now);
        self.periods.retain(|period| period.counts(now));
        for period in &mut self.periods {
            period.began = period.began(now);
        }
        match self.periods.last_mut() {
            Some(last) if last.began + PERIOD.as_secs() > now => {
                last.most_held = last.most_held.max(held);
                last.retired = last.retired.saturating_add(retiring);
                last.fewest_unlisted = fewer(last.fewest_unlisted, unlisted_apps);
            }
            _ => self.periods.push(Period {
                began: now,
                most_held: held,
                retired: retiring,
                fewest_unlisted: unlisted_apps,
            }),
        }
        let surplus = self.periods.len().saturating_sub(MOST_PERIODS);
        self.periods.drain(..surplus);
    }

    /// Takes back the retirements that the last pass counted and that did not happen: these destinations are still held.
    pub fn confirm<'a>(&mut self, held: impl Iterator<Item = &'a Destination>) {
        let unconfirmed = std::mem::take(&mut self.unconfirmed);
        if unconfirmed.is_empty() {
            return;
        }
        let still_held: BTreeSet<_> = held.map(mark_of).filter(|mark| unconfirmed.contains(mark)).collect();
        if let Some(last) = self.periods.last_mut() {
            last.retired = last.retired.saturating_sub(still_held.len());
        }
    }

    /// Notes where destinations come from. Of those that no target names, only the ones still held are remembered.
    pub fn learn<'a>(
        &mut self,
        targets: impl Iterator<Item = &'a Target>,
        held: impl Iterator<Item = &'a Destination>,
    ) {
        let mut sources: BTreeMap<u64, u64> =
            targets.map(|target| (mark_of(&target.destination), mark(&target.source))).collect();
        for destination in held.map(mark_of) {
            if let Some(source) = self.sources.get(&destination) {
                sources.entry(destination).or_insert(*source);
            }
        }
        self.sources = sources;
    }

    /// The [`mark`] of the source project that the destination was last published from.
    pub(super) fn source_of(&self, destination: &Destination) -> Option<u64> {
        self.sources.get(&mark_of(destination)).copied()
    }
}

/// The smaller of those that are known.
fn fewer(one: Option<usize>, other: Option<usize>) -> Option<usize> {
    one.into_iter().chain(other).min()
}

/// Stands for a source project, however it is spelled.
pub(super) fn mark(source: &Source) -> u64 {
    first_bytes(&[&folded(&source.project)])
}

fn mark_of(destination: &Destination) -> u64 {
    first_bytes(&[&destination.group, &destination.project, &destination.branch])
}

fn first_bytes(parts: &[&str]) -> u64 {
    let hash = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part).chain_update([0]));
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use proptest::prelude::*;

    fn at(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000 + hours * 3_600)
    }

    /// So many destinations.
    fn some(count: usize) -> Vec<Destination> {
        let numbered = |n| Destination { group: "far".into(), project: format!("p{n}"), branch: "main".into() };
        (0..count).map(numbered).collect()
    }

    #[test]
    fn what_was_retired_counts_for_a_day() {
        let mut memory = Memory::default();
        memory.count(at(0), 200, some(40).iter(), Some(3));
        memory.count(at(1), 160, some(10).iter(), None);
        assert_eq!((memory.budget(at(2)).most_held, memory.budget(at(2)).retired_before), (200, 50));
        assert_eq!((memory.budget(at(25)).most_held, memory.budget(at(25)).retired_before), (160, 10));
        assert_eq!(memory.budget(at(2)).fewest_unlisted, Some(3));
        assert_eq!(memory.budget(at(27)), GuardBudget::default());
    }

    #[test]
    fn what_was_not_retired_after_all_does_not_count() {
        let mut memory = Memory::default();
        let all = some(40);
        memory.count(at(0), 200, all.iter(), Some(3));
        memory.confirm(all[..15].iter().chain(&some(200)[40..]));
        assert_eq!(memory.budget(at(0)).retired_before, 25);
        memory.confirm(all.iter());
        assert_eq!(memory.budget(at(0)).retired_before, 25, "what was gone once may come back");
    }

    #[test]
    fn a_clock_set_back_keeps_nothing_for_longer_than_a_day_from_then() {
        let mut memory = Memory::default();
        memory.count(at(1_000), 200, some(40).iter(), Some(3));
        assert_eq!(memory.budget(at(0)).retired_before, 40);
        memory.count(at(0), 160, some(0).iter(), Some(3));
        assert_eq!(memory.budget(at(23)).retired_before, 40);
        assert_eq!(memory.budget(at(26)).retired_before, 0);
    }

    #[test]
    fn a_destination_s_source_is_known_as_long_as_it_is_held() {
        let target = |name: &str| Target {
            source: Source { project: format!("near/{name}"), branch: "main".into() },
            destination: Destination { group: "far".into(), project: name.into(), branch: "main".into() },
        };
        let (a, b) = (target("a"), target("b"));
        let mut memory = Memory::default();
        memory.learn([&a, &b].into_iter(), [].into_iter());
        memory.learn([&b].into_iter(), [&a.destination].into_iter());
        assert_eq!(memory.source_of(&a.destination), Some(mark(&a.source)));
        let kept = serde_json::to_string(&memory).unwrap();
        assert_eq!(serde_json::from_str::<Memory>(&kept).unwrap(), memory);
        memory.learn([&b].into_iter(), [].into_iter());
        assert_eq!(memory.source_of(&a.destination), None);
    }

    proptest! {
        #[test]
        fn it_stays_small_and_counts_each_retirement_once(steps in proptest::collection::vec((0_u64..9_000, 0_usize..5), 1..300)) {
            let (mut memory, mut now, mut all) = (Memory::default(), at(0), vec![]);
            for (wait, retired) in steps {
                now += Duration::from_secs(wait);
                memory.count(now, 10, some(retired).iter(), Some(3));
                all.push((now, retired));
                prop_assert!(memory.periods.len() <= MOST_PERIODS);
                let within = |window: Duration| -> usize {
                    all.iter().filter(|(then, _)| *then + window > now).map(|(_, retired)| retired).sum()
                };
                let counted = memory.budget(now).retired_before;
                prop_assert!(within(WINDOW) <= counted && counted <= within(WINDOW + PERIOD));
            }
        }
    }
}
