//! Uploading an object: in one request if it fits into one part, else in several parts.
//!
//! Invariant: an object is created whole or not at all. An upload is completed only after its writer marked the last byte.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::Builder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use futures_util::TryFutureExt;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::error::upload_failed;
use super::parts::{Part, Parts};
use super::proof::Sent;
use super::{Bucket, BucketError, attempt_timeouts};
use crate::progress::Progress;
use crate::workdir::Workdir;

/// Parts of one object that are sent at the same time.
const PARALLEL_PARTS: usize = 3;
/// The slowest network that object data is sent over, in bytes per second: 120 kbit/s. A request with data gets the time
/// that takes on top of `IDLE_TIMEOUT`.
const LEAST_BYTES_PER_SECOND: u64 = 15_000;
/// How long S3 may take to assemble an object from its parts, as a multiple of `IDLE_TIMEOUT`; a very large object takes
/// minutes.
const ASSEMBLY_IDLE_TIMES: u32 = 10;
/// How long to wait for the id of a new upload when the program is asked to stop.
const CREATE_GRACE: Duration = Duration::from_secs(2);

/// How long deleting an object that is damaged may take.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);

/// A multipart upload that has begun.
#[derive(Clone)]
pub(super) struct Multipart {
    bucket: Bucket,
    key: String,
    pub(super) id: String,
}

/// A part that S3 has.
pub(super) struct SentPart {
    part: CompletedPart,
    checksum: Sent,
    bytes: u64,
}

impl Bucket {
    /// Uploads what the pipe's writer writes. The object appears once the writer has finished, or not at all.
    ///
    /// Returns the object's size in bytes.
    ///
    /// # Errors
    /// [`BucketError`]. The upload has then been aborted, or stays recorded in `workdir` to be aborted later.
    pub async fn upload(
        &self,
        key: &str,
        mut parts: Parts,
        workdir: &Workdir,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
    ) -> Result<u64, BucketError> {
        let first = stop.run_until_cancelled(parts.next()).await.ok_or(BucketError::Stopped)?;
        let first = first.ok_or(BucketError::WriterGone)?;
        if first.last {
            let put = stop.run_until_cancelled(self.put(key, first)).await.unwrap_or(Err(BucketError::Stopped));
            let size = self.without_other_bytes(key, put).await?;
            progress.sent(size);
            return Ok(size);
        }
        let upload = self.begin_upload(key, stop).await?;
        let (sent, record) = match workdir.record_upload(key, &upload.id) {
            Ok(record) => {
                let sending = upload.send(first, &mut parts, progress);
                (stop.run_until_cancelled(sending).await.unwrap_or(Err(BucketError::Stopped)), Some(record))
            }
            Err(error) => (Err(BucketError::Record(error)), None),
        };
        // If the writer is still running, its next write fails.
        drop(parts);
        let settled = sent.is_ok() || self.abort_soon(key, &upload.id).await.is_ok();
        if let Some(record) = record.filter(|_| settled) {
            record.done();
        }
        self.without_other_bytes(key, sent).await
    }

    /// Deletes the object if S3 stored other bytes than were sent: the next pass would take it for a good one.
    async fn without_other_bytes(&self, key: &str, stored: Result<u64, BucketError>) -> Result<u64, BucketError> {
        if let Err(BucketError::OtherBytes { .. }) = &stored {
            let removed = timeout(REMOVAL_TIMEOUT, self.delete(key)).await.is_ok_and(|removed| removed.is_ok());
            tracing::warn!(key, removed, "S3 stored other bytes than were sent, and is asked to delete that object");
        }
        stored
    }

    async fn put(&self, key: &str, Part { bytes, _memory, .. }: Part) -> Result<u64, BucketError> {
        let size = bytes.len() as u64;
        let sent = Sent::new(&bytes);
        let request = self.client.put_object().bucket(&self.name).key(key).body(ByteStream::from(bytes));
        let request = request.customize().config_override(self.time_for(size)).interceptor(sent);
        let request = if self.sign_payload { request } else { request.disable_payload_signing() };
        request.send().await.map_err(upload_failed("store an object"))?;
        Ok(size)
    }

