//! What a pass writes to the log: one line for each blocked target, for each action, and for the pass.

use std::collections::BTreeSet;
use std::time::Duration;

use super::PassError;
use super::uploads::{LOST, Lost};
use crate::model::key::Destination;
use crate::plan::outcome::{Done, Failure, Outcome, Published};
use crate::plan::report::Report;
use crate::plan::{Action, Plan};
use crate::text::{error_chain, printable};

pub(super) fn blocked(plan: &Plan) {
    for blocked in &plan.blocked {
        let Destination { group, project, branch } = &blocked.destination;
        tracing::error!(group, project, branch, reason = %printable(&blocked.blocker.to_string()), "blocked: {}", printable(&blocked.destination.to_string()));
    }
    if let Some(guard) = &plan.guard {
        tracing::error!(would_retire = guard.would_retire, held = guard.held, "retire guard: {guard}");
    }
}

/// One line for each object that was uploaded and is not there.
pub(super) fn lost(lost: &[Lost]) {
    for Lost { destination, key } in lost {
        let Destination { group, project, branch } = destination;
        tracing::error!(group, project, branch, key, reason = LOST, "lost: {}", printable(&destination.to_string()));
    }
}

/// One line for everything that an earlier process did not survive. They are few: each was being published.
pub(super) fn crashed(destinations: &BTreeSet<Destination>) {
    let names: Vec<_> = destinations.iter().map(|destination| printable(&destination.to_string())).collect();
    if !names.is_empty() {
        let destinations = names.join(", ");
        tracing::warn!("an earlier process ended while it decoded what is for {destinations}: tried last");
    }
}

/// One line for a pass that ended without a plan.
pub fn failed_pass(error: &PassError) {
    if matches!(error, PassError::Stopped) {
        tracing::warn!("stopped before the pass was complete");
        return;
    }
    tracing::error!(error = error_chain(error), "the pass failed and nothing was changed");
}

pub(super) fn report(report: &Report) {
    let Report { published, retired, swept, unchanged, blocked, failed, held, foreign, uploaded_bytes, .. } = report;
    let (blocked, failed, held, seconds) = (blocked.len(), failed.len(), held.len(), report.seconds);
    let seconds = Duration::from_secs_f64(seconds).as_millis() as f64 / 1e3;
    macro_rules! log {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                published,
                retired,
                swept,
                unchanged,
                blocked,
                failed,
                held,
                foreign,
                uploaded_bytes,
                seconds,
                $message
            )
        };
    }
    if report.is_success() {
        log!(info, "pass done");
    } else {
        log!(warn, "pass done, not everything is in sync");
    }
}

/// One line for each action.
pub(super) fn outcome(Outcome { action, result }: &Outcome) {
    let Destination { group, project, branch } = action.destination();
    let name = printable(&action.destination().to_string());
    match (action, result) {
        (Action::Publish(publish), Ok(Done::Published(published))) => {
            tracing::info!(
                group, project, branch,
                commit = %published.commit,
                bytes = published.bytes,
                seconds = published.took.as_secs_f64(),
                reason = %publish.reason,
                "published {name}"
            );
            findings(&name, action.destination(), published);
        }
        (Action::Retire(retire), Ok(_)) => {
            tracing::info!(group, project, branch, objects = retire.keys.len(), reason = %retire.reason, "retired {name}");
        }
        (Action::Sweep(sweep), Ok(_)) => {
            tracing::info!(group, project, branch, objects = sweep.keys.len(), reason = %sweep.reason, "swept {name}");
        }
        (Action::Publish(_), Ok(Done::Deleted)) => {}
        (_, Err(Failure::Stopped)) => {
            tracing::info!(group, project, branch, "stopped before {name} was done");
        }
        (_, Err(Failure::Held { rewrite, error })) => {
            tracing::warn!(group, project, branch, old_commit = %rewrite.from, commit = %rewrite.to, reason = error, "held: {name}");
        }
        (_, Err(Failure::Failed { error, .. })) => {
            tracing::error!(group, project, branch, error, "failed: {name}");
        }
    }
}

/// What an operator should know about a published commit.
fn findings(name: &str, destination: &Destination, published: &Published) {
    let (Destination { group, project, branch }, commit) = (destination, published.commit);
    if let Some(old_commit) = published.rewritten_from {
        tracing::warn!(
            group, project, branch, %old_commit, %commit,
            "rewritten: {name} does not descend from what was published before"
        );
    }
    if published.lfs_paths > 0 {
        tracing::warn!(
            group, project, branch, %commit,
            paths = published.lfs_paths,
            "{name} uses Git LFS: the content of {} path(s) does not cross, and the far side may refuse the push",
            published.lfs_paths
        );
    }
}
