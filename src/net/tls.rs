//! Trust roots: the system's certificate authorities plus `SSL_CERT_FILE`, the same for GraphQL, GitLab and S3. For the
//! consumer, `INTERNAL_GIT_CA_PATH` adds more.
//!
//! Invariant: an extra authority never replaces the system's, and there is no switch that turns verification off.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, ensure};

/// Where systems keep the bundle of their trusted authorities.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/opt/homebrew/etc/ca-certificates/cert.pem",
];

/// Certificates in PEM form, or the TLS library's defaults if none were found.
#[derive(Clone)]
pub struct TrustRoots(Option<Vec<u8>>);

impl TrustRoots {
    /// The system's bundle plus `extra`: files, each with the variable that names it.
    pub fn load(extra: &[(&str, PathBuf)]) -> anyhow::Result<Self> {
        Self::union(SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()), extra)
    }

    fn union(system: Option<Vec<u8>>, extra: &[(&str, PathBuf)]) -> anyhow::Result<Self> {
        let mut bundles: Vec<_> = system.map(usable).into_iter().collect();
        for (variable, path) in extra {
            let show = path.display();
            let added = std::fs::read(path).with_context(|| format!("{variable}: cannot read {show}"))?;
            let count =
                try_out(&added).with_context(|| format!("{variable}: {show} is not a bundle of PEM certificates"))?;
            ensure!(count > 0, "{variable}: {show} holds no PEM certificate");
            bundles.push(added);
        }
        Ok(Self((!bundles.is_empty()).then(|| bundles.join(&b'\n'))))
    }

    /// The only PEM bundle to trust; `None` leaves the library's default.
    pub fn pem(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}

/// Why the TLS handshake failed, with advice; `None` if something else is wrong. Both HTTP clients wrap the TLS library's
/// error somewhere in their chain.
pub fn refusal(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_)) => {
                return Some(
                    "the server's certificate is not accepted: if it comes from your own authority, put that authority's \
                     certificate into SSL_CERT_FILE",
                );
            }
            Some(rustls::Error::PeerIncompatible(_)) => {
                return Some("the server's TLS is not accepted: it must offer version 1.2 or newer");
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                return Some("the server's answer is not TLS: the port may be one for http://");
            }
            Some(_) | None => {}
        }
        // The source of an I/O error that wraps another error skips the wrapped one.
        let stands_for = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = stands_for.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// How many certificates the bundle holds, once a client has accepted all: the S3 client's library panics on one that it
/// cannot use.
fn try_out(pem: &[u8]) -> reqwest::Result<usize> {
    let certificates = reqwest::Certificate::from_pem_bundle(pem)?;
    let count = certificates.len();
    reqwest::Client::builder().tls_certs_only(certificates).build()?;
    Ok(count)
}

/// The bundle without the certificates that the TLS library rejects. A system may trust some that are too old.
fn usable(bundle: Vec<u8>) -> Vec<u8> {
    const END: &str = "-----END CERTIFICATE-----";
    if try_out(&bundle).is_ok() {
        return bundle;
    }
    let text = String::from_utf8_lossy(&bundle);
    let good: Vec<&str> =
        text.split_inclusive(END).filter(|one| try_out(one.as_bytes()).is_ok_and(|count| count == 1)).collect();
    tracing::warn!("some of the system's certificate authorities cannot be used and are left out");
    good.join("\n").into_bytes()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::time::Duration;

    use crate::net::Timeouts;
    use crate::net::http;
    use bytes::Bytes;
    use reqwest::header::HeaderMap;
    use testbed::fault::{Authority, Proxy, Validity};
    use testbed::graphql::{GraphqlOptions, GraphqlServer};

    #[tokio::test(flavor = "multi_thread")]
    async fn an_extra_authority_is_trusted_beside_the_system_s_and_no_other_is() {
        let [system, extra, other] =
            ["the system's", "an extra one", "somebody else"].map(|name| Authority::new(name).unwrap());
        let graphql = GraphqlServer::start(GraphqlOptions::default()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), extra.pem()).unwrap();
        let extra_file = [("SSL_CERT_FILE", file.path().into())];
        let both = TrustRoots::union(Some(system.pem().into()), &extra_file).unwrap();
        let alone = TrustRoots::union(Some(system.pem().into()), &[]).unwrap();
        for (roots, authority, good) in [
            (&both, &system, true),
            (&both, &extra, true),
            (&both, &other, false),
            (&alone, &system, true),
            (&alone, &extra, false),
        ] {
            let front =
                Proxy::start_tls(&graphql.url(), &authority.certify("127.0.0.1", Validity::Good).unwrap()).unwrap();
            let url = format!("{}/graphql", front.url()).parse().unwrap();
            let body = Bytes::from_static(br#"{"query":"{ apps_v1 { name } }"}"#);
            let timeouts = Timeouts { connect: Duration::from_secs(10), idle: Duration::from_secs(10) };
            let client = http::client(roots, timeouts, 1).unwrap();
            let answer = http::post(&client, &url, None, &HeaderMap::new(), body).await;
            // Without TLS there is no HTTP status either.
            let refused = answer.as_ref().err().and_then(|error| refusal(error));
            assert_eq!(refused.is_none(), good, "{answer:?}");
        }
    }
}
