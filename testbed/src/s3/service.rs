//! S3's operations and rules over the [`Store`].

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, TrailingHeaders, s3_error};

use super::store::{Content, Part as StoredPart, Store, Upload};
use crate::http::lock;

/// Every part but the last has at least this size.
const MINIMAL_PART_BYTES: u64 = 5 * 1024 * 1024;

/// Part numbers go from 1 to this.
const MAXIMAL_PART_NUMBER: i32 = 10_000;

/// Most keys that one DeleteObjects takes.
const MAXIMAL_DELETED_KEYS: usize = 1_000;

/// What `encoding-type=url` encodes; the space becomes a plus sign afterwards.
const URL_ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*').remove(b'/').remove(b' ');

/// The algorithms of checksums, with the header each travels in.
const CHECKSUM_HEADERS: [(&str, &str); 5] = [
    (ChecksumAlgorithm::CRC32, "x-amz-checksum-crc32"),
    (ChecksumAlgorithm::CRC32C, "x-amz-checksum-crc32c"),
    (ChecksumAlgorithm::CRC64NVME, "x-amz-checksum-crc64nvme"),
    (ChecksumAlgorithm::SHA1, "x-amz-checksum-sha1"),
    (ChecksumAlgorithm::SHA256, "x-amz-checksum-sha256"),
];

/// One bucket as `s3s` sees it.
pub(super) struct Service {
    pub(super) bucket: String,
    pub(super) region: String,
    pub(super) page_keys: usize,
    pub(super) store: Arc<Mutex<Store>>,
}

