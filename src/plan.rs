//! Every decision the program can take: desired state × observed state → [`Plan`].
//!
//! Invariant: plain functions of their arguments. No clock, no I/O, no logging; the same input gives the same plan, in
//! whatever order it comes. What could not be looked up is *unknown*, never *absent*, and unknown deletes nothing.

mod cause;
pub mod outcome;
mod policy;
pub mod report;

use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use crate::model::key::HeldObject;
use crate::model::key::{self, ArchiveFormat, CommitId, Destination, KeyTooLong};
use crate::model::target::{Head, RefusedTarget, Target, Unknown};

pub use self::cause::Cause;
pub use self::policy::{FormatChoice, MaxRetire, OnRewrite, Policy, Republish, RetireGuard};

/// What should be in the bucket.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Every accepted target with what its source branch's probe found.
    pub targets: Vec<(Target, Head)>,
    /// Targets that failed validation: nothing of theirs is published, and nothing of theirs is deleted.
    pub refused: Vec<RefusedTarget>,
}

/// What a pass will do, in the order of destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The format of everything this plan publishes.
    pub format: ArchiveFormat,
    /// What to do; at most one action per destination.
    pub actions: Vec<Action>,
    /// Targets that cannot be acted on. Their objects stay.
    pub blocked: Vec<Blocked>,
    /// Targets whose current object is there, and nothing else.
    pub unchanged: Vec<Unchanged>,
    /// Set where the retire guard held back every [`Action::Retire`].
    pub guard: Option<RetireGuard>,
}

impl Plan {
    /// Whether every target could be planned for and no guard held anything back.
    pub fn is_clean(&self) -> bool {
        self.blocked.is_empty() && self.guard.is_none()
    }
}

/// One thing to do for one destination. It leaves whoever runs it no choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Upload one commit under `key`, then delete `supersedes`.
    Publish(Publish),
    /// Delete every object of a destination that no target names any more.
    Retire(Retire),
    /// Delete what an interrupted pass left beside a current object.
    Sweep(Sweep),
}

impl Action {
    /// The destination it is about.
    pub fn destination(&self) -> &Destination {
        match self {
            Self::Publish(publish) => &publish.target.destination,
            Self::Retire(retire) => &retire.destination,
            Self::Sweep(sweep) => &sweep.destination,
        }
    }
}

/// See [`Action::Publish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// What to publish, and where to.
    pub target: Target,
    /// The source head.
    pub commit: CommitId,
    /// How to pack it.
    pub format: ArchiveFormat,
    /// The object to write.
    pub key: String,
    /// Keys to delete once `key` is up; never `key` itself.
    pub supersedes: Vec<String>,
    /// Size of the destination's newest object in bytes, 0 where it has none: what this one may weigh.
    pub held_bytes: u64,
    /// What to do where it turns out that `commit` does not descend from [`Self::old_commit`].
    pub on_rewrite: OnRewrite,
    /// Why.
    pub reason: PublishReason,
}

impl Publish {
    /// How many objects the destination has before this: what is superseded, and the object at `key` where it is written
    /// again.
    pub fn objects_held(&self) -> usize {
        let rewrites_key = match &self.reason {
            PublishReason::NotNewest { .. } | PublishReason::Requested => true,
            PublishReason::New
            | PublishReason::NewCommit { .. }
            | PublishReason::OtherFormat { .. }
            | PublishReason::OtherName => false,
        };
        self.supersedes.len() + usize::from(rewrites_key)
    }

    /// The commit of the destination's newest object, as its name says, where that is another one.
    pub fn old_commit(&self) -> Option<&str> {
        match &self.reason {
            PublishReason::NewCommit { from } | PublishReason::NotNewest { from } => {
                Some(from.as_str()).filter(|from| *from != self.commit.to_string())
            }
            PublishReason::New
            | PublishReason::OtherFormat { .. }
            | PublishReason::OtherName
            | PublishReason::Requested => None,
        }
    }
}

/// See [`Action::Retire`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retire {
    /// The destination that is no longer wanted.
    pub destination: Destination,
    /// All its keys.
    pub keys: Vec<String>,
    /// Why.
    pub reason: RetireReason,
}

/// See [`Action::Sweep`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// The destination whose current object stays.
    pub destination: Destination,
    /// The commit of the object that stays.
    pub commit: CommitId,
    /// The outdated keys.
    pub keys: Vec<String>,
    /// Why.
    pub reason: SweepReason,
}

