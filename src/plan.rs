//! Every decision of the program: desired state × observed state → [`Plan`].
//!
//! Invariant: plain functions without clock, I/O or logging. The same input gives the same plan, in any order. What could
//! not be read is *unknown*, never *absent*, and unknown deletes nothing.

mod action;
mod cause;
pub mod chain;
mod crossing;
pub mod delivery;
mod memory;
pub mod outcome;
mod policy;
pub mod report;
mod waiting;

use std::collections::HashMap;

pub use self::action::{
    Action, Blocked, Blocker, Publish, PublishReason, Retire, RetireReason, Sweep, SweepReason, Unchanged,
};
pub use self::cause::Cause;
use self::chain::{Chain, chain};
pub use self::crossing::{How, Increment, LEAST_BASE_BYTES, WhyWhole};
pub use self::memory::{GuardBudget, Memory};
pub use self::policy::{
    Crossing, FormatChoice, MaxRetire, OnRewrite, PlanError, Policy, Republish, RetireBudget, RetireGuard,
};
use self::waiting::Claimants;
pub use self::waiting::{HeldRetirement, HoldReason};
use crate::model::key::{self, ArchiveFormat, CommitId, Destination, HeldObject, KeyTooLong};
use crate::model::target::{Head, RefusedTarget, Target};

/// What should be in the bucket.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Every accepted target and the result of probing its source branch.
    pub targets: Vec<(Target, Head)>,
    /// Targets that failed validation: nothing of them is published or deleted.
    pub refused: Vec<RefusedTarget>,
}

/// How many destinations are named of those that the retire guard held back.
const GUARDED_SHOWN: usize = 5;

/// What a pass will do, sorted by destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The format of everything this plan publishes.
    pub format: ArchiveFormat,
    /// What to do; at most one action per destination.
    pub actions: Vec<Action>,
    /// Targets that cannot be acted on. Their objects stay.
    pub blocked: Vec<Blocked>,
    /// Targets whose current object is there, alone.
    pub unchanged: Vec<Unchanged>,
    /// Destinations that no target names, but that stay for now.
    pub held_retirements: Vec<HeldRetirement>,
    /// How many destinations may be retired in a day, and how many that leaves.
    pub budget: RetireBudget,
    /// Set if the retire guard held back every [`Action::Retire`].
    pub guard: Option<RetireGuard>,
    /// The destinations that it held back.
    pub guarded: Vec<Destination>,
}

impl Plan {
    /// Whether no target is blocked and no guard held anything back.
    pub fn is_clean(&self) -> bool {
        self.blocked.is_empty() && self.guard.is_none()
    }

    /// The destinations it retires.
    pub fn retired(&self) -> impl Iterator<Item = &Destination> {
        self.actions.iter().filter(|action| matches!(action, Action::Retire(_))).map(Action::destination)
    }

    /// The first of the destinations that the guard held back.
    pub fn first_guarded(&self) -> &[Destination] {
        &self.guarded[..self.guarded.len().min(GUARDED_SHOWN)]
    }

    /// Whether something that is no longer wanted stays because the target list may be wrong.
    pub fn doubts_the_list(&self) -> bool {
        self.guard.is_some() || self.held_retirements.iter().any(|held| held.reason.is_trouble())
    }
}

/// Facts about the whole bucket and the whole target list, even in a plan for one shard's share. Otherwise shards could
/// disagree on the format, and an empty share would look like an empty list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketWide {
    /// The format to publish in.
    pub format: ArchiveFormat,
    /// Whether the target list is empty.
    pub no_targets: bool,
    /// How many apps of the target list have no list of components.
    pub unlisted_apps: usize,
    /// What other shares want and do not have.
    pub elsewhere: Elsewhere,
}

/// Targets of other shares: a destination of this share could be the one that they mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Those that are accepted and have no object.
    pub unpublished: Vec<Target>,
    /// Those that are refused.
    pub refused: Vec<RefusedTarget>,
}

/// What earlier passes left to know.
#[derive(Debug, Clone, Copy)]
pub struct Remembered<'a> {
    /// What the retire guard counts.
    pub budget: GuardBudget,
    /// Where destinations came from.
    pub memory: &'a Memory,
}

/// Decides what one pass does that remembers nothing.
///
/// # Errors
/// [`PlanError`] if the policy does not fit the bucket.
pub fn plan(desired: &Desired, held: &[HeldObject], policy: Policy<'_>) -> Result<Plan, PlanError> {
    let format = policy.format.resolve(held)?;
    let no_targets = desired.targets.is_empty() && desired.refused.is_empty();
    let bucket_wide = BucketWide { format, no_targets, unlisted_apps: 0, elsewhere: Elsewhere::default() };
    let remembered = Remembered { budget: GuardBudget::default(), memory: &Memory::default() };
    Ok(plan_share(desired, held, policy, &bucket_wide, remembered))
}

