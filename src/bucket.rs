//! The bucket: what it holds (the observed state), and the few ways to change it.
//!
//! Invariant: an object is created whole or not at all. A listing is complete or an error, and an upload is completed
//! only after its writer has said that the last byte is in it.

mod answer;
mod client;
mod parts;
mod trial;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, EncodingType};
use futures_util::TryFutureExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::answer::{NO_CREDENTIALS, WholeDocument, WorthAnotherTry};
use self::parts::Part;
pub use self::parts::{PartWriter, Parts};
use crate::model::key::HeldObject;
use crate::model::key::{self, Destination};
use crate::net::Timeouts;
use crate::net::tls::TrustRoots;
use crate::progress::Progress;
use crate::text::remote_text;
use crate::workdir::{RecordedUpload, UploadRecord, Workdir};
use url::Url;

/// Parts of one object that are on their way at the same time.
const PARALLEL_PARTS: usize = 3;
/// How long a request that carries no object data may take, a single attempt of it, at the most.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// The slowest network that object data is sent over, in bytes per second: 120 kbit/s. A request with data gets the time
/// that takes on top of `IDLE_TIMEOUT`.
const LEAST_BYTES_PER_SECOND: u64 = 15_000;
/// How long S3 may take to assemble an object of its parts, in times of `IDLE_TIMEOUT`; a very large one takes minutes.
const ASSEMBLY_IDLE_TIMES: u32 = 10;
/// How long the answer to the beginning of an upload is waited for when the program is asked to stop.
const CREATE_GRACE: Duration = Duration::from_secs(2);
/// How long aborting an upload may take.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Objects that are read from a listing. Beyond that it is not a bucket of this program's own.
const MAX_OBJECTS: usize = 1_000_000;
/// How long a listing may take, all its pages.
const LISTING_TIME_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Attempts at a request, in all.
const MAX_ATTEMPTS: u32 = 5;

/// Why a request to S3 did not work.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// S3's answer, or none.
    #[error("S3 cannot {action}: {why}{}", hint(code.as_deref()))]
    Request {
        /// What was tried.
        action: &'static str,
        /// S3's error code.
        code: Option<String>,
        /// What went wrong.
        why: String,
    },
    /// There is nothing to sign a request with.
    #[error(
        "S3 cannot {action}: {NO_CREDENTIALS}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod or the \
         machine a role"
    )]
    NoCredentials {
        /// What was tried.
        action: &'static str,
    },
    /// An answer that makes no sense.
    #[error("S3 answered the request to {action} without {missing}")]
    Incomplete {
        /// What was tried.
        action: &'static str,
        /// What is missing.
        missing: &'static str,
    },
    /// A bucket that is used for much else.
    #[error("the bucket holds more than {MAX_OBJECTS} objects: give this program a bucket of its own")]
    TooManyObjects,
    /// Something without an end.
    #[error("S3 took longer than {} s to {action}", limit.as_secs())]
    TooSlow {
        /// What was tried.
        action: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// The archive's writer gave up; its own error says why.
    #[error("the archive was not completed")]
    WriterGone,
    /// The program was asked to stop.
    #[error("stopped")]
    Stopped,
    /// The upload could not be recorded in WORKDIR.
    #[error("cannot record the upload under WORKDIR")]
    Record(#[source] io::Error),
}

/// What one of S3's error codes means here: a hint behind the error's own words, and what `check` says to do.
fn about(code: &str) -> (&'static str, Option<&'static str>) {
    match code {
        // What right it takes, whoever asks for it knows.
        "AccessDenied" | "AllAccessDisabled" => {
            (" (the credentials have no right to this: check the bucket's policy)", None)
        }
        "NoSuchBucket" => (
            " (check AWS_S3_BUCKET and AWS_REGION)",
            Some("Check AWS_S3_BUCKET and AWS_REGION: there is no such bucket."),
        ),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" => {
            (" (check AWS_REGION: it must be the bucket's)", Some("Set AWS_REGION to the bucket's own region."))
        }
        "IllegalLocationConstraintException" => ("", Some("Set AWS_REGION to the bucket's own region.")),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" => (
            " (check the AWS credentials)",
            Some("Check the AWS credentials: the server does not know them, or they are wrong or have expired."),
        ),
        "RequestTimeTooSkewed" => (" (this machine's clock is wrong)", Some("Set this machine's clock.")),
        "NoSuchUpload" => (" (it is gone, or complete already: the next pass sees)", None),
        "SlowDown" | "ServiceUnavailable" => {
            (" (S3 is overloaded; the next pass tries again)", Some("S3 is overloaded: try again later."))
        }
        _ => ("", None),
    }
}

