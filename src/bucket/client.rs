//! The HTTP client for S3: trusted certificates, proxies, and a limit on the length of answers.
//!
//! Invariant: only an object's content can be longer than that limit, and it is read as a stream.

use std::error::Error;
use std::fmt;

use anyhow::{Context, anyhow};
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextMut,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents, SharedHttpClient};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_http_client::{Builder, ConnectorBuilder, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, Metadata, OrchestratorError};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use http_body_util::Limited;
use url::Url;

use crate::net::proxy::{self, Proxy};
use crate::net::tls::TrustRoots;

/// Longest answer that is held in memory, in bytes. A page of 1,000 objects with the longest names takes 4 MB. Parsed, an
/// answer can take 40 times its length.
const ANSWER_LIMIT_BYTES: usize = 6 << 20;
/// The operation whose answer is read as a stream.
pub(super) const STREAMED: &str = "GetObject";

/// Limits the length of answers. The SDK reads them whole, however long they are.
#[derive(Debug)]
pub(super) struct ShortAnswers;

impl Intercept for ShortAnswers {
    fn name(&self) -> &'static str {
        "ShortAnswers"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        let streamed = settings.load::<Metadata>().is_some_and(|metadata| metadata.name() == STREAMED);
        if !(streamed && response.status().is_success()) {
            let body = response.take_body();
            *response.body_mut() = SdkBody::from_body_1_x(Limited::new(body, ANSWER_LIMIT_BYTES));
        }
        Ok(())
    }
}

/// The HTTP client for S3, and for the servers that the SDK loads credentials from.
pub(super) fn http_client(roots: &TrustRoots) -> anyhow::Result<SharedHttpClient> {
    let store = match roots.pem() {
        Some(pem) => tls::TrustStore::empty().with_pem_certificate(pem),
        None => tls::TrustStore::default(),
    };
    let context = tls::TlsContext::builder()
        .with_trust_store(store)
        .build()
        .context("the CA certificates do not fit the S3 client")?;
    proxy::check()?;
    let direct = client_through(&context, ProxyConfig::disabled());
    let through = |proxy: Option<&Proxy>| {
        // One client reads the certificates once.
        let Some(proxy) = proxy else { return Ok(direct.clone()) };
        let config = ProxyConfig::all(proxy.url().as_str());
        let config = config.map_err(|_| anyhow!("the S3 client cannot use the proxy {proxy}"))?;
        anyhow::Ok(client_through(&context, config))
    };
    let (https, http) = (through(proxy::for_scheme("https"))?, through(proxy::for_scheme("http"))?);
    Ok(SharedHttpClient::new(ByAddress { direct, https, http }))
}

fn client_through(context: &tls::TlsContext, proxy: ProxyConfig) -> SharedHttpClient {
    let context = context.clone();
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = ConnectorBuilder::default()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .tls_context(context.clone());
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.set_proxy_config(Some(proxy.clone()));
        connector.build()
    })
}

/// Three clients: one without a proxy, and one for each scheme that uses the environment's. What is used for a request is
/// decided here, as for the other servers; the SDK would read the environment in its own way.
#[derive(Debug)]
struct ByAddress<T> {
    direct: T,
    https: T,
    http: T,
}

impl HttpClient for ByAddress<SharedHttpClient> {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(ByAddress {
            direct: self.direct.http_connector(settings, components),
            https: self.https.http_connector(settings, components),
            http: self.http.http_connector(settings, components),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        settings: &ConfigBag,
    ) -> Result<(), BoxError> {
        HttpClient::validate_base_client_config(&self.direct, components, settings)
    }

    fn validate_final_config(&self, components: &RuntimeComponents, settings: &ConfigBag) -> Result<(), BoxError> {
        HttpClient::validate_final_config(&self.direct, components, settings)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.direct.connector_metadata()
    }
}

impl HttpConnector for ByAddress<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let url: Option<Url> = request.uri().parse().ok();
        let way = Way::to(url.as_ref());
        let sent = match (way.proxy, url.as_ref().map(Url::scheme)) {
            (None, _) => self.direct.call(request),
            (Some(_), Some("https")) => self.https.call(request),
            (Some(_), _) => self.http.call(request),
        };
        HttpConnectorFuture::new(async move { sent.await.map_err(|error| failed_on(way, error)) })
    }
}

/// Where an attempt goes.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// Scheme, host and port of the server.
    pub(super) server: String,
    /// It may be what fails.
    pub(super) proxy: Option<&'static Proxy>,
}

impl Way {
    fn to(url: Option<&Url>) -> Self {
        let server = url.map(|url| url.origin().ascii_serialization()).unwrap_or_default();
        Self { server, proxy: url.and_then(proxy::for_url) }
    }
}

/// The error of an attempt, and where that went. Without a proxy it reads as the error alone.
#[derive(Debug)]
struct Failed {
    way: Way,
    source: BoxError,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.way.proxy {
            Some(proxy) => write!(f, "through the proxy {proxy}"),
            None => self.source.fmt(f),
        }
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.way.proxy {
            Some(_) => Some(&*self.source),
            None => self.source.source(),
        }
    }
}

/// Where the attempt went that failed, if that is in the error.
pub(super) fn way_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Way> {
    error.downcast_ref().map(|Failed { way, .. }| way).or_else(|| error.source().and_then(way_in))
}

/// Says where an attempt went that took too long: the SDK drops what the connector would say.
#[derive(Debug)]
pub(super) struct NamesWay;

impl Storable for Way {
    type Storer = StoreReplace<Self>;
}

impl Intercept for NamesWay {
    fn name(&self) -> &'static str {
        "NamesWay"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let url: Option<Url> = context.request().uri().parse().ok();
        settings.interceptor_state().store_put(Way::to(url.as_ref()));
        Ok(())
    }

    fn modify_before_attempt_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let (Some(Err(error)), Some(way)) = (context.output_or_error_mut(), settings.load::<Way>())
            && error.is_timeout_error()
        {
            let failed = Failed { way: way.clone(), source: "it took too long".into() };
            *error = OrchestratorError::timeout(failed.into());
        }
        Ok(())
    }
}

/// The same kind of error, which says where the attempt went.
fn failed_on(way: Way, error: ConnectorError) -> ConnectorError {
    let (timeout, io, user, kind) = (error.is_timeout(), error.is_io(), error.is_user(), error.as_other());
    let error: BoxError = Failed { way, source: error.into_source() }.into();
    match (timeout, io, user) {
        (true, _, _) => ConnectorError::timeout(error),
        (_, true, _) => ConnectorError::io(error),
        (_, _, true) => ConnectorError::user(error),
        _ => ConnectorError::other(error, kind),
    }
}
