//! From a pack's entries to its objects, within the memory budget.
//!
//! Invariant: nothing is allocated that was not granted: the table before the pack is read, the buffers before anything is
//! decoded.

use std::mem;
use std::sync::atomic::AtomicBool;
use std::thread::available_parallelism;

use gix_pack::data;
use parking_lot::Mutex;

use super::error::{PackError, Shortage};
use super::table::{Found, OBJECT_BYTES, Table};
use super::walk::{Content, Plan, THREAD_BYTES, Walk, WalkError};
use crate::memory::{MemoryBudget, Refusal, Share};

/// A pack with fewer objects is decoded on one thread: starting more costs more than it saves.
pub(super) const SINGLE_THREAD_OBJECTS: u32 = 2_000;
/// How many ids a thread finds before it notes them in the table.
const BATCH_OBJECTS: usize = 512;

/// Waits for the memory that the table of this many objects takes. `beside_bytes` is what the caller keeps for each.
pub(in crate::git) fn reserve_table<'a>(
    memory: &'a MemoryBudget,
    objects: u32,
    beside_bytes: u64,
    interrupt: &AtomicBool,
) -> Result<(Table, Share<'a>), WalkError> {
    let needed = table_bytes(objects, beside_bytes);
    let share = memory.table(needed, interrupt);
    let share = share.map_err(|refusal| refused(refusal, |budget| Shortage::Objects { objects, needed, budget }))?;
    Ok((Table::new(objects)?, share))
}

/// How to decode: on all cores, or on as many as the memory allows.
pub(in crate::git) fn plan(table: &Table, memory: &MemoryBudget) -> Plan {
    let cores = if table.len() < SINGLE_THREAD_OBJECTS { 1 } else { available_parallelism().map_or(1, usize::from) };
    let (need, beside) = (table.need_bytes(), THREAD_BYTES + table.longest_instructions());
    let common = memory.common_bytes();
    let (threads, thread_bytes, list_bytes) = match table.by_id_bytes() {
        (_, 0) => {
            let affordable = usize::try_from(common / (need + beside)).unwrap_or(cores);
            (affordable.clamp(1, cores), need, 0)
        }
        // One thread counts exactly what it holds.
        (most, list) => (1, (need + most).min(common.saturating_sub(beside + list)).max(need), list),
    };
    let bytes = threads as u64 * (thread_bytes + beside) + list_bytes;
    Plan { threads, thread_bytes, bytes, budget_bytes: memory.bytes() }
}

/// Waits for the memory that decoding takes. `false`: another pack needs as much; drop table and share, and wait with
/// [`reserve_all`] until there is no other.
pub(in crate::git) fn granted(plan: Plan, share: &mut Share<'_>, interrupt: &AtomicBool) -> Result<bool, WalkError> {
    match share.buffers(plan.bytes, interrupt) {
        Ok(()) => Ok(true),
        Err(Refusal::Busy) => Ok(false),
        Err(refusal) => Err(refused(refusal, |budget| Shortage::Deltas { needed: plan.bytes, budget })),
    }
}

/// Waits until no other pack is decoded, for a table as [`reserve_table`] does, and for what decoding takes.
pub(in crate::git) fn reserve_all<'a>(
    memory: &'a MemoryBudget,
    objects: u32,
    beside_bytes: u64,
    plan: Plan,
    interrupt: &AtomicBool,
) -> Result<(Table, Share<'a>), WalkError> {
    let share = memory.alone(table_bytes(objects, beside_bytes), plan.bytes, interrupt);
    let share = share.map_err(|refusal| refused(refusal, |budget| Shortage::Deltas { needed: plan.bytes, budget }))?;
    Ok((Table::new(objects)?, share))
}

fn table_bytes(objects: u32, beside_bytes: u64) -> u64 {
    u64::from(objects) * (OBJECT_BYTES + beside_bytes)
}

fn refused(refusal: Refusal, too_small: impl FnOnce(u64) -> Shortage) -> WalkError {
    match refusal {
        Refusal::TooSmall { budget } => too_small(budget).into(),
        Refusal::Busy | Refusal::Interrupted => WalkError::Stopped,
    }
}

/// Finds the id and kind of every object. `false`: some are based on objects that the pack lacks.
pub(super) fn find_ids(
    table: &mut Table,
    pack: &data::File,
    plan: Plan,
    interrupt: &AtomicBool,
) -> Result<bool, PackError> {
    let found = Mutex::new(mem::take(&mut table.found));
    {
        let table = &*table;
        let mut batch = Batch { found: &found, new: vec![] };
        let note = move |object: u32, kind, content: Content<'_>| {
            let id = content.id(kind)?;
            batch.add(object, Found { id, kind: Some(kind) });
            Ok::<_, WalkError>(id)
        };
        // Those were hashed while they streamed by.
        Walk { pack, table, plan, interrupt }.visit(|root| !table.is_streamed(root), note)?;
    }
    table.found = found.into_inner();
    Ok(table.found.iter().all(|found| found.kind.is_some()))
}

/// What a thread has found and not noted yet. A clone is another thread's.
struct Batch<'a> {
    found: &'a Mutex<Vec<Found>>,
    new: Vec<(u32, Found)>,
}

impl Batch<'_> {
    fn add(&mut self, object: u32, found: Found) {
        self.new.push((object, found));
        if self.new.len() == BATCH_OBJECTS {
            self.note();
        }
    }

    fn note(&mut self) {
        let mut all = self.found.lock();
        for (object, found) in self.new.drain(..) {
            all[object as usize] = found;
        }
    }
}

impl Clone for Batch<'_> {
    fn clone(&self) -> Self {
        Self { found: self.found, new: vec![] }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.note();
    }
}
