//! What a pass writes to the log: one line for each blocked target, for each action, and for the pass. Of many with an
//! equal reason, only a few are named.

use std::collections::BTreeSet;
use std::time::Duration;

use super::PassError;
use super::uploads::{LOST, Lost};
use crate::model::key::{ArchiveFormat, Destination};
use crate::model::target::Unknown;
use crate::passes::log::{self, Failures, NAMED, by_reason, examples};
use crate::plan::outcome::{Done, Failure, Outcome, Published};
use crate::plan::report::Report;
use crate::plan::{Action, Blocked, Blocker, Plan, Publish};
use crate::text::printable;

/// What to know of increments beside whole objects for app-sre's consumer.
pub const WITH_TAR_GZ: &str = "CROSSING=incremental while whole objects are tar.gz: app-sre's consumer does not know increments, and ends \
    its pass at the first one. If it reads this bucket, set CROSSING=whole";

pub(super) fn blocked(plan: &Plan) {
    for (reason, alike) in by_reason(&plan.blocked, |blocked| reason_of(&blocked.blocker)) {
        if alike.len() <= NAMED {
            alike.into_iter().for_each(one_blocked);
            continue;
        }
        let (count, reason) = (alike.len(), printable(&reason));
        let examples = examples(alike.into_iter().map(|it| &it.destination));
        tracing::error!(count, examples, %reason, "blocked: {count} targets for the same reason, such as {examples}");
    }
    if let Some(guard) = &plan.guard {
        let names: Vec<_> = plan.first_guarded().iter().map(|name| printable(&name.to_string())).collect();
        let examples = names.join(" ");
        tracing::error!(would_retire = guard.would_retire, held = guard.held, examples, "retire guard: {guard}");
    }
}

/// One line if increments are about to get into a bucket whose format is that of app-sre's consumer.
pub(super) fn increments(plan: &Plan) {
    let is_increment = |action: &Action| matches!(action, Action::Publish(publish) if publish.increment().is_some());
    if plan.format == ArchiveFormat::TarGz && plan.actions.iter().any(is_increment) {
        tracing::warn!("{}", WITH_TAR_GZ);
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

fn one_blocked(Blocked { destination, blocker }: &Blocked) {
    let Destination { group, project, branch } = destination;
    let (name, reason) = (printable(&destination.to_string()), printable(&blocker.to_string()));
    tracing::error!(group, project, branch, %reason, "blocked: {name}");
}

/// The reason without the target's own names.
fn reason_of(blocker: &Blocker) -> String {
    match blocker {
        Blocker::HeadUnknown(Unknown::Unreadable { why, .. }) => format!("cannot read them: {why}"),
        Blocker::HeadUnknown(Unknown::NoBranch(_)) => "their projects have no such branch".to_owned(),
        other => other.to_string(),
    }
}

/// An error without the names of its target, which would make equal errors differ.
fn without_names(action: &Action, error: &str) -> String {
    let Action::Publish(publish) = action else { return error.to_owned() };
    let Publish { target, commit, .. } = &**publish;
    let names = [target.source.to_string(), target.source.project.clone(), commit.to_string()];
    names.iter().fold(error.to_owned(), |error, name| error.replace(name, "…"))
}

/// One line for a pass that ended without a plan.
pub fn failed_pass(error: &PassError) {
    log::failed_pass(error, matches!(error, PassError::Stopped));
}

pub(super) fn report(report: &Report) {
    let Report { published, retired, swept, unchanged, blocked, failed, held, foreign, .. } = report;
    let (uploaded_bytes, saved_bytes) = (report.uploaded_bytes, report.saved_bytes);
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
                saved_bytes,
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
pub(super) fn outcome(Outcome { action, result }: &Outcome, failures: &Failures) {
    let Destination { group, project, branch } = action.destination();
    let name = printable(&action.destination().to_string());
    match (action, result) {
        (Action::Publish(publish), Ok(Done::Published(published))) => {
            tracing::info!(
                group, project, branch,
                commit = %published.commit,
                bytes = published.bytes,
                seconds = published.took.as_secs_f64(),
                reason = how_published(publish, published),
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
        (_, Err(Failure::Failed { error, .. })) if failures.is_named(without_names(action, error)) => {
            tracing::error!(group, project, branch, error, "failed: {name}");
        }
        (_, Err(Failure::Failed { .. })) => {}
    }
}

/// Why it was uploaded, and how.
fn how_published(publish: &Publish, published: &Published) -> String {
    match (publish.increment(), published.base) {
        (Some(_), None) => format!("{}, crosses whole", publish.reason),
        (Some(_), Some(_)) | (None, _) => publish.why(),
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
