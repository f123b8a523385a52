//! How much memory the objects of repositories may take, for all targets together.
//!
//! Invariant: what is granted never exceeds the budget, and packs never wait for each other in a circle.
//!
//! A pack asks twice: for its table before it is read, and for its buffers once its objects are known. Only the second
//! request waits while something is held, so three rules keep it from waiting forever:
//!
//! 1. All tables together take at most half of the budget, or there is one table alone. So a request for buffers of up to
//!    half is granted as soon as the packs that have theirs are done, and those wait for nothing.
//! 2. A request for more waits until the other packs are done, and no table is granted meanwhile.
//! 3. A second such request at the same time is refused.

mod limit;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// What the program needs apart from the objects of repositories, in bytes: 64 MiB of parts under way to S3, and as much for
/// lists, status, connections and code. 10,000 targets take 35 MB of it.
const OTHER_BYTES: u64 = 128 << 20;
/// The least that is taken of a memory limit, as a fraction of it.
const LEAST_SHARE: u64 = 4;
/// How often a waiting thread checks whether it should give up.
const WAIT_POLL: Duration = Duration::from_millis(100);

/// The budget. All packs that are received or verified at the same time share it.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    bytes: u64,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    packs: usize,
    tables: u64,
    buffers: u64,
    /// A pack waits until it is alone.
    wants_all: bool,
}

/// What one pack holds. Dropping it gives everything back.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    budget: &'a MemoryBudget,
    table: u64,
    buffers: u64,
}

/// Why nothing is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The whole budget, `budget` bytes, is too small.
    TooSmall { budget: u64 },
    /// Another pack waits for more than half of the budget too.
    Busy,
    /// The caller is to give up.
    Interrupted,
}

impl MemoryBudget {
    /// `MEMORY_BUDGET_BYTES`; if it is not set, what the process's memory limit, or the machine, leaves.
    pub(crate) fn new(bytes: Option<u64>) -> Self {
        let bytes = bytes.unwrap_or_else(|| match limit::memory() {
            limit::Memory::Limited(limit) => (limit.saturating_sub(OTHER_BYTES)).max(limit / LEAST_SHARE),
            limit::Memory::Available(bytes) => bytes / 2,
        });
        Self { bytes, held: Mutex::default(), changed: Condvar::new() }
    }

    /// The whole budget.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes of buffers a pack gets without waiting until it is alone.
    pub(crate) fn common_bytes(&self) -> u64 {
        self.bytes - self.bytes / 2
    }

    /// Waits for `bytes`, for the table of a pack's objects.
    pub(crate) fn table(&self, bytes: u64, interrupt: &AtomicBool) -> Result<Share<'_>, Refusal> {
        if bytes > self.bytes {
            return Err(Refusal::TooSmall { budget: self.bytes });
        }
        let mut held = self.wait(interrupt, |held| {
            let together = held.tables + bytes <= self.bytes / 2 && held.sum() + bytes <= self.bytes;
            !held.wants_all && (together || held.packs == 0)
        })?;
        held.packs += 1;
        held.tables += bytes;
        Ok(Share { budget: self, table: bytes, buffers: 0 })
    }

    /// Waits until `ready`, or `interrupt` is set.
    fn wait(&self, interrupt: &AtomicBool, ready: impl Fn(&Held) -> bool) -> Result<MutexGuard<'_, Held>, Refusal> {
        let mut held = self.held.lock();
        while !ready(&held) {
            if interrupt.load(Ordering::Relaxed) {
                return Err(Refusal::Interrupted);
            }
            self.changed.wait_for(&mut held, WAIT_POLL);
        }
        Ok(held)
    }
}

impl Held {
    fn sum(&self) -> u64 {
        self.tables + self.buffers
    }
}

impl Share<'_> {
    pub(crate) fn budget(&self) -> &MemoryBudget {
        self.budget
    }

    /// Waits for `bytes`, for what is decoded at the same time. To be called once.
    pub(crate) fn buffers(&mut self, bytes: u64, interrupt: &AtomicBool) -> Result<(), Refusal> {
        let Self { budget, table, .. } = *self;
        if table.saturating_add(bytes) > budget.bytes {
            return Err(Refusal::TooSmall { budget: budget.bytes });
        }
        let fits = |held: &Held| held.sum() + bytes <= budget.bytes;
        let mut held = budget.held.lock();
        let waits_for_all = bytes > budget.common_bytes() && !fits(&held);
        if waits_for_all && held.wants_all {
            return Err(Refusal::Busy);
        }
        held.wants_all |= waits_for_all;
        drop(held);
        let granted = budget.wait(interrupt, fits).map(|mut held| held.buffers += bytes);
        if waits_for_all {
            budget.held.lock().wants_all = false;
            budget.changed.notify_all();
        }
        granted?;
        self.buffers = bytes;
        Ok(())
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut held = self.budget.held.lock();
        held.packs -= 1;
        held.tables -= self.table;
        held.buffers -= self.buffers;
        self.budget.changed.notify_all();
    }
}
