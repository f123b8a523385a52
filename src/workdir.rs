//! Our folder in WORKDIR, one for each program.
//!
//! Invariant: everything here is ours and disposable. Nothing else in WORKDIR is read, changed or removed.

mod crashes;
mod folder;
pub mod mirrors;
mod recipients;
mod spool;
mod unseen;
mod uploads;

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

pub use self::crashes::CrashRecord;
use self::crashes::Crashed;
pub use self::folder::{Folder, OutOfSync, WorkdirError};
pub use self::recipients::kept_recipients;
pub use self::spool::{Spool, kept_refusals};
pub use self::unseen::{UnseenUpload, UnseenUploads};
use self::uploads::UnderWay;
pub use self::uploads::{RecordedUpload, UploadRecord};
use crate::model::program::Program;
use crate::plan::Memory;

/// The producer's folder under WORKDIR.
const OURS: &str = Program::Producer.name();
const MEMORY_FILE: &str = "retirements.json";
/// Longest memory that is read, in bytes: about 40 for each of a million destinations.
const MEMORY_LIMIT_BYTES: u64 = 64 << 20;

const MIRRORS: &str = "mirrors";
const UPLOADS: &str = "uploads";
const DECODING: &str = "decoding";

/// The producer's folder: mirrors, and records of what is under way.
#[derive(Debug)]
pub struct Workdir {
    folder: Folder,
    under_way: UnderWay,
    crashed: Crashed,
}

impl Workdir {
    /// Creates what is missing under `workdir`, and locks it.
    pub fn open(workdir: &Path) -> Result<Self, WorkdirError> {
        let folder = Folder::open(workdir, OURS, &[MIRRORS, UPLOADS, DECODING])?;
        let crashed = crashes::left(&folder.path(DECODING));
        Ok(Self { folder, under_way: UnderWay::default(), crashed })
    }

    /// Where mirrors live, one directory each.
    pub fn mirrors(&self) -> PathBuf {
        self.path(MIRRORS)
    }

    /// Stores what passes remember. After an error, what was stored before is still there.
    pub fn keep_memory(&self, memory: &Memory) -> io::Result<()> {
        self.keep(MEMORY_FILE, Some(memory))
    }
}

impl Deref for Workdir {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.folder
    }
}

/// What passes of an earlier process remembered; `None` if there is nothing. It needs neither the lock nor a right to write.
pub fn kept_memory(workdir: &Path) -> io::Result<Option<Memory>> {
    folder::kept(&workdir.join(OURS), MEMORY_FILE, MEMORY_LIMIT_BYTES)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;

    use super::folder::LOCK_FILE;
    use super::*;

    #[track_caller]
    fn assert_in_use(result: Result<Workdir, WorkdirError>) {
        assert!(matches!(result, Err(WorkdirError::InUse(_))), "{result:?}");
    }

    #[test]
    fn what_was_made_is_removed_again_and_what_was_there_or_holds_something_stays() {
        let place = tempfile::tempdir().unwrap();
        let workdir = place.path().join("a/b");
        for _ in 0..2 {
            Workdir::open(&workdir).unwrap().remove_if_new();
            assert!(fs::read_dir(place.path()).unwrap().next().is_none());
        }
        // Somebody's file beside it.
        let ours = Workdir::open(&workdir).unwrap();
        fs::write(workdir.join("theirs"), "").unwrap();
        ours.remove_if_new();
        assert!(!workdir.join(OURS).exists() && workdir.join("theirs").exists());
        // Records, and a mirror.
        for kept in ["out-of-sync.json", "mirrors/kept"] {
            let ours = Workdir::open(&workdir).unwrap();
            fs::write(workdir.join(OURS).join(kept), "").unwrap();
            ours.remove_if_new();
            assert!(workdir.join(OURS).join(kept).exists());
            drop(ours);
            fs::remove_dir_all(workdir.join(OURS)).unwrap();
        }
        // The daemon's folder, although nothing is in it.
        drop(Workdir::open(&workdir).unwrap());
        Workdir::open(&workdir).unwrap().remove_if_new();
        assert!(workdir.join(OURS).join(LOCK_FILE).exists());
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
