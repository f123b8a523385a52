//! What a plan is made of: actions and their reasons, and targets that are blocked or unchanged.
//!
//! Invariant: an action leaves nothing to decide to the code that carries it out.

use std::fmt;
use std::time::SystemTime;

use super::OnRewrite;
use crate::model::key::{ArchiveFormat, CommitId, Destination, KeyTooLong};
use crate::model::target::{Target, Unknown};

/// One thing to do for one destination.
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
    /// The object to write.
    pub key: String,
    /// Keys to delete once `key` is up; never `key` itself.
    pub supersedes: Vec<String>,
    /// Size in bytes of the destination's newest object, or 0: an estimate for this one.
    pub held_bytes: u64,
    /// What to do if `commit` turns out not to descend from [`Self::old_commit`].
    pub on_rewrite: OnRewrite,
    /// Why.
    pub reason: PublishReason,
}

impl Publish {
    /// Whether an object is at `key` already, and is overwritten.
    pub fn overwrites_key(&self) -> bool {
        match &self.reason {
            PublishReason::NotNewest { .. } | PublishReason::Requested => true,
            PublishReason::New
            | PublishReason::NewCommit { .. }
            | PublishReason::OtherFormat { .. }
            | PublishReason::OtherName => false,
        }
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
