//! A pack from the wire onto the disk: written once, checked object by object, indexed beside it.
//!
//! Invariant: a pack stays only if every object's bytes hash to its name, the whole hashes to the trailer, and everything
//! its objects refer to is there. Memory does not grow with the size of blobs: those stored whole are hashed as they stream
//! by, and only delta chains and small objects are decompressed into memory, within the memory budget.

mod connectivity;
mod delta;
mod entries;
mod error;
mod incoming;
mod index;
mod indexed;
mod join;
mod resolve;
pub mod subset;
mod table;
pub mod thin;
mod turn;
mod walk;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::AtomicBool;

pub use self::error::{PackError, Shortage};
use self::incoming::{INCOMING_PACK, Incoming};
use self::index::INCOMING_INDEX;
pub(super) use self::indexed::visit_all;
pub(crate) use self::join::join;
pub use self::turn::IndexTurns;
pub use self::walk::WalkError;
use crate::files::{CheckedFile, private_file};
use crate::memory::MemoryBudget;

/// Blobs of at least this size that are stored whole are hashed while they stream by, and never held in memory.
pub(super) const LARGE_BLOB_BYTES: u64 = 16 << 20;
/// The largest object that is held in memory.
pub(super) const OBJECT_LIMIT_BYTES: usize = 2 << 30;
/// The buffer between the wire and the inflater, and the one behind it.
const BUFFER_BYTES: usize = 64 << 10;
/// The largest commit, tree or tag that is taken, in bytes. A tree of this size has more than a million entries.
pub const STRUCTURE_LIMIT_BYTES: u64 = 64 << 20;
pub(super) const HASH: gix_hash::Kind = gix_hash::Kind::Sha1;

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
    whole_or_nothing(dir, |pack| {
        let mut incoming = Incoming::spool(source, dir, limits)?;
        received(pack.insert(incoming.place(dir)?).clone());
        incoming.decode(limits)?.index(dir, limits)
    })
}

/// Does `work`, which sets the pack as soon as it has its name. After an error, nothing of it is left in `dir`.
fn whole_or_nothing(
    dir: &Path,
    work: impl FnOnce(&mut Option<ReceivedPack>) -> Result<CheckedFile, PackError>,
) -> Result<(ReceivedPack, CheckedFile), PackError> {
    let mut pack = None;
    match work(&mut pack) {
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

fn truncated(path: &Path) -> io::Result<File> {
    let file = private_file(path)?;
    file.set_len(0)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