    pub(super) async fn begin_upload(&self, key: &str, stop: &CancellationToken) -> Result<Multipart, BucketError> {
        let mut creating = std::pin::pin!(self.create_upload(key));
        if let Some(created) = stop.run_until_cancelled(creating.as_mut()).await {
            return created;
        }
        // S3 may have begun the upload already, and only the answer holds its id.
        if let Ok(Ok(upload)) = timeout(CREATE_GRACE, creating).await {
            let gone = self.abort_soon(key, &upload.id).await.is_ok();
            tracing::debug!(gone, "an upload that was begun while stopping is aborted");
        }
        Err(BucketError::Stopped)
    }

    async fn create_upload(&self, key: &str) -> Result<Multipart, BucketError> {
        const ACTION: &str = "begin an upload";
        let created = self.client.create_multipart_upload().bucket(&self.name).key(key).send().await;
        let id = created.map_err(upload_failed(ACTION))?.upload_id;
        let id = id.ok_or(BucketError::Incomplete { action: ACTION, missing: "its id" })?;
        Ok(Multipart { bucket: self.clone(), key: key.to_owned(), id })
    }

    /// The time limit for one attempt at a request that carries this much data.
    fn time_for(&self, bytes: u64) -> Builder {
        self.time_of_attempt(self.timeouts.idle.saturating_add(Duration::from_secs(bytes / LEAST_BYTES_PER_SECOND)))
    }

    fn time_of_attempt(&self, attempt: Duration) -> Builder {
        Builder::new().timeout_config(attempt_timeouts(self.timeouts, attempt))
    }
}

impl Multipart {
    /// Sends all parts and completes the upload. Returns the object's size in bytes.
    async fn send(&self, first: Part, parts: &mut Parts, progress: &Arc<Progress>) -> Result<u64, BucketError> {
        let mut sending = JoinSet::new();
        let (mut size, mut done, mut number) = (0, vec![], 1);
        let mut next = first;
        loop {
            while sending.len() >= PARALLEL_PARTS {
                done.extend(finished(sending.join_next().await)?);
            }
            let (bytes, last, progress) = (next.bytes.len() as u64, next.last, Arc::clone(progress));
            size += bytes;
            sending.spawn(self.clone().send_part(number, next).inspect_ok(move |_| progress.sent(bytes)));
            if last {
                break;
            }
            number += 1;
            // A channel that closes is not the end of the archive: only a part marked as the last one is.
            next = parts.next().await.ok_or(BucketError::WriterGone)?;
        }
        while !sending.is_empty() {
            done.extend(finished(sending.join_next().await)?);
        }
        self.complete(done).await?;
        Ok(size)
    }

    pub(super) async fn send_part(self, number: i32, part: Part) -> Result<SentPart, BucketError> {
        let (Self { bucket, key, id }, Part { bytes, _memory, .. }) = (self, part);
        let (size, checksum) = (bytes.len() as u64, Sent::new(&bytes));
        let request = bucket.client.upload_part().bucket(&bucket.name).key(key).upload_id(id).part_number(number);
        let request = request.body(ByteStream::from(bytes)).customize().config_override(bucket.time_for(size));
        let request = request.interceptor(checksum.clone());
        let request = if bucket.sign_payload { request } else { request.disable_payload_signing() };
        let sent = request.send().await.map_err(upload_failed("store a part of an object"))?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
        Ok(SentPart { part: part.set_checksum_crc32(sent.checksum_crc32).build(), checksum, bytes: size })
    }

    async fn complete(&self, mut done: Vec<SentPart>) -> Result<(), BucketError> {
        let Self { bucket, key, id } = self;
        done.sort_by_key(|sent| sent.part.part_number);
        let whole = Sent::joined(done.iter().map(|sent| (&sent.checksum, sent.bytes)));
        let parts = done.into_iter().map(|sent| sent.part).collect();
        let complete = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = bucket.client.complete_multipart_upload().bucket(&bucket.name).key(key).upload_id(id);
        let time_limit = bucket.time_of_attempt(bucket.timeouts.idle.saturating_mul(ASSEMBLY_IDLE_TIMES));
        let request = request.multipart_upload(complete).customize().config_override(time_limit).interceptor(whole);
        request.send().await.map(drop).map_err(upload_failed("complete an upload"))
    }
}

fn finished(joined: Option<Result<Result<SentPart, BucketError>, JoinError>>) -> Result<Option<SentPart>, BucketError> {
    joined.map(|joined| joined.unwrap_or(Err(BucketError::Stopped))).transpose()
}
