//! Every decision of the far side: objects of the bucket × branches of the far GitLab → what to push.
//!
//! Invariant: plain functions, like the rest of `plan`. What the bucket does not hold is *unknown*, so nothing is ever
//! deleted on the far side.

mod refusals;
pub mod report;
mod taken;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::SystemTime;

pub use self::refusals::{KeptRefusal, Refusal, Refusals};
pub use self::taken::{CLOCK_TOLERANCE, FUTURE_TOLERANCE, KeptTaken, Move, Taken, Untimely, Window};
use super::chain::{self, Chain, base_of, chain};
use super::{Cause, OnRewrite};
use crate::model::key::{CommitId, Destination, HeldObject, folded_path};
use crate::model::program::Program;
use crate::model::target::{FarHead, FarUnknown, branch_problem, path_problem, project_problem};
use crate::text::short_commit;

/// The objects of a destination that count, and what their names say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The object that brings the destination's commit.
    pub object: &'a HeldObject,
    /// All that counts, in the order in which it is applied: the whole history, and the increments on top of it. The last is
    /// `object`.
    pub chain: Vec<&'a HeldObject>,
    /// The commit, or why it cannot be brought.
    pub commit: Result<CommitId, Obstacle>,
    /// Commits of increments that lead on from the whole history, but are older than it.
    pub passed_over: Vec<CommitId>,
}

/// What counts of each destination's objects, sorted by destination. The others are left alone.
pub fn candidates(held: &[HeldObject]) -> Vec<Candidate<'_>> {
    let mut objects: HashMap<&Destination, Vec<&HeldObject>> = HashMap::new();
    for object in held {
        objects.entry(&object.name.destination).or_default().push(object);
    }
    let mut objects: Vec<_> = objects.into_iter().collect();
    objects.sort_unstable_by_key(|(destination, _)| *destination);
    let mut spellings: HashMap<(String, &str), Vec<&Destination>> = HashMap::new();
    for (destination, _) in &objects {
        let place = (folded_path(&destination.path()), destination.branch.as_str());
        spellings.entry(place).or_default().push(destination);
    }
    let doubtful: HashSet<&Destination> = spellings.into_values().filter(|all| all.len() > 1).flatten().collect();
    let candidates = objects.into_iter().filter_map(|(destination, objects)| {
        let (chain, passed_over) = (chain(&objects), chain::passed_over(&objects));
        let object = chain.as_ref().map_or(*objects.first()?, Chain::tip);
        let commit = match (doubtful.contains(destination), &chain) {
            (true, _) => Err(Obstacle::Spellings),
            (false, None) => Err(Obstacle::NoWhole),
            (false, Some(_)) => commit_of(object).map_err(Obstacle::Name),
        };
        let chain = chain.iter().flat_map(Chain::objects).collect();
        Some(Candidate { object, chain, commit, passed_over })
    });
    candidates.collect()
}

/// The commit that an object's name says, or why the name cannot be used.
fn commit_of(object: &HeldObject) -> Result<CommitId, String> {
    if let Some(problem) = name_problem(object) {
        return Err(problem);
    }
    match object.name.commit.parse::<CommitId>() {
        Ok(commit) if commit.is_none() => Err(
            "its object's name says 40 zeros instead of a commit, which would delete the far branch: find out who can \
             write to the bucket"
                .to_owned(),
        ),
        Ok(commit) => Ok(commit),
        Err(_) => Err(format!(
            "its object's name says {:?} instead of the 40 hexadecimal digits of a commit: publish it again",
            short_commit(&object.name.commit)
        )),
    }
}

/// Why an object's name cannot be used: names become a URL and a branch.
fn name_problem(object: &HeldObject) -> Option<String> {
    let Destination { group, project, branch } = &object.name.destination;
    let problem = |what: &str, why: String| format!("the {what} in its object's name {why}: correct the target list");
    path_problem(group)
        .map(|why| problem("group", why))
        .or_else(|| project_problem(project).map(|why| problem("project", why)))
        .or_else(|| branch_problem(branch).map(|why| problem("branch", why)))
}

