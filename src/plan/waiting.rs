//! Retirements that wait: a destination that no target names may be one that a target in trouble means, or the old name of
//! one that is not in the bucket yet.
//!
//! Invariant: a target in trouble keeps whatever it could mean, and a renamed destination stays until its successor is up.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use super::memory::{Memory, mark};
use super::{Blocked, Desired, Elsewhere};
use crate::model::key::{Destination, HeldObject, folded_path};
use crate::model::target::{Head, Target};

/// A destination that no target names and that is not retired yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRetirement {
    /// The destination.
    pub destination: Destination,
    /// How many objects it has.
    pub objects: usize,
    /// Why it stays.
    pub reason: HoldReason,
}

/// Why a destination stays that no target names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldReason {
    /// This target could mean it, and is refused or cannot be read.
    Trouble(Destination),
    /// This target could replace it, and has no object yet.
    Replacement(Destination),
}

impl HoldReason {
    /// Whether it stays until somebody corrects a target; else only until an upload has succeeded.
    pub fn is_trouble(&self) -> bool {
        matches!(self, Self::Trouble(_))
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trouble(target) => {
                write!(f, "not retired: the target for {target}, which is refused or cannot be read, could mean it")
            }
            Self::Replacement(target) => {
                write!(f, "not retired yet: {target}, which could replace it, is not in the bucket yet")
            }
        }
    }
}

/// A path without what people and GitLab overlook: spaces and slashes too many, and case.
pub(super) fn folded(path: &str) -> String {
    let segments: Vec<_> = path.split('/').map(str::trim).filter(|segment| !segment.is_empty()).collect();
    folded_path(&segments.join("/"))
}

/// A project's own name without what may have gone wrong with it or the path before it: letters and digits of the last
/// segment that has any, without `.git`. `None` if there are none.
fn bare_name(path: &str) -> Option<String> {
    let path = folded_path(path);
    let segments = path.rsplit(['/', '\\', ':']).map(|segment| segment.trim().trim_end_matches(".git"));
    let mut names = segments.map(|segment| segment.chars().filter(|c| c.is_alphanumeric()).collect::<String>());
    names.find(|name| !name.is_empty())
}

/// A destination folded in the same way; branches keep their case.
fn place(destination: &Destination) -> (String, String) {
    let branch = destination.branch.trim_matches(|c: char| c.is_whitespace() || c == '/');
    (folded(&destination.path()), branch.to_owned())
}

/// The targets that a destination without a target could belong to. For each mark of such a destination, one of them:
/// first those in trouble, then by name.
pub(super) struct Claimants<'a> {
    memory: &'a Memory,
    /// Of targets in trouble alone: they keep this place even if they have an object of their own.
    places: HashMap<(String, String), HoldReason>,
    /// The others are marks of targets without an object.
    projects: HashMap<String, HoldReason>,
    sources: HashMap<u64, HoldReason>,
    commits: HashMap<String, HoldReason>,
    /// Of those in trouble without an object, the [`bare_name`]s of source and destination. They count only if it is not
    /// known where a destination comes from.
    names: HashMap<String, HoldReason>,
}

impl<'a> Claimants<'a> {
    pub(super) fn new(
        desired: &Desired,
        elsewhere: &Elsewhere,
        held: &HashSet<&Destination>,
        blocked: &[Blocked],
        memory: &'a Memory,
    ) -> Self {
        let blocked: BTreeSet<_> = blocked.iter().map(|blocked| &blocked.destination).collect();
        let refused = desired.refused.iter().chain(&elsewhere.refused).map(|refused| (false, &refused.target, None));
        let accepted = desired.targets.iter().map(|(target, head)| {
            let waits = !blocked.contains(&target.destination);
            (waits, target, Some(head))
        });
        let unpublished = elsewhere.unpublished.iter().map(|target| (true, target, None));
        let mut targets: Vec<(bool, &Target, Option<&Head>)> = refused.chain(accepted).chain(unpublished).collect();
        targets.retain(|(waits, target, _)| !waits || !held.contains(&target.destination));
        targets.sort_by_key(|(waits, target, _)| (*waits, *target));

        let (places, projects, sources, commits, names) = Default::default();
        let mut claimants = Self { memory, places, projects, sources, commits, names };
        for (waits, target, head) in targets {
            claimants.add(waits, target, head, held.contains(&target.destination));
        }
        claimants
    }

    fn add(&mut self, waits: bool, target: &Target, head: Option<&Head>, has_object: bool) {
        let destination = target.destination.clone();
        let reason = if waits { HoldReason::Replacement(destination) } else { HoldReason::Trouble(destination) };
        let place = place(&target.destination);
        if !has_object {
            self.projects.entry(place.0.clone()).or_insert_with(|| reason.clone());
            self.sources.entry(mark(&target.source)).or_insert_with(|| reason.clone());
            if let Some(Head::At(commit)) = head {
                self.commits.entry(commit.to_string()).or_insert_with(|| reason.clone());
            }
            if !waits {
                for name in
                    [&target.destination.path(), &target.source.project].into_iter().filter_map(|it| bare_name(it))
                {
                    self.names.entry(name).or_insert_with(|| reason.clone());
                }
            }
        }
        if !waits {
            self.places.entry(place).or_insert(reason);
        }
    }

    /// Why the destination with these objects must stay, if it must.
    pub(super) fn keep(&self, destination: &Destination, objects: &[&HeldObject]) -> Option<HoldReason> {
        let place = place(destination);
        let reasons = [
            self.places.get(&place),
            self.projects.get(&place.0),
            match self.memory.source_of(destination) {
                Some(source) => self.sources.get(&source),
                None => bare_name(&destination.project).and_then(|name| self.names.get(&name)),
            },
            objects.last().and_then(|newest| self.commits.get(&newest.name.commit)),
        ];
        let mut reasons: Vec<_> = reasons.into_iter().flatten().collect();
        reasons.sort_by_key(|reason| !reason.is_trouble());
        reasons.first().copied().cloned()
    }
}
