//! How requests to S3 travel: trust, proxies, and how much of an answer is read.
//!
//! Invariant: no answer but an object's content can fill the memory.

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

/// Longest answer that is read whole, in bytes. A page of 1,000 objects with the longest names takes 4 MB.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;
/// The operation whose answer is read as a stream.
const STREAMED: &str = "GetObject";

/// Cuts answers off that are longer than any sensible one. The SDK reads them whole, whatever their length.
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

/// The HTTP client under the SDK, for S3 and for where the SDK gets credentials from.
pub(super) fn http_client(roots: &TrustRoots) -> anyhow::Result<SharedHttpClient> {
    let store = match roots.pem() {
        Some(pem) => tls::TrustStore::empty().with_pem_certificate(pem),
        None => tls::TrustStore::default(),
    };
    let context = tls::TlsContext::builder()
        .with_trust_store(store)
        .build()
        .context("the CA certificates do not fit the S3 client")?;
    let direct = client_by_way_of(&context, ProxyConfig::disabled());
    Ok(SharedHttpClient::new(ByAddress { direct, other: client_by_way_of(&context, ProxyConfig::from_env()) }))
}

fn client_by_way_of(context: &tls::TlsContext, proxy: ProxyConfig) -> SharedHttpClient {
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

/// Two of the same: one that reaches every address directly, and one that goes by the environment's proxies. The latter
/// alone would ask a proxy for the machine's own credentials.
#[derive(Debug)]
struct ByAddress<T> {
    direct: T,
    other: T,
}

impl HttpClient for ByAddress<SharedHttpClient> {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(ByAddress {
            direct: self.direct.http_connector(settings, components),
            other: self.other.http_connector(settings, components),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        settings: &ConfigBag,
    ) -> Result<(), BoxError> {
        HttpClient::validate_base_client_config(&self.other, components, settings)
    }

    fn validate_final_config(&self, components: &RuntimeComponents, settings: &ConfigBag) -> Result<(), BoxError> {
        HttpClient::validate_final_config(&self.other, components, settings)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.other.connector_metadata()
    }
}

impl HttpConnector for ByAddress<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match request.uri().parse() {
            Ok(url) if is_direct(&url) => self.direct.call(request),
            Ok(_) | Err(_) => self.other.call(request),
        }
    }
}
