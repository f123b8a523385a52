//! The target list: which projects to synchronise and where to, as the GraphQL server says it (the desired state).
//!
//! Invariant: an answer is used whole or not at all, and every target that comes out of here has names that are safe in
//! a URL, in a path and as a Git branch.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use graphql_client::GraphQLQuery;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::http::{self, Login, RequestError, Retryable, remote_text};
use crate::key::Destination;

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
/// Longest segment of a branch name, in bytes: Git keeps `<segment>.lock` beside it, and file systems allow 255.
const SEGMENT_LIMIT_BYTES: usize = 250;
/// Longest branch name, in bytes: one that is longer would not fit into the destination's object name either.
const BRANCH_LIMIT_BYTES: usize = 1_024;

/// The typed response; its query text is only what the response's types are made from.
#[derive(GraphQLQuery)]
#[graphql(
    schema_path = "queries/schema.graphql",
    query_path = "queries/gitlab_sync.graphql",
    response_derives = "Debug"
)]
#[expect(dead_code, reason = "only the types that the derive makes are used")]
struct GitlabSync;

/// A branch of a project of the source GitLab.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// `group/project`, with subgroups.
    pub project: String,
    /// The branch.
    pub branch: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.project, self.branch)
    }
}

/// What goes where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Where from.
    pub source: Source,
    /// Where to.
    pub destination: Destination,
}

/// A target that is not acted on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedTarget {
    /// The target as written.
    pub target: Target,
    /// What is wrong with it and what to do.
    pub problem: String,
}

/// The target list after validation. Both parts are sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Targets to act on, each destination once.
    pub accepted: Vec<Target>,
    /// Targets to report.
    pub refused: Vec<RefusedTarget>,
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

impl Targets {
    /// Every destination that the list names, of accepted and of refused targets.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let refused = self.refused.iter().map(|refused| &refused.target);
        self.accepted.iter().chain(refused).map(|target| &target.destination)
    }

    /// Sorts out duplicates, contradictions and names that cannot be used.
    pub fn validate(mut list: Vec<Target>) -> Self {
        list.sort();
        list.dedup();
        // By path: `a` + `b/c` and `a/b` + `c` are the same repository on the far side.
        let mut by_place: BTreeMap<(String, String), Vec<Target>> = BTreeMap::new();
        for target in list {
            let place = (target.destination.path(), target.destination.branch.clone());
            by_place.entry(place).or_default().push(target);
        }
        let mut targets = Self::default();
        for rivals in by_place.into_values() {
            let contradiction = contradiction(&rivals);
            for target in rivals {
                match contradiction.clone().or_else(|| target.problem()) {
                    None => targets.accepted.push(target),
                    Some(problem) => targets.refused.push(RefusedTarget { target, problem }),
                }
            }
        }
        targets.accepted.sort();
        targets.refused.sort();
        targets
    }
}

/// What to say of several targets for one destination.
fn contradiction(rivals: &[Target]) -> Option<String> {
    (rivals.len() > 1).then(|| {
        let sources: Vec<_> = rivals.iter().map(|rival| format!("{:?}", rival.source.to_string())).collect();
        format!(
            "{} targets name this destination, from {}: keep one of them in the target list",
            rivals.len(),
            sources.join(" and ")
        )
    })
}

impl Target {
    /// The target from one (group, project, branch) to another.
    pub fn between(from: (String, String, String), to: (String, String, String)) -> Self {
        Self {
            source: Source { project: format!("{}/{}", from.0, from.1), branch: from.2 },
            destination: Destination { group: to.0, project: to.1, branch: to.2 },
        }
    }

    /// What makes the target unusable; the first thing found.
    fn problem(&self) -> Option<String> {
        let Self { source, destination } = self;
        let problem =
            |what: &str, value: &str, why: String| format!("the {what} {value:?} {why}: correct it in the target list");
        path_problem(&source.project)
            .map(|why| problem("source project", &source.project, why))
            .or_else(|| branch_problem(&source.branch).map(|why| problem("source branch", &source.branch, why)))
            .or_else(|| {
                path_problem(&destination.group).map(|why| problem("destination group", &destination.group, why))
            })
            .or_else(|| {
                project_problem(&destination.project)
                    .map(|why| problem("destination project", &destination.project, why))
            })
            .or_else(|| {
                branch_problem(&destination.branch).map(|why| problem("destination branch", &destination.branch, why))
            })
    }
}

/// Why a path of groups and projects cannot be used. Also what `restore` checks names from a bucket with.
pub fn path_problem(path: &str) -> Option<String> {
    path.split('/').find_map(|segment| {
        let why = match segment {
            "" => "has an empty segment",
            "." | ".." => "has a segment of dots only",
            _ if segment.starts_with('-') => "has a segment that begins with a dash",
            _ if segment.chars().any(char::is_control) => "holds a control character",
            _ => return None,
        };
        Some(why.to_owned())
    })
}

