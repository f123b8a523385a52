//! Kinds of trouble, and what to do about each.

use super::Blocker;
use crate::model::program::Program;

/// The kind of trouble a target, or a destination of the consumer, has. It is a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The entry of the target list is invalid.
    Refused,
    /// The source branch could not be read.
    Unreadable,
    /// The object's name would be too long.
    NameTooLong,
    /// The object's name stands for a project or a branch that cannot exist.
    NameInvalid,
    /// No target names the destination, but one in trouble could mean it.
    Kept,
    /// The far branch could not be looked up.
    Unreachable,
    /// The far GitLab shows the user no such project, and did not make it.
    NoProject,
    /// The far GitLab does not let the user push to the project.
    NoRight,
    /// Fetching failed.
    Fetch,
    /// The branch disappeared between probing and fetching.
    BranchGone,
    /// S3 did not return the object.
    Download,
    /// The object is encrypted to other recipients.
    NotOurs,
    /// The object has no signature, and one is required.
    Unsigned,
    /// No trusted key signed the object.
    Untrusted,
    /// A signed object of an earlier time was put there again, or a clock is wrong.
    Replayed,
    /// The object is damaged, or is not what a producer writes.
    Damaged,
    /// The object does not hold what its name says.
    WrongContent,
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
    /// The far branch has commits that the object does not have, and `ON_REWRITE` holds it.
    Diverged,
    /// The far branch is protected from this push.
    ProtectedBranch,
    /// A push rule or a hook of the far GitLab refuses the push.
    Hook,
    /// The far GitLab wants the content of Git LFS pointers.
    LfsMissing,
    /// The push, or the object, is larger than a limit allows.
    TooLarge,
    /// The far branch moved between looking it up and pushing.
    FarMoved,
    /// Pushing failed.
    Push,
    /// It took too long.
    TimeLimit,
    /// An internal error.
    Internal,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::Refused,
        Self::Unreadable,
        Self::NameTooLong,
        Self::NameInvalid,
        Self::Kept,
        Self::Unreachable,
        Self::NoProject,
        Self::NoRight,
        Self::Fetch,
        Self::BranchGone,
        Self::Download,
        Self::NotOurs,
        Self::Unsigned,
        Self::Untrusted,
        Self::Replayed,
        Self::Damaged,
        Self::WrongContent,
        Self::Repository,
        Self::Memory,
        Self::Disk,
        Self::Archive,
        Self::Upload,
        Self::Delete,
        Self::Held,
        Self::Diverged,
        Self::ProtectedBranch,
        Self::Hook,
        Self::LfsMissing,
        Self::TooLarge,
        Self::FarMoved,
        Self::Push,
        Self::TimeLimit,
        Self::Internal,
    ];

    /// Those that one program can run into.
    pub const fn of(program: Program) -> &'static [Self] {
        match program {
            Program::Producer => &[
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
            ],
            Program::Consumer => &[
                Self::NameInvalid,
                Self::Unreachable,
                Self::NoProject,
                Self::NoRight,
                Self::Download,
                Self::NotOurs,
                Self::Unsigned,
                Self::Untrusted,
                Self::Replayed,
                Self::Damaged,
                Self::WrongContent,
                Self::Memory,
                Self::Disk,
                Self::Diverged,
                Self::ProtectedBranch,
                Self::Hook,
                Self::LfsMissing,
                Self::TooLarge,
                Self::FarMoved,
                Self::Push,
                Self::TimeLimit,
                Self::Internal,
            ],
        }
    }

    /// Whether an action ran into it, so that only another action can tell whether it is over.
    pub const fn is_of_an_action(self) -> bool {
        // Planning can find a name that is too long as well; it is then a blocker in each plan.
        !matches!(
            self,
            Self::Refused
                | Self::Unreadable
                | Self::Kept
                | Self::NameInvalid
                | Self::Unreachable
                | Self::NoProject
                | Self::NoRight
        )
    }

    /// Whether it probably lies with something that all targets share: a server, a key, a disk.
    pub const fn is_systemic(self) -> bool {
        matches!(
            self,
            Self::Unreachable
                | Self::Download
                | Self::NotOurs
                | Self::Unsigned
                | Self::Untrusted
                | Self::Disk
                | Self::Archive
                | Self::Upload
                | Self::Delete
        )
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
            Self::NameInvalid => "name_invalid",
            Self::Kept => "kept",
            Self::Unreachable => "unreachable",
            Self::NoProject => "no_project",
            Self::NoRight => "no_right",
            Self::Fetch => "fetch",
            Self::BranchGone => "branch_gone",
            Self::Download => "download",
            Self::NotOurs => "not_ours",
            Self::Unsigned => "unsigned",
            Self::Untrusted => "untrusted",
            Self::Replayed => "replayed",
            Self::Damaged => "damaged",
            Self::WrongContent => "wrong_content",
            Self::Repository => "repository",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Archive => "archive",
            Self::Upload => "upload",
            Self::Delete => "delete",
            Self::Held => "held",
            Self::Diverged => "diverged",
            Self::ProtectedBranch => "protected_branch",
            Self::Hook => "hook",
            Self::LfsMissing => "lfs_missing",
            Self::TooLarge => "too_large",
            Self::FarMoved => "far_moved",
            Self::Push => "push",
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
            Self::NameInvalid => "Name that no project or branch can have",
            Self::Kept => "Without a target, kept for now",
            Self::Unreachable => "Far branch cannot be looked up",
            Self::NoProject => "No such project in the far GitLab",
            Self::NoRight => "No right to push",
            Self::Fetch => "Fetching from GitLab fails",
            Self::BranchGone => "Branch disappeared",
            Self::Download => "Downloading from S3 fails",
            Self::NotOurs => "Encrypted to other recipients",
            Self::Unsigned => "Not signed",
            Self::Untrusted => "Not signed by a trusted key",
            Self::Replayed => "Signed, but of another time",
            Self::Damaged => "Object cannot be read",
            Self::WrongContent => "Object is not what its name says",
            Self::Repository => "Repository cannot be used",
            Self::Memory => "Repository takes too much memory",
            Self::Disk => "WORKDIR cannot be written to",
            Self::Archive => "Archive cannot be made",
            Self::Upload => "Uploading to S3 fails",
            Self::Delete => "Deleting from S3 fails",
            Self::Held => "Rewritten branch, held back",
            Self::Diverged => "Far branch has commits of its own, held back",
            Self::ProtectedBranch => "Far branch is protected",
            Self::Hook => "A hook or a push rule refuses the push",
            Self::LfsMissing => "Git LFS objects are missing",
            Self::TooLarge => "Larger than a limit",
            Self::FarMoved => "Far branch moved meanwhile",
            Self::Push => "Pushing to GitLab fails",
            Self::TimeLimit => "Not finished in time",
            Self::Internal => "Internal error",
        }
    }

    /// What to do about it.
    pub const fn advice(self, program: Program) -> &'static str {
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
            Self::Disk => match program {
                Program::Producer => {
                    "Enlarge WORKDIR's volume or lower MIRROR_CACHE_BYTES, and check that this user may write to it."
                }
                Program::Consumer => {
                    "Enlarge WORKDIR's volume or lower SYNC_CONCURRENCY, and check that this user may write to it."
                }
            },
            Self::Archive => "The next pass fetches again from scratch. If it keeps failing, check WORKDIR's disk.",
            Self::Upload => "Check the bucket's policy, the AWS credentials and the region. The next pass tries again.",
            Self::Delete => {
                "Allow s3:DeleteObject for the credentials. The next pass deletes what is outdated. A new object, if \
                 there is one, is already in the bucket."
            }
            Self::Held => {
                "Ask the project's maintainers whether they rewrote the history on purpose. If so, run one pass with \
                 `-on-rewrite=publish`, `-max-retire=0` and a WORKDIR of its own: it publishes all held branches. Else wait until \
                 the branch is restored. The object stays."
            }
            Self::TimeLimit => "The repository is very large or the network slow: raise TARGET_TIMEOUT.",
            Self::Internal => "The next pass tries again. Please report it with the log.",
            Self::NameInvalid => "Correct the destination in the near side's target list.",
            Self::Unreachable => {
                "The next pass tries again. If it keeps failing: is the far GitLab up, and does GITLAB_BASE_URL lead to \
                 it from here?"
            }
            Self::NoProject => {
                "Create the group if it is missing, and allow the token's user to create projects in it; or, if the project exists, \
                 make the user a member. GitLab answers 404 in all these cases, and does not say which it is."
            }
            Self::NoRight => {
                "The token needs the scope write_repository, and its user the role Developer in the project, or Maintainer to \
                 push to a protected branch. If it is every destination, the token may have expired."
            }
            Self::Download => {
                "Allow s3:GetObject to the AWS credentials, and check these and the region. The next pass tries again."
            }
            Self::NotOurs => {
                "Let the near side add this side's recipient to PUBLIC_KEY and publish again (REPUBLISH), or add the \
                 identity that fits to PRIVATE_KEY. `check` shows the recipients of this side."
            }
            Self::Unsigned => {
                "Find out who wrote the object. If it was the near side, let it sign (SIGNING_KEY_FILE) and publish again \
                 (REPUBLISH): no key in TRUSTED_KEYS fits an object without a signature. The far branch stays as it is."
            }
            Self::Untrusted => {
                "Find out who wrote the object. If the error names a key that the near side uses, add its public key to \
                 TRUSTED_KEYS. If the near side does not use it any more, or the signature does not fit, let it publish again \
                 (REPUBLISH). The far branch stays as it is."
            }
            Self::Replayed => {
                "Find out who can write to the bucket, if an old object was put there again, or which clock is wrong. Then let \
                 the near side publish the destination again (REPUBLISH). The far branch stays as it is."
            }
            Self::Damaged => {
                "If a whole history is missing, wait for the producer's next pass. Else let the near side publish it again: \
                 REPUBLISH=GROUP/PROJECT@BRANCH. If that does not help, check what copies the bucket. The far branch stays as it \
                 is."
            }
            Self::WrongContent => {
                "If increments are older than their whole object, wait for the producer's next pass. Else find out who can \
                 write to the bucket: no producer writes such an object. Let the near side publish it again (REPUBLISH). \
                 The far branch stays as it is."
            }
            Self::Diverged => {
                "The history was rewritten on the near side, or somebody pushed to the far branch. If the commits that \
                 only the far branch has can go, stop the daemon and run one pass with `-on-rewrite=publish` and its WORKDIR: that \
                 replaces all held branches. For this one alone, delete the far branch in GitLab."
            }
            Self::ProtectedBranch => {
                "In the far project, under Settings → Repository → Protected branches, let the role of the token's user \
                 push, and for rewritten branches switch on \"Allowed to force push\". The push is tried again after a \
                 while."
            }
            Self::Hook => {
                "Change the rule that the error names, in the far project under Settings → Repository → Push rules, or \
                 in a hook of the server. The push is tried again after a while."
            }
            Self::LfsMissing => {
                "Git LFS content does not cross. In the far project, switch Git LFS off: Settings → General → Visibility, \
                 project features, permissions. The push is tried again after a while."
            }
            Self::TooLarge => {
                "Raise the limit that the error names: MAX_REPOSITORY_BYTES here; in GitLab, Admin → Settings → General \
                 → Account and limit → Maximum push size; in a proxy before it, its limit on bodies (nginx: \
                 client_max_body_size)."
            }
            Self::FarMoved => {
                "The next pass plans again. If it happens often, somebody else pushes to the branch: nobody but this \
                 program should."
            }
            Self::Push => {
                "The next pass tries again. If it keeps failing: is the far GitLab up, and does its log say why? If it \
                 answers 401, replace the token."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_cause_belongs_to_a_program_and_has_a_name_of_its_own_and_advice() {
        let of_a_program: BTreeSet<_> = Program::ALL.into_iter().flat_map(Cause::of).copied().collect();
        assert_eq!(of_a_program, BTreeSet::from(Cause::ALL));
        let names: BTreeSet<_> = Cause::ALL.into_iter().map(Cause::name).collect();
        assert_eq!(names.len(), Cause::ALL.len());
        for program in Program::ALL {
            for cause in Cause::of(program) {
                assert!(!cause.title().is_empty() && cause.advice(program).ends_with(['.', '?']), "{cause:?}");
            }
        }
    }
}
