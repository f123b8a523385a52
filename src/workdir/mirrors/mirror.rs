//! One mirror, leased to one user at a time.
//!
//! Invariant: it holds exactly the objects reachable from its commit, each of them: a branch that was rewritten is fetched
//! afresh.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::OwnedMutexGuard;

use super::state::{STATE_FORMAT, State, StoredPack, pack_dir};
use super::{Known, MirrorError, MirrorStore, remove};
use crate::files::{Checked, CheckedFile, create_private_dir};
use crate::git::pack::{ReceivedPack, STRUCTURE_LIMIT_BYTES};
use crate::git::store::{Indexes, JOIN_WINDOW_BYTES, Store};
use crate::model::key::CommitId;
use crate::model::target::Source;

/// With more packs than this, those of increments are joined into one.
const MAX_PACKS: usize = 8;
/// What joining packs takes in memory: two objects, their tables, and as much for finished deltas.
const JOIN_BYTES: u64 = 6 * JOIN_WINDOW_BYTES.cast_unsigned();

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
        let parsed = one.min(STRUCTURE_LIMIT_BYTES);
        one + 2 * parsed + if packs.len() > MAX_PACKS { JOIN_BYTES } else { 0 }
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
    pub fn finish_fresh(&mut self, commit: CommitId, pack: StoredPack) -> Result<(), MirrorError> {
        self.store()?.require_commit(commit)?;
        self.finish(State {
            format: STATE_FORMAT,
            project: self.source.project.clone(),
            branch: self.source.branch.clone(),
            commit: commit.to_string(),
            packs: vec![pack],
        })
    }

    /// Adds an increment's pack. `false`: the branch was rewritten, and the mirror cannot be used for the new commit.
    pub fn finish_increment(&mut self, commit: CommitId, pack: StoredPack) -> Result<bool, MirrorError> {
        let (state, base) = self.state.clone().zip(self.commit()).ok_or_else(incomplete)?;
        if !self.store()?.descends(commit, base, &self.indexes(&state.packs)?)? {
            return Ok(false);
        }
        let mut state = State { commit: commit.to_string(), ..state };
        state.packs.push(pack);
        let joined = self.join_increments(&mut state)?;
        self.finish(state)?;
        for increment in joined {
            for file in increment.files(&self.pack_dir()) {
                fs::remove_file(&file.path)?;
            }
        }
        Ok(true)
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

    fn indexes(&self, packs: &[StoredPack]) -> Result<Indexes, git2::Error> {
        Indexes::open(packs.iter().map(|pack| pack.files(&self.pack_dir())).map(|[_, index]| index.path))
    }

    fn finish(&mut self, state: State) -> Result<(), MirrorError> {
        state.write(&self.path)?;
        self.state = Some(state);
        Ok(())
    }

    /// If there are too many packs, replaces those of increments by one, in `state`, and returns those that are no longer
    /// needed. The first pack, usually by far the largest, stays as it is.
    fn join_increments(&self, state: &mut State) -> Result<Vec<StoredPack>, MirrorError> {
        if state.packs.len() <= MAX_PACKS {
            return Ok(vec![]);
        }
        let dir = self.pack_dir();
        let (first, increments) = state.packs.split_at(1);
        let name = self.store()?.join(&self.indexes(first)?, &self.indexes(increments)?, &dir)?;
        let [pack, index] = ["pack", "idx"].map(|extension| checked(&dir.join(&name).with_extension(extension)));
        let (pack, index) = (pack?, index?);
        // Each delta is made from objects that were read one by one.
        let decode_bytes = 2 * state.packs.iter().map(|pack| pack.decode_bytes).max().unwrap_or(0);
        let joined = state.packs.drain(1..).filter(|increment| increment.name != name).collect();
        state.packs.push(StoredPack::new(&ReceivedPack { name, file: pack, decode_bytes }, &index));
        Ok(joined)
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

/// Reads a file for its length and checksum.
fn checked(path: &Path) -> io::Result<CheckedFile> {
    let mut sum = Checked::new(io::sink());
    io::copy(&mut File::open(path)?, &mut sum)?;
    Ok(sum.finish(path.to_owned()))
}
