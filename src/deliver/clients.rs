//! The clients of the far GitLab and of the bucket. Logins, identities and trusted keys in files are read again for each pass.

use std::num::NonZeroUsize;

use super::PassError;
use crate::artifact::open::Keys;
use crate::bucket::Bucket;
use crate::config;
use crate::git::account::Account;
use crate::git::push::PushServer;
use crate::git::wire::GitServer;
use crate::net::http;
use crate::net::http::upload::Uploads;
use crate::net::tls::TrustRoots;

/// The clients of GitLab and S3, and the identities.
pub struct Clients {
    pub(crate) bucket: Bucket,
    pub(crate) gitlab: Account,
    http: reqwest::Client,
    uploads: Uploads,
    settings: config::Consume,
}

impl Clients {
    /// Sets the clients up without sending a request.
    ///
    /// # Errors
    /// If certificates, proxies or the AWS configuration are unusable.
    pub async fn new(
        settings: &config::Consume,
        roots: &TrustRoots,
        probe_concurrency: NonZeroUsize,
    ) -> anyhow::Result<Self> {
        let config::Gitlab { base_url, username, token } = settings.common.gitlab.clone();
        Ok(Self {
            bucket: Bucket::connect(&settings.common.s3, settings.common.timeouts, roots).await?,
            gitlab: Account::new(base_url, username, token, probe_concurrency),
            http: http::client(roots, settings.common.timeouts, probe_concurrency.get())?,
            uploads: Uploads::new(roots, settings.common.timeouts, probe_concurrency.get())?,
            settings: settings.clone(),
        })
    }

    /// The far GitLab, with the login of now.
    pub(crate) fn git(&self) -> Result<PushServer, PassError> {
        self.gitlab.push_server(self.uploads.clone()).map_err(PassError::Secret)
    }

    /// The far GitLab for reading alone, with the login of now.
    pub(super) fn reader(&self) -> Result<GitServer, PassError> {
        self.gitlab.server(&self.http).map_err(PassError::Secret)
    }

    /// The keys of now.
    pub(super) fn keys(&self) -> Result<Keys, PassError> {
        let identities = self.settings.keys.identities().map_err(PassError::Secret)?;
        let trusted = self.settings.keys.trusted_keys().map_err(PassError::TrustedKeys)?;
        Ok(Keys { identities, trusted })
    }
}
