//! Where far branches were seen, so that a quiet pass asks for none of them.
//!
//! Invariant: only what this process saw itself counts, and only for a while: somebody else may push too.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Deliverer, PassError};
use crate::git::heads::{self, FarSide};
use crate::model::key::{CommitId, Destination};
use crate::model::target::FarHead;
use crate::plan::delivery::Candidate;

/// How long a far branch counts as being where it was seen.
const SEEN_FOR: Duration = Duration::from_secs(3_600);

/// Far branches, with where and when they were last seen.
#[derive(Debug, Default)]
pub(super) struct KnownHeads(Mutex<BTreeMap<Destination, (CommitId, Instant)>>);

impl KnownHeads {
    pub(super) fn saw(&self, destination: &Destination, commit: CommitId) {
        self.0.lock().insert(destination.clone(), (commit, Instant::now()));
    }

    pub(super) fn forget(&self, destination: &Destination) {
        self.0.lock().remove(destination);
    }

    /// Forgets where all of them were.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Whether the branch was seen at this commit lately.
    fn is_at(&self, destination: &Destination, commit: CommitId) -> bool {
        let known = self.0.lock();
        known.get(destination).is_some_and(|(at, seen)| *at == commit && seen.elapsed() < SEEN_FOR)
    }

    /// Forgets all other destinations.
    fn keep_only(&self, candidates: &[Candidate<'_>]) {
        // Both are sorted by destination.
        let mut wanted = candidates.iter().map(|it| &it.object.name.destination).peekable();
        self.0.lock().retain(|destination, _| {
            while wanted.next_if(|it| *it < destination).is_some() {}
            wanted.peek() == Some(&destination)
        });
    }
}

impl Deliverer {
    /// Where the candidates' branches are. A branch that was seen at its object's commit lately is not asked for.
    pub(super) async fn far_heads(
        &self,
        side: FarSide<'_>,
        candidates: &[Candidate<'_>],
    ) -> Result<BTreeMap<Destination, FarHead>, PassError> {
        self.far.keep_only(candidates);
        let usable = candidates.iter().filter_map(|it| Some((&it.object.name.destination, *it.commit.as_ref().ok()?)));
        let (known, unknown): (Vec<_>, Vec<_>) =
            usable.partition(|(destination, commit)| self.far.is_at(destination, *commit));
        let unknown = unknown.into_iter().map(|(destination, _)| destination).collect();
        let mut far = heads::far_heads(side, &unknown, self.clients.gitlab.probes(self.status.pulse())).await?;
        for (destination, head) in &far {
            if let FarHead::At(commit) = head {
                self.far.saw(destination, *commit);
            }
        }
        far.extend(known.into_iter().map(|(destination, commit)| (destination.clone(), FarHead::At(commit))));
        Ok(far)
    }
}
