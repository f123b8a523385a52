//! Whether the history in a pack is complete: everything that its commits, trees and tags refer to is there, and of the kind
//! that they expect.
//!
//! Invariant: if packs pass one after the other, everything that any of their objects reaches is present. This takes no
//! walk through the history: each commit and tree is read once, in the order in which deltas resolve, and no blob is. A
//! submodule's commit belongs to another repository and may be absent.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use gix_error::{ErrorExt, message};
use gix_hash::{ObjectId, oid};
use gix_object::Kind;
use gix_pack::cache::delta::{Tree, traverse};
use gix_pack::data::{self, entry::Header};
use gix_pack::index;
use gix_utils::progress::Discard;
use parking_lot::Mutex;

use super::error::{PackError, damaged};
use super::{HASH, OBJECT_LIMIT_BYTES, entry_bytes};
use crate::git::marks::{Marks, WRONG_KIND};
use crate::git::references::each_reference;

/// How many ids each thread remembers as present, 21 bytes each. Most of a tree's entries are those of the tree before.
const RECENT_IDS: usize = 1 << 15;

/// Where a pack's commits, trees and tags are, noted while it arrives. Everything else is a blob.
#[derive(Debug, Default)]
pub(super) struct Structure {
    /// By ascending offset.
    known: Vec<Known>,
    /// Deltas that may be such objects, by ascending offset. Only the index tells what their bases are.
    open: Vec<(u64, Base)>,
}

/// A commit, tree or tag: its offset, and in the lowest two bits its kind. The offset decides the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Known(u64);

impl Known {
    fn new(offset: u64, kind: Kind) -> Self {
        Self(offset << 2 | kind as u64)
    }

    fn offset(self) -> u64 {
        self.0 >> 2
    }

    fn kind(self) -> Kind {
        let kinds = [Kind::Commit, Kind::Tree, Kind::Tag];
        kinds.into_iter().find(|kind| *kind as u64 == self.0 & 3).unwrap_or(Kind::Blob)
    }
}

/// The kind of the object at `offset`.
fn kind_at(known: &[Known], offset: u64) -> Kind {
    known.binary_search_by_key(&offset, |known| known.offset()).map_or(Kind::Blob, |at| known[at].kind())
}

#[derive(Debug, Clone, Copy)]
enum Base {
    Offset(u64),
    Id(ObjectId),
}

impl Structure {
    /// Notes the entry at `offset`, which follows all the others.
    pub(super) fn note(&mut self, offset: u64, header: Header) {
        match header {
            Header::Commit => self.known.push(Known::new(offset, Kind::Commit)),
            Header::Tree => self.known.push(Known::new(offset, Kind::Tree)),
            Header::Tag => self.known.push(Known::new(offset, Kind::Tag)),
            Header::Blob => {}
            Header::RefDelta { base_id } => self.open.push((offset, Base::Id(base_id))),
            Header::OfsDelta { base_distance } => {
                // The indexer refuses a base that is outside of the pack.
                let Some(base) = offset.checked_sub(base_distance) else { return };
                let kind = kind_at(&self.known, base);
                if kind != Kind::Blob {
                    self.known.push(Known::new(offset, kind));
                } else if self.open.binary_search_by_key(&base, |(offset, _)| *offset).is_ok() {
                    self.open.push((offset, Base::Offset(base)));
                }
            }
        }
    }

    /// All commits, trees and tags, by ascending offset.
    fn resolve(self, index: &index::File) -> Vec<Known> {
        let Self { mut known, open } = self;
        let place = |offset: u64| open.binary_search_by_key(&offset, |(offset, _)| *offset).ok();
        let mut kinds = vec![None; open.len()];
        let mut waiting = vec![];
        for start in 0..open.len() {
            let mut at = start;
            // Down the chain to a known object; a pack that has an index always leads to one.
            let kind = loop {
                if let Some(kind) = kinds[at] {
                    break kind;
                }
                waiting.push(at);
                let base = match open[at].1 {
                    Base::Offset(offset) => Some(offset),
                    Base::Id(id) => index.lookup(id).map(|entry| index.pack_offset_at_index(entry)),
                };
                match base.map(|base| (base, place(base))) {
                    Some((_, Some(further))) if waiting.len() <= open.len() => at = further,
                    Some((base, _)) => break kind_at(&known, base),
                    None => break Kind::Blob,
                }
            };
            waiting.drain(..).for_each(|passed| kinds[passed] = Some(kind));
        }
        let found = open.iter().zip(kinds).filter_map(|((offset, _), kind)| Some((*offset, kind?)));
        known.extend(found.filter(|(_, kind)| *kind != Kind::Blob).map(|(offset, kind)| Known::new(offset, kind)));
        known.sort_unstable();
        known
    }
}