impl Service {
    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.bucket { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    fn page_size(&self, wanted: Option<i32>) -> S3Result<usize> {
        let wanted = wanted.map(usize::try_from).transpose().map_err(|_| s3_error!(InvalidArgument))?;
        Ok(wanted.unwrap_or(self.page_keys).min(self.page_keys))
    }

    /// Reads a body to its end and compares it with everything the client claimed about it.
    async fn receive(&self, body: Option<StreamingBlob>, declared: Declared) -> S3Result<Received> {
        let keep = !lock(&self.store).discards();
        let mut hashers = declared.hashers();
        let mut md5 = Md5::new();
        let mut chunks = Vec::new();
        let mut size = 0;
        if let Some(mut body) = body {
            while let Some(chunk) = body.next().await {
                let chunk = chunk.map_err(|error| s3_error!(IncompleteBody, "{error}"))?;
                hashers.update(&chunk);
                md5.update(&chunk);
                size += chunk.len() as u64;
                if keep {
                    chunks.push(chunk);
                }
            }
        }
        let md5 = md5.finalize();
        let checksum = hashers.finalize();
        declared.compare(size, &md5, &checksum)?;
        let content = if keep { Content::new(chunks) } else { Content::discarded(size) };
        Ok(Received { content, etag: hex(&md5), checksum })
    }
}

/// What a client claims about the body it sends.
struct Declared {
    length: Option<i64>,
    md5: Option<String>,
    checksum: Checksum,
    /// Checksums that follow the body; named in `x-amz-trailer`.
    trailer_names: Vec<String>,
    trailers: Option<TrailingHeaders>,
}

impl Declared {
    fn new<T>(request: &S3Request<T>, length: Option<i64>, md5: Option<String>, checksum: Checksum) -> Self {
        let named = request.headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
        let trailer_names =
            named.flat_map(|names| names.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
        Self { length, md5, checksum, trailer_names, trailers: request.trailing_headers.clone() }
    }

    fn declares(&self, header: &str, checksum: Option<&String>) -> bool {
        checksum.is_some() || self.trailer_names.iter().any(|name| name == header)
    }

    fn hashers(&self) -> ChecksumHasher {
        let checksum = &self.checksum;
        ChecksumHasher {
            crc32: self.declares("x-amz-checksum-crc32", checksum.checksum_crc32.as_ref()).then(Crc32::new),
            crc32c: self.declares("x-amz-checksum-crc32c", checksum.checksum_crc32c.as_ref()).then(Crc32c::new),
            crc64nvme: self
                .declares("x-amz-checksum-crc64nvme", checksum.checksum_crc64nvme.as_ref())
                .then(Crc64Nvme::new),
            sha1: self.declares("x-amz-checksum-sha1", checksum.checksum_sha1.as_ref()).then(Sha1::new),
            sha256: self.declares("x-amz-checksum-sha256", checksum.checksum_sha256.as_ref()).then(Sha256::new),
        }
    }

    fn compare(&self, size: u64, md5: &[u8], computed: &Checksum) -> S3Result<()> {
        if self.length.is_some_and(|length| u64::try_from(length) != Ok(size)) {
            return Err(s3_error!(IncompleteBody));
        }
        if self.md5.as_ref().is_some_and(|declared| *declared != BASE64.encode(md5)) {
            return Err(s3_error!(BadDigest, "the Content-MD5 you specified did not match what we received"));
        }
        let trailers = self.trailers.as_ref().and_then(TrailingHeaders::take);
        for (algorithm, header) in CHECKSUM_HEADERS {
            let trailing =
                trailers.as_ref().and_then(|trailers| trailers.get(header)).and_then(|value| value.to_str().ok());
            let declared = trailing.or(sum_of(&self.checksum, algorithm));
            if declared != sum_of(computed, algorithm) {
                return Err(s3_error!(BadDigest, "the {algorithm} you specified did not match what we received"));
            }
        }
        Ok(())
    }
}

/// A body that matches the client's claims.
struct Received {
    content: Content,
    etag: String,
    checksum: Checksum,
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn list_buckets(&self, _request: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let bucket = Bucket { name: Some(self.bucket.clone()), ..Bucket::default() };
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(vec![bucket]), ..ListBucketsOutput::default() }))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check_bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput {
            bucket_region: Some(self.region.clone()),
            ..HeadBucketOutput::default()
        }))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.check_bucket(&request.input.bucket)?;
        // S3 leaves out the name of its first region.
        let location = (self.region != "us-east-1").then(|| BucketLocationConstraint::from(self.region.clone()));
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint: location }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented, "listings with a delimiter are not part of the testbed"));
        }
        let encoded = input.encoding_type.is_some();
        let encode = |text: String| if encoded { url_encoded(&text) } else { text };
        let after = match &input.continuation_token {
            Some(token) => Some(decode_token(token)?),
            None => input.start_after.clone(),
        };
        let count = self.page_size(input.max_keys)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let page = lock(&self.store).page(after.as_deref(), &prefix, count);
        let next = page.items.last().filter(|_| page.truncated).map(|last| BASE64.encode(&last.key));
        let contents: Vec<Object> = page
            .items
            .into_iter()
            .map(|object| Object {
                key: Some(encode(object.key)),
                size: Some(signed(object.size)),
                last_modified: Some(object.last_modified.into()),
                e_tag: Some(ETag::Strong(object.etag)),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                ..Object::default()
            })
            .collect();
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encode(prefix)),
            encoding_type: input.encoding_type,
            max_keys: i32::try_from(count).ok(),
            key_count: i32::try_from(contents.len()).ok(),
            is_truncated: Some(page.truncated),
            continuation_token: input.continuation_token,
            next_continuation_token: next,
            start_after: input.start_after.map(encode),
            contents: Some(contents),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        let object = lock(&self.store).object(&input.key).cloned().ok_or_else(|| s3_error!(NoSuchKey))?;
        let chunks = object.content.chunks().ok_or_else(|| s3_error!(InternalError, "the test discards bodies"))?;
        let size = object.content.size();
        let range = input.range.map(|range| range.check(size)).transpose()?;
        let content_range = range.as_ref().map(|range| format!("bytes {}-{}/{size}", range.start, range.end - 1));
        let range = range.unwrap_or(0..size);
        let length = range.end - range.start;
        let pieces = slice(chunks, range.start, length).into_iter().map(Ok::<_, std::io::Error>);
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(stream::iter(pieces.collect::<Vec<_>>()))),
            content_length: Some(signed(length)),
            content_range,
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.last_modified.into()),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        let object = lock(&self.store).object(&input.key).cloned().ok_or_else(|| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(signed(object.content.size())),
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(object.last_modified.into()),
            ..HeadObjectOutput::default()
        }))
    }

    async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let body = request.input.body.take();
        let input = &request.input;
        let checksum = Checksum {
            checksum_crc32: input.checksum_crc32.clone(),
            checksum_crc32c: input.checksum_crc32c.clone(),
            checksum_crc64nvme: input.checksum_crc64nvme.clone(),
            checksum_sha1: input.checksum_sha1.clone(),
            checksum_sha256: input.checksum_sha256.clone(),
            checksum_type: None,
        };
        let declared = Declared::new(&request, input.content_length, input.content_md5.clone(), checksum);
        let received = self.receive(body, declared).await?;

        let mut store = lock(&self.store);
        check_conditions(&store, &input.key, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        store.put(&input.key, received.content, received.etag.clone(), SystemTime::now());
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(received.etag)),
            checksum_crc32: received.checksum.checksum_crc32,
            checksum_crc32c: received.checksum.checksum_crc32c,
            checksum_crc64nvme: received.checksum.checksum_crc64nvme,
            checksum_sha1: received.checksum.checksum_sha1,
            checksum_sha256: received.checksum.checksum_sha256,
            ..PutObjectOutput::default()
        }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        // Deleting a missing object succeeds, as in S3.
        lock(&self.store).delete(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if input.delete.objects.len() > MAXIMAL_DELETED_KEYS {
            return Err(s3_error!(MalformedXML));
        }
        let mut store = lock(&self.store);
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            store.delete(&object.key);
            deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() });
        }
        let shown = (input.delete.quiet != Some(true)).then_some(deleted);
        Ok(S3Response::new(DeleteObjectsOutput { deleted: shown, ..DeleteObjectsOutput::default() }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        let algorithm = input.checksum_algorithm.clone();
        let checksum_type = algorithm.as_ref().map(|_| checksum_type(input.checksum_type, algorithm.as_ref()));
        let id = lock(&self.store).start_upload(&input.key, algorithm.clone(), SystemTime::now());
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: algorithm,
            checksum_type,
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(&self, mut request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let body = request.input.body.take();
        let input = &request.input;
        if !(1..=MAXIMAL_PART_NUMBER).contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"));
        }
        lock(&self.store).upload(&input.key, &input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let checksum = Checksum {
            checksum_crc32: input.checksum_crc32.clone(),
            checksum_crc32c: input.checksum_crc32c.clone(),
            checksum_crc64nvme: input.checksum_crc64nvme.clone(),
            checksum_sha1: input.checksum_sha1.clone(),
            checksum_sha256: input.checksum_sha256.clone(),
            checksum_type: None,
        };
        let declared = Declared::new(&request, input.content_length, input.content_md5.clone(), checksum);
        let received = self.receive(body, declared).await?;

        let mut store = lock(&self.store);
        // It may have been aborted meanwhile.
        let upload = store.upload(&input.key, &input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let output = UploadPartOutput {
            e_tag: Some(ETag::Strong(received.etag.clone())),
            checksum_crc32: received.checksum.checksum_crc32.clone(),
            checksum_crc32c: received.checksum.checksum_crc32c.clone(),
            checksum_crc64nvme: received.checksum.checksum_crc64nvme.clone(),
            checksum_sha1: received.checksum.checksum_sha1.clone(),
            checksum_sha256: received.checksum.checksum_sha256.clone(),
            ..UploadPartOutput::default()
        };
        let part = StoredPart {
            content: received.content,
            etag: received.etag,
            checksum: received.checksum,
            last_modified: SystemTime::now(),
        };
        upload.parts.insert(input.part_number, part);
        Ok(S3Response::new(output))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        let mut store = lock(&self.store);
        let upload = store.upload(&input.key, &input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let listed = input.multipart_upload.and_then(|list| list.parts).unwrap_or_default();
        let parts = check_parts(upload, &listed, input.checksum_type.as_ref())?;
        let content = Content::concat(parts.iter().map(|part| &part.content));
        if input.mpu_object_size.is_some_and(|size| size != signed(content.size())) {
            return Err(s3_error!(InvalidRequest, "the object's size is not the one specified"));
        }
        let whole = Checksum {
            checksum_crc32: input.checksum_crc32,
            checksum_crc32c: input.checksum_crc32c,
            checksum_crc64nvme: input.checksum_crc64nvme,
            checksum_sha1: input.checksum_sha1,
            checksum_sha256: input.checksum_sha256,
            checksum_type: None,
        };
        check_whole(&content, whole)?;
        let etag = multipart_etag(&parts)?;
        check_conditions(&store, &input.key, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        store.remove_upload(&input.key, &input.upload_id);
        store.put(&input.key, content, etag.clone(), SystemTime::now());
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if !lock(&self.store).remove_upload(&input.key, &input.upload_id) {
            return Err(s3_error!(NoSuchUpload));
        }
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if input.delimiter.is_some() || input.encoding_type.is_some() {
            return Err(s3_error!(
                NotImplemented,
                "listings with a delimiter or an encoding are not part of the testbed"
            ));
        }
        let count = self.page_size(input.max_uploads)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        // Without an id, a marker means: after all uploads of that key.
        let after = input.key_marker.clone().map(|key| {
            let id = input.upload_id_marker.clone().unwrap_or_else(|| char::MAX.to_string());
            (key, id)
        });
        let page = lock(&self.store).uploads_page(after, &prefix, count);
        let last = page.items.last().filter(|_| page.truncated).cloned();
        let uploads = page.items.into_iter().map(|upload| MultipartUpload {
            key: Some(upload.key),
            upload_id: Some(upload.upload_id),
            initiated: Some(upload.initiated.into()),
            ..MultipartUpload::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: Some(prefix),
            max_uploads: i32::try_from(count).ok(),
            key_marker: input.key_marker,
            upload_id_marker: input.upload_id_marker,
            is_truncated: Some(page.truncated),
            next_key_marker: last.as_ref().map(|last| last.key.clone()),
            next_upload_id_marker: last.map(|last| last.upload_id),
            uploads: Some(uploads.collect()),
            ..ListMultipartUploadsOutput::default()
        }))
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        let count = self.page_size(input.max_parts)?;
        let mut store = lock(&self.store);
        let upload = store.upload(&input.key, &input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let mut left = upload.parts.range(input.part_number_marker.unwrap_or(0).saturating_add(1)..);
        let parts: Vec<Part> = left
            .by_ref()
            .take(count)
            .map(|(number, part)| Part {
                part_number: Some(*number),
                e_tag: Some(ETag::Strong(part.etag.clone())),
                size: Some(signed(part.content.size())),
                last_modified: Some(part.last_modified.into()),
                ..Part::default()
            })
            .collect();
        let truncated = left.next().is_some();
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            max_parts: i32::try_from(count).ok(),
            part_number_marker: input.part_number_marker,
            is_truncated: Some(truncated),
            next_part_number_marker: parts.last().filter(|_| truncated).and_then(|last| last.part_number),
            parts: Some(parts),
            ..ListPartsOutput::default()
        }))
    }
}

/// `If-Match` and `If-None-Match` of a write.
fn check_conditions(
    store: &Store,
    key: &str,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let present = store.object(key).map(|object| ETag::Strong(object.etag.clone()));
    let holds = |condition: &ETagCondition| match (condition.as_etag(), &present) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(wanted), Some(present)) => wanted.strong_cmp(present),
    };
    if if_match.is_some_and(|condition| !holds(condition)) || if_none_match.is_some_and(holds) {
        return Err(s3_error!(PreconditionFailed));
    }
    Ok(())
}

