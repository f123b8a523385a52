//! The GraphQL server: queries and answers. `targets` reads the target list, `pr_check` compares bundles. `file` reads a
//! target list of the same shape from a file, in place of a server.
//!
//! Invariant: an answer is used as a whole or not at all, and so is a file.

pub mod file;
pub mod pr_check;
mod targets;

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::model::target::Targets;
use crate::net::http::{self, Login, RequestError, Retryable};
use crate::retries::{Server, Trouble};
use crate::text::{json, remote_text};

/// The query for the target list, if there is no file.
pub const BUILT_IN_QUERY: &str = include_str!("../queries/gitlab_sync.graphql");
/// All attempts at one query end within this time.
const QUERY_BUDGET: Duration = Duration::from_secs(60);
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest answer, or file, that is accepted, in bytes; 100,000 targets take about 30 MB.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;
/// How many of a server's errors are shown.
const SHOWN_ERRORS: usize = 3;

/// Where the query text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuerySource {
    /// This file. It was readable and not empty when the settings were checked.
    File(PathBuf),
    /// A query that comes with the program.
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
        /// The answer's content type.
        content_type: String,
        /// What is wrong, and where.
        why: String,
    },
    /// The server could not answer the query.
    #[error("the server reports: {0}")]
    Reported(String),
    /// A needed part, such as `data` or `apps_v1`, is absent or null.
    #[error("the answer has no {0}, so it says nothing about the targets")]
    NoList(&'static str),
}

/// What to do if a server refuses the query, or cannot answer it now. Its words tell which, and have no form.
const REFUSED_QUERY: &str = "If the server names a field or the query, it has another schema, or the query in GRAPHQL_QUERY_FILE is \
                             wrong. Otherwise it cannot answer now: the next pass asks again.";
/// Statuses that do not depend on the query.
const NOT_THE_QUERY: [StatusCode; 3] = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];

impl TargetsError {
    /// What to do about it.
    pub fn advice(&self) -> String {
        match self {
            // What it says about a login or an address is not about the query.
            Self::Request(RequestError::Status { status, said, .. })
                if !said.is_empty() && !NOT_THE_QUERY.contains(status) =>
            {
                REFUSED_QUERY.to_owned()
            }
            Self::Request(error) => {
                error.advice("GRAPHQL_SERVER", "GRAPHQL_USERNAME and GRAPHQL_PASSWORD (leave both out for no login)")
            }
            Self::Shape { .. } => {
                "Check GRAPHQL_SERVER: it is the whole address, such as https://HOST/graphql. If it is right, check the \
                 query in GRAPHQL_QUERY_FILE: it must ask for what docs/contract.md shows."
                    .to_owned()
            }
            Self::Reported(_) => REFUSED_QUERY.to_owned(),
            Self::NoList(_) => "Check the query in GRAPHQL_QUERY_FILE, and whether the server has data.".to_owned(),
        }
    }
}

impl Retryable for TargetsError {
    fn retry(&self) -> (bool, Duration) {
        match self {
            Self::Request(error) => error.retry(),
            Self::Shape { .. } | Self::Reported(_) | Self::NoList(_) => (false, Duration::ZERO),
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        let Self::Request(error) = self else { return None };
        Some(error.flaw().of(Server::GraphQl))
    }
}

/// A GraphQL server.
#[derive(Clone)]
pub struct GraphqlServer {
    /// The HTTP client.
    pub client: reqwest::Client,
    /// The GraphQL endpoint.
    pub url: Url,
    /// User name and password, if the server needs them.
    pub login: Option<Login>,
    /// How often a query is sent in all before its failure counts.
    pub attempts: usize,
}

impl GraphqlServer {
    /// Asks for the targets with the given query text.
    ///
    /// # Errors
    /// [`TargetsError`]: nothing is known, so nothing may change.
    pub async fn targets(&self, query: &str) -> Result<Targets, TargetsError> {
        let listed = targets::list(self.answer(query).await?).map_err(TargetsError::NoList)?;
        Ok(listed.validated())
    }

    /// Sends a query and returns the data of the answer.
    ///
    /// # Errors
    /// [`TargetsError`].
    pub async fn answer<T: DeserializeOwned>(&self, query: &str) -> Result<T, TargetsError> {
        http::retrying_at_most(self.attempts, QUERY_BUDGET, async || {
            tokio::time::timeout(ATTEMPT_TIMEOUT, self.ask(query))
                .await
                .unwrap_or(Err(RequestError::Late(ATTEMPT_TIMEOUT).into()))
        })
        .await
    }

    async fn ask<T: DeserializeOwned>(&self, query: &str) -> Result<T, TargetsError> {
        // No `operationName`: the query in an operator's file may be anonymous or have another name.
        let request = Bytes::from(serde_json::json!({ "query": query }).to_string());
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, json.clone()), (ACCEPT, json)]);
        let response = http::post(&self.client, &self.url, self.login.as_ref(), &headers, request).await?;
        // Any other status of success is a part of an answer, or a proxy's.
        if response.status() != StatusCode::OK {
            let (status, said) = (response.status(), String::new());
            return Err(RequestError::Status { status, retry_after: None, said, refuses_login: false }.into());
        }
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .map_or_else(|| "of no content type".to_owned(), |value| remote_text(value.as_bytes()));
        data(&http::body(response, ANSWER_LIMIT_BYTES).await?).map_err(|unusable| match unusable {
            Unusable::Shape(why) => TargetsError::Shape { content_type, why },
            Unusable::Reported(errors) => TargetsError::Reported(errors),
            Unusable::NoData => TargetsError::NoList("data"),
        })
    }
}

/// Why an answer, or a file of its shape, has no data that can be used.
enum Unusable {
    /// It has another shape; what is wrong, and where.
    Shape(String),
    /// It reports these errors. They make the data beside them useless.
    Reported(String),
    /// `data` is absent or null.
    NoData,
}

/// The data of an answer.
fn data<T: DeserializeOwned>(body: &[u8]) -> Result<T, Unusable> {
    let answer: Answer<T> =
        json::from_slice(body).map_err(|error| Unusable::Shape(remote_text(json::why(&error).as_bytes())))?;
    if let Some(Errors(errors)) = answer.errors.filter(|Errors(errors)| !errors.is_empty()) {
        let shown: Vec<_> = errors.iter().map(|error| remote_text(error.message.as_bytes())).collect();
        return Err(Unusable::Reported(shown.join("; ")));
    }
    answer.data.ok_or(Unusable::NoData)
}

/// An answer. Fields that were not requested are dropped while parsing, so memory depends on the targets, not on the
/// answer's size: a component `{},` is 3 bytes long, and would take 50 times that.
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

/// Reads a list and passes each element to `take`.
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
