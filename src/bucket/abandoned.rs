//! Unfinished uploads: finding and aborting them. Their parts take paid space, but no consumer sees them.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::MultipartUpload;
use tokio::time::timeout;

use super::error::failed;
use super::list::{in_time, read_key};
use super::{Bucket, BucketError};
use crate::model::key::{self, Destination};
use crate::workdir::{RecordedUpload, UploadRecord};

/// How long aborting an upload may take.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const LIST_UPLOADS: &str = "list unfinished uploads";

impl Bucket {
    /// Aborts a multipart upload; S3 drops its parts. It is not an error if the upload is already gone.
    pub(super) async fn abort_upload(&self, key: &str, id: &str) -> Result<(), BucketError> {
        match self.client.abort_multipart_upload().bucket(&self.name).key(key).upload_id(id).send().await {
            Err(error) if error.code() == Some("NoSuchUpload") => Ok(()),
            other => other.map(drop).map_err(failed("abort an upload")),
        }
    }

    /// Aborts an upload within [`ABORT_TIMEOUT`]; an error if S3 does not answer in that time.
    pub(super) async fn abort_soon(&self, key: &str, id: &str) -> Result<(), BucketError> {
        let too_slow = BucketError::TooSlow { action: "abort an upload", limit: ABORT_TIMEOUT };
        timeout(ABORT_TIMEOUT, self.abort_upload(key, id)).await.unwrap_or(Err(too_slow))
    }

    /// Aborts the recorded uploads, and deletes the records of those that are gone. Returns how many.
    pub async fn abort_recorded(&self, records: Vec<(RecordedUpload, UploadRecord)>) -> usize {
        let mut aborted = 0;
        for (upload, record) in records {
            match self.abort_soon(&upload.key, &upload.upload_id).await {
                Ok(()) => {
                    record.done();
                    aborted += 1;
                }
                // A silent server would be silent for each of them. The other records stay for the next pass.
                Err(BucketError::TooSlow { .. }) => break,
                Err(_) => {}
            }
        }
        aborted
    }

    /// Aborts unfinished uploads for the destinations in `ours` that began before `before`, except those whose ids are
    /// in `spared`. Younger ones may belong to another replica. Returns how many.
    ///
    /// # Errors
    /// The unfinished uploads cannot be listed, or one cannot be aborted.
    pub async fn abort_abandoned(
        &self,
        ours: &HashSet<&Destination>,
        spared: &HashSet<String>,
        before: SystemTime,
    ) -> Result<usize, BucketError> {
        let is_abandoned = |upload: &MultipartUpload, key: &str, id: &str| {
            let begun = upload.initiated.and_then(|time| SystemTime::try_from(time).ok());
            begun.is_some_and(|begun| begun < before)
                && !spared.contains(id)
                && key::decode(key).is_some_and(|name| ours.contains(&name.destination))
        };
        let aborting = async {
            let (mut aborted, mut refused, mut markers) = (0, None, (None, None));
            loop {
                let request = self.client.list_multipart_uploads().bucket(&self.name);
                let request = request.set_key_marker(markers.0.clone()).set_upload_id_marker(markers.1.clone());
                let page = request.send().await.map_err(failed(LIST_UPLOADS))?;
                for upload in page.uploads.unwrap_or_default() {
                    let (Some(key), Some(id)) = (&upload.key, &upload.upload_id) else { continue };
                    let (key, id) = (&read_key(key.clone(), false).0, id);
                    if is_abandoned(&upload, key, id) {
                        match self.abort_upload(key, id).await {
                            Ok(()) => aborted += 1,
                            // The others are aborted all the same.
                            Err(error) => refused = Some(error),
                        }
                    }
                }
                let next = (page.next_key_marker, page.next_upload_id_marker);
                if !page.is_truncated.unwrap_or_default() || next == markers {
                    return refused.map_or(Ok(aborted), Err);
                }
                markers = next;
            }
        };
        in_time(LIST_UPLOADS, aborting).await
    }
}
