//! The clients of the three servers, and the target list without a server. Logins and queries in files are read again for
//! each pass.

use std::num::NonZeroUsize;

use secrecy::SecretString;

use super::PassError;
use crate::bucket::Bucket;
use crate::config;
use crate::git::account::Account;
use crate::git::heads::{self, LoginRefused};
use crate::git::wire::GitServer;
use crate::graphql::file::TargetsFile;
use crate::graphql::{GraphqlServer, QuerySource};
use crate::model::target::{Head, Target, Targets};
use crate::net::http::{self, Login};
use crate::net::tls::TrustRoots;
use crate::progress::Pulse;
use crate::secret::Secret;

/// The clients of GraphQL, GitLab and S3.
pub struct Clients {
    pub(crate) bucket: Bucket,
    http: reqwest::Client,
    pub(super) gitlab: Account,
    targets: config::TargetList,
    attempts: usize,
}

/// Where a pass takes the target list from.
pub(crate) enum TargetList {
    /// From a GraphQL server, with this query.
    Server { server: GraphqlServer, query: String },
    /// From a file.
    File(TargetsFile),
}

impl TargetList {
    pub(super) async fn targets(&self) -> Result<Targets, PassError> {
        Ok(match self {
            Self::Server { server, query } => server.targets(query).await?,
            Self::File(file) => file.targets().await?,
        })
    }
}

impl Clients {
    /// Sets the clients up without sending a request.
    ///
    /// # Errors
    /// If certificates, proxies or the AWS configuration are unusable.
    pub async fn new(
        settings: &config::Run,
        roots: &TrustRoots,
        probe_concurrency: NonZeroUsize,
    ) -> anyhow::Result<Self> {
        let http = http::client(roots, settings.common.timeouts, probe_concurrency.get())?;
        let config::Gitlab { base_url, username, token } = settings.common.gitlab.clone();
        Ok(Self {
            bucket: Bucket::connect(&settings.common.s3, settings.common.timeouts, roots).await?,
            gitlab: Account::new(base_url, username, token, probe_concurrency),
            http,
            targets: settings.targets.clone(),
            attempts: http::MAX_ATTEMPTS,
        })
    }

    /// The same, and each request is sent so often in all before its failure counts.
    pub fn with_attempts(self, attempts: usize) -> Self {
        let (bucket, gitlab) = (self.bucket.with_attempts(attempts), self.gitlab.with_attempts(attempts));
        Self { bucket, gitlab, attempts, ..self }
    }

    /// The target list, without a request.
    pub(crate) fn target_list(&self) -> Result<TargetList, PassError> {
        match &self.targets {
            config::TargetList::Server(graphql) => {
                Ok(TargetList::Server { server: self.graphql(graphql)?, query: query_text(&graphql.query)? })
            }
            config::TargetList::File(file) => Ok(TargetList::File(file.clone())),
        }
    }

    /// The pull-request check, and the server to ask, if it is asked for.
    pub(super) fn pr_check(&self) -> Result<Option<(&config::PrCheck, GraphqlServer)>, PassError> {
        let config::TargetList::Server(graphql) = &self.targets else { return Ok(None) };
        let server = |check| Ok((check, self.graphql(graphql)?));
        graphql.pr_check.as_ref().map(server).transpose()
    }

    fn graphql(&self, graphql: &config::Graphql) -> Result<GraphqlServer, PassError> {
        let login = graphql.login.as_ref().map(|(user, password)| login(user, password)).transpose()?;
        let (client, url) = (self.http.clone(), graphql.server.clone());
        Ok(GraphqlServer { client, url, login, attempts: self.attempts })
    }

    pub(crate) fn git(&self) -> Result<GitServer, PassError> {
        self.gitlab.server(&self.http).map_err(PassError::Secret)
    }

    pub(crate) async fn heads(
        &self,
        git: &GitServer,
        targets: Vec<Target>,
        pulse: &Pulse,
    ) -> Result<Vec<(Target, Head)>, LoginRefused> {
        heads::heads(git, targets, self.gitlab.probes(pulse)).await
    }
}

/// A secret in a file is read here, for each pass, so that a rotated one works without a restart.
fn login(user: &str, secret: &Secret) -> Result<Login, PassError> {
    Login::new(user, &read(secret)?).map_err(PassError::Secret)
}

fn read(secret: &Secret) -> Result<SecretString, PassError> {
    secret.read().map_err(|error| PassError::Secret(error.into()))
}

pub(super) fn query_text(query: &QuerySource) -> Result<String, PassError> {
    match query {
        QuerySource::BuiltIn(text) => Ok((*text).to_owned()),
        QuerySource::File(path) => std::fs::read_to_string(path)
            .map_err(|source| PassError::Query { path: path.display().to_string(), source }),
    }
}
