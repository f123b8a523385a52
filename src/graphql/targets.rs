//! The target list: which projects to synchronise, and where to, as a server or a file says it.
//!
//! Invariant: only targets are kept while parsing.

use graphql_client::GraphQLQuery;
use serde::{Deserialize, Deserializer};

use self::gitlab_sync::GitlabSyncAppsV1CodeComponentsGitlabSync as Entry;
use super::each;
use crate::model::target::{Target, Targets};

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
    apps_v1: Option<Listed>,
}

/// The targets of all apps, as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    targets: Vec<Target>,
    /// How many apps have no list of components.
    unlisted: usize,
    /// The first place where a field is absent, instead of null.
    pub(super) absent: Option<String>,
}

impl Listed {
    pub(super) fn validated(self) -> Targets {
        Targets { unlisted_apps: self.unlisted, ..Targets::validate(self.targets) }
    }
}

/// A field that may be null. It may be absent as well, in an answer; see [`Listed::absent`].
#[derive(Default)]
enum Field<T> {
    #[default]
    Absent,
    Null,
    Given(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Null, Self::Given))
    }
}

#[derive(Deserialize)]
struct App {
    #[serde(rename = "codeComponents", default = "Field::default")]
    code_components: Field<CodeComponents>,
}

/// The targets of an app, as written.
struct CodeComponents {
    targets: Vec<Target>,
    /// The number of the first component without `gitlabSync`, counted from 1.
    absent: Option<usize>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(rename = "gitlabSync", default = "Field::default")]
    gitlab_sync: Field<Entry>,
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut all, mut number) = (Self { targets: vec![], unlisted: 0, absent: None }, 0);
        each(deserializer, |app: App| {
            number += 1;
            match app.code_components {
                Field::Given(CodeComponents { targets, absent }) => {
                    all.targets.extend(targets);
                    if let (None, Some(component)) = (&all.absent, absent) {
                        all.absent = Some(format!("component {component} of app {number} has no gitlabSync"));
                    }
                }
                Field::Null => all.unlisted += 1,
                Field::Absent => {
                    all.unlisted += 1;
                    all.absent.get_or_insert_with(|| format!("app {number} has no codeComponents"));
                }
            }
        })?;
        Ok(all)
    }
}

impl<'de> Deserialize<'de> for CodeComponents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut all, mut number) = (Self { targets: vec![], absent: None }, 0);
        each(deserializer, |component: Component| {
            number += 1;
            match component.gitlab_sync {
                Field::Given(Entry { source_project: from, destination_project: to }) => {
                    all.targets
                        .push(Target::between((from.group, from.name, from.branch), (to.group, to.name, to.branch)));
                }
                Field::Null => {}
                Field::Absent => all.absent = all.absent.or(Some(number)),
            }
        })?;
        Ok(all)
    }
}

/// The targets of an answer, as written. An error names the part that is absent or null.
pub(super) fn list(answer: Data) -> Result<Listed, &'static str> {
    answer.apps_v1.ok_or("apps_v1")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::super::{Unusable, data};
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

    fn listed(json: &str) -> Result<Listed, String> {
        let data = data(json.as_bytes()).map_err(|unusable| match unusable {
            Unusable::Shape(why) | Unusable::Reported(why) => why,
            Unusable::NoData => "data".to_owned(),
        });
        list(data?).map_err(str::to_owned)
    }

    fn parse(json: &str) -> Result<Vec<Target>, String> {
        listed(json).map(|listed| listed.targets)
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
        let Listed { targets, unlisted, absent } = listed(answer).unwrap();
        assert_eq!((targets, unlisted), (vec![], 2));
        assert_eq!(absent.as_deref(), Some("app 3 has no codeComponents"), "the first one");
    }

    #[test]
    fn what_is_absent_is_told_from_what_is_null() {
        for (apps, expected) in [
            (r#"[{"codeComponents":null},{"codeComponents":[{"gitlabSync":null}]}]"#, None),
            (r#"[{"codeComponents":[]},{"codecomponents":[]}]"#, Some("app 2 has no codeComponents")),
            (
                r#"[{"codeComponents":[{"gitlabSync":null},{"gitlabsync":null}]},{}]"#,
                Some("component 2 of app 1 has no gitlabSync"),
            ),
        ] {
            let listed = listed(&format!(r#"{{"data":{{"apps_v1":{apps}}}}}"#)).unwrap();
            assert_eq!(listed.absent.as_deref(), expected, "{apps}");
        }
    }

    #[test]
    fn an_answer_that_says_nothing_is_an_error() {
        for (json, part) in [
            (r#"{"data":null}"#, "data"),
            (r#"{}"#, "data"),
            (r#"{"data":{"apps_v1":null}}"#, "apps_v1"),
            (r#"{"data":{}}"#, "apps_v1"),
        ] {
            assert_eq!(parse(json), Err(part.to_owned()), "{json}");
        }
    }

    #[test]
    fn errors_beside_data_spoil_the_answer() {
        let found = parse(r#"{"data":{"apps_v1":[]},"errors":[{"message":"bundle \u001b gone"}]}"#);
        assert_eq!(found, Err("bundle \\u{1b} gone".to_owned()));
    }

    #[test]
    fn of_many_errors_the_first_ones_are_told() {
        let many = vec![r#"{"message":"broken","path":["a",1]}"#; 100_000].join(",");
        let found = parse(&format!(r#"{{"errors":[{many}]}}"#));
        assert_eq!(found, Err("broken; broken; broken".to_owned()));
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
            let shown = parse(&json).unwrap_err();
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
            let Ok(Ok(listed)) = data(&body).map(list) else { return Ok(()) };
            for Target { source, destination } in listed.validated().accepted {
                for name in [&source.project, &source.branch, &destination.group, &destination.project, &destination.branch] {
                    prop_assert!(is_harmless(name), "{name:?}");
                }
            }
        }
    }
}
