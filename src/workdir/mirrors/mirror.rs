//! One mirror, leased to one user at a time.
//!
//! Invariant: it holds exactly the objects reachable from its commit, each of them: a branch that was rewritten is fetched
//! afresh.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use git2::{ConfigLevel, Oid, Repository};
use tokio::sync::OwnedMutexGuard;

use super::state::{STATE_FORMAT, State, StoredPack, pack_dir};
use super::{Known, MirrorError, MirrorStore, remove};
use crate::files::{Checked, CheckedFile, create_private_dir, private_file};
use crate::git::pack::{ReceivedPack, STRUCTURE_LIMIT_BYTES};
use crate::model::key::CommitId;
use crate::model::target::Source;

/// With more packs than this, those of increments are joined into one.
const MAX_PACKS: usize = 8;
/// While packs are joined, how much libgit2 compares with each other, and the largest object that it compares, in bytes.
/// Otherwise it would hold ten objects of any size, with a table as large as each.
const JOIN_WINDOW_BYTES: i64 = 16 << 20;
/// What that takes in memory: two objects, their tables, and as much for finished deltas.
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

    /// Starts over with an empty repository.
    pub fn start_afresh(&mut self) -> Result<(), MirrorError> {
        self.discard()?;
        // All that a bare repository needs. libgit2 would add hooks, a description and a configuration: three times as many
        // files, on which a pass over hundreds of small projects would spend most of its time.
        for dir in ["objects/pack", "refs/heads"] {
            create_private_dir(&self.path.join(dir))?;
        }
        let head = format!("ref: refs/heads/{}\n", self.source.branch);
        Ok(private_file(&self.path.join("HEAD"))?.write_all(head.as_bytes())?)
    }

    /// Completes a fresh mirror with its only pack, which must hold the commit.
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

    /// Adds an increment's pack. `false`: the branch was rewritten, and the mirror cannot be used for the new commit.
    pub fn finish_increment(&mut self, commit: CommitId, pack: StoredPack) -> Result<bool, MirrorError> {
        let mut state = self.state.clone().ok_or_else(|| io::Error::other("the mirror is not complete"))?;
        let repository = self.repository()?;
        if !repository.graph_descendant_of(oid(commit)?, Oid::from_str(&state.commit)?)? {
            return Ok(false);
        }
        state.packs.push(pack);
        state.commit = commit.to_string();
        let joined = self.join_increments(&repository, &mut state)?;
        self.finish(&repository, commit, state)?;
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

    /// `published`, if the mirror's commit does not descend from it.
    pub fn rewritten_from(&self, published: Option<&str>) -> Result<Option<CommitId>, MirrorError> {
        Ok(rewritten_from(&self.repository()?, published)?)
    }

    /// The bare repository.
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
        state.write(&self.path)?;
        self.state = Some(state);
        Ok(())
    }

    /// If there are too many packs, replaces those of increments by one, in `state`, and returns those that are no longer
    /// needed. The first pack, usually by far the largest, stays as it is.
    fn join_increments(&self, repository: &Repository, state: &mut State) -> Result<Vec<StoredPack>, MirrorError> {
        if state.packs.len() <= MAX_PACKS {
            return Ok(vec![]);
        }
        let mut walk = repository.revwalk()?;
        walk.push(Oid::from_str(&state.commit)?)?;
        walk.hide(Oid::from_str(&state.base)?)?;
        // The file belongs to the mirror, and nothing else is in it.
        let mut config = repository.config()?.open_level(ConfigLevel::Local)?;
        // The second one limits single objects too, under this name.
        for setting in ["pack.windowMemory", "pack.deltaCacheSize"] {
            config.set_i64(setting, JOIN_WINDOW_BYTES)?;
        }
        let mut builder = repository.packbuilder()?;
        builder.insert_walk(&mut walk)?;
        let dir = self.pack_dir();
        builder.write(&dir, 0o600)?;
        let name = format!("pack-{}", builder.name().ok().flatten().unwrap_or_default());
        let [pack, index] = ["pack", "idx"].map(|extension| checked(&dir.join(&name).with_extension(extension)));
        let (pack, index) = (pack?, index?);
        // Each delta is made from objects that were read one by one.
        let decode_bytes = 2 * state.packs.iter().map(|pack| pack.decode_bytes).max().unwrap_or(0);
        let joined = state.packs.drain(1..).filter(|increment| increment.name != name).collect();
        state.packs.push(StoredPack::new(&ReceivedPack { name, file: pack, decode_bytes }, &index));
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

/// `published`, if it is not in the history that the repository holds. The names that older programs wrote in place of a
/// commit say nothing.
fn rewritten_from(repository: &Repository, published: Option<&str>) -> Result<Option<CommitId>, git2::Error> {
    let Some(published) = published.and_then(|commit| commit.parse::<CommitId>().ok()) else { return Ok(None) };
    let kept = repository.odb()?.exists(oid(published)?);
    Ok((!kept).then_some(published))
}

/// Reads a file for its length and checksum.
fn checked(path: &Path) -> io::Result<CheckedFile> {
    let mut sum = Checked::new(io::sink());
    io::copy(&mut File::open(path)?, &mut sum)?;
    Ok(sum.finish(path.to_owned()))
}

fn oid(commit: CommitId) -> Result<Oid, git2::Error> {
    Oid::from_bytes(commit.as_bytes())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::git::fixture::{Project, git};

    #[test]
    fn a_commit_that_is_not_in_the_history_was_rewritten() {
        let project = Project::new();
        let repository = Repository::open(project.dir.path()).unwrap();
        let published = |commit: &str| rewritten_from(&repository, Some(commit)).unwrap();
        assert_eq!(published(&git(project.dir.path(), &["rev-parse", "HEAD~1"])), None);
        let gone = CommitId::from_bytes([9; 20]);
        assert_eq!(published(&gone.to_string()), Some(gone));
        assert_eq!(published("v1.2"), None, "an older program's name says nothing");
        assert_eq!(rewritten_from(&repository, None).unwrap(), None);
    }
}