/// Decides what one pass does about a share: `desired` and `held` are only that share.
pub fn plan_share(
    desired: &Desired,
    held: &[HeldObject],
    policy: Policy<'_>,
    bucket_wide: &BucketWide,
    Remembered { budget, memory }: Remembered<'_>,
) -> Plan {
    let format = bucket_wide.format;
    let mut slots: HashMap<&Destination, Slot<'_>> = HashMap::with_capacity(held.len());
    for object in held {
        slots.entry(&object.name.destination).or_default().held.push(object);
    }
    for (target, head) in &desired.targets {
        slots.entry(&target.destination).or_default().wanted = Some((target, head));
    }
    for refused in &desired.refused {
        slots.entry(&refused.target.destination).or_default().refused.push(refused);
    }
    let mut slots: Vec<_> = slots.into_iter().collect();
    slots.sort_unstable_by_key(|(destination, _)| *destination);
    let destinations_held = slots.iter().filter(|(_, slot)| !slot.held.is_empty()).count();

    let (mut plan, mut unwanted) = (Plan::empty(format), vec![]);
    for (destination, mut slot) in slots {
        slot.held.sort_by_key(|object| (object.last_modified, &object.key));
        let (wish, held) = slot.wish(format);
        match decide(wish, &held, policy) {
            Decision::Act(action) => plan.actions.push(action),
            Decision::Leave(unchanged) => plan.unchanged.push(unchanged),
            Decision::Block(blockers) => plan
                .blocked
                .extend(blockers.into_iter().map(|blocker| Blocked { destination: destination.clone(), blocker })),
            Decision::Retire => unwanted.push((destination, held)),
        }
    }
    plan.blocked.sort();
    // Many targets for one destination have one problem.
    plan.blocked.dedup();

    let retire = plan.hold(unwanted, |blocked| {
        let held = held.iter().map(|object| &object.name.destination).collect();
        Claimants::new(desired, &bucket_wide.elsewhere, &held, blocked, memory)
    });
    (plan.budget, plan.guard) = policy.max_retire.guard(retire.len(), destinations_held, bucket_wide, budget);
    match plan.guard {
        None => plan.actions.extend(retire.into_iter().map(Action::Retire)),
        Some(_) => plan.guarded = retire.into_iter().map(|retire| retire.destination).collect(),
    }
    plan.actions.sort_by(|a, b| a.destination().cmp(b.destination()));
    plan
}

impl Plan {
    fn empty(format: ArchiveFormat) -> Self {
        let (actions, blocked, unchanged, held_retirements, guarded) = Default::default();
        let budget = RetireBudget::default();
        Self { format, actions, blocked, unchanged, held_retirements, budget, guard: None, guarded }
    }

    /// Holds what could belong to a target after all, and returns the rest, to be retired.
    fn hold<'a>(
        &mut self,
        unwanted: Vec<(&Destination, Vec<&HeldObject>)>,
        claimants: impl FnOnce(&[Blocked]) -> Claimants<'a>,
    ) -> Vec<Retire> {
        if unwanted.is_empty() {
            return vec![];
        }
        let (claimants, mut retire) = (claimants(&self.blocked), vec![]);
        for (destination, objects) in unwanted {
            let destination = destination.clone();
            match claimants.keep(&destination, &objects) {
                Some(reason) => {
                    self.held_retirements.push(HeldRetirement { destination, objects: objects.len(), reason });
                }
                None => {
                    retire.push(Retire {
                        destination,
                        keys: keys_of(objects.iter().copied()),
                        reason: RetireReason::NoTarget,
                    });
                }
            }
        }
        retire
    }
}

/// What is known about one destination.
#[derive(Default)]
struct Slot<'a> {
    wanted: Option<(&'a Target, &'a Head)>,
    refused: Vec<&'a RefusedTarget>,
    held: Vec<&'a HeldObject>,
}

/// What the target list wants of a destination.
enum Wish<'a> {
    /// This commit; `key` is that of its whole history.
    Commit { target: &'a Target, commit: CommitId, format: ArchiveFormat, key: String },
    /// It is wanted, but the commit or the key is not known.
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
    /// The wish, and the held objects, oldest first.
    fn wish(self, format: ArchiveFormat) -> (Wish<'a>, Vec<&'a HeldObject>) {
        let Self { wanted, refused, held } = self;
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
                    return (Wish::Commit { target, commit: *commit, format, key }, held);
                }
                Ok(_) => {}
            },
        }
        (Wish::Unclear(blockers), held)
    }
}

