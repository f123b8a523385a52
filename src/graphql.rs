//! The target list: which projects to synchronise and where to, as the GraphQL server says it (the desired state).
//!
//! Invariant: an answer is used whole or not at all.

pub mod pr_check;

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use graphql_client::GraphQLQuery;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::model::target::{Target, Targets};
use crate::net::http::{self, Login, RequestError, Retryable};
use crate::text::remote_text;
use std::fmt;

/// The query that is sent where the operator's file is absent.
pub const BUILT_IN_QUERY: &str = include_str!("../queries/gitlab_sync.graphql");
/// All attempts at one query end within this time.
const QUERY_BUDGET: Duration = Duration::from_secs(60);
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest answer that is read, in bytes; 100,000 targets take about 30 MB.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;
/// How many of the errors that a server reports are shown.
const SHOWN_ERRORS: usize = 3;
/// The typed response; its query text is only what the response's types are made from.
#[derive(GraphQLQuery)]
#[graphql(
    schema_path = "queries/schema.graphql",
    query_path = "queries/gitlab_sync.graphql",
    response_derives = "Debug"
)]
#[expect(dead_code, reason = "only the types that the derive makes are used")]
struct GitlabSync;

/// Where the query text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuerySource {
    /// This file. It was readable and not empty when the settings were checked.
    File(PathBuf),
    /// The query that comes with the program.
    BuiltIn(&'static str),
}

/// Why there is no target list.
#[derive(Debug, thiserror::Error)]
pub enum TargetsError {
    /// The exchange failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The answer does not have the shape of the query.
    #[error("the answer ({content_type}) is not what the query asks for: {why}")]
    Shape {
        /// What the server calls its answer.
        content_type: String,
        /// Where it stops making sense.
        why: String,
    },
    /// The server could not answer the query.
    #[error("the server reports: {0}")]
    Reported(String),
    /// `data` or `apps_v1` is absent or null.
    #[error("the answer has no {0}, so it says nothing about the targets")]
    NoList(&'static str),
}

impl Retryable for TargetsError {
    fn retry(&self) -> (bool, Duration) {
        match self {
            Self::Request(error) => error.retry(),
            Self::Shape { .. } | Self::Reported(_) | Self::NoList(_) => (false, Duration::ZERO),
        }
    }
}

/// Where the target list comes from.
#[derive(Clone)]
pub struct GraphqlServer {
    /// The HTTP client.
    pub client: reqwest::Client,
    /// The GraphQL endpoint.
    pub url: Url,
    /// User name and password, where the server wants them.
    pub login: Option<Login>,
}

impl GraphqlServer {
    /// Asks for the targets with the given query text.
    ///
    /// # Errors
    /// [`TargetsError`]: nothing is known then, and nothing may change.
    pub async fn targets(&self, query: &str) -> Result<Targets, TargetsError> {
        Ok(Targets::validate(list(self.answer(query).await?)?))
    }

    /// The data that a query is answered with.
    ///
    /// # Errors
    /// [`TargetsError`].
    pub async fn answer<T: DeserializeOwned>(&self, query: &str) -> Result<T, TargetsError> {
        http::retrying(QUERY_BUDGET, async || {
            tokio::time::timeout(ATTEMPT_TIMEOUT, self.ask(query))
                .await
                .unwrap_or(Err(RequestError::Late(ATTEMPT_TIMEOUT).into()))
        })
        .await
    }

    async fn ask<T: DeserializeOwned>(&self, query: &str) -> Result<T, TargetsError> {
        // Without `operationName`: an operator's file may hold an anonymous query, or one of another name.
        let request = Bytes::from(serde_json::json!({ "query": query }).to_string());
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, json.clone()), (ACCEPT, json)]);
        let response = http::post(&self.client, &self.url, self.login.as_ref(), &headers, request).await?;
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .map_or_else(|| "of no content type".to_owned(), |value| remote_text(value.as_bytes()));
        data(&http::body(response, ANSWER_LIMIT_BYTES).await?, content_type)
    }
}

