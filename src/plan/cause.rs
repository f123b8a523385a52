//! Kinds of trouble, and what to do about each.

use super::Blocker;

/// The kind of trouble a target has. It is a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The entry of the target list is invalid.
    Refused,
    /// The source branch could not be read.
    Unreadable,
    /// The object's name would be too long.
    NameTooLong,
    /// No target names the destination, but one in trouble could mean it.
    Kept,
    /// Fetching failed.
    Fetch,
    /// The branch disappeared between probing and fetching.
    BranchGone,
    /// The pack is damaged or too large, or could not be kept.
    Repository,
    /// Its objects take more memory than `MEMORY_BUDGET_BYTES` allows.
    Memory,
    /// WORKDIR's disk is full, or cannot be written to.
    Disk,
    /// The archive could not be made.
    Archive,
    /// S3 did not take the object.
    Upload,
    /// S3 did not delete an object.
    Delete,
    /// The branch was rewritten, and `ON_REWRITE` holds it.
    Held,
    /// It took too long.
    TimeLimit,
    /// An internal error.
    Internal,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Refused,
        Self::Unreadable,
        Self::NameTooLong,
        Self::Kept,
        Self::Fetch,
        Self::BranchGone,
        Self::Repository,
        Self::Memory,
        Self::Disk,
        Self::Archive,
        Self::Upload,
        Self::Delete,
        Self::Held,
        Self::TimeLimit,
        Self::Internal,
    ];

    /// Whether an action ran into it, so that only another action can tell whether it is over.
    pub const fn is_of_an_action(self) -> bool {
        // Planning can find a name that is too long as well; it is then a blocker in each plan.
        !matches!(self, Self::Refused | Self::Unreadable | Self::Kept)
    }

    /// The cause that a blocker counts as.
    pub fn of_blocker(blocker: &Blocker) -> Self {
        match blocker {
            Blocker::Refused(_) => Self::Refused,
            Blocker::HeadUnknown(_) => Self::Unreadable,
            Blocker::KeyTooLong { .. } => Self::NameTooLong,
        }
    }

    /// Its name, in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::NameTooLong => "name_too_long",
            Self::Kept => "kept",
            Self::Fetch => "fetch",
            Self::BranchGone => "branch_gone",
            Self::Repository => "repository",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Archive => "archive",
            Self::Upload => "upload",
            Self::Delete => "delete",
            Self::Held => "held",
            Self::TimeLimit => "time_limit",
            Self::Internal => "internal",
        }
    }

    /// What it is, as a heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Refused => "Invalid entry in the target list",
            Self::Unreadable => "Source branch cannot be read",
            Self::NameTooLong => "Name too long for S3",
            Self::Kept => "Without a target, kept for now",
            Self::Fetch => "Fetching from GitLab fails",
            Self::BranchGone => "Branch disappeared",
            Self::Repository => "Repository cannot be used",
            Self::Memory => "Repository takes too much memory",
            Self::Disk => "WORKDIR cannot be written to",
            Self::Archive => "Archive cannot be made",
            Self::Upload => "Uploading to S3 fails",
            Self::Delete => "Deleting from S3 fails",
            Self::Held => "Rewritten branch, held back",
            Self::TimeLimit => "Not finished in time",
            Self::Internal => "Internal error",
        }
    }

    /// What to do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Refused => "Correct the entry in the target list. Until then, nothing of it is published or deleted.",
            Self::Unreadable => {
                "Does the project still exist under this name, with this branch, and is the token's user a member with \
                 the role Reporter? Correct the target list or the membership. If it is every target, check the token \
                 and GitLab itself. The objects stay."
            }
            Self::Kept => {
                "Correct the target that the reason names. If it means another destination, this one is then retired."
            }
            Self::NameTooLong => "Use a shorter group, project or branch name at the destination.",
            Self::Fetch => {
                "The next pass tries again. If it keeps failing: is GitLab up, and can the token's user clone the \
                 project?"
            }
            Self::BranchGone => "The next pass checks again. If the branch was deleted, correct the target list.",
            Self::Repository => {
                "If it is too large, raise MAX_REPOSITORY_BYTES. If it is damaged or incomplete, run `git fsck` on the \
                 project in GitLab."
            }
            Self::Memory => {
                "Raise the container's memory limit, and MEMORY_BUDGET_BYTES if it is set. docs/scaling.md says how much \
                 is needed. The object stays."
            }
            Self::Disk => {
                "Enlarge WORKDIR's volume or lower MIRROR_CACHE_BYTES, and check that this user may write to it."
            }
            Self::Archive => "The next pass fetches again from scratch. If it keeps failing, check WORKDIR's disk.",
            Self::Upload => "Check the bucket's policy, the AWS credentials and the region. The next pass tries again.",
            Self::Delete => {
                "Allow s3:DeleteObject for the credentials. The next pass deletes what is outdated. A new object, if \
                 there is one, is already in the bucket."
            }
            Self::Held => {
                "Ask the project's maintainers whether they rewrote the history on purpose. If so, run one pass with \
                 `-on-rewrite=publish`; else wait until the branch is restored. The object stays."
            }
            Self::TimeLimit => "The repository is very large or the network slow: raise TARGET_TIMEOUT.",
            Self::Internal => "The next pass tries again. Please report it with the log.",
        }
    }
}
