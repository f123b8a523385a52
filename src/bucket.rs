//! The bucket: what it holds (the observed state), and the few ways to change it.

mod abandoned;
mod ahead;
mod answer;
mod client;
mod credentials;
mod download;
mod error;
mod list;
mod notes;
mod parts;
mod proof;
mod trial;
mod upload;
mod xml;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use tokio::sync::Semaphore;
use url::Url;

use self::answer::WorthAnotherTry;
pub use self::error::BucketError;
use self::error::failed;
pub(crate) use self::list::read_key;
pub use self::list::{FOREIGN_EXAMPLES, Foreign, Listing};
pub use self::parts::{PartWriter, Parts};
use crate::net::Timeouts;
use crate::net::tls::TrustRoots;

/// How long one attempt at a request without object data may take, at most.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts at a request, in all.
const MAX_ATTEMPTS: u32 = 5;

/// The bucket and how to reach it. The AWS SDK finds the access keys itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// `AWS_S3_BUCKET`: a name or the ARN of an access point.
    pub bucket: String,
    /// `AWS_REGION`; `None` leaves it to the SDK's other sources.
    pub region: Option<String>,
    /// `AWS_ENDPOINT_URL_S3`: another server than AWS's own.
    pub endpoint_url: Option<Url>,
    /// `AWS_S3_FORCE_PATH_STYLE`: the bucket's name in the path, not in the host name.
    pub force_path_style: bool,
    /// `AWS_S3_SIGN_PAYLOAD`: uploads are hashed once more, and the hash is signed.
    pub sign_payload: bool,
    /// `AWS_USE_FIPS_ENDPOINT`; never true with an endpoint.
    pub use_fips: bool,
}

#[derive(Clone)]
pub struct Bucket {
    client: Client,
    name: String,
    sign_payload: bool,
    timeouts: Timeouts,
    memory: Arc<Semaphore>,
}

impl Bucket {
    /// Sets up a client. Credentials come from the SDK's default chain, and so does the region if no setting names it.
    ///
    /// # Errors
    /// No region is found, or the certificates do not load. No request to S3 is made.
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
        let region = shared.region().map(|region| region.as_ref().trim().to_owned());
        let region =
            region.context("missing: AWS_REGION (no other source of the AWS configuration names a region either)")?;
        // It is part of each request's signature, which is a header.
        anyhow::ensure!(
            credentials::fits_header(&region),
            "AWS_REGION: {region:?} is not a region: write its name, such as us-east-1"
        );
        let mut builder = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(settings.force_path_style)
            .interceptor(client::ShortAnswers)
            .interceptor(client::NamesWay)
            .interceptor(proof::Proof)
            .interceptor(notes::Notes)
            .retry_classifier(WorthAnotherTry);
        builder.set_region(Some(aws_config::Region::new(region)));
        if let Some(found) = shared.credentials_provider() {
            builder = builder.credentials_provider(credentials::Clean(found));
        }
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

    /// The same, and each request is sent so often in all before its failure counts.
    pub fn with_attempts(self, attempts: usize) -> Self {
        let attempts = RetryConfig::standard().with_max_attempts(u32::try_from(attempts).unwrap_or(MAX_ATTEMPTS));
        let config = self.client.config().to_builder().retry_config(attempts).build();
        Self { client: Client::from_conf(config), ..self }
    }

    /// Deletes one object. It is not an error if the object is already gone.
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        match self.client.delete_object().bucket(&self.name).key(key).send().await {
            // S3 does not say so, some other servers do.
            Err(error) if error.code() == Some("NoSuchKey") => Ok(()),
            other => other.map(drop).map_err(failed("delete an object")),
        }
    }

    /// The two ends of an upload of about `expected_bytes`: a writer for a blocking thread, and the parts for [`Self::upload`].
    pub fn pipe(&self, expected_bytes: u64) -> (PartWriter, Parts) {
        parts::pipe(expected_bytes, Arc::clone(&self.memory))
    }
}

fn attempt_timeouts(timeouts: Timeouts, attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(timeouts.connect).operation_attempt_timeout(attempt).build()
}
