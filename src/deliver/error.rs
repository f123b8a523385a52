//! Why a pass failed, and why one destination was not delivered.
//!
//! Invariant: only this file translates an error into [`Failure`], the plain data that everything else reads.

use std::io;
use std::time::Duration;

use tokio::task::JoinError;

use crate::artifact::error::ArtifactError;
use crate::artifact::signature::TrustError;
use crate::artifact::stream::StreamError;
use crate::bucket::BucketError;
use crate::git::heads::{LoginRefused, why_no_push};
use crate::git::pack::PackError;
use crate::git::pack::subset::SubsetError;
use crate::git::push::{PushError, Refusal};
use crate::interrupt::Cut;
use crate::model::manifest::ManifestError;
use crate::model::program::Program;
use crate::model::stage::Stage;
use crate::model::target::FarUnknown;
use crate::net::http::{RequestError, Retryable};
use crate::plan::Cause;
use crate::plan::delivery::Untimely;
use crate::plan::outcome::{Failure, Rewrite};
use crate::retries::{Flaw, Server, Trouble};
use crate::text::error_chain;
use crate::workdir::WorkdirError;

/// Why there is no plan. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("cannot read a secret")]
    Secret(#[source] anyhow::Error),
    /// Without them, nothing is taken.
    #[error("cannot read the trusted keys")]
    TrustedKeys(#[source] anyhow::Error),
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

impl PassError {
    /// What to do about it, if there is anything to do.
    pub fn advice(&self) -> Option<String> {
        Some(match self {
            Self::Secret(_) | Self::TrustedKeys(_) => "Mount the file again, or correct what is in it.".to_owned(),
            Self::Workdir(error) => error.advice(),
            Self::Bucket(error) => error.listing_advice(Program::Consumer),
            Self::Login(_) => LoginRefused::ADVICE.to_owned(),
            Self::Stopped => return None,
        })
    }
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
    /// An increment's pack cannot be read, or does not fit what it is on top of.
    #[error("its increment cannot be used")]
    Increment(#[source] PackError),
    /// A signed object that was published before what was taken already, or in the future.
    #[error("refused, {0}")]
    Untimely(#[from] Untimely),
    /// The plan does not deliver such objects.
    #[error("internal error: an object of the plan cannot be delivered")]
    NoObject,
    /// The push took no more of the pack. Its answer says why.
    #[error("the push took no more of the pack")]
    Receiver(#[source] io::Error),
    #[error("cannot push")]
    Push(#[from] PushError),
    #[error("not tried: the far GitLab has refused the login for others, so the token has expired during this pass")]
    LoginRefused,
    /// The far branch does not lead to the object's commit, and `ON_REWRITE` holds it.
    #[error(
        "the far branch is at {}, and {} does not descend from it: somebody else pushed, or the history was rewritten. \
         To replace it, stop the daemon and run one pass with -run-once -on-rewrite=publish and its WORKDIR",
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

    fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Object(ArtifactError::Download(_)) => Some(Flaw::Broken.of(Server::S3)),
            Self::Push(error) => error.trouble(),
            _ => None,
        }
    }
}

impl DeliverError {
    fn cause(&self) -> Cause {
        match self {
            Self::Bucket(_) => Cause::Download,
            Self::Object(error) => object_cause(error),
            Self::Disk(_) | Self::Subset(SubsetError::Disk { .. }) => Cause::Disk,
            Self::Subset(SubsetError::Memory(_)) => Cause::Memory,
            Self::NeedsDisk(_) | Self::Subset(_) => Cause::Damaged,
            Self::Push(error) => push_cause(error),
            Self::Increment(PackError::Memory(_)) => Cause::Memory,
            Self::Increment(PackError::Io(_)) => Cause::Disk,
            Self::Increment(_) => Cause::Damaged,
            Self::Untimely(_) => Cause::Replayed,
            Self::Receiver(_) => Cause::Push,
            Self::Held(_) => Cause::Diverged,
            Self::TimeLimit(_) => Cause::TimeLimit,
            Self::Request(_) | Self::LoginRefused => Cause::Push,
            Self::NoObject | Self::Stopped | Self::Task(_) => Cause::Internal,
        }
    }

    /// Whether the object is gone since it was listed.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Bucket(error) if error.is_no_such_object())
    }

    /// Whether the far server accepted the login, as far as this error shows.
    pub(super) fn login(&self) -> Option<bool> {
        match self {
            Self::Push(error) => error.login(),
            Self::Request(error) => error.refuses_login().then_some(false),
            _ => None,
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

/// What is wrong with an object.
pub(crate) fn object_cause(error: &ArtifactError) -> Cause {
    match error {
        ArtifactError::Download(_) => Cause::Download,
        ArtifactError::OtherRecipients => Cause::NotOurs,
        ArtifactError::References(_) | ArtifactError::Bundle(_) => Cause::WrongContent,
        ArtifactError::Origin(error) => origin_cause(error),
        // No producer that signs has written it.
        ArtifactError::NoManifest { .. } => Cause::Unsigned,
        ArtifactError::Disk { .. } | ArtifactError::Pack(PackError::Io(_)) => Cause::Disk,
        ArtifactError::Pack(PackError::Memory(_)) => Cause::Memory,
        ArtifactError::TooLarge(_) => Cause::TooLarge,
        ArtifactError::NotEncrypted(_)
        | ArtifactError::Damaged(_)
        | ArtifactError::Unsafe { .. }
        | ArtifactError::Pack(_)
        | ArtifactError::Repository(_) => Cause::Damaged,
    }
}

/// Why an object is not trusted.
fn origin_cause(error: &TrustError) -> Cause {
    match error {
        TrustError::Unsigned => Cause::Unsigned,
        TrustError::UnknownKey(_) | TrustError::BadSignature(_) | TrustError::Malformed => Cause::Untrusted,
        TrustError::Untimely(_) => Cause::Replayed,
        TrustError::Manifest(ManifestError::Another { .. }) => Cause::WrongContent,
        TrustError::Manifest(ManifestError::TooLong | ManifestError::Version(_) | ManifestError::Malformed(_)) => {
            Cause::Damaged
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
        None if let PushError::NotTaken(error) = error
            // A login that is refused does not count as a missing right: that would rest for an hour, also with a new token.
            && matches!(why_no_push("", error), FarUnknown::NoProject { .. }) =>
        {
            Cause::NoProject
        }
        Some(Refusal::Busy) | None => Cause::Push,
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    #[test]
    fn a_project_that_is_gone_when_it_is_pushed_to_counts_as_one_that_is_missing() {
        for (status, cause) in [(404, Cause::NoProject), (401, Cause::Push), (403, Cause::Push), (503, Cause::Push)] {
            let Ok(status) = StatusCode::from_u16(status) else { panic!("{status}") };
            let (said, refuses_login) = (String::new(), status == 401);
            let answer = RequestError::Status { status, retry_after: None, said, refuses_login };
            assert_eq!(DeliverError::Push(answer.into()).cause(), cause, "{status}");
        }
    }
}
