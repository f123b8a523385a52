//! A pack on its way into a folder: from its first byte to its index.
//!
//! Invariant: the table is granted before the entries are read, and the buffers before anything is decoded. A pack gets its
//! index only if all of its objects are found and everything that they refer to is there.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use gix_hash::ObjectId;
use gix_pack::data;
use parking_lot::MutexGuard;

use super::entries::Entries;
use super::error::{PackError, damaged};
use super::resolve::{self, SINGLE_THREAD_OBJECTS};
use super::table::{Found, Table};
use super::walk::{Plan, Walk, no_base};
use super::{BUFFER_BYTES, HASH, ReceiveLimits, ReceivedPack, connectivity, index, truncated};
use crate::files::{Checked, CheckedFile};
use crate::memory::{MemoryBudget, Share};

/// The pack's name until it is complete.
pub(super) const INCOMING_PACK: &str = "incoming.pack";
/// The checksum that a pack ends with, in bytes.
pub(super) const TRAILER_BYTES: u64 = 20;
/// A large pack waits no longer than this for its turn: one that takes hours would use up the others' time limits.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// A pack that is on the disk as a whole, with the checksum that it ends with. Nothing of it is decoded yet.
pub(super) struct Incoming<'a> {
    table: Table,
    share: Share<'a>,
    trailer: ObjectId,
    file: CheckedFile,
}

impl<'a> Incoming<'a> {
    /// Writes what `source` brings into `dir`.
    pub(super) fn spool(source: impl Read, dir: &Path, limits: &ReceiveLimits<'a>) -> Result<Self, PackError> {
        let path = dir.join(INCOMING_PACK);
        let file = Checked::new(truncated(&path)?);
        let mut tee = Tee { source, file, limit: limits.pack_bytes };
        let read = read_table(&mut tee, limits.memory, 0, limits.interrupt);
        read.map(|(table, share, trailer)| Self { table, share, trailer, file: tee.file.finish(path) })
    }

    /// A pack that is there already.
    pub(super) fn reopen(file: CheckedFile, limits: &ReceiveLimits<'a>) -> Result<Self, PackError> {
        let (table, share, trailer) = read_table(File::open(&file.path)?, limits.memory, 0, limits.interrupt)?;
        Ok(Self { table, share, trailer, file })
    }

    /// Where its last entry ends.
    pub(super) fn entries_end(&self) -> u64 {
        self.file.len - TRAILER_BYTES
    }

    /// Gives the pack its name, which is made of its checksum.
    pub(super) fn place(&mut self, dir: &Path) -> io::Result<ReceivedPack> {
        let name = format!("pack-{}", self.trailer);
        let path = dir.join(format!("{name}.pack"));
        fs::rename(&self.file.path, &path)?;
        self.file.path = path;
        Ok(ReceivedPack { name, file: self.file.clone(), decode_bytes: self.table.decode_bytes() })
    }

    /// Finds the ids of its objects, on all cores if it is large.
    pub(super) fn decode(self, limits: &ReceiveLimits<'a>) -> Result<Decoded<'a>, PackError> {
        let Self { table, share, trailer, file } = self;
        let large = table.len() >= SINGLE_THREAD_OBJECTS;
        let (mut table, share, plan) = grant(&file.path, (table, share), 0, limits.memory, limits.interrupt)?;
        // After the memory, which others may need to end their turn.
        let turn = large.then(|| limits.turns.enter(TURN_TIMEOUT, limits.interrupt)).flatten();
        let data = data::File::at(&file.path, HASH).map_err(damaged)?;
        let is_complete = resolve::find_ids(&mut table, &data, plan, limits.interrupt)?;
        Ok(Decoded { pack: Self { table, share, trailer, file }, is_complete, data, plan, turn })
    }
}

/// A pack whose objects are found, but for those that are based on objects which it lacks.
pub(super) struct Decoded<'a> {
    pub(super) pack: Incoming<'a>,
    pub(super) is_complete: bool,
    data: data::File,
    plan: Plan,
    turn: Option<MutexGuard<'a, ()>>,
}

impl Decoded<'_> {
    pub(super) fn objects(&self) -> u32 {
        self.pack.table.len()
    }

    /// Its objects, in the order of their entries.
    pub(super) fn found(&self) -> &[Found] {
        &self.pack.table.found
    }

    /// The ids of the objects that it lacks, sorted. It may have some of them, as deltas on others.
    pub(super) fn lacking(&self) -> impl Iterator<Item = [u8; 20]> {
        self.pack.table.lacking()
    }

    /// Writes the index, and checks that everything is there that the objects refer to.
    pub(super) fn index(self, dir: &Path, limits: &ReceiveLimits<'_>) -> Result<CheckedFile, PackError> {
        if !self.is_complete {
            return Err(no_base().into());
        }
        let table = &self.pack.table;
        let index = index::write(dir, table, self.pack.trailer)?;
        let walk = Walk { pack: &self.data, table, plan: self.plan, interrupt: limits.interrupt };
        connectivity::check(walk, &index::open(&index.path)?, &older_indexes(dir, &index.path)?)?;
        drop((self.turn, self.pack.share));
        Ok(index)
    }
}

/// Reads a pack's entries into a table. `beside_bytes` is what the caller keeps for each object.
pub(super) fn read_table<'a>(
    source: impl Read,
    memory: &'a MemoryBudget,
    beside_bytes: u64,
    interrupt: &AtomicBool,
) -> Result<(Table, Share<'a>, ObjectId), PackError> {
    let entries = Entries::new(BufReader::with_capacity(BUFFER_BYTES, source))?;
    if entries.objects() == 0 {
        return Err(PackError::Empty);
    }
    // Before anything more is read.
    let (mut table, share) = resolve::reserve_table(memory, entries.objects(), beside_bytes, interrupt)?;
    let trailer = entries.read_into(&mut table)?;
    Ok((table, share, trailer))
}

/// Waits for what decoding the pack at `path` takes, in addition to its table. If another pack needs as much, the table is
/// given back, and read again when this pack is alone.
pub(super) fn grant<'a>(
    path: &Path,
    (mut table, mut share): (Table, Share<'a>),
    beside_bytes: u64,
    memory: &'a MemoryBudget,
    interrupt: &AtomicBool,
) -> Result<(Table, Share<'a>, Plan), PackError> {
    let plan = resolve::plan(&table, memory);
    if !resolve::granted(plan, &mut share, interrupt)? {
        let objects = table.len();
        drop((table, share));
        (table, share) = resolve::reserve_all(memory, objects, beside_bytes, plan, interrupt)?;
        let file = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
        Entries::new(file)?.read_into(&mut table)?;
    }
    Ok((table, share, plan))
}

/// The indexes in `dir` except `own`. Objects of one that cannot be read count as missing.
fn older_indexes(dir: &Path, own: &Path) -> io::Result<Vec<gix_pack::index::File>> {
    let mut older = vec![];
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "idx") && path != own {
            older.extend(index::open(&path));
        }
    }
    Ok(older)
}

/// Writes everything read from `source` into `file` too.
struct Tee<R> {
    source: R,
    file: Checked<File>,
    limit: u64,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        if self.file.len() + read as u64 > self.limit {
            return Err(io::Error::other(PackError::TooLarge { limit: self.limit }));
        }
        self.file.write_all(&buffer[..read])?;
        Ok(read)
    }
}
