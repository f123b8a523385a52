//! The summary of a pass.

use std::time::Duration;

use serde::Serialize;

use super::outcome::{Done, Failure, Outcome, Rewrite};
use super::{HeldRetirement, Plan};
use crate::model::key::{CommitId, Destination};
use crate::plan::Action;

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Destinations with a new object.
    pub published: usize,
    /// Destinations whose objects were deleted because no target names them.
    pub retired: usize,
    /// Destinations whose outdated objects were deleted.
    pub swept: usize,
    /// Targets that were in sync already.
    pub unchanged: usize,
    /// Targets that could not be acted on, and why.
    pub blocked: Vec<Trouble>,
    /// Actions that failed, and why.
    pub failed: Vec<Trouble>,
    /// Destinations whose object was uploaded before this pass and is not in its listing.
    pub lost: Vec<Trouble>,
    /// Rewritten branches that were published.
    pub rewritten: Vec<Rewritten>,
    /// Rewritten branches that were held: what is published of them stays.
    pub held: Vec<Rewritten>,
    /// Published commits that use Git LFS.
    pub lfs: Vec<LfsUse>,
    /// Objects whose names do not decode.
    pub foreign: usize,
    /// Bytes of all objects uploaded.
    pub uploaded_bytes: u64,
    /// How many of the published objects are increments.
    pub increments: usize,
    /// Bytes that those were smaller than the whole objects that they are on top of.
    pub saved_bytes: u64,
    /// The retire guard's message, if it held something back.
    pub retire_guard: Option<String>,
    /// Destinations that no target names, but that stay for now, and why.
    pub held_retirements: Vec<Waiting>,
    /// How many destinations were retired within 24 hours, this pass included.
    pub retired_24h: usize,
    /// How many that may be; `None` if all of them.
    pub retire_limit_24h: Option<usize>,
    /// How long the pass took, in seconds.
    pub seconds: f64,
}

/// A destination that is not in sync.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trouble {
    /// The destination.
    #[serde(flatten)]
    pub destination: Destination,
    /// Why, in words.
    pub reason: String,
}

/// A destination that is not retired yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waiting {
    /// The destination.
    #[serde(flatten)]
    pub destination: Destination,
    /// How many objects it has.
    pub objects: usize,
    /// Why, in words.
    pub reason: String,
}

impl Waiting {
    /// All of a plan.
    pub fn all(plan: &Plan) -> Vec<Self> {
        let waiting = |held: &HeldRetirement| Self {
            destination: held.destination.clone(),
            objects: held.objects,
            reason: held.reason.to_string(),
        };
        plan.held_retirements.iter().map(waiting).collect()
    }
}

/// A branch whose head does not descend from the published commit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rewritten {
    /// The destination.
    #[serde(flatten)]
    pub destination: Destination,
    /// What was published before the branch was rewritten.
    pub old_commit: CommitId,
    /// The head.
    pub commit: CommitId,
}

/// A published commit with Git LFS content, which is not transferred.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LfsUse {
    /// The destination.
    #[serde(flatten)]
    pub destination: Destination,
    /// The commit.
    pub commit: CommitId,
    /// How many of its paths are Git LFS pointers.
    pub paths: usize,
}

impl Report {
    /// The summary of a plan and its outcomes.
    pub fn new(plan: &Plan, outcomes: &[Outcome], foreign: usize, took: Duration) -> Self {
        let blocked = plan
            .blocked
            .iter()
            .map(|blocked| Trouble { destination: blocked.destination.clone(), reason: blocked.blocker.to_string() });
        let mut report = Self {
            unchanged: plan.unchanged.len(),
            blocked: blocked.collect(),
            foreign,
            retire_guard: plan.guard.map(|guard| guard.to_string()),
            held_retirements: Waiting::all(plan),
            retired_24h: plan.budget.retired,
            retire_limit_24h: plan.budget.limit,
            seconds: took.as_secs_f64(),
            ..Self::default()
        };
        report.add(outcomes, took);
        report
    }

    /// Adds the outcomes of actions that ended later, and sets how long the pass took.
    pub fn add(&mut self, outcomes: &[Outcome], took: Duration) {
        let report = self;
        report.seconds = took.as_secs_f64();
        for Outcome { action, result } in outcomes {
            let destination = action.destination().clone();
            if matches!((action, result), (Action::Retire(_), Err(_))) {
                report.retired_24h = report.retired_24h.saturating_sub(1);
            }
            match (action, result) {
                (_, Ok(Done::Published(published))) => {
                    report.published += 1;
                    report.uploaded_bytes += published.bytes;
                    report.increments += usize::from(published.base.is_some());
                    report.saved_bytes += published.saved_bytes;
                    let (commit, paths) = (published.commit, published.lfs_paths);
                    if let Some(old_commit) = published.rewritten_from {
                        report.rewritten.push(Rewritten { destination: destination.clone(), old_commit, commit });
                    }
                    if paths > 0 {
                        report.lfs.push(LfsUse { destination, commit, paths });
                    }
                }
                (Action::Retire(_), Ok(Done::Deleted)) => report.retired += 1,
                (Action::Sweep(_) | Action::Publish(_), Ok(Done::Deleted)) => report.swept += 1,
                (_, Err(Failure::Held { rewrite: Rewrite { from, to }, .. })) => {
                    report.held.push(Rewritten { destination, old_commit: *from, commit: *to });
                }
                (_, Err(Failure::Failed { error, .. })) => {
                    report.failed.push(Trouble { destination, reason: error.clone() });
                }
                (_, Err(Failure::Stopped)) => {
                    report.failed.push(Trouble { destination, reason: "stopped".to_owned() });
                }
            }
        }
    }

    /// Whether everything is in sync now.
    pub fn is_success(&self) -> bool {
        let Self { blocked, failed, lost, held, .. } = self;
        let listed = [blocked.len(), failed.len(), lost.len(), held.len()];
        listed.iter().all(|count| *count == 0) && self.retire_guard.is_none()
    }
}
