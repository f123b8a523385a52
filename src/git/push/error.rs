//! Why a push was not taken.

use std::time::Duration;

use super::super::wire::WireError;
use super::refusal::Refusal;
use crate::model::key::CommitId;
use crate::net::http::{RequestError, Retryable};
use crate::retries::Trouble;
use crate::text::error_chain;

/// Why a push was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The branch's head could not be asked for, or the status of the answer to the push says no (4xx).
    #[error(transparent)]
    NotTaken(#[from] WireError),
    /// No report came. If everything was sent, the branch's head tells whether the push was taken.
    #[error("{}", broken(*all_sent))]
    During { all_sent: bool, source: WireError },
    /// The server says no.
    #[error("the Git server refuses the push: {reason}{}", in_its_words(said))]
    Refused {
        refusal: Refusal,
        reason: String,
        /// What it says in addition: a bounded part, printable.
        said: String,
    },
    #[error("the Git server does not report whether it takes a push (it lacks report-status), so nothing was sent")]
    NoReport,
    #[error("{0:?} is not a valid name of a branch")]
    NotABranch(String),
    #[error("40 zeros are not a commit: the push would delete the branch, so nothing was sent")]
    Deletes,
}

fn broken(all_sent: bool) -> &'static str {
    if all_sent {
        "the push was sent, but no report of it came back"
    } else {
        "the push broke off before everything was sent"
    }
}

fn in_its_words(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" (it says: {said})") }
}

impl PushError {
    /// The branch is at another commit than expected, or there is none.
    pub fn moved(head: Option<CommitId>) -> Self {
        let reason = match head {
            Some(head) => format!("the branch is at {head} meanwhile"),
            None => "the branch is gone meanwhile".to_owned(),
        };
        Self::Refused { refusal: Refusal::Moved, reason, said: String::new() }
    }

    /// A refusal by the answer's status.
    pub(super) fn answered(refusal: Refusal, answer: &WireError) -> Self {
        Self::Refused { refusal, reason: error_chain(answer), said: String::new() }
    }

    /// Whether the server may have taken the push, although no report came.
    pub fn all_sent(&self) -> bool {
        matches!(self, Self::During { all_sent: true, .. })
    }

    /// Whether the server accepted the login, as far as this error shows.
    pub fn login(&self) -> Option<bool> {
        match self {
            Self::NotTaken(WireError::Request(error)) | Self::During { source: WireError::Request(error), .. } => {
                error.refuses_login().then_some(false)
            }
            // A server reads the login before it says anything else.
            Self::Refused { .. } | Self::NoReport => Some(true),
            Self::NotTaken(_) | Self::During { .. } | Self::NotABranch(_) | Self::Deletes => None,
        }
    }

    /// Why the server refuses it, if that is so.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(*refusal),
            Self::NotTaken(_) | Self::During { .. } | Self::NoReport | Self::NotABranch(_) | Self::Deletes => None,
        }
    }
}

impl From<RequestError> for PushError {
    fn from(error: RequestError) -> Self {
        Self::NotTaken(error.into())
    }
}

impl Retryable for PushError {
    /// The same push may be tried again with a new body. If everything was sent before, it sends nothing if it was taken.
    fn retry(&self) -> (bool, Duration) {
        match self {
            Self::NotTaken(error) | Self::During { source: error, .. } => error.retry(),
            Self::Refused { refusal: Refusal::Busy, .. } => (true, Duration::ZERO),
            Self::Refused { .. } | Self::NoReport | Self::NotABranch(_) | Self::Deletes => (false, Duration::ZERO),
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::NotTaken(error) | Self::During { source: error, .. } => error.trouble(),
            _ => None,
        }
    }
}
