//! Carries out a plan: its actions independently of each other, a bounded number at a time, one outcome for each.
//!
//! Invariant: nothing is decided here but whether the login is still good. An action deletes what it supersedes only after its object is up, and a failure
//! affects no other action.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::claims::Claim;
use super::log;
use super::uploads::Uploads;
use crate::bucket::BucketError;
use crate::git::account::Account;
use crate::git::wire::GitServer;
use crate::model::key::Destination;
use crate::model::stage::Stage;
use crate::passes::log::Failures;
use crate::passes::{Workers, work_off};
use crate::plan::outcome::{Done, Failure, Outcome};
use crate::plan::{Action, Cause, Retire, Sweep};
use crate::progress::Progress;
use crate::publish::{PublishError, Publisher};
use crate::status::{Change, PassId, Status};
use crate::text::error_chain;

/// What a plan is carried out with.
pub struct ApplyContext<'a> {
    pub publisher: &'a Publisher,
    pub gitlab: &'a Account,
    pub git: &'a GitServer,
    pub workers: Workers<'a>,
    pub uploads: &'a Uploads,
    pub status: &'a Status,
    pub pass: PassId,
    /// Claims the destination of an action that is about to begin. `None` skips the action.
    pub claim: &'a dyn Fn(&Action) -> Option<Claim>,
    /// What is left to do of `REPUBLISH`.
    pub republish: &'a Mutex<Option<BTreeSet<Destination>>>,
}

/// Runs all actions, a few at a time. An action holds the claim on its destination from its beginning to its end.
///
/// What an earlier process did not survive comes when all else is done.
pub async fn apply(actions: Vec<Action>, context: &ApplyContext<'_>, stop: &CancellationToken) -> Vec<Outcome> {
    let crashed = context.publisher.workdir.crashed();
    let is_suspect = |action: &Action| crashed.contains(action.destination());
    let (suspects, actions): (Vec<_>, _) = actions.into_iter().partition(is_suspect);
    // Until the suspects have begun, too, no later pass may.
    let earlier = CancellationToken::new();
    let all_begun = if suspects.is_empty() { context.workers.all_begun } else { &earlier };
    let mut outcomes = run_all(actions, context, Workers { all_begun, ..context.workers }, stop).await;
    outcomes.extend(run_all(suspects, context, context.workers, stop).await);
    if !stop.is_cancelled() {
        context.publisher.workdir.survived(&crashed);
    }
    outcomes.sort_by(|a, b| a.action.destination().cmp(b.action.destination()));
    outcomes
}

async fn run_all(
    actions: Vec<Action>,
    context: &ApplyContext<'_>,
    workers: Workers<'_>,
    stop: &CancellationToken,
) -> Vec<Outcome> {
    let (outcomes, failures) = (RefCell::new(vec![]), Failures::default());
    work_off(
        actions,
        weight,
        |action| action.destination().clone(),
        workers,
        async |action| {
            let Some(claim) = (context.claim)(&action) else {
                context.status.left_out(context.pass);
                return;
            };
            let progress = context.status.action_begins(action.destination().clone(), first_stage(&action));
            let result = match stop.is_cancelled() {
                true => Err(Failure::Stopped),
                false => run(&action, context, &progress, stop).await,
            };
            let outcome = Outcome { action, result };
            context.status.action_ends(context.pass, &progress, &Change::of(&outcome, progress.stage()));
            if let (Ok(Done::Published(_)), Some(left)) = (&outcome.result, &mut *context.republish.lock()) {
                left.remove(outcome.action.destination());
            }
            log::outcome(&outcome, &failures);
            drop(claim);
            outcomes.borrow_mut().push(outcome);
        },
    )
    .await;
    outcomes.into_inner()
}

fn first_stage(action: &Action) -> Stage {
    match action {
        Action::Publish(_) => Stage::Fetching,
        Action::Retire(_) | Action::Sweep(_) => Stage::Deleting,
    }
}

/// How many bytes the action will probably upload.
fn weight(action: &Action) -> u64 {
    match action {
        Action::Publish(publish) if publish.increment().is_some() => 0,
        Action::Publish(publish) => publish.held_bytes,
        Action::Retire(_) | Action::Sweep(_) => 0,
    }
}

/// Runs one action to its end. Its errors become plain data here and nowhere else.
async fn run(
    action: &Action,
    context: &ApplyContext<'_>,
    progress: &Arc<Progress>,
    stop: &CancellationToken,
) -> Result<Done, Failure> {
    let publisher = context.publisher;
    match action {
        Action::Publish(publish) => {
            if context.gitlab.login_is_refused() {
                return Err(PublishError::LoginRefused.into_failure(progress.stage()));
            }
            let begun = Instant::now();
            let published = publisher.publish(context.git, publish, progress, stop).await;
            match &published {
                Ok(_) => context.gitlab.login_was(true, begun),
                Err(error) if error.refuses_login() => context.gitlab.login_was(false, begun),
                Err(_) => {}
            }
            let published = published.map_err(|error| error.into_failure(progress.stage()))?;
            context.uploads.stored(&publish.target.destination, &published.key, &publish.supersedes);
            let _deleting = progress.enter(Stage::Deleting);
            let deleted = publisher.delete(publish.replaced_by(&published.key), stop).await;
            deleted.map_err(|error| not_deleted(&error, "published, but outdated objects stay beside it: "))?;
            Ok(Done::Published(published))
        }
        Action::Retire(Retire { keys, .. }) | Action::Sweep(Sweep { keys, .. }) => {
            context.uploads.deleting(action.destination(), keys);
            let _deleting = progress.enter(Stage::Deleting);
            publisher.delete(keys.iter(), stop).await.map_err(|error| not_deleted(&error, ""))?;
            Ok(Done::Deleted)
        }
    }
}

fn not_deleted(error: &BucketError, prefix: &str) -> Failure {
    match error {
        BucketError::Stopped => Failure::Stopped,
        error => Failure::Failed {
            cause: Cause::Delete,
            stage: Stage::Deleting,
            error: format!("{prefix}{}", error_chain(error)),
        },
    }
}