/// What one pass will do, sorted by destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryPlan {
    /// What to push; at most one for each destination.
    pub deliveries: Vec<Deliver>,
    /// Destinations that nothing is pushed to, and why.
    pub blocked: Vec<Undeliverable>,
    /// The newest object of destinations that are left to the next pass: the producer may be just replacing their objects.
    pub unsettled: Vec<HeldObject>,
    /// The object that brings the commit, of destinations that are there.
    pub unchanged: Vec<HeldObject>,
}

/// Brings a far branch to the commit of its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deliver {
    /// The object that brings the commit.
    pub object: HeldObject,
    /// All that leads there, in the order in which it is applied: the whole history, and the increments on top of it. The last
    /// is `object`.
    pub chain: Vec<HeldObject>,
    /// What of it is sent.
    pub route: Route,
    /// The commit.
    pub commit: CommitId,
    /// Where the far branch is; `None` if it does not exist.
    pub from: Option<CommitId>,
    /// What to do if the commit does not descend from `from`. Only the object can tell.
    pub on_rewrite: OnRewrite,
    /// Why.
    pub reason: DeliverReason,
}

impl Deliver {
    /// Where it goes.
    pub fn destination(&self) -> &Destination {
        &self.object.name.destination
    }

    /// The size of what is downloaded, in bytes. If it is not known where to begin, it can be less.
    pub fn download_bytes(&self) -> u64 {
        let first = match self.route {
            Route::All | Route::Search => 0,
            Route::From(first) => first,
        };
        self.chain.iter().skip(first).map(|object| object.bytes).sum()
    }
}

/// What is sent to a far branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// There is none: everything, from the whole history on.
    All,
    /// It is where this object of the chain, an increment, begins: that one, and those after it.
    From(usize),
    /// It is somewhere else. One of the increments may lead back to it; otherwise it is sent what it lacks of everything.
    Search,
}

/// Why an object is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliverReason {
    /// The far side has no such branch.
    New,
    /// The far side shows no such project.
    NoProject,
    /// The far branch is at another commit.
    Behind,
    /// The far side refused it before, and is asked again.
    Again,
}

impl fmt::Display for DeliverReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "the far GitLab has no such branch",
            Self::NoProject => {
                "no such project is visible; the far GitLab makes it if the user may create projects there"
            }
            Self::Behind => "the far branch is at another commit",
            Self::Again => "it was refused before, and is tried again",
        })
    }
}

/// A destination that nothing is pushed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undeliverable {
    /// Its newest object.
    pub object: HeldObject,
    /// Why.
    pub obstacle: Obstacle,
}

impl Undeliverable {
    /// The destination.
    pub fn destination(&self) -> &Destination {
        &self.object.name.destination
    }
}

/// Why nothing is pushed to a destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Obstacle {
    /// The object's name cannot be used.
    #[error("{0}")]
    Name(String),
    /// Other objects are of the same branch, which they spell differently.
    #[error("the bucket holds it in several spellings, which are one branch to GitLab: let the target list name one")]
    Spellings,
    /// There are increments, but no whole history that they are on top of.
    #[error(
        "the bucket holds increments of it, but no whole history that they are on top of: the producer uploads it in its next \
         pass; see to it that nothing else deletes objects"
    )]
    NoWhole,
    /// The far branch is where increments lead that are older than the whole history.
    #[error(
        "the far branch is where increments lead that are older than the whole object: the producer deletes them in its next pass; \
         if they stay, what copies the bucket has to copy a destination's whole object first, or keep the objects' times"
    )]
    Order,
    /// It is not known where the far branch is.
    #[error(transparent)]
    Far(#[from] FarUnknown),
    /// An earlier attempt failed in a way that another one would repeat.
    #[error("{0}")]
    Refused(Refusal),
}

