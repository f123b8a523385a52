//! An increment: what a commit has and its base has not, as a Git bundle beside its manifest, in a stored zip.
//!
//! Invariant: what is read is used only after everything was good: age's end, each CRC-32, the archive's end, the pack's
//! checksum, and a manifest that is the one of the object's name. Nothing of it touches the disk before the manifest was
//! judged.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use sha1::{Digest, Sha1};

use super::archive::{Content, MANIFEST_FILE, SIGNATURE_FILE, write_files};
use super::encrypt::Identities;
use super::error::{ArtifactError, in_path};
use super::open::decrypted;
use super::references;
use super::signature::{SIGNATURE_BYTES, SignedManifest, Trust};
use super::stream::{LEAST_PACK_BYTES, PACK_HEADER_BYTES, PACK_TRAILER_BYTES};
use super::walk::{BUFFER_BYTES, Entry, Limits, damaged, ends_early, fill, read_small, refused, unzip};
use crate::files::{Checked, CheckedFile, new_private_file};
use crate::git::pack::thin::receive_thin;
use crate::git::pack::{IndexTurns, ReceiveLimits};
use crate::memory::MemoryBudget;
use crate::model::key::CommitId;
use crate::model::manifest::{MANIFEST_LIMIT_BYTES, Manifest, Origin};

const BUNDLE_FILE: &str = "increment.bundle";
/// A bundle's first line. Version 3 is only needed for other hashes and filters.
const BUNDLE_SIGNATURE: &str = "# v2 git bundle";
/// What a pack begins with: its signature and its version.
const PACK_START: &[u8] = b"PACK\0\0\0\x02";

/// What an increment brings, by its name in the bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpectedIncrement<'a> {
    pub(crate) commit: CommitId,
    pub(crate) base: CommitId,
    /// The object's length, if the server says one.
    pub(crate) bytes: Option<u64>,
    /// Its destination, and what has to be proven of its origin.
    pub(crate) trust: Trust<'a>,
}

/// An increment that is whole and what its name says. Whether the pack's objects are good, and complete over the base, is for
/// Git to tell.
#[derive(Debug)]
pub(crate) struct Increment {
    pub(crate) manifest: Manifest,
    pub(crate) origin: Origin,
    /// The thin pack alone.
    pub(crate) pack: CheckedFile,
}

/// Writes the increment of a branch from `base` to `commit` to `out`, and returns `out`. `pack` holds what `commit` reaches
/// and `base` does not; its deltas may have bases that `base` reaches.
///
/// It is an error if the branch name is not valid, or the pack is not what its [`CheckedFile`] says. Then `out` lacks the
/// archive's end.
pub(crate) fn write<W: Write>(
    manifest: &SignedManifest,
    branch: &str,
    commit: CommitId,
    base: CommitId,
    pack: &CheckedFile,
    out: W,
) -> io::Result<W> {
    if !git2::Reference::is_valid_name(&format!("refs/heads/{branch}")) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{branch:?} is not a valid name of a branch")));
    }
    let header = bundle_header(branch, commit, base);
    let signature = manifest.signature.as_ref().map(|signature| (SIGNATURE_FILE, Content::Bytes(signature)));
    let files = [(MANIFEST_FILE, Content::Bytes(&manifest.json))].into_iter().chain(signature);
    write_files(files.chain([(BUNDLE_FILE, Content::Joined(header.as_bytes(), pack))]), out)
}

/// Adds an increment's pack to the repository that holds what it is on top of, and moves its only branch to `commit`.
pub(crate) fn apply(
    pack: &CheckedFile,
    repository: &Path,
    branch: &str,
    commit: CommitId,
    limit_bytes: u64,
    memory: &MemoryBudget,
    interrupt: &AtomicBool,
) -> Result<(), ArtifactError> {
    let (git_dir, turns) = (repository.join(".git"), IndexTurns::default());
    let limits = ReceiveLimits { pack_bytes: limit_bytes, interrupt, memory, turns: &turns };
    let thin = File::open(&pack.path).map_err(in_path(&pack.path))?;
    receive_thin(thin, &git_dir.join("objects/pack"), &limits, || {}).map_err(ArtifactError::Pack)?;
    references::move_branch(&git_dir, branch, commit)
}

/// Decrypts the increment that `reader` brings, and writes its pack to `pack`, which must not exist. Nothing in it is trusted.
/// After an error, `pack` does not exist.
pub(crate) fn read(
    reader: impl Read,
    expected: &ExpectedIncrement<'_>,
    identities: &Identities,
    limits: Limits,
    pack: &Path,
) -> Result<Increment, ArtifactError> {
    let mut reading = Reading { expected, limits, pack, front: Front::default(), increment: None, has_file: false };
    let read = decrypted(reader, identities, expected.bytes, |archive, archive_bytes| {
        unzip::<ArtifactError>(archive, archive_bytes, |entry| reading.entry(entry))
    });
    let Reading { increment, has_file, .. } = reading;
    let read = read.and_then(|()| increment.ok_or_else(|| damaged("it holds no bundle")));
    if read.is_err() && has_file {
        // What cannot be removed is in the caller's folder, as what was written so far.
        drop(fs::remove_file(pack));
    }
    read
}

