//! Which destinations' packs are being decoded: what a process that was killed for its memory was doing.
//!
//! Invariant: a record is there only while a pack is decoded; after any other end than that of the whole process it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tempfile::NamedTempFile;

use super::{DECODING, Workdir};
use crate::model::key::Destination;

/// Records of an earlier process.
pub(super) type Crashed = Mutex<BTreeMap<PathBuf, Destination>>;

/// The record of a destination whose pack is about to be decoded. Dropping it removes the record.
#[derive(Debug)]
pub struct CrashRecord {
    dir: PathBuf,
    destination: Destination,
    file: Option<NamedTempFile>,
}

impl Workdir {
    /// Where packs being decoded are recorded.
    pub(super) fn decoding(&self) -> PathBuf {
        self.path(DECODING)
    }

    /// A record that [`CrashRecord::begin`] writes.
    pub fn crash_record(&self, destination: &Destination) -> CrashRecord {
        CrashRecord { dir: self.decoding(), destination: destination.clone(), file: None }
    }

    /// Destinations whose packs were being decoded when an earlier process ended, and that were not tried since.
    pub fn crashed(&self) -> BTreeSet<Destination> {
        self.crashed.lock().values().cloned().collect()
    }

    /// Forgets these after they were tried, or need not be.
    pub fn survived(&self, destinations: &BTreeSet<Destination>) {
        self.crashed.lock().retain(|record, of| {
            let survived = destinations.contains(of);
            if survived && let Err(error) = fs::remove_file(record) {
                tracing::debug!(%error, "cannot remove the record of a pack that was decoded");
            }
            !survived
        });
    }
}

impl CrashRecord {
    /// Writes the record. Without one, a crash has no consequence at the next start; that is not a reason to stop.
    pub fn begin(&mut self) {
        let written = || -> io::Result<NamedTempFile> {
            let mut file = NamedTempFile::new_in(&self.dir)?;
            file.write_all(&serde_json::to_vec(&self.destination)?)?;
            Ok(file)
        };
        match written() {
            Ok(file) => self.file = Some(file),
            Err(error) => tracing::debug!(%error, "cannot record which pack is decoded"),
        }
    }
}

/// Reads the records of an earlier process. One that cannot be read is removed.
pub(super) fn left(dir: &Path) -> Crashed {
    let mut crashed = BTreeMap::new();
    for record in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        match fs::read(&record).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            Some(destination) => drop(crashed.insert(record, destination)),
            None => drop(fs::remove_file(record)),
        }
    }
    Mutex::new(crashed)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_record_outlives_only_a_process_that_was_killed() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination { group: "far".into(), project: "large".into(), branch: "main".into() };
        let workdir = Workdir::open(dir.path()).unwrap();
        assert!(workdir.crashed().is_empty());
        let mut record = workdir.crash_record(&destination);
        let records = || fs::read_dir(workdir.decoding()).unwrap().count();
        assert_eq!(records(), 0, "nothing is decoded yet");
        record.begin();
        assert_eq!(records(), 1);
        drop(record);
        assert_eq!(records(), 0);

        // A process that is killed drops nothing.
        let mut killed = workdir.crash_record(&destination);
        killed.begin();
        std::mem::forget(killed);
        fs::write(workdir.decoding().join("damaged"), "{").unwrap();
        drop(workdir);
        assert_eq!(Workdir::open(dir.path()).unwrap().crashed(), [destination.clone()].into());
        let next = Workdir::open(dir.path()).unwrap();
        assert_eq!(next.crashed(), [destination.clone()].into(), "until it is tried");
        next.survived(&[destination].into());
        assert!(next.crashed().is_empty());
        drop(next);
        assert!(Workdir::open(dir.path()).unwrap().crashed().is_empty());
    }
}