/// A target whose current object is in the bucket, alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchanged {
    /// The target.
    pub target: Target,
    /// The commit both sides are at.
    pub commit: CommitId,
    /// The object's size in bytes.
    pub bytes: u64,
    /// When the object was written.
    pub last_modified: SystemTime,
}

/// Why a commit is uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishReason {
    /// The bucket holds nothing for the destination.
    New,
    /// The newest object held is of another commit.
    NewCommit {
        /// That object's commit.
        from: String,
    },
    /// The commit is there, in the other format.
    OtherFormat {
        /// The format it is in.
        from: ArchiveFormat,
    },
    /// The commit is there, under a name the consumer cannot use.
    OtherName,
    /// The commit is there, but an outdated object is as new or newer, and the consumer goes by time.
    NotNewest {
        /// The newest outdated object's commit.
        from: String,
    },
    /// The commit is there, and the operator wants it uploaded again.
    Requested,
}

impl fmt::Display for PublishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("not in the bucket yet"),
            Self::NewCommit { .. } => f.write_str("the source branch has a new commit"),
            Self::OtherFormat { from } => write!(f, "held in the format {from}"),
            Self::OtherName => f.write_str("held under an outdated object name"),
            Self::NotNewest { .. } => f.write_str("an outdated object is newer than the current one"),
            Self::Requested => f.write_str("REPUBLISH asks for it again"),
        }
    }
}

/// Why a destination's objects are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetireReason {
    /// The target list does not name the destination.
    NoTarget,
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTarget => f.write_str("no target names it any more"),
        }
    }
}

/// Why objects beside a current one are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepReason {
    /// They were superseded, and whatever superseded them did not get to deleting them.
    LeftBehind,
}

impl fmt::Display for SweepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftBehind => f.write_str("outdated, left beside the current object"),
        }
    }
}

/// A target that cannot be acted on in this pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blocked {
    /// Where it would go, as written in the target list.
    pub destination: Destination,
    /// What stands in the way.
    pub blocker: Blocker,
}

/// What stands in a target's way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blocker {
    /// The target list's entry is not usable; the text says why.
    Refused(String),
    /// The source branch's commit could not be read.
    HeadUnknown(Unknown),
    /// The object's name would be longer than S3 allows.
    KeyTooLong {
        /// The length it would have, in bytes.
        bytes: usize,
    },
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::HeadUnknown(why) => why.fmt(f),
            Self::KeyTooLong { bytes } => KeyTooLong { bytes: *bytes }.fmt(f),
        }
    }
}

/// No plan can be made; nothing may change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// `auto` has to keep to the bucket's format, and the bucket has both.
    #[error(
        "the bucket holds {zip} object(s) in the format zip and {tar} in tar.gz, so ARCHIVE_FORMAT=auto cannot tell \
         which to keep to: set ARCHIVE_FORMAT=zip or ARCHIVE_FORMAT=tar.gz (what is held in the other format is then \
         published again)"
    )]
    MixedFormats {
        /// Objects held as `.zip.age`.
        zip: usize,
        /// Objects held as `.tar.age`.
        tar: usize,
    },
    /// `REPUBLISH` names what no target does.
    #[error(
        "REPUBLISH names {}, which no target does: write destinations of the target list, as GROUP/PROJECT@BRANCH, or \
         all",
        names.join(" and ")
    )]
    NothingToRepublish {
        /// The names, as written.
        names: Vec<String>,
    },
}

/// What is judged over the whole bucket and the whole target list, also where a plan is for one shard's share of them:
/// otherwise shards would disagree on the format, and an empty share would look like an empty list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// What to publish in.
    pub format: ArchiveFormat,
    /// Whether the target list is empty.
    pub no_targets: bool,
}

/// Decides what one pass does.
///
/// # Errors
/// [`PlanError`] where the policy does not fit the bucket.
pub fn plan(desired: &Desired, held: &[HeldObject], policy: Policy<'_>) -> Result<Plan, PlanError> {
    let format = policy.format.resolve(held)?;
    let no_targets = desired.targets.is_empty() && desired.refused.is_empty();
    Ok(plan_share(desired, held, policy, Whole { format, no_targets }))
}

