//! Whether the bucket lets this program do what a pass does, tried without leaving anything in it.
//!
//! Invariant: no object is created and none is deleted, so that no consumer sees anything of it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{ABORT_TIMEOUT, Bucket, BucketError, LIST_UPLOADS, Part, about, failed};

/// The key that is tried: no base64, so that it is foreign to us and to every consumer, with an extension that a bucket
/// policy may insist on.
const TRIAL_KEY: &str = concat!(env!("CARGO_PKG_NAME"), "-check.zip.age");
/// What the part is made of.
const TRIAL_BYTES: &[u8] = b"a trial upload, which is aborted and never becomes an object\n";

impl BucketError {
    /// What to do about it, where that can be told.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Request { code: Some(code), .. } => {
                Some(about(code).1.unwrap_or("The S3 server itself says so: look there."))
            }
            Self::NoCredentials { .. } => {
                Some("Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod or the machine a role.")
            }
            _ => None,
        }
    }

    /// Whether S3 answered, and said that the credentials have no right to this.
    pub fn is_access_denied(&self) -> bool {
        matches!(self, Self::Request { code: Some(code), .. } if code == "AccessDenied" || code == "AllAccessDisabled")
    }
}

impl Bucket {
    /// Begins an upload, sends a part of it and aborts it: all rights that publishing needs, and no object.
    ///
    /// # Errors
    /// [`BucketError`] of the first step that is refused. An upload that cannot be aborted is left to the bucket's
    /// lifecycle rules.
    pub async fn try_upload(&self, stop: &CancellationToken) -> Result<(), BucketError> {
        let id = self.begin_upload(TRIAL_KEY, stop).await?;
        let sent = stop.run_until_cancelled(self.send_trial_part(&id)).await.unwrap_or(Err(BucketError::Stopped));
        let aborting = self.abort_upload(TRIAL_KEY, &id);
        let aborted = if stop.is_cancelled() {
            timeout(ABORT_TIMEOUT, aborting).await.unwrap_or(Err(BucketError::Stopped))
        } else {
            aborting.await
        };
        sent.and(aborted)
    }

    async fn send_trial_part(&self, id: &str) -> Result<(), BucketError> {
        // The semaphore is never closed.
        let memory = Arc::clone(&self.memory).acquire_owned().await;
        let _memory = memory.map_err(|_| BucketError::Stopped)?;
        let part = Part { bytes: Bytes::from_static(TRIAL_BYTES), last: true, _memory };
        self.clone().send_part(TRIAL_KEY.to_owned(), id.to_owned(), 1, part).await.map(drop)
    }

    /// Deletes an object that does not exist, which S3 allows whoever may delete one that does.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn try_delete(&self) -> Result<(), BucketError> {
        self.delete(TRIAL_KEY).await
    }

    /// Asks for the first unfinished upload.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn try_list_uploads(&self) -> Result<(), BucketError> {
        let request = self.client.list_multipart_uploads().bucket(&self.name).max_uploads(1);
        request.send().await.map(drop).map_err(failed(LIST_UPLOADS))
    }
}
