//! A pack from the wire onto the disk: written once, checked object by object, indexed beside it.
//!
//! Invariant: a pack stays only if every object's bytes hash to its name, the whole hashes to the trailer, and everything
//! its objects refer to is there. Memory does not grow with the size of blobs: those stored whole are hashed as they stream
//! by, and only delta chains and small objects are decompressed into memory, within the memory budget.

mod connectivity;
mod delta;
mod entries;
mod error;
mod index;
mod indexed;
mod resolve;
pub mod subset;
mod table;
mod turn;
mod walk;

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use gix_pack::data;

use self::entries::Entries;
use self::error::damaged;
pub use self::error::{PackError, Shortage};
use self::index::INCOMING_INDEX;
pub(super) use self::indexed::visit_all;
use self::resolve::SINGLE_THREAD_OBJECTS;
pub use self::turn::IndexTurns;
use self::walk::Walk;
pub use self::walk::WalkError;
use crate::files::{Checked, CheckedFile, private_file};
use crate::memory::MemoryBudget;

/// Blobs of at least this size that are stored whole are hashed while they stream by, and never held in memory.
pub(super) const LARGE_BLOB_BYTES: u64 = 16 << 20;
/// The largest object that is held in memory.
pub(super) const OBJECT_LIMIT_BYTES: usize = 2 << 30;
/// A large pack waits no longer than this for its turn: one that takes hours would use up the others' time limits.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
/// The buffer between the wire and the inflater, and the one behind it.
const BUFFER_BYTES: usize = 64 << 10;
/// The largest commit, tree or tag that is taken, in bytes. A tree of this size has more than a million entries.
pub const STRUCTURE_LIMIT_BYTES: u64 = 64 << 20;
pub(super) const HASH: gix_hash::Kind = gix_hash::Kind::Sha1;
/// The pack's name until it is complete.
const INCOMING_PACK: &str = "incoming.pack";

/// A pack whose last byte has arrived, trailer checked; its objects are not verified yet.
#[derive(Debug, Clone)]
pub struct ReceivedPack {
    /// `pack-<40 hex digits>`.
    pub name: String,
    /// The pack file, under its final name.
    pub file: CheckedFile,
    /// What decoding one object takes in memory at most, in bytes.
    pub decode_bytes: u64,
}

/// Bounds of one reception.
pub struct ReceiveLimits<'a> {
    /// Longest pack accepted, in bytes.
    pub pack_bytes: u64,
    /// Set to give up.
    pub interrupt: &'a AtomicBool,
    /// What the pack's objects may take in memory, and those of other packs.
    pub(crate) memory: &'a MemoryBudget,
    /// Keeps two large packs from being resolved at the same time, each with all the threads.
    pub turns: &'a IndexTurns,
}

/// Writes the pack that `source` brings into `dir` (a repository's `objects/pack`) and indexes it. `received` is called
/// when the pack's last byte is on the disk, before its objects are verified. They may refer to objects of packs that are
/// in `dir` already, if this function received those too.
///
/// Returns the pack and its index. After an error, nothing is left behind.
pub fn receive(
    source: impl Read,
    dir: &Path,
    limits: &ReceiveLimits<'_>,
    received: impl FnOnce(ReceivedPack),
) -> Result<(ReceivedPack, CheckedFile), PackError> {
    let mut pack = None;
    match store_and_index(source, dir, limits, received, &mut pack) {
        Ok(index) => pack.map(|pack| (pack, index)).ok_or(PackError::Empty),
        Err(error) => {
            let refused = pack.into_iter().flat_map(|pack| [pack.file.path.with_extension("idx"), pack.file.path]);
            let incoming = [INCOMING_PACK, INCOMING_INDEX].map(|name| dir.join(name));
            for leftover in incoming.into_iter().chain(refused) {
                // A file that cannot be removed is not in the repository's list of packs either.
                drop(fs::remove_file(leftover));
            }
            Err(error)
        }
    }
}

/// [`receive`] without the clean-up. `pack` is set as soon as the pack is whole.
fn store_and_index(
    source: impl Read,
    dir: &Path,
    limits: &ReceiveLimits<'_>,
    received: impl FnOnce(ReceivedPack),
    pack: &mut Option<ReceivedPack>,
) -> Result<CheckedFile, PackError> {
    let incoming = dir.join(INCOMING_PACK);
    let file = Checked::new(truncated(&incoming)?);
    let mut tee = Tee { source, file, limit: limits.pack_bytes };
    let entries = Entries::new(BufReader::with_capacity(BUFFER_BYTES, &mut tee))?;
    let objects = entries.objects();
    if objects == 0 {
        return Err(PackError::Empty);
    }
    // Before anything more is read.
    let (mut table, mut share) = resolve::reserve_table(limits.memory, objects, 0, limits.interrupt)?;
    let trailer = entries.read_into(&mut table)?;

    let name = format!("pack-{trailer}");
    let path = dir.join(format!("{name}.pack"));
    fs::rename(&incoming, &path)?;
    let placed = ReceivedPack { name, file: tee.file.finish(path.clone()), decode_bytes: table.decode_bytes() };
    received(placed.clone());
    *pack = Some(placed);

    let plan = resolve::plan(&table, limits.memory);
    if !resolve::granted(plan, &mut share, limits.interrupt)? {
        drop((table, share));
        (table, share) = resolve::reserve_all(limits.memory, objects, 0, plan, limits.interrupt)?;
        let file = BufReader::with_capacity(BUFFER_BYTES, File::open(&path)?);
        Entries::new(file)?.read_into(&mut table)?;
    }
    // After the memory, which others may need to end their turn.
    let large = objects >= SINGLE_THREAD_OBJECTS;
    let turn = large.then(|| limits.turns.enter(TURN_TIMEOUT, limits.interrupt)).flatten();
    let data = data::File::at(&path, HASH).map_err(damaged)?;
    resolve::find_ids(&mut table, &data, plan, limits.interrupt)?;
    let index = index::write(dir, &table, trailer)?;
    let walk = Walk { pack: &data, table: &table, plan, interrupt: limits.interrupt };
    connectivity::check(walk, &index::open(&index.path)?, &older_indexes(dir, &index.path)?)?;
    drop((turn, share));
    Ok(index)
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

fn truncated(path: &Path) -> io::Result<File> {
    let file = private_file(path)?;
    file.set_len(0)?;
    Ok(file)
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

#[cfg(test)]
mod tests;
