//! Observing: the bucket, the target list and the heads of source branches. Nothing is changed.
//!
//! Invariant: everything or an error. The bucket is listed first, so every listed object rests on an older read of the
//! branches than ours; nothing newer is deleted.

use std::collections::{BTreeSet, HashSet};

use super::PassError;
use super::clients::Clients;
use crate::bucket::{Foreign, Listing};
use crate::config;
use crate::git::wire::GitServer;
use crate::model::key::{Destination, HeldObject};
use crate::model::shard::Shard;
use crate::model::target::{Target, Targets};
use crate::plan::{BucketWide, Desired, Elsewhere, Plan, Policy};
use crate::progress::Pulse;

/// The desired and the observed state of this replica's share.
pub(super) struct Observed {
    /// The source GitLab, with the login of this pass.
    pub git: GitServer,
    pub desired: Desired,
    pub held: Vec<HeldObject>,
    /// Objects whose keys do not decode.
    pub foreign: Foreign,
    /// What is decided over the whole bucket, not only our share.
    pub bucket_wide: BucketWide,
    /// What is left to do of `REPUBLISH`.
    pub republish: BTreeSet<Destination>,
}

impl Observed {
    pub fn policy(&self, settings: &config::Run) -> Policy<'_> {
        Policy {
            format: settings.archive_format,
            max_retire: settings.max_retire,
            on_rewrite: settings.common.on_rewrite,
            republish: &self.republish,
            crossing: settings.crossing,
            max_increments: settings.max_increments,
        }
    }

    /// Whether the target list may be wrong: it is empty, or lacks what is held. `MAX_RETIRE=100%` trusts an empty one.
    pub fn is_doubtful(&self, plan: &Plan) -> bool {
        plan.doubts_the_list() || (self.bucket_wide.no_targets && plan.budget.limit.is_some())
    }

    /// The targets that can be acted on.
    pub fn accepted(&self) -> impl Iterator<Item = &Target> {
        self.desired.targets.iter().map(|(target, _)| target)
    }

    /// All targets, refused ones too.
    pub fn wanted(&self) -> impl Iterator<Item = &Target> {
        self.accepted().chain(self.desired.refused.iter().map(|refused| &refused.target))
    }
}

/// Asks all three servers. `republish` is what earlier passes left of `REPUBLISH`, `None` in the first pass.
pub(super) async fn observe(
    clients: &Clients,
    settings: &config::Run,
    republish: Option<BTreeSet<Destination>>,
    pulse: &Pulse,
) -> Result<Observed, PassError> {
    let (list, git) = (clients.target_list()?, clients.git()?);
    let share = settings.common.share;
    let mut listing = clients.bucket.list().await?;
    let mut targets = list.targets().await?;
    let (no_targets, unlisted_apps) = (targets.destinations().next().is_none(), targets.unlisted_apps);
    let mut republish = republish.map_or_else(|| settings.republish.among(targets.destinations()), Ok)?;
    republish.retain(|destination| share.owns(destination));
    let elsewhere = elsewhere(share, &targets, &listing.held);
    share.keep_own(&mut targets.accepted, |target| &target.destination);
    share.keep_own(&mut targets.refused, |refused| &refused.target.destination);
    let heads = clients.heads(&git, targets.accepted, pulse).await?;
    let format = settings.archive_format.resolve(&listing.held)?;
    let bucket_wide = BucketWide { format, no_targets, unlisted_apps, elsewhere };
    listing.keep_own(share);
    let Listing { held, foreign } = listing;
    let desired = Desired { targets: heads, refused: targets.refused };
    Ok(Observed { git, desired, held, foreign, bucket_wide, republish })
}

/// What other shares want and do not have.
fn elsewhere(share: Shard, targets: &Targets, held: &[HeldObject]) -> Elsewhere {
    if share == Shard::WHOLE {
        return Elsewhere::default();
    }
    let held: HashSet<_> = held.iter().map(|object| &object.name.destination).collect();
    let unpublished = |target: &&Target| !share.owns(&target.destination) && !held.contains(&target.destination);
    Elsewhere {
        unpublished: targets.accepted.iter().filter(unpublished).cloned().collect(),
        refused: targets.refused.iter().filter(|refused| !share.owns(&refused.target.destination)).cloned().collect(),
    }
}
