//! What projects said a moment ago: a push that follows need not ask for the same again.
//!
//! Invariant: each answer is used once, soon, and only if the branch was then where the push expects it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use url::Url;

use super::advertisement::{Advertisement, Capabilities};
use crate::model::key::CommitId;

/// After that, a project is asked again before a push. A push to a branch that moved meanwhile sends its pack for nothing.
const AGE: Duration = Duration::from_secs(30);
/// No more branches are remembered, of all projects together: about two megabytes.
const MOST_BRANCHES: usize = 10_000;

/// The answers.
#[derive(Default)]
pub(super) struct Recent(Mutex<Answers>);

#[derive(Default)]
struct Answers {
    by_project: HashMap<String, Said>,
    /// The branches of all projects.
    branches: usize,
}

/// What a project said before a push.
pub(super) struct Said {
    /// The branches that it was asked for.
    branches: BTreeMap<String, Branch>,
    pub(super) capabilities: Capabilities,
    /// Where to push to.
    pub(super) to: Url,
}

struct Branch {
    /// `None` if there is no such branch.
    head: Option<CommitId>,
    /// When it was there.
    at: Instant,
}

impl Said {
    pub(super) fn new(advertised: &Advertisement, branches: &BTreeSet<&str>, to: Url, at: Instant) -> Self {
        let branch = |name: &str| (name.to_owned(), Branch { head: advertised.heads.get(name).copied(), at });
        let branches = branches.iter().map(|name| branch(name)).collect();
        Self { branches, capabilities: advertised.capabilities, to }
    }

    /// Where the branch is, if there is one.
    pub(super) fn head(&self, branch: &str) -> Option<CommitId> {
        self.branches.get(branch)?.head
    }

    /// The branches that there are, with their heads.
    pub(super) fn heads(&self) -> BTreeMap<String, CommitId> {
        self.branches.iter().filter_map(|(name, branch)| Some((name.clone(), branch.head?))).collect()
    }

    /// Whether the branch was there a moment before `now`.
    fn has(&self, branch: &str, head: Option<CommitId>, now: Instant) -> bool {
        self.branches.get(branch).is_some_and(|branch| branch.head == head && branch.is_recent(now))
    }

    /// The same, now that the branch was moved.
    pub(super) fn moved(mut self, branch: &str, head: CommitId, at: Instant) -> Self {
        self.branches.insert(branch.to_owned(), Branch { head: Some(head), at });
        self
    }
}

impl Branch {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < AGE
    }
}

impl Recent {
    /// Remembers what the project said. If there is no room, all others are forgotten: most of them no push will follow.
    pub(super) fn note(&self, project: &str, said: Said) {
        let mut answers = self.0.lock();
        answers.remove(project);
        if answers.branches + said.branches.len() > MOST_BRANCHES {
            *answers = Answers::default();
        }
        if said.branches.len() <= MOST_BRANCHES {
            answers.branches += said.branches.len();
            answers.by_project.insert(project.to_owned(), said);
        }
    }

    /// What the project said, if the branch was there a moment before `now`. It is forgotten.
    pub(super) fn take(&self, project: &str, branch: &str, head: Option<CommitId>, now: Instant) -> Option<Said> {
        self.0.lock().remove(project).filter(|said| said.has(branch, head, now))
    }
}

impl Answers {
    fn remove(&mut self, project: &str) -> Option<Said> {
        let said = self.by_project.remove(project)?;
        self.branches -= said.branches.len();
        Some(said)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn id(byte: u8) -> CommitId {
        CommitId::from_bytes([byte; 20])
    }

    /// What a project says that has one of these branches, `main`.
    fn said(branches: &BTreeSet<&str>, at: Instant) -> Said {
        let heads = [("main".to_owned(), id(1))].into();
        let advertised = Advertisement { heads, capabilities: Capabilities::default() };
        Said::new(&advertised, branches, "http://far/p.git/git-receive-pack".parse().unwrap(), at)
    }

    #[test]
    fn an_answer_counts_once_and_for_half_a_minute() {
        let (recent, begun) = (Recent::default(), Instant::now());
        let branches = ["main", "new"].into();
        let take = |branch, head, age| {
            recent.note("p", said(&branches, begun));
            let taken = recent.take("p", branch, head, begun + age).is_some();
            assert!(recent.take("p", branch, head, begun + age).is_none(), "once");
            taken
        };
        let just = AGE - Duration::from_millis(1);
        assert!(take("main", Some(id(1)), just) && take("new", None, just));
        assert!(!take("main", Some(id(1)), AGE) && !take("new", None, AGE), "long ago");
        assert!(!take("main", Some(id(2)), just) && !take("main", None, just) && !take("new", Some(id(1)), just));
        assert!(!take("other", None, just), "it was not asked for");
    }

    #[test]
    fn a_push_tells_only_of_its_own_branch() {
        let (recent, begun) = (Recent::default(), Instant::now());
        let later = begun + AGE;
        for (branch, head, is_known) in [("main", id(2), true), ("new", id(2), false)] {
            recent.note("p", said(&["main", "new"].into(), begun).moved("main", id(2), later));
            let head = Some(head).filter(|_| is_known);
            assert_eq!(recent.take("p", branch, head, later).is_some(), is_known, "{branch}");
        }
    }

    #[test]
    fn so_many_branches_are_remembered() {
        let (recent, begun) = (Recent::default(), Instant::now());
        let names: Vec<String> = (0..MOST_BRANCHES / 4).map(|n| format!("b{n}")).collect();
        let branches: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let note = |project: usize| recent.note(&format!("p{project}"), said(&branches, begun));
        let known = || (0..8).filter(|n| recent.0.lock().by_project.contains_key(&format!("p{n}"))).collect::<Vec<_>>();
        (0..4).chain([3]).for_each(note);
        assert_eq!(known(), [0, 1, 2, 3]);
        note(4);
        assert_eq!(known(), [4]);
        (5..8).for_each(note);
        assert!(recent.take("p5", "b0", None, begun).is_some());
        note(0);
        assert_eq!(known(), [0, 4, 6, 7], "what was taken makes room");
        let many: Vec<String> = (0..=MOST_BRANCHES).map(|n| format!("b{n}")).collect();
        recent.note("p1", said(&many.iter().map(String::as_str).collect(), begun));
        assert_eq!(known(), [0; 0]);
    }
}
