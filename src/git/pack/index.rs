//! A pack's index. Format: gitformat-pack(5), version 2.
//!
//! Invariant: an index gets its final name, `pack-<trailer>.idx`, only once it is complete.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use gix_hash::ObjectId;

use super::error::{PackError, damaged};
use super::table::Table;
use super::{BUFFER_BYTES, HASH, truncated};
use crate::files::{Checked, CheckedFile};

/// The index's name until it is complete.
pub(super) const INCOMING_INDEX: &str = "incoming.idx";

pub(super) fn open(path: &Path) -> Result<gix_pack::index::File, PackError> {
    gix_pack::index::File::at(path, HASH).map_err(damaged)
}

/// Writes the index of a pack whose objects are all found into `dir`.
pub(super) fn write(dir: &Path, table: &Table, trailer: ObjectId) -> Result<CheckedFile, PackError> {
    // By id; the first bytes settle most comparisons.
    let place = |object: u32| {
        let [a, b, c, d, ..] = table.found[object as usize].id;
        (u32::from_be_bytes([a, b, c, d]), object)
    };
    let mut order: Vec<(u32, u32)> = (0..table.len()).map(place).collect();
    let id = |object: u32| &table.found[object as usize].id;
    order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| id(a.1).cmp(id(b.1))).then(a.1.cmp(&b.1)));

    let incoming = dir.join(INCOMING_INDEX);
    let hashing = gix_hash::io::Write::new(Checked::new(truncated(&incoming)?), HASH);
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, hashing);
    write_rows(&order, table, &mut out)?;
    out.write_all(trailer.as_slice())?;
    let gix_hash::io::Write { inner: mut file, hash } = out.into_inner().map_err(|error| error.into_error())?;
    file.write_all(hash.try_finalize().map_err(damaged)?.as_slice())?;
    let path = dir.join(format!("pack-{trailer}.idx"));
    fs::rename(&incoming, &path)?;
    Ok(file.finish(path))
}

/// Writes an index up to its checksums; `order` is by id, with the first bytes of each.
fn write_rows(order: &[(u32, u32)], table: &Table, out: &mut impl Write) -> Result<(), PackError> {
    out.write_all(b"\xfftOc\0\0\0\x02")?;
    for first_byte in 0..=u8::MAX {
        let upto = order.partition_point(|(start, _)| start >> 24 <= u32::from(first_byte));
        out.write_all(&count(upto)?.to_be_bytes())?;
    }
    let objects = || order.iter().map(|(_, object)| *object);
    objects().try_for_each(|object| out.write_all(&table.found[object as usize].id))?;
    objects().try_for_each(|object| out.write_all(&table.crc32(object).to_be_bytes()))?;
    // An offset of 2 GiB or more is in a table of its own; here is its position there, with the highest bit set.
    let mut far = 0;
    for object in objects() {
        let word = match u32::try_from(table.range(object).start) {
            Ok(near) if near < 1 << 31 => near,
            _ => {
                far += 1;
                count(far - 1)? | 1 << 31
            }
        };
        out.write_all(&word.to_be_bytes())?;
    }
    let offsets = objects().map(|object| table.range(object).start).filter(|offset| *offset >= 1 << 31);
    for offset in offsets {
        out.write_all(&offset.to_be_bytes())?;
    }
    Ok(())
}

fn count(objects: usize) -> Result<u32, PackError> {
    u32::try_from(objects).map_err(|_| PackError::Damaged("it holds more objects than a pack can".to_owned()))
}
