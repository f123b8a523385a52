//! Joins packs into one.
//!
//! Invariant: everything that was in the packs is in the new one, verified as if it had come over the wire.

use std::path::{Path, PathBuf};

use super::incoming::{INCOMING_PACK, Incoming};
use super::subset::write_joined;
use super::walk::damaged;
use super::{PackError, ReceiveLimits, ReceivedPack, WalkError, index, truncated, whole_or_nothing};
use crate::files::{Checked, CheckedFile};

/// Joins `packs`, which are in the order in which they came, each with all that its deltas are based on, into one in `dir`.
/// Entries are copied as they are, but for copies of the same object. The packs stay.
///
/// After an error, nothing new is left behind.
pub(crate) fn join(
    packs: &[PathBuf],
    dir: &Path,
    limits: &ReceiveLimits<'_>,
) -> Result<(ReceivedPack, CheckedFile), PackError> {
    let path = dir.join(INCOMING_PACK);
    whole_or_nothing(dir, |pack| {
        let begin = || truncated(&path).map(Checked::new);
        let written = write_joined(packs, limits.memory, limits.interrupt, begin)?;
        let mut incoming = Incoming::reopen(written.finish(path.clone()), limits)?;
        *pack = Some(incoming.place(dir)?);
        let joined = incoming.decode(limits)?.index(dir, limits)?;
        require_all(packs, &joined)?;
        Ok(joined)
    })
}

/// Fails unless all that is in `packs` is in the joined one. An object that was damaged has another id there.
fn require_all(packs: &[PathBuf], joined: &CheckedFile) -> Result<(), PackError> {
    let joined = index::open(&joined.path)?;
    for pack in packs {
        let index = index::open(&pack.with_extension("idx"))?;
        let lost = index.iter().find(|entry| joined.lookup(entry.oid).is_none());
        if let Some(entry) = lost {
            let lost: WalkError = damaged(format!("its object {} is damaged", entry.oid));
            return Err(PackError::Kept(lost.into()));
        }
    }
    Ok(())
}
