//! A pack with its index on the disk, such as one out of an archive: decodes every object, and checks all checksums.
//!
//! Invariant: an object is visited only if it is where the index says, hashes to its name there, and has its checksum.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use flate2::{Decompress, FlushDecompress};
use gix_hash::oid;
use gix_object::Kind;
use gix_pack::data::{self, entry::Header};
use gix_pack::index;
use gix_utils::progress::Discard;

use super::HASH;
use super::delta::HEADER_BYTES;
use super::entries::noted;
use super::resolve::{granted, plan, reserve_all, reserve_table};
use super::table::{Base, Table};
use super::walk::{Content, Walk, WalkError, damaged, no_base};
use crate::memory::MemoryBudget;
use crate::threads;

/// What is kept for each object beside the table, in bytes: its place in the index, and the caller's marks.
const BESIDE_BYTES: u64 = 4 + 1;

/// Visits every object with its id and kind. Of a large blob the content is empty: it was hashed as a stream.
pub(in crate::git) fn visit_all(
    pack: &data::File,
    index: &index::File,
    memory: &MemoryBudget,
    visit: impl Fn(&oid, Kind, &[u8]) + Sync,
) -> Result<(), WalkError> {
    let interrupt = AtomicBool::new(false);
    let (mut table, mut share) = reserve_table(memory, index.num_objects(), BESIDE_BYTES, &interrupt)?;
    fill(&mut table, pack, index)?;
    let plan = plan(&table, memory);
    if !granted(plan, &mut share, &interrupt)? {
        drop((table, share));
        (table, share) = reserve_all(memory, index.num_objects(), BESIDE_BYTES, plan, &interrupt)?;
        fill(&mut table, pack, index)?;
    }
    let (table, visit) = (&table, &visit);
    let check = |object: u32, kind: Kind, content: Content<'_>| {
        let (id, range) = (content.id(kind)?, table.range(object));
        if id != table.found[object as usize].id {
            return Err(damaged(format!("the object at {} does not hash to its name", range.start)));
        }
        let bytes = pack.entry_slice(range.clone()).unwrap_or_default();
        if index.version() == index::Version::V2 && crc32fast::hash(bytes) != table.crc32(object) {
            return Err(damaged(format!("the object at {} does not have the checksum in the index", range.start)));
        }
        let whole = if let Content::Whole(bytes) = content { bytes } else { &[] };
        visit((&id).into(), kind, whole);
        Ok(id)
    };
    let (sums, walked) = thread::scope(|scope| {
        let verify = || {
            let sums = pack.verify_checksum(&mut Discard, &interrupt);
            let sums = sums.and_then(|_| index.verify_checksum(&mut Discard, &interrupt));
            sums.inspect_err(|_| interrupt.store(true, Ordering::Relaxed))
        };
        let sums = threads::another(scope, verify);
        let walked = Walk { pack, table, plan, interrupt: &interrupt }.visit(|_| true, check);
        if walked.is_err() {
            interrupt.store(true, Ordering::Relaxed);
        }
        let sums = match sums {
            Some(sums) => sums.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => verify(),
        };
        (sums, walked)
    });
    drop(share);
    match (sums, walked) {
        // A checksum that was given up is not a problem of its own.
        (Err(error), Ok(_) | Err(WalkError::Stopped)) => Err(error.into()),
        (_, Err(error)) => Err(error),
        (Ok(_), Ok(visited)) if visited == table.len() => Ok(()),
        (Ok(_), Ok(_)) => Err(no_base()),
    }
}

/// Fills the table from the entries' headers, and the ids from the index.
fn fill(table: &mut Table, pack: &data::File, index: &index::File) -> Result<(), WalkError> {
    let offset = |position: u32| index.pack_offset_at_index(position);
    let id = |position: u32| index.oid_at_index(position).as_bytes().try_into().unwrap_or_default();
    let mut positions: Vec<u32> = (0..index.num_objects()).collect();
    positions.sort_unstable_by_key(|position| offset(*position));
    let end = pack.pack_end() as u64;
    let mut inflate = Decompress::new(true);
    for (at, &position) in positions.iter().enumerate() {
        let from = offset(position);
        let upto = positions.get(at + 1).map_or(end, |next| offset(*next));
        let slice = (from < upto).then(|| pack.entry_slice(from..upto)).flatten();
        let slice = slice.ok_or_else(|| damaged(format!("its index has no room for an object at {from}")))?;
        let malformed = || damaged(format!("the object at {from} is malformed"));
        let entry = data::Entry::from_bytes(slice, from, HASH).map_err(|_| malformed())?;
        let mut start = Vec::with_capacity(HEADER_BYTES);
        if entry.header.is_delta() {
            let compressed = slice.get(entry.header_size()..).unwrap_or_default();
            inflate.reset(true);
            // The rest of it is not wanted here.
            let begun = inflate.decompress_vec(compressed, &mut start, FlushDecompress::None);
            begun.map_err(|_| malformed())?;
        }
        let crc32 = index.crc32_at_index(position).unwrap_or_default();
        let mut noted = noted(&entry, from, &start, crc32, Some(id(position))).ok_or_else(malformed)?;
        if let Header::RefDelta { base_id } = entry.header {
            let base = index.lookup(base_id).map(offset).filter(|base| *base < from);
            noted.base = base.map_or(noted.base, Base::Offset);
        }
        if !table.push(noted) {
            return Err(damaged(format!("the base of the object at {from} is not in it")));
        }
    }
    table.link(end);
    for (found, &position) in table.found.iter_mut().zip(&positions) {
        found.id = id(position);
    }
    Ok(())
}
