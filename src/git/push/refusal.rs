//! Why a server refuses a push, and what that means for the next attempt.

use super::said::Said;

/// Why a server refuses a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The branch is protected in GitLab.
    ProtectedBranch,
    /// Git LFS objects that the commit refers to are not in the project.
    LfsMissing,
    /// The user may not push to the project.
    NotAllowed,
    /// A hook says no for another reason.
    Hook,
    /// The pack, a file or the repository is too large for a limit of the server.
    TooLarge,
    /// The server's checks of objects (`receive.fsckObjects`) refuse the history.
    Malformed,
    /// The server could not unpack what was sent.
    Unpacker,
    /// The server lacks objects that the commit refers to.
    MissingObjects,
    /// The branch is no longer where it was.
    Moved,
    /// Another branch's name begins with this one's, or the other way round.
    NameTaken,
    /// The server takes only commits that descend from the branch's head (`receive.denyNonFastForwards`).
    NotForward,
    /// The server hides the branch's name.
    HiddenRef,
    /// The server is overloaded, or was busy with another push of the same objects.
    Busy,
    /// What its words say, and no program knows.
    Other,
}

impl Refusal {
    /// Whether the server lacks what the pack is on top of, so that the whole history may get through.
    pub const fn wants_whole(self) -> bool {
        matches!(self, Self::Unpacker | Self::MissingObjects)
    }

    /// By what is reported of the branch, and the server's words.
    pub(super) fn of_branch(reason: &str, said: &Said) -> Self {
        let reason = reason.to_ascii_lowercase();
        match reason.as_str() {
            _ if is_too_large(&reason, said) => Self::TooLarge,
            // All of GitLab's own reasons come with this one, as words.
            _ if reason.contains("hook declined") => Self::of_hook(said),
            "missing necessary objects" => Self::MissingObjects,
            "non-fast-forward" => Self::NotForward,
            "deny updating a hidden ref" => Self::HiddenRef,
            "unpacker error" => Self::Unpacker,
            "refname conflict" => Self::NameTaken,
            _ if said.contains("exists; cannot create") => Self::NameTaken,
            // Since Git 2.51 the reason may be more precise.
            "failed to update ref"
            | "incorrect old value provided"
            | "reference already exists"
            | "reference does not exist" => Self::Moved,
            _ if said.contains("cannot lock ref") => Self::Moved,
            // Another push has just stored the same objects.
            "unable to migrate objects to permanent storage" => Self::Busy,
            _ => Self::Other,
        }
    }

    fn of_hook(said: &Said) -> Self {
        if said.contains("protected branch") {
            Self::ProtectedBranch
        } else if said.contains("lfs objects are missing") {
            Self::LfsMissing
        } else if said.contains("not allowed to push code") {
            Self::NotAllowed
        } else {
            Self::Hook
        }
    }

    /// By what is reported of the pack, and the server's words.
    pub(super) fn of_pack(unpack: &str, said: &Said) -> Self {
        let unpack = unpack.to_ascii_lowercase();
        if is_too_large(&unpack, said) {
            Self::TooLarge
        } else if unpack.contains("server is busy") {
            Self::Busy
        } else if said.contains("fsck error") {
            Self::Malformed
        } else {
            Self::Unpacker
        }
    }
}

/// Git's own limit (`receive.maxInputSize`), and those of GitLab for a repository and a file.
fn is_too_large(reason: &str, said: &Said) -> bool {
    let words = [
        "exceeds maximum allowed size",
        "exceeded its size limit",
        "exceed the size limit",
        "exceed its size limit",
        "larger than the allowed size",
    ];
    words.iter().any(|words| reason.contains(words) || said.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        let mut said = Said::default();
        said.add(text.as_bytes());
        said
    }

    #[test]
    fn a_branch_is_refused_for_one_of_these_reasons() {
        const HOOK: &str = "pre-receive hook declined";
        for (reason, text, refusal) in [
            (
                HOOK,
                "GitLab: You are not allowed to force push code to a protected branch on this project.",
                Refusal::ProtectedBranch,
            ),
            (
                HOOK,
                "GitLab: You are not allowed to push code to protected branches on this project.",
                Refusal::ProtectedBranch,
            ),
            (
                HOOK,
                "GitLab: LFS objects are missing. Ensure LFS is properly set up or try a manual \"git lfs push --all\".",
                Refusal::LfsMissing,
            ),
            (HOOK, "GitLab: You are not allowed to push code to this project.", Refusal::NotAllowed),
            (HOOK, "GitLab: Commit message does not follow the pattern 'X'", Refusal::Hook),
            (HOOK, "", Refusal::Hook),
            ("hook declined", "no", Refusal::Hook),
            (
                HOOK,
                "GitLab: Your push has been rejected, because this repository has exceeded its size limit of 10 MiB by 3 MiB.",
                Refusal::TooLarge,
            ),
            (HOOK, "GitLab: File \"a\" is larger than the allowed size of 100 MiB.", Refusal::TooLarge),
            ("missing necessary objects", "", Refusal::MissingObjects),
            ("non-fast-forward", "", Refusal::NotForward),
            ("deny updating a hidden ref", "", Refusal::HiddenRef),
            (
                "failed to update ref",
                "error: cannot lock ref 'refs/heads/main': is at a but expected b",
                Refusal::Moved,
            ),
            (
                "failed to update ref",
                "error: cannot lock ref 'refs/heads/a/b': 'refs/heads/a' exists; cannot create 'refs/heads/a/b'",
                Refusal::NameTaken,
            ),
            ("incorrect old value provided", "", Refusal::Moved),
            ("unable to migrate objects to permanent storage", "", Refusal::Busy),
            ("branch is currently checked out", "", Refusal::Other),
            ("", "", Refusal::Other),
        ] {
            assert_eq!(Refusal::of_branch(reason, &said(text)), refusal, "{reason} {text}");
        }
    }

    #[test]
    fn a_pack_is_refused_for_one_of_these_reasons() {
        const ENDED: &str = "index-pack abnormal exit";
        for (unpack, text, refusal) in [
            (ENDED, "fatal: pack exceeds maximum allowed size (1.00 MiB)", Refusal::TooLarge),
            (
                ENDED,
                "error: object 0a: missingSpaceBeforeDate: invalid\nfatal: fsck error in packed object",
                Refusal::Malformed,
            ),
            (ENDED, "fatal: pack has 3 unresolved deltas", Refusal::Unpacker),
            (ENDED, "", Refusal::Unpacker),
            ("server is busy", "GitLab is currently unable to handle this request due to load.", Refusal::Busy),
        ] {
            assert_eq!(Refusal::of_pack(unpack, &said(text)), refusal, "{unpack} {text}");
        }
    }
}
