//! What the programs tell the status, as plain data.
//!
//! Invariant: what a change does not say stays as it was known before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::metrics::Count;
use super::{BucketCount, Guarded, Outcome, Outcomes, TargetState, TargetStatus, TargetTrouble, Targets};
use crate::model::key::{Destination, HeldObject};
use crate::model::manifest::{KeyId, Origin};
use crate::model::stage::Stage;
use crate::plan::chain::chain;
use crate::plan::{Cause, RetireBudget};

/// What was known when a pass had a plan.
#[derive(Debug)]
pub struct Known<'a> {
    pub now: SystemTime,
    pub targets: &'a Targets,
    /// Since when targets were out of sync when an earlier process ended, until the first full pass has a plan.
    pub remembered: &'a BTreeMap<Destination, SystemTime>,
}

impl Known<'_> {
    /// Since when a target that has this state now has been in sync, or out of sync. One in sync of which nothing is known
    /// has been so since `written`, the time of its object.
    pub fn since(&self, destination: &Destination, state: TargetState, written: Option<SystemTime>) -> SystemTime {
        match (self.targets.get(destination), state) {
            (Some(before), _) if (before.state == TargetState::InSync) == (state == TargetState::InSync) => {
                before.since
            }
            (None, TargetState::InSync) => written.unwrap_or(self.now),
            (None, _) => self.remembered.get(destination).copied().unwrap_or(self.now),
            (Some(_), _) => self.now,
        }
    }

    /// The last outcomes of a target that has this state now.
    pub fn outcomes(&self, destination: &Destination, state: TargetState) -> Outcomes {
        let before = self.targets.get(destination).map(|before| before.outcomes).unwrap_or_default();
        match state {
            TargetState::InSync => before.found(Outcome::InSync),
            TargetState::Blocked => before.found(Outcome::Blocked),
            TargetState::Failing | TargetState::Behind => before,
        }
    }
}

/// The increments of a destination that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldIncrements<'a> {
    pub count: usize,
    /// How much smaller they are than as many objects of the whole one's size, in bytes.
    pub saved_bytes: u64,
    /// The object that brings the destination's commit.
    pub tip: &'a HeldObject,
}

/// The increments of each destination that has any.
pub fn increments(held: &[HeldObject]) -> HashMap<&Destination, HeldIncrements<'_>> {
    let is_increment = |object: &&HeldObject| object.name.content.format().is_none();
    let mut objects: HashMap<&Destination, Vec<&HeldObject>> = HashMap::new();
    for object in held.iter().filter(is_increment) {
        objects.entry(&object.name.destination).or_default().push(object);
    }
    if objects.is_empty() {
        return HashMap::new();
    }
    for whole in held.iter().filter(|object| !is_increment(object)) {
        if let Some(objects) = objects.get_mut(&whole.name.destination) {
            objects.push(whole);
        }
    }
    objects.into_iter().filter_map(|(destination, objects)| Some((destination, counting(&objects)?))).collect()
}

fn counting<'a>(objects: &[&'a HeldObject]) -> Option<HeldIncrements<'a>> {
    let chain = chain(objects).filter(|chain| !chain.increments.is_empty())?;
    let saved = |increment: &&HeldObject| chain.whole.bytes.saturating_sub(increment.bytes);
    let saved_bytes = chain.increments.iter().map(saved).sum();
    Some(HeldIncrements { count: chain.increments.len(), saved_bytes, tip: chain.tip() })
}

/// What the page says of signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signatures {
    /// The producer signs with this key, if with any.
    Made(Option<KeyId>),
    /// The consumer takes what one of these keys has signed. Without any, it takes unsigned objects, too.
    Wanted(Option<Vec<KeyId>>),
}

/// What a pass observed and planned.
#[derive(Debug)]
pub struct Seen {
    /// A record for each target that the pass is about.
    pub records: Targets,
    /// How many actions the pass has.
    pub actions: usize,
    /// `None` for a pass for pushes, which leaves other targets' records alone.
    pub whole: Option<Whole>,
}

