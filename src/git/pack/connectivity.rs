//! Whether the history in a pack is complete: everything that its commits, trees and tags refer to is there, and of the kind
//! that they expect.
//!
//! Invariant: if packs pass one after the other, everything that any of their objects reaches is present. This takes no
//! walk through the history: each commit and tree is read once, in the order in which deltas resolve, and no blob is. A
//! submodule's commit belongs to another repository and may be absent.

use gix_hash::{ObjectId, oid};
use gix_object::Kind;
use gix_pack::data::{self, entry::Header};
use gix_pack::index;

use super::error::{PackError, Shortage};
use super::table::Table;
use super::walk::{Content, Walk, damaged};
use super::{HASH, STRUCTURE_LIMIT_BYTES};
use crate::git::marks::{Marks, WRONG_KIND};
use crate::git::references::each_reference;

/// How many ids each thread remembers as present, 21 bytes each. Most of a tree's entries are those of the tree before.
const RECENT_IDS: usize = 1 << 15;

/// Checks that everything that the pack's objects refer to is in it, or in one of the `older` packs, by their indexes, and
/// is of the kind expected.
///
/// It walks the same trees as resolving does, but for those of blobs, so it needs no more memory.
pub(super) fn check(walk: Walk<'_>, index: &index::File, older: &[index::File]) -> Result<(), PackError> {
    let found = &walk.table.found;
    let older: Vec<_> = older.iter().filter_map(Older::open).collect();
    // By place in the index.
    let marks = Marks::none(index.num_objects());
    let require = |id: &[u8; 20], expected: Kind| {
        let id = ObjectId::from(*id);
        if let Some(place) = index.lookup(id) {
            marks[place as usize].required(expected);
            return Ok(());
        }
        match older.iter().find_map(|older| older.kind(&id)) {
            Some(kind) if kind == expected => Ok(()),
            Some(_) => Err(wrong_kind(&id)),
            None => Err(PackError::Incomplete { what: name(expected), id: id.to_string() }),
        }
    };
    let (require, mut recent) = (&require, Recent::new());
    // Each thread has its own copy.
    let inspect = move |object: u32, kind: Kind, content: Content<'_>| {
        let Content::Whole(bytes) = content else {
            return Err(PackError::from(damaged("a streamed object that is not a blob")));
        };
        if bytes.len() as u64 > STRUCTURE_LIMIT_BYTES {
            return Err(Shortage::Object { limit: STRUCTURE_LIMIT_BYTES }.into());
        }
        each_reference(kind, bytes, |expected, id| {
            if !recent.has(id, expected) {
                require(id, expected)?;
                recent.add(id, expected);
            }
            Ok::<_, PackError>(())
        })?;
        Ok(found[object as usize].id)
    };
    walk.visit(|root| found[root as usize].kind != Some(Kind::Blob), inspect)?;
    check_kinds(walk.table, index, &marks)
}

/// Checks the kinds of the pack's own objects, once all that refer to them have been read.
fn check_kinds(table: &Table, index: &index::File, marks: &[Marks]) -> Result<(), PackError> {
    for (place, marks) in (0..).zip(marks).filter(|(_, marks)| marks.is_required()) {
        let object = table.at_offset(index.pack_offset_at_index(place));
        if let Some(kind) = object.and_then(|object| table.found[object as usize].kind) {
            marks.found(kind);
        }
        if !marks.agree() {
            return Err(wrong_kind(index.oid_at_index(place)));
        }
    }
    Ok(())
}

/// The offset of what an entry is a delta on.
fn base_of(data: &data::File, index: &index::File, offset: u64) -> Option<u64> {
    match data.entry(offset).ok()?.header {
        Header::OfsDelta { base_distance } => offset.checked_sub(base_distance),
        Header::RefDelta { base_id } => index.lookup(base_id).map(|place| index.pack_offset_at_index(place)),
        Header::Commit | Header::Tree | Header::Blob | Header::Tag => None,
    }
}

/// A pack that passed before.
struct Older<'a> {
    index: &'a index::File,
    data: data::File,
}

impl<'a> Older<'a> {
    /// Objects of a pack that cannot be read count as missing.
    fn open(index: &'a index::File) -> Option<Self> {
        let data = data::File::at(index.path().with_extension("pack"), HASH).ok()?;
        Some(Self { index, data })
    }

    /// The kind of one of its objects, by the headers of the delta chain.
    fn kind(&self, id: &oid) -> Option<Kind> {
        let mut offset = self.index.pack_offset_at_index(self.index.lookup(id)?);
        // No chain is longer than the pack has objects.
        for _ in 0..self.index.num_objects() {
            match base_of(&self.data, self.index, offset) {
                Some(base) => offset = base,
                None => break,
            }
        }
        self.data.entry(offset).ok()?.header.as_kind()
    }
}

fn wrong_kind(id: &oid) -> PackError {
    PackError::Damaged(format!("its object {id} {WRONG_KIND}; run git fsck on the project in GitLab"))
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Commit => "commit",
        Kind::Tree => "tree",
        Kind::Blob => "blob",
        Kind::Tag => "tag",
    }
}

/// Ids that were recently found present, or noted, as of a kind; by their first bits.
#[derive(Clone)]
struct Recent(Vec<Option<([u8; 20], Kind)>>);

impl Recent {
    fn new() -> Self {
        Self(vec![None; RECENT_IDS])
    }

    fn has(&self, id: &[u8; 20], kind: Kind) -> bool {
        self.0[Self::place(id)].as_ref().is_some_and(|(recent, of)| recent == id && *of == kind)
    }

    fn add(&mut self, id: &[u8; 20], kind: Kind) {
        self.0[Self::place(id)] = Some((*id, kind));
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
        assert!(!recent.has(&a, Kind::Blob) && !recent.has(&b, Kind::Blob));
        recent.add(&a, Kind::Blob);
        assert!(recent.has(&a, Kind::Blob) && !recent.has(&b, Kind::Blob));
        assert!(!recent.has(&a, Kind::Tree), "as another kind it was not seen");
        recent.add(&b, Kind::Blob);
        assert!(!recent.has(&a, Kind::Blob) && recent.has(&b, Kind::Blob));
    }
}
