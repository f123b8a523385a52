//! Every object of a pack: where it is, how large it is decoded, and which deltas are based on it.
//!
//! Invariant: the children of an object are linked so that decoding them in that order holds as little as possible, and
//! what that is, is known before anything is decoded.

use std::ops::Range;

use gix_object::Kind;

use super::{LARGE_BLOB_BYTES, Shortage};

/// No object: the end of a list.
pub(super) const NONE: u32 = u32::MAX;
/// In place of a base: the object is not a delta, and starts a tree.
const ROOT: u32 = u32::MAX - 1;
/// In place of a base: the delta names it by id, which is noted among the ids.
const BY_ID: u32 = u32::MAX - 2;
/// What an object takes in memory while its pack is resolved, in bytes: a [`Row`], a [`Found`], and its place in the index.
pub(super) const OBJECT_BYTES: u64 = 28 + 21 + 8;
/// What a delta that names its base by id takes in addition, in bytes: its entry in the list of those, and a frame.
const BY_ID_BYTES: u64 = 128;

/// An object's id and kind, once they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::git) struct Found {
    pub(in crate::git) id: [u8; 20],
    pub(in crate::git) kind: Option<Kind>,
}

/// What a delta is based on, if an entry is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::git) enum Base {
    /// It is not a delta, and of this kind.
    None(Kind),
    /// The entry at this offset.
    Offset(u64),
    /// An object of the pack that may follow the delta.
    Id([u8; 20]),
}

/// One entry of a pack.
#[derive(Debug, Clone, Copy)]
pub(in crate::git) struct Noted {
    pub(in crate::git) offset: u64,
    pub(in crate::git) crc32: u32,
    /// Of the decoded object, in bytes.
    pub(in crate::git) size: u64,
    /// Of a delta's own instructions, in bytes.
    pub(in crate::git) instructions: u64,
    pub(in crate::git) base: Base,
    /// The id, if it is known already.
    pub(in crate::git) id: Option<[u8; 20]>,
}

/// The objects in the pack's order, that of their offsets.
#[derive(Debug)]
pub(in crate::git) struct Table {
    rows: Vec<Row>,
    pub(in crate::git) found: Vec<Found>,
    /// Deltas by the ids of their bases, sorted.
    by_id: Vec<([u8; 20], u32)>,
    /// Where the last entry ends.
    end: u64,
    longest_instructions: u64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    /// In two halves, so that the row needs no padding.
    offset: [u32; 2],
    crc32: u32,
    /// Of the decoded object, in bytes; larger ones cannot be decoded.
    size: u32,
    /// The first child in the list, which is to be decoded last.
    last_child: u32,
    /// The next child of the same base. Before the table is linked, the base.
    next: u32,
    /// What decoding this object and everything based on it takes, from the moment it is decoded. 0: it is hashed as a
    /// stream.
    need_kib: u32,
}

impl Table {
    /// An empty table for this many objects.
    pub(in crate::git) fn new(objects: u32) -> Result<Self, Shortage> {
        let (mut rows, mut found) = (vec![], vec![]);
        let reserved =
            rows.try_reserve_exact(objects as usize).and_then(|()| found.try_reserve_exact(objects as usize));
        reserved.map_err(|_| Shortage::Exhausted)?;
        Ok(Self { rows, found, by_id: vec![], end: 0, longest_instructions: 0 })
    }

    /// Adds an entry, which follows all others. `false`: its base is not an entry of the pack.
    pub(in crate::git) fn push(&mut self, noted: Noted) -> bool {
        let (next, id, kind) = match noted.base {
            Base::None(kind) => (ROOT, noted.id, Some(kind)),
            Base::Id(base) => (BY_ID, Some(base), None),
            Base::Offset(offset) => match self.at_offset(offset) {
                Some(base) => (base, noted.id, None),
                None => return false,
            },
        };
        self.longest_instructions = self.longest_instructions.max(noted.instructions);
        let (high, low) = (noted.offset >> 32, noted.offset & u64::from(u32::MAX));
        self.rows.push(Row {
            offset: [high, low].map(saturated),
            crc32: noted.crc32,
            size: saturated(noted.size),
            last_child: NONE,
            next,
            need_kib: 0,
        });
        self.found.push(Found { id: id.unwrap_or_default(), kind });
        true
    }

    /// Links bases and deltas after the last entry, which ends at `end`.
    ///
    /// Of a base's children, the one that needs most is decoded last: the base is not needed any more then. So each further
    /// object that is held at the same time takes a tree at least twice as large.
    pub(in crate::git) fn link(&mut self, end: u64) {
        self.end = end;
        let by_id = |object: &u32| self.rows[*object as usize].next == BY_ID;
        self.by_id = Vec::new();
        let count = (0..self.len()).filter(by_id).count();
        self.by_id.reserve_exact(count);
        let waiting = (0..self.len()).filter(by_id).map(|object| (self.found[object as usize].id, object));
        self.by_id.extend(waiting);
        self.by_id.sort_unstable();
        // A base precedes its deltas, so each object's children are all linked when its turn comes.
        for object in (0..self.len()).rev() {
            let row = self.rows[object as usize];
            let need_kib = self.need_kib(object);
            self.rows[object as usize].need_kib = need_kib;
            match row.next {
                ROOT => {}
                BY_ID => self.rows[object as usize].next = NONE,
                base => self.link_child(base, object, need_kib),
            }
        }
    }

