//! Why a pass failed, and why one destination was not delivered.
//!
//! Invariant: only this file translates an error into [`Failure`], the plain data that everything else reads.

use std::io;
use std::time::Duration;

use tokio::task::JoinError;

use crate::artifact::error::ArtifactError;
use crate::artifact::stream::StreamError;
use crate::bucket::BucketError;
use crate::git::heads::LoginRefused;
use crate::git::pack::subset::SubsetError;
use crate::git::push::{PushError, Refusal};
use crate::interrupt::Cut;
use crate::model::stage::Stage;
use crate::net::http::{RequestError, Retryable};
use crate::plan::Cause;
use crate::plan::outcome::{Failure, Rewrite};
use crate::text::error_chain;
use crate::workdir::WorkdirError;

/// Why there is no plan. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("cannot read a secret")]
    Secret(#[source] anyhow::Error),
    /// Our folder in WORKDIR was removed and cannot be created again.
    #[error(transparent)]
    Workdir(#[from] WorkdirError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Login(#[from] LoginRefused),
    #[error("stopped")]
    Stopped,
}

/// Why one destination was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliverError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("its object cannot be used")]
    Object(#[from] ArtifactError),
    /// The object cannot be streamed. This is not a failure: it is delivered by way of the disk.
    #[error("its object needs the disk: {0}")]
    NeedsDisk(&'static str),
    #[error("cannot use WORKDIR for its object")]
    Disk(#[source] io::Error),
    #[error("cannot make the pack to push")]
    Subset(#[source] SubsetError),
    /// The push took no more of the pack. Its answer says why.
    #[error("the push took no more of the pack")]
    Receiver(#[source] io::Error),
    #[error("cannot push")]
    Push(#[from] PushError),
    /// The far branch does not lead to the object's commit, and `ON_REWRITE` holds it.
    #[error(
        "the far branch is at {}, and {} does not descend from it: somebody else pushed, or the history was rewritten. \
         To replace it, run one pass with -on-rewrite=publish",
        .0.from, .0.to
    )]
    Held(Rewrite),
    #[error("not finished within TARGET_TIMEOUT ({} s)", .0.as_secs())]
    TimeLimit(Duration),
    #[error("stopped")]
    Stopped,
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A thread of the program failed.
    #[error("internal error: a task failed")]
    Task(#[from] JoinError),
}

impl From<Cut> for DeliverError {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Stopped => Self::Stopped,
            Cut::TimeLimit(limit) => Self::TimeLimit(limit),
        }
    }
}

impl Retryable for DeliverError {
    fn retry(&self) -> (bool, Duration) {
        match self {
            Self::Object(ArtifactError::Download(_)) => (true, Duration::ZERO),
            Self::Push(error) => error.retry(),
            _ => (false, Duration::ZERO),
        }
    }
}

impl DeliverError {
    fn cause(&self) -> Cause {
        match self {
            Self::Bucket(_) | Self::Object(ArtifactError::Download(_)) => Cause::Download,
            Self::Object(ArtifactError::OtherRecipients) => Cause::NotOurs,
            Self::Object(ArtifactError::References(_)) => Cause::WrongContent,
            Self::Object(ArtifactError::Disk { .. }) | Self::Disk(_) => Cause::Disk,
            Self::Object(ArtifactError::TooLarge(_)) => Cause::TooLarge,
            Self::Subset(SubsetError::Memory(_)) => Cause::Memory,
            Self::Subset(SubsetError::Disk { .. }) => Cause::Disk,
            Self::Object(_) | Self::NeedsDisk(_) | Self::Subset(_) => Cause::Damaged,
            Self::Push(error) => push_cause(error),
            Self::Receiver(_) => Cause::Push,
            Self::Held(_) => Cause::Diverged,
            Self::TimeLimit(_) => Cause::TimeLimit,
            Self::Request(_) => Cause::Push,
            Self::Stopped | Self::Task(_) => Cause::Internal,
        }
    }

    /// The error as plain data; `at` is the stage of the delivery's progress.
    pub(super) fn into_failure(self, at: Stage) -> Failure {
        match self {
            Self::Stopped => Failure::Stopped,
            Self::Held(rewrite) => Failure::Held { rewrite, error: self.to_string() },
            _ => Failure::Failed { cause: self.cause(), stage: at, error: error_chain(&self) },
        }
    }
}

impl From<StreamError> for DeliverError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Artifact(error) => Self::Object(error),
            StreamError::NeedsDisk(why) => Self::NeedsDisk(why),
            StreamError::Receiver(error) => Self::Receiver(error),
        }
    }
}

impl From<SubsetError> for DeliverError {
    fn from(error: SubsetError) -> Self {
        match error {
            SubsetError::Receiver(error) => Self::Receiver(error),
            SubsetError::Stopped => Self::Stopped,
            error => Self::Subset(error),
        }
    }
}

/// What the far server's answer means.
fn push_cause(error: &PushError) -> Cause {
    match error.refusal() {
        Some(Refusal::ProtectedBranch | Refusal::NotForward) => Cause::ProtectedBranch,
        Some(Refusal::Hook | Refusal::Malformed | Refusal::NameTaken | Refusal::HiddenRef | Refusal::Other) => {
            Cause::Hook
        }
        Some(Refusal::LfsMissing) => Cause::LfsMissing,
        Some(Refusal::TooLarge) => Cause::TooLarge,
        Some(Refusal::NotAllowed) => Cause::NoRight,
        Some(Refusal::Moved) => Cause::FarMoved,
        // Everything was sent, and is not what the far side can use.
        Some(Refusal::Unpacker | Refusal::MissingObjects) => Cause::Damaged,
        Some(Refusal::Busy) | None => Cause::Push,
    }
}
