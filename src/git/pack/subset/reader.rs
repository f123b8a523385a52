//! Decodes single objects of a repository.
//!
//! Invariant: what is held at a time is counted before it is allocated. What needs more than there is room for stops with what
//! it needs, so that all of it can be asked for.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Decompress;
use flate2::read::ZlibDecoder;
use gix_hash::oid;
use gix_object::Kind;
use gix_pack::data::{self, entry::Header};

use super::SubsetError;
use super::objects::{Objects, Place, in_path};
use crate::git::pack::delta::{self, Sizes};
use crate::git::pack::walk::{WalkError, damaged, inflate};
use crate::git::pack::{BUFFER_BYTES, HASH};

/// How much of what was decoded is kept: bases are decoded once for all their deltas, and not for each.
const CACHE_BYTES: u64 = 4 << 20;
/// Larger objects are not kept, in bytes.
const CACHED_OBJECT_BYTES: usize = 256 << 10;
/// The longest header of a loose object, in bytes, as Git has it.
const LOOSE_HEADER_LIMIT_BYTES: u64 = 32;

/// What may be held at a time, in bytes.
#[derive(Debug, Clone, Copy)]
pub(in crate::git::pack) struct Room {
    /// By an object while it is decoded: itself, its base and the instructions.
    pub(super) decoding: u64,
    /// By lists of objects.
    pub(super) lists: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { decoding: 2 << 20, lists: 2 << 20 }
    }
}

impl Room {
    pub(super) fn bytes(self) -> u64 {
        self.decoding + self.lists + CACHE_BYTES
    }
}

/// Why it ended early.
#[derive(Debug)]
pub(in crate::git::pack) enum Stop {
    /// It needs this much room.
    Room(Room),
    Error(SubsetError),
}

impl<E: Into<SubsetError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// A decoded object.
#[derive(Debug, Clone)]
pub(super) struct Decoded {
    pub(super) kind: Kind,
    pub(super) bytes: Rc<Vec<u8>>,
}

pub(in crate::git::pack) struct Reader<'a> {
    pub(in crate::git::pack) objects: &'a Objects,
    interrupt: &'a AtomicBool,
    room: Room,
    inflate: Decompress,
    instructions: Vec<u8>,
    cache: Cache,
}

impl<'a> Reader<'a> {
    pub(super) fn new(objects: &'a Objects, interrupt: &'a AtomicBool, room: Room) -> Self {
        let (inflate, instructions) = (Decompress::new(true), vec![]);
        Self { objects, interrupt, room, inflate, instructions, cache: Cache::default() }
    }

    /// Fails if the caller is to give up.
    pub(in crate::git::pack) fn go_on(&self) -> Result<(), WalkError> {
        if self.interrupt.load(Ordering::Relaxed) { Err(WalkError::Stopped) } else { Ok(()) }
    }

    /// Fails if there is no room for lists of this many bytes. They may be about to grow further.
    pub(super) fn require_lists(&self, bytes: u64) -> Result<(), Stop> {
        let lists = bytes.max(2 * self.room.lists);
        if bytes <= self.room.lists { Ok(()) } else { Err(Stop::Room(Room { lists, ..self.room })) }
    }

    /// The same for an object that is decoded. Another one may be a little larger.
    fn require_decoding(&self, bytes: u64) -> Result<(), Stop> {
        let decoding = bytes.saturating_add(bytes / 8);
        if bytes <= self.room.decoding { Ok(()) } else { Err(Stop::Room(Room { decoding, ..self.room })) }
    }

    /// An object's content.
    pub(super) fn read(&mut self, object: u32) -> Result<Decoded, Stop> {
        self.go_on()?;
        match self.objects.place(object) {
            Place::Packed(pack, offset) => self.packed(pack, offset),
            Place::Loose(id) => self.loose(id),
        }
    }

    /// The same, of a kind that it must have.
    pub(super) fn read_as(&mut self, object: u32, kind: Kind) -> Result<Rc<Vec<u8>>, Stop> {
        let decoded = self.read(object)?;
        let wrong = || damaged(format!("its object {} is not a {kind}", self.objects.id(object)));
        if decoded.kind == kind { Ok(decoded.bytes) } else { Err(wrong().into()) }
    }

    /// The entry at this offset, and the pack's bytes behind its header.
    pub(super) fn entry(&self, pack: usize, offset: u64) -> Result<(data::Entry, &'a [u8]), WalkError> {
        let data = &self.objects.packs[pack].data;
        let slice = data.entry_slice(offset..data.pack_end() as u64).filter(|slice| !slice.is_empty());
        let slice = slice.ok_or_else(|| damaged(format!("it has no object at {offset}")))?;
        let entry = data::Entry::from_bytes(slice, offset, HASH).map_err(WalkError::from)?;
        let compressed = slice.get(entry.header_size()..).unwrap_or_default();
        Ok((entry, compressed))
    }

