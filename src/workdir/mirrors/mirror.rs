//! One mirror, leased to one user at a time.
//!
//! Invariant: it holds exactly the objects reachable from its commit, each of them: a branch that was rewritten is fetched
//! afresh.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use tempfile::{NamedTempFile, TempPath};
use tokio::sync::OwnedMutexGuard;

use super::state::{STATE_FORMAT, State, StoredPack, pack_dir};
use super::{Known, MirrorError, MirrorStore, remove};
use crate::files::{Checked, CheckedFile, create_private_dir};
use crate::git::pack::subset::write_increment;
use crate::git::pack::thin::receive_thin;
use crate::git::pack::{PackError, ReceiveLimits, STRUCTURE_LIMIT_BYTES, join};
use crate::git::store::{Indexes, Store};
use crate::memory::{MemoryBudget, Share};
use crate::model::key::CommitId;
use crate::model::target::Source;

/// With more packs than this, some of those of increments are joined.
const MAX_PACKS: usize = 8;

/// One mirror, in use. Dropping it ends the lease, and removes the mirror if it is not complete.
pub struct Mirror {
    pub(super) store: Arc<MirrorStore>,
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) source: Source,
    pub(super) state: Option<State>,
    pub(super) _turn: OwnedMutexGuard<()>,
}

impl Mirror {
    /// The commit whose history it holds; `None` if it is not complete.
    pub fn commit(&self) -> Option<CommitId> {
        self.state.as_ref().and_then(|state| state.commit.parse().ok())
    }

    /// Where packs go.
    pub fn pack_dir(&self) -> PathBuf {
        pack_dir(&self.path)
    }

    /// What libgit2 takes in memory at most when it reads objects of the mirror, and of `pack` beside it.
    pub fn reading_bytes(&self, pack: Option<&StoredPack>) -> u64 {
        let packs: Vec<_> = self.state.iter().flat_map(|state| &state.packs).chain(pack).collect();
        let one = packs.iter().map(|pack| pack.decode_bytes).max().unwrap_or(0);
        // It copies what it parses.
        one + 2 * one.min(STRUCTURE_LIMIT_BYTES)
    }

