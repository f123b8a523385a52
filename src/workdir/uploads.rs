//! Records of multipart uploads, so that uploads of a killed run can be aborted.
//!
//! Invariant: an upload is on record from before its first part is sent until it is completed or aborted.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{UPLOADS, Workdir};

/// Records of this process's uploads, with the uploads' ids.
pub(super) type UnderWay = Arc<Mutex<HashMap<PathBuf, String>>>;

/// A multipart upload that was begun.
#[derive(Debug, Serialize, Deserialize)]
pub struct RecordedUpload {
    /// The object's key.
    pub key: String,
    /// S3's id of the upload.
    pub upload_id: String,
}

/// The record of an upload under way. Dropping it keeps the file on purpose: only a completed or aborted upload is
/// forgotten.
#[derive(Debug)]
pub struct UploadRecord {
    path: PathBuf,
    under_way: UnderWay,
}

impl Workdir {
    /// Where uploads under way are recorded.
    pub(super) fn uploads(&self) -> PathBuf {
        self.path(UPLOADS)
    }

    /// Records a multipart upload before its first part is sent. If that fails, the upload must be aborted.
    pub fn record_upload(&self, key: &str, upload_id: &str) -> io::Result<UploadRecord> {
        let content = RecordedUpload { key: key.to_owned(), upload_id: upload_id.to_owned() };
        let mut file = tempfile::Builder::new().suffix(".json").tempfile_in(self.uploads())?;
        file.write_all(&serde_json::to_vec(&content)?)?;
        // From here on, `recorded_uploads` leaves it out.
        let record = self.under_way(file.path().to_owned(), upload_id);
        file.keep().map_err(|error| error.error)?;
        Ok(record)
    }

    fn under_way(&self, path: PathBuf, upload_id: &str) -> UploadRecord {
        self.under_way.lock().insert(path.clone(), upload_id.to_owned());
        UploadRecord { path, under_way: Arc::clone(&self.under_way) }
    }

    /// The ids of this process's uploads.
    pub fn uploads_under_way(&self) -> HashSet<String> {
        self.under_way.lock().values().cloned().collect()
    }

    /// Recorded uploads that are not under way: a killed run left them, or aborting them failed. Unreadable records are
    /// dropped.
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
}

impl UploadRecord {
    /// Forgets the upload. A record that cannot be removed only costs a needless abort at the next start.
    pub fn done(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "cannot remove the record of an upload");
        }
    }
}

impl Drop for UploadRecord {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.path);
    }
}
