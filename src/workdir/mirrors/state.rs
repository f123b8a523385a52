//! What a mirror says about itself: `state.json`, and the packs that it names.
//!
//! Invariant: the file is replaced whole, after an operation completed. Files that it does not name are removed before
//! the mirror is used.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::remove;
use crate::files::{CheckedFile, is_private_dir};
use crate::git::pack::ReceivedPack;

const STATE_FILE: &str = "state.json";
/// What a mirror's state promises. A mirror of another format is fetched afresh; format 1 did not promise that the
/// history is complete, and format 2 did not promise that its objects are of the kinds that references to them expect.
pub(super) const STATE_FORMAT: u32 = 3;

/// The state of a complete mirror.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) format: u32,
    pub(super) project: String,
    pub(super) branch: String,
    /// The branch's head.
    pub(super) commit: String,
    /// The first is of a whole history; the others are increments on top of it, in the order in which they came. Each has all
    /// that its deltas are based on.
    pub(super) packs: Vec<StoredPack>,
}

impl State {
    pub(super) fn file(mirror: &Path) -> PathBuf {
        mirror.join(STATE_FILE)
    }

    /// The state of the mirror at `path`, if it is complete: all of its packs are there, at their full length. Everything
    /// else is removed: what a killed run left, and what another program put there.
    pub(super) fn read(path: &Path) -> Option<Self> {
        if !is_private_dir(path) {
            return None;
        }
        let state: Self = serde_json::from_slice(&fs::read(Self::file(path)).ok()?).ok()?;
        let whole = |file: &CheckedFile| fs::metadata(&file.path).is_ok_and(|metadata| metadata.len() == file.len);
        let files: Vec<_> = state.packs.iter().flat_map(|pack| pack.files(&pack_dir(path))).collect();
        let complete = state.format == STATE_FORMAT && !files.is_empty() && files.iter().all(whole);
        (complete && remove_strays(path, &files).is_ok()).then_some(state)
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(path)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.persist(Self::file(path))?;
        Ok(())
    }

    /// The mirror's size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.pack_bytes + pack.index_bytes).sum()
    }
}

pub(super) fn pack_dir(mirror: &Path) -> PathBuf {
    mirror.join("objects/pack")
}

fn remove_strays(mirror: &Path, files: &[CheckedFile]) -> io::Result<()> {
    let packs = pack_dir(mirror);
    let named: HashSet<_> = files.iter().map(|file| &file.path).collect();
    remove_all_but(mirror, |path| *path == State::file(mirror) || packs.starts_with(path))?;
    remove_all_but(&mirror.join("objects"), |path| *path == packs)?;
    remove_all_but(&packs, |path| named.contains(path))
}

fn remove_all_but(directory: &Path, keep: impl Fn(&PathBuf) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if !keep(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// A pack and its index, as files of a mirror.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredPack {
    /// `pack-<40 hex digits>`.
    pub(super) name: String,
    pub(super) pack_bytes: u64,
    pack_crc32: u32,
    index_bytes: u64,
    index_crc32: u32,
    /// What decoding one object takes in memory at most.
    #[serde(default)]
    pub(super) decode_bytes: u64,
}

impl StoredPack {
    pub fn new(pack: &ReceivedPack, index: &CheckedFile) -> Self {
        Self {
            name: pack.name.clone(),
            pack_bytes: pack.file.len,
            pack_crc32: pack.file.crc32,
            index_bytes: index.len,
            index_crc32: index.crc32,
            decode_bytes: pack.decode_bytes,
        }
    }

    /// The pack and the index, in `dir`.
    pub(super) fn files(&self, dir: &Path) -> [CheckedFile; 2] {
        let file =
            |extension, len, crc32| CheckedFile { path: dir.join(&self.name).with_extension(extension), len, crc32 };
        [file("pack", self.pack_bytes, self.pack_crc32), file("idx", self.index_bytes, self.index_crc32)]
    }
}