/// Why a name cannot be a project's own: it is one segment of a path, and groups belong into the group.
pub fn project_problem(name: &str) -> Option<String> {
    if name.contains('/') { Some("holds a slash, which belongs into the group".to_owned()) } else { path_problem(name) }
}

/// Why a name cannot be a branch: Git's own rules (git-check-ref-format(1)) and those of the file systems it lives on.
pub fn branch_problem(branch: &str) -> Option<String> {
    let why = if branch.is_empty() {
        "is empty"
    } else if branch.len() > BRANCH_LIMIT_BYTES {
        return Some(format!("is longer than {BRANCH_LIMIT_BYTES} bytes"));
    } else if branch.contains(char::is_control) {
        "holds a control character"
    } else if branch == "HEAD"
        || branch.starts_with('-')
        || !git2::Reference::is_valid_name(&format!("refs/heads/{branch}"))
    {
        "is not a name that Git allows for a branch"
    } else if branch.parse::<crate::key::CommitId>().is_ok() {
        "looks like a commit id, which Git would take it for"
    } else if branch.split('/').any(|segment| segment.len() > SEGMENT_LIMIT_BYTES) {
        return Some(format!("has a segment of more than {SEGMENT_LIMIT_BYTES} bytes"));
    } else {
        return None;
    };
    Some(why.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use proptest::prelude::*;

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
    fn identical_targets_are_one() {
        let one = target("g/p", "main", ("h", "q", "main"));
        let targets = Targets::validate(vec![one.clone(), one.clone()]);
        assert_eq!(targets, Targets { accepted: vec![one], refused: vec![] });
    }

    #[test]
    fn two_sources_for_one_destination_are_both_refused() {
        let (a, b) = (target("g/a", "main", ("h", "q", "main")), target("g/b", "main", ("h", "q", "main")));
        let other = target("g/a", "main", ("h", "q", "other"));
        let targets = Targets::validate(vec![a.clone(), b.clone(), other.clone()]);
        assert_eq!(targets.accepted, [other]);
        assert_eq!(targets.refused.iter().map(|refused| &refused.target).collect::<Vec<_>>(), [&a, &b]);
        assert!(targets.refused[0].problem.contains("g/a@main") && targets.refused[0].problem.contains("g/b@main"));
    }

    #[test]
    fn one_repository_spelled_in_two_ways_is_a_contradiction() {
        let (a, b) = (target("g/a", "main", ("h/i", "q", "main")), target("g/a", "main", ("h", "i/q", "main")));
        assert_eq!(Targets::validate(vec![a, b]).refused.len(), 2);
    }

    #[test]
    fn unusable_names_are_refused_and_the_rest_goes_on() {
        let good = target("g/p", "feature/é", ("h/i", "q", "main"));
        for bad in ["", ".", "..", "a//b", "/a", "-a", "a/-b", "a/../b", "a\nb", "a\0b", "a\u{7f}"] {
            for broken in [
                target(&format!("{bad}/p"), "main", ("h", "q", "x")),
                target("g/p", "main", (bad, "q", "x")),
                target("g/p", "main", ("h", bad, "x")),
            ] {
                let targets = Targets::validate(vec![broken.clone(), good.clone()]);
                assert_eq!(targets.accepted, std::slice::from_ref(&good), "{broken:?}");
                assert_eq!(targets.refused.len(), 1, "{broken:?}");
            }
        }
    }

    #[test]
    fn branches_follow_git_s_rules() {
        let long = "x".repeat(251);
        for bad in [
            "",
            "-x",
            "HEAD",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.",
            "@{",
            "a\nb",
            "0123456789abcdef0123456789abcdef01234567",
            &long,
        ] {
            assert!(branch_problem(bad).is_some(), "{bad:?}");
        }
        for good in ["main", "rel/1", "feature/ünï", "a.b", "v1-rc", "a@b", "a{b}", "日本"] {
            assert_eq!(branch_problem(good), None, "{good:?}");
        }
    }

    const ANSWER: &str = r#"{"data":{"apps_v1":[{"codeComponents":[{"gitlabSync":{
        "sourceProject":{"name":"p","group":"g/s","branch":"main"},
        "destinationProject":{"name":"q","group":"h","branch":"rel/1"}}},{"gitlabSync":null}]}]},"extensions":{"x":[1]}}"#;

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

        #[test]
        fn arbitrary_names_are_refused_or_harmless(name in "[a.\\-/@\\PC\n]{0,8}") {
            let targets = Targets::validate(vec![target(&name, &name, (&name, &name, &name))]);
            prop_assert!(targets.accepted.is_empty() || is_harmless(&name), "{name:?}");
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(names in proptest::collection::vec("[ab]", 0..6), seed: u64) {
            let mut list: Vec<_> = names.iter().enumerate().map(|(i, name)| target(&format!("g/{}", i % 2), "main", ("h", name, "main"))).collect();
            let sorted = Targets::validate(list.clone());
            let turn = usize::try_from(seed % 7).unwrap() % list.len().max(1);
            list.rotate_left(turn);
            prop_assert_eq!(Targets::validate(list), sorted);
        }
    }
}