/// Decides what one pass does about a share of everything. `desired` and `held` are that share.
pub fn plan_share(desired: &Desired, held: &[HeldObject], policy: Policy<'_>, whole: Whole) -> Plan {
    let Whole { format, no_targets } = whole;
    let mut slots = Slots::with_capacity(held.len());
    for object in held {
        slots.of(&object.name.destination).held.push(object);
    }
    for (target, head) in &desired.targets {
        slots.of(&target.destination).wanted = Some((target, head));
    }
    for refused in &desired.refused {
        slots.of(&refused.target.destination).refused.push(refused);
    }
    let slots = slots.in_order();
    let destinations_held = slots.iter().filter(|(_, slot)| !slot.held.is_empty()).count();

    let mut plan = Plan { format, actions: vec![], blocked: vec![], unchanged: vec![], guard: None };
    let mut retire = vec![];
    for (destination, mut slot) in slots {
        slot.held.sort_by_key(|object| (object.last_modified, &object.key));
        let (wish, held) = slot.against(format);
        match decide(wish, &held, policy) {
            Decision::Act(action) => plan.actions.push(action),
            Decision::Leave(unchanged) => plan.unchanged.push(unchanged),
            Decision::Block(blockers) => plan
                .blocked
                .extend(blockers.into_iter().map(|blocker| Blocked { destination: destination.clone(), blocker })),
            Decision::Retire => retire.push(Retire {
                destination: destination.clone(),
                keys: keys_of(&held),
                reason: RetireReason::NoTarget,
            }),
        }
    }
    plan.blocked.sort();

    plan.guard = policy.max_retire.guard(retire.len(), destinations_held, no_targets);
    if plan.guard.is_none() {
        plan.actions.extend(retire.into_iter().map(Action::Retire));
    }
    plan.actions.sort_by(|a, b| a.destination().cmp(b.destination()));
    plan
}

/// What is known of one destination.
#[derive(Default)]
struct Slot<'a> {
    wanted: Option<(&'a Target, &'a Head)>,
    refused: Vec<&'a RefusedTarget>,
    held: Vec<&'a HeldObject>,
}

/// What is known, by destination.
struct Slots<'a> {
    places: HashMap<&'a Destination, usize>,
    slots: Vec<(&'a Destination, Slot<'a>)>,
}

impl<'a> Slots<'a> {
    fn with_capacity(destinations: usize) -> Self {
        Self { places: HashMap::with_capacity(destinations), slots: Vec::with_capacity(destinations) }
    }

    fn of(&mut self, destination: &'a Destination) -> &mut Slot<'a> {
        let place = *self.places.entry(destination).or_insert_with(|| {
            self.slots.push((destination, Slot::default()));
            self.slots.len() - 1
        });
        &mut self.slots[place].1
    }

    /// All of them in one order, whatever order they came in. With a hundred thousand destinations most of the time would
    /// go into comparing names all over the memory, so their first bytes are compared beforehand, without what all groups
    /// begin with.
    fn in_order(mut self) -> Vec<(&'a Destination, Slot<'a>)> {
        let common = common_start(self.slots.iter().map(|(destination, _)| destination.group.as_bytes()));
        let mut order: Vec<(u128, &Destination, usize)> = self
            .slots
            .iter()
            .enumerate()
            .map(|(place, (destination, _))| (first_bytes(destination, common), *destination, place))
            .collect();
        order.sort_unstable();
        let mut take = |place: usize| (self.slots[place].0, std::mem::take(&mut self.slots[place].1));
        order.into_iter().map(|(_, _, place)| take(place)).collect()
    }
}

/// How many bytes all of these begin with.
fn common_start<'a>(mut names: impl Iterator<Item = &'a [u8]>) -> usize {
    let Some(first) = names.next() else { return 0 };
    names.fold(first.len(), |common, name| {
        first[..common].iter().zip(name).position(|(a, b)| a != b).unwrap_or(common.min(name.len()))
    })
}

/// The sixteen bytes of the destination's names that follow the first `skip`.
fn first_bytes(Destination { group, project, branch }: &Destination, skip: usize) -> u128 {
    let names = [group.as_bytes(), project.as_bytes(), branch.as_bytes()];
    let mut bytes = names.into_iter().flat_map(|name| name.iter().copied().chain([0])).skip(skip);
    u128::from_be_bytes(std::array::from_fn(|_| bytes.next().unwrap_or_default()))
}

