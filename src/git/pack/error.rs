//! Why a pack was not taken.

use std::io;

use crate::git::references::Malformed;

/// Why a pack was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Reading from the wire or writing to the disk failed.
    #[error("cannot store the pack under WORKDIR")]
    Io(#[from] io::Error),
    #[error("the pack that the server sent is damaged: {0}")]
    Damaged(String),
    #[error("the server sent an empty pack")]
    Empty,
    /// An object in it refers to one that is not there.
    #[error(
        "the history that the server sent is incomplete: the {what} {id} is missing; run git fsck on the project in GitLab"
    )]
    Incomplete { what: &'static str, id: String },
    #[error("the repository's pack is larger than MAX_REPOSITORY_BYTES allows ({limit} bytes)")]
    TooLarge { limit: u64 },
}

impl From<Malformed> for PackError {
    fn from(Malformed(kind): Malformed) -> Self {
        Self::Damaged(format!("a {kind} in it is malformed"))
    }
}

pub(super) fn damaged(error: gix_error::Error) -> PackError {
    PackError::Damaged(format!("{:#}", anyhow::Error::new(error)))
}
