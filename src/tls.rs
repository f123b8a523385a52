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
        let system = SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(path).ok());
        let Some(extra) = extra else { return Ok(Self(system)) };
        let show = extra.display();
        let added = std::fs::read(extra).with_context(|| format!("SSL_CERT_FILE: cannot read {show}"))?;
        let count = reqwest::Certificate::from_pem_bundle(&added)
            .with_context(|| format!("SSL_CERT_FILE: {show} is not a bundle of PEM certificates"))?
            .len();
        ensure!(count > 0, "SSL_CERT_FILE: {show} holds no PEM certificate");
        Ok(Self(Some([system.unwrap_or_default(), added].join(&b'\n'))))
    }

    /// The PEM bundle to trust and nothing besides; `None` leaves the library's default.
    pub fn pem(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}
