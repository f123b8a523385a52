//! Outcomes of deliveries, and the summary of a pass, as plain data.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{Deliver, DeliveryPlan};
use crate::model::key::CommitId;
use crate::model::manifest::Origin;
use crate::plan::outcome::{Failure, Rewrite};
use crate::plan::report::{Rewritten, Trouble};

/// The result of a delivery.
#[derive(Debug)]
pub struct DeliveryOutcome {
    /// The delivery.
    pub deliver: Deliver,
    /// How it ended.
    pub result: Result<Done, Failure>,
}

/// How a delivery ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It was pushed.
    Pushed(Delivered),
    /// Its object is gone since it was listed: the producer has superseded it. The next pass takes the new one.
    Superseded,
}

/// What was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// The far head that this commit does not descend from.
    pub rewritten_from: Option<CommitId>,
    /// The size of the pushed pack in bytes.
    pub pushed_bytes: u64,
    /// Who made the object.
    pub origin: Origin,
    /// When the object was published, if a trusted key has signed that.
    pub published: Option<SystemTime>,
    /// How long it took.
    pub took: Duration,
}

/// What one pass did; `docs/contract.md` describes its JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DeliveryReport {
    /// How many destinations were pushed.
    pub delivered: usize,
    /// How many were in sync already.
    pub unchanged: usize,
    /// How many are left to the next pass, because their objects were just being replaced.
    pub superseded: usize,
    /// Destinations that nothing could be done for.
    pub blocked: Vec<Trouble>,
    /// Deliveries that failed.
    pub failed: Vec<Trouble>,
    /// Destinations that `ON_REWRITE` holds.
    pub held: Vec<Rewritten>,
    /// Pushed branches that do not descend from where the far branch was.
    pub rewritten: Vec<Rewritten>,
    /// Objects whose names do not decode.
    pub foreign: usize,
    /// Bytes of the objects that were delivered.
    pub downloaded_bytes: u64,
    /// Bytes of the packs that were pushed.
    pub pushed_bytes: u64,
    /// How long the pass took.
    pub seconds: f64,
}

impl DeliveryReport {
    /// The summary of a plan and its outcomes.
    pub fn new(plan: &DeliveryPlan, outcomes: &[DeliveryOutcome], foreign: usize, took: Duration) -> Self {
        let blocked = plan
            .blocked
            .iter()
            .map(|it| Trouble { destination: it.destination().clone(), reason: it.obstacle.to_string() });
        let (unchanged, superseded) = (plan.unchanged.len(), plan.unsettled.len());
        let mut report = Self { unchanged, superseded, blocked: blocked.collect(), foreign, ..Self::default() };
        report.add(outcomes, took);
        report
    }

    /// Adds the outcomes of deliveries, and sets how long the pass took.
    pub fn add(&mut self, outcomes: &[DeliveryOutcome], took: Duration) {
        self.seconds = took.as_secs_f64();
        for DeliveryOutcome { deliver, result } in outcomes {
            let destination = deliver.destination().clone();
            match result {
                Ok(Done::Superseded) => self.superseded += 1,
                Ok(Done::Pushed(delivered)) => {
                    self.delivered += 1;
                    self.downloaded_bytes += deliver.download_bytes();
                    self.pushed_bytes += delivered.pushed_bytes;
                    if let Some(old_commit) = delivered.rewritten_from {
                        self.rewritten.push(Rewritten { destination, old_commit, commit: deliver.commit });
                    }
                }
                Err(Failure::Held { rewrite: Rewrite { from, to }, .. }) => {
                    self.held.push(Rewritten { destination, old_commit: *from, commit: *to });
                }
                Err(Failure::Failed { error, .. }) => {
                    self.failed.push(Trouble { destination, reason: error.clone() });
                }
                Err(Failure::Stopped) => {
                    self.failed.push(Trouble { destination, reason: "stopped".to_owned() });
                }
            }
        }
    }

    /// The summary of this pass and of the one after it.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            delivered: self.delivered + next.delivered,
            unchanged: next.unchanged.saturating_sub(self.delivered),
            rewritten: [self.rewritten, next.rewritten].concat(),
            downloaded_bytes: self.downloaded_bytes + next.downloaded_bytes,
            pushed_bytes: self.pushed_bytes + next.pushed_bytes,
            seconds: self.seconds + next.seconds,
            ..next
        }
    }

    /// Whether everything that was listed is in sync now.
    pub fn is_success(&self) -> bool {
        let Self { blocked, failed, held, .. } = self;
        blocked.is_empty() && failed.is_empty() && held.is_empty()
    }
}
