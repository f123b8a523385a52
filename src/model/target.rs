//! Targets: which project goes where, and which names are safe.
//!
//! Invariant: the names of an accepted target are safe in a URL, in a path and as a Git branch.

use std::collections::BTreeMap;
use std::fmt;

use super::key::{CommitId, Destination};

/// Longest segment of a branch name, in bytes: Git also creates `<segment>.lock`, and file systems allow 255.
const SEGMENT_LIMIT_BYTES: usize = 250;
/// Longest branch name, in bytes; a longer one would not fit into an object name.
const BRANCH_LIMIT_BYTES: usize = 1_024;

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

/// A source branch's latest commit, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The branch is at this commit.
    At(CommitId),
    /// It could not be read.
    Unknown(Unknown),
}

/// Why a source branch's commit is not known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unknown {
    /// The project can be read, and has no such branch.
    #[error("{} has no branch {}", .0.project, .0.branch)]
    NoBranch(Source),
    /// The project could not be read.
    #[error("cannot read {project}: {why}")]
    Unreadable {
        /// `group/project`.
        project: String,
        /// The error chain.
        why: String,
    },
    /// Not tried, because the server did not answer for other projects.
    #[error("the Git server is unreachable: not tried")]
    NotTried,
}

/// A source and its destination.
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

impl Targets {
    /// Every destination that the list names, of accepted and of refused targets.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let refused = self.refused.iter().map(|refused| &refused.target);
        self.accepted.iter().chain(refused).map(|target| &target.destination)
    }

    /// Removes duplicates, and refuses contradictions and unusable names.
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

/// The problem of several targets with one destination.
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

    /// The first problem that makes the target unusable.
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

/// Why a path of groups and projects is unusable. `restore` also checks names from the bucket with this.
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

/// Why a name cannot be a project's: it is a single segment of a path.
pub fn project_problem(name: &str) -> Option<String> {
    if name.contains('/') { Some("holds a slash, which belongs in the group".to_owned()) } else { path_problem(name) }
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
    } else if branch.parse::<CommitId>().is_ok() {
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

    /// Whether URLs, paths and Git take the name for what it is.
    fn is_harmless(name: &str) -> bool {
        let safe = |segment: &str| !matches!(segment, "" | "." | "..") && !segment.starts_with('-');
        name.split('/').all(safe) && !name.contains(char::is_control)
    }

    proptest! {
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
