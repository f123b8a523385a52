//! Keys made by OpenSSL, for tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use super::signature::{SigningKey, TrustedKeys};
use crate::git::fixture::run;

/// A key pair in the files `signing.pem` and `signing.pub`.
pub(crate) struct Keys {
    pub(crate) dir: tempfile::TempDir,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        run(at, "openssl", &["genpkey", "-algorithm", "ed25519", "-out", "signing.pem"]);
        run(at, "openssl", &["pkey", "-in", "signing.pem", "-pubout", "-out", "signing.pub"]);
        Self { dir }
    }

    pub(crate) fn private_pem(&self) -> String {
        fs::read_to_string(self.dir.path().join("signing.pem")).unwrap()
    }

    pub(crate) fn public_pem(&self) -> String {
        fs::read_to_string(self.dir.path().join("signing.pub")).unwrap()
    }

    pub(crate) fn signing(&self) -> SigningKey {
        SigningKey::from_file(&self.dir.path().join("signing.pem")).unwrap()
    }

    pub(crate) fn trusted(&self) -> TrustedKeys {
        TrustedKeys::from_text(&self.public_pem()).unwrap()
    }
}
