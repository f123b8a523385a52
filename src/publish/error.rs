//! Why a target was not published.
//!
//! Invariant: only this file translates an error into [`Failure`], the plain data that everything else reads.

use std::io;
use std::time::Duration;

use tokio::task::JoinError;

use crate::bucket::BucketError;
use crate::git::pack::PackError;
use crate::git::wire::WireError;
use crate::interrupt::Cut;
use crate::model::key::KeyTooLong;
use crate::model::stage::Stage;
use crate::model::target::Source;
use crate::net::http::{RequestError, Retryable};
use crate::plan::Cause;
use crate::plan::outcome::{Failure, Rewrite};
use crate::retries::Trouble;
use crate::text::error_chain;
use crate::workdir::mirrors::MirrorError;

/// Why a target was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("cannot fetch {source_branch}")]
    Fetch {
        source_branch: String,
        #[source]
        source: WireError,
    },
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error("cannot make the archive")]
    Archive(#[source] io::Error),
    #[error(transparent)]
    Upload(#[from] BucketError),
    /// The branch moved, and its object's name would be too long.
    #[error(transparent)]
    Name(#[from] KeyTooLong),
    #[error("not tried: GitLab has refused the login for others, so the token has expired during this pass")]
    LoginRefused,
    #[error("{0} is gone since it was probed")]
    BranchGone(Source),
    /// The branch was rewritten, and `ON_REWRITE` holds it.
    #[error(
        "the branch was rewritten: {} does not descend from {}, which stays published. If that is right, run one pass \
         with -run-once -on-rewrite=publish and, beside a daemon, -max-retire=0 and -workdir=DIR with an empty folder",
        .0.to, .0.from
    )]
    Held(Rewrite),
    #[error("not finished within TARGET_TIMEOUT ({} s)", .0.as_secs())]
    TimeLimit(Duration),
    #[error("stopped")]
    Stopped,
    /// A request outside of a fetch.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A thread of the program failed.
    #[error("internal error: a task failed")]
    Task(#[from] JoinError),
}

impl From<Cut> for PublishError {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Stopped => Self::Stopped,
            Cut::TimeLimit(limit) => Self::TimeLimit(limit),
        }
    }
}

impl Retryable for PublishError {
    fn retry(&self) -> (bool, Duration) {
        match self {
            Self::Fetch { source, .. } => source.retry(),
            _ => (false, Duration::ZERO),
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        if let Self::Fetch { source, .. } = self { source.trouble() } else { None }
    }
}

impl PublishError {
    pub(super) fn disk_is_full(&self) -> bool {
        let io = match self {
            Self::Pack(PackError::Io(error)) | Self::Mirror(MirrorError::Io(error)) => error,
            _ => return false,
        };
        matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    pub(super) fn is_from_mirror(&self) -> bool {
        matches!(self, Self::Mirror(_) | Self::Pack(PackError::Kept(_)) | Self::Archive(_))
    }

    /// Whether the server refused the login, not the project.
    pub fn refuses_login(&self) -> bool {
        match self {
            Self::Fetch { source: WireError::Request(error), .. } | Self::Request(error) => error.refuses_login(),
            _ => false,
        }
    }

    fn cause(&self) -> Cause {
        match self {
            Self::Fetch { .. } | Self::Request(_) | Self::LoginRefused => Cause::Fetch,
            Self::Pack(PackError::Io(_)) | Self::Mirror(MirrorError::Io(_)) | Self::Upload(BucketError::Record(_)) => {
                Cause::Disk
            }
            Self::Pack(PackError::Memory(_)) | Self::Mirror(MirrorError::Packs(PackError::Memory(_))) => Cause::Memory,
            Self::Pack(_) | Self::Mirror(_) => Cause::Repository,
            Self::Archive(_) => Cause::Archive,
            Self::Upload(_) => Cause::Upload,
            Self::Name(_) => Cause::NameTooLong,
            Self::BranchGone(_) => Cause::BranchGone,
            Self::Held(_) => Cause::Held,
            Self::TimeLimit(_) => Cause::TimeLimit,
            Self::Stopped | Self::Task(_) => Cause::Internal,
        }
    }

    /// The stage that failed, if the target's progress was `at`. The two differ because a fresh pack is uploaded while it is
    /// still being verified.
    fn stage(&self, at: Stage) -> Stage {
        match self {
            Self::Fetch { .. } | Self::LoginRefused | Self::BranchGone(_) => Stage::Fetching,
            Self::Pack(_) | Self::Mirror(_) => at.min(Stage::Verifying),
            Self::Archive(_) | Self::Upload(_) => Stage::Uploading,
            _ => at,
        }
    }

    /// The error as plain data; `at` is the stage of the target's progress.
    pub fn into_failure(self, at: Stage) -> Failure {
        match self {
            Self::Stopped => Failure::Stopped,
            Self::Held(rewrite) => Failure::Held { rewrite, error: self.to_string() },
            _ => Failure::Failed { cause: self.cause(), stage: self.stage(at), error: error_chain(&self) },
        }
    }
}
