//! The HTTP client for S3: trusted certificates, proxies, and a limit on the length of answers.
//!
//! Invariant: only an object's content can be longer than that limit, and it is read as a stream.

use anyhow::Context;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents, SharedHttpClient};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_http_client::{Builder, ConnectorBuilder, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, Metadata};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponentsBuilder;
use http_body_util::Limited;

use crate::net::proxy::is_direct;
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
    let direct = client_through(&context, ProxyConfig::disabled());
    Ok(SharedHttpClient::new(ByAddress { direct, proxied: client_through(&context, ProxyConfig::from_env()) }))
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

/// Two clients: one without a proxy, and one that uses the environment's proxies. The second one alone would ask a proxy
/// for this machine's credentials.
#[derive(Debug)]
struct ByAddress<T> {
    direct: T,
    proxied: T,
}

impl HttpClient for ByAddress<SharedHttpClient> {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(ByAddress {
            direct: self.direct.http_connector(settings, components),
            proxied: self.proxied.http_connector(settings, components),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        settings: &ConfigBag,
    ) -> Result<(), BoxError> {
        HttpClient::validate_base_client_config(&self.proxied, components, settings)
    }

    fn validate_final_config(&self, components: &RuntimeComponents, settings: &ConfigBag) -> Result<(), BoxError> {
        HttpClient::validate_final_config(&self.proxied, components, settings)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.proxied.connector_metadata()
    }
}

impl HttpConnector for ByAddress<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match request.uri().parse() {
            Ok(url) if is_direct(&url) => self.direct.call(request),
            Ok(_) | Err(_) => self.proxied.call(request),
        }
    }
}
