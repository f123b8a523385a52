//! Our part of WORKDIR: one directory, private to one process, and the only place that ever holds plaintext.
//!
//! Invariant: everything here is ours and disposable. Nothing else in WORKDIR is read, changed or removed.

pub mod mirrors;

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::files::not_ours;
use crate::files::private_file;
use crate::model::key::Destination;

/// The directory under WORKDIR.
const OURS: &str = env!("CARGO_PKG_NAME");
/// The file in it that is locked.
const LOCK_FILE: &str = "lock";

/// The file in it that says since when targets are out of sync.
const OUT_OF_SYNC_FILE: &str = "out-of-sync.json";

/// The locked directory. Dropping it lets the lock go.
#[derive(Debug)]
pub struct Workdir {
    root: PathBuf,
    lock: Mutex<File>,
    /// Records of uploads that are under way, with the uploads' ids.
    under_way: Arc<Mutex<HashMap<PathBuf, String>>>,
}

/// Why WORKDIR cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkdirError {
    /// Creating, locking or cleaning it failed.
    #[error("WORKDIR: cannot {what} {path}: make it a directory that this user can write to")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is not a directory of our own.
    #[error(
        "WORKDIR: {path} {problem}: whoever can put it there could read or plant repositories. Remove it, or set another WORKDIR"
    )]
    NotOurs {
        /// What is not.
        path: PathBuf,
        /// What it is instead.
        problem: &'static str,
    },
    /// Another process has it.
    #[error("WORKDIR: another process is at work in {0}: give each its own WORKDIR")]
    InUse(PathBuf),
}

impl Workdir {
    /// Creates what is missing under `workdir`, locks it, and removes what a killed run left behind.
    ///
    /// # Errors
    /// [`WorkdirError`].
    pub fn open(workdir: &Path) -> Result<Self, WorkdirError> {
        let root = workdir.join(OURS);
        fs::create_dir_all(workdir).map_err(failed("create", workdir))?;
        own_dir(&root)?;
        let lock = Mutex::new(lock(&root)?);
        let workdir = Self { root, lock, under_way: Arc::default() };
        for dir in [workdir.mirrors(), workdir.uploads()] {
            own_dir(&dir)?;
        }
        Ok(workdir)
    }

    /// Makes anew, and locks, what somebody has removed since. What is there already must still be ours.
    ///
    /// # Errors
    /// [`WorkdirError`]; above all where another process has taken the place.
    pub fn restore(&self) -> Result<(), WorkdirError> {
        for dir in [self.root.clone(), self.mirrors(), self.uploads()] {
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

    /// Where uploads under way are recorded.
    fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// Records a multipart upload before its first part goes out.
    ///
    /// # Errors
    /// Where the record cannot be written; the upload must be aborted then.
    pub fn record_upload(&self, key: &str, upload_id: &str) -> io::Result<UploadRecord> {
        let content = RecordedUpload { key: key.to_owned(), upload_id: upload_id.to_owned() };
        let mut file = tempfile::Builder::new().suffix(".json").tempfile_in(self.uploads())?;
        file.write_all(&serde_json::to_vec(&content)?)?;
        // From here on, whoever reads the records finds it under way.
        let record = self.under_way(file.path().to_owned(), upload_id);
        file.keep().map_err(|error| error.error)?;
        Ok(record)
    }

    fn under_way(&self, path: PathBuf, upload_id: &str) -> UploadRecord {
        self.under_way.lock().insert(path.clone(), upload_id.to_owned());
        UploadRecord { path, under_way: Arc::clone(&self.under_way) }
    }

    /// The ids of uploads that this process is at.
    pub fn uploads_under_way(&self) -> HashSet<String> {
        self.under_way.lock().values().cloned().collect()
    }

    /// Uploads on record that nobody is at: a killed run left them, or aborting them failed. A record that cannot be read
    /// says nothing and is dropped.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn recorded_uploads(&self) -> io::Result<Vec<(RecordedUpload, UploadRecord)>> {
        let mut found = vec![];
        for entry in fs::read_dir(self.uploads())? {
            let path = entry?.path();
            if self.under_way.lock().contains_key(&path) {
                continue;
            }
            let record = self.under_way(path, "");
            match fs::read(&record.path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
                Some(upload) => found.push((upload, record)),
                None => record.done(),
            }
        }
        Ok(found)
    }

    /// Writes down since when targets are out of sync. Where none is, nothing is left of it.
    ///
    /// # Errors
    /// As the file system says; what was written down before is there then.
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
        // Whole or not at all; what a killed run left of it is written over.
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(new, path)
    }

    /// What [`Self::keep_since`] wrote down last. It is only for people to see: what cannot be read is of no account.
    pub fn kept_since(&self) -> Vec<OutOfSync> {
        let kept = fs::read(self.root.join(OUT_OF_SYNC_FILE)).ok();
        kept.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

/// A target that is out of sync.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfSync {
    /// Where it goes.
    #[serde(flatten)]
    pub destination: Destination,
    /// Since when, in seconds from 1970 on.
    pub since: u64,
}

/// Creates a directory for this user alone. One that exists must be a directory, not a link to one, and this user's:
/// where others may write to WORKDIR, they can put one of theirs in its place.
fn own_dir(path: &Path) -> Result<(), WorkdirError> {
    match DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("create", path)(error)),
    }
    let metadata = fs::symlink_metadata(path).map_err(failed("look at", path))?;
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

/// The lock, held for as long as the file is open.
fn lock(root: &Path) -> Result<File, WorkdirError> {
    let path = root.join(LOCK_FILE);
    let lock = private_file(&path).map_err(failed("create", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(WorkdirError::InUse(root.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

/// A multipart upload that was begun.
#[derive(Debug, Serialize, Deserialize)]
pub struct RecordedUpload {
    /// The object's key.
    pub key: String,
    /// S3's id of the upload.
    pub upload_id: String,
}

/// The record of an upload under way. It outlives its drop on purpose: only a finished or aborted upload is forgotten.
#[derive(Debug)]
pub struct UploadRecord {
    path: PathBuf,
    under_way: Arc<Mutex<HashMap<PathBuf, String>>>,
}

impl Drop for UploadRecord {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.path);
    }
}

impl UploadRecord {
    /// Forgets the upload. A record that cannot be removed only costs a needless abort at the next start.
    pub fn done(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "cannot remove the record of an upload");
        }
    }
}
