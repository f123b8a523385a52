//! Thin packs: deltas in them may be based on objects that the receiving side has.
//!
//! Invariant: a thin pack stays only once it is completed: the objects that it lacks stand at its end, whole, and it is
//! verified as every other pack is.

pub mod history;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use gix_hash::ObjectId;
use sha1::{Digest, Sha1};

use super::incoming::{Decoded, INCOMING_PACK, Incoming, TRAILER_BYTES};
use super::subset::{Objects, Reader, Stop, SubsetError, within, write_whole};
use super::walk::no_base;
use super::{BUFFER_BYTES, PackError, ReceiveLimits, ReceivedPack, whole_or_nothing};
use crate::files::{Checked, CheckedFile};

/// Where a pack's header has the number of its objects.
const COUNT_OFFSET: u64 = 8;

/// [`receive`](super::receive) for a pack that may be thin. The objects that it lacks are taken from the packs that are in
/// `dir` already, and put at its end. `received` is called when the last byte from `source` is on the disk, before anything is
/// decoded.
///
/// Returns the completed pack and its index. After an error, nothing is left behind.
pub(crate) fn receive_thin(
    source: impl Read,
    dir: &Path,
    limits: &ReceiveLimits<'_>,
    received: impl FnOnce(),
) -> Result<(ReceivedPack, CheckedFile), PackError> {
    whole_or_nothing(dir, |pack| {
        let incoming = Incoming::spool(source, dir, limits)?;
        received();
        let mut decoded = incoming.decode(limits)?;
        if !decoded.is_complete {
            decoded = complete(decoded, dir, limits)?;
        }
        *pack = Some(decoded.pack.place(dir)?);
        decoded.index(dir, limits)
    })
}

/// Adds what a pack lacks, as far as it is in `dir`.
fn complete<'a>(thin: Decoded<'a>, dir: &Path, limits: &ReceiveLimits<'a>) -> Result<Decoded<'a>, PackError> {
    let (objects, end) = (thin.objects(), thin.pack.entries_end());
    let lacking = Ids::keep(dir, thin.lacking())?;
    // Nothing is held while memory is asked for.
    drop(thin);
    let own = Own { path: dir.join(INCOMING_PACK), objects, end };
    let completed = Incoming::reopen(own.with(&lacking, dir, limits)?, limits)?.decode(limits)?;
    let (own_ids, added) = completed.found().split_at(objects as usize);
    // Seldom: the pack has one of these itself, as a delta on another one that it lacks.
    let mut is_own = vec![false; added.len()];
    for found in own_ids {
        if let Ok(at) = added.binary_search_by(|it| it.id.cmp(&found.id)) {
            is_own[at] = true;
        }
    }
    if !is_own.contains(&true) {
        return Ok(completed);
    }
    let others = added.iter().zip(is_own).filter(|(_, is_own)| !is_own);
    let lacking = Ids::keep(dir, others.map(|(found, _)| found.id))?;
    drop(completed);
    Incoming::reopen(own.with(&lacking, dir, limits)?, limits)?.decode(limits)
}

/// A pack's own entries, in a file that may go on.
struct Own {
    path: PathBuf,
    objects: u32,
    /// Where the last of them ends.
    end: u64,
}

impl Own {
    /// Makes it a pack of its own entries and these objects, as far as they are in the packs of `dir`.
    fn with(&self, ids: &Ids, dir: &Path, limits: &ReceiveLimits<'_>) -> Result<CheckedFile, PackError> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let objects = Objects::in_folder(dir)?;
        let (_, _, added) = within(&objects, limits.memory, limits.interrupt, |reader| {
            // An attempt with less memory may have left something.
            let begun = file.set_len(self.end).and_then(|()| (&file).seek(SeekFrom::Start(self.end)));
            begun.map_err(SubsetError::Receiver)?;
            let limited = Limited { file: &file, at: self.end + TRAILER_BYTES, limit: limits.pack_bytes };
            append(reader, ids, BufWriter::with_capacity(BUFFER_BYTES, limited))
        })?;
        let count = self.objects.checked_add(added).filter(|_| added > 0).ok_or_else(no_base)?;
        file.write_all_at(&count.to_be_bytes(), COUNT_OFFSET)?;
        self.seal(&file, limits.interrupt)
    }

    /// Ends the pack with the checksum of what it holds now.
    fn seal(&self, mut file: &File, interrupt: &AtomicBool) -> Result<CheckedFile, PackError> {
        file.rewind()?;
        let (mut sum, mut checked) = (Sha1::new(), Checked::new(io::sink()));
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            sum.update(&buffer[..read]);
            checked.write_all(&buffer[..read])?;
            if interrupt.load(Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
        }
        let trailer = sum.finalize();
        file.write_all(&trailer)?;
        checked.write_all(&trailer)?;
        Ok(checked.finish(self.path.clone()))
    }
}

/// Writes objects whole, and returns how many of them there are.
fn append(reader: &mut Reader<'_>, ids: &Ids, mut out: impl Write) -> Result<u32, Stop> {
    let mut added = 0;
    for id in ids.read().map_err(SubsetError::Receiver)? {
        let id = id.map_err(SubsetError::Receiver)?;
        if let Some(object) = reader.objects.find(&id) {
            write_whole(reader, object, &mut out)?;
            added += 1;
        }
    }
    out.flush().map_err(SubsetError::Receiver)?;
    Ok(added)
}

/// Ids in a file without a name: there may be more than should be held.
struct Ids {
    file: File,
    count: u32,
}

impl Ids {
    fn keep(dir: &Path, ids: impl Iterator<Item = [u8; 20]>) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, tempfile::tempfile_in(dir)?);
        let mut count = 0;
        for id in ids {
            out.write_all(&id)?;
            count += 1;
        }
        Ok(Self { file: out.into_inner().map_err(io::IntoInnerError::into_error)?, count })
    }

    fn read(&self) -> io::Result<impl Iterator<Item = io::Result<ObjectId>>> {
        (&self.file).rewind()?;
        let mut from = BufReader::with_capacity(BUFFER_BYTES, &self.file);
        Ok((0..self.count).map(move |_| {
            let mut id = [0; 20];
            from.read_exact(&mut id)?;
            Ok(ObjectId::Sha1(id))
        }))
    }
}

/// The end of a pack that is not to become longer than `limit`.
struct Limited<'a> {
    file: &'a File,
    at: u64,
    limit: u64,
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.at + bytes.len() as u64 > self.limit {
            return Err(io::Error::other(PackError::TooLarge { limit: self.limit }));
        }
        let written = self.file.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