/// The parts that a completion lists, if they are the uploaded ones and large enough.
fn check_parts(
    upload: &Upload,
    listed: &[CompletedPart],
    completed_type: Option<&ChecksumType>,
) -> S3Result<Vec<StoredPart>> {
    if listed.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    let composite = upload.algorithm.as_ref().filter(|algorithm| {
        checksum_type(completed_type.cloned(), Some(algorithm)).as_str() == ChecksumType::COMPOSITE
    });
    if !listed.is_sorted_by(|one, next| one.part_number < next.part_number) {
        return Err(s3_error!(InvalidPartOrder));
    }
    let mut parts = Vec::new();
    for (index, completed) in listed.iter().enumerate() {
        let number = completed.part_number.unwrap_or_default();
        let part = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart, "part {number} was not uploaded"))?;
        if completed.e_tag.as_ref().map(ETag::value) != Some(part.etag.as_str()) {
            return Err(s3_error!(InvalidPart, "part {number} has another ETag"));
        }
        check_part_checksums(number, completed, part, composite)?;
        let last = index + 1 == listed.len();
        if !last && part.content.size() < MINIMAL_PART_BYTES {
            return Err(s3_error!(EntityTooSmall, "part {number} is smaller than 5 MiB and not the last"));
        }
        parts.push(part.clone());
    }
    Ok(parts)
}

