//! What a pass writes to the log: one line for each blocked destination, for each delivery, and for the pass. Of many with
//! an equal reason, only a few are named. What the passes before found too is only said now and then.

use std::time::{Duration, Instant};

use super::PassError;
use crate::model::key::Destination;
use crate::model::program::Program;
use crate::passes::log::{self, Failures, LastSaid, NAMED, by_reason, examples};
use crate::plan::delivery::report::{DeliveryOutcome, DeliveryReport, Done};
use crate::plan::delivery::{DeliveryPlan, Undeliverable};
use crate::plan::outcome::Failure;
use crate::text::printable;

/// What was said of passes last.
#[derive(Debug, Default)]
pub(super) struct Said {
    blocked: LastSaid,
    unsettled: LastSaid,
    pass: LastSaid,
}

/// One line for each blocked destination, or for many with an equal reason. `is_asked`: somebody asked for the pass.
pub(super) fn blocked(plan: &DeliveryPlan, said: &Said, is_asked: bool) {
    let all: Vec<_> = plan.blocked.iter().map(|it| (it.destination(), it.obstacle.to_string())).collect();
    let is_news = said.blocked.is_news(&all, Instant::now()) || is_asked;
    macro_rules! log {
        ($($line:tt)+) => {
            if is_news { tracing::error!($($line)+) } else { tracing::debug!($($line)+) }
        };
    }
    for (reason, alike) in by_reason(&plan.blocked, |blocked| blocked.obstacle.to_string()) {
        let (reason, advice) = (printable(&reason), alike[0].obstacle.advice());
        if alike.len() <= NAMED {
            for blocked in alike {
                let Destination { group, project, branch } = blocked.destination();
                let name = printable(&blocked.destination().to_string());
                log!(group, project, branch, %reason, advice, "blocked: {name}");
            }
            continue;
        }
        let (count, examples) = (alike.len(), examples(alike.into_iter().map(Undeliverable::destination)));
        log!(count, examples, %reason, advice, "blocked: {count} destinations for the same reason, such as {examples}");
    }
}

/// One line about the destinations that are left to the next pass.
pub(super) fn unsettled(plan: &DeliveryPlan, said: &Said) {
    let all: Vec<&Destination> = plan.unsettled.iter().map(|it| &it.name.destination).collect();
    if !all.is_empty() && said.unsettled.is_news(&all, Instant::now()) {
        let examples = examples(all);
        tracing::info!("superseded: objects are just being replaced, and the next pass checks again: {examples}");
    }
}

/// One line for each delivery.
pub(super) fn outcome(DeliveryOutcome { deliver, result }: &DeliveryOutcome, failures: &Failures) {
    let Destination { group, project, branch } = deliver.destination();
    let name = printable(&deliver.destination().to_string());
    match result {
        Ok(Done::Superseded) => {
            tracing::info!(
                group,
                project,
                branch,
                "superseded: the object of {name} was replaced since it was listed; the next pass takes the new one"
            );
        }
        Ok(Done::Pushed(delivered)) => {
            tracing::info!(
                group, project, branch,
                commit = %deliver.commit,
                bytes = delivered.pushed_bytes,
                seconds = delivered.took.as_secs_f64(),
                origin = %delivered.origin,
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

/// One line for all destinations that were not tried because the login is refused.
pub(super) fn not_tried(count: usize) {
    if count > 0 {
        tracing::error!(
            count,
            "failed: {count} destinations are not tried, because the far GitLab has refused the login for others: check \
             whether the token has expired"
        );
    }
}

/// One line for a pass that ended without a plan.
pub fn failed_pass(error: &PassError) {
    log::failed_pass(error, matches!(error, PassError::Stopped));
}

/// One line for a pass. One that `is_quiet` tried nothing, and nobody asked for it.
pub(super) fn report(report: &DeliveryReport, said: &Said, is_quiet: bool) {
    let DeliveryReport { delivered, unchanged, superseded, blocked, failed, held, foreign, pushed_bytes, .. } = report;
    let (blocked, failed, held) = (blocked.len(), failed.len(), held.len());
    let seconds = Duration::from_secs_f64(report.seconds).as_millis() as f64 / 1e3;
    macro_rules! log {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                delivered,
                unchanged,
                superseded,
                blocked,
                failed,
                held,
                foreign,
                pushed_bytes,
                seconds,
                $message
            )
        };
    }
    let is_news =
        said.pass.is_news((unchanged, superseded, blocked, failed, held, foreign), Instant::now()) || !is_quiet;
    match (report.is_success(), is_news) {
        (true, true) => log!(info, "pass done"),
        (true, false) => log!(debug, "pass done"),
        (false, true) => log!(warn, "pass done, not everything is in sync"),
        (false, false) => log!(debug, "pass done, not everything is in sync"),
    }
}