impl Obstacle {
    /// The kind of trouble.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Name(_) | Self::Spellings => Cause::NameInvalid,
            Self::NoWhole => Cause::Damaged,
            Self::Order => Cause::WrongContent,
            Self::Far(FarUnknown::NoProject { .. }) => Cause::NoProject,
            Self::Far(FarUnknown::LoginRefused(_) | FarUnknown::Refused(_)) => Cause::NoRight,
            Self::Far(FarUnknown::Unreadable(_) | FarUnknown::NotTried) => Cause::Unreachable,
            Self::Refused(refusal) => refusal.cause,
        }
    }

    /// Whether it also looks so while a producer is replacing the objects: it uploads first, and then deletes, and a listing
    /// of several pages may see only a part of that.
    pub fn may_settle(&self) -> bool {
        matches!(self, Self::Spellings | Self::NoWhole | Self::Order)
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Far(FarUnknown::LoginRefused(_)) => {
                "Check GITLAB_USERNAME and GITLAB_TOKEN: the token may have expired, and needs the scope write_repository. If \
                 GitLab has banned this address after many refusals, that ends by itself within an hour."
            }
            _ => self.cause().advice(Program::Consumer),
        }
    }
}

/// The operator's choices, and the time.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryPolicy {
    /// `ON_REWRITE`.
    pub on_rewrite: OnRewrite,
    /// When the pass began.
    pub now: SystemTime,
    /// Whether to try again what was refused, although its pause is not over.
    pub ask_again: bool,
}

/// Decides what one pass pushes. A destination without an entry in `far` counts as not tried.
pub fn plan_deliveries(
    candidates: &[Candidate<'_>],
    far: &BTreeMap<Destination, FarHead>,
    refusals: &Refusals,
    policy: DeliveryPolicy,
) -> DeliveryPlan {
    let mut plan = DeliveryPlan::default();
    for candidate in candidates {
        let object = candidate.object;
        let head = far.get(&object.name.destination);
        match decide(candidate, head, refusals, policy) {
            Decision::Deliver { commit, from, reason } => {
                let (object, chain) = (object.clone(), candidate.chain.iter().copied().cloned().collect());
                let (route, on_rewrite) = (route(&candidate.chain, from), policy.on_rewrite);
                plan.deliveries.push(Deliver { object, chain, route, commit, from, on_rewrite, reason });
            }
            Decision::Leave => plan.unchanged.push(object.clone()),
            Decision::Block(obstacle) => plan.blocked.push(Undeliverable { object: object.clone(), obstacle }),
        }
    }
    plan
}

enum Decision {
    Deliver { commit: CommitId, from: Option<CommitId>, reason: DeliverReason },
    Leave,
    Block(Obstacle),
}

/// What a far branch that is there is sent of the chain.
fn route(chain: &[&HeldObject], far: Option<CommitId>) -> Route {
    match far {
        None => Route::All,
        Some(head) => chain.iter().rposition(|it| base_of(it) == Some(head)).map_or(Route::Search, Route::From),
    }
}

/// The only place that decides about a destination of the far side.
fn decide(
    Candidate { object, commit, chain, passed_over }: &Candidate<'_>,
    head: Option<&FarHead>,
    refusals: &Refusals,
    policy: DeliveryPolicy,
) -> Decision {
    let commit = match commit {
        Ok(commit) => *commit,
        Err(obstacle) => return Decision::Block(obstacle.clone()),
    };
    let (from, reason) = match head {
        None => return Decision::Block(FarUnknown::NotTried.into()),
        Some(FarHead::Unknown(why)) => return Decision::Block(why.clone().into()),
        Some(FarHead::At(head)) if *head == commit => return Decision::Leave,
        Some(FarHead::At(head)) => (Some(*head), DeliverReason::Behind),
        Some(FarHead::Absent) => (None, DeliverReason::New),
        Some(FarHead::NoProject) => (None, DeliverReason::NoProject),
    };
    if let (Some(head), Route::Search) = (from, route(chain, from))
        && passed_over.contains(&head)
    {
        return Decision::Block(Obstacle::Order);
    }
    match refusals.of(object, from, policy.on_rewrite) {
        None => Decision::Deliver { commit, from, reason },
        Some(refusal) if policy.ask_again || refusal.is_due(policy.now) => {
            Decision::Deliver { commit, from, reason: DeliverReason::Again }
        }
        Some(refusal) => Decision::Block(Obstacle::Refused(refusal.clone())),
    }
}

#[cfg(test)]
mod tests;