/// An archive of which some entries were read.
struct Reading<'a> {
    expected: &'a ExpectedIncrement<'a>,
    limits: Limits,
    pack: &'a Path,
    front: Front,
    increment: Option<Increment>,
    /// Whether the pack's file was created.
    has_file: bool,
}

impl Reading<'_> {
    /// Reads an entry to its end. There are a manifest, its signature or not, and a bundle, in this order.
    fn entry(&mut self, entry: Entry<'_>) -> Result<(), ArtifactError> {
        if self.increment.is_some() {
            return Err(out_of_place(entry.path));
        }
        if let Some((found, Bundle { content, size })) = self.front.take(entry)? {
            let ExpectedIncrement { commit, base, trust, .. } = *self.expected;
            let (origin, manifest) = trust.judge_increment(found, commit, base)?;
            let pack = self.bundle(content, size)?;
            self.increment = Some(Increment { manifest, origin, pack });
        }
        Ok(())
    }

    /// Reads the bundle, and writes the pack in it.
    fn bundle(&mut self, content: &mut dyn Read, size: u64) -> Result<CheckedFile, ArtifactError> {
        let ExpectedIncrement { commit, base, trust, .. } = *self.expected;
        if size > self.limits.bytes {
            return Err(ArtifactError::TooLarge(format!("{} bytes", self.limits.bytes)));
        }
        let header = bundle_header(&trust.destination.branch, commit, base);
        let mut buffer = vec![0; BUFFER_BYTES];
        let n = fill(content, &mut buffer)?;
        let mut piece = match buffer[..n].strip_prefix(header.as_bytes()) {
            Some(start) if start.starts_with(PACK_START) => start,
            Some(_) => return Err(damaged("what its bundle holds is not a pack of version 2")),
            None => return Err(ArtifactError::Bundle(bundle_problem(&buffer[..n], &header))),
        };
        let pack_bytes = size - header.len() as u64;
        let objects = piece.get(PACK_START.len()..PACK_HEADER_BYTES as usize);
        if pack_bytes <= LEAST_PACK_BYTES || objects == Some(&[0; 4]) {
            return Err(damaged("its bundle's pack holds no object"));
        }

        let mut out = Checked::new(new_private_file(self.pack).map_err(in_path(self.pack))?);
        self.has_file = true;
        let (mut sha1, mut left, mut trailer) = (Sha1::new(), pack_bytes - PACK_TRAILER_BYTES, vec![]);
        while !piece.is_empty() {
            out.write_all(piece).map_err(in_path(self.pack))?;
            let (hashed, end) = piece.split_at(piece.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            sha1.update(hashed);
            left -= hashed.len() as u64;
            trailer.extend_from_slice(end);
            let n = fill(content, &mut buffer)?;
            piece = &buffer[..n];
        }
        if out.len() != pack_bytes {
            return Err(ends_early(BUNDLE_FILE));
        }
        if sha1.finalize()[..] != trailer {
            return Err(damaged("its pack does not have the checksum at its end"));
        }
        Ok(out.finish(self.pack.to_owned()))
    }
}

/// What comes before an increment's bundle: a manifest, and its signature or not.
#[derive(Default)]
pub(super) struct Front(Option<SignedManifest>);

/// The bundle, not read yet.
pub(super) struct Bundle<'a> {
    content: &'a mut dyn Read,
    size: u64,
}

impl Front {
    /// Reads the next entry to its end. If it is the bundle, it is left as it is and returned, with the manifest before it.
    pub(super) fn take<'a>(
        &mut self,
        Entry { path, kind, size, content, .. }: Entry<'a>,
    ) -> Result<Option<(&SignedManifest, Bundle<'a>)>, ArtifactError> {
        kind.map_err(|reason| refused(path, reason))?;
        let is = |name: &str| path == name.as_bytes();
        match &mut self.0 {
            found @ None if is(MANIFEST_FILE) => {
                let json = read_small(content, size, MANIFEST_LIMIT_BYTES, path)?;
                *found = Some(SignedManifest { json, signature: None });
            }
            Some(SignedManifest { signature: signature @ None, .. }) if is(SIGNATURE_FILE) => {
                *signature = Some(read_small(content, size, SIGNATURE_BYTES, path)?);
            }
            Some(found) if is(BUNDLE_FILE) => return Ok(Some((found, Bundle { content, size }))),
            _ => return Err(out_of_place(path)),
        }
        Ok(None)
    }
}

fn out_of_place(path: &[u8]) -> ArtifactError {
    refused(path, "does not belong there in an increment")
}

/// What comes before a bundle's pack: the commit that a receiver must have, and the only branch.
fn bundle_header(branch: &str, commit: CommitId, base: CommitId) -> String {
    format!("{BUNDLE_SIGNATURE}\n-{base}\n{commit} refs/heads/{branch}\n\n")
}

/// How a bundle's header differs from the expected one. Each text follows "its bundle".
fn bundle_problem(bundle: &[u8], expected: &str) -> &'static str {
    let mut lines = bundle.split(|byte| *byte == b'\n');
    let mut differs = expected.lines().map(|expected| lines.next() != Some(expected.as_bytes()));
    match differs.position(|differs| differs) {
        Some(0) => "is not a Git bundle of version 2",
        Some(1) => "has another base than its name says",
        Some(2) => "has another commit or branch than its name says",
        Some(_) | None => "has more than one base and one branch",
    }
}

#[cfg(test)]
mod tests;
