//! Push passes: each publishes the targets of pushed branches, beside the full pass and other push passes.
//!
//! Invariant: a push pass holds a claim on every destination it touches, and never retires anything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::apply::apply;
use super::claims::Claim;
use super::{PassError, Reconciler, log};
use crate::git::wire::GitServer;
use crate::model::key::{ArchiveFormat, Destination, HeldObject};
use crate::model::target::{Source, Target};
use crate::plan::report::Report;
use crate::plan::{Action, Desired, FormatChoice, MaxRetire, Plan, Policy, plan};
use crate::publish::Publisher;
use crate::status::{PassId, Planned, Trigger};

/// Push passes at the same time. Each lists the bucket, and a large repository can keep one busy for long.
pub(super) const MOST_PUSH_PASSES: usize = 8;

impl Reconciler {
    /// Runs push passes as pushes arrive, until `stop`.
    pub(super) async fn push_passes(&self, publisher: &Publisher, stop: &CancellationToken) {
        let mut under_way = FuturesUnordered::new();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                Some(()) = under_way.next() => {}
                pushed = self.triggers.pushes(), if under_way.len() < MOST_PUSH_PASSES => {
                    under_way.push(self.push_pass(publisher, pushed, stop));
                }
            }
        }
        // They see `stop` too, and abort their uploads.
        while under_way.next().await.is_some() {}
    }

    /// A pass for the targets of these source branches.
    async fn push_pass(&self, publisher: &Publisher, pushed: BTreeSet<Source>, stop: &CancellationToken) {
        // A full pass covers the pushes that are dropped while the login is refused.
        let known = self.known.lock().clone().filter(|_| !self.clients.gitlab.login_is_refused());
        let Some(known) = known else { return };
        let targets = known.targets.iter().filter(|target| pushed.contains(&target.source)).cloned().collect();
        let claimed = self.claims.of_push_pass(targets);
        if claimed.is_empty() {
            return;
        }
        let pass = self.status.pass_begins(Trigger::Push);
        let report = self.publish_pushed(publisher, pass, known.format, claimed, stop).await;
        if let Err(error) = self.ends(publisher, pass, report, stop) {
            log::failed_pass(&error);
        }
    }

    async fn publish_pushed(
        &self,
        publisher: &Publisher,
        pass: PassId,
        format: ArchiveFormat,
        claimed: Vec<(Target, Claim)>,
        stop: &CancellationToken,
    ) -> Result<Report, PassError> {
        let begun = Instant::now();
        let targets: Vec<_> = claimed.iter().map(|(target, _)| target.clone()).collect();
        let planning = self.plan_for(&targets, format);
        let (git, mut plan, held) = stop.run_until_cancelled(planning).await.ok_or(PassError::Stopped)??;
        let moved = BTreeSet::new();
        let wanted: Vec<_> = targets.iter().collect();
        let planned =
            Planned { plan: &plan, targets: &wanted, held: &held, foreign: None, no_targets: false, moved: &moved };
        self.status.seen(pass, |known| planned.seen(known));
        log::blocked(&plan);
        log::increments(&plan);
        drop(held);
        let mut claims: BTreeMap<Destination, Claim> =
            claimed.into_iter().map(|(target, claim)| (target.destination, claim)).collect();
        plan.unchanged.iter().for_each(|unchanged| self.claims.settled(&unchanged.target.destination));
        let actions = std::mem::take(&mut plan.actions);
        let with_action: BTreeSet<_> = actions.iter().map(Action::destination).collect();
        // The others need nothing: release them now.
        claims.retain(|destination, _| with_action.contains(destination));
        let claims = RefCell::new(claims);
        let claim = |action: &Action| claims.borrow_mut().remove(action.destination());
        let outcomes =
            apply(actions, &self.context(publisher, &git, pass, &claim, &CancellationToken::new()), stop).await;
        let done = outcomes.iter().filter(|outcome| outcome.result.is_ok());
        done.for_each(|outcome| self.claims.settled(outcome.action.destination()));
        Ok(Report::new(&plan, &outcomes, 0, begun.elapsed()))
    }

    /// Observes and plans for these targets. Only their objects are listed, so no other object can be deleted. The bucket
    /// comes first, for the same reason as in a full pass.
    async fn plan_for(
        &self,
        targets: &[Target],
        format: ArchiveFormat,
    ) -> Result<(GitServer, Plan, Vec<HeldObject>), PassError> {
        let git = self.clients.git()?;
        let held = self.clients.bucket.list_of(&targets.iter().map(|target| &target.destination).collect()).await?;
        let targets = self.clients.heads(&git, targets.to_vec(), self.status.pulse()).await?;
        let desired = Desired { targets, refused: vec![] };
        let policy = Policy {
            format: FormatChoice::Only(format),
            max_retire: MaxRetire::Count(0),
            on_rewrite: self.settings.common.on_rewrite,
            republish: &BTreeSet::new(),
            crossing: self.settings.crossing,
            max_increments: self.settings.max_increments,
        };
        let plan = plan(&desired, &held, policy)?;
        Ok((git, plan, held))
    }
}
