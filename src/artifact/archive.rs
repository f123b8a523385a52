//! The archive of one branch: a repository ready to use after unpacking, written as zip or tar.gz to any `Write`.
//!
//! Invariant: a finished archive holds what was announced: each file has the length and the CRC-32 it was given, and each
//! pack an index. After any error, the output never gets the bytes that would make the archive look complete.
//!
//! Packs are compressed already, so both formats store them as they are. All metadata is constant, so equal contents give
//! equal bytes.

mod stored_tar;
mod stored_zip;

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use stored_tar::TarGzArchive;
use stored_zip::ZipArchive;

use super::signature::SignedManifest;
use crate::files::CheckedFile;
use crate::model::key::{ArchiveFormat, CommitId};

/// The archived repository's whole configuration: no remote, no URL, no credential; not bare, because consumers check
/// out a branch in it.
pub(crate) const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n";

/// Where a whole history has its manifest.
const MANIFEST_FOLDER: &str = ".git/git-partition-sync";
/// Names of a manifest and its signature, in that folder and in an increment.
pub(super) const MANIFEST_FILE: &str = "manifest.json";
pub(super) const SIGNATURE_FILE: &str = "manifest.sig";

/// 1980-01-01T00:00:00Z, the earliest time both formats can hold, in seconds since 1970.
const MODIFIED_SECONDS: u64 = 315_532_800;

const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// Read-ahead of a file; one is open at a time.
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// What goes into an archive.
pub struct Contents {
    /// The destination's branch: the only one in the archive, and what `HEAD` points to.
    pub branch: String,
    /// The commit the branch is at.
    pub commit: CommitId,
    /// What the archive says about itself. Without one, it has the bytes of a program that signs nothing.
    pub manifest: Option<SignedManifest>,
    /// Packs that together hold the commit's whole history.
    pub packs: Vec<Pack>,
}

/// A pack and its index.
pub struct Pack {
    /// `pack-` and 40 hexadecimal digits, without an extension.
    pub name: String,
    /// The pack itself, final before the archive is begun.
    pub data: CheckedFile,
    /// Called for the index once all packs are written. It blocks until every object of the pack is verified; an error
    /// fails the archive.
    pub index: Box<dyn FnOnce() -> io::Result<CheckedFile> + Send>,
}

/// Writes the archive to `out` and returns `out`. Packs come first and indexes last, so that archiving overlaps indexing.
///
/// It is an error if the branch name is not valid, or a file is not what its [`CheckedFile`] says.
pub fn write<W: Write>(format: ArchiveFormat, contents: Contents, out: W) -> io::Result<W> {
    match format {
        ArchiveFormat::Zip => fill(ZipArchive::new(out, u32::MAX.into()), contents),
        ArchiveFormat::TarGz => fill(TarGzArchive::new(out), contents),
    }
}

/// Writes a zip archive of these files and nothing else to `out`, and returns `out`.
pub(super) fn write_files<'a, W: Write>(
    files: impl IntoIterator<Item = (&'a str, Content<'a>)>,
    out: W,
) -> io::Result<W> {
    let mut archive = ZipArchive::new(out, u32::MAX.into());
    for (name, content) in files {
        archive.file(name, content)?;
    }
    archive.finish()
}

fn fill<A: Archive>(mut archive: A, contents: Contents) -> io::Result<A::Output> {
    match lay_out(contents, &mut archive) {
        Ok(()) => archive.finish(),
        Err(error) => {
            archive.abandon();
            Err(error)
        }
    }
}

