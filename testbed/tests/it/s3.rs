//! The AWS SDK against the S3 server in memory.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};
use testbed::bucket::{Bucket, S3Endpoint};
use testbed::s3::{MemoryS3, S3Options};

use crate::complaint;

const PART_BYTES: usize = 5 * 1024 * 1024;

fn started() -> Result<(MemoryS3, Bucket)> {
    let server = MemoryS3::start(S3Options::default())?;
    let bucket = Bucket::new(&server.endpoint())?;
    Ok((server, bucket))
}

/// S3's code of the error that a request ended with.
fn code<T, E: ProvideErrorMetadata>(result: Result<T, E>) -> Option<String> {
    result.err().and_then(|error| error.code().map(str::to_owned))
}

fn part(number: i32, etag: &str) -> CompletedPart {
    CompletedPart::builder().part_number(number).e_tag(etag).build()
}

fn parts(parts: Vec<CompletedPart>) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder().set_parts(Some(parts)).build()
}

#[test]
fn objects_come_back_as_they_were_put() -> Result<()> {
    let (server, bucket) = started()?;
    for key in ["a/b==.zip.age", "a//b", "+/=", "ключ 🔑"] {
        bucket.put(key, key.repeat(1000))?;
        assert_eq!(bucket.get(key)?, key.repeat(1000).into_bytes());
        assert_eq!(server.get(key)?.context("absent")?, key.repeat(1000).into_bytes());
    }
    bucket.put("empty", "")?;
    assert_eq!(bucket.list()?, server.objects());
    let object = &server.objects()[3];
    assert_eq!(
        (object.key.as_str(), object.size, object.etag.as_str()),
        ("empty", 0, "d41d8cd98f00b204e9800998ecf8427e")
    );
    assert!(server.requests().iter().any(|request| request.is("PutObject") && request.status == Some(200)));

    let ranged = bucket.block_on(async {
        let request = bucket.client().get_object().bucket(bucket.name()).key("+/=").range("bytes=1-4");
        let object = request.send().await?;
        anyhow::Ok(object.body.collect().await?.to_vec())
    })?;
    assert_eq!(ranged, b"/=+/");
    bucket.delete("a//b")?;
    bucket.delete("a//b")?;
    assert_eq!(server.get("a//b")?, None);
    let head = bucket.block_on(bucket.client().head_object().bucket(bucket.name()).key("a//b").send());
    assert_eq!(code(head).as_deref(), Some("NotFound"));
    assert_eq!(bucket.list_buckets()?, [server.bucket()]);
    Ok(())
}

#[test]
fn listings_come_in_pages_by_the_bytes_of_the_keys() -> Result<()> {
    let (server, bucket) = started()?;
    for number in 0..2_050 {
        server.put(&format!("key-{number:05}"), "x");
    }
    server.put("~", "after ASCII letters");
    server.put("é", "and two bytes after that");
    assert_eq!(bucket.list()?.len(), 2_052);
    assert_eq!(server.requests().len(), 3);
    assert_eq!(bucket.list_first_page()?.len(), 1_000);
    assert_eq!(bucket.keys()?, server.keys());
    assert_eq!(bucket.keys()?[2_050..], ["~", "é"]);

    let small = MemoryS3::start(S3Options { page_keys: 2, ..S3Options::default() })?;
    (0..5).for_each(|number| small.put(&number.to_string(), ""));
    assert_eq!(Bucket::new(&small.endpoint())?.keys()?, ["0", "1", "2", "3", "4"]);
    assert_eq!(small.requests().len(), 3);
    Ok(())
}

#[test]
fn keys_end_at_1024_bytes() -> Result<()> {
    let (server, bucket) = started()?;
    bucket.put(&"k".repeat(1024), "fits")?;
    let request =
        bucket.client().put_object().bucket(bucket.name()).key("k".repeat(1025)).body(ByteStream::from_static(b"x"));
    assert_eq!(code(bucket.block_on(request.send())).as_deref(), Some("KeyTooLongError"));
    assert_eq!(server.objects().len(), 1);
    Ok(())
}

#[test]
fn wrong_secrets_and_buckets_are_refused() -> Result<()> {
    let (server, _) = started()?;
    let wrong_secret = S3Endpoint { secret_key: "wrong".to_owned(), ..server.endpoint() };
    let bucket = Bucket::new(&wrong_secret)?;
    let listed = bucket.block_on(bucket.client().list_objects_v2().bucket(bucket.name()).send());
    assert_eq!(code(listed).as_deref(), Some("SignatureDoesNotMatch"));
    let wrong_bucket = Bucket::new(&S3Endpoint { bucket: "other".to_owned(), ..server.endpoint() })?;
    let listed = wrong_bucket.block_on(wrong_bucket.client().list_objects_v2().bucket("other").send());
    assert_eq!(code(listed).as_deref(), Some("NoSuchBucket"));
    Ok(())
}

