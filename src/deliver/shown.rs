//! What the status learns of the consumer's passes and deliveries.

use std::sync::Arc;

use super::{Deliverer, PassError};
use crate::bucket::Listing;
use crate::model::key::HeldObject;
use crate::model::stage::Stage;
use crate::plan::Cause;
use crate::plan::delivery::report::{DeliveryOutcome, DeliveryReport, Done};
use crate::plan::delivery::{Deliver, DeliverReason, DeliveryPlan};
use crate::plan::outcome::Failure;
use crate::progress::Progress;
use crate::status::metrics::{Count, DeliveryReason};
use crate::status::{
    Arrived, BucketCount, Change, Increments, Known, PassFailure, PassId, PassSummary, Seen, TargetState, TargetStatus,
    TargetTrouble, What, Whole, increments,
};
use crate::text::error_chain;

impl Deliverer {
    pub(super) fn planned(&self, pass: PassId, listing: &Listing, plan: &DeliveryPlan, nothing_listed: bool) {
        let moved = self.busy.moved();
        self.status.seen(pass, |known| {
            // An earlier pass still works on them: what is known of them is newer.
            let kept = moved.iter().filter_map(|destination| known.targets.get(destination)).cloned();
            let records = records(listing, plan, known).into_iter().chain(kept).collect();
            let bucket = BucketCount { objects: listing.held.len(), foreign: listing.foreign.count };
            let whole = Whole { bucket, nothing_listed, budget: None, guard: None };
            Seen { records, actions: plan.deliveries.len(), whole: Some(whole) }
        });
    }

    pub(super) fn delivery_begins(&self, deliver: &Deliver) -> Arc<Progress> {
        self.status.action_begins(deliver.destination().clone(), Stage::Downloading)
    }

    pub(super) fn delivery_ends(&self, pass: PassId, progress: &Arc<Progress>, outcome: &DeliveryOutcome) {
        self.status.action_ends(pass, progress, &change(outcome, progress.stage()));
    }

    pub(super) fn pass_ends(&self, pass: PassId, result: Result<&DeliveryReport, &PassError>) {
        if let Err(PassError::Login(_)) = result {
            self.pauses.refused();
        }
        if result.is_err_and(|error| !matches!(error, PassError::Stopped)) {
            let mut past = self.past.lock();
            past.failed = past.failed.saturating_add(1);
        }
        let failure = |error: &PassError| PassFailure { error: error_chain(error), advice: error.advice() };
        let summary = result.map(|report| PassSummary {
            success: report.is_success(),
            transferred: report.delivered,
            retired: 0,
            troubled: report.blocked.len() + report.failed.len() + report.held.len(),
        });
        self.status.pass_ends(pass, summary.map_err(failure));
    }
}

/// The records of a pass's destinations. What the plan does not say comes from what was known.
fn records(listing: &Listing, plan: &DeliveryPlan, known: &Known<'_>) -> Vec<Arc<TargetStatus>> {
    let increments = increments(&listing.held);
    let record = |object: &HeldObject, state| {
        let destination = &object.name.destination;
        let before = known.targets.get(destination);
        TargetStatus {
            commit: before.and_then(|before| before.commit.clone()),
            origin: before.and_then(|before| before.origin),
            bytes: Some(object.bytes),
            published: Some(object.last_modified),
            waiting: (state != TargetState::InSync).then(|| object.name.commit.clone()),
            increments: increments.get(destination).map_or(0, |increments| increments.count),
            outcomes: known.outcomes(destination, state),
            ..TargetStatus::new(destination, state, known.since(destination, state, Some(object.last_modified)))
        }
    };
    let mut records = vec![];
    let mut add = |target: TargetStatus| {
        // A commit that somebody else has pushed comes from somebody else.
        let before = known.targets.get(&target.destination);
        let origin = target.origin.filter(|_| before.is_some_and(|before| before.commit == target.commit));
        records.push(known.targets.shared(TargetStatus { origin, ..target }));
    };
    for object in &plan.unchanged {
        let commit = Some(object.name.commit.clone());
        add(TargetStatus { commit, ..record(object, TargetState::InSync) });
    }
    // An error of a delivery stays until another delivery succeeds.
    let behind = |object: &HeldObject, pending: String| {
        let before = known.targets.get(&object.name.destination);
        let trouble = before.and_then(|before| before.trouble.clone()).filter(|it| it.cause.is_of_an_action());
        let state = if trouble.is_some() { TargetState::Failing } else { TargetState::Behind };
        TargetStatus { pending: Some(pending), trouble, ..record(object, state) }
    };
    for object in &plan.unsettled {
        add(behind(object, "its objects are just being replaced; the next pass checks again".to_owned()));
    }
    for deliver in &plan.deliveries {
        let commit = deliver.from.map(|commit| commit.to_string());
        add(TargetStatus { commit, ..behind(&deliver.object, deliver.reason.to_string()) });
    }
    for blocked in &plan.blocked {
        let (cause, error) = (blocked.obstacle.cause(), blocked.obstacle.to_string());
        let trouble = Some(TargetTrouble { cause, error, seen: known.now });
        add(TargetStatus { trouble, ..record(&blocked.object, TargetState::Blocked) });
    }
    records
}

/// What a delivery has changed that ended in this stage.
fn change(DeliveryOutcome { deliver, result }: &DeliveryOutcome, at: Stage) -> Change {
    let out_of_sync = |state, cause, stage, error: &String| Change {
        what: What::OutOfSync { state, cause, stage, error: error.clone() },
        ..Change::NONE
    };
    match result {
        // The next pass sees what has superseded it.
        Ok(Done::Superseded) => Change::NONE,
        Ok(Done::Pushed(delivered)) => {
            let reason = match (deliver.reason, deliver.from, delivered.rewritten_from) {
                (_, _, Some(_)) => DeliveryReason::Rewritten,
                (DeliverReason::New | DeliverReason::NoProject, _, None) | (_, None, None) => DeliveryReason::New,
                (DeliverReason::Behind | DeliverReason::Again, Some(_), None) => DeliveryReason::NewCommit,
            };
            let arrived = Arrived {
                commit: deliver.commit.to_string(),
                bytes: deliver.object.bytes,
                published: deliver.object.last_modified,
                increments: Increments::AsBefore,
                origin: Some(delivered.origin),
            };
            Change {
                what: What::InSync(Some(arrived)),
                objects: (0, 0),
                count: Some(Count::Delivered(reason)),
                saved_bytes: 0,
            }
        }
        Err(Failure::Stopped) => Change::NONE,
        Err(Failure::Held { error, .. }) => out_of_sync(TargetState::Blocked, Cause::Diverged, at, error),
        Err(Failure::Failed { cause, stage, error }) => out_of_sync(TargetState::Failing, *cause, *stage, error),
    }
}
