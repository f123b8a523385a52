//! Whether the history in a pack is complete: everything that its commits, trees and tags refer to is there.
//!
//! Invariant: if packs pass one after the other, everything that any of their objects reaches is present. This takes no
//! walk through the history: each commit and tree is read once, in the order in which deltas resolve, and no blob is. A
//! submodule's commit belongs to another repository and may be absent.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use gix_error::{ErrorExt, message};
use gix_hash::ObjectId;
use gix_object::Kind;
use gix_pack::cache::delta::{Tree, traverse};
use gix_pack::data::{self, entry::Header};
use gix_pack::index;
use gix_utils::progress::Discard;
use parking_lot::Mutex;

use super::error::{PackError, damaged};
use super::{HASH, OBJECT_LIMIT_BYTES, entry_bytes};
use crate::git::references::each_reference;

/// How many ids each thread remembers as present, 21 bytes each. Most of a tree's entries are those of the tree before.
const RECENT_IDS: usize = 1 << 15;

/// Where a pack's commits, trees and tags are, noted while it arrives.
#[derive(Debug, Default)]
pub(super) struct Structure {
    /// Their offsets, ascending.
    known: Vec<u64>,
    /// Deltas that may be such objects, by ascending offset. Only the index tells what their bases are.
    open: Vec<(u64, Base)>,
}

#[derive(Debug, Clone, Copy)]
enum Base {
    Offset(u64),
    Id(ObjectId),
}

/// What is known of an open delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unknown,
    Structural,
    Blob,
}

impl Structure {
    /// Notes the entry at `offset`, which follows all the others.
    pub(super) fn note(&mut self, offset: u64, header: Header) {
        match header {
            Header::Commit | Header::Tree | Header::Tag => self.known.push(offset),
            Header::Blob => {}
            Header::RefDelta { base_id } => self.open.push((offset, Base::Id(base_id))),
            Header::OfsDelta { base_distance } => {
                // The indexer refuses a base that is outside of the pack.
                let Some(base) = offset.checked_sub(base_distance) else { return };
                if self.known.binary_search(&base).is_ok() {
                    self.known.push(offset);
                } else if self.open.binary_search_by_key(&base, |(offset, _)| *offset).is_ok() {
                    self.open.push((offset, Base::Offset(base)));
                }
            }
        }
    }

    /// The offsets of all commits, trees and tags, ascending.
    fn offsets(self, index: &index::File) -> Vec<u64> {
        let Self { mut known, open } = self;
        if open.is_empty() {
            return known;
        }
        let place = |offset: u64| open.binary_search_by_key(&offset, |(offset, _)| *offset).ok();
        let mut verdicts = vec![Verdict::Unknown; open.len()];
        let mut waiting = vec![];
        for start in 0..open.len() {
            let mut at = start;
            // Down the chain to a known object; a pack that has an index always leads to one.
            let verdict = loop {
                if verdicts[at] != Verdict::Unknown {
                    break verdicts[at];
                }
                waiting.push(at);
                let base = match open[at].1 {
                    Base::Offset(offset) => Some(offset),
                    Base::Id(id) => index.lookup(id).map(|entry| index.pack_offset_at_index(entry)),
                };
                match base.map(|base| (base, place(base))) {
                    Some((_, Some(further))) if waiting.len() <= open.len() => at = further,
                    Some((base, _)) if known.binary_search(&base).is_ok() => break Verdict::Structural,
                    Some(_) | None => break Verdict::Blob,
                }
            };
            waiting.drain(..).for_each(|passed| verdicts[passed] = verdict);
        }
        let structural = open.iter().zip(verdicts).filter(|(_, verdict)| *verdict == Verdict::Structural);
        known.extend(structural.map(|((offset, _), _)| *offset));
        known.sort_unstable();
        known
    }
}

/// Checks that everything that the pack's objects refer to is in it, or in one of the `older` packs, by their indexes.
pub(super) fn check(
    pack: &Path,
    index: &index::File,
    structure: Structure,
    older: &[index::File],
    threads: usize,
    interrupt: &AtomicBool,
) -> Result<(), PackError> {
    let tree = Tree::from_offsets_in_pack(
        pack,
        structure.offsets(index).into_iter(),
        &|offset| *offset,
        &|id| Ok(index.lookup(id).map(|entry| index.pack_offset_at_index(entry))),
        &mut Discard,
        interrupt,
        HASH,
    )
    .map_err(damaged)?;
    let data = data::File::at(pack, HASH).map_err(damaged)?;
    let problem = Mutex::new(None);
    let is_present = |id: &[u8; 20]| {
        let id = ObjectId::from(*id);
        index.lookup(id).is_some() || older.iter().any(|older| older.lookup(id).is_some())
    };
    let (told, is_present, mut recent) = (&problem, &is_present, Recent::new());
    // Each thread has its own copy.
    let inspect = move |_: &mut u64, _: &dyn gix_utils::progress::Progress, context: traverse::Context<'_>| {
        let kind = context.entry.header.as_kind().unwrap_or(Kind::Blob);
        let named = each_reference(kind, context.decompressed, |expected, id| {
            if recent.has(id) {
                return Ok(());
            }
            if !is_present(id) {
                return Err(PackError::Incomplete { what: name(expected), id: ObjectId::from(*id).to_string() });
            }
            recent.add(id);
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
        (Ok(_), None) => Ok(()),
    }
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
