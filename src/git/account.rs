//! One GitLab and the login for it.
//!
//! Invariant: a token in a file is read again for each pass, so that a rotated one works without a restart.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use url::Url;

use super::heads::{Experience, Probes};
use super::push::PushServer;
use super::wire::GitServer;
use crate::net::http::upload::Uploads;
use crate::net::http::{Login, MAX_ATTEMPTS};
use crate::progress::Pulse;
use crate::secret::Secret;

/// How often a token in a file is read while the login is refused.
const TOKEN_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// A GitLab, the user, and how many of its projects are asked for at the same time.
pub struct Account {
    base_url: Url,
    username: String,
    token: Secret,
    /// One permit for each probe, for all passes together.
    probes: Semaphore,
    probe_concurrency: NonZeroUsize,
    /// How often a project is asked for in all.
    attempts: usize,
    experience: Experience,
    /// The token of the last pass.
    last_token: Mutex<Option<SecretString>>,
}

impl Account {
    pub fn new(base_url: Url, username: String, token: Secret, probe_concurrency: NonZeroUsize) -> Self {
        Self {
            base_url,
            username,
            token,
            probes: Semaphore::new(probe_concurrency.get()),
            probe_concurrency,
            attempts: MAX_ATTEMPTS,
            experience: Experience::default(),
            last_token: Mutex::default(),
        }
    }

    /// The same, and a project is asked for so often in all before its failure counts.
    pub fn with_attempts(self, attempts: usize) -> Self {
        Self { attempts, ..self }
    }

    /// The server with the login of now.
    ///
    /// # Errors
    /// If the token cannot be read, or does not fit a header.
    pub fn server(&self, http: &reqwest::Client) -> anyhow::Result<GitServer> {
        Ok(GitServer::new(http.clone(), self.base_url.clone(), self.login()?))
    }

    /// The server that takes pushes, with the login of now.
    ///
    /// # Errors
    /// If the token cannot be read, or does not fit a header.
    pub fn push_server(&self, uploads: Uploads) -> anyhow::Result<PushServer> {
        Ok(PushServer::new(uploads, self.base_url.clone(), self.login()?))
    }

    fn login(&self) -> anyhow::Result<Login> {
        let token = self.token.read()?;
        let login = Login::new(&self.username, &token)?;
        *self.last_token.lock() = Some(token);
        Ok(login)
    }

    /// How its projects are asked for. `pulse` beats with every answer.
    pub fn probes<'a>(&'a self, pulse: &'a Pulse) -> Probes<'a> {
        let Self { probes: slots, probe_concurrency, attempts, experience, .. } = self;
        Probes { slots, concurrency: *probe_concurrency, attempts: *attempts, experience, pulse }
    }

    /// Whether the server refuses the login, so that only the probes of full passes try it.
    pub fn login_is_refused(&self) -> bool {
        self.experience.is_refused()
    }

    /// Work other than a probe, begun at `begun`, showed whether the login is accepted.
    pub fn login_was(&self, accepted: bool, begun: Instant) {
        if accepted {
            self.experience.login_was_accepted(begun);
        } else {
            self.experience.login_was_refused();
        }
    }

    /// Waits until the token is another than in the last pass.
    pub async fn token_changes(&self) {
        loop {
            tokio::time::sleep(TOKEN_CHECK_INTERVAL).await;
            let last = self.last_token.lock().clone();
            if let (Ok(now), Some(last)) = (self.token.read(), last)
                && now.expose_secret() != last.expose_secret()
            {
                return;
            }
        }
    }
}