/// The only place that decides about a destination, with its objects, oldest first.
fn decide(wish: Wish<'_>, held: &[&HeldObject], policy: Policy<'_>) -> Decision {
    let (target, commit, format, key) = match wish {
        Wish::Unclear(blockers) => return Decision::Block(blockers),
        Wish::Absent => return Decision::Retire,
        Wish::Commit { target, commit, format, key } => (target, commit, format, key),
    };
    let publish = |held_bytes, reason, how| {
        let supersedes = keys_of(held.iter().copied().filter(|object| object.key != key));
        let (target, on_rewrite, key) = (target.clone(), policy.on_rewrite, key.clone());
        let overwrites = supersedes.len() < held.len();
        let newest_written = held.last().map(|newest| newest.last_modified);
        Decision::Act(Action::Publish(Box::new(Publish {
            target,
            commit,
            format,
            how,
            key,
            supersedes,
            overwrites,
            held_bytes,
            newest_written,
            on_rewrite,
            reason,
        })))
    };
    let whole = |held_bytes, reason| publish(held_bytes, reason, How::Whole(WhyWhole::Reason));
    let destination = &target.destination;
    match Standing::of(held, commit, format, &key) {
        Standing::Nothing => whole(0, PublishReason::New),
        Standing::NoWhole => whole(0, PublishReason::NoWhole),
        Standing::NotNewest { current, newest } => {
            whole(current.bytes, PublishReason::NotNewest { from: newest.name.commit.clone() })
        }
        Standing::OtherCommit { chain, others } => {
            let how = crossing::how(destination, commit, &chain, held, &others, policy);
            publish(chain.whole.bytes, PublishReason::NewCommit { from: chain.tip().name.commit.clone() }, how)
        }
        Standing::OtherFormat { from, bytes } => whole(bytes, PublishReason::OtherFormat { from }),
        Standing::OtherName { bytes } => whole(bytes, PublishReason::OtherName),
        Standing::Current { chain, .. } if policy.republish.contains(destination) => {
            whole(chain.whole.bytes, PublishReason::Requested)
        }
        Standing::Current { chain, .. } if policy.crossing == Crossing::Whole && !chain.increments.is_empty() => {
            whole(chain.whole.bytes, PublishReason::HeldAsIncrements)
        }
        Standing::Current { chain, others } if others.is_empty() => Decision::Leave(Unchanged {
            target: target.clone(),
            commit,
            bytes: chain.bytes(),
            increments: chain.increments.len(),
            last_modified: chain.tip().last_modified,
        }),
        Standing::Current { others: keys, .. } => Decision::Act(Action::Sweep(Sweep {
            destination: destination.clone(),
            commit,
            keys,
            reason: SweepReason::LeftBehind,
        })),
    }
}

/// How the objects of a destination compare with the commit that it should be at. `others` are the keys of those that do not
/// count.
enum Standing<'a> {
    /// There are none.
    Nothing,
    /// There are increments only.
    NoWhole,
    /// They are at the commit.
    Current { chain: Chain<'a>, others: Vec<String> },
    /// They are at another one.
    OtherCommit { chain: Chain<'a>, others: Vec<String> },
    /// They are at the commit, in another format.
    OtherFormat { from: ArchiveFormat, bytes: u64 },
    /// They are at the commit, under a name that this program would not write now.
    OtherName { bytes: u64 },
    /// The commit's own object is there, but `newest` is as new or newer.
    NotNewest { current: &'a HeldObject, newest: &'a HeldObject },
}

impl<'a> Standing<'a> {
    /// `key` is that of the commit's whole history.
    fn of(held: &[&'a HeldObject], commit: CommitId, format: ArchiveFormat, key: &str) -> Self {
        let Some(chain) = chain(held) else {
            return if held.is_empty() { Self::Nothing } else { Self::NoWhole };
        };
        let others = keys_of(chain.others(held));
        let wholes = || held.iter().copied().filter(|object| object.name.content.format().is_some());
        if let Some(current) = wholes().find(|object| object.key == key) {
            // A tie counts as newer: S3's times have a resolution of a second, and a consumer could use either object.
            let newest = wholes().rfind(|object| object.key != key && object.last_modified >= current.last_modified);
            if let Some(newest) = newest {
                return Self::NotNewest { current, newest };
            }
        }
        let bytes = chain.whole.bytes;
        if chain.tip().name.commit != commit.to_string() {
            return Self::OtherCommit { chain, others };
        }
        match chain.whole.name.content.format() {
            Some(from) if from != format => Self::OtherFormat { from, bytes },
            // Without increments, its key is the one to write now.
            _ if chain.whole.key != key && !has_present_name(chain.whole, format) => Self::OtherName { bytes },
            _ => Self::Current { chain, others },
        }
    }
}

/// Whether this program would write the object under this key now.
fn has_present_name(whole: &HeldObject, format: ArchiveFormat) -> bool {
    let commit = whole.name.commit.parse().ok();
    commit.is_some_and(|commit| key::encode(&whole.name.destination, commit, format).as_ref() == Ok(&whole.key))
}

fn keys_of<'a>(objects: impl Iterator<Item = &'a HeldObject>) -> Vec<String> {
    let mut keys: Vec<_> = objects.map(|object| object.key.clone()).collect();
    keys.sort();
    keys
}

#[cfg(test)]
mod tests;
