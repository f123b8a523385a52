//! What the programs tell the status, as plain data.
//!
//! Invariant: what a change does not say stays as it was known before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::metrics::Count;
use super::{BucketCount, TargetState, TargetStatus, TargetTrouble};
use crate::model::key::Destination;
use crate::model::stage::Stage;
use crate::plan::{Cause, RetireBudget};

/// What was known when a pass had a plan.
#[derive(Debug)]
pub struct Known<'a> {
    pub now: SystemTime,
    pub targets: &'a BTreeMap<Destination, Arc<TargetStatus>>,
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
}

/// What a pass observed and planned.
#[derive(Debug)]
pub struct Seen {
    /// A record for each target that the pass is about.
    pub records: BTreeMap<Destination, Arc<TargetStatus>>,
    /// How many actions the pass has.
    pub actions: usize,
    /// `None` for a pass for pushes, which leaves other targets' records alone.
    pub whole: Option<Whole>,
}

/// What only a full pass sees.
#[derive(Debug)]
pub struct Whole {
    pub bucket: BucketCount,
    /// How much of what a day may retire is used. The consumer retires nothing.
    pub budget: Option<RetireBudget>,
    /// The retire guard's message, if it held something back.
    pub guard: Option<String>,
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
}

impl Change {
    /// Nothing has changed.
    pub const NONE: Self = Self { what: What::Nothing, objects: (0, 0), count: None, saved_bytes: 0 };

    /// Records it.
    pub(super) fn settle(&self, targets: &mut BTreeMap<Destination, Arc<TargetStatus>>, destination: &Destination) {
        let now = SystemTime::now();
        match &self.what {
            What::Nothing => {}
            What::Removed => drop(targets.remove(destination)),
            What::InSync(arrived) => {
                let Some(target) = targets.get_mut(destination).map(Arc::make_mut) else { return };
                if target.state != TargetState::InSync {
                    (target.state, target.since) = (TargetState::InSync, now);
                }
                (target.pending, target.waiting, target.trouble) = (None, None, None);
                if let Some(Arrived { commit, bytes, published }) = arrived {
                    target.commit = Some(commit.clone());
                    (target.bytes, target.published) = (Some(*bytes), Some(*published));
                }
            }
            What::OutOfSync { state, cause, error, .. } => {
                let target = targets
                    .entry(destination.clone())
                    .or_insert_with(|| Arc::new(TargetStatus::new(destination, TargetState::InSync, now)));
                let target = Arc::make_mut(target);
                if target.state == TargetState::InSync {
                    target.since = now;
                }
                target.state = *state;
                target.trouble = Some(TargetTrouble { cause: *cause, error: error.clone(), seen: now });
            }
        }
    }
}
