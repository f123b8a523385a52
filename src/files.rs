//! Files that only this user can read, and files whose length and checksum are known.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
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

/// Whether it is a directory, not a link to one, and this user's.
pub fn is_private_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| not_ours(&metadata).is_none())
}

/// What the file system of a directory has free for this user, in bytes; 0 where nobody knows.
pub fn available_bytes(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |fs| fs.f_bavail * fs.f_frsize)
}

/// Creates a directory that only this user can enter; one that exists is made so.
///
/// # Errors
/// As the file system says.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Opens a file for writing, creating it for this user only, and keeping what it holds.
///
/// # Errors
/// As the file system says.
pub fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).read(true).create(true).truncate(false).mode(0o600).open(path)
}
