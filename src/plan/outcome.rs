//! The results of a plan's actions as plain data. Status, metrics, report, log and page read only this.

use std::time::Duration;

use super::{Action, Cause};
use crate::model::key::CommitId;
use crate::model::stage::Stage;

/// The result of an action.
#[derive(Debug)]
pub struct Outcome {
    /// The action.
    pub action: Action,
    /// How it ended.
    pub result: Result<Done, Failure>,
}

/// A completed action.
#[derive(Debug)]
pub enum Done {
    /// The object is uploaded, and what it supersedes is deleted.
    Published(Published),
    /// The action's keys are deleted.
    Deleted,
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The published commit: the planned one, unless the branch moved and the server pruned that.
    pub commit: CommitId,
    /// The object's key.
    pub key: String,
    /// The object's size in bytes.
    pub bytes: u64,
    /// What the object is on top of, if it is an increment.
    pub base: Option<CommitId>,
    /// How much larger the destination's last whole object is, in bytes, if this one is an increment.
    pub saved_bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// The previously published commit, if this one does not descend from it.
    pub rewritten_from: Option<CommitId>,
    /// Paths of the commit that are Git LFS pointers: their content does not cross.
    pub lfs_paths: usize,
}

/// A branch whose head does not descend from what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// The published commit.
    pub from: CommitId,
    /// The head.
    pub to: CommitId,
}

/// Why an action did not complete. The next pass tries again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The program was asked to stop.
    Stopped,
    /// The branch was rewritten, and `ON_REWRITE` holds it.
    Held {
        /// From which commit to which.
        rewrite: Rewrite,
        /// The error in words, with what to do.
        error: String,
    },
    /// Something went wrong.
    Failed {
        /// The kind of problem.
        cause: Cause,
        /// The stage it failed in.
        stage: Stage,
        /// The error chain, on one line.
        error: String,
    },
}
