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
const AGE: Duration = Duration::from_secs(10);
/// No more projects are remembered, each with the branches it was asked for: below a megabyte with usual names.
const MOST_PROJECTS: usize = 1_000;

/// The answers by project.
#[derive(Default)]
pub(super) struct Recent(Mutex<HashMap<String, Said>>);

/// What a project said before a push.
pub(super) struct Said {
    /// Where the branches are that it was asked for.
    heads: BTreeMap<String, Option<CommitId>>,
    pub(super) capabilities: Capabilities,
    /// Where to push to.
    pub(super) to: Url,
    at: Instant,
}

impl Said {
    pub(super) fn now(advertised: &Advertisement, branches: &BTreeSet<&str>, to: Url) -> Self {
        let head = |branch: &str| (branch.to_owned(), advertised.heads.get(branch).copied());
        let heads = branches.iter().map(|branch| head(branch)).collect();
        Self { heads, capabilities: advertised.capabilities, to, at: Instant::now() }
    }

    /// Where the branch is, if there is one.
    pub(super) fn head(&self, branch: &str) -> Option<CommitId> {
        self.heads.get(branch).copied().flatten()
    }

    /// The branches that there are, with their heads.
    pub(super) fn heads(&self) -> BTreeMap<String, CommitId> {
        self.heads.iter().filter_map(|(branch, head)| Some((branch.clone(), (*head)?))).collect()
    }

    /// Whether it was asked for the branch, which was there then.
    fn has(&self, branch: &str, head: Option<CommitId>) -> bool {
        self.heads.get(branch) == Some(&head)
    }

    /// The same, now that the branch was moved.
    pub(super) fn moved(mut self, branch: &str, head: CommitId) -> Self {
        self.heads.insert(branch.to_owned(), Some(head));
        Self { at: Instant::now(), ..self }
    }
}

impl Recent {
    pub(super) fn note(&self, project: &str, said: Said) {
        let mut projects = self.0.lock();
        if projects.len() >= MOST_PROJECTS {
            projects.retain(|_, said| said.at.elapsed() < AGE);
        }
        if projects.len() < MOST_PROJECTS {
            projects.insert(project.to_owned(), said);
        }
    }

    /// What the project said, if that is recent and the branch was there then. It is forgotten.
    pub(super) fn take(&self, project: &str, branch: &str, head: Option<CommitId>) -> Option<Said> {
        self.0.lock().remove(project).filter(|said| said.at.elapsed() < AGE && said.has(branch, head))
    }
}