fn hint(code: Option<&str>) -> &'static str {
    code.map_or("", |code| about(code).0)
}

fn failed<E>(action: &'static str) -> impl FnOnce(SdkError<E, HttpResponse>) -> BucketError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    move |error| {
        if let Some(CredentialsError::CredentialsNotLoaded(_)) = answer::credentials_error(&error) {
            return BucketError::NoCredentials { action };
        }
        let code = error.code().map(|code| remote_text(code.as_bytes()));
        BucketError::Request { action, code, why: answer::why(&error) }
    }
}

/// Everything the bucket holds, as far as this program is concerned.
#[derive(Debug, Default)]
pub struct Listing {
    /// Objects whose keys decode.
    pub held: Vec<HeldObject>,
    /// Keys that do not: never touched.
    pub foreign: Vec<String>,
}

/// The bucket and how to reach it. Access keys are the AWS SDK's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// `AWS_S3_BUCKET`: a name or the ARN of an access point.
    pub bucket: String,
    /// `AWS_REGION`; `None` leaves it to the SDK's other sources.
    pub region: Option<String>,
    /// `AWS_ENDPOINT_URL_S3`, another server than AWS's own.
    pub endpoint_url: Option<Url>,
    /// `AWS_S3_FORCE_PATH_STYLE`: the bucket's name in the path, not in the host name.
    pub force_path_style: bool,
    /// `AWS_S3_SIGN_PAYLOAD`: what is uploaded is hashed once more, and the hash signed.
    pub sign_payload: bool,
    /// `AWS_USE_FIPS_ENDPOINT`; never true with an endpoint.
    pub use_fips: bool,
}

/// One bucket.
#[derive(Clone)]
pub struct Bucket {
    client: Client,
    name: String,
    sign_payload: bool,
    timeouts: Timeouts,
    memory: Arc<Semaphore>,
}

impl Bucket {
    /// Sets up a client. Credentials and, where no setting names it, the region come from the SDK's default chain.
    ///
    /// # Errors
    /// Where no region can be found, or the certificates do not load. No request to S3 is made.
    pub async fn connect(settings: &S3, timeouts: Timeouts, roots: &TrustRoots) -> anyhow::Result<Self> {
        let http = client::http_client(roots)?;
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
            .timeout_config(attempt_timeouts(timeouts, ATTEMPT_TIMEOUT.min(timeouts.idle)));
        if let Some(region) = &settings.region {
            loader = loader.region(aws_config::Region::new(region.clone()));
        }
        let shared = loader.load().await;
        anyhow::ensure!(
            shared.region().is_some(),
            "missing: AWS_REGION (no other source of the AWS configuration names a region either)"
        );
        let mut builder = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(settings.force_path_style)
            .interceptor(client::ShortAnswers)
            .retry_classifier(WorthAnotherTry);
        if let Some(endpoint) = &settings.endpoint_url {
            builder = builder.endpoint_url(endpoint.as_str());
        }
        if settings.use_fips {
            builder = builder.use_fips(true);
        }
        Ok(Self {
            client: Client::from_conf(builder.build()),
            name: settings.bucket.clone(),
            sign_payload: settings.sign_payload,
            timeouts,
            memory: Arc::new(parts::memory()),
        })
    }

    /// Every object, all pages.
    ///
    /// # Errors
    /// [`BucketError`]; a listing that broke off says nothing.
    pub async fn list(&self) -> Result<Listing, BucketError> {
        self.list_counting(&AtomicUsize::new(0)).await
    }

