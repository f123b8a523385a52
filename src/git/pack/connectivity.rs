//! Whether the history in a pack is complete: everything that its commits, trees and tags refer to is there.
//!
//! Invariant: if packs pass one after the other, everything that any of their objects reaches is present. This takes no
//! walk through the history: each commit and tree is read once, in the order in which deltas resolve, and no blob is. A
//! submodule's commit belongs to another repository and may be absent.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use gix_error::{ErrorExt, message};
use gix_hash::ObjectId;
use gix_object::{Kind, TreeRefIter};
use gix_pack::cache::delta::{Tree, traverse};
use gix_pack::data::{self, entry::Header};
use gix_pack::index;
use gix_utils::progress::Discard;
use parking_lot::Mutex;

use super::error::{PackError, damaged};
use super::{HASH, OBJECT_LIMIT_BYTES, entry_bytes};

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
    // Each thread has a copy of its own.
    let inspect = move |_: &mut u64, _: &dyn gix_utils::progress::Progress, context: traverse::Context<'_>| {
        let kind = context.entry.header.as_kind().unwrap_or(Kind::Blob);
        let named = each_named(kind, context.decompressed, |what, id| {
            if recent.has(id) {
                return Ok(());
            }
            if !is_present(id) {
                return Err(PackError::Incomplete { what, id: ObjectId::from(*id).to_string() });
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

/// Calls `named` with each object that this one refers to, and with the kind it is expected to be.
fn each_named(
    kind: Kind,
    content: &[u8],
    mut named: impl FnMut(&'static str, &[u8; 20]) -> Result<(), PackError>,
) -> Result<(), PackError> {
    let malformed = |what: &str| PackError::Damaged(format!("a {what} in it is malformed"));
    match kind {
        Kind::Blob => Ok(()),
        Kind::Tree => {
            for entry in TreeRefIter::from_bytes(content, HASH) {
                let entry = entry.map_err(|_| malformed("tree"))?;
                let what = match entry.mode {
                    mode if mode.is_commit() => continue,
                    mode if mode.is_tree() => "tree",
                    _ => "blob",
                };
                named(what, entry.oid.as_bytes().try_into().map_err(|_| malformed("tree"))?)?;
            }
            Ok(())
        }
        Kind::Commit => {
            let (tree, mut rest) = id_line(content, b"tree ").ok_or_else(|| malformed("commit"))?;
            named("tree", &tree)?;
            while let Some((parent, after)) = id_line(rest, b"parent ") {
                named("commit", &parent)?;
                rest = after;
            }
            // A malformed parent line would hide a parent.
            if rest.starts_with(b"parent ") { Err(malformed("commit")) } else { Ok(()) }
        }
        Kind::Tag => {
            let (object, _) = id_line(content, b"object ").ok_or_else(|| malformed("tag"))?;
            named("tagged object", &object)
        }
    }
}

/// The id in the line that `content` begins with, and what follows the line.
fn id_line<'a>(content: &'a [u8], word: &[u8]) -> Option<([u8; 20], &'a [u8])> {
    let (digits, rest) = content.strip_prefix(word)?.split_at_checked(2 * 20)?;
    let id = ObjectId::from_hex(digits).ok()?.as_slice().try_into().ok()?;
    Some((id, rest.strip_prefix(b"\n")?))
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
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use proptest::prelude::*;

    /// What an object refers to, in its order.
    fn named(kind: Kind, content: &[u8]) -> Result<Vec<(&'static str, u8)>, String> {
        let mut names = vec![];
        let outcome = each_named(kind, content, |what, id| {
            names.push((what, id[0]));
            Ok(())
        });
        outcome.map(|()| names).map_err(|error| error.to_string())
    }

    fn entry(mode: &str, name: &str, id: u8) -> Vec<u8> {
        [mode.as_bytes(), b" ", name.as_bytes(), b"\0", &[id; 20]].concat()
    }

    #[test]
    fn a_tree_names_everything_but_the_commits_of_submodules() {
        let tree = [
            entry("100644", "a", 1),
            entry("100755", "b", 2),
            entry("120000", "c", 3),
            entry("160000", "d", 4),
            entry("40000", "e", 5),
            // As some old programs wrote them.
            entry("040000", "f", 6),
            entry("100664", "g", 7),
        ];
        let expected = [("blob", 1), ("blob", 2), ("blob", 3), ("tree", 5), ("tree", 6), ("blob", 7)];
        assert_eq!(named(Kind::Tree, &tree.concat()).unwrap(), expected);
        assert_eq!(named(Kind::Tree, b"").unwrap(), []);
    }

    #[test]
    fn a_commit_names_its_tree_and_its_parents_and_a_tag_its_object() {
        let [a, b, c] = ["0a", "0b", "0c"].map(|digits| digits.repeat(20));
        let commit = format!("tree {a}\nparent {b}\nparent {c}\nauthor parent <p> 0 +0000\n\nparent {a}\n");
        assert_eq!(named(Kind::Commit, commit.as_bytes()).unwrap(), [("tree", 10), ("commit", 11), ("commit", 12)]);
        assert_eq!(named(Kind::Commit, format!("tree {a}\n").as_bytes()).unwrap(), [("tree", 10)]);
        let tag = format!("object {c}\ntype commit\ntag v1\n");
        assert_eq!(named(Kind::Tag, tag.as_bytes()).unwrap(), [("tagged object", 12)]);
        assert_eq!(named(Kind::Blob, commit.as_bytes()).unwrap(), []);
    }

    #[test]
    fn a_malformed_object_is_damage() {
        let [id, short] = ["0a".repeat(20), "0a".repeat(19)];
        for commit in [
            String::new(),
            format!("tree {short}\n"),
            format!("tree {id}"),
            format!("tree {id}\nparent {short}\nauthor "),
        ] {
            assert!(named(Kind::Commit, commit.as_bytes()).unwrap_err().contains("a commit in it"), "{commit}");
        }
        let tree = entry("100644", "a", 1);
        assert!(named(Kind::Tree, &tree[..tree.len() - 1]).unwrap_err().contains("a tree in it"));
        assert!(named(Kind::Tag, b"").unwrap_err().contains("a tag in it"));
    }

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

    proptest! {
        #[test]
        fn arbitrary_objects_never_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            for kind in [Kind::Tree, Kind::Commit, Kind::Tag] {
                let _ = named(kind, &content);
            }
        }
    }
}
