//! The target list: which projects to synchronise, and where to, as the server says it.
//!
//! Invariant: only targets are kept while parsing.

use graphql_client::GraphQLQuery;
use serde::{Deserialize, Deserializer};

use super::{TargetsError, each};
use crate::model::target::Target;

/// The types of the answer, made from our query.
#[derive(GraphQLQuery)]
#[graphql(
    schema_path = "queries/schema.graphql",
    query_path = "queries/gitlab_sync.graphql",
    response_derives = "Debug"
)]
#[expect(dead_code, reason = "only the types that the derive makes are used")]
struct GitlabSync;

/// The data of an answer to our query.
#[derive(Deserialize)]
pub(super) struct Data {
    apps_v1: Option<Apps>,
}

/// The targets of all apps, as written.
struct Apps {
    targets: Vec<Target>,
    /// How many apps have no list of components.
    unlisted: usize,
}

#[derive(Deserialize)]
struct App {
    #[serde(rename = "codeComponents")]
    code_components: Option<CodeComponents>,
}

/// The targets of an app, as written.
struct CodeComponents(Vec<Target>);

impl<'de> Deserialize<'de> for Apps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut targets, mut unlisted) = (vec![], 0);
        each(deserializer, |app: App| match app.code_components {
            Some(CodeComponents(of_app)) => targets.extend(of_app),
            None => unlisted += 1,
        })?;
        Ok(Self { targets, unlisted })
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

/// The targets of an answer, as written, and how many apps have no list of components.
pub(super) fn list(answer: Data) -> Result<(Vec<Target>, usize), TargetsError> {
    answer.apps_v1.map(|Apps { targets, unlisted }| (targets, unlisted)).ok_or(TargetsError::NoList("apps_v1"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::data;
    use super::*;
    use crate::model::key::Destination;
    use crate::model::target::{Source, Targets};
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
        data(json.as_bytes(), "application/json".to_owned()).and_then(list).map(|(targets, _)| targets)
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
    fn an_app_with_null_for_its_components_is_told_from_one_with_an_empty_list() {
        let answer =
            r#"{"data":{"apps_v1":[{"codeComponents":null},{"codeComponents":[]},{},{"codeComponents":[{}]}]}}"#;
        let (targets, unlisted) = data(answer.as_bytes(), String::new()).and_then(list).unwrap();
        assert_eq!((targets, unlisted), (vec![], 2));
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
            let Ok((list, _)) = data(&body, String::new()).and_then(list) else { return Ok(()) };
            for Target { source, destination } in Targets::validate(list).accepted {
                for name in [&source.project, &source.branch, &destination.group, &destination.project, &destination.branch] {
                    prop_assert!(is_harmless(name), "{name:?}");
                }
            }
        }
    }
}
