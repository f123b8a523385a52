//! Whom the program trusts: the system's certificate authorities plus `SSL_CERT_FILE`, the same for GraphQL, GitLab and S3.
//!
//! Invariant: an extra authority never replaces the system's, and there is no switch that turns verification off.

use std::path::Path;

use anyhow::{Context, ensure};

/// Where Linux distributions keep the bundle of their trusted authorities.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/opt/homebrew/etc/ca-certificates/cert.pem",
];

/// Certificates in PEM form, or the TLS libraries' own defaults where nothing was found.
#[derive(Clone)]
pub struct TrustRoots(Option<Vec<u8>>);

impl TrustRoots {
    /// The system's bundle with `extra`, the file `SSL_CERT_FILE` names, on top.
    ///
    /// # Errors
    /// Where `extra` cannot be read or holds no certificate.
    pub fn load(extra: Option<&Path>) -> anyhow::Result<Self> {
        let system = SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()).map(usable);
        let Some(extra) = extra else { return Ok(Self(system)) };
        let show = extra.display();
        let added = std::fs::read(extra).with_context(|| format!("SSL_CERT_FILE: cannot read {show}"))?;
        let count =
            try_out(&added).with_context(|| format!("SSL_CERT_FILE: {show} is not a bundle of PEM certificates"))?;
        ensure!(count > 0, "SSL_CERT_FILE: {show} holds no PEM certificate");
        Ok(Self(Some([system.unwrap_or_default(), added].join(&b'\n'))))
    }

    /// The PEM bundle to trust and nothing besides; `None` leaves the library's default.
    pub fn pem(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}

/// How many certificates the bundle holds, once a client has taken them all: the S3 client's library panics where it
/// cannot take one.
fn try_out(pem: &[u8]) -> reqwest::Result<usize> {
    let certificates = reqwest::Certificate::from_pem_bundle(pem)?;
    let count = certificates.len();
    reqwest::Client::builder().tls_certs_only(certificates).build()?;
    Ok(count)
}

/// The bundle, without the certificates that the TLS library does not take. A system may trust some that are too old.
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
