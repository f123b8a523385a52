//! A pack's index, as the indexer writes it and with the large blobs, which the indexer never sees.
//! Format: gitformat-pack(5), version 2.
//!
//! Invariant: an index gets its final name, `pack-<trailer>.idx`, only once it is complete.

use std::fs::{self, File};
use std::io::{self, BufRead, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use gix_hash::ObjectId;
use gix_pack::data;
use gix_pack::index::{Entry, Version};
use gix_utils::progress::Discard;

use super::entries::Entries;
use super::error::{PackError, damaged};
use super::{HASH, OBJECT_LIMIT_BYTES, entry_bytes, truncated};
use crate::files::{Checked, CheckedFile};

/// The index's name until it is complete.
pub(super) const INCOMING_INDEX: &str = "incoming.idx";

/// Runs the entries through the indexer and writes the index into `dir`. `pack_path` is called with the trailer when the
/// last entry has been read, and says where the pack is.
pub(super) fn write<R: BufRead>(
    dir: &Path,
    entries: &mut Entries<R>,
    threads: usize,
    interrupt: &AtomicBool,
    pack_path: impl FnOnce(ObjectId) -> io::Result<PathBuf>,
) -> Result<CheckedFile, PackError> {
    let shared = Rc::clone(&entries.outcome);
    let partial = dir.join(INCOMING_INDEX);
    let mut out = BufWriter::new(Checked::new(truncated(&partial)?));
    let written = gix_pack::index::write_data_iter_to_stream(
        Version::V2,
        || {
            let trailer = shared.borrow().trailer.ok_or_else(|| io::Error::other("the pack has no trailer"))?;
            let pack = data::File::at(pack_path(trailer)?, HASH).map_err(io::Error::other)?;
            Ok((entry_bytes, pack))
        },
        entries,
        Some(threads),
        &mut Discard,
        &mut out,
        interrupt,
        HASH,
        Some(OBJECT_LIMIT_BYTES),
        data::Version::V2,
    );
    let mut outcome = shared.borrow_mut();
    // The wire's or the disk's own error says more than what the indexer makes of it.
    if let Some(error) = outcome.io_error.take() {
        return Err(error.downcast().unwrap_or_else(PackError::Io));
    }
    written.map_err(damaged)?;
    let trailer = outcome.trailer.ok_or_else(|| PackError::Damaged("it has no trailer".to_owned()))?;
    let out = out.into_inner().map_err(|error| error.into_error())?;
    let path = dir.join(format!("pack-{trailer}.idx"));
    if outcome.large.is_empty() {
        fs::rename(&partial, &path)?;
        return Ok(out.finish(path));
    }
    let merged = merge(&partial, &outcome.large, trailer, path);
    fs::remove_file(&partial)?;
    merged
}

pub(super) fn open(path: &Path) -> Result<gix_pack::index::File, PackError> {
    gix_pack::index::File::at(path, HASH).map_err(damaged)
}

/// Writes the index `partial` once more, to `path`, with the large blobs in it.
fn merge(partial: &Path, large: &[Entry], trailer: ObjectId, path: PathBuf) -> Result<CheckedFile, PackError> {
    let mut rows: Vec<_> = open(partial)?.iter().chain(large.iter().cloned()).collect();
    rows.sort_by_key(|row| row.oid);

    let file = BufWriter::new(Checked::new(truncated(&path)?));
    let mut out = gix_hash::io::Write::new(file, HASH);
    write_rows(&rows, &mut out)?;
    out.write_all(trailer.as_slice())?;
    let gix_hash::io::Write { mut inner, hash } = out;
    inner.write_all(hash.try_finalize().map_err(damaged)?.as_slice())?;
    let file: Checked<File> = inner.into_inner().map_err(|error| error.into_error())?;
    Ok(file.finish(path))
}

/// Writes an index up to its checksums; the rows are sorted by id.
fn write_rows(rows: &[Entry], out: &mut impl Write) -> Result<(), PackError> {
    out.write_all(b"\xfftOc\0\0\0\x02")?;
    let mut upto = 0;
    for first_byte in 0..=u8::MAX {
        upto += rows[upto..].iter().take_while(|row| row.oid.first_byte() == first_byte).count();
        out.write_all(&count(upto)?.to_be_bytes())?;
    }
    rows.iter().try_for_each(|row| out.write_all(row.oid.as_slice()))?;
    rows.iter().try_for_each(|row| out.write_all(&row.crc32.unwrap_or_default().to_be_bytes()))?;
    // An offset of 2 GiB or more is in a table of its own; here is its position there, with the highest bit set.
    let mut far = vec![];
    for row in rows {
        let word = match u32::try_from(row.pack_offset) {
            Ok(near) if near < 1 << 31 => near,
            _ => {
                far.push(row.pack_offset);
                count(far.len() - 1)? | 1 << 31
            }
        };
        out.write_all(&word.to_be_bytes())?;
    }
    Ok(far.iter().try_for_each(|offset| out.write_all(&offset.to_be_bytes()))?)
}

fn count(objects: usize) -> Result<u32, PackError> {
    u32::try_from(objects).map_err(|_| PackError::Damaged("it holds more objects than a pack can".to_owned()))
}
