//! Our folder in WORKDIR: private to one process, and the only place that ever holds plaintext.
//!
//! Invariant: everything here is ours and disposable. Nothing else in WORKDIR is read, changed or removed.

mod crashes;
pub mod mirrors;
mod recipients;
mod uploads;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use self::crashes::CrashRecord;
use self::crashes::Crashed;
pub use self::recipients::kept_recipients;
use self::uploads::UnderWay;
pub use self::uploads::{RecordedUpload, UploadRecord};
use crate::files::{is_private_dir, not_ours, private_file};
use crate::model::key::Destination;
use crate::model::program::Program;
use crate::plan::Memory;

/// The producer's folder under WORKDIR.
const OURS: &str = Program::Producer.name();
const LOCK_FILE: &str = "lock";
const OUT_OF_SYNC_FILE: &str = "out-of-sync.json";
const MEMORY_FILE: &str = "retirements.json";
/// Longest memory that is read, in bytes: about 40 for each of a million destinations.
const MEMORY_LIMIT_BYTES: u64 = 64 << 20;

/// The locked folder. Dropping it releases the lock.
#[derive(Debug)]
pub struct Workdir {
    root: PathBuf,
    lock: Mutex<File>,
    under_way: UnderWay,
    crashed: Crashed,
}

/// Why WORKDIR cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkdirError {
    #[error("WORKDIR: cannot {what} {path}: make it a directory that this user can write to")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "WORKDIR: {path} {problem}: others could read or plant repositories there. Remove it, or set another WORKDIR"
    )]
    NotOurs { path: PathBuf, problem: &'static str },
    #[error("WORKDIR: another process is using {0}: give each its own WORKDIR")]
    InUse(PathBuf),
}

impl Workdir {
    /// Creates what is missing under `workdir`, and locks it.
    pub fn open(workdir: &Path) -> Result<Self, WorkdirError> {
        Self::open_for(Program::Producer, workdir)
    }

    /// The same for either program: each has a folder of its own.
    pub fn open_for(program: Program, workdir: &Path) -> Result<Self, WorkdirError> {
        let root = workdir.join(program.name());
        fs::create_dir_all(workdir).map_err(failed("create", workdir))?;
        own_dir(&root)?;
        let lock = Mutex::new(lock(&root)?);
        let mut workdir = Self { root, lock, under_way: UnderWay::default(), crashed: Crashed::default() };
        for dir in [workdir.mirrors(), workdir.uploads(), workdir.decoding()] {
            own_dir(&dir)?;
        }
        workdir.crashed = crashes::left(&workdir.decoding());
        Ok(workdir)
    }

    /// Creates and locks again what was removed since. What still exists must be ours.
    pub fn restore(&self) -> Result<(), WorkdirError> {
        for dir in [self.root.clone(), self.mirrors(), self.uploads(), self.decoding()] {
            own_dir(&dir)?;
        }
        let mut held = self.lock.lock();
        let ours = held.metadata().map(|file| (file.dev(), file.ino())).ok();
        if ours != fs::metadata(self.root.join(LOCK_FILE)).map(|file| (file.dev(), file.ino())).ok() {
            *held = lock(&self.root)?;
        }
        Ok(())
    }

    /// Where mirrors live, one directory each.
    pub fn mirrors(&self) -> PathBuf {
        self.root.join("mirrors")
    }

    /// Stores since when targets are out of sync; without any, the file is removed. After an error, what was stored before
    /// is still there.
    pub fn keep_since(&self, targets: &[OutOfSync]) -> io::Result<()> {
        let path = self.root.join(OUT_OF_SYNC_FILE);
        let kept = fs::read(&path);
        if targets.is_empty() {
            return if kept.is_ok() { fs::remove_file(&path) } else { Ok(()) };
        }
        let text = serde_json::to_vec(targets)?;
        if kept.is_ok_and(|kept| kept == text) {
            return Ok(());
        }
        self.replace(OUT_OF_SYNC_FILE, &text)
    }

