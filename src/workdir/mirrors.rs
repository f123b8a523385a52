//! Bare repositories kept between passes, so that a changed branch costs its new commits only.
//!
//! Invariant: a mirror is trusted only with its `state.json`, which is replaced, whole, after an operation completed, and
//! only as far as that goes: a pack it does not name is of no account, and gone before the mirror is used. A mirror holds
//! exactly the objects reachable from the commit named there, each of them: a branch that was rewritten is fetched afresh.
//! The mirror in use is never evicted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use git2::{Oid, Repository};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::files::CheckedFile;
use crate::files::{available_bytes, create_private_dir, is_private_dir, private_file};
use crate::git::lfs;
use crate::git::pack::ReceivedPack;
use crate::model::key::CommitId;
use crate::model::target::Source;

/// With more packs than this, those of increments are joined into one.
const MAX_PACKS: usize = 8;
/// Mirrors never take the file system's last bytes: this share of it stays free, as long as that is no more than
/// [`RESERVE_LIMIT_BYTES`].
const RESERVE_PERCENT: u64 = 5;
const RESERVE_LIMIT_BYTES: u64 = 1 << 30;
const STATE_FILE: &str = "state.json";
/// What a mirror's state promises. A mirror of another format is fetched afresh; in 1, nobody had looked whether the
/// history was whole.
const STATE_FORMAT: u32 = 2;

/// Why a mirror could not be used.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The file system.
    #[error("cannot keep the repository under WORKDIR")]
    Io(#[from] io::Error),
    /// The repository.
    #[error("the fetched repository cannot be used")]
    Git(#[from] git2::Error),
}

/// What WORKDIR's disk holds.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// What mirrors take, in bytes.
    pub mirror_bytes: u64,
    /// What is free, in bytes.
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

/// What a complete mirror says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    format: u32,
    project: String,
    branch: String,
    /// What the branch is at.
    commit: String,
    /// What the first pack was fetched for; the others are increments on top of it.
    base: String,
    packs: Vec<StoredPack>,
}

impl State {
    /// What the mirror takes on the disk, in bytes.
    fn bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.pack_bytes + pack.index_bytes).sum()
    }
}

/// A pack and its index, as files of a mirror.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredPack {
    /// `pack-<40 hex digits>`.
    pub name: String,
    /// The pack's length in bytes.
    pub pack_bytes: u64,
    /// The pack's CRC-32.
    pub pack_crc32: u32,
    /// The index's length in bytes.
    pub index_bytes: u64,
    /// The index's CRC-32.
    pub index_crc32: u32,
}

impl StoredPack {
    /// The record of a pack just received.
    pub fn new(pack: &ReceivedPack, index: &CheckedFile) -> Self {
        Self {
            name: pack.name.clone(),
            pack_bytes: pack.file.len,
            pack_crc32: pack.file.crc32,
            index_bytes: index.len,
            index_crc32: index.crc32,
        }
    }

    fn files(&self, dir: &Path) -> [CheckedFile; 2] {
        let file =
            |extension, len, crc32| CheckedFile { path: dir.join(&self.name).with_extension(extension), len, crc32 };
        [file("pack", self.pack_bytes, self.pack_crc32), file("idx", self.index_bytes, self.index_crc32)]
    }
}

impl MirrorStore {
    /// The store in `dir`. What is not a complete mirror, or no part of one, is removed.
    ///
    /// # Errors
    /// As the file system says.
    pub fn open(dir: PathBuf, budget_bytes: u64) -> io::Result<Self> {
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()))?;
            let used = fs::metadata(path.join(STATE_FILE)).and_then(|metadata| metadata.modified());
            match (read_state(&path), used) {
                (Some(state), Ok(used)) if is_private_dir(&path) => {
                    remove_strays(&path, &state)?;
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
        let state = read_state(&path).filter(|state| state.project == source.project && state.branch == source.branch);
        // What is in it is believed from here on, so nothing else may be.
        let state = state.filter(|state| is_private_dir(&path) && remove_strays(&path, state).is_ok());
        let known = Known { bytes: 0, used: SystemTime::now(), in_use: true };
        self.known.lock().entry(name.clone()).and_modify(|known| known.in_use = true).or_insert(known);
        Mirror { store: Arc::clone(self), name, path, source: source.clone(), state, _turn: turn }
    }

    /// What all mirrors take, and what the file system has free, in bytes.
    pub fn disk(&self) -> Disk {
        let mirror_bytes = self.known.lock().values().map(|known| known.bytes).sum();
        Disk { mirror_bytes, available_bytes: available_bytes(&self.dir) }
    }

    /// Removes least recently used mirrors until the rest is within the budget and the file system has its reserve.
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

    /// Removes the mirrors of branches that are not wanted any more: they hold plaintext.
    pub fn keep_only<'a>(&self, wanted: impl Iterator<Item = &'a Source>) {
        let wanted: HashSet<_> = wanted.collect();
        self.turns.lock().retain(|source, turn| Arc::strong_count(turn) > 1 || wanted.contains(source));
        let names: HashSet<_> = wanted.into_iter().map(directory_name).collect();
        let keep = |name: &String, known: &Known| known.in_use || names.contains(name);
        self.known.lock().retain(|name, known| keep(name, known) || remove(&self.dir.join(name)).is_err());
    }

    /// Removes every mirror that is not in use: when the disk is full, the current work counts.
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

