//! Decodes the objects of a pack: trees of deltas, each from its root to its leaves, on several threads.
//!
//! Invariant: each thread holds no more at the same time than the table says the most demanding tree needs, so the memory is
//! known before the walk begins. Only deltas that name their bases by id are counted while they are found.

use std::collections::VecDeque;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;

use flate2::{Decompress, FlushDecompress, Status};
use gix_object::Kind;
use gix_pack::data;
use parking_lot::{Condvar, Mutex};

use super::delta::{self, Sizes};
use super::table::{NONE, Table};
use super::{BUFFER_BYTES, HASH, OBJECT_LIMIT_BYTES, Shortage};
use crate::threads;

/// What a thread takes in addition to the objects it holds, in bytes: its stack, what it keeps between objects, and the ids
/// that the check of the history remembers.
pub(super) const THREAD_BYTES: u64 = 4 << 20;
/// The largest buffer that a thread keeps for the next object, in bytes.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// A walk over the objects of a pack.
#[derive(Clone, Copy)]
pub(in crate::git) struct Walk<'a> {
    pub(in crate::git) pack: &'a data::File,
    pub(in crate::git) table: &'a Table,
    pub(in crate::git) plan: Plan,
    pub(in crate::git) interrupt: &'a AtomicBool,
}

/// How a pack is decoded within the memory that is granted.
#[derive(Debug, Clone, Copy)]
pub(in crate::git) struct Plan {
    pub(super) threads: usize,
    /// What the objects that one thread holds may take, in bytes.
    pub(super) thread_bytes: u64,
    /// What all of it takes, in bytes.
    pub(super) bytes: u64,
    pub(super) budget_bytes: u64,
}

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Memory(#[from] Shortage),
    #[error("stopped")]
    Stopped,
}

impl WalkError {
    /// The same, with the place of the entry that is damaged.
    fn at(self, entry: &data::Entry) -> Self {
        match self {
            Self::Damaged(why) => damaged(format!("{why} (at {})", entry.pack_offset())),
            other => other,
        }
    }
}

/// What a walk finds at an object.
#[derive(Clone, Copy)]
pub(in crate::git) enum Content<'a> {
    Whole(&'a [u8]),
    /// A large blob, which was hashed as a stream.
    Streamed([u8; 20]),
}

impl Content<'_> {
    /// The object's id.
    pub(in crate::git) fn id(self, kind: Kind) -> Result<[u8; 20], WalkError> {
        match self {
            Self::Streamed(id) => Ok(id),
            Self::Whole(bytes) => {
                let id = gix_object::compute_hash(HASH, kind, bytes).map_err(|error| damaged(error.to_string()))?;
                id.as_slice().try_into().map_err(|_| damaged("an id of another length"))
            }
        }
    }
}

impl From<gix_error::Error> for WalkError {
    fn from(error: gix_error::Error) -> Self {
        Self::Damaged(format!("{:#}", anyhow::Error::new(error)))
    }
}

pub(in crate::git) fn damaged(why: impl Into<String>) -> WalkError {
    WalkError::Damaged(why.into())
}

/// A delta whose base is not there.
pub(in crate::git) fn no_base() -> WalkError {
    damaged("the base of a delta is not in it")
}

/// An object that others are based on.
struct Held {
    bytes: Vec<u8>,
    kind: Kind,
}

/// An object whose children are not all decoded yet.
struct Frame {
    held: Arc<Held>,
    /// The next child but the last one.
    next: u32,
    /// Children that name it by id.
    by_id: Vec<u32>,
    last: u32,
}

impl Frame {
    fn take(&mut self, table: &Table) -> Option<u32> {
        if self.next != NONE {
            let following = table.next_child(self.next);
            return Some(std::mem::replace(&mut self.next, following));
        }
        self.by_id.pop().or_else(|| (self.last != NONE).then(|| std::mem::replace(&mut self.last, NONE)))
    }

    fn is_done(&self) -> bool {
        self.next == NONE && self.last == NONE && self.by_id.is_empty()
    }
}

/// A delta and its base, for another thread.
type Gift = (u32, Arc<Held>);

/// The work that the threads share.
struct Pool {
    /// Which deltas that name their bases by id are decoded, or about to be. A base may be there several times, and one of
    /// them may be a delta on what is based on another: without this the walk would never end.
    claimed: Vec<AtomicBool>,
    next_object: AtomicU32,
    visited: AtomicU32,
    /// Threads without work, as a hint for those that have some.
    hungry: AtomicUsize,
    stopped: AtomicBool,
    gifts: Mutex<Vec<Gift>>,
    changed: Condvar,
}