/// What only a full pass sees.
#[derive(Debug)]
pub struct Whole {
    pub bucket: BucketCount,
    /// Whether the target list, or the bucket, is empty for all shards.
    pub nothing_listed: bool,
    /// How much of what a day may retire is used. The consumer retires nothing.
    pub budget: Option<RetireBudget>,
    /// The retire guard, if it held something back.
    pub guard: Option<Guarded>,
}

/// Why a pass had no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassFailure {
    pub error: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// The result of a pass that had a plan.
#[derive(Debug, Clone, Copy)]
pub struct PassSummary {
    /// Whether everything is in sync now.
    pub success: bool,
    /// How many targets were published, or delivered.
    pub transferred: usize,
    pub retired: usize,
    /// How many targets are blocked, failed or held back.
    pub troubled: usize,
}

/// What an action has changed.
#[derive(Debug)]
pub struct Change {
    pub what: What,
    /// How many objects came into the bucket, and how many went.
    pub objects: (usize, usize),
    /// What metrics count, apart from a failure.
    pub count: Option<Count>,
    /// How much less was uploaded than for a whole history, in bytes.
    pub saved_bytes: u64,
}

/// How a target is after an action for it.
#[derive(Debug)]
pub enum What {
    /// In sync: with what has arrived, or with what was there.
    InSync(Option<Arrived>),
    /// Not wanted any more, and gone.
    Removed,
    /// Not in sync, because of this.
    OutOfSync { state: TargetState, cause: Cause, stage: Stage, error: String },
    /// As before.
    Nothing,
}

/// What is there now.
#[derive(Debug)]
pub struct Arrived {
    pub commit: String,
    /// Size of the object, and when it was written.
    pub bytes: u64,
    pub published: SystemTime,
    pub increments: Increments,
    /// The consumer: who made it.
    pub origin: Option<Origin>,
}

/// What an action makes of a destination's increments in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Increments {
    /// They stay.
    AsBefore,
    /// None is left: its whole history was uploaded.
    None,
    /// There is one more, and so many are gone.
    OneMore { gone: usize },
}

impl Change {
    /// Nothing has changed.
    pub const NONE: Self = Self { what: What::Nothing, objects: (0, 0), count: None, saved_bytes: 0 };

    /// Records it.
    pub(super) fn settle(&self, targets: &mut Targets, destination: &Destination) {
        let now = SystemTime::now();
        match &self.what {
            What::Nothing => {}
            What::Removed => targets.remove(destination),
            What::InSync(arrived) => {
                let Some(target) = targets.get_mut(destination) else { return };
                if target.state != TargetState::InSync {
                    (target.state, target.since) = (TargetState::InSync, now);
                }
                (target.pending, target.waiting, target.trouble) = (None, None, None);
                match arrived {
                    None => target.outcomes = target.outcomes.found(Outcome::InSync),
                    Some(Arrived { commit, bytes, published, increments, origin }) => {
                        target.commit = Some(commit.clone());
                        (target.bytes, target.published) = (Some(*bytes), Some(*published));
                        target.origin = *origin;
                        target.saved_bytes = target.saved_bytes.saturating_add(self.saved_bytes);
                        target.increments = match increments {
                            Increments::AsBefore => target.increments,
                            Increments::None => 0,
                            Increments::OneMore { gone } => (target.increments + 1).saturating_sub(*gone),
                        };
                        target.outcomes = target.outcomes.with(Outcome::InSync);
                    }
                }
            }
            What::OutOfSync { state, cause, error, .. } => {
                if targets.get(destination).is_none() {
                    targets.insert(Arc::new(TargetStatus::new(destination, TargetState::InSync, now)));
                }
                let Some(target) = targets.get_mut(destination) else { return };
                if target.state == TargetState::InSync {
                    target.since = now;
                }
                target.state = *state;
                target.outcomes = target.outcomes.with(match state {
                    TargetState::Blocked => Outcome::Blocked,
                    TargetState::Failing | TargetState::Behind | TargetState::InSync => Outcome::Failed,
                });
                target.trouble = Some(TargetTrouble { cause: *cause, error: error.clone(), seen: now });
            }
        }
    }
}