fn check_part_checksums(
    number: i32,
    completed: &CompletedPart,
    part: &StoredPart,
    composite: Option<&ChecksumAlgorithm>,
) -> S3Result<()> {
    let said = Checksum {
        checksum_crc32: completed.checksum_crc32.clone(),
        checksum_crc32c: completed.checksum_crc32c.clone(),
        checksum_crc64nvme: completed.checksum_crc64nvme.clone(),
        checksum_sha1: completed.checksum_sha1.clone(),
        checksum_sha256: completed.checksum_sha256.clone(),
        checksum_type: None,
    };
    for (algorithm, _) in CHECKSUM_HEADERS {
        let said = sum_of(&said, algorithm);
        if said.is_some() && said != sum_of(&part.checksum, algorithm) {
            return Err(s3_error!(InvalidPart, "part {number} has another {algorithm}"));
        }
        if said.is_none() && composite.is_some_and(|composite| composite.as_str() == algorithm) {
            return Err(s3_error!(
                InvalidRequest,
                "The upload was created using a {algorithm} checksum. The complete request must include the checksum \
                 for each part. It was missing for part {number} in the request."
            ));
        }
    }
    Ok(())
}

/// Recomputes checksums of the whole object if the completion names any; `…-3`, of three parts, is not for the whole.
fn check_whole(content: &Content, declared: Checksum) -> S3Result<()> {
    let Some(chunks) = content.chunks() else {
        return Ok(());
    };
    let whole = |sum: &Option<String>| sum.as_ref().is_some_and(|sum| !sum.contains('-'));
    let mut hashers = ChecksumHasher {
        crc32: whole(&declared.checksum_crc32).then(Crc32::new),
        crc32c: whole(&declared.checksum_crc32c).then(Crc32c::new),
        crc64nvme: whole(&declared.checksum_crc64nvme).then(Crc64Nvme::new),
        sha1: whole(&declared.checksum_sha1).then(Sha1::new),
        sha256: whole(&declared.checksum_sha256).then(Sha256::new),
    };
    for chunk in chunks {
        hashers.update(chunk);
    }
    let computed = hashers.finalize();
    for (algorithm, _) in CHECKSUM_HEADERS {
        let computed = sum_of(&computed, algorithm);
        if computed.is_some() && computed != sum_of(&declared, algorithm) {
            return Err(s3_error!(BadDigest, "the {algorithm} you specified did not match the whole object"));
        }
    }
    Ok(())
}