impl Walk<'_> {
    /// Visits every object of the trees whose roots are `wanted`. `visit` returns the object's id. Returns how many there
    /// were.
    pub(in crate::git) fn visit<V, E>(self, wanted: impl Fn(u32) -> bool + Sync, visit: V) -> Result<u32, E>
    where
        V: FnMut(u32, Kind, Content<'_>) -> Result<[u8; 20], E> + Clone + Send,
        E: From<WalkError> + Send,
    {
        let (pool, wanted) = (Pool::new(self.table), &wanted);
        let work = |visit: V| Worker::new(self, &pool, visit).run(wanted);
        if self.plan.threads == 1 {
            work(visit)?;
        } else {
            let outcomes: Vec<_> = thread::scope(|scope| {
                let others: Vec<_> = (1..self.plan.threads)
                    .filter_map(|_| {
                        let visit = visit.clone();
                        let other = threads::another(scope, || work(visit));
                        if other.is_none() {
                            pool.lacks_a_thread();
                        }
                        other
                    })
                    .collect();
                let own = Ok(work(visit));
                iter::once(own).chain(others.into_iter().map(thread::ScopedJoinHandle::join)).collect()
            });
            for outcome in outcomes {
                outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
        }
        Ok(pool.visited.into_inner())
    }
}

/// One thread of a walk.
struct Worker<'a, V> {
    walk: Walk<'a>,
    pool: &'a Pool,
    visit: V,
    inflate: Decompress,
    instructions: Vec<u8>,
    spare: Vec<u8>,
    frames: VecDeque<Frame>,
    /// What the frames hold.
    held_bytes: u64,
}

