//! Opening an object: decrypt, read its archive, unpack, verify.
//!
//! Invariant: neither the object nor its name is trusted, since anybody who knows a recipient can encrypt to it.

use std::io::{self, Read};
use std::path::Path;

use super::encrypt::{self, Identities};
use super::error::ArtifactError;
use super::references;
use super::signature::{Judged, Trust, TrustedKeys};
use super::unpack::Unpacker;
use super::walk::{Limits, ObjectFile, walk};
use crate::model::key::{ArchiveFormat, CommitId, Destination};
use crate::model::manifest::{Manifest, Origin};
use crate::plan::delivery::Window;

/// What opens objects, and whose signatures count.
#[derive(Debug)]
pub struct Keys {
    pub(crate) identities: Identities,
    /// Without them, objects need no signature.
    pub(crate) trusted: Option<TrustedKeys>,
}

impl Keys {
    /// What has to be proven of the origin of this destination's objects.
    pub(crate) fn trust<'a>(&'a self, destination: &'a Destination, window: Option<Window>) -> Trust<'a> {
        Trust { destination, keys: self.trusted.as_ref(), window }
    }
}

/// What an object should be, by its name in the bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) format: ArchiveFormat,
    pub(crate) commit: CommitId,
    /// Its length, if the server says one. It only tells early what the archive still holds.
    pub(crate) bytes: Option<u64>,
    /// Its destination, and what has to be proven of its origin.
    pub(crate) trust: Trust<'a>,
}

/// What was found good.
#[derive(Debug)]
pub struct Opened {
    /// Git objects verified.
    pub git_objects: u64,
    /// What the archive says about itself.
    pub said: Said,
}

/// What an archive says about itself, and what of that was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// References of the archive beside its branch. They are left out.
    pub other_references: usize,
    /// Who made it.
    pub origin: Origin,
    /// `None` if it has none, or one that cannot be read and nothing depends on.
    pub manifest: Option<Manifest>,
}

/// Decrypts and unpacks the object that `reader` brings into `repository`, an empty directory. The branch is the repository's
/// only reference, and at the commit. On the disk are only the archive's objects, once. Their history is not verified.
/// After an error, the directory may hold a part of the archive.
pub(crate) fn unpack(
    reader: impl Read,
    expected: &Expected<'_>,
    identities: &Identities,
    limits: Limits,
    repository: &Path,
) -> Result<Said, ArtifactError> {
    let mut unpacker = Unpacker::new(repository)?;
    let said = read_archive(reader, expected, identities, limits, |file, _| unpacker.take(file))?;
    unpacker.finish()?;
    references::write(&repository.join(".git"), &expected.trust.destination.branch, expected.commit)?;
    Ok(said)
}

/// Decrypts an object and reads its archive to the end. Each file of objects goes to `take`, the first one only after the
/// archive's origin was proven; the references have to be the expected ones.
pub(super) fn read_archive<E: From<ArtifactError>>(
    reader: impl Read,
    expected: &Expected<'_>,
    identities: &Identities,
    limits: Limits,
    mut take: impl FnMut(ObjectFile<'_>, &Judged) -> Result<(), E>,
) -> Result<Said, E> {
    let Expected { format, commit, bytes, trust } = *expected;
    let mut judged = None;
    let walked = decrypted(reader, identities, bytes, |archive, archive_bytes| {
        walk::<E>(format, archive, archive_bytes, limits, |file| {
            let judged = match &mut judged {
                Some(judged) => judged,
                none => none.insert(trust.judge(file.manifest, commit).map_err(ArtifactError::from)?),
            };
            take(file, judged)
        })
    })?;
    let judged = judged.map_or_else(|| trust.judge(walked.manifest.as_ref(), commit), Ok);
    let Judged { origin, manifest } = judged.map_err(ArtifactError::from)?;
    let others = walked.references.check(&trust.destination.branch, commit, format);
    Ok(Said { other_references: others.map_err(ArtifactError::from)?, origin, manifest })
}

/// Gives `read` the archive in an object, and the archive's length if the object's is known.
pub(super) fn decrypted<T, R: Read, E: From<ArtifactError>>(
    reader: R,
    identities: &Identities,
    bytes: Option<u64>,
    read: impl FnOnce(&mut dyn Read, Option<u64>) -> Result<T, E>,
) -> Result<T, E> {
    let mut download = Download { reader, failure: None };
    let outcome = encrypt::decrypting(identities, &mut download, bytes)
        .map_err(|error| ArtifactError::from(error).into())
        .and_then(|(mut archive, archive_bytes)| read(&mut archive, archive_bytes));
    // A failed download looks like a damaged object to its reader.
    outcome.map_err(|error: E| match download.failure {
        Some(failure) => ArtifactError::Download(failure).into(),
        None => error,
    })
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