#[test]
fn multipart_uploads_follow_the_rules() -> Result<()> {
    let (server, bucket) = started()?;
    bucket.block_on(async {
        let client = bucket.client();
        let created = client.create_multipart_upload().bucket(bucket.name()).key("k").send().await?;
        let id = created.upload_id().context("no id")?;
        let upload = |number: i32, byte: u8, size: usize| {
            let body = ByteStream::from(vec![byte; size]);
            client.upload_part().bucket(bucket.name()).key("k").upload_id(id).part_number(number).body(body).send()
        };
        let complete = |listed: Vec<CompletedPart>| {
            client
                .complete_multipart_upload()
                .bucket(bucket.name())
                .key("k")
                .upload_id(id)
                .multipart_upload(parts(listed))
                .send()
        };
        let one = upload(1, b'a', PART_BYTES).await?;
        let small = upload(2, b'b', 100).await?;
        let three = upload(3, b'c', 7).await?;
        let (one, small, three) =
            (one.e_tag().context("etag")?, small.e_tag().context("etag")?, three.e_tag().context("etag")?);

        assert_eq!(server.uploads().len(), 1);
        assert_eq!(
            code(complete(vec![part(1, one), part(2, small), part(3, three)]).await).as_deref(),
            Some("EntityTooSmall")
        );
        assert_eq!(code(complete(vec![part(1, one), part(3, small)]).await).as_deref(), Some("InvalidPart"));
        assert_eq!(code(complete(vec![part(1, one), part(4, small)]).await).as_deref(), Some("InvalidPart"));
        assert_eq!(code(complete(vec![part(3, three), part(1, one)]).await).as_deref(), Some("InvalidPartOrder"));
        assert_eq!(server.objects(), []);
        complete(vec![part(1, one), part(3, three)]).await?;
        anyhow::Ok(())
    })?;
    let stored = server.get("k")?.context("absent")?;
    assert_eq!(stored.len(), PART_BYTES + 7);
    assert_eq!(bucket.get("k")?, stored);
    assert!(server.objects()[0].etag.ends_with("-2"));
    assert_eq!(server.uploads(), []);
    Ok(())
}

#[test]
fn an_upload_with_a_checksum_wants_the_checksums_of_its_parts() -> Result<()> {
    let (server, bucket) = started()?;
    bucket.block_on(async {
        let client = bucket.client();
        let created = client
            .create_multipart_upload()
            .bucket(bucket.name())
            .key("k")
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .send()
            .await?;
        let id = created.upload_id().context("no id")?;
        let uploaded = client
            .upload_part()
            .bucket(bucket.name())
            .key("k")
            .upload_id(id)
            .part_number(1)
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .body(ByteStream::from_static(b"content"))
            .send()
            .await?;
        let etag = uploaded.e_tag().context("etag")?;
        let complete = |listed: Vec<CompletedPart>| {
            client
                .complete_multipart_upload()
                .bucket(bucket.name())
                .key("k")
                .upload_id(id)
                .multipart_upload(parts(listed))
                .send()
        };
        assert_eq!(code(complete(vec![part(1, etag)]).await).as_deref(), Some("InvalidRequest"));
        let with_checksum = CompletedPart::builder()
            .part_number(1)
            .e_tag(etag)
            .checksum_sha256(uploaded.checksum_sha256().context("no checksum")?)
            .build();
        complete(vec![with_checksum]).await?;
        anyhow::Ok(())
    })?;
    assert_eq!(server.get("k")?.as_deref(), Some(b"content".as_slice()));
    Ok(())
}