    /// The offset of what an entry is a delta on, in the same pack; `None` if it is not a delta.
    fn base(&self, pack: usize, entry: &data::Entry) -> Result<Option<u64>, WalkError> {
        let gone = || damaged(format!("the base of the object at {} is not in it", entry.pack_offset()));
        let base = match entry.header {
            Header::OfsDelta { base_distance } => entry.checked_base_pack_offset(base_distance),
            Header::RefDelta { base_id } => {
                let index = &self.objects.packs[pack].index;
                index.lookup(base_id).map(|position| index.pack_offset_at_index(position))
            }
            Header::Commit | Header::Tree | Header::Blob | Header::Tag => return Ok(None),
        };
        base.map(Some).ok_or_else(gone)
    }

    /// Follows the deltas to a whole object, or one that is still known, and applies them on the way back.
    fn packed(&mut self, pack: usize, mut offset: u64) -> Result<Decoded, Stop> {
        let mut deltas = vec![];
        let mut decoded = loop {
            // Chains may be long.
            self.go_on()?;
            if let Some(known) = self.cache.get((pack, offset)) {
                break known;
            }
            let (entry, compressed) = self.entry(pack, offset)?;
            match self.base(pack, &entry)? {
                Some(base) => {
                    deltas.push(offset);
                    self.require_lists(deltas.len() as u64 * 8)?;
                    if deltas.len() > self.objects.packs[pack].index.num_objects() as usize {
                        return Err(damaged("its deltas go round in a circle").into());
                    }
                    offset = base;
                }
                None => {
                    let kind = entry.header.as_kind().ok_or_else(|| damaged("an object without a kind"))?;
                    self.require_decoding(entry.decompressed_size)?;
                    let mut bytes = vec![];
                    inflate(&mut self.inflate, compressed, entry.decompressed_size, &mut bytes)?;
                    break self.cache.put((pack, offset), Decoded { kind, bytes: Rc::new(bytes) });
                }
            }
        };
        while let Some(offset) = deltas.pop() {
            let bytes = Rc::new(self.apply(pack, offset, &decoded.bytes)?);
            decoded = self.cache.put((pack, offset), Decoded { kind: decoded.kind, bytes });
        }
        Ok(decoded)
    }

    fn apply(&mut self, pack: usize, offset: u64, base: &[u8]) -> Result<Vec<u8>, Stop> {
        self.go_on()?;
        let (entry, compressed) = self.entry(pack, offset)?;
        let begun = (base.len() as u64).saturating_add(entry.decompressed_size);
        self.require_decoding(begun)?;
        inflate(&mut self.inflate, compressed, entry.decompressed_size, &mut self.instructions)?;
        let unfit = || damaged(format!("the delta at {offset} does not fit its base"));
        let sizes = Sizes::of(&self.instructions).filter(|sizes| sizes.base == base.len() as u64).ok_or_else(unfit)?;
        self.require_decoding(begun.saturating_add(sizes.result))?;
        let size = usize::try_from(sizes.result).map_err(|_| unfit())?;
        let mut bytes = Vec::with_capacity(size);
        if !delta::apply(base, &self.instructions[sizes.header..], size, &mut bytes) {
            return Err(unfit().into());
        }
        Ok(bytes)
    }

    fn loose(&mut self, id: &oid) -> Result<Decoded, Stop> {
        let (kind, len, mut content) = open_loose(self.objects, id)?;
        self.require_decoding(len)?;
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
        let path = self.objects.path(id);
        content.by_ref().take(len).read_to_end(&mut bytes).map_err(in_path(&path))?;
        if bytes.len() as u64 != len {
            return Err(damaged(format!("its object {id} is shorter than it says")).into());
        }
        Ok(Decoded { kind, bytes: Rc::new(bytes) })
    }
}

/// A loose object's kind, its length and its content.
pub(super) fn open_loose(objects: &Objects, id: &oid) -> Result<(Kind, u64, impl Read + use<>), SubsetError> {
    let path = objects.path(id);
    let file = File::open(&path).map_err(in_path(&path))?;
    let mut content = BufReader::with_capacity(BUFFER_BYTES, ZlibDecoder::new(file));
    let mut header = vec![];
    content.by_ref().take(LOOSE_HEADER_LIMIT_BYTES).read_until(0, &mut header).map_err(in_path(&path))?;
    let malformed = |_| damaged(format!("its object {id} is malformed"));
    let (kind, len, _) = gix_object::decode::loose_header(&header).map_err(malformed)?;
    Ok((kind, len, content))
}

/// What was decoded last.
#[derive(Default)]
struct Cache {
    known: HashMap<(usize, u64), Decoded>,
    oldest_first: VecDeque<(usize, u64)>,
    bytes: u64,
}

impl Cache {
    fn get(&self, place: (usize, u64)) -> Option<Decoded> {
        self.known.get(&place).cloned()
    }

    /// Keeps it if it is small, and gives it back.
    fn put(&mut self, place: (usize, u64), decoded: Decoded) -> Decoded {
        let cost = |decoded: &Decoded| decoded.bytes.len() as u64 + 128;
        if decoded.bytes.len() > CACHED_OBJECT_BYTES || self.known.insert(place, decoded.clone()).is_some() {
            return decoded;
        }
        self.oldest_first.push_back(place);
        self.bytes += cost(&decoded);
        while self.bytes > CACHE_BYTES {
            let oldest = self.oldest_first.pop_front().and_then(|place| self.known.remove(&place));
            self.bytes = self.bytes.saturating_sub(oldest.as_ref().map_or(self.bytes, cost));
        }
        decoded
    }
}