/// Checks that everything that the pack's objects refer to is in it, or in one of the `older` packs, by their indexes, and
/// is of the kind expected.
pub(super) fn check(
    pack: &Path,
    index: &index::File,
    structure: Structure,
    older: &[index::File],
    threads: usize,
    interrupt: &AtomicBool,
) -> Result<(), PackError> {
    let known = structure.resolve(index);
    let data = data::File::at(pack, HASH).map_err(damaged)?;
    let mut offsets = first_entry(&data, index);
    offsets.retain(|first| known.binary_search_by_key(first, |known| known.offset()).is_err());
    offsets.extend(known.iter().map(|known| known.offset()));
    offsets.sort_unstable();
    let tree = Tree::from_offsets_in_pack(
        pack,
        offsets.into_iter(),
        &|offset| *offset,
        &|id| Ok(index.lookup(id).map(|entry| index.pack_offset_at_index(entry))),
        &mut Discard,
        interrupt,
        HASH,
    )
    .map_err(damaged)?;
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
    let problem = Mutex::new(None);
    let (told, require, mut recent) = (&problem, &require, Recent::new());
    // Each thread has its own copy.
    let inspect = move |_: &mut u64, _: &dyn gix_utils::progress::Progress, context: traverse::Context<'_>| {
        let kind = context.entry.header.as_kind().unwrap_or(Kind::Blob);
        let named = each_reference(kind, context.decompressed, |expected, id| {
            if !recent.has(id, expected) {
                require(id, expected)?;
                recent.add(id, expected);
            }
            Ok(())
        });
        named.map_err(|error| {
            told.lock().get_or_insert(error);
            message("the history is not whole").raise()
        })
    };
    let walked = tree.traverse(
        entry_bytes,
        &data,
        data.pack_end() as u64,
        inspect,
        traverse::Options {
            object_progress: Box::new(Discard),
            size_progress: &mut Discard,
            thread_limit: Some(threads),
            should_interrupt: interrupt,
            object_hash: HASH,
            alloc_limit_bytes: Some(OBJECT_LIMIT_BYTES),
        },
    );
    match (walked, problem.into_inner()) {
        (_, Some(problem)) => Err(problem),
        (Err(error), None) => Err(damaged(error)),
        (Ok(_), None) => check_kinds(index, &known, &marks),
    }
}

/// Checks the kinds of the pack's own objects, once all that refer to them have been read.
fn check_kinds(index: &index::File, known: &[Known], marks: &[Marks]) -> Result<(), PackError> {
    for (place, marks) in (0..).zip(marks).filter(|(_, marks)| marks.is_required()) {
        marks.found(kind_at(known, index.pack_offset_at_index(place)));
        if !marks.agree() {
            return Err(wrong_kind(index.oid_at_index(place)));
        }
    }
    Ok(())
}

/// The offset of the pack's first entry, and of the chain it is based on. gix-pack reads the first offset that it is given
/// from the pack's beginning, whatever that offset is; Git puts a commit there, other programs may not.
fn first_entry(data: &data::File, index: &index::File) -> Vec<u64> {
    let (mut offsets, mut next) = (vec![], Some(data::header::SIZE as u64));
    while let Some(offset) = next.filter(|_| offsets.len() <= index.num_objects() as usize) {
        offsets.push(offset);
        next = base_of(data, index, offset);
    }
    offsets
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
    fn a_known_object_keeps_its_offset_and_its_kind() {
        for kind in [Kind::Commit, Kind::Tree, Kind::Tag] {
            for offset in [0, 12, u64::MAX >> 2] {
                assert_eq!((Known::new(offset, kind).offset(), Known::new(offset, kind).kind()), (offset, kind));
            }
        }
        let known = [Known::new(12, Kind::Tree), Known::new(50, Kind::Commit)];
        assert_eq!([12, 13, 50].map(|offset| kind_at(&known, offset)), [Kind::Tree, Kind::Blob, Kind::Commit]);
    }

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
