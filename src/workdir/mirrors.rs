//! Bare repositories kept between passes, so that a changed branch costs only its new commits.
//!
//! Invariant: a mirror is trusted only as far as its `state.json` goes. A mirror in use is never evicted.

mod mirror;
mod state;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use gix_hash::ObjectId;
use parking_lot::Mutex;
use sha1::{Digest, Sha1};

pub use self::mirror::{IncrementPack, Mirror};
use self::state::State;
pub use self::state::StoredPack;
use crate::files::available_bytes;
use crate::git::pack::PackError;
use crate::git::pack::subset::SubsetError;
use crate::model::key::CommitId;
use crate::model::target::Source;

/// This share of the file system stays free of mirrors, but no more than [`RESERVE_LIMIT_BYTES`].
const RESERVE_PERCENT: u64 = 5;
const RESERVE_LIMIT_BYTES: u64 = 1 << 30;
/// Why a mirror could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("cannot keep the repository under WORKDIR")]
    Io(#[from] io::Error),
    #[error("the fetched repository cannot be used")]
    Git(#[from] git2::Error),
    /// Reading its packs failed, or joining them.
    #[error("the packs of the kept repository cannot be used")]
    Packs(#[source] PackError),
    /// An increment was to begin at a commit that is not there.
    #[error("the kept repository does not hold the commit {0}")]
    NoBase(CommitId),
}

impl From<PackError> for MirrorError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Io(error) => Self::Io(error),
            PackError::Kept(SubsetError::NoBase(base)) => Self::NoBase(base),
            error => Self::Packs(error),
        }
    }
}

/// Use of WORKDIR's disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    pub mirror_bytes: u64,
    pub available_bytes: u64,
}

/// All mirrors, within a budget.
#[derive(Debug)]
pub struct MirrorStore {
    dir: PathBuf,
    budget_bytes: u64,
    known: Mutex<BTreeMap<String, Known>>,
    turns: Mutex<HashMap<Source, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    bytes: u64,
    used: SystemTime,
    in_use: bool,
}

impl MirrorStore {
    /// The store in `dir`. Everything but complete mirrors is removed.
    pub fn open(dir: PathBuf, budget_bytes: u64) -> io::Result<Self> {
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()))?;
            let used = fs::metadata(State::file(&path)).and_then(|metadata| metadata.modified());
            match (State::read(&path), used) {
                (Some(state), Ok(used)) => {
                    known.insert(name, Known { bytes: state.bytes(), used, in_use: false });
                }
                _ => remove(&path)?,
            }
        }
        let store = Self { dir, budget_bytes, known: Mutex::new(known), turns: Mutex::default() };
        store.evict();
        Ok(store)
    }

    /// The mirror of a source branch, for one user at a time.
    pub async fn lease(self: &Arc<Self>, source: &Source) -> Mirror {
        let turn = Arc::clone(self.turns.lock().entry(source.clone()).or_default());
        let turn = turn.lock_owned().await;
        let name = directory_name(source);
        let path = self.dir.join(&name);
        let state = State::read(&path).filter(|state| state.project == source.project && state.branch == source.branch);
        let known = Known { bytes: 0, used: SystemTime::now(), in_use: true };
        self.known.lock().entry(name.clone()).and_modify(|known| known.in_use = true).or_insert(known);
        Mirror { store: Arc::clone(self), name, path, source: source.clone(), state, _turn: turn }
    }

    pub fn disk(&self) -> Disk {
        let mirror_bytes = self.known.lock().values().map(|known| known.bytes).sum();
        Disk { mirror_bytes, available_bytes: available_bytes(&self.dir) }
    }

    /// Removes least recently used mirrors until the rest fits the budget and the file system has its reserve.
    pub fn evict(&self) {
        let mut known = self.known.lock();
        loop {
            let total: u64 = known.values().map(|known| known.bytes).sum();
            if total <= self.budget_bytes && !self.short_of_space() {
                return;
            }
            let oldest = known.iter().filter(|(_, known)| !known.in_use).min_by_key(|(_, known)| known.used);
            let Some(name) = oldest.map(|(name, _)| name.clone()) else { return };
            known.remove(&name);
            if let Err(error) = remove(&self.dir.join(&name)) {
                tracing::warn!(%error, "cannot remove a mirror");
            }
        }
    }

    /// Removes the mirrors of branches that are no longer wanted: they hold plaintext.
    pub fn keep_only<'a>(&self, wanted: impl Iterator<Item = &'a Source>) {
        let wanted: HashSet<_> = wanted.collect();
        self.turns.lock().retain(|source, turn| Arc::strong_count(turn) > 1 || wanted.contains(source));
        let names: HashSet<_> = wanted.into_iter().map(directory_name).collect();
        let keep = |name: &String, known: &Known| known.in_use || names.contains(name);
        self.known.lock().retain(|name, known| keep(name, known) || remove(&self.dir.join(name)).is_err());
    }

    /// Removes every mirror that is not in use, to make room on a full disk.
    pub fn evict_idle(&self) {
        let mut known = self.known.lock();
        known.retain(|name, known| known.in_use || remove(&self.dir.join(name)).is_err());
    }

    fn short_of_space(&self) -> bool {
        rustix::fs::statvfs(&self.dir).is_ok_and(|fs| {
            let reserve = (fs.f_blocks * fs.f_frsize / 100 * RESERVE_PERCENT).min(RESERVE_LIMIT_BYTES);
            fs.f_bavail * fs.f_frsize < reserve
        })
    }
}

/// A name that any project and branch can have on any file system: the SHA-1 of both.
fn directory_name(source: &Source) -> String {
    let hash: [u8; 20] = Sha1::digest(format!("{}\0{}", source.project, source.branch)).into();
    ObjectId::from(hash).to_string()
}

/// Removes a file or a directory with its content, if it exists.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
