//! Unpacks an archive's objects into an empty directory.
//!
//! Invariant: all that is written are new regular files below the directory: objects, and this program's configuration.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::archive;
use super::error::{ArtifactError, in_path};
use super::walk::{BUFFER_BYTES, ObjectFile, ends_early, fill, occurs_twice};
use crate::files::{create_private_dir, new_private_file};

/// A directory that becomes a repository. After an error, it may hold a part of one.
pub(super) struct Unpacker<'a> {
    dir: &'a Path,
    buffer: Box<[u8]>,
}

impl<'a> Unpacker<'a> {
    /// Starts in the empty directory `dir`.
    pub(super) fn new(dir: &'a Path) -> Result<Self, ArtifactError> {
        // Git recognises a repository by these two, and refs/ may be empty if references are packed.
        for needed in [".git/objects", ".git/refs"] {
            let needed = dir.join(needed);
            create_private_dir(&needed).map_err(in_path(&needed))?;
        }
        Ok(Self { dir, buffer: vec![0; BUFFER_BYTES].into() })
    }

    /// Writes a file of objects.
    pub(super) fn take(&mut self, file: ObjectFile<'_>) -> Result<(), ArtifactError> {
        self.write(file.path, file.content, file.size)
    }

    /// Makes it a repository.
    pub(super) fn finish(mut self) -> Result<(), ArtifactError> {
        self.write(".git/config", &mut archive::CONFIG.as_bytes(), archive::CONFIG.len() as u64)
    }

    fn write(&mut self, path: &str, content: &mut dyn Read, size: u64) -> Result<(), ArtifactError> {
        let file = self.dir.join(path);
        let mut out = create_new(&file).map_err(|error| match error {
            // The directory was empty, so another entry is in the way.
            ArtifactError::Disk { source, .. } if is_in_the_way(source.kind()) => occurs_twice(path.as_bytes()),
            other => other,
        })?;
        let mut written = 0;
        loop {
            let n = fill(content, &mut self.buffer)?;
            if n == 0 {
                return if written == size { Ok(()) } else { Err(ends_early(path)) };
            }
            out.write_all(&self.buffer[..n]).map_err(in_path(&file))?;
            written += n as u64;
        }
    }
}

fn create_new(path: &Path) -> Result<File, ArtifactError> {
    if let Some(parent) = path.parent() {
        create_private_dir(parent).map_err(in_path(parent))?;
    }
    new_private_file(path).map_err(in_path(path))
}

fn is_in_the_way(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}
