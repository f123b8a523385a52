//! Why Git over HTTP did not work.

use std::time::Duration;

use crate::model::key::CommitId;
use crate::net::http::{RequestError, Retryable};
use crate::retries::{Flaw, Server, Trouble};
use crate::text::remote_text;

/// Why Git over HTTP did not work.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The HTTP exchange itself failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the answer is not Git's (its content type is {0:?}): is GITLAB_BASE_URL the base of a GitLab?")]
    NotGit(String),
    #[error("the server does not speak Git's protocol version 2, which Git servers have spoken since 2018")]
    NotVersion2,
    #[error(
        "the server's answer is empty: it is overloaded, or does not speak Git's protocol version 2, which Git servers \
         have spoken since 2018"
    )]
    Empty,
    #[error("the Git server says: {0}")]
    Remote(String),
    /// The branch moved, and the server pruned the old commit.
    #[error("the server no longer has the commit {0}")]
    NotOurRef(CommitId),
    #[error("the repository uses SHA-256 object names, and only SHA-1 repositories can be synchronised")]
    Sha256,
    #[error(
        "the repository is shallow on the server: its history is cut off, so nobody could push it. Complete it there \
         with git fetch --unshallow"
    )]
    Shallow,
    #[error("the server's answer is malformed: {0}")]
    Malformed(&'static str),
    /// The connection ended before the answer did.
    #[error("the server's answer ended before it was complete")]
    Truncated,
}

impl WireError {
    /// The error that a server reports in its own words.
    pub(super) fn reported(text: &[u8]) -> Self {
        let text = remote_text(text);
        if text.contains("mismatched object format") {
            Self::Sha256
        } else if text.contains("expected to get object ID, not 'command=") || text.contains("unknown object type") {
            // What a server that speaks an older version, or was not told the version, makes of a version 2 command.
            Self::NotVersion2
        } else {
            Self::Remote(text)
        }
    }
}

impl Retryable for WireError {
    fn retry(&self) -> (bool, Duration) {
        match self {
            Self::Request(error) => error.retry(),
            Self::Truncated | Self::Empty => (true, Duration::ZERO),
            _ => (false, Duration::ZERO),
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        let flaw = if let Self::Request(error) = self { error.flaw() } else { Flaw::Broken };
        Some(flaw.of(Server::GitLab))
    }
}
