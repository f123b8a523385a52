//! Kinds of trouble, and what to do about each.

use super::Blocker;

/// What kind of trouble a target has. A closed list: it is a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The target list's entry cannot be used.
    Refused,
    /// The source branch could not be read.
    Unreadable,
    /// The object's name would be too long.
    NameTooLong,
    /// Fetching failed.
    Fetch,
    /// The branch vanished between looking and fetching.
    BranchGone,
    /// The pack was not accepted, or could not be kept.
    Repository,
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
    /// A mistake of this program.
    Internal,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Refused,
        Self::Unreadable,
        Self::NameTooLong,
        Self::Fetch,
        Self::BranchGone,
        Self::Repository,
        Self::Disk,
        Self::Archive,
        Self::Upload,
        Self::Delete,
        Self::Held,
        Self::TimeLimit,
        Self::Internal,
    ];

    /// Whether an action ran into it, so that only another one can tell whether it is over.
    pub const fn is_of_an_action(self) -> bool {
        match self {
            Self::Refused | Self::Unreadable => false,
            // Planning can find this one too, and then it is a blocker in each plan.
            Self::NameTooLong
            | Self::Fetch
            | Self::BranchGone
            | Self::Repository
            | Self::Disk
            | Self::Archive
            | Self::Upload
            | Self::Delete
            | Self::Held
            | Self::TimeLimit
            | Self::Internal => true,
        }
    }

    /// What stands in a target's way.
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
            Self::Fetch => "fetch",
            Self::BranchGone => "branch_gone",
            Self::Repository => "repository",
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
            Self::Refused => "Entry of the target list that cannot be used",
            Self::Unreadable => "Source branch that cannot be read",
            Self::NameTooLong => "Name that is too long for S3",
            Self::Fetch => "Fetching from GitLab fails",
            Self::BranchGone => "Branch that vanished",
            Self::Repository => "Repository that cannot be taken",
            Self::Disk => "WORKDIR cannot be written to",
            Self::Archive => "Archive that cannot be made",
            Self::Upload => "Uploading to S3 fails",
            Self::Delete => "Deleting from S3 fails",
            Self::Held => "Rewritten branch, held back",
            Self::TimeLimit => "Not finished in time",
            Self::Internal => "Mistake of this program",
        }
    }

    /// What to do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Refused => "Correct the entry in the target list. Until then nothing of it is published or deleted.",
            Self::Unreadable => {
                "Does the project still exist under this name, with this branch, and is the token's user a member with \
                 the role Reporter? Correct the target list or the membership. Where it is every target, look at the \
                 token and at GitLab itself. The objects stay."
            }
            Self::NameTooLong => "Use a shorter group, project or branch name at the destination.",
            Self::Fetch => {
                "The next pass tries again. Where it goes on: is GitLab up, and can the token's user clone the project?"
            }
            Self::BranchGone => "The next pass looks again. Where the branch is really gone, correct the target list.",
            Self::Repository => {
                "A repository that is too large: raise MAX_REPOSITORY_BYTES. A damaged or incomplete one: run `git fsck` \
                 on the project in GitLab."
            }
            Self::Disk => {
                "Look at the volume that WORKDIR is on: make it larger or MIRROR_CACHE_BYTES smaller, and see that this \
                 user may write to it."
            }
            Self::Archive => "The next pass fetches afresh. Where it goes on, look at WORKDIR's disk.",
            Self::Upload => {
                "Look at the bucket's policy, the AWS credentials and the region. The next pass tries again."
            }
            Self::Delete => {
                "Give the credentials the right s3:DeleteObject; the next pass deletes what is outdated. Where there is a \
                 new object, it is up already."
            }
            Self::Held => {
                "Ask who maintains the project whether the history was rewritten on purpose. If it was, run one pass with \
                 `-on-rewrite=publish`; else wait until the branch is put back. The object stays."
            }
            Self::TimeLimit => "A very large repository or a slow network: raise TARGET_TIMEOUT.",
            Self::Internal => "The next pass tries again. Please report it with the log.",
        }
    }
}
