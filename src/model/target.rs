//! Targets: which project goes where, and which names are safe.
//!
//! Invariant: the names of an accepted target are safe in a URL, in a path and as a Git branch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use super::key::{CommitId, Destination, folded_path};

/// Longest segment of a branch name, in bytes: Git also creates `<segment>.lock`, and file systems allow 255.
const SEGMENT_LIMIT_BYTES: usize = 250;
/// Longest branch name and longest path, in bytes; a longer one would not fit into an object name. Of a refused target no
/// more than this is kept of each name.
const NAME_LIMIT_BYTES: usize = 1_024;
/// How much of a name a problem's text quotes, in bytes.
const QUOTED_BYTES: usize = 200;
/// How many of the targets that contradict each other are named.
const SHOWN_RIVALS: usize = 3;

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

/// Where a branch of the far side is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FarHead {
    /// At this commit.
    At(CommitId),
    /// There is no such branch.
    Absent,
    /// No such project is visible to the user, and nobody was asked to make it.
    NoProject,
    /// It could not be read.
    Unknown(FarUnknown),
}

/// Why it is not known where a branch of the far side is. Each message follows the destination's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum FarUnknown {
    /// The far side does not accept the login.
    #[error("the far GitLab refuses a push: {0}")]
    LoginRefused(String),
    /// The far side shows no such project to the user, and did not make it.
    #[error("the far GitLab shows the user no such project, and did not create it in the group {group}: {why}")]
    NoProject {
        /// The project's group, with the groups above it.
        group: String,
        /// What it answered.
        why: String,
    },
    /// The user may not push to the project.
    #[error("the far GitLab refuses a push: {0}")]
    Refused(String),
    /// The far side did not answer, or not as Git does.
    #[error("cannot read the far GitLab's branches: {0}")]
    Unreadable(String),
    /// Not tried, because the server did not answer for other projects.
    #[error("the far GitLab is unreachable: not tried")]
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
    /// The target as written, except that names that are too long are cut.
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
    /// How many apps of the list have null for their components: those without any, and those whose components a server
    /// could not read without saying so.
    pub unlisted_apps: usize,
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
        // There can be very many targets, and rivals are few: only those are put together.
        let hasher = RandomState::new();
        let places: Vec<u64> = list.iter().map(|target| hasher.hash_one(place(&target.destination))).collect();
        let mut counts: HashMap<u64, usize> = HashMap::new();
        places.iter().for_each(|place| *counts.entry(*place).or_default() += 1);
        let (mut targets, mut rivals) = (Self::default(), BTreeMap::<_, Vec<Target>>::new());
        for (target, hash) in list.into_iter().zip(places) {
            match counts.get(&hash) {
                Some(1) => targets.add(target, None),
                _ => rivals.entry(place(&target.destination)).or_default().push(target),
            }
        }
        for rivals in rivals.into_values() {
            let contradiction = contradiction(&rivals);
            rivals.into_iter().for_each(|target| targets.add(target, contradiction.clone()));
        }
        targets.accepted.sort();
        targets.refused.sort();
        targets
    }

    /// Adds a target, if nothing is wrong with it.
    fn add(&mut self, target: Target, contradiction: Option<String>) {
        match contradiction.or_else(|| target.problem()) {
            None => self.accepted.push(target),
            Some(problem) => self.refused.push(RefusedTarget { target: target.with_short_names(), problem }),
        }
    }
}

/// A repository and a branch of it. By path: `a` + `b/c` and `a/b` + `c` are the same repository on the far side. Case
/// matters in branches.
fn place(destination: &Destination) -> (String, String) {
    (folded_path(&destination.path()), destination.branch.clone())
}

/// The problem of several targets with one destination.
fn contradiction(rivals: &[Target]) -> Option<String> {
    let [first, _, ..] = rivals else { return None };
    let alike = rivals.iter().all(|rival| rival.destination.path() == first.destination.path());
    let named: BTreeSet<_> = rivals.iter().take(SHOWN_RIVALS).map(|rival| rival.named(alike)).collect();
    let mut named = named.into_iter().collect::<Vec<_>>().join(" and ");
    if let Some(more @ 1..) = rivals.len().checked_sub(SHOWN_RIVALS) {
        named += &format!(" and {more} more");
    }
    let count = rivals.len();
    Some(if alike {
        format!("{count} targets name this destination, from {named}: keep one of them in the target list")
    } else {
        format!(
            "{count} targets name this destination, because GitLab ignores case in paths, {named}: keep one of them in \
             the target list"
        )
    })
}

/// The beginning of a name, at most so many bytes, marked if something is missing.
fn cut(name: &str, limit_bytes: usize) -> String {
    if name.len() <= limit_bytes {
        return name.to_owned();
    }
    let at = (0..=limit_bytes).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
    format!("{}…", &name[..at])
}

impl Target {
    /// The target from one (group, project, branch) to another.
    pub fn between(from: (String, String, String), to: (String, String, String)) -> Self {
        Self {
            // Exactly as long as it needs to be, because there can be very many.
            source: Source { project: [&*from.0, "/", &*from.1].concat(), branch: from.2 },
            destination: Destination { group: to.0, project: to.1, branch: to.2 },
        }
    }

