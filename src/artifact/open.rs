//! Opening an object: decrypt, unpack, verify.
//!
//! Invariant: neither the object nor its name is trusted, since anybody who knows a recipient can encrypt to it.

use std::io::{self, Read};
use std::path::Path;

use super::encrypt::{self, Identities};
use super::error::ArtifactError;
use super::references;
use super::unpack::{UnpackLimits, unpack};
use crate::git::verify::{Verified, verify};
use crate::memory::MemoryBudget;
use crate::model::key::{ArchiveFormat, CommitId};

/// What was found good.
#[derive(Debug)]
pub struct Opened {
    /// Git objects verified.
    pub git_objects: u64,
    /// References of the archive that are not in the repository.
    pub other_references: usize,
}

/// Decrypts and unpacks the object that `reader` brings into `repository`, an empty directory, and verifies it: `branch`
/// is at `commit`, and the history is complete and intact. The branch is the repository's only reference. A zip archive takes twice its size on the disk for a while.
/// After an error, the directory may hold a part of the archive.
pub(crate) fn open(
    reader: impl Read,
    format: ArchiveFormat,
    branch: &str,
    commit: CommitId,
    identities: &Identities,
    repository: &Path,
    memory: &MemoryBudget,
) -> Result<Opened, ArtifactError> {
    let mut download = Download { reader, failure: None };
    let unpacked = encrypt::decrypting(identities, &mut download)
        .map_err(ArtifactError::from)
        .and_then(|plaintext| unpack(format, plaintext, repository, UnpackLimits::default()));
    // A failed download looks like a damaged object to its reader.
    let unpacked = unpacked.map_err(|error| download.failure.take().map_or(error, ArtifactError::Download))?;
    let other_references = unpacked.references.check(branch, commit, format)?;
    references::write(&repository.join(".git"), branch, commit)?;
    let Verified { objects } = verify(repository, commit, memory)?;
    Ok(Opened { git_objects: objects, other_references })
}

/// Passes the object on, and keeps the error that ended it early.
struct Download<R> {
    reader: R,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Download<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failure = Some(error);
            }
            kind.into()
        })
    }
}