/// The data of an answer; one with errors beside its data is none.
fn data<T: DeserializeOwned>(body: &[u8], content_type: String) -> Result<T, TargetsError> {
    let answer: Answer<T> = serde_json::from_slice(body)
        .map_err(|error| TargetsError::Shape { content_type, why: remote_text(error.to_string().as_bytes()) })?;
    if let Some(Errors(errors)) = answer.errors.filter(|Errors(errors)| !errors.is_empty()) {
        let shown: Vec<_> = errors.iter().map(|error| remote_text(error.message.as_bytes())).collect();
        return Err(TargetsError::Reported(shown.join("; ")));
    }
    answer.data.ok_or(TargetsError::NoList("data"))
}

/// An answer. What is in it and is not asked for is not kept, so that memory goes by what is wanted, not by what a server
/// sends: `{},` is a component of the target list in 3 bytes, and would take 50 times that.
#[derive(Deserialize)]
struct Answer<T> {
    data: Option<T>,
    errors: Option<Errors>,
}

/// The first of the errors.
struct Errors(Vec<Error>);

#[derive(Deserialize)]
struct Error {
    message: String,
}

impl<'de> Deserialize<'de> for Errors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut errors = vec![];
        each(deserializer, |error| {
            if errors.len() < SHOWN_ERRORS {
                errors.push(error);
            }
        })?;
        Ok(Self(errors))
    }
}

/// The data of an answer to our query.
#[derive(Deserialize)]
struct Data {
    apps_v1: Option<Apps>,
}

/// The targets of all apps, as written.
struct Apps(Vec<Target>);

#[derive(Deserialize)]
struct App {
    #[serde(rename = "codeComponents")]
    code_components: Option<CodeComponents>,
}

/// The targets of an app, as written.
struct CodeComponents(Vec<Target>);

impl<'de> Deserialize<'de> for Apps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut targets = vec![];
        each(deserializer, |app: App| {
            if let Some(CodeComponents(of_app)) = app.code_components {
                targets.extend(of_app);
            }
        })?;
        Ok(Self(targets))
    }
}

impl<'de> Deserialize<'de> for CodeComponents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut targets = vec![];
        each(deserializer, |component: gitlab_sync::GitlabSyncAppsV1CodeComponents| {
            targets.extend(component.gitlab_sync.map(|sync| {
                let (from, to) = (sync.source_project, sync.destination_project);
                Target::between((from.group, from.name, from.branch), (to.group, to.name, to.branch))
            }));
        })?;
        Ok(Self(targets))
    }
}

/// Reads a list and hands each element on.
fn each<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D, take: impl FnMut(T)) -> Result<(), D::Error> {
    deserializer.deserialize_seq(Each { take, of: PhantomData })
}

struct Each<F, T> {
    take: F,
    of: PhantomData<T>,
}

impl<'de, F: FnMut(T), T: Deserialize<'de>> Visitor<'de> for Each<F, T> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element()? {
            (self.take)(element);
        }
        Ok(())
    }
}