    /// Waits for the memory to read objects of the mirror, and of `pack` beside it.
    fn reading<'a>(&self, pack: &StoredPack, limits: &ReceiveLimits<'a>) -> Result<Share<'a>, MirrorError> {
        let share = limits.memory.reading(self.reading_bytes(Some(pack)), limits.interrupt);
        share.ok_or_else(|| MirrorError::Io(io::ErrorKind::Interrupted.into()))
    }

    /// The size of its packs in bytes.
    pub fn bytes(&self) -> u64 {
        self.state.iter().flat_map(|state| &state.packs).map(|pack| pack.pack_bytes).sum()
    }

    /// Each pack and its index, for an archive.
    pub fn files(&self) -> Vec<(String, [CheckedFile; 2])> {
        let packs = self.state.iter().flat_map(|state| &state.packs);
        packs.map(|pack| (pack.name.clone(), pack.files(&self.pack_dir()))).collect()
    }

    /// Starts over without any objects. Nothing but packs is kept: no reference, no configuration, no hook.
    pub fn start_afresh(&mut self) -> Result<(), MirrorError> {
        self.discard()?;
        Ok(create_private_dir(&self.pack_dir())?)
    }

    /// Completes a fresh mirror with its only pack, which must hold the commit.
    pub fn finish_fresh(
        &mut self,
        commit: CommitId,
        pack: StoredPack,
        limits: &ReceiveLimits<'_>,
    ) -> Result<(), MirrorError> {
        let reading = self.reading(&pack, limits)?;
        self.store()?.require_commit(commit)?;
        drop(reading);
        self.finish(State {
            format: STATE_FORMAT,
            project: self.source.project.clone(),
            branch: self.source.branch.clone(),
            commit: commit.to_string(),
            packs: vec![pack],
        })
    }

    /// Adds an increment's pack. `false`: the branch was rewritten, and the mirror cannot be used for the new commit.
    pub fn finish_increment(
        &mut self,
        commit: CommitId,
        pack: StoredPack,
        limits: &ReceiveLimits<'_>,
    ) -> Result<bool, MirrorError> {
        let (state, base) = self.state.clone().zip(self.commit()).ok_or_else(incomplete)?;
        let reading = self.reading(&pack, limits)?;
        if !self.store()?.descends(commit, base, &self.indexes(&state.packs)?)? {
            return Ok(false);
        }
        drop(reading);
        let mut state = State { commit: commit.to_string(), ..state };
        state.packs.push(pack);
        let joined = self.join_increments(&mut state, limits)?;
        self.finish(state)?;
        for increment in joined {
            for file in increment.files(&self.pack_dir()) {
                fs::remove_file(&file.path)?;
            }
        }
        Ok(true)
    }

    /// Writes the pack that brings `commit` to a repository that has `from` and all that it reaches, into the mirror's folder. Both must
    /// be in the mirror. Until the file has been read, the mirror must be kept in use.
    ///
    /// # Errors
    /// [`MirrorError::NoBase`] if `from` is not in the mirror.
    pub(crate) fn write_increment(
        &self,
        from: CommitId,
        commit: CommitId,
        memory: &MemoryBudget,
        interrupt: &AtomicBool,
    ) -> Result<IncrementPack, MirrorError> {
        let state = self.state.as_ref().ok_or_else(incomplete)?;
        self.write(&self.pack_files(&state.packs), from, commit, memory, interrupt)
    }

    /// [`write_increment`](Self::write_increment), with the entries of a pack that `source` brings, as far as it goes: one that
    /// was made for a repository that has `from`, thin or not. It is verified, and not kept: the mirror stays as it is. `received` is called
    /// when its last byte is on the disk.
    pub(crate) fn write_received(
        &self,
        source: impl Read,
        from: CommitId,
        commit: CommitId,
        limits: &ReceiveLimits<'_>,
        received: impl FnOnce(),
    ) -> Result<IncrementPack, MirrorError> {
        let state = self.state.as_ref().ok_or_else(incomplete)?;
        let (pack, index) = receive_thin(source, &self.pack_dir(), limits, received)?;
        // Of an object that is in several packs, the first copy counts.
        let kept = self.pack_files(&state.packs);
        let packs: Vec<_> = [pack.file.path.clone()].into_iter().chain(kept.iter().cloned()).collect();
        let written = self.write(&packs, from, commit, limits.memory, limits.interrupt);
        if !kept.contains(&pack.file.path) {
            fs::remove_file(&index.path)?;
            fs::remove_file(&pack.file.path)?;
        }
        written
    }

    fn write(
        &self,
        packs: &[PathBuf],
        from: CommitId,
        commit: CommitId,
        memory: &MemoryBudget,
        interrupt: &AtomicBool,
    ) -> Result<IncrementPack, MirrorError> {
        // The next one who uses the mirror removes what a killed process left here.
        let begin = || NamedTempFile::new_in(&self.path).map(Checked::new);
        let (_, written) = write_increment(packs, from, commit, memory, interrupt, begin).map_err(PackError::from)?;
        let file = written.finish(PathBuf::new());
        let path = written.into_inner().into_temp_path();
        Ok(IncrementPack { file: CheckedFile { path: path.to_path_buf(), ..file }, _path: path })
    }

    /// Removes the mirror's files.
    pub fn discard(&mut self) -> io::Result<()> {
        self.state = None;
        remove(&self.path)
    }

    /// `published`, if the mirror's commit does not descend from it. The names that older programs wrote in place of a commit
    /// say nothing.
    pub fn rewritten_from(&self, published: Option<&str>) -> Result<Option<CommitId>, MirrorError> {
        let Some(published) = published.and_then(|commit| commit.parse::<CommitId>().ok()) else { return Ok(None) };
        let state = self.state.as_ref().ok_or_else(incomplete)?;
        let kept = self.indexes(&state.packs)?.hold_commit(published);
        Ok((!kept).then_some(published))
    }

    /// Where its objects are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn store(&self) -> Result<Store, git2::Error> {
        Store::open(&self.path)
    }

    fn pack_files(&self, packs: &[StoredPack]) -> Vec<PathBuf> {
        packs.iter().map(|pack| pack.files(&self.pack_dir())).map(|[pack, _]| pack.path).collect()
    }

    fn indexes(&self, packs: &[StoredPack]) -> Result<Indexes, git2::Error> {
        Indexes::open(packs.iter().map(|pack| pack.files(&self.pack_dir())).map(|[_, index]| index.path))
    }

    fn finish(&mut self, state: State) -> Result<(), MirrorError> {
        state.write(&self.path)?;
        self.state = Some(state);
        Ok(())
    }

    /// If there are too many packs, replaces some by one, in `state`, and returns those that are no longer needed.
    fn join_increments(&self, state: &mut State, limits: &ReceiveLimits<'_>) -> Result<Vec<StoredPack>, MirrorError> {
        let sizes: Vec<_> = state.packs.iter().map(|pack| pack.pack_bytes).collect();
        let Some(joined) = to_join(&sizes) else { return Ok(vec![]) };
        let (pack, index) = join(&self.pack_files(&state.packs[joined.clone()]), &self.pack_dir(), limits)?;
        let replaced = state.packs.splice(joined, [StoredPack::new(&pack, &index)]);
        Ok(replaced.filter(|replaced| replaced.name != pack.name).collect())
    }
}

/// Which of the packs of these sizes are joined, if there are too many.
///
/// The first, of a whole history and usually by far the largest, stays as it is, and so does the newest, for the increment
/// that is made of it next. Of the others at least the last two are joined, and each one before that is not larger than
/// what is joined anyway. So an object is copied again only when its pack becomes twice as large, or all before are larger.
fn to_join(sizes: &[u64]) -> Option<Range<usize>> {
    let newest = sizes.len().checked_sub(1).filter(|newest| *newest >= MAX_PACKS)?;
    let mut from = newest - 2;
    let mut bytes: u64 = sizes[from..newest].iter().sum();
    while from > 1 && sizes[from - 1] <= bytes {
        from -= 1;
        bytes += sizes[from];
    }
    Some(from..newest)
}

/// The pack of an increment, as a file in its mirror's folder. Dropping it removes the file.
#[derive(Debug)]
pub struct IncrementPack {
    file: CheckedFile,
    _path: TempPath,
}

impl IncrementPack {
    /// Where it is, with its length and checksum.
    pub fn file(&self) -> &CheckedFile {
        &self.file
    }
}

fn incomplete() -> io::Error {
    io::Error::other("the mirror is not complete")
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let mut known = self.store.known.lock();
        match &self.state {
            Some(state) => {
                let (bytes, used) = (state.bytes(), SystemTime::now());
                known.insert(self.name.clone(), Known { bytes, used, in_use: false });
                // Eviction after the next start uses this time.
                let state_file = File::options().append(true).open(State::file(&self.path));
                let touched = state_file.and_then(|file| file.set_modified(used));
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

#[cfg(test)]
mod tests;
