//! Opening an object: decrypt, read its archive, unpack, verify.
//!
//! Invariant: neither the object nor its name is trusted, since anybody who knows a recipient can encrypt to it.

use std::io::{self, Read};
use std::path::Path;

use super::encrypt::{self, Identities};
use super::error::ArtifactError;
use super::references;
use super::unpack::Unpacker;
use super::walk::{Limits, ObjectFile, walk};
use crate::git::verify::{Verified, verify};
use crate::memory::MemoryBudget;
use crate::model::key::{ArchiveFormat, CommitId};

/// What an object should be, by its name in the bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) format: ArchiveFormat,
    pub(crate) branch: &'a str,
    pub(crate) commit: CommitId,
    /// Its length, if the server says one. It only tells early what the archive still holds.
    pub(crate) bytes: Option<u64>,
}

/// What was found good.
#[derive(Debug)]
pub struct Opened {
    /// Git objects verified.
    pub git_objects: u64,
    /// References of the archive that are not in the repository.
    pub other_references: usize,
}

/// Decrypts and unpacks the object that `reader` brings into `repository`, an empty directory, and verifies it: the branch
/// is at the commit, and the history is complete and intact. The branch is the repository's only reference. On the disk are
/// only the archive's objects, once.
/// After an error, the directory may hold a part of the archive.
pub(crate) fn open(
    reader: impl Read,
    expected: &Expected<'_>,
    identities: &Identities,
    limits: Limits,
    repository: &Path,
    memory: &MemoryBudget,
) -> Result<Opened, ArtifactError> {
    let other_references = unpack(reader, expected, identities, limits, repository)?;
    let Verified { objects } = verify(repository, expected.commit, memory)?;
    Ok(Opened { git_objects: objects, other_references })
}

/// The same without verifying the history: for a receiver that does so itself. Returns how many references of the archive
/// are not in the repository.
pub(crate) fn unpack(
    reader: impl Read,
    expected: &Expected<'_>,
    identities: &Identities,
    limits: Limits,
    repository: &Path,
) -> Result<usize, ArtifactError> {
    let mut unpacker = Unpacker::new(repository)?;
    let other_references = read_archive(reader, expected, identities, limits, |file| unpacker.take(file))?;
    unpacker.finish()?;
    references::write(&repository.join(".git"), expected.branch, expected.commit)?;
    Ok(other_references)
}

/// Decrypts an object and reads its archive to the end. Each file of objects goes to `take`; the references have to be the
/// expected ones. Returns how many others there are.
pub(super) fn read_archive<E: From<ArtifactError>>(
    reader: impl Read,
    expected: &Expected<'_>,
    identities: &Identities,
    limits: Limits,
    take: impl FnMut(ObjectFile<'_>) -> Result<(), E>,
) -> Result<usize, E> {
    let Expected { format, branch, commit, bytes } = *expected;
    let mut download = Download { reader, failure: None };
    let walked = encrypt::decrypting(identities, &mut download, bytes)
        .map_err(|error| ArtifactError::from(error).into())
        .and_then(|(archive, archive_bytes)| walk(format, archive, archive_bytes, limits, take));
    // A failed download looks like a damaged object to its reader.
    let walked = walked.map_err(|error: E| match download.failure {
        Some(failure) => ArtifactError::Download(failure).into(),
        None => error,
    })?;
    Ok(walked.references.check(branch, commit, format).map_err(ArtifactError::from)?)
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
