//! Why an object cannot be opened. Each message follows "`<key>`: ".

use std::io;
use std::path::{Path, PathBuf};

use age::DecryptError;

use super::references::ReferenceError;
use super::signature::TrustError;
use crate::git::pack::PackError;
use crate::git::verify::VerifyError;

/// What is wrong with an object, or with reading it.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The object did not arrive whole; this says nothing about the object.
    #[error("it could not be downloaded")]
    Download(#[source] io::Error),
    #[error("cannot write {}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("none of the given identities decrypts it: it was encrypted to other recipients")]
    OtherRecipients,
    #[error("it is not encrypted with age, or its header is damaged")]
    NotEncrypted(#[source] DecryptError),
    /// It ends early, was changed, or is not an archive.
    #[error("it is damaged or incomplete")]
    Damaged(#[source] io::Error),
    /// An entry of the archive may do harm.
    #[error("refused, its archive holds an entry {path:?} which {reason}")]
    Unsafe { path: String, reason: &'static str },
    /// Its archive is above a limit of this program.
    #[error("refused, its archive has more than {0}")]
    TooLarge(String),
    #[error(transparent)]
    References(#[from] ReferenceError),
    /// Of an increment.
    #[error("its bundle {0}")]
    Bundle(&'static str),
    /// It does not come from where it has to, or its manifest is another object's.
    #[error(transparent)]
    Origin(#[from] TrustError),
    /// Of an object's beginning: whatever comes before its packs takes all of it.
    #[error("neither a manifest nor a pack is in its first {bytes} bytes")]
    NoManifest { bytes: u64 },
    /// The pack of an increment does not fit what it is on top of, or is damaged.
    #[error("its pack cannot be used")]
    Pack(#[source] PackError),
    #[error(transparent)]
    Repository(#[from] VerifyError),
}

impl From<DecryptError> for ArtifactError {
    fn from(error: DecryptError) -> Self {
        match error {
            DecryptError::NoMatchingKeys => Self::OtherRecipients,
            DecryptError::Io(error) => Self::Damaged(error),
            other => Self::NotEncrypted(other),
        }
    }
}

pub(crate) fn in_path(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError {
    let path = path.to_owned();
    move |source| ArtifactError::Disk { path, source }
}
