//! What a pass writes to the log: one line for each blocked destination, for each delivery, and for the pass. Of many with
//! an equal reason, only a few are named.

use std::collections::BTreeMap;
use std::time::Duration;

use super::PassError;
use crate::model::key::Destination;
use crate::model::program::Program;
use crate::passes::log::{Failures, NAMED};
use crate::plan::delivery::report::{DeliveryOutcome, DeliveryReport};
use crate::plan::delivery::{DeliveryPlan, Undeliverable};
use crate::plan::outcome::Failure;
use crate::text::{error_chain, printable};

pub(super) fn blocked(plan: &DeliveryPlan) {
    let mut alike: BTreeMap<String, Vec<&Undeliverable>> = BTreeMap::new();
    for blocked in &plan.blocked {
        alike.entry(blocked.obstacle.to_string()).or_default().push(blocked);
    }
    for (reason, alike) in alike {
        let (reason, advice) = (printable(&reason), alike[0].obstacle.cause().advice(Program::Consumer));
        if alike.len() <= NAMED {
            for blocked in alike {
                let Destination { group, project, branch } = blocked.destination();
                let name = printable(&blocked.destination().to_string());
                tracing::error!(group, project, branch, %reason, advice, "blocked: {name}");
            }
            continue;
        }
        let names: Vec<_> = alike.iter().take(NAMED).map(|it| printable(&it.destination().to_string())).collect();
        let (count, examples) = (alike.len(), names.join(", "));
        tracing::error!(count, examples, %reason, advice, "blocked: {count} targets for the same reason, such as {examples}");
    }
}

/// One line for each delivery.
pub(super) fn outcome(DeliveryOutcome { deliver, result }: &DeliveryOutcome, failures: &Failures) {
    let Destination { group, project, branch } = deliver.destination();
    let name = printable(&deliver.destination().to_string());
    match result {
        Ok(delivered) => {
            tracing::info!(
                group, project, branch,
                commit = %deliver.commit,
                bytes = delivered.pushed_bytes,
                seconds = delivered.took.as_secs_f64(),
                reason = %deliver.reason,
                "delivered {name}"
            );
            if let Some(old_commit) = delivered.rewritten_from {
                tracing::warn!(
                    group, project, branch, %old_commit, commit = %deliver.commit,
                    "replaced: {name} does not descend from what the far branch was at"
                );
            }
        }
        Err(Failure::Stopped) => tracing::info!(group, project, branch, "stopped before {name} was done"),
        Err(Failure::Held { rewrite, error }) => {
            tracing::warn!(group, project, branch, old_commit = %rewrite.from, commit = %rewrite.to, reason = error, "held: {name}");
        }
        Err(Failure::Failed { cause, error, .. }) if failures.is_named(error.clone()) => {
            let advice = cause.advice(Program::Consumer);
            tracing::error!(group, project, branch, error, advice, "failed: {name}");
        }
        Err(Failure::Failed { .. }) => {}
    }
}

/// One line for a pass that ended without a plan.
pub fn failed_pass(error: &PassError) {
    match error {
        PassError::Stopped => tracing::warn!("stopped before the pass was complete"),
        error => tracing::error!(error = error_chain(error), "the pass failed and nothing was changed"),
    }
}

/// One line for a pass.
pub(super) fn report(report: &DeliveryReport) {
    let DeliveryReport { delivered, unchanged, blocked, failed, held, foreign, pushed_bytes, .. } = report;
    let (blocked, failed, held) = (blocked.len(), failed.len(), held.len());
    let seconds = Duration::from_secs_f64(report.seconds).as_millis() as f64 / 1e3;
    macro_rules! log {
        ($level:ident, $message:literal) => {
            tracing::$level!(delivered, unchanged, blocked, failed, held, foreign, pushed_bytes, seconds, $message)
        };
    }
    if report.is_success() {
        log!(info, "pass done");
    } else {
        log!(warn, "pass done, not everything is in sync");
    }
}
