//! An S3 client for tests, for any server, and what a bucket holds.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use tokio::runtime::Runtime;

/// Where a bucket is and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Endpoint {
    /// `http://127.0.0.1:<port>`.
    pub endpoint: String,
    /// The region to sign for.
    pub region: String,
    /// The access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// The bucket.
    pub bucket: String,
}

/// An object of the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was made, in whole milliseconds.
    pub last_modified: SystemTime,
    /// Its ETag, without quotes.
    pub etag: String,
}

/// A multipart upload that is neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// The key of the object it would make.
    pub key: String,
    /// Its id.
    pub upload_id: String,
    /// When it was started.
    pub initiated: SystemTime,
    /// How many parts it has.
    pub parts: usize,
}

/// A synchronous client of one bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Client,
    bucket: String,
    runtime: Arc<Runtime>,
}

impl Bucket {
    /// A client; nothing is sent yet.
    pub fn new(endpoint: &S3Endpoint) -> Result<Self> {
        let credentials =
            Credentials::new(endpoint.access_key.clone(), endpoint.secret_key.clone(), None, None, "testbed");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(endpoint.endpoint.clone())
            .region(Region::new(endpoint.region.clone()))
            .credentials_provider(credentials)
            .force_path_style(true)
            .build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { client: Client::from_conf(config), bucket: endpoint.bucket.clone(), runtime: Arc::new(runtime) })
    }

    /// The inner client, for requests that are not wrapped here; use it within [`Bucket::block_on`].
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.bucket
    }

    /// Runs a request of [`Bucket::client`] to its end.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Makes the bucket.
    pub fn create(&self) -> Result<()> {
        self.block_on(self.client.create_bucket().bucket(&self.bucket).send()).context("creating the bucket")?;
        Ok(())
    }

    /// The names of all buckets, in one signed request: this proves that the server is up and knows the key.
    pub fn list_buckets(&self) -> Result<Vec<String>> {
        let listed = self.block_on(self.client.list_buckets().send()).context("listing buckets")?;
        Ok(listed.buckets().iter().filter_map(|bucket| bucket.name().map(str::to_owned)).collect())
    }

    /// All objects, from all pages.
    pub fn list(&self) -> Result<Vec<StoredObject>> {
        self.block_on(async {
            let mut objects = Vec::new();
            let mut pages = self.client.list_objects_v2().bucket(&self.bucket).into_paginator().send();
            while let Some(page) = pages.next().await {
                objects.extend(page?.contents().iter().map(described));
            }
            Ok(objects)
        })
    }

    /// The first page only: 1,000 objects at most.
    pub fn list_first_page(&self) -> Result<Vec<StoredObject>> {
        let page =
            self.block_on(self.client.list_objects_v2().bucket(&self.bucket).send()).context("listing the bucket")?;
        Ok(page.contents().iter().map(described).collect())
    }

    /// All keys, in the order of the listing.
    pub fn keys(&self) -> Result<Vec<String>> {
        Ok(self.list()?.into_iter().map(|object| object.key).collect())
    }

    /// An object's content.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.block_on(async {
            let object = self.client.get_object().bucket(&self.bucket).key(key).send().await?;
            Ok(object.body.collect().await?.to_vec())
        })
    }

    /// Puts an object in one request.
    pub fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) -> Result<()> {
        let body = ByteStream::from(bytes.into());
        self.block_on(self.client.put_object().bucket(&self.bucket).key(key).body(body).send())
            .with_context(|| format!("putting {key}"))?;
        Ok(())
    }

    /// Removes an object, whether or not it exists.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.block_on(self.client.delete_object().bucket(&self.bucket).key(key).send())
            .with_context(|| format!("deleting {key}"))?;
        Ok(())
    }

    /// Multipart uploads that are neither completed nor aborted; their number of parts is not requested and is 0.
    pub fn list_multipart_uploads(&self) -> Result<Vec<OpenUpload>> {
        let listed = self
            .block_on(self.client.list_multipart_uploads().bucket(&self.bucket).send())
            .context("listing multipart uploads")?;
        let uploads = listed.uploads().iter().map(|upload| OpenUpload {
            key: upload.key().unwrap_or_default().to_owned(),
            upload_id: upload.upload_id().unwrap_or_default().to_owned(),
            initiated: system_time(upload.initiated()),
            parts: 0,
        });
        Ok(uploads.collect())
    }
}

fn described(object: &aws_sdk_s3::types::Object) -> StoredObject {
    StoredObject {
        key: object.key().unwrap_or_default().to_owned(),
        size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
        last_modified: system_time(object.last_modified()),
        etag: object.e_tag().unwrap_or_default().trim_matches('"').to_owned(),
    }
}

fn system_time(time: Option<&DateTime>) -> SystemTime {
    let milliseconds = time.and_then(|time| time.to_millis().ok()).unwrap_or_default();
    UNIX_EPOCH + Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default())
}
