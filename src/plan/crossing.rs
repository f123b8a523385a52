//! How a commit crosses: whole, or as what it adds to an earlier one.
//!
//! Invariant: a destination's objects stay few and small beside its whole history: at most [`Policy::max_increments`] on top of
//! it, together at most half as large.

use std::fmt;

use super::chain::{self, Chain};
use super::policy::{Crossing, Policy};
use crate::model::key::{CommitId, Destination, HeldObject, encode_increment};
use crate::text::{human_bytes, short_commit};

/// A smaller whole object is sent again whole: that takes no longer, and leaves one object.
pub const LEAST_BASE_BYTES: u64 = 256 << 10;
/// All increments together may have this share of the whole object's size, in percent.
const INCREMENTS_PERCENT: u64 = 50;

/// How a commit crosses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// With its whole history.
    Whole(WhyWhole),
    /// As what it adds to an earlier commit. Whole, if a fetch shows that this cannot be, or that it is too large.
    Increment(Increment),
}

/// What an increment is, and what it replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Increment {
    /// The commit that it is on top of.
    pub base: CommitId,
    /// The object to write.
    pub key: String,
    /// Keys to delete once `key` is up.
    pub supersedes: Vec<String>,
    /// Whether it takes in earlier increments, which `supersedes` names.
    pub takes_in_earlier: bool,
    /// If its object would be larger, the commit crosses whole.
    pub limit_bytes: u64,
}

/// Why a commit crosses whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyWhole {
    /// `CROSSING` is `whole`.
    Setting,
    /// The reason for publishing says it.
    Reason,
    /// The whole object that it would be on top of is small.
    SmallBase,
    /// All increments together are half as large as the whole object.
    Share,
    /// The branch is back at a commit before the newest one.
    SetBack,
    /// The newest object's name says no commit.
    NoCommit,
    /// There are increments on the whole object that are older than it: killed passes leave such, or S3's clock was set back. A
    /// further one would not count then.
    OlderIncrements,
    /// The increment's name would be longer than S3 allows.
    KeyTooLong,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Increment(increment) => {
                write!(f, "crosses as an increment on {}", short_commit(&increment.base.to_string()))
            }
            Self::Whole(why) => why.fmt(f),
        }
    }
}

impl fmt::Display for WhyWhole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting | Self::Reason => f.write_str("crosses whole"),
            Self::SmallBase => {
                write!(f, "crosses whole: the last whole object has less than {}", human_bytes(LEAST_BASE_BYTES))
            }
            Self::Share => {
                write!(f, "crosses whole: the increments have {INCREMENTS_PERCENT} % of the whole object's size")
            }
            Self::SetBack => f.write_str("crosses whole: the branch was set back"),
            Self::NoCommit => f.write_str("crosses whole: the newest object's name says no commit"),
            Self::OlderIncrements => {
                f.write_str("crosses whole: the bucket holds increments that are older than what they are on top of")
            }
            Self::KeyTooLong => f.write_str("crosses whole: an increment's name would be too long for S3"),
        }
    }
}

/// How `commit` crosses if the destination is at the tip of `chain`, another commit. `held` are all its objects, and `others`
/// those that are not in the chain.
pub(super) fn how(
    destination: &Destination,
    commit: CommitId,
    chain: &Chain<'_>,
    held: &[&HeldObject],
    others: &[String],
    policy: Policy<'_>,
) -> How {
    let whole = &chain.whole;
    let sizes: Vec<u64> = chain.increments.iter().map(|increment| increment.bytes).collect();
    let most = whole.bytes / 100 * INCREMENTS_PERCENT;
    let is_set_back = chain.objects().any(|object| object.name.commit == commit.to_string());
    let commits: Option<Vec<CommitId>> = chain.objects().map(|object| object.name.commit.parse().ok()).collect();
    match (policy.crossing, commits) {
        (Crossing::Whole, _) => How::Whole(WhyWhole::Setting),
        (Crossing::Incremental, None) => How::Whole(WhyWhole::NoCommit),
        (Crossing::Incremental, Some(_)) if is_set_back => How::Whole(WhyWhole::SetBack),
        (Crossing::Incremental, Some(_)) if !chain::passed_over(held).is_empty() => {
            How::Whole(WhyWhole::OlderIncrements)
        }
        (Crossing::Incremental, Some(_)) if whole.bytes < LEAST_BASE_BYTES => How::Whole(WhyWhole::SmallBase),
        (Crossing::Incremental, Some(_)) if sizes.iter().sum::<u64>() >= most => How::Whole(WhyWhole::Share),
        (Crossing::Incremental, Some(commits)) => {
            let kept = kept(&sizes, policy.max_increments.get());
            let base = commits[kept];
            let Ok(key) = encode_increment(destination, base, commit) else { return How::Whole(WhyWhole::KeyTooLong) };
            let taken_in = &chain.increments[kept..];
            let mut supersedes = others.to_vec();
            supersedes.extend(taken_in.iter().map(|increment| increment.key.clone()));
            supersedes.sort();
            How::Increment(Increment {
                base,
                key,
                supersedes,
                takes_in_earlier: !taken_in.is_empty(),
                limit_bytes: most - sizes[..kept].iter().sum::<u64>(),
            })
        }
    }
}

/// How many increments stay, from the first on; the new one replaces the others. All of them, as long as there may be one more.
///
/// Else the new one begins further back: it takes in the last one, those that are too many, and the ones before as long as each
/// is smaller than what is taken in already. The new part itself counts as much as the last one: how large it is, only a fetch
/// can tell. So each byte is sent again only when the part that it is in has doubled.
fn kept(sizes: &[u64], most: usize) -> usize {
    if sizes.len() < most {
        return sizes.len();
    }
    let mut kept = most.min(sizes.len()).saturating_sub(1);
    let last = sizes.last().copied().unwrap_or_default();
    let mut taken_in = sizes[kept..].iter().fold(last, |sum, size| sum.saturating_add(*size));
    while let Some(size) = kept.checked_sub(1).map(|at| sizes[at]).filter(|size| *size < taken_in) {
        taken_in = taken_in.saturating_add(size);
        kept -= 1;
    }
    kept
}