    /// A rival as a contradiction shows it.
    fn named(&self, by_source_alone: bool) -> String {
        let Self { source, destination } = self;
        let source = cut(&source.to_string(), QUOTED_BYTES);
        if by_source_alone {
            format!("{source:?}")
        } else {
            format!("{source:?} to {:?}", cut(&destination.path(), QUOTED_BYTES))
        }
    }

    /// The target with names that take little memory, of which many can be shown.
    fn with_short_names(mut self) -> Self {
        let Self { source, destination } = &mut self;
        let names = [&mut source.project, &mut source.branch, &mut destination.group, &mut destination.project];
        for name in names.into_iter().chain([&mut destination.branch]) {
            *name = cut(name, NAME_LIMIT_BYTES);
        }
        self
    }

    /// The first problem that makes the target unusable.
    fn problem(&self) -> Option<String> {
        let Self { source, destination } = self;
        let problem = |what: &str, value: &str, why: String| {
            format!("the {what} {:?} {why}: correct it in the target list", cut(value, QUOTED_BYTES))
        };
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
    if path.len() > NAME_LIMIT_BYTES {
        return Some(format!("is longer than {NAME_LIMIT_BYTES} bytes"));
    }
    path.split('/').find_map(|segment| {
        let why = match segment {
            "" => "has an empty segment",
            "." | ".." => "has a segment of dots only",
            _ if segment.starts_with('-') => "has a segment that begins with a dash",
            _ if segment.chars().any(char::is_control) => "holds a control character",
            _ if segment.trim() != segment => "has a segment that begins or ends with a space",
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
    } else if branch.len() > NAME_LIMIT_BYTES {
        return Some(format!("is longer than {NAME_LIMIT_BYTES} bytes"));
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
        assert_eq!(targets, Targets { accepted: vec![one], ..Targets::default() });
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
    fn destinations_that_differ_only_in_the_case_of_their_path_are_rivals() {
        let (a, b) = (target("g/a", "main", ("h", "q", "main")), target("g/b", "main", ("H", "Q", "main")));
        let branch = target("g/c", "main", ("h", "q", "Main"));
        let targets = Targets::validate(vec![a.clone(), b.clone(), branch.clone()]);
        assert_eq!(targets.accepted, [branch], "Git tells branches by case");
        assert_eq!(targets.refused.len(), 2);
        let problem = &targets.refused[0].problem;
        for part in ["GitLab ignores case", r#""g/a@main" to "h/q""#, r#""g/b@main" to "H/Q""#] {
            assert!(problem.contains(part), "{problem}");
        }
        // One source alone changes nothing: two objects would replace each other on the far side.
        let twin = Target { source: a.source.clone(), ..b };
        assert_eq!(Targets::validate(vec![a, twin]).refused.len(), 2);
    }

    #[test]
    fn of_many_rivals_three_are_named() {
        let rivals = (0..1_000).map(|n| target(&format!("g/{n:04}"), "main", ("h", "q", "main"))).collect();
        let targets = Targets::validate(rivals);
        assert_eq!(targets.refused.len(), 1_000);
        assert_eq!(
            targets.refused[999].problem,
            "1000 targets name this destination, from \"g/0000@main\" and \"g/0001@main\" and \"g/0002@main\" and 997 \
             more: keep one of them in the target list"
        );
    }

    #[test]
    fn names_of_any_length_make_short_texts() {
        let long = "ü".repeat(1 << 20);
        for broken in [
            target(&format!("{long}/p"), "main", ("h", "q", "main")),
            target("g/p", &long, ("h", "q", "main")),
            target("g/p", "main", (&long, "q", "main")),
            target("g/p", "main", ("h", &long, "main")),
            target("g/p", "main", ("h", "q", &long)),
        ] {
            let rival =
                Target { source: Source { project: "g/rival".into(), branch: "main".into() }, ..broken.clone() };
            for list in [vec![broken.clone()], vec![broken, rival]] {
                let targets = Targets::validate(list.clone());
                assert_eq!((targets.accepted.len(), targets.refused.len()), (0, list.len()));
                for RefusedTarget { target, problem } in targets.refused {
                    assert!(problem.len() < 1_500, "{} bytes", problem.len());
                    assert!(format!("{target:?}").len() < 3_000, "{target:?}");
                }
            }
        }
        assert_eq!(path_problem(&"h".repeat(NAME_LIMIT_BYTES)), None);
        assert!(path_problem(&"h".repeat(NAME_LIMIT_BYTES + 1)).is_some());
    }

    #[test]
    fn unusable_names_are_refused_and_the_rest_goes_on() {
        let good = target("g/p", "feature/é", ("h/i", "q", "main"));
        for bad in ["", ".", "..", "a//b", "/a", "-a", "a/-b", "a/../b", "a\nb", "a\0b", "a\u{7f}", " a", "a /b"] {
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