/// The targets of an answer, as written.
fn list(answer: Data) -> Result<Vec<Target>, TargetsError> {
    answer.apps_v1.map(|Apps(targets)| targets).ok_or(TargetsError::NoList("apps_v1"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::model::key::Destination;
    use crate::model::target::Source;
    use proptest::prelude::*;

    const ANSWER: &str = r#"{"data":{"apps_v1":[{"codeComponents":[{"gitlabSync":{
        "sourceProject":{"name":"p","group":"g/s","branch":"main"},
        "destinationProject":{"name":"q","group":"h","branch":"rel/1"}}},{"gitlabSync":null}]}]},"extensions":{"x":[1]}}"#;

    fn target(from: &str, from_branch: &str, to: (&str, &str, &str)) -> Target {
        Target {
            source: Source { project: from.into(), branch: from_branch.into() },
            destination: Destination { group: to.0.into(), project: to.1.into(), branch: to.2.into() },
        }
    }

    fn parse(json: &str) -> Result<Vec<Target>, TargetsError> {
        data(json.as_bytes(), "application/json".to_owned()).and_then(list)
    }

    #[test]
    fn nulls_inside_the_list_are_no_targets() {
        let found = parse(
            r#"{"data":{"apps_v1":[{"codeComponents":null},{"codeComponents":[{"gitlabSync":null},{"gitlabSync":{
                "sourceProject":{"name":"p","group":"g/s","branch":"main"},
                "destinationProject":{"name":"q","group":"h","branch":"master"}}}]}]},"extensions":{"x":1}}"#,
        );
        assert_eq!(found.unwrap(), [target("g/s/p", "main", ("h", "q", "master"))]);
    }

    #[test]
    fn an_answer_that_says_nothing_is_an_error() {
        for (json, part) in [
            (r#"{"data":null}"#, "data"),
            (r#"{}"#, "data"),
            (r#"{"data":{"apps_v1":null}}"#, "apps_v1"),
            (r#"{"data":{}}"#, "apps_v1"),
        ] {
            assert!(matches!(parse(json), Err(TargetsError::NoList(found)) if found == part), "{json}");
        }
    }

    #[test]
    fn errors_beside_data_spoil_the_answer() {
        let found = parse(r#"{"data":{"apps_v1":[]},"errors":[{"message":"bundle \u001b gone"}]}"#);
        assert!(matches!(found, Err(TargetsError::Reported(text)) if text == "bundle \\u{1b} gone"));
    }

    #[test]
    fn of_many_errors_the_first_ones_are_told() {
        let many = vec![r#"{"message":"broken","path":["a",1]}"#; 100_000].join(",");
        let found = parse(&format!(r#"{{"errors":[{many}]}}"#));
        assert!(matches!(found, Err(TargetsError::Reported(text)) if text == "broken; broken; broken"));
    }

    #[test]
    fn what_is_no_target_takes_no_memory() {
        let nothing = vec!["{}"; 1_000_000].join(",");
        let found =
            parse(&format!(r#"{{"data":{{"apps_v1":[{{"codeComponents":[{nothing}]}},{nothing}]}}}}"#)).unwrap();
        assert_eq!((found.len(), found.capacity()), (0, 0));
    }

    #[test]
    fn an_empty_list_is_a_list() {
        assert_eq!(parse(r#"{"data":{"apps_v1":[]}}"#).unwrap(), []);
    }

    #[test]
    fn what_is_wrong_with_an_answer_is_said_in_few_words() {
        let long = "x".repeat(1 << 20);
        for json in [
            format!(r#"{{"data":{{"apps_v1":"{long}"}}}}"#),
            format!(r#"{{"errors":[{{"message":"{long}"}},{{"message":"{long}"}}]}}"#),
        ] {
            let shown = parse(&json).unwrap_err().to_string();
            assert!(shown.len() < 1_000, "{} bytes", shown.len());
        }
    }

    /// Whether URLs, paths and Git take the name for what it is.
    fn is_harmless(name: &str) -> bool {
        let safe = |segment: &str| !matches!(segment, "" | "." | "..") && !segment.starts_with('-');
        name.split('/').all(safe) && !name.contains(char::is_control)
    }

    proptest! {
        #[test]
        fn damaged_answers_give_errors_or_targets_with_harmless_names(seed: u64) {
            let body = testbed::mutate::mutated(ANSWER.as_bytes(), seed);
            let Ok(list) = data(&body, String::new()).and_then(list) else { return Ok(()) };
            for Target { source, destination } in Targets::validate(list).accepted {
                for name in [&source.project, &source.branch, &destination.group, &destination.project, &destination.branch] {
                    prop_assert!(is_harmless(name), "{name:?}");
                }
            }
        }
    }
}
