//! Goes through an archive from front to back and judges each entry, without trusting anything the archive says about
//! itself.
//!
//! Invariant: only files of a history's objects (packs and loose objects) are handed on, under paths inside
//! `.git/objects`. References and the manifest, which comes before them, are kept in memory. Anything that makes git run or read something else (configuration, hooks,
//! alternates) is left out.

mod untar;
mod unzip;

use std::io::{self, Read};

use self::untar::untar;
pub(super) use self::unzip::unzip;
use super::error::ArtifactError;
use super::references::References;
use super::signature::{SIGNATURE_BYTES, SignedManifest};
use crate::model::key::ArchiveFormat;
use crate::model::manifest::MANIFEST_LIMIT_BYTES;

/// The longest path of an entry, in bytes: Linux's `PATH_MAX`.
const MAX_PATH_BYTES: usize = 4096;

/// A piece of a file on its way; each destination has one such buffer. Several of age's chunks, which have 64 KiB.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// Bounds of an archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Entries of any kind.
    pub(crate) entries: usize,
    /// Content of all files together.
    pub(crate) bytes: u64,
}

impl Default for Limits {
    /// Far above real repositories: one million entries (archives of the Go program hold a working tree) and 256 GiB.
    fn default() -> Self {
        Self { entries: 1_000_000, bytes: 256 << 30 }
    }
}

/// What an archive held.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Entries of any kind.
    pub(super) entries: usize,
    /// Content of all files together.
    pub(super) bytes: u64,
    pub(super) references: References,
    pub(super) manifest: Option<SignedManifest>,
}

/// A file of a history's objects.
pub(super) struct ObjectFile<'a> {
    /// Relative and safe, for example `.git/objects/pack/pack-….pack`.
    pub(super) path: &'a str,
    pub(super) kind: ObjectFileKind,
    pub(super) size: u64,
    /// It may end before `size`, but not after.
    pub(super) content: &'a mut dyn Read,
    /// The references that came before it.
    pub(super) references: &'a References,
    /// The archive's manifest. None follows.
    pub(super) manifest: Option<&'a SignedManifest>,
    /// How many bytes of the archive are left at most for further entries and all that belongs to them, if that is known.
    pub(super) room_behind: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectFileKind {
    Pack,
    Index,
    /// A file with one object.
    Loose,
}

/// Reads the archive in `reader` to its end and gives each file of objects to `take`, which reads its content.
///
/// A zip archive may hold only what this program puts into one. A tar archive may be one of the Go program's: the rest of an
/// ordinary clone is accepted, and ignored. `archive_bytes` is the archive's length, if it is known; nothing is refused
/// because of it.
pub(super) fn walk<E: From<ArtifactError>>(
    format: ArchiveFormat,
    reader: impl Read,
    archive_bytes: Option<u64>,
    limits: Limits,
    take: impl FnMut(ObjectFile<'_>) -> Result<(), E>,
) -> Result<Walked, E> {
    let mut walk = Walk { format, limits, walked: Walked::default(), is_past_manifest: false, take };
    match format {
        ArchiveFormat::Zip => unzip::<E>(reader, archive_bytes, |entry| walk.entry(entry))?,
        ArchiveFormat::TarGz => untar::<E>(reader, |entry| walk.entry(entry))?,
    }
    Ok(walk.walked)
}

/// An entry as the archive has it.
pub(super) struct Entry<'a> {
    pub(super) path: &'a [u8],
    /// Or why it is refused.
    pub(super) kind: Result<EntryKind, &'static str>,
    pub(super) size: u64,
    pub(super) content: &'a mut dyn Read,
    room_behind: Option<u64>,
}

pub(super) enum EntryKind {
    File,
    Directory,
}

struct Walk<F> {
    format: ArchiveFormat,
    limits: Limits,
    walked: Walked,
    /// Whether a file of objects has come.
    is_past_manifest: bool,
    take: F,
}