impl<'a, V, E> Worker<'a, V>
where
    V: FnMut(u32, Kind, Content<'_>) -> Result<[u8; 20], E>,
    E: From<WalkError>,
{
    fn new(walk: Walk<'a>, pool: &'a Pool, visit: V) -> Self {
        let (instructions, spare, frames) = (vec![], vec![], VecDeque::new());
        Self { walk, pool, visit, inflate: Decompress::new(true), instructions, spare, frames, held_bytes: 0 }
    }

    fn run(mut self, wanted: impl Fn(u32) -> bool) -> Result<(), E> {
        // If this thread fails, none waits for it.
        let leaving = Leaving(self.pool);
        while !self.pool.stopped.load(Ordering::Relaxed) {
            // What was begun is ended first: it holds memory.
            if let Some((child, base)) = self.next_child() {
                self.child(child, base)?;
                self.give();
            } else if let Some(root) = self.next_root(&wanted) {
                self.root(root)?;
            } else if let Some((child, base)) = self.pool.wait_for_gift(self.walk.plan.threads) {
                self.child(child, base)?;
            } else {
                break;
            }
        }
        std::mem::forget(leaving);
        Ok(())
    }

    fn next_root(&self, wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let table = self.walk.table;
        while self.pool.next_object.load(Ordering::Relaxed) < table.len() {
            let object = self.pool.next_object.fetch_add(1, Ordering::Relaxed);
            if object < table.len() && table.is_root(object) && wanted(object) {
                return Some(object);
            }
        }
        None
    }

    fn next_child(&mut self) -> Option<Gift> {
        let frame = self.frames.back_mut()?;
        let child = frame.take(self.walk.table)?;
        if !frame.is_done() {
            return Some((child, Arc::clone(&frame.held)));
        }
        let held = self.frames.pop_back()?.held;
        self.held_bytes -= held.bytes.len() as u64;
        Some((child, held))
    }

    /// Hands the nearest to the root to a thread that has nothing to do.
    fn give(&mut self) {
        if self.pool.hungry.load(Ordering::Relaxed) == 0 {
            return;
        }
        let several = self.frames.len() > 1;
        let Some(frame) = self.frames.front_mut().filter(|frame| several || frame.next != NONE) else { return };
        let mut gifts = self.pool.gifts.lock();
        // A gift's base counts as held by the thread that takes it.
        if gifts.len() >= self.pool.hungry.load(Ordering::Relaxed) {
            return;
        }
        let Some(child) = frame.take(self.walk.table) else { return };
        gifts.push((child, Arc::clone(&frame.held)));
        self.pool.changed.notify_one();
        if frame.is_done() {
            self.held_bytes -= frame.held.bytes.len() as u64;
            self.frames.pop_front();
        }
    }

    fn root(&mut self, object: u32) -> Result<(), E> {
        let (entry, compressed) = self.entry(object)?;
        let kind = entry.header.as_kind().ok_or_else(|| damaged("a delta where its table has none"))?;
        if self.walk.table.is_streamed(object) {
            let id = self.hash_stream(&entry, compressed).map_err(|error| error.at(&entry))?;
            return self.visited(object, kind, Content::Streamed(id)).map(drop);
        }
        let mut bytes = self.buffer(object)?;
        let inflated = inflate(&mut self.inflate, compressed, entry.decompressed_size, &mut bytes);
        inflated.map_err(|error| error.at(&entry))?;
        self.decoded(object, kind, bytes)
    }

    fn child(&mut self, object: u32, base: Arc<Held>) -> Result<(), E> {
        let (entry, compressed) = self.entry(object)?;
        // Before the buffer for this one is there.
        let mut instructions = std::mem::take(&mut self.instructions);
        if entry.decompressed_size > instructions.capacity() as u64 {
            instructions = vec![];
        }
        let inflated = inflate(&mut self.inflate, compressed, entry.decompressed_size, &mut instructions);
        inflated.map_err(|error| error.at(&entry))?;
        let sizes = Sizes::of(&instructions).ok_or_else(|| damaged("a delta ends inside its header"))?;
        if sizes.base != base.bytes.len() as u64 || sizes.result != u64::from(self.walk.table.size(object)) {
            return Err(damaged("a delta's sizes do not fit its base").into());
        }
        let mut bytes = self.buffer(object)?;
        let size = self.walk.table.size(object) as usize;
        if !delta::apply(&base.bytes, &instructions[sizes.header..], size, &mut bytes) {
            return Err(damaged("a delta does not fit its base").into());
        }
        if instructions.capacity() <= KEPT_BUFFER_BYTES {
            self.instructions = instructions;
        }
        let kind = base.kind;
        if let Ok(held) = Arc::try_unwrap(base) {
            self.keep(held.bytes);
        }
        self.decoded(object, kind, bytes)
    }

    fn entry(&self, object: u32) -> Result<(data::Entry, &'a [u8]), WalkError> {
        if self.walk.interrupt.load(Ordering::Relaxed) {
            return Err(WalkError::Stopped);
        }
        let range = self.walk.table.range(object);
        let offset = range.start;
        let slice = self.walk.pack.entry_slice(range).filter(|slice| !slice.is_empty());
        let slice = slice.ok_or_else(|| damaged("it ends too early"))?;
        let entry = data::Entry::from_bytes(slice, offset, HASH).map_err(|error| damaged(error.to_string()))?;
        let compressed = slice.get(entry.header_size()..).unwrap_or_default();
        Ok((entry, compressed))
    }

    /// A buffer for an object. One that stays because others are based on the object is not larger than the object.
    fn buffer(&mut self, object: u32) -> Result<Vec<u8>, WalkError> {
        let (table, size) = (self.walk.table, self.walk.table.size(object) as usize);
        if size > OBJECT_LIMIT_BYTES {
            return Err(Shortage::Object { limit: OBJECT_LIMIT_BYTES as u64 }.into());
        }
        let mut buffer = match size <= self.spare.capacity() && table.last_child(object) == NONE {
            true => std::mem::take(&mut self.spare),
            false => vec![],
        };
        buffer.clear();
        buffer.try_reserve_exact(size.max(1)).map_err(|_| Shortage::Exhausted)?;
        Ok(buffer)
    }

    fn keep(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT_BUFFER_BYTES && buffer.capacity() > self.spare.capacity() {
            self.spare = buffer;
        }
    }

    fn visited(&mut self, object: u32, kind: Kind, content: Content<'_>) -> Result<[u8; 20], E> {
        let id = (self.visit)(object, kind, content)?;
        self.pool.visited.fetch_add(1, Ordering::Relaxed);
        Ok(id)
    }

    fn decoded(&mut self, object: u32, kind: Kind, mut bytes: Vec<u8>) -> Result<(), E> {
        let id = self.visited(object, kind, Content::Whole(&bytes))?;
        let table = self.walk.table;
        let by_id = self.pool.claim(table, &id);
        let last = table.last_child(object);
        if last == NONE && by_id.is_empty() {
            self.keep(bytes);
            return Ok(());
        }
        bytes.shrink_to_fit();
        self.held_bytes += bytes.len() as u64;
        let most = by_id.iter().map(|child| u64::from(table.need_kib_of(*child)) * 1024).max();
        let needed = self.held_bytes + most.unwrap_or(0);
        if most.is_some() && needed > self.walk.plan.thread_bytes {
            return Err(WalkError::from(Shortage::Deltas { needed, budget: self.walk.plan.budget_bytes }).into());
        }
        let next = if last == NONE { NONE } else { table.next_child(last) };
        self.frames.push_back(Frame { held: Arc::new(Held { bytes, kind }), next, by_id, last });
        Ok(())
    }

    /// Hashes a blob without holding it.
    fn hash_stream(&mut self, entry: &data::Entry, compressed: &[u8]) -> Result<[u8; 20], WalkError> {
        let mut hash = gix_hash::hasher(HASH);
        hash.update(format!("blob {}\0", entry.decompressed_size).as_bytes());
        self.inflate.reset(true);
        let (mut rest, mut buffer) = (compressed, vec![0; BUFFER_BYTES]);
        loop {
            let before = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(rest, &mut buffer, FlushDecompress::None).map_err(does_not_inflate)?;
            let consumed = self.inflate.total_in() - before.0;
            let produced = self.inflate.total_out() - before.1;
            rest = rest.get(consumed as usize..).unwrap_or_default();
            hash.update(&buffer[..produced as usize]);
            if status == Status::StreamEnd {
                break;
            }
            if consumed == 0 && produced == 0 || self.inflate.total_out() > entry.decompressed_size {
                return Err(damaged("an object does not decompress"));
            }
            if self.walk.interrupt.load(Ordering::Relaxed) {
                return Err(WalkError::Stopped);
            }
        }
        if self.inflate.total_out() != entry.decompressed_size {
            return Err(damaged("an object is shorter or longer than it says"));
        }
        let id = hash.try_finalize().map_err(|error| damaged(error.to_string()))?;
        id.as_slice().try_into().map_err(|_| damaged("an id of another length"))
    }
}

pub(super) fn inflate(
    inflate: &mut Decompress,
    compressed: &[u8],
    size: u64,
    out: &mut Vec<u8>,
) -> Result<(), WalkError> {
    let size = usize::try_from(size).ok().filter(|size| *size <= OBJECT_LIMIT_BYTES);
    let size = size.ok_or(Shortage::Object { limit: OBJECT_LIMIT_BYTES as u64 })?;
    out.clear();
    out.try_reserve_exact(size.max(1)).map_err(|_| Shortage::Exhausted)?;
    inflate.reset(true);
    let status = inflate.decompress_vec(compressed, out, FlushDecompress::Finish).map_err(does_not_inflate)?;
    match status {
        Status::StreamEnd if out.len() == size => Ok(()),
        _ => Err(damaged("an object is shorter or longer than it says")),
    }
}

fn does_not_inflate(_: flate2::DecompressError) -> WalkError {
    damaged("an object does not decompress")
}

impl Pool {
    fn new(table: &Table) -> Self {
        Self {
            claimed: (0..table.by_id_len()).map(|_| AtomicBool::new(false)).collect(),
            next_object: AtomicU32::new(0),
            visited: AtomicU32::new(0),
            hungry: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            gifts: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The deltas that name this object as their base, for the first one who asks.
    fn claim(&self, table: &Table, id: &[u8; 20]) -> Vec<u32> {
        let range = table.waiting_for(id);
        let first = self.claimed[range.clone()].first();
        match first.is_some_and(|first| !first.swap(true, Ordering::Relaxed)) {
            true => table.by_id(range).collect(),
            false => vec![],
        }
    }

    /// One of the threads could not be started: it counts as one that has nothing to do.
    fn lacks_a_thread(&self) {
        let _gifts = self.gifts.lock();
        self.hungry.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Waits for work from another thread; `None` when none of the `threads` has any.
    fn wait_for_gift(&self, threads: usize) -> Option<Gift> {
        let mut gifts = self.gifts.lock();
        self.hungry.fetch_add(1, Ordering::Relaxed);
        loop {
            if let Some(gift) = gifts.pop() {
                self.hungry.fetch_sub(1, Ordering::Relaxed);
                return Some(gift);
            }
            if self.hungry.load(Ordering::Relaxed) == threads || self.stopped.load(Ordering::Relaxed) {
                self.changed.notify_all();
                return None;
            }
            self.changed.wait(&mut gifts);
        }
    }
}

/// Ends the walk if a thread fails.
struct Leaving<'a>(&'a Pool);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        // Under the lock, so that no thread begins to wait in between.
        let _gifts = self.0.gifts.lock();
        self.0.stopped.store(true, Ordering::Relaxed);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_could_not_be_started_is_not_waited_for() {
        let pool = Pool::new(&Table::new(1).unwrap_or_else(|_| unreachable!("one row fits")));
        pool.lacks_a_thread();
        assert!(pool.wait_for_gift(2).is_none());
    }
}