/// What the target list wants of a destination.
enum Wish<'a> {
    /// This commit, under this key; `current` is that object where the bucket has it.
    Commit { target: &'a Target, commit: CommitId, format: ArchiveFormat, key: String, current: Option<&'a HeldObject> },
    /// It is wanted, but which commit under which key cannot be said.
    Unclear(Vec<Blocker>),
    /// It is not in the list.
    Absent,
}

enum Decision {
    Act(Action),
    Leave(Unchanged),
    Block(Vec<Blocker>),
    Retire,
}

impl<'a> Slot<'a> {
    /// The wish, and the held objects besides the wished-for one, oldest first.
    fn against(self, format: ArchiveFormat) -> (Wish<'a>, Vec<&'a HeldObject>) {
        let Self { wanted, refused, mut held } = self;
        let mut blockers: Vec<_> = refused.iter().map(|refused| Blocker::Refused(refused.problem.clone())).collect();
        let Some((target, head)) = wanted else {
            let wish = if blockers.is_empty() { Wish::Absent } else { Wish::Unclear(blockers) };
            return (wish, held);
        };
        match head {
            Head::Unknown(why) => blockers.push(Blocker::HeadUnknown(why.clone())),
            Head::At(commit) => match key::encode(&target.destination, *commit, format) {
                Err(KeyTooLong { bytes }) => blockers.push(Blocker::KeyTooLong { bytes }),
                Ok(key) if blockers.is_empty() => {
                    let current = held.iter().position(|object| object.key == key).map(|at| held.remove(at));
                    return (Wish::Commit { target, commit: *commit, format, key, current }, held);
                }
                Ok(_) => {}
            },
        }
        (Wish::Unclear(blockers), held)
    }
}

/// The one place where a destination's fate is decided. `others` are its objects besides the current one, oldest first.
fn decide(wish: Wish<'_>, others: &[&HeldObject], policy: Policy<'_>) -> Decision {
    let publish = |target: &Target, commit, format, key, held_bytes, reason| {
        let (target, supersedes) = (target.clone(), keys_of(others));
        let on_rewrite = policy.on_rewrite;
        Decision::Act(Action::Publish(Publish {
            target,
            commit,
            format,
            key,
            supersedes,
            held_bytes,
            on_rewrite,
            reason,
        }))
    };
    match (wish, others) {
        (Wish::Unclear(blockers), _) => Decision::Block(blockers),
        (Wish::Absent, _) => Decision::Retire,
        (Wish::Commit { target, commit, format, key, current: None }, []) => {
            publish(target, commit, format, key, 0, PublishReason::New)
        }
        (Wish::Commit { target, commit, format, key, current: None }, [.., newest]) => {
            let reason = why_replace(newest, commit, format);
            publish(target, commit, format, key, newest.bytes, reason)
        }
        // A tie counts as newer: S3 tells times by the second, and the consumer could end on either.
        (Wish::Commit { target, commit, format, key, current: Some(current) }, [.., newest])
            if newest.last_modified >= current.last_modified =>
        {
            let reason = PublishReason::NotNewest { from: newest.name.commit.clone() };
            publish(target, commit, format, key, current.bytes, reason)
        }
        (Wish::Commit { target, commit, format, key, current: Some(current) }, _)
            if policy.republish.contains(&target.destination) =>
        {
            publish(target, commit, format, key, current.bytes, PublishReason::Requested)
        }
        (Wish::Commit { target, commit, current: Some(current), .. }, []) => Decision::Leave(Unchanged {
            target: target.clone(),
            commit,
            bytes: current.bytes,
            last_modified: current.last_modified,
        }),
        (Wish::Commit { target, commit, current: Some(_), .. }, [_, ..]) => Decision::Act(Action::Sweep(Sweep {
            destination: target.destination.clone(),
            commit,
            keys: keys_of(others),
            reason: SweepReason::LeftBehind,
        })),
    }
}

/// Why `newest`, the newest object of a destination, does not serve.
fn why_replace(newest: &HeldObject, commit: CommitId, format: ArchiveFormat) -> PublishReason {
    if newest.name.commit != commit.to_string() {
        PublishReason::NewCommit { from: newest.name.commit.clone() }
    } else if newest.name.format != format {
        PublishReason::OtherFormat { from: newest.name.format }
    } else {
        PublishReason::OtherName
    }
}

fn keys_of(objects: &[&HeldObject]) -> Vec<String> {
    let mut keys: Vec<_> = objects.iter().map(|object| object.key.clone()).collect();
    keys.sort();
    keys
}

#[cfg(test)]
mod tests;