/// One mirror, in use. Dropping it gives it back, and removes it where it is not complete.
pub struct Mirror {
    store: Arc<MirrorStore>,
    name: String,
    path: PathBuf,
    source: Source,
    state: Option<State>,
    _turn: OwnedMutexGuard<()>,
}

impl Mirror {
    /// The commit it is complete at; `None` where there is nothing to build on.
    pub fn commit(&self) -> Option<CommitId> {
        self.state.as_ref().and_then(|state| state.commit.parse().ok())
    }

    /// Where packs go.
    pub fn pack_dir(&self) -> PathBuf {
        self.path.join("objects/pack")
    }

    /// What makes up the mirror, for an archive: each pack and its index.
    pub fn files(&self) -> Vec<(String, [CheckedFile; 2])> {
        let packs = self.state.iter().flat_map(|state| &state.packs);
        packs.map(|pack| (pack.name.clone(), pack.files(&self.pack_dir()))).collect()
    }

    /// Starts over with an empty repository.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub fn start_afresh(&mut self) -> Result<(), MirrorError> {
        self.discard()?;
        // All that makes a bare repository; libgit2 would add hooks, a description and a configuration, three times as
        // many files, which a pass over hundreds of small projects would spend most of its time on.
        for dir in ["objects/pack", "refs/heads"] {
            create_private_dir(&self.path.join(dir))?;
        }
        let head = format!("ref: refs/heads/{}\n", self.source.branch);
        Ok(private_file(&self.path.join("HEAD"))?.write_all(head.as_bytes())?)
    }

    /// Completes a fresh mirror with its only pack.
    ///
    /// # Errors
    /// [`MirrorError::Git`] where the pack does not hold the commit.
    pub fn finish_fresh(&mut self, commit: CommitId, pack: StoredPack) -> Result<(), MirrorError> {
        let state = State {
            format: STATE_FORMAT,
            project: self.source.project.clone(),
            branch: self.source.branch.clone(),
            commit: commit.to_string(),
            base: commit.to_string(),
            packs: vec![pack],
        };
        self.finish(&self.repository()?, commit, state)
    }

    /// Takes an increment's pack in. `false`: the branch was rewritten, and the mirror is of no use for the new commit.
    ///
    /// # Errors
    /// [`MirrorError`].
    pub fn finish_increment(&mut self, commit: CommitId, pack: StoredPack) -> Result<bool, MirrorError> {
        let mut state = self.state.clone().ok_or_else(|| io::Error::other("the mirror is not complete"))?;
        let repository = self.repository()?;
        if !repository.graph_descendant_of(oid(commit)?, Oid::from_str(&state.commit)?)? {
            return Ok(false);
        }
        state.packs.push(pack);
        state.commit = commit.to_string();
        let joined =
            if state.packs.len() > MAX_PACKS { self.join_increments(&repository, &mut state)? } else { vec![] };
        self.finish(&repository, commit, state)?;
        for increment in joined {
            for file in increment.files(&self.pack_dir()) {
                fs::remove_file(&file.path)?;
            }
        }
        Ok(true)
    }

    /// Removes the mirror: it turned out to be of no use.
    ///
    /// # Errors
    /// As the file system says.
    pub fn discard(&mut self) -> io::Result<()> {
        self.state = None;
        remove(&self.path)
    }

    /// `published`, where the mirror's commit does not descend from it.
    ///
    /// # Errors
    /// [`MirrorError::Git`] where the repository cannot be read.
    pub fn rewritten_from(&self, published: Option<&str>) -> Result<Option<CommitId>, MirrorError> {
        Ok(lfs::rewritten_from(&self.repository()?, published)?)
    }

    /// The repository, for whoever looks at it while its files are archived.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn repository(&self) -> Result<Repository, git2::Error> {
        Repository::open_bare(&self.path)
    }

    fn finish(&mut self, repository: &Repository, commit: CommitId, state: State) -> Result<(), MirrorError> {
        let id = oid(commit)?;
        repository.find_commit(id)?.tree()?;
        repository.reference(&format!("refs/heads/{}", self.source.branch), id, true, "")?;
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        file.write_all(&serde_json::to_vec(&state).map_err(io::Error::from)?)?;
        file.persist(self.path.join(STATE_FILE)).map_err(|error| error.error)?;
        self.state = Some(state);
        Ok(())
    }

    /// Replaces the packs of increments by one, in `state`, and gives back those that are not needed any more. The first
    /// pack, usually by far the largest, stays as it is.
    fn join_increments(&self, repository: &Repository, state: &mut State) -> Result<Vec<StoredPack>, MirrorError> {
        let mut walk = repository.revwalk()?;
        walk.push(Oid::from_str(&state.commit)?)?;
        walk.hide(Oid::from_str(&state.base)?)?;
        let mut builder = repository.packbuilder()?;
        builder.insert_walk(&mut walk)?;
        let dir = self.pack_dir();
        builder.write(&dir, 0o600)?;
        let name = format!("pack-{}", builder.name().ok().flatten().unwrap_or_default());
        let [pack, index] = ["pack", "idx"].map(|extension| checked(&dir.join(&name).with_extension(extension)));
        let (pack, index) = (pack?, index?);
        let joined = state.packs.drain(1..).filter(|increment| increment.name != name).collect();
        state.packs.push(StoredPack::new(&ReceivedPack { name, file: pack }, &index));
        Ok(joined)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let mut known = self.store.known.lock();
        match &self.state {
            Some(state) => {
                let (bytes, used) = (state.bytes(), SystemTime::now());
                known.insert(self.name.clone(), Known { bytes, used, in_use: false });
                // The time of the last use, for the next start.
                let touched = File::options()
                    .append(true)
                    .open(self.path.join(STATE_FILE))
                    .and_then(|file| file.set_modified(SystemTime::now()));
                if let Err(error) = touched {
                    tracing::debug!(%error, "cannot note the use of a mirror");
                }
            }
            None => {
                known.remove(&self.name);
                if let Err(error) = remove(&self.path) {
                    tracing::warn!(%error, "cannot remove an incomplete mirror");
                }
            }
        }
        drop(known);
        self.store.evict();
    }
}

