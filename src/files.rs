//! Files that only this user can read, and files whose length and checksum are known.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// A file whose length and CRC-32 are known, in bytes and as zip counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// Its CRC-32 (IEEE), as in zip archives.
    pub crc32: u32,
}

/// A writer that counts and checksums what passes through.
pub(crate) struct Checked<W> {
    inner: W,
    len: u64,
    crc32: crc32fast::Hasher,
}

impl<W> Checked<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, len: 0, crc32: crc32fast::Hasher::new() }
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where it went.
    pub(crate) fn into_inner(self) -> W {
        self.inner
    }

    /// What was written so far, as the file at `path`.
    pub(crate) fn finish(&self, path: PathBuf) -> CheckedFile {
        CheckedFile { path, len: self.len, crc32: self.crc32.clone().finalize() }
    }
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc32.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What is wrong with a directory that should be ours.
pub fn not_ours(metadata: &fs::Metadata) -> Option<&'static str> {
    if metadata.is_symlink() {
        Some("is a symbolic link")
    } else if !metadata.is_dir() {
        Some("is not a directory")
    } else if metadata.uid() != geteuid().as_raw() {
        Some("belongs to another user")
    } else {
        None
    }
}

/// Whether it is a directory of this user, not a link to one.
pub fn is_private_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| not_ours(&metadata).is_none())
}

/// Free space for this user on a directory's file system, in bytes; 0 if unknown.
pub fn available_bytes(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |fs| fs.f_bavail * fs.f_frsize)
}

/// Creates a directory that only this user can enter; an existing one gets these permissions.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Creates a file, for this user only, that must not be there yet.
pub(crate) fn new_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a file for writing, creating it for this user only, and keeping its content.
pub fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).read(true).create(true).truncate(false).mode(0o600).open(path)
}
