//! Tries whether the credentials allow everything that a pass does.
//!
//! Invariant: no object is created or deleted, so consumers see nothing of it.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::abandoned::LIST_UPLOADS;
use super::error::failed;
use super::parts::Part;
use super::upload::Multipart;
use super::{Bucket, BucketError};

/// Not base64, so the key is foreign to us and to every consumer. Its extension is one that a bucket policy may require.
const TRIAL_KEY: &str = concat!(env!("CARGO_PKG_NAME"), "-check.zip.age");
const TRIAL_BYTES: &[u8] = b"a trial upload, which is aborted and never becomes an object\n";

impl Bucket {
    /// Begins an upload, sends one part and aborts it. That takes all rights that publishing needs, and creates no object.
    ///
    /// # Errors
    /// [`BucketError`] of the first step that is refused. If the upload cannot be aborted, the bucket's lifecycle rules
    /// have to remove it.
    pub async fn try_upload(&self, stop: &CancellationToken) -> Result<(), BucketError> {
        let upload = self.begin_upload(TRIAL_KEY, stop).await?;
        let sending = self.send_trial_part(upload.clone());
        let sent = stop.run_until_cancelled(sending).await.unwrap_or(Err(BucketError::Stopped));
        let aborted = if stop.is_cancelled() {
            self.abort_soon(TRIAL_KEY, &upload.id).await
        } else {
            self.abort_upload(TRIAL_KEY, &upload.id).await
        };
        sent.and(aborted)
    }

    async fn send_trial_part(&self, upload: Multipart) -> Result<(), BucketError> {
        // The semaphore is never closed.
        let memory = Arc::clone(&self.memory).acquire_owned().await;
        let _memory = memory.map_err(|_| BucketError::Stopped)?;
        let part = Part { bytes: Bytes::from_static(TRIAL_BYTES), last: true, _memory };
        upload.send_part(1, part).await.map(drop)
    }

    /// Deletes an object that does not exist. S3 allows that with the right to delete one that does.
    pub async fn try_delete(&self) -> Result<(), BucketError> {
        self.delete(TRIAL_KEY).await
    }

    /// Lists the first unfinished upload.
    pub async fn try_list_uploads(&self) -> Result<(), BucketError> {
        let request = self.client.list_multipart_uploads().bucket(&self.name).max_uploads(1);
        request.send().await.map(drop).map_err(failed(LIST_UPLOADS))
    }
}
