//! What is sent from one pack: where each entry is there, where it goes, and what it is a delta on.

use gix_pack::data::entry::Header;

use super::marks::Marks;
use super::objects::Place;
use super::reader::{Reader, Stop};
use crate::git::pack::walk::{WalkError, damaged, no_base};

/// In place of a base: the object is not a delta.
const NONE: u32 = u32::MAX;
/// What is kept for each object that is sent from a pack, in bytes: a [`Row`], and a base that is not sent from there.
pub(super) const ROW_BYTES: u64 = 32 + 12;

/// Its entries in the order of their offsets.
pub(super) struct Rows {
    pack: usize,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    offset: u64,
    end: u64,
    /// Where it goes, once that is known.
    out: u64,
    object: u32,
    base: u32,
}

/// How an entry is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// As it is.
    Copied,
    /// With another header: the instructions, and where their base is.
    Delta(Header),
    /// Decoded: its base is not sent, and the far side may not have it.
    Whole,
    /// As it is in another pack, at this place in that one's index.
    CopiedFrom(usize, u32),
}

impl Rows {
    pub(super) fn of(reader: &Reader<'_>, pack: usize, marks: &Marks) -> Result<Self, Stop> {
        let source = &reader.objects.packs[pack];
        let offset = |object: u32| source.index.pack_offset_at_index(object - source.first);
        let end = source.data.pack_end() as u64;
        let new = || source.numbers().filter(|object| marks.is_new(*object));
        let mut rows = Vec::with_capacity(new().count());
        rows.extend(new().map(|object| Row { offset: offset(object), end, out: 0, object, base: NONE }));
        rows.sort_unstable_by_key(|row| row.offset);
        if rows.windows(2).any(|two| two[0].offset == two[1].offset) {
            // Otherwise the bytes up to the next one would be sent for each.
            return Err(damaged("its index has two objects at one place").into());
        }
        let mut rows = Self { pack, rows };
        if rows.rows.is_empty() {
            return Ok(rows);
        }
        let mut elsewhere = rows.note_bases(reader)?;
        elsewhere.sort_unstable();
        elsewhere.dedup();
        let mut found = vec![NONE; elsewhere.len()];
        // An index does not say which entry follows another, nor which is at an offset.
        for object in source.numbers() {
            let offset = offset(object);
            let next = rows.rows.partition_point(|row| row.offset < offset);
            if let Some(before) = next.checked_sub(1) {
                let before = &mut rows.rows[before];
                before.end = before.end.min(offset);
            }
            if let Ok(at) = elsewhere.binary_search(&offset) {
                found[at] = reader.objects.require(reader.objects.id(object))?;
            }
        }
        rows.note_bases_elsewhere(reader, &elsewhere, &found)?;
        Ok(rows)
    }

    /// Notes the base of each delta, and returns the offsets of those that are not sent from this pack.
    fn note_bases(&mut self, reader: &Reader<'_>) -> Result<Vec<u64>, WalkError> {
        let mut elsewhere = vec![];
        for at in 0..self.rows.len() {
            reader.go_on()?;
            let (entry, _) = reader.entry(self.pack, self.rows[at].offset)?;
            self.rows[at].base = match entry.header {
                Header::RefDelta { base_id } => reader.objects.require(&base_id)?,
                Header::OfsDelta { base_distance } => {
                    let base = entry.checked_base_pack_offset(base_distance).ok_or_else(no_base)?;
                    match self.at(base) {
                        Some(base) => self.rows[base].object,
                        None => {
                            elsewhere.push(base);
                            NONE
                        }
                    }
                }
                Header::Commit | Header::Tree | Header::Blob | Header::Tag => NONE,
            };
        }
        Ok(elsewhere)
    }

    fn note_bases_elsewhere(&mut self, reader: &Reader<'_>, offsets: &[u64], found: &[u32]) -> Result<(), WalkError> {
        if offsets.is_empty() {
            return Ok(());
        }
        for row in self.rows.iter_mut().filter(|row| row.base == NONE) {
            let (entry, _) = reader.entry(self.pack, row.offset)?;
            if let Header::OfsDelta { base_distance } = entry.header {
                let base = entry.checked_base_pack_offset(base_distance).ok_or_else(no_base)?;
                let at = offsets.binary_search(&base).map_err(|_| no_base())?;
                row.base = Some(found[at]).filter(|base| *base != NONE).ok_or_else(no_base)?;
            }
        }
        Ok(())
    }

    fn at(&self, offset: u64) -> Option<usize> {
        self.rows.binary_search_by_key(&offset, |row| row.offset).ok()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn object(&self, at: usize) -> u32 {
        self.rows[at].object
    }

    pub(super) fn pack(&self) -> usize {
        self.pack
    }

    /// What an entry is a delta on. It must be one.
    pub(super) fn base(&self, at: usize) -> u32 {
        self.rows[at].base
    }

    /// Where an entry is in its pack.
    pub(super) fn offset(&self, at: usize) -> u64 {
        self.rows[at].offset
    }

    /// The entry's bytes in its pack.
    pub(super) fn stored<'a>(&self, at: usize, reader: &Reader<'a>) -> Result<&'a [u8], WalkError> {
        let data = &reader.objects.packs[self.pack].data;
        data.entry_slice(self.rows[at].offset..self.rows[at].end).ok_or_else(|| damaged("it ends too early"))
    }

    /// Notes where an entry goes. All before it have their place.
    pub(super) fn place(&mut self, at: usize, out: u64) {
        self.rows[at].out = out;
    }

    /// How an entry is sent that goes to its place.
    ///
    /// Bases come before their deltas, or are not deltas, so that in the end no object is a delta on itself: the copies of
    /// two packs may be deltas on each other.
    pub(super) fn how(&self, at: usize, reader: &Reader<'_>, marks: &Marks) -> Result<How, WalkError> {
        let row = self.rows[at];
        if row.base == NONE {
            return Ok(How::Copied);
        }
        let by_id = || How::Delta(Header::RefDelta { base_id: reader.objects.id(row.base).to_owned() });
        if marks.is_held(row.base) {
            // So that the pack alone tells how its commits follow each other.
            return Ok(if marks.is_commit(row.object) { How::Whole } else { by_id() });
        }
        if !marks.is_new(row.base) {
            return Ok(How::Whole);
        }
        let Place::Packed(pack, offset) = reader.objects.place(row.base) else { return Ok(by_id()) };
        match self.at(offset).filter(|_| pack == self.pack && offset < row.offset) {
            Some(base) => Ok(How::Delta(Header::OfsDelta { base_distance: row.out - self.rows[base].out })),
            None if (pack, offset) < (self.pack, row.offset) => Ok(by_id()),
            None if !reader.entry(pack, offset)?.0.header.is_delta() => Ok(by_id()),
            None => Ok(How::Whole),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_row_takes_is_counted() {
        assert_eq!(size_of::<Row>() as u64 + 8 + 4, ROW_BYTES);
    }
}
