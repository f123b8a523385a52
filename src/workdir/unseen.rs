//! What was uploaded and no listing has shown yet, kept for the next process: a pass with `-run-once` has no next listing.
//!
//! Invariant: it only decides whether an object is reported as lost. A lost file reports nothing.

use std::io;

use serde::{Deserialize, Serialize};

use super::Workdir;

const UNSEEN_FILE: &str = "unseen-uploads.json";
/// Longest file that is read, in bytes: 6 KiB for each of the most uploads that are kept.
const UNSEEN_LIMIT_BYTES: u64 = 64 << 20;

/// The uploads to one bucket that no listing has shown yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnseenUploads {
    /// Which bucket, and where.
    pub bucket: String,
    pub uploads: Vec<UnseenUpload>,
}

/// An object that S3 said it stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnseenUpload {
    pub key: String,
    /// What was there before it.
    pub superseded: Vec<String>,
}

impl Workdir {
    /// Stores them for the next start; without any, the file is removed. After an error, what was stored before is still
    /// there.
    pub fn keep_unseen(&self, unseen: &UnseenUploads) -> io::Result<()> {
        self.keep(UNSEEN_FILE, Some(unseen).filter(|unseen| !unseen.uploads.is_empty()))
    }

    /// What [`Self::keep_unseen`] stored last.
    pub fn kept_unseen(&self) -> io::Result<UnseenUploads> {
        Ok(self.kept(UNSEEN_FILE, UNSEEN_LIMIT_BYTES)?.unwrap_or_default())
    }
}
