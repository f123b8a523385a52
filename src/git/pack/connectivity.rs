//! Whether the history in a pack is complete: everything that its commits, trees and tags refer to is there.
//!
//! Invariant: if packs pass one after the other, everything that any of their objects reaches is present. This takes no
//! walk through the history: each commit and tree is read once, in the order in which deltas resolve, and no blob is. A
//! submodule's commit belongs to another repository and may be absent.

use gix_hash::ObjectId;
use gix_object::Kind;
use gix_pack::index;

use super::STRUCTURE_LIMIT_BYTES;
use super::error::{PackError, Shortage};
use super::walk::{Content, Walk, damaged};
use crate::git::references::each_reference;

/// How many ids each thread remembers as present, 21 bytes each. Most of a tree's entries are those of the tree before.
const RECENT_IDS: usize = 1 << 15;

/// Checks that everything that the pack's objects refer to is in it, or in one of the `older` packs, by their indexes.
///
/// It walks the same trees as resolving does, but for those of blobs, so it needs no more memory.
pub(super) fn check(walk: Walk<'_>, index: &index::File, older: &[index::File]) -> Result<(), PackError> {
    let found = &walk.table.found;
    let is_present = |id: &[u8; 20]| {
        let id = ObjectId::from(*id);
        index.lookup(id).is_some() || older.iter().any(|older| older.lookup(id).is_some())
    };
    let (is_present, mut recent) = (&is_present, Recent::new());
    // Each thread has its own copy.
    let inspect = move |object: u32, kind: Kind, content: Content<'_>| {
        let Content::Whole(bytes) = content else {
            return Err(PackError::from(damaged("a streamed object that is no blob")));
        };
        if bytes.len() as u64 > STRUCTURE_LIMIT_BYTES {
            return Err(Shortage::Object { limit: STRUCTURE_LIMIT_BYTES }.into());
        }
        each_reference(kind, bytes, |expected, id| {
            if recent.has(id) {
                return Ok(());
            }
            if !is_present(id) {
                return Err(PackError::Incomplete { what: name(expected), id: ObjectId::from(*id).to_string() });
            }
            recent.add(id);
            Ok(())
        })?;
        Ok(found[object as usize].id)
    };
    walk.visit(|root| found[root as usize].kind != Some(Kind::Blob), inspect)?;
    Ok(())
}

fn name(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Commit) => "commit",
        Some(Kind::Tree) => "tree",
        Some(Kind::Blob) => "blob",
        Some(Kind::Tag) | None => "tagged object",
    }
}

/// Ids that were recently found present, by their first bits.
#[derive(Clone)]
struct Recent(Vec<Option<[u8; 20]>>);

impl Recent {
    fn new() -> Self {
        Self(vec![None; RECENT_IDS])
    }

    fn has(&self, id: &[u8; 20]) -> bool {
        self.0[Self::place(id)].as_ref() == Some(id)
    }

    fn add(&mut self, id: &[u8; 20]) {
        self.0[Self::place(id)] = Some(*id);
    }

    fn place(id: &[u8; 20]) -> usize {
        usize::from(u16::from_le_bytes([id[0], id[1]])) % RECENT_IDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_added_is_remembered() {
        let mut recent = Recent::new();
        let [a, b] = [[0; 20], {
            let mut id = [0; 20];
            id[19] = 1;
            id
        }];
        assert!(!recent.has(&a) && !recent.has(&b));
        recent.add(&a);
        assert!(recent.has(&a) && !recent.has(&b));
        recent.add(&b);
        assert!(!recent.has(&a) && recent.has(&b));
    }
}