impl<F> Walk<F> {
    /// Judges an entry, and reads its content to the end.
    fn entry<E: From<ArtifactError>>(&mut self, entry: Entry<'_>) -> Result<(), E>
    where
        F: FnMut(ObjectFile<'_>) -> Result<(), E>,
    {
        let Entry { path, kind, size, mut content, room_behind } = entry;
        self.count(size)?;
        let kind = kind.map_err(|reason| refused(path, reason))?;
        let segments = safe_segments(path).map_err(|reason| refused(path, reason))?;
        let Walked { references, manifest, .. } = &mut self.walked;
        match (kind, role_of(&segments), self.format) {
            (_, Role::Hook, _) => Err(refused(path, "is a hook"))?,
            (_, Role::Other, ArchiveFormat::Zip) => Err(refused(path, "does not belong in a repository's history"))?,
            (EntryKind::File, Role::Objects(kind, path), _) => {
                self.is_past_manifest = true;
                let manifest = manifest.as_ref();
                (self.take)(ObjectFile { path: &path, kind, size, content, references, manifest, room_behind })?;
            }
            (EntryKind::File, Role::Reference(path), _) => references.add(path, &mut content, size)?,
            (EntryKind::File, Role::Manifest | Role::Signature, _) if self.is_past_manifest => {
                Err(refused(path, "does not come before the packs"))?;
            }
            (EntryKind::File, Role::Manifest, _) => match manifest {
                Some(_) => Err(occurs_twice(path))?,
                None => {
                    let json = read_small(content, size, MANIFEST_LIMIT_BYTES, path)?;
                    *manifest = Some(SignedManifest { json, signature: None });
                }
            },
            (EntryKind::File, Role::Signature, _) => match manifest {
                Some(SignedManifest { signature: Some(_), .. }) => Err(occurs_twice(path))?,
                Some(manifest) => manifest.signature = Some(read_small(content, size, SIGNATURE_BYTES, path)?),
                None => Err(refused(path, "does not follow a manifest"))?,
            },
            (EntryKind::File | EntryKind::Directory, _, _) => {
                drain(content)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, size: u64) -> Result<(), ArtifactError> {
        let Walked { entries, bytes, .. } = &mut self.walked;
        *entries += 1;
        *bytes = bytes.saturating_add(size);
        if *entries > self.limits.entries {
            return Err(ArtifactError::TooLarge(format!("{} entries", self.limits.entries)));
        }
        if *bytes > self.limits.bytes {
            return Err(ArtifactError::TooLarge(format!("{} bytes", self.limits.bytes)));
        }
        Ok(())
    }
}

pub(super) fn refused(path: &[u8], reason: &'static str) -> ArtifactError {
    ArtifactError::Unsafe { path: String::from_utf8_lossy(path).into_owned(), reason }
}

pub(super) fn occurs_twice(path: &[u8]) -> ArtifactError {
    refused(path, "occurs twice")
}

pub(super) fn damaged(why: &'static str) -> ArtifactError {
    ArtifactError::Damaged(io::Error::new(io::ErrorKind::InvalidData, why))
}

pub(super) fn ends_early(path: &str) -> ArtifactError {
    ArtifactError::Damaged(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{path} ends early")))
}

/// Reads an entry into memory.
pub(super) fn read_small(
    content: &mut dyn Read,
    size: u64,
    limit: usize,
    path: &[u8],
) -> Result<Vec<u8>, ArtifactError> {
    if size > limit as u64 {
        return Err(ArtifactError::TooLarge(format!("{limit} bytes in {}", String::from_utf8_lossy(path))));
    }
    let mut bytes = vec![];
    content.take(size).read_to_end(&mut bytes).map_err(ArtifactError::Damaged)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(ends_early(&String::from_utf8_lossy(path))) }
}

/// Reads until the buffer is full or the content ends.
pub(super) fn fill(content: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, ArtifactError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match content.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ArtifactError::Damaged(error)),
        }
    }
    Ok(filled)
}

/// Reads to the end, and returns how many bytes that was.
pub(super) fn drain(content: &mut dyn Read) -> Result<u64, ArtifactError> {
    io::copy(content, &mut io::sink()).map_err(ArtifactError::Damaged)
}

/// What an entry is to the repository.
enum Role {
    /// A part of its history, at this path.
    Objects(ObjectFileKind, String),
    /// A file of references, at this path in `.git`.
    Reference(String),
    Manifest,
    Signature,
    /// Written by this program and not taken from an archive: directories, the configuration.
    Usual,
    Hook,
    Other,
}

fn role_of(segments: &[&[u8]]) -> Role {
    let Some((b".git", inside)) = segments.split_first().map(|(first, rest)| (*first, rest)) else {
        return Role::Other;
    };
    let path = |segments: &[&[u8]]| String::from_utf8(segments.join(&b'/')).ok();
    let objects = |kind| path(segments).map_or(Role::Other, |path| Role::Objects(kind, path));
    match inside {
        [b"HEAD" | b"packed-refs" | b"shallow"] | [b"refs", _, _, ..] => {
            path(inside).map_or(Role::Other, Role::Reference)
        }
        [b"objects", b"pack", name] if name.starts_with(b"pack-") && name.ends_with(b".pack") => {
            objects(ObjectFileKind::Pack)
        }
        [b"objects", b"pack", name] if name.starts_with(b"pack-") && name.ends_with(b".idx") => {
            objects(ObjectFileKind::Index)
        }
        [b"objects", fan, name] if is_hex(fan, 2) && is_hex(name, 38) => objects(ObjectFileKind::Loose),
        [b"git-partition-sync", b"manifest.json"] => Role::Manifest,
        [b"git-partition-sync", b"manifest.sig"] => Role::Signature,
        []
        | [b"config" | b"objects" | b"refs" | b"git-partition-sync"]
        | [b"objects", b"pack"]
        | [b"refs", b"heads"] => Role::Usual,
        [b"hooks", name, ..] if !name.ends_with(b".sample") => Role::Hook,
        _ => Role::Other,
    }
}

/// As Git writes names: it would not find an object under a name in upper case.
pub(super) fn is_hex(text: &[u8], digits: usize) -> bool {
    text.len() == digits && text.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// The segments of a relative path that stays inside the directory. A leading `./` and a trailing `/` are usual in tar
/// archives.
fn safe_segments(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.len() > MAX_PATH_BYTES {
        return Err("has a name that is too long");
    }
    if path.contains(&b'\\') || path.contains(&0) {
        return Err("has a backslash or a NUL in its name");
    }
    if path.starts_with(b"/") {
        return Err("has an absolute path");
    }
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if matches!(path, b"" | b".") {
        return Ok(vec![]);
    }
    let segments: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    if segments.iter().any(|&segment| matches!(segment, b"" | b"." | b"..")) {
        return Err("has an empty, `.` or `..` segment in its path");
    }
    Ok(segments)
}

#[cfg(test)]
mod tests;
