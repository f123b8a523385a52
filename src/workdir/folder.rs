//! A private, locked folder under WORKDIR.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files::{is_private_dir, not_ours, private_file};
use crate::model::key::Destination;

pub(super) const LOCK_FILE: &str = "lock";
const OUT_OF_SYNC_FILE: &str = "out-of-sync.json";

/// The folder, private to one process. Dropping it releases the lock.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    dirs: &'static [&'static str],
    /// What did not exist before, the deepest first.
    new: Vec<PathBuf>,
    lock: Mutex<File>,
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
    #[error(
        "WORKDIR: another process is using {0}, as a running daemon does: give each its own WORKDIR (for a single pass beside a \
         daemon, -workdir=DIR with an empty folder, and -max-retire=0 if it is a producer that is not to retire more; if it is \
         a consumer with trusted keys, stop the daemon instead)"
    )]
    InUse(PathBuf),
}

impl WorkdirError {
    /// What to do about it.
    pub fn advice(&self) -> String {
        match self {
            Self::Io { path, .. } => format!(
                "In Kubernetes: mount an emptyDir there; if it is another volume, set fsGroup. Elsewhere: `sudo install -d -o \
                 USER -m 700 {}`, with the user that this program runs as.",
                path.display()
            ),
            Self::NotOurs { .. } => {
                "In Kubernetes: mount an emptyDir there; if it is another volume, set fsGroup. Elsewhere: run this program as \
                 one user only."
                    .to_owned()
            }
            Self::InUse(_) => {
                "That is fine if it is the daemon. Any other process needs a WORKDIR of its own.".to_owned()
            }
        }
    }
}

impl Folder {
    /// Creates what is missing of the folder `name` under `workdir`, with `dirs` inside, and locks it.
    pub(super) fn open(
        workdir: &Path,
        name: &'static str,
        dirs: &'static [&'static str],
    ) -> Result<Self, WorkdirError> {
        let root = workdir.join(name);
        let new = root.ancestors().take_while(|path| fs::symlink_metadata(path).is_err()).map(Path::to_owned).collect();
        fs::create_dir_all(workdir).map_err(failed("create", workdir))?;
        own_dir(&root)?;
        let lock = Mutex::new(lock(&root)?);
        let folder = Self { root, dirs, new, lock };
        folder.own_all()?;
        Ok(folder)
    }

    /// Creates and locks again what was removed since. What still exists must be ours.
    pub fn restore(&self) -> Result<(), WorkdirError> {
        self.own_all()?;
        let mut held = self.lock.lock();
        let ours = held.metadata().map(|file| (file.dev(), file.ino())).ok();
        if ours != fs::metadata(self.path(LOCK_FILE)).map(|file| (file.dev(), file.ino())).ok() {
            *held = lock(&self.root)?;
        }
        Ok(())
    }

    /// Removes what [`Self::open`] created, if it created the folder: that and the directories above it, as far as nothing else
    /// is in them. The lock is held meanwhile, so no other process uses the folder.
    pub fn remove_if_new(&self) {
        if !self.new.contains(&self.root) {
            return;
        }
        for dir in self.dirs {
            let _ = fs::remove_dir(self.path(dir));
        }
        let _ = fs::remove_file(self.path(LOCK_FILE));
        for path in &self.new {
            let _ = fs::remove_dir(path);
        }
    }

    fn own_all(&self) -> Result<(), WorkdirError> {
        own_dir(&self.root)?;
        self.dirs.iter().try_for_each(|dir| own_dir(&self.path(dir)))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Stores since when targets are out of sync; without any, the file is removed. After an error, what was stored before
    /// is still there.
    pub fn keep_since(&self, targets: &[OutOfSync]) -> io::Result<()> {
        self.keep(OUT_OF_SYNC_FILE, Some(targets).filter(|targets| !targets.is_empty()))
    }

    /// What [`Self::keep_since`] stored last. It is only shown to people, so an unreadable file is ignored.
    pub fn kept_since(&self) -> Vec<OutOfSync> {
        let kept = fs::read(self.path(OUT_OF_SYNC_FILE)).ok();
        kept.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Gives a file of the folder this content, as JSON; without one, the file is removed. After an error, what was stored
    /// before is still there.
    pub(super) fn keep(&self, name: &str, content: Option<&(impl Serialize + ?Sized)>) -> io::Result<()> {
        let Some(content) = content else {
            return match fs::remove_file(self.path(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            };
        };
        let content = serde_json::to_vec(content)?;
        if fs::read(self.path(name)).is_ok_and(|kept| kept == content) { Ok(()) } else { self.replace(name, &content) }
    }

    /// What [`Self::keep`] stored last.
    pub(super) fn kept<T: DeserializeOwned>(&self, name: &str, limit_bytes: u64) -> io::Result<Option<T>> {
        kept(&self.root, name, limit_bytes)
    }

    /// Replaces a file of our folder: whole or not at all. It fails if somebody has put another folder in its place.
    pub(super) fn replace(&self, name: &str, text: &[u8]) -> io::Result<()> {
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
}

/// What [`Folder::keep`] stored in a file of the folder at `root`; `None` if there is no such file, or the folder is not
/// ours. It needs neither the lock nor a right to write. A file of more than `limit_bytes` is an error.
pub(super) fn kept<T: DeserializeOwned>(root: &Path, file: &str, limit_bytes: u64) -> io::Result<Option<T>> {
    if !is_private_dir(root) {
        return Ok(None);
    }
    let file = match File::open(root.join(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut content = vec![];
    file.take(limit_bytes).read_to_end(&mut content)?;
    Ok(Some(serde_json::from_slice(&content)?))
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