    /// Stores what passes remember. After an error, what was stored before is still there.
    pub fn keep_memory(&self, memory: &Memory) -> io::Result<()> {
        let (path, text) = (self.root.join(MEMORY_FILE), serde_json::to_vec(memory)?);
        if fs::read(path).is_ok_and(|kept| kept == text) { Ok(()) } else { self.replace(MEMORY_FILE, &text) }
    }

    /// Replaces a file of our folder: whole or not at all. It fails if somebody has put another folder in its place.
    fn replace(&self, name: &str, text: &[u8]) -> io::Result<()> {
        if !is_private_dir(&self.root) {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "the folder under WORKDIR is not ours any more"));
        }
        let path = self.root.join(name);
        // Leftovers of a killed run are overwritten.
        let new = path.with_extension("new");
        let mut file = private_file(&new)?;
        file.set_len(0)?;
        file.write_all(text)?;
        fs::rename(new, path)
    }

    /// What [`Self::keep_since`] stored last. It is only shown to people, so an unreadable file is ignored.
    pub fn kept_since(&self) -> Vec<OutOfSync> {
        let kept = fs::read(self.root.join(OUT_OF_SYNC_FILE)).ok();
        kept.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

/// What passes of an earlier process remembered; `None` if there is nothing. It needs neither the lock nor a right to write.
pub fn kept_memory(workdir: &Path) -> io::Result<Option<Memory>> {
    let root = workdir.join(OURS);
    if !is_private_dir(&root) {
        return Ok(None);
    }
    let file = match File::open(root.join(MEMORY_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = vec![];
    file.take(MEMORY_LIMIT_BYTES).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

/// A target that is out of sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfSync {
    #[serde(flatten)]
    pub destination: Destination,
    /// In seconds since 1970.
    pub since: u64,
}

/// Creates a directory for this user alone. An existing one must be this user's and not a link: others who may write to
/// WORKDIR could have put theirs in its place.
fn own_dir(path: &Path) -> Result<(), WorkdirError> {
    match DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("create", path)(error)),
    }
    let metadata = fs::symlink_metadata(path).map_err(failed("inspect", path))?;
    if let Some(problem) = not_ours(&metadata) {
        return Err(WorkdirError::NotOurs { path: path.to_owned(), problem });
    }
    if metadata.permissions().mode() & 0o777 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed("set the permissions of", path))?;
    }
    Ok(())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkdirError {
    let path = path.to_owned();
    move |source| WorkdirError::Io { what, path, source }
}

/// The lock, held while the file is open.
fn lock(root: &Path) -> Result<File, WorkdirError> {
    let path = root.join(LOCK_FILE);
    let lock = private_file(&path).map_err(failed("create", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(WorkdirError::InUse(root.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn assert_in_use(result: Result<Workdir, WorkdirError>) {
        assert!(matches!(result, Err(WorkdirError::InUse(_))), "{result:?}");
    }

    #[test]
    fn a_folder_that_was_removed_and_made_again_is_locked_again() {
        let place = tempfile::tempdir().unwrap();
        let ours = Workdir::open(place.path()).unwrap();
        assert_in_use(Workdir::open(place.path()));
        for removed in [place.path().join(OURS), place.path().join(OURS).join(LOCK_FILE)] {
            if removed.is_dir() {
                fs::remove_dir_all(&removed).unwrap()
            } else {
                fs::remove_file(&removed).unwrap()
            }
            ours.restore().unwrap();
            assert_in_use(Workdir::open(place.path()));
            // Restoring what is there changes nothing.
            ours.restore().unwrap();
            assert_in_use(Workdir::open(place.path()));
        }
        drop(ours);
        Workdir::open(place.path()).unwrap();
    }

    #[test]
    fn a_folder_that_another_process_made_and_locked_meanwhile_is_in_use() {
        let place = tempfile::tempdir().unwrap();
        let ours = Workdir::open(place.path()).unwrap();
        fs::remove_dir_all(place.path().join(OURS)).unwrap();
        let theirs = Workdir::open(place.path()).unwrap();
        for _ in 0..2 {
            assert!(matches!(ours.restore(), Err(WorkdirError::InUse(_))), "a lock file of the same name is not ours");
        }
        drop(theirs);
        ours.restore().unwrap();
        assert_in_use(Workdir::open(place.path()));
    }
}
