//! One pack of what a far side lacks, made of the packs of a verified repository: entries are copied as they are stored.
//!
//! Invariant: everything that `new` reaches and `have` does not is in it, each object once; what is not in it is only left out
//! because `have` reaches it. A delta stays one only if its base is sent, or the far side is known to have it.
//!
//! Memory, within the budget: one byte for each object of the repository, and 8 MiB. More only if a commit, a tree or a delta
//! takes more than 2 MiB while it is decoded, or more than 47,000 objects are sent from one pack, for [`ROW_BYTES`] each.

mod ancestry;
mod chains;
mod marks;
mod objects;
mod reader;
mod rows;
mod whole;
mod write;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use gix_hash::ObjectId;
use gix_object::Kind;

pub(crate) use self::ancestry::descends;
use self::chains::{CHAIN_ROW_BYTES, Chains};
use self::marks::Marks;
pub(super) use self::objects::Objects;
use self::reader::Room;
pub(super) use self::reader::{Reader, Stop};
use self::rows::ROW_BYTES;
pub(super) use self::whole::write_whole;
use self::write::{Counted, Purpose, Writer};
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
    /// What the other side is known to have cannot be told from what it lacks.
    #[error("the commit {0} is not in it")]
    NoBase(CommitId),
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
    let writer = Writer::new(&mut reader, &marks, counted.objects, Purpose::Push, out);
    let (written, _) = writer.write().map_err(|stop| match stop {
        Stop::Error(error) => error,
        Stop::Room(_) => changed(),
    })?;
    if written.bytes != counted.bytes {
        return Err(changed());
    }
    Ok(Sent { bytes: counted.bytes, objects: counted.objects, is_whole: have.is_none() })
}

/// Writes the pack that brings `new` to a far side that has `base` and all that it reaches, out of `packs`. These hold all
/// that `new` reaches, each without gaps, in the order in which they came: of an object that is in several, the first copy is
/// taken, which was not added as the base of another one. Deltas on what `base` reaches stay deltas, but no commit is one, so
/// that the pack alone tells what `new` descends from.
///
/// `begin` says where to. It is called again if more memory turns out to be needed, and then what was written is void.
pub(crate) fn write_increment<W: Write>(
    packs: &[PathBuf],
    base: CommitId,
    new: CommitId,
    memory: &MemoryBudget,
    interrupt: &AtomicBool,
    begin: impl Fn() -> io::Result<W>,
) -> Result<(Sent, W), SubsetError> {
    let objects = Objects::of_packs(packs)?;
    let Some(have) = objects.find(&id(base)) else { return Err(SubsetError::NoBase(base)) };
    let mark = |reader: &mut Reader<'_>| {
        if reader.read(have)?.kind != Kind::Commit {
            return Err(SubsetError::NoBase(base).into());
        }
        Ok((Marks::difference(reader, id(new), have)?, Purpose::Increment))
    };
    let (counted, out) = write_all(&objects, memory, interrupt, mark, begin)?;
    Ok((Sent { bytes: counted.bytes, objects: counted.objects, is_whole: false }, out))
}

/// Writes one pack of all that is in `packs`, each object once. The first copy of each is taken. Each pack must be without
/// gaps, and so is the result. `begin` is as in [`write_increment`].
pub(super) fn write_joined<W: Write>(
    packs: &[PathBuf],
    memory: &MemoryBudget,
    interrupt: &AtomicBool,
    begin: impl Fn() -> io::Result<W>,
) -> Result<W, SubsetError> {
    let objects = Objects::of_packs(packs)?;
    let mark = |reader: &mut Reader<'_>| {
        reader.require_lists(u64::from(reader.objects.len()) * CHAIN_ROW_BYTES)?;
        Ok((Marks::everything(reader)?, Purpose::Join(Chains::new(reader.objects.len()))))
    };
    write_all(&objects, memory, interrupt, mark, begin).map(|(_, out)| out)
}

/// Writes what `mark` marks.
fn write_all<W: Write>(
    objects: &Objects,
    memory: &MemoryBudget,
    interrupt: &AtomicBool,
    mark: impl Fn(&mut Reader<'_>) -> Result<(Marks, Purpose), Stop>,
    begin: impl Fn() -> io::Result<W>,
) -> Result<(Counted, W), SubsetError> {
    let written = within(objects, memory, interrupt, |reader| {
        let (marks, purpose) = mark(reader)?;
        let chains = if let Purpose::Join(_) = purpose { u64::from(objects.len()) * CHAIN_ROW_BYTES } else { 0 };
        reader.require_lists(marks.most_of_a_pack(objects) * ROW_BYTES + chains)?;
        let out = begin().map_err(SubsetError::Receiver)?;
        let count = marks.count_new();
        Writer::new(reader, &marks, count, purpose, out).write()
    });
    let (counted, out) = written?.2;
    // It was not only counted.
    out.map(|out| (counted, out)).ok_or_else(changed)
}

/// Does `work` within the memory that it turns out to need. Nothing is held while more is asked for.
pub(super) fn within<'a, 'b, T>(
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
    let (counted, _) = Writer::counting(reader, &marks, objects).write()?;
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
