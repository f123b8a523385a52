//! An S3 in memory: protocol and SigV4 from `s3s`, storage and S3's own rules from here, and hooks for faults.
//!
//! It is as strict as S3 where S3 is strict: keys of 1,024 bytes at most, pages of 1,000 keys at most, parts of
//! at least 5 MiB, part lists and ETags compared, checksums recomputed.
//! Invariant: an object is seen whole or not at all.

mod faults;
mod service;
mod store;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;

use crate::bucket::{OpenUpload, S3Endpoint, StoredObject};
use crate::http::{Body, BoxError, HttpServer, RequestLog, RequestRecord, lock};
use faults::{Failure, Faults, FaultyAccess};
use service::Service;
use store::{Content, Store};

/// Most keys that S3 puts into one page.
const PAGE_KEYS: usize = 1_000;

/// How a [`MemoryS3`] starts.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// The one bucket there is.
    pub bucket: String,
    /// The region clients sign for.
    pub region: String,
    /// The one access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Most keys in a page of a listing, at most 1,000; a lower value makes several pages from few objects.
    pub page_keys: usize,
    /// Whether to keep only the sizes of objects and parts, for measuring memory. Such objects cannot be read.
    pub discard_bodies: bool,
    /// Waited before each request is served.
    pub latency: Duration,
    /// The port on 127.0.0.1; 0 takes any free one.
    pub port: u16,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            bucket: "git-sync".to_owned(),
            region: "us-east-1".to_owned(),
            access_key: "AKIATESTBEDACCESSKEY".to_owned(),
            secret_key: "aws-secret-key-7c2e".to_owned(),
            page_keys: PAGE_KEYS,
            discard_bodies: false,
            latency: Duration::ZERO,
            port: 0,
        }
    }
}

/// An S3 server with one bucket, in this process.
pub struct MemoryS3 {
    server: HttpServer,
    log: RequestLog,
    options: S3Options,
    store: Arc<Mutex<Store>>,
    faults: Arc<Faults>,
}

impl MemoryS3 {
    /// Starts a server with an empty bucket.
    pub fn start(options: S3Options) -> Result<Self> {
        let store = Arc::new(Mutex::new(Store::new(options.discard_bodies)));
        let faults = Arc::new(Faults::new(options.latency));
        let service = {
            let mut builder = S3ServiceBuilder::new(Service {
                bucket: options.bucket.clone(),
                region: options.region.clone(),
                page_keys: options.page_keys.clamp(1, PAGE_KEYS),
                store: Arc::clone(&store),
            });
            builder.set_auth(SimpleAuth::from_single(options.access_key.as_str(), options.secret_key.as_str()));
            builder.set_access(FaultyAccess(Arc::clone(&faults)));
            builder.build()
        };
        let log = RequestLog::default();
        let server = HttpServer::start("s3-server", options.port, log.clone(), move |request, entry| {
            let service = service.clone();
            async move {
                let mut request = request.map(s3s::Body::http_body_unsync);
                request.extensions_mut().insert(entry);
                let response = service.call(request).await.map_err(BoxError::from)?;
                Ok(response.map(Body::new))
            }
        })?;
        Ok(Self { server, log, options, store, faults })
    }

    /// Everything a client needs.
    pub fn endpoint(&self) -> S3Endpoint {
        S3Endpoint {
            endpoint: self.server.url(),
            region: self.options.region.clone(),
            access_key: self.options.access_key.clone(),
            secret_key: self.options.secret_key.clone(),
            bucket: self.options.bucket.clone(),
        }
    }

    /// `http://127.0.0.1:<port>`, for path-style requests.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The one access key.
    pub fn access_key(&self) -> &str {
        &self.options.access_key
    }

    /// Its secret.
    pub fn secret_key(&self) -> &str {
        &self.options.secret_key
    }

    /// The one bucket.
    pub fn bucket(&self) -> &str {
        &self.options.bucket
    }

    /// All requests since the start or the last [`MemoryS3::clear_requests`]; [`RequestRecord::operation`] is
    /// S3's name of the operation, for example `UploadPart`, and `None` if the signature was refused.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.log.records()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.log.clear();
    }

    /// All objects, in the order of a listing.
    pub fn objects(&self) -> Vec<StoredObject> {
        lock(&self.store).objects()
    }

    /// All keys, in the order of a listing.
    pub fn keys(&self) -> Vec<String> {
        self.objects().into_iter().map(|object| object.key).collect()
    }

    /// An object's content; `None` if there is no such object. Fails if bodies are discarded.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let store = lock(&self.store);
        let Some(object) = store.object(key) else {
            return Ok(None);
        };
        let chunks = object.content.chunks().context("the server discards bodies")?;
        Ok(Some(chunks.concat()))
    }

    /// Stores an object directly, bypassing the protocol.
    pub fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        self.put_at(key, bytes, SystemTime::now());
    }

    /// Stores an object as if it had been uploaded at that time.
    pub fn put_at(&self, key: &str, bytes: impl Into<Vec<u8>>, last_modified: SystemTime) {
        let bytes = Bytes::from(bytes.into());
        let etag = service::md5_hex([&bytes]);
        lock(&self.store).put(key, Content::new(vec![bytes]), etag, last_modified);
    }

    /// Removes an object directly; returns whether it existed.
    pub fn delete(&self, key: &str) -> bool {
        lock(&self.store).delete(key)
    }

    /// Makes an object look as if it had been uploaded at that time.
    pub fn set_last_modified(&self, key: &str, last_modified: SystemTime) -> Result<()> {
        if !lock(&self.store).set_last_modified(key, last_modified) {
            bail!("no object {key}");
        }
        Ok(())
    }

    /// Multipart uploads that are neither completed nor aborted, by key and age.
    pub fn uploads(&self) -> Vec<OpenUpload> {
        lock(&self.store).uploads()
    }

    /// Starts a multipart upload as if a process had started it at that time and been killed; returns its id.
    pub fn start_stale_upload(&self, key: &str, initiated: SystemTime) -> String {
        lock(&self.store).start_upload(key, None, initiated)
    }

    /// Makes requests for this operation (`UploadPart`, `PutObject`, …) wait until [`MemoryS3::release`].
    pub fn hold(&self, operation: &str) {
        self.faults.hold(operation);
    }

    /// Lets all held requests continue, and holds no more.
    pub fn release(&self) {
        self.faults.release();
    }

    /// Waits until a request is being held; fails after `timeout`.
    pub fn wait_until_held(&self, timeout: Duration) -> Result<()> {
        self.faults.wait_until_held(timeout)
    }

    /// Answers the next `times` requests for this operation with an S3 error, for example `SlowDown` or
    /// `AccessDenied`.
    pub fn fail(&self, operation: &str, code: &str, times: usize) {
        self.faults.fail(operation, &Failure::Code(code.to_owned()), times);
    }

    /// Serves the next `times` requests for this operation normally, before failures that are added after this.
    pub fn pass(&self, operation: &str, times: usize) {
        self.faults.fail(operation, &Failure::None, times);
    }

    /// Closes the connection of the next `times` requests for this operation without an answer.
    pub fn cut(&self, operation: &str, times: usize) {
        self.faults.fail(operation, &Failure::Cut, times);
    }

    /// Cancels the failures of [`MemoryS3::fail`] and [`MemoryS3::cut`] that have not happened yet.
    pub fn clear_failures(&self) {
        self.faults.clear_failures();
    }

    /// Makes every request wait this long before it is served.
    pub fn set_latency(&self, latency: Duration) {
        self.faults.set_latency(latency);
    }
}
