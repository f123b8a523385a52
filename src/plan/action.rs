//! What a plan is made of: actions and their reasons, and targets that are blocked or unchanged.
//!
//! Invariant: an action leaves nothing to decide to the code that carries it out.

use std::fmt;
use std::time::SystemTime;

use super::{How, Increment, OnRewrite, WhyWhole};
use crate::model::key::{self, ArchiveFormat, CommitId, Destination, KeyTooLong};
use crate::model::target::{Target, Unknown};

/// One thing to do for one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Upload one commit under `key`, then delete `supersedes`.
    Publish(Box<Publish>),
    /// Delete every object of a destination that no target names any more.
    Retire(Retire),
    /// Delete what an interrupted pass left beside a current object.
    Sweep(Sweep),
}

impl Action {
    /// The destination it concerns.
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
    /// Whether the whole history is sent, or what is new.
    pub how: How,
    /// The object to write for the whole history.
    pub key: String,
    /// Keys to delete once `key` is up; never `key` itself.
    pub supersedes: Vec<String>,
    /// Whether an object is at `key` already.
    pub overwrites: bool,
    /// Size in bytes of the destination's newest whole object, or 0: an estimate for this one.
    pub held_bytes: u64,
    /// When the destination's newest object was written, by the server's clock.
    pub newest_written: Option<SystemTime>,
    /// What to do if `commit` turns out not to descend from [`Self::old_commit`].
    pub on_rewrite: OnRewrite,
    /// Why.
    pub reason: PublishReason,
}

impl Publish {
    /// What is new, if that is to cross alone.
    pub fn increment(&self) -> Option<&Increment> {
        match &self.how {
            How::Increment(increment) => Some(increment),
            How::Whole(_) => None,
        }
    }

    /// The object to write, unless a fetch shows that it has to be the whole history.
    pub fn planned_key(&self) -> &str {
        self.increment().map_or(&self.key, |increment| &increment.key)
    }

    /// Why it is uploaded, and how if that does not go without saying.
    pub fn why(&self) -> String {
        match &self.how {
            How::Whole(WhyWhole::Setting | WhyWhole::Reason) => self.reason.to_string(),
            how => format!("{}, {how}", self.reason),
        }
    }

    /// What else may become of it, if something does: that the history was rewritten, only the fetch shows.
    pub fn if_rewritten(&self) -> Option<&'static str> {
        match (self.old_commit(), self.on_rewrite, &self.how) {
            (None, _, _) | (Some(_), OnRewrite::Publish, How::Whole(_)) => None,
            (Some(_), OnRewrite::Publish, How::Increment(_)) => Some("whole if the fetch shows a rewritten history"),
            (Some(_), OnRewrite::Hold, _) => Some("held back if the fetch shows a rewritten history"),
        }
    }

    /// What the object under this key, which was written for it, replaces: never itself.
    pub fn replaced_by<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a String> {
        let replaced = match &self.how {
            How::Increment(increment) if key::decode(key).is_some_and(|it| it.content.format().is_none()) => {
                &increment.supersedes
            }
            How::Increment(_) | How::Whole(_) => &self.supersedes,
        };
        replaced.iter().filter(move |superseded| *superseded != key)
    }

    /// The commit in the name of the destination's newest object, if it is another one.
    pub fn old_commit(&self) -> Option<&str> {
        match &self.reason {
            PublishReason::NewCommit { from } | PublishReason::NotNewest { from } => {
                Some(from.as_str()).filter(|from| *from != self.commit.to_string())
            }
            PublishReason::New
            | PublishReason::OtherFormat { .. }
            | PublishReason::OtherName
            | PublishReason::NoWhole
            | PublishReason::HeldAsIncrements
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

/// A target whose current objects are in the bucket, alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchanged {
    /// The target.
    pub target: Target,
    /// The commit both sides are at.
    pub commit: CommitId,
    /// The size of its objects in bytes.
    pub bytes: u64,
    /// How many of them are increments.
    pub increments: usize,
    /// When the newest of them was written.
    pub last_modified: SystemTime,
}

/// Why a commit is uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishReason {
    /// The bucket holds nothing for the destination.
    New,
    /// The newest object is of another commit.
    NewCommit {
        /// That object's commit.
        from: String,
    },
    /// The commit is there in the other format.
    OtherFormat {
        /// The format it is in.
        from: ArchiveFormat,
    },
    /// The commit is there under a name that the consumer cannot use.
    OtherName,
    /// The commit is there, but an outdated object is as new or newer, and the consumer uses the newest.
    NotNewest {
        /// The newest outdated object's commit.
        from: String,
    },
    /// The commit is there as increments, and `CROSSING` is `whole`.
    HeldAsIncrements,
    /// There are increments, but no whole history that they are on top of.
    NoWhole,
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
            Self::HeldAsIncrements => f.write_str("held as increments, and CROSSING is whole"),
            Self::NoWhole => f.write_str("its whole history is not in the bucket any more"),
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
    /// They were superseded, but not deleted then.
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
    /// Its destination, as written in the target list.
    pub destination: Destination,
    /// What stands in the way.
    pub blocker: Blocker,
}

/// What stands in a target's way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blocker {
    /// The entry in the target list is unusable; the text says why.
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
