//! Why a pack was not taken.

use std::io;

use super::subset::SubsetError;
use super::walk::WalkError;
use crate::git::references::Malformed;
use crate::text::human_bytes;

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
    #[error(transparent)]
    Memory(#[from] Shortage),
    /// What was received earlier, and this pack builds on, changed since.
    #[error("the packs that are here already cannot be read")]
    Kept(#[source] SubsetError),
}

/// Why a pack is not decoded: that takes more memory than is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    #[error(
        "the repository's {objects} objects take {} of memory, more than MEMORY_BUDGET_BYTES allows ({}): raise it, and \
         the container's memory limit",
        human_bytes(*needed), human_bytes(*budget)
    )]
    Objects { objects: u32, needed: u64, budget: u64 },
    #[error(
        "decoding the repository's deltas takes {} of memory, more than MEMORY_BUDGET_BYTES allows ({}): raise it, and \
         the container's memory limit",
        human_bytes(*needed), human_bytes(*budget)
    )]
    Deltas { needed: u64, budget: u64 },
    #[error(
        "decoding one of the repository's objects takes {} of memory, more than MEMORY_BUDGET_BYTES allows ({}): raise it, \
         and the container's memory limit",
        human_bytes(*needed), human_bytes(*budget)
    )]
    Loose { needed: u64, budget: u64 },
    #[error("the repository holds an object of more than {} that cannot be read as a stream", human_bytes(*limit))]
    Object { limit: u64 },
    #[error("the system has no memory left")]
    Exhausted,
}

impl Shortage {
    /// Whether the same pack would be refused again.
    pub fn is_of_the_pack(&self) -> bool {
        matches!(self, Self::Objects { .. } | Self::Deltas { .. } | Self::Object { .. })
    }
}

impl From<WalkError> for PackError {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Damaged(why) => Self::Damaged(why),
            WalkError::Memory(shortage) => Self::Memory(shortage),
            WalkError::Stopped => Self::Io(io::ErrorKind::Interrupted.into()),
        }
    }
}

/// Reading packs that are here failed, or writing what was made of them.
impl From<SubsetError> for PackError {
    fn from(error: SubsetError) -> Self {
        match error {
            SubsetError::Memory(shortage) => Self::Memory(shortage),
            SubsetError::Stopped => Self::Io(io::ErrorKind::Interrupted.into()),
            SubsetError::Receiver(error) => error.downcast().unwrap_or_else(Self::Io),
            SubsetError::Disk { .. } | SubsetError::Objects(_) | SubsetError::NoBase(_) => Self::Kept(error),
        }
    }
}

impl From<Malformed> for PackError {
    fn from(Malformed(kind): Malformed) -> Self {
        Self::Damaged(format!("a {kind} in it is malformed"))
    }
}

pub(super) fn damaged(error: gix_error::Error) -> PackError {
    WalkError::from(error).into()
}
