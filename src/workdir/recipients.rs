//! For which recipients the bucket's objects were encrypted: a fingerprint, kept between starts.
//!
//! Invariant: it is not a secret, and only decides about a warning and about republishing. A lost file starts over.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{OURS, Workdir};

const RECIPIENTS_FILE: &str = "recipients";
/// Length of a fingerprint, in bytes: SHA-256 in hexadecimal digits.
const FINGERPRINT_BYTES: u64 = 64;

/// The fingerprint that was kept under this WORKDIR, if there is one. The folder need not be open.
pub fn kept_recipients(workdir: &Path) -> Option<String> {
    let mut kept = String::new();
    File::open(workdir.join(OURS).join(RECIPIENTS_FILE))
        .ok()?
        .take(FINGERPRINT_BYTES)
        .read_to_string(&mut kept)
        .ok()?;
    (kept.len() as u64 == FINGERPRINT_BYTES).then_some(kept)
}

impl Workdir {
    /// Keeps a fingerprint for the next start. After an error, what was kept before is still there.
    pub fn keep_recipients(&self, fingerprint: &str) -> io::Result<()> {
        self.replace(RECIPIENTS_FILE, fingerprint.as_bytes())
    }
}
