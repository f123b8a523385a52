//! The pull-request check: compares two bundles of the target list's data. Does the change concern this program?
//!
//! Invariant: a bundle that could not be read is an error, never "no change".

use std::collections::BTreeSet;

use graphql_client::GraphQLQuery;
use url::Url;

use crate::graphql::{GraphqlServer, TargetsError};
use crate::model::target::Target;

/// The query for a bundle, if there is no file.
pub const BUILT_IN_QUERY: &str = include_str!("../../queries/pr_check.graphql");

/// The types of the answer, made from our query.
#[derive(GraphQLQuery)]
#[graphql(schema_path = "queries/schema.graphql", query_path = "queries/pr_check.graphql", response_derives = "Debug")]
#[expect(dead_code, reason = "only the types that the derive makes are used")]
struct PrCheck;

/// Why the two bundles could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The bundle named in `PREVIOUS_BUNDLE_SHA`.
    #[error("the pull-request check cannot read the previous bundle from {url}")]
    Previous {
        /// Its address.
        url: Url,
        /// What went wrong.
        #[source]
        source: TargetsError,
    },
    /// The current bundle.
    #[error("the pull-request check cannot read the current bundle from GRAPHQL_SERVER")]
    Current(#[source] TargetsError),
}

/// What changed between two bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// Targets were added, removed or changed.
    pub definitions: bool,
    /// Another version of this program is deployed somewhere.
    pub deployment: bool,
    /// The SaaS file was found, in one bundle at least.
    pub saas_file_found: bool,
}

impl Changes {
    /// Whether there is anything to check.
    pub fn any(self) -> bool {
        self.definitions || self.deployment
    }
}

/// Compares the bundle `previous` with the current one. The order of definitions does not count.
///
/// # Errors
/// [`CheckError`] if one of them cannot be read.
pub async fn changes(
    server: &GraphqlServer,
    previous: &str,
    query: &str,
    saas_file: &str,
) -> Result<Changes, CheckError> {
    let url = bundle_url(&server.url, previous);
    let before = GraphqlServer { url: url.clone(), ..server.clone() };
    let before = async {
        let read = relevant(&before, query, saas_file).await;
        read.map_err(|source| CheckError::Previous { url, source })
    };
    let now = async { relevant(server, query, saas_file).await.map_err(CheckError::Current) };
    let (before, now) = tokio::try_join!(before, now)?;
    Ok(Changes {
        definitions: before.definitions != now.definitions,
        deployment: before.references != now.references,
        saas_file_found: before.references.is_some() || now.references.is_some(),
    })
}

/// Where an older bundle is served: the address with its last path segment replaced by `graphqlsha/<sha>`.
fn bundle_url(server: &Url, sha: &str) -> Url {
    let mut url = server.clone();
    // Only an address without a host has no path; settings refuse those.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().pop().push("graphqlsha").push(sha);
    }
    url
}

/// The part of a bundle that concerns this program.
struct Relevant {
    /// Every `gitlabSync`, as written.
    definitions: BTreeSet<Target>,
    /// The references that the SaaS file deploys, by template and target, in their order. `None` if there is no such file.
    references: Option<Vec<Vec<String>>>,
}

async fn relevant(server: &GraphqlServer, query: &str, saas_file: &str) -> Result<Relevant, TargetsError> {
    let answer: pr_check::ResponseData = server.answer(query).await?;
    let apps = answer.apps_v1.ok_or(TargetsError::NoList("apps_v1"))?;
    let components = apps.into_iter().flat_map(|app| app.code_components.unwrap_or_default());
    let definitions = components.filter_map(|component| component.gitlab_sync).map(|sync| {
        let (from, to) = (sync.source_project, sync.destination_project);
        Target::between((from.group, from.name, from.branch), (to.group, to.name, to.branch))
    });
    let definitions = definitions.collect();

    let files = answer.saas_files.ok_or(TargetsError::NoList("saas_files"))?;
    let mut references = None;
    for file in files.into_iter().filter(|file| file.name == saas_file) {
        let templates = file.resource_templates.unwrap_or_default().into_iter().map(|template| {
            let targets = template.targets.unwrap_or_default();
            targets.into_iter().map(|target| target.ref_).collect()
        });
        references.get_or_insert_with(Vec::new).extend(templates);
    }
    Ok(Relevant { definitions, references })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_older_bundle_is_beside_the_current_one() {
        for (server, bundle) in [
            ("https://q.test/graphql", "https://q.test/graphqlsha/abc"),
            ("https://q.test/a/graphql", "https://q.test/a/graphqlsha/abc"),
            ("https://q.test/a/graphql/", "https://q.test/a/graphqlsha/abc"),
            ("https://q.test:4000", "https://q.test:4000/graphqlsha/abc"),
        ] {
            assert_eq!(bundle_url(&server.parse().unwrap(), "abc").as_str(), bundle);
        }
    }
}