    /// The same, and `seen` is how many objects there are so far, for whoever looks meanwhile.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn list_counting(&self, seen: &AtomicUsize) -> Result<Listing, BucketError> {
        in_time(LIST, self.list_all(seen, None)).await
    }

    /// The objects of some destinations. All pages are read, and nothing else of them is kept in memory.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn list_of(&self, destinations: &HashSet<&Destination>) -> Result<Vec<HeldObject>, BucketError> {
        Ok(in_time(LIST, self.list_all(&AtomicUsize::new(0), Some(destinations))).await?.held)
    }

    async fn list_all(
        &self,
        count: &AtomicUsize,
        only: Option<&HashSet<&Destination>>,
    ) -> Result<Listing, BucketError> {
        let (mut listing, mut after, mut seen) = (Listing::default(), None::<String>, BTreeSet::new());
        loop {
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.name)
                // A key may hold characters that XML cannot, and one such key would make the whole page unreadable.
                .encoding_type(EncodingType::Url)
                .set_continuation_token(after.take())
                .customize()
                .interceptor(WholeDocument)
                .send()
                .await
                .map_err(failed(LIST))?;
            let encoded = page.encoding_type == Some(EncodingType::Url);
            for object in page.contents.unwrap_or_default() {
                let key = object.key.ok_or(BucketError::Incomplete { action: LIST, missing: "an object's key" })?;
                let key = if encoded { url_decoded(&key) } else { key };
                if count.fetch_add(1, Ordering::Relaxed) == MAX_OBJECTS {
                    return Err(BucketError::TooManyObjects);
                }
                let name = match (key::decode(&key), only) {
                    (Some(name), Some(only)) if !only.contains(&name.destination) => continue,
                    (Some(name), _) => name,
                    (None, Some(_)) => continue,
                    (None, None) => {
                        listing.foreign.push(key);
                        continue;
                    }
                };
                let last_modified = object.last_modified.and_then(|time| SystemTime::try_from(time).ok());
                let last_modified =
                    last_modified.ok_or(BucketError::Incomplete { action: LIST, missing: "an object's time" })?;
                let bytes = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
                listing.held.push(HeldObject { key, name, last_modified, bytes });
            }
            if !page.is_truncated.unwrap_or_default() {
                return Ok(listing);
            }
            let token = page
                .next_continuation_token
                .ok_or(BucketError::Incomplete { action: LIST, missing: "where to go on" })?;
            // A server that hands out a token twice would be asked for ever.
            if !seen.insert(token.clone()) {
                return Err(BucketError::Incomplete { action: LIST, missing: "an end" });
            }
            after = Some(token);
        }
    }

    /// Deletes one object. One that is gone already is fine.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        self.client.delete_object().bucket(&self.name).key(key).send().await.map_err(failed("delete an object"))?;
        Ok(())
    }

    /// An object's content.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn download(&self, key: &str) -> Result<ByteStream, BucketError> {
        let object =
            self.client.get_object().bucket(&self.name).key(key).send().await.map_err(failed("read an object"))?;
        Ok(object.body)
    }

    /// The two ends of an upload of about `expected_bytes`: a writer for a blocking thread, and what to give [`Self::upload`].
    pub fn pipe(&self, expected_bytes: u64) -> (PartWriter, Parts) {
        parts::pipe(expected_bytes, Arc::clone(&self.memory))
    }

    /// Uploads what the pipe's writer writes. The object appears when the writer has finished, or not at all.
    ///
    /// Returns the object's size in bytes.
    ///
    /// # Errors
    /// [`BucketError`]; an upload that was begun has been aborted then, or stays recorded in `workdir` to be aborted later.
    pub async fn upload(
        &self,
        key: &str,
        mut parts: Parts,
        workdir: &Workdir,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
    ) -> Result<u64, BucketError> {
        let first = stop.run_until_cancelled(parts.next()).await.ok_or(BucketError::Stopped)?;
        match first.ok_or(BucketError::WriterGone)? {
            Part { bytes, last: true, _memory } => {
                let size = bytes.len() as u64;
                let time_limit = self.time_for(size);
                let put = self.client.put_object().bucket(&self.name).key(key).body(ByteStream::from(bytes));
                let put = put.customize().config_override(time_limit);
                let put = if self.sign_payload { put } else { put.disable_payload_signing() }.send();
                stop.run_until_cancelled(put).await.ok_or(BucketError::Stopped)?.map_err(failed("store an object"))?;
                progress.uploaded(size);
                Ok(size)
            }
            first => self.upload_parts(key, first, parts, (workdir, progress), stop).await,
        }
    }

    async fn upload_parts(
        &self,
        key: &str,
        first: Part,
        mut parts: Parts,
        (workdir, progress): (&Workdir, &Arc<Progress>),
        stop: &CancellationToken,
    ) -> Result<u64, BucketError> {
        let id = self.begin_upload(key, stop).await?;
        let (sent, record) = match workdir.record_upload(key, &id) {
            Ok(record) => {
                let sending = self.send_parts(key, &id, first, &mut parts, progress);
                (stop.run_until_cancelled(sending).await.unwrap_or(Err(BucketError::Stopped)), Some(record))
            }
            Err(error) => (Err(BucketError::Record(error)), None),
        };
        // The writer, should it still be at work, is told by its next write.
        drop(parts);
        let settled = match &sent {
            Ok(_) => true,
            Err(_) => matches!(timeout(ABORT_TIMEOUT, self.abort_upload(key, &id)).await, Ok(Ok(()))),
        };
        if let Some(record) = record.filter(|_| settled) {
            record.done();
        }
        sent
    }

    /// Begins a multipart upload. Returns its id.
    async fn begin_upload(&self, key: &str, stop: &CancellationToken) -> Result<String, BucketError> {
        let mut creating = std::pin::pin!(self.create_upload(key));
        if let Some(created) = stop.run_until_cancelled(creating.as_mut()).await {
            return created;
        }
        // S3 may have begun it already, and only its answer says which one that is.
        if let Ok(Ok(id)) = timeout(CREATE_GRACE, creating).await {
            let aborted = timeout(ABORT_TIMEOUT, self.abort_upload(key, &id)).await;
            tracing::debug!(gone = matches!(aborted, Ok(Ok(()))), "an upload that was begun while stopping is aborted");
        }
        Err(BucketError::Stopped)
    }

    async fn create_upload(&self, key: &str) -> Result<String, BucketError> {
        const ACTION: &str = "begin an upload";
        let created = self.client.create_multipart_upload().bucket(&self.name).key(key).send().await;
        created.map_err(failed(ACTION))?.upload_id.ok_or(BucketError::Incomplete { action: ACTION, missing: "its id" })
    }

    async fn send_parts(
        &self,
        key: &str,
        id: &str,
        first: Part,
        parts: &mut Parts,
        progress: &Arc<Progress>,
    ) -> Result<u64, BucketError> {
        let mut sending = JoinSet::new();
        let (mut size, mut done, mut number) = (0, vec![], 1);
        let mut next = first;
        loop {
            while sending.len() >= PARALLEL_PARTS {
                done.extend(finished(sending.join_next().await)?);
            }
            size += next.bytes.len() as u64;
            let last = next.last;
            let (bytes, progress) = (next.bytes.len() as u64, Arc::clone(progress));
            let part = self.clone().send_part(key.to_owned(), id.to_owned(), number, next);
            sending.spawn(part.inspect_ok(move |_| progress.uploaded(bytes)));
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
        done.sort_by_key(|part: &CompletedPart| part.part_number);
        let complete = CompletedMultipartUpload::builder().set_parts(Some(done)).build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .upload_id(id)
            .multipart_upload(complete);
        let time_limit = self.attempts_of(self.timeouts.idle.saturating_mul(ASSEMBLY_IDLE_TIMES));
        request.customize().config_override(time_limit).send().await.map_err(failed("complete an upload"))?;
        Ok(size)
    }

    async fn send_part(self, key: String, id: String, number: i32, part: Part) -> Result<CompletedPart, BucketError> {
        let Part { bytes, _memory, .. } = part;
        let time_limit = self.time_for(bytes.len() as u64);
        let request = self.client.upload_part().bucket(&self.name).key(key).upload_id(id).part_number(number);
        let request = request.body(ByteStream::from(bytes)).customize().config_override(time_limit);
        let request = if self.sign_payload { request } else { request.disable_payload_signing() };
        let sent = request.send().await.map_err(failed("store a part of an object"))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .set_checksum_crc32(sent.checksum_crc32)
            .build())
    }

    /// The time limit for an attempt at a request that carries this much data.
    fn time_for(&self, bytes: u64) -> aws_sdk_s3::config::Builder {
        self.attempts_of(self.timeouts.idle.saturating_add(Duration::from_secs(bytes / LEAST_BYTES_PER_SECOND)))
    }

    fn attempts_of(&self, attempt: Duration) -> aws_sdk_s3::config::Builder {
        aws_sdk_s3::config::Builder::new().timeout_config(attempt_timeouts(self.timeouts, attempt))
    }

    /// Aborts a multipart upload; S3 drops its parts. One that is gone already is fine.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn abort_upload(&self, key: &str, id: &str) -> Result<(), BucketError> {
        match self.client.abort_multipart_upload().bucket(&self.name).key(key).upload_id(id).send().await {
            Err(error) if error.code() == Some("NoSuchUpload") => Ok(()),
            other => other.map(drop).map_err(failed("abort an upload")),
        }
    }

    /// Aborts the uploads that `records` tell of, and forgets those that are gone. Returns how many.
    pub async fn abort_recorded(&self, records: Vec<(RecordedUpload, UploadRecord)>) -> usize {
        let mut aborted = 0;
        for (upload, record) in records {
            match timeout(ABORT_TIMEOUT, self.abort_upload(&upload.key, &upload.upload_id)).await {
                Ok(Ok(())) => {
                    record.done();
                    aborted += 1;
                }
                Ok(Err(_)) => {}
                // A server that is silent would be so for each of them. The rest stays on record for the next pass.
                Err(_) => break,
            }
        }
        aborted
    }

    /// Aborts unfinished uploads for destinations of `ours` that were begun before `before`, recorded or not, but those
    /// with the ids of `spared`. Another replica may be at work on younger ones. Returns how many.
    ///
    /// # Errors
    /// Where the unfinished uploads cannot be listed.
    pub async fn abort_abandoned(
        &self,
        ours: &HashSet<&Destination>,
        spared: &HashSet<String>,
        before: SystemTime,
    ) -> Result<usize, BucketError> {
        in_time(LIST_UPLOADS, self.abort_all_abandoned(ours, spared, before)).await
    }

    async fn abort_all_abandoned(
        &self,
        ours: &HashSet<&Destination>,
        spared: &HashSet<String>,
        before: SystemTime,
    ) -> Result<usize, BucketError> {
        let (mut aborted, mut refused) = (0, None);
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let markers = (key_marker.take(), id_marker.take());
            let page = self
                .client
                .list_multipart_uploads()
                .bucket(&self.name)
                .set_key_marker(markers.0.clone())
                .set_upload_id_marker(markers.1.clone())
                .customize()
                .interceptor(WholeDocument)
                .send()
                .await
                .map_err(failed(LIST_UPLOADS))?;
            for upload in page.uploads.unwrap_or_default() {
                let (Some(key), Some(id)) = (upload.key, upload.upload_id) else { continue };
                let begun = upload.initiated.and_then(|time| SystemTime::try_from(time).ok());
                let of_ours = key::decode(&key).is_some_and(|name| ours.contains(&name.destination));
                let of_ours = of_ours && !spared.contains(&id);
                if of_ours && begun.is_some_and(|begun| begun < before) {
                    match self.abort_upload(&key, &id).await {
                        Ok(()) => aborted += 1,
                        // One that is refused does not save the others.
                        Err(error) => refused = Some(error),
                    }
                }
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
            if !page.is_truncated.unwrap_or_default() || (&key_marker, &id_marker) == (&markers.0, &markers.1) {
                return refused.map_or(Ok(aborted), Err);
            }
        }
    }
}

const LIST: &str = "list the bucket";
const LIST_UPLOADS: &str = "list unfinished uploads";

/// Ends a listing that goes on and on.
async fn in_time<T>(
    action: &'static str,
    listing: impl Future<Output = Result<T, BucketError>>,
) -> Result<T, BucketError> {
    let too_slow = BucketError::TooSlow { action, limit: LISTING_TIME_LIMIT };
    timeout(LISTING_TIME_LIMIT, listing).await.unwrap_or(Err(too_slow))
}

/// A key of a listing in its own characters. S3 writes a space as `+` and a plus sign as `%2B`; here `+` stays `+`, for
/// our keys hold plus signs and no spaces, and there are servers that leave a plus sign as it is.
fn url_decoded(key: &str) -> String {
    percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned()
}

fn attempt_timeouts(timeouts: Timeouts, attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(timeouts.connect).operation_attempt_timeout(attempt).build()
}

fn finished(
    joined: Option<Result<Result<CompletedPart, BucketError>, tokio::task::JoinError>>,
) -> Result<Option<CompletedPart>, BucketError> {
    joined.map(|joined| joined.unwrap_or(Err(BucketError::Stopped))).transpose()
}
