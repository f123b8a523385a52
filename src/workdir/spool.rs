//! The consumer's folder: objects that need the disk while they are pushed, and refusals.

use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::folder::{Folder, WorkdirError, kept};
use crate::model::program::Program;
use crate::plan::delivery::{KeptRefusal, KeptTaken, Refusals, Taken};

/// The consumer's folder under WORKDIR.
const OURS: &str = Program::Consumer.name();
const OBJECTS: &str = "objects";
const REFUSALS_FILE: &str = "refusals.json";
const TAKEN_FILE: &str = "taken.json";
/// Longest record of what was taken that is read, in bytes: up to 4 KiB for each of 16,000 destinations, or usual names for all.
const TAKEN_LIMIT_BYTES: u64 = 64 << 20;
/// Longest file of refusals that is read, in bytes: up to 4 KiB for each of 16,000 destinations.
const REFUSALS_LIMIT_BYTES: u64 = 64 << 20;

/// The consumer's folder. What it holds of repositories is plaintext, and removed when its push has ended.
#[derive(Debug)]
pub struct Spool(Folder);

impl Spool {
    /// Creates what is missing under `workdir`, locks it, and removes what a killed process left.
    pub fn open(workdir: &Path) -> Result<Self, WorkdirError> {
        let spool = Self(Folder::open(workdir, OURS, &[OBJECTS])?);
        for left in fs::read_dir(spool.objects()).into_iter().flatten().flatten() {
            let removed =
                if left.path().is_dir() { fs::remove_dir_all(left.path()) } else { fs::remove_file(left.path()) };
            if let Err(error) = removed {
                tracing::warn!(%error, path = %left.path().display(), "cannot remove what an earlier process left");
            }
        }
        Ok(spool)
    }

    /// Where objects are while they are pushed.
    pub fn objects(&self) -> PathBuf {
        self.path(OBJECTS)
    }

    /// An empty directory for one object.
    pub fn place(&self) -> io::Result<Place> {
        Ok(Place(Some(TempDir::new_in(self.objects())?)))
    }

    /// Stores what need not be tried again soon. After an error, what was stored before is still there.
    pub fn keep_refusals(&self, refusals: &Refusals) -> io::Result<()> {
        self.keep(REFUSALS_FILE, Some(&refusals.kept()))
    }
}

impl Spool {
    /// Stores when what was taken had been published. After an error, what was stored before is still there.
    pub fn keep_taken(&self, taken: &Taken) -> io::Result<()> {
        self.keep(TAKEN_FILE, Some(&taken.kept()))
    }

    /// What [`Self::keep_taken`] stored last. Without it, a new record begins.
    pub fn taken(&self) -> Taken {
        match self.kept::<KeptTaken>(TAKEN_FILE, TAKEN_LIMIT_BYTES) {
            Ok(Some(kept)) => Taken::from(kept).begun_by(SystemTime::now()),
            Ok(None) => Taken::since(SystemTime::now()),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot read when what was taken had been published: a new record begins, and what is replaced from \
                     now on has to be published after this moment"
                );
                Taken::since(SystemTime::now())
            }
        }
    }
}

/// A directory for one object. Dropping it removes everything in it.
///
/// An archive may bring very many files, so a thread that can wait removes them. If the program ends meanwhile, the next start
/// removes the rest.
#[derive(Debug)]
pub struct Place(Option<TempDir>);

impl Place {
    /// The directory.
    pub fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// Removes it, and waits for that.
    pub async fn remove(mut self) {
        if let Some(directory) = self.0.take() {
            // What cannot be removed now, the next start removes.
            let _ = spawn_blocking(|| drop(directory)).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let (Some(directory), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn_blocking(|| drop(directory));
        }
    }
}

impl Deref for Spool {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.0
    }
}

/// What [`Spool::keep_refusals`] stored last. It needs neither the lock nor a right to write. A file that cannot be read
/// only costs attempts.
pub fn kept_refusals(workdir: &Path) -> Refusals {
    match kept::<Vec<KeptRefusal>>(&workdir.join(OURS), REFUSALS_FILE, REFUSALS_LIMIT_BYTES) {
        Ok(kept) => kept.map(Refusals::from).unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "cannot read which pushes were refused: they are tried again");
            Refusals::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let workdir = tempfile::tempdir().unwrap();
        let spool = Spool::open(workdir.path()).unwrap();
        let mut place = spool.place().unwrap();
        let left = place.0.take().unwrap().keep();
        fs::create_dir(left.join("repository")).unwrap();
        fs::write(left.join("repository/pack"), "plaintext").unwrap();
        drop(spool);
        let again = Spool::open(workdir.path()).unwrap();
        assert_eq!(fs::read_dir(again.objects()).unwrap().count(), 0);
        assert!(matches!(Spool::open(workdir.path()), Err(WorkdirError::InUse(_))), "it is locked");
    }

    #[test]
    fn an_object_is_removed_by_another_thread() {
        let workdir = tempfile::tempdir().unwrap();
        let spool = Spool::open(workdir.path()).unwrap();
        let left = || fs::read_dir(spool.objects()).unwrap().count();
        drop(spool.place().unwrap());
        assert_eq!(left(), 0, "without a runtime, at once");
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (go_on, waiting) = std::sync::mpsc::channel::<()>();
            let busy = spawn_blocking(move || waiting.recv());
            drop(spool.place().unwrap());
            let place = spool.place().unwrap();
            fs::write(place.path().join("pack"), "plaintext").unwrap();
            assert_eq!(left(), 2, "nobody waits for it");
            drop(go_on);
            place.remove().await;
            assert_eq!(left(), 0);
            let _ = busy.await;
        });
    }

    #[test]
    fn without_a_file_nothing_is_refused() {
        let workdir = tempfile::tempdir().unwrap();
        assert_eq!(kept_refusals(workdir.path()), Refusals::default());
        let spool = Spool::open(workdir.path()).unwrap();
        spool.keep_refusals(&Refusals::default()).unwrap();
        assert_eq!(kept_refusals(workdir.path()), Refusals::default());
        fs::write(workdir.path().join(OURS).join(REFUSALS_FILE), "not JSON").unwrap();
        assert_eq!(kept_refusals(workdir.path()), Refusals::default());
    }
}