/// The type of an upload's checksum: the given one, else S3's default for the algorithm.
fn checksum_type(said: Option<ChecksumType>, algorithm: Option<&ChecksumAlgorithm>) -> ChecksumType {
    let whole = algorithm.is_some_and(|algorithm| algorithm.as_str() == ChecksumAlgorithm::CRC64NVME);
    said.unwrap_or_else(|| {
        ChecksumType::from_static(if whole { ChecksumType::FULL_OBJECT } else { ChecksumType::COMPOSITE })
    })
}

fn sum_of<'a>(checksum: &'a Checksum, algorithm: &str) -> Option<&'a str> {
    match algorithm {
        ChecksumAlgorithm::CRC32 => checksum.checksum_crc32.as_deref(),
        ChecksumAlgorithm::CRC32C => checksum.checksum_crc32c.as_deref(),
        ChecksumAlgorithm::CRC64NVME => checksum.checksum_crc64nvme.as_deref(),
        ChecksumAlgorithm::SHA1 => checksum.checksum_sha1.as_deref(),
        ChecksumAlgorithm::SHA256 => checksum.checksum_sha256.as_deref(),
        _ => None,
    }
}

/// S3's ETag of several parts: the MD5 of their MD5s, and their number.
fn multipart_etag(parts: &[StoredPart]) -> S3Result<String> {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(&unhex(&part.etag).ok_or_else(|| s3_error!(InternalError))?);
    }
    Ok(format!("{}-{}", hex(&md5.finalize()), parts.len()))
}

/// The MD5 of some chunks in hex: the ETag of an object put in one go.
pub(super) fn md5_hex<'a>(chunks: impl IntoIterator<Item = &'a Bytes>) -> String {
    let mut md5 = Md5::new();
    for chunk in chunks {
        md5.update(chunk);
    }
    hex(&md5.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// The bytes from `start` on, `length` of them, without copying.
fn slice(chunks: &[Bytes], start: u64, length: u64) -> Vec<Bytes> {
    let (mut skip, mut left) = (start, length);
    let mut pieces = Vec::new();
    for chunk in chunks {
        let size = chunk.len() as u64;
        let from = skip.min(size);
        let taken = left.min(size - from);
        skip -= from;
        left -= taken;
        if taken > 0 {
            // Both lie within the chunk, whose length is a usize.
            #[expect(clippy::cast_possible_truncation, reason = "bounded by the chunk's length")]
            pieces.push(chunk.slice(from as usize..(from + taken) as usize));
        }
    }
    pieces
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A key as S3 writes it if `encoding-type=url` is requested.
fn url_encoded(key: &str) -> String {
    utf8_percent_encode(key, URL_ENCODED).to_string().replace(' ', "+")
}

fn decode_token(token: &str) -> S3Result<String> {
    let invalid = || s3_error!(InvalidArgument, "The continuation token provided is incorrect");
    let bytes = BASE64.decode(token).map_err(|_| invalid())?;
    String::from_utf8(bytes).map_err(|_| invalid())
}