#[test]
fn a_wrong_checksum_is_refused() -> Result<()> {
    let (server, bucket) = started()?;
    let put = || bucket.client().put_object().bucket(bucket.name()).key("k").body(ByteStream::from_static(b"content"));
    let refused = [
        bucket.block_on(put().checksum_crc32("AAAAAA==").send()),
        bucket.block_on(put().checksum_sha256("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").send()),
        bucket.block_on(put().checksum_crc64_nvme("AAAAAAAAAAA=").send()),
        bucket.block_on(put().content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").send()),
    ];
    for result in refused {
        assert_eq!(code(result).as_deref(), Some("BadDigest"));
    }
    assert_eq!(server.objects(), []);
    for algorithm in
        [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32C, ChecksumAlgorithm::Crc64Nvme, ChecksumAlgorithm::Sha256]
    {
        bucket.block_on(put().checksum_algorithm(algorithm).send())?;
    }
    Ok(())
}

#[test]
fn uploads_are_listed_and_aborted() -> Result<()> {
    let (server, bucket) = started()?;
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let id = server.start_stale_upload("stale", hour_ago);
    let listed = bucket.list_multipart_uploads()?;
    assert_eq!(listed, server.uploads());
    assert!(hour_ago.duration_since(listed[0].initiated)? < Duration::from_millis(1));
    let abort = || bucket.client().abort_multipart_upload().bucket(bucket.name()).key("stale").upload_id(&id).send();
    bucket.block_on(abort())?;
    assert_eq!(server.uploads(), []);
    assert_eq!(code(bucket.block_on(abort())).as_deref(), Some("NoSuchUpload"));
    Ok(())
}

#[test]
fn many_are_deleted_at_once() -> Result<()> {
    let (server, bucket) = started()?;
    ["a", "b", "c"].iter().for_each(|key| server.put(key, "x"));
    let objects = ["a", "c", "absent"]
        .iter()
        .map(|key| ObjectIdentifier::builder().key(*key).build())
        .collect::<Result<_, _>>()?;
    let delete = Delete::builder().set_objects(Some(objects)).build()?;
    let deleted = bucket.block_on(bucket.client().delete_objects().bucket(bucket.name()).delete(delete).send())?;
    assert_eq!(deleted.deleted().len(), 3);
    assert_eq!(server.keys(), ["b"]);
    Ok(())
}

#[test]
fn times_can_be_set_to_the_millisecond() -> Result<()> {
    let (server, bucket) = started()?;
    let then = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    server.put_at("a", "x", then);
    server.put("b", "x");
    server.set_last_modified("b", then + Duration::from_millis(1))?;
    let listed = bucket.list()?;
    assert_eq!(listed[0].last_modified, then);
    assert_eq!(listed[1].last_modified, then + Duration::from_millis(1));
    complaint(server.set_last_modified("absent", then)).map(drop)
}

#[test]
fn held_requests_wait_for_their_release() -> Result<()> {
    let (server, bucket) = started()?;
    server.hold("PutObject");
    complaint(server.wait_until_held(Duration::from_millis(50)))?;
    std::thread::scope(|scope| {
        let put = scope.spawn(|| bucket.put("k", "x"));
        server.wait_until_held(Duration::from_secs(10))?;
        assert_eq!(server.objects(), []);
        assert!(!put.is_finished());
        server.release();
        put.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
    })?;
    assert_eq!(server.keys(), ["k"]);
    Ok(())
}

#[test]
fn failures_come_as_often_as_asked() -> Result<()> {
    let (server, bucket) = started()?;
    server.fail("PutObject", "AccessDenied", 1);
    let put = || bucket.client().put_object().bucket(bucket.name()).key("k").body(ByteStream::from_static(b"x")).send();
    assert_eq!(code(bucket.block_on(put())).as_deref(), Some("AccessDenied"));
    bucket.block_on(put())?;
    server.fail("PutObject", "SlowDown", 2);
    bucket.block_on(put())?;
    let statuses: Vec<_> = server.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(403), Some(200), Some(503), Some(503), Some(200)], "the SDK retries what is worth it");
    Ok(())
}

#[test]
fn cut_connections_are_tried_again_by_the_sdk() -> Result<()> {
    let (server, bucket) = started()?;
    server.cut("PutObject", 1);
    bucket.put("k", "x")?;
    let statuses: Vec<_> = server.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [None, Some(200)]);
    Ok(())
}

#[test]
fn discarded_bodies_leave_their_size() -> Result<()> {
    let server = MemoryS3::start(S3Options { discard_bodies: true, ..S3Options::default() })?;
    let bucket = Bucket::new(&server.endpoint())?;
    bucket.put("k", vec![7; 1_000_000])?;
    assert_eq!(server.objects()[0].size, 1_000_000);
    complaint(server.get("k")).map(drop)
}

#[test]
fn latency_is_waited() -> Result<()> {
    let (server, bucket) = started()?;
    server.set_latency(Duration::from_millis(300));
    let started = Instant::now();
    bucket.list()?;
    assert!(started.elapsed() >= Duration::from_millis(300));
    Ok(())
}