/// The layout, the same for both formats.
fn lay_out(contents: Contents, archive: &mut impl Archive) -> io::Result<()> {
    const PACKS: &str = ".git/objects/pack";

    let reference = format!("refs/heads/{}", contents.branch);
    if !git2::Reference::is_valid_name(&reference) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{reference:?} is not a valid reference name"),
        ));
    }
    let branch_file = format!(".git/{reference}");

    // The consumer's untar creates no parents: every directory comes before what is in it.
    for directory in [".git", ".git/objects", PACKS].into_iter().chain(parents(&branch_file).skip(1)) {
        archive.directory(directory)?;
    }
    archive.file(".git/HEAD", Content::Bytes(format!("ref: {reference}\n").as_bytes()))?;
    archive.file(".git/config", Content::Bytes(CONFIG.as_bytes()))?;
    archive.file(&branch_file, Content::Bytes(format!("{}\n", contents.commit).as_bytes()))?;
    if let Some(SignedManifest { json, signature }) = &contents.manifest {
        archive.directory(MANIFEST_FOLDER)?;
        archive.file(&format!("{MANIFEST_FOLDER}/{MANIFEST_FILE}"), Content::Bytes(json))?;
        if let Some(signature) = signature {
            archive.file(&format!("{MANIFEST_FOLDER}/{SIGNATURE_FILE}"), Content::Bytes(signature))?;
        }
    }

    let mut indexes = Vec::with_capacity(contents.packs.len());
    for Pack { name, data, index } in contents.packs {
        archive.file(&format!("{PACKS}/{name}.pack"), Content::File(&data))?;
        indexes.push((name, index));
    }
    for (name, index) in indexes {
        archive.file(&format!("{PACKS}/{name}.idx"), Content::File(&index()?))?;
    }
    Ok(())
}

/// The directories `file` is in, outermost first.
fn parents(file: &str) -> impl Iterator<Item = &str> {
    file.match_indices('/').map(|(end, _)| &file[..end])
}

/// An archive being written, entry by entry.
trait Archive {
    type Output;

    /// Adds a directory; `path` has no slash at its end.
    fn directory(&mut self, path: &str) -> io::Result<()>;

    /// Adds a regular file.
    fn file(&mut self, path: &str, content: Content<'_>) -> io::Result<()>;

    /// Completes the archive.
    fn finish(self) -> io::Result<Self::Output>;

    /// Leaves it incomplete.
    fn abandon(self);
}

/// What a regular file of the archive holds.
pub(super) enum Content<'a> {
    Bytes(&'a [u8]),
    File(&'a CheckedFile),
    /// A file behind these bytes.
    Joined(&'a [u8], &'a CheckedFile),
}

impl Content<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.len,
            Self::Joined(start, file) => (start.len() as u64).saturating_add(file.len),
        }
    }

    fn crc32(&self) -> u32 {
        match self {
            Self::Bytes(bytes) => crc32fast::hash(bytes),
            Self::File(file) => file.crc32,
            Self::Joined(start, file) => {
                let mut crc32 = crc32fast::Hasher::new();
                crc32.update(start);
                crc32.combine(&crc32fast::Hasher::new_with_initial_len(file.crc32, file.len));
                crc32.finalize()
            }
        }
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Bytes(bytes) => Box::new(*bytes),
            Self::File(file) => Box::new(ExactFile::open(file)?),
            Self::Joined(start, file) => Box::new(start.chain(ExactFile::open(file)?)),
        })
    }
}

/// Reads a file that must be exactly what was announced: its length is in the archive before its content, and in a zip its
/// CRC-32 too. Its end is reached without an error only if both are right.
struct ExactFile<'a> {
    announced: &'a CheckedFile,
    file: BufReader<File>,
    read: u64,
    crc32: crc32fast::Hasher,
}

impl<'a> ExactFile<'a> {
    fn open(announced: &'a CheckedFile) -> io::Result<Self> {
        let opened = File::open(&announced.path).map_err(|error| in_file(&announced.path, error))?;
        let file = BufReader::with_capacity(READ_BUFFER_BYTES, opened);
        Ok(Self { announced, file, read: 0, crc32: crc32fast::Hasher::new() })
    }
}

impl Read for ExactFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let CheckedFile { path, len, crc32 } = self.announced;
        let n = self.file.read(buffer).map_err(|error| in_file(path, error))?;
        self.crc32.update(&buffer[..n]);
        self.read += n as u64;
        let changed = |how| Err(in_file(path, io::Error::new(io::ErrorKind::InvalidData, how)));
        let at_end = n == 0 && !buffer.is_empty();
        match self.read.cmp(len) {
            Ordering::Greater => changed("longer than it was"),
            Ordering::Less if at_end => changed("shorter than it was"),
            Ordering::Equal if at_end && self.crc32.clone().finalize() != *crc32 => changed("not what its CRC-32 says"),
            Ordering::Less | Ordering::Equal => Ok(n),
        }
    }
}

fn in_file(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
pub(super) mod fixture;
#[cfg(test)]
mod tests;
