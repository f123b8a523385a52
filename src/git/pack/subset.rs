//! One pack of what a far side lacks, made of the packs of a verified repository: entries are copied as they are stored.
//!
//! Invariant: everything that `new` reaches and `have` does not is in it, each object once; what is not in it is only left out
//! because `have` reaches it. A delta stays one only if its base is sent, or the far side is known to have it.
//!
//! Memory, within the budget: one byte for each object of the repository, and 8 MiB. More only if a commit, a tree or a delta
//! takes more than 2 MiB while it is decoded, or more than 47,000 objects are sent from one pack, for [`ROW_BYTES`] each.

mod ancestry;
mod marks;
mod objects;
mod reader;
mod rows;
mod write;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gix_hash::ObjectId;

pub(crate) use self::ancestry::descends;
use self::marks::Marks;
use self::objects::Objects;
use self::reader::{Reader, Room, Stop};
use self::rows::ROW_BYTES;
use self::write::{Counted, Writer};
use super::{Shortage, WalkError};
use crate::memory::{MemoryBudget, Refusal, Share};
use crate::model::key::CommitId;

/// What is kept for each object of the repository, in bytes.
const MARK_BYTES: u64 = 1;

/// A pack that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub bytes: u64,
    pub objects: u32,
    /// Whether everything in the repository is in it, so that the far side needs to have nothing.
    pub is_whole: bool,
}

/// Why a pack was not written. Each message follows "`<key>`: ".
#[derive(Debug, thiserror::Error)]
pub enum SubsetError {
    #[error("cannot read {}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    /// The repository changed since it was verified.
    #[error("its repository cannot be read")]
    Objects(#[source] WalkError),
    #[error(transparent)]
    Memory(Shortage),
    #[error("stopped")]
    Stopped,
    /// What `begin` returned failed, or `begin` itself.
    #[error("cannot pass the pack on")]
    Receiver(#[source] io::Error),
}

impl From<WalkError> for SubsetError {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Damaged(_) => Self::Objects(error),
            WalkError::Memory(shortage) => Self::Memory(shortage),
            WalkError::Stopped => Self::Stopped,
        }
    }
}

/// Writes the pack that brings `new` to a far side that has `have` and all that it reaches. `begin` gets its length and
/// says where to. `repository` holds `.git/objects`, verified, with all that `new` reaches.
///
/// If `have` is `None`, or not in the repository, everything in the repository is written. If that is one pack, this is the
/// pack's file.
pub(crate) fn write_subset<W: Write>(
    repository: &Path,
    new: CommitId,
    have: Option<CommitId>,
    memory: &MemoryBudget,
    interrupt: &AtomicBool,
    begin: impl FnOnce(u64) -> io::Result<W>,
) -> Result<Sent, SubsetError> {
    let objects = Objects::open(&repository.join(".git/objects"))?;
    let have = have.and_then(|have| objects.find(&id(have)));
    if objects.find(&id(new)).is_none() {
        return Err(objects.missing(&id(new)).into());
    }
    if let (None, Some(pack)) = (have, objects.only_pack()) {
        let sent = Sent { bytes: pack.data_len() as u64, objects: pack.num_objects(), is_whole: true };
        let mut out = begin(sent.bytes).map_err(SubsetError::Receiver)?;
        write::copy(pack, &mut out, interrupt)?;
        return Ok(sent);
    }
    let planned = within(&objects, memory, interrupt, |reader| plan(reader, id(new), have));
    let (_share, mut reader, (marks, counted)) = planned?;
    let out = begin(counted.bytes).map_err(SubsetError::Receiver)?;
    let writer = Writer::new(&mut reader, &marks, counted.objects, out);
    let written = writer.write().map_err(|stop| match stop {
        Stop::Error(error) => error,
        Stop::Room(_) => changed(),
    })?;
    if written.bytes != counted.bytes {
        return Err(changed());
    }
    Ok(Sent { bytes: counted.bytes, objects: counted.objects, is_whole: have.is_none() })
}

/// Does `work` within the memory that it turns out to need. Nothing is held while more is asked for.
fn within<'a, 'b, T>(
    objects: &'b Objects,
    memory: &'a MemoryBudget,
    interrupt: &'b AtomicBool,
    work: impl Fn(&mut Reader<'b>) -> Result<T, Stop>,
) -> Result<(Share<'a>, Reader<'b>, T), SubsetError> {
    let mut room = Room::default();
    loop {
        let share = reserve(memory, objects, room, interrupt)?;
        let mut reader = Reader::new(objects, interrupt, room);
        match work(&mut reader) {
            Ok(done) => return Ok((share, reader, done)),
            Err(Stop::Room(needed)) => room = needed,
            Err(Stop::Error(error)) => return Err(error),
        }
    }
}

/// Finds what is to be sent, and counts its bytes.
fn plan(reader: &mut Reader<'_>, new: ObjectId, have: Option<u32>) -> Result<(Marks, Counted), Stop> {
    let marks = match have {
        None => Marks::everything(reader)?,
        Some(have) => Marks::difference(reader, new, have)?,
    };
    reader.require_lists(marks.most_of_a_pack(reader.objects) * ROW_BYTES)?;
    let objects = marks.count_new();
    let counted = Writer::counting(reader, &marks, objects).write()?;
    Ok((marks, counted))
}

fn reserve<'a>(
    memory: &'a MemoryBudget,
    objects: &Objects,
    room: Room,
    interrupt: &AtomicBool,
) -> Result<Share<'a>, SubsetError> {
    let needed = u64::from(objects.len()) * MARK_BYTES + room.bytes();
    memory.table(needed, interrupt).map_err(|refusal| match refusal {
        Refusal::TooSmall { budget } => {
            SubsetError::Memory(Shortage::Objects { objects: objects.len(), needed, budget })
        }
        Refusal::Busy | Refusal::Interrupted => SubsetError::Stopped,
    })
}

fn changed() -> SubsetError {
    super::walk::damaged("its files change while they are read").into()
}

fn id(commit: CommitId) -> ObjectId {
    ObjectId::Sha1(*commit.as_bytes())
}

#[cfg(test)]
mod tests;
