//! Runs a plan: each action on its own, a bounded number at a time, one outcome for each.
//!
//! Invariant: no decision is taken here. What an action supersedes is deleted only after its object is up, and one
//! action's failure leaves the others alone.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::claims::Claim;
use crate::bucket::BucketError;
use crate::git::wire::GitServer;
use crate::model::key::Destination;
use crate::model::stage::Stage;
use crate::plan::outcome::{Done, Failure, Outcome, Published};
use crate::plan::{Action, Cause, Publish, Retire, Sweep};
use crate::progress::Progress;
use crate::publish::Publisher;
use crate::status::{PassId, Status};
use crate::text::{error_chain, printable};

/// Who carries a plan out, and how many at a time.
pub struct Crew<'a> {
    /// How an object gets there.
    pub publisher: &'a Publisher,
    /// The source GitLab.
    pub git: &'a GitServer,
    /// Actions at work at the same time.
    pub concurrency: NonZeroUsize,
    /// The same for all passes together: each action at work has a permit.
    pub slots: &'a Semaphore,
    /// What is told how it goes.
    pub status: &'a Status,
    /// The pass this is part of.
    pub pass: PassId,
    /// Takes an action's destination for this pass when the action begins; `None` leaves the action out.
    pub claim: &'a dyn Fn(&Action) -> Option<Claim>,
}

/// Runs all actions, some at a time: large publications first, so that the longest does not begin last, except for one
/// worker that begins with the small ones, so that they need not wait until the large are through. An action claims its
/// destination when it begins, and gives it back when it has ended.
pub async fn apply(mut actions: Vec<Action>, crew: &Crew<'_>, stop: &CancellationToken) -> Vec<Outcome> {
    actions.sort_by_key(|action| Reverse(weight(action)));
    let (queue, outcomes) = (RefCell::new(VecDeque::from(actions)), RefCell::new(vec![]));
    let worker = async |next: fn(&mut VecDeque<Action>) -> Option<Action>| {
        while !queue.borrow().is_empty() {
            // It is never closed.
            let _slot = crew.slots.acquire().await;
            let Some(action) = take(&queue, next) else { return };
            let Some(claim) = (crew.claim)(&action) else {
                crew.status.left_out(crew.pass);
                continue;
            };
            let progress = crew.status.action_begins(&action);
            let result = match stop.is_cancelled() {
                true => Err(Failure::Stopped),
                false => run(&action, crew, &progress, stop).await,
            };
            let outcome = Outcome { action, result };
            crew.status.action_ends(crew.pass, &progress, &outcome);
            log(&outcome);
            drop(claim);
            outcomes.borrow_mut().push(outcome);
        }
    };
    let workers =
        (0..crew.concurrency.get()).map(|n| worker(if n == 0 { VecDeque::pop_back } else { VecDeque::pop_front }));
    join_all(workers).await;
    let mut outcomes = outcomes.into_inner();
    outcomes.sort_by(|a, b| a.action.destination().cmp(b.action.destination()));
    outcomes
}

fn take(queue: &RefCell<VecDeque<Action>>, next: fn(&mut VecDeque<Action>) -> Option<Action>) -> Option<Action> {
    next(&mut queue.borrow_mut())
}

/// Bytes that are likely to be moved. Deletions weigh nothing.
fn weight(action: &Action) -> u64 {
    match action {
        Action::Publish(publish) => publish.held_bytes,
        Action::Retire(_) | Action::Sweep(_) => 0,
    }
}

/// One action to its end; what went wrong is translated into plain data here and nowhere else.
async fn run(
    action: &Action,
    crew: &Crew<'_>,
    progress: &Arc<Progress>,
    stop: &CancellationToken,
) -> Result<Done, Failure> {
    let publisher = crew.publisher;
    match action {
        Action::Publish(publish) => {
            let published = publisher.publish(crew.git, publish, progress, stop).await;
            let published = published.map_err(|error| error.into_failure(progress.stage()))?;
            let _deleting = progress.enter(Stage::Deleting);
            let superseded = superseded(publish, &published.key);
            let deleted = publisher.delete(superseded, stop).await;
            deleted.map_err(|error| not_deleted(&error, "published, but outdated objects stay beside it: "))?;
            Ok(Done::Published(published))
        }
        Action::Retire(Retire { keys, .. }) | Action::Sweep(Sweep { keys, .. }) => {
            let _deleting = progress.enter(Stage::Deleting);
            publisher.delete(keys.iter(), stop).await.map_err(|error| not_deleted(&error, ""))?;
            Ok(Done::Deleted)
        }
    }
}

fn not_deleted(error: &BucketError, before: &str) -> Failure {
    match error {
        BucketError::Stopped => Failure::Stopped,
        error => Failure::Failed {
            cause: Cause::Delete,
            stage: Stage::Deleting,
            error: format!("{before}{}", error_chain(error)),
        },
    }
}

/// What the object at `key` replaces. A branch that moved back since the probe can be at a commit that was held already.
fn superseded<'a>(publish: &'a Publish, key: &str) -> impl Iterator<Item = &'a String> {
    publish.supersedes.iter().filter(move |superseded| *superseded != key)
}

fn log(Outcome { action, result }: &Outcome) {
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
            log_findings(&name, action.destination(), published);
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

/// What an operator should know of a commit that was published, once.
fn log_findings(name: &str, destination: &Destination, published: &Published) {
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