    /// Until an object has its own need, there is the largest of its children's but the last one's.
    fn link_child(&mut self, base: u32, child: u32, need_kib: u32) {
        let last = self.rows[base as usize].last_child;
        let last_need_kib = if last == NONE { 0 } else { self.rows[last as usize].need_kib };
        let others = &mut self.rows[base as usize].need_kib;
        *others = (*others).max(need_kib.min(last_need_kib));
        if last == NONE || need_kib > last_need_kib {
            self.rows[child as usize].next = last;
            self.rows[base as usize].last_child = child;
        } else {
            self.rows[child as usize].next = self.rows[last as usize].next;
            self.rows[last as usize].next = child;
        }
    }

    fn need_kib(&self, object: u32) -> u32 {
        let row = &self.rows[object as usize];
        let own = kib(row.size);
        match row.last_child {
            NONE if self.can_be_streamed(object) => 0,
            NONE => own,
            last => {
                let last = &self.rows[last as usize];
                let while_held = own.saturating_add(row.need_kib.max(kib(last.size)));
                while_held.max(last.need_kib)
            }
        }
    }

    /// A large blob that nothing is based on is never held.
    fn can_be_streamed(&self, object: u32) -> bool {
        let (row, found) = (&self.rows[object as usize], &self.found[object as usize]);
        found.kind == Some(Kind::Blob)
            && u64::from(row.size) >= LARGE_BLOB_BYTES
            && self.waiting_for(&found.id).is_empty()
    }

    pub(in crate::git) fn len(&self) -> u32 {
        // At most as many were announced.
        self.rows.len() as u32
    }

    /// What decoding takes on one thread, in bytes, apart from the thread's own buffers: see [`Self::link`]. It is exact, or
    /// more, unless deltas name their bases by id: how those nest is only found on the way.
    pub(super) fn need_bytes(&self) -> u64 {
        let trees = (0..self.len()).filter(|object| self.is_root(*object) || !self.by_id.is_empty());
        trees.map(|object| u64::from(self.rows[object as usize].need_kib)).max().unwrap_or(0) * 1024
    }

    /// What deltas that name their bases by id take in addition at most, in bytes, and what their list takes.
    pub(super) fn by_id_bytes(&self) -> (u64, u64) {
        let needs = self.by_id.iter().map(|(_, object)| u64::from(self.rows[*object as usize].need_kib) * 1024);
        (needs.sum(), self.by_id.len() as u64 * BY_ID_BYTES)
    }

    /// What decoding one object takes at most, in bytes: it and its base. What needs a base that is named by id is not
    /// counted with it.
    pub(super) fn decode_bytes(&self) -> u64 {
        let bases = if self.by_id.is_empty() { 0 } else { self.need_bytes() };
        self.need_bytes() + bases + self.longest_instructions
    }

    pub(super) fn longest_instructions(&self) -> u64 {
        self.longest_instructions
    }

    /// The bases that were not found, after all objects that could be: each once.
    pub(super) fn lacking(&self) -> impl Iterator<Item = [u8; 20]> {
        let waiting = self.by_id.iter().filter(|(_, object)| self.found[*object as usize].kind.is_none());
        let mut last = None;
        waiting.map(|(base, _)| *base).filter(move |base| last.replace(*base) != Some(*base))
    }

    /// How many deltas name their bases by id.
    pub(super) fn by_id_len(&self) -> usize {
        self.by_id.len()
    }

    /// Where in their list the deltas are that name this object as their base.
    pub(super) fn waiting_for(&self, id: &[u8; 20]) -> Range<usize> {
        let from = self.by_id.partition_point(|(base, _)| base < id);
        let upto = from + self.by_id[from..].partition_point(|(base, _)| base == id);
        from..upto
    }

    /// The deltas in this part of their list.
    pub(super) fn by_id(&self, range: Range<usize>) -> impl Iterator<Item = u32> {
        self.by_id[range].iter().map(|(_, object)| *object)
    }

    pub(super) fn at_offset(&self, offset: u64) -> Option<u32> {
        self.rows.binary_search_by_key(&offset, Row::offset).ok().map(|object| object as u32)
    }

    /// The bytes of an entry in the pack.
    pub(in crate::git) fn range(&self, object: u32) -> Range<u64> {
        let next = self.rows.get(object as usize + 1).map_or(self.end, Row::offset);
        self.rows[object as usize].offset()..next
    }

    pub(in crate::git) fn crc32(&self, object: u32) -> u32 {
        self.rows[object as usize].crc32
    }

    pub(super) fn size(&self, object: u32) -> u32 {
        self.rows[object as usize].size
    }

    pub(super) fn need_kib_of(&self, object: u32) -> u32 {
        self.rows[object as usize].need_kib
    }

    pub(super) fn last_child(&self, object: u32) -> u32 {
        self.rows[object as usize].last_child
    }

    pub(super) fn next_child(&self, object: u32) -> u32 {
        self.rows[object as usize].next
    }

    pub(super) fn is_root(&self, object: u32) -> bool {
        self.rows[object as usize].next == ROOT
    }

    /// Whether the object is never decoded into memory.
    pub(in crate::git) fn is_streamed(&self, object: u32) -> bool {
        self.rows[object as usize].need_kib == 0
    }
}

impl Row {
    fn offset(&self) -> u64 {
        u64::from(self.offset[0]) << 32 | u64::from(self.offset[1])
    }
}

/// Empty objects count as well: 0 says that an object is streamed.
fn kib(bytes: u32) -> u32 {
    (bytes / 1024).saturating_add(1)
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