/// The state of a complete mirror: its file is there, and so are all of its packs, at their full length.
fn read_state(path: &Path) -> Option<State> {
    let state: State = serde_json::from_slice(&fs::read(path.join(STATE_FILE)).ok()?).ok()?;
    let dir = path.join("objects/pack");
    let whole = |file: CheckedFile| fs::metadata(&file.path).is_ok_and(|metadata| metadata.len() == file.len);
    let complete = state.format == STATE_FORMAT
        && !state.packs.is_empty()
        && state.packs.iter().flat_map(|pack| pack.files(&dir)).all(whole);
    complete.then_some(state)
}

/// Removes what a killed run left among the packs: files that the state does not name.
fn remove_strays(path: &Path, state: &State) -> io::Result<()> {
    let dir = path.join("objects/pack");
    let named: HashSet<_> = state.packs.iter().flat_map(|pack| pack.files(&dir)).map(|file| file.path).collect();
    for entry in fs::read_dir(&dir)? {
        let path = entry?.path();
        if !named.contains(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn checked(path: &Path) -> io::Result<CheckedFile> {
    let (mut file, mut crc32, mut len) = (File::open(path)?, crc32fast::Hasher::new(), 0);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(CheckedFile { path: path.to_owned(), len, crc32: crc32.finalize() });
        }
        crc32.update(&buffer[..read]);
        len += read as u64;
    }
}

/// A name that any project and branch can have on any file system: the SHA-1 of both.
fn directory_name(source: &Source) -> String {
    let text = format!("{}\0{}", source.project, source.branch);
    let mut hash = gix_hash::hasher(gix_hash::Kind::Sha1);
    hash.update(text.as_bytes());
    hash.try_finalize().map_or_else(
        |_| percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string(),
        |id| id.to_string(),
    )
}

fn oid(commit: CommitId) -> Result<Oid, git2::Error> {
    Oid::from_bytes(commit.as_bytes())
}

/// Removes a file or a directory with all that is in it; nothing there is fine.
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
