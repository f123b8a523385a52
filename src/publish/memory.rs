//! Remembers why a commit cannot be published, so that a large repository is not fetched in every pass just to fail again.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::PublishError;
use crate::git::pack::{PackError, Shortage};
use crate::model::key::{CommitId, Destination};
use crate::model::target::Source;
use crate::plan::outcome::Rewrite;
use crate::plan::{OnRewrite, Publish};

/// After this long, an incomplete history, or one that takes too much memory, is fetched again: it may be repaired, or packed
/// in another way.
const GAP_KNOWN_FOR: Duration = Duration::from_secs(3_600);

/// Commits that cannot be published, at most one per destination.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<Destination, Entry>>);

#[derive(Debug, Clone)]
struct Entry {
    source: Source,
    commit: CommitId,
    known: Known,
}

#[derive(Debug, Clone)]
enum Known {
    /// The commit does not descend from the published one.
    Rewrite(Rewrite),
    /// The commit's history is incomplete. That is true for every destination of the branch.
    Gap { what: &'static str, id: String, found: Instant },
    /// Its objects take more memory than there is.
    TooLarge { shortage: Shortage, found: Instant },
}

impl Memory {
    /// Forgets all but these destinations.
    pub(super) fn keep_only<'a>(&self, wanted: impl Iterator<Item = &'a Destination>) {
        let wanted: HashSet<_> = wanted.collect();
        self.0.lock().retain(|destination, _| wanted.contains(destination));
    }

    /// The error that publishing this commit would end with again.
    pub(super) fn recall(&self, publish: &Publish, commit: CommitId) -> Option<PublishError> {
        let entries = self.0.lock();
        let of_commit = entries.iter().filter(|(_, it)| it.commit == commit && it.source == publish.target.source);
        of_commit.filter_map(|(destination, it)| it.known.applies_to(publish, destination)).next()
    }

    /// Remembers an error, if the same commit would end with it again.
    pub(super) fn note(&self, publish: &Publish, commit: CommitId, error: &PublishError) {
        let known = match error {
            PublishError::Held(rewrite) => Known::Rewrite(*rewrite),
            PublishError::Pack(PackError::Incomplete { what, id }) => {
                Known::Gap { what, id: id.clone(), found: Instant::now() }
            }
            PublishError::Pack(PackError::Memory(shortage)) if shortage.is_of_the_pack() => {
                Known::TooLarge { shortage: *shortage, found: Instant::now() }
            }
            _ => return,
        };
        let entry = Entry { source: publish.target.source.clone(), commit, known };
        self.0.lock().insert(publish.target.destination.clone(), entry);
    }
}

impl Known {
    /// What is known of `destination` as an error of this publication, if it would end so.
    fn applies_to(&self, publish: &Publish, destination: &Destination) -> Option<PublishError> {
        match self {
            Self::Rewrite(rewrite) => {
                let holds = publish.target.destination == *destination
                    && publish.on_rewrite == OnRewrite::Hold
                    && publish.old_commit() == Some(&rewrite.from.to_string());
                holds.then_some(PublishError::Held(*rewrite))
            }
            Self::Gap { what, id, found } => {
                let incomplete = PackError::Incomplete { what, id: id.clone() };
                (found.elapsed() < GAP_KNOWN_FOR).then(|| incomplete.into())
            }
            Self::TooLarge { shortage, found } => {
                (found.elapsed() < GAP_KNOWN_FOR).then(|| PackError::Memory(*shortage).into())
            }
        }
    }
}
