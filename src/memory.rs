//! How much memory the objects of repositories may take, for all targets together.
//!
//! Invariant: what is granted never exceeds the budget, and packs never wait for each other in a circle.
//!
//! A pack asks twice: for its table before it is read, and for its buffers once its objects are known. Only the second
//! request waits while something is held, so three rules keep it from waiting forever:
//!
//! 1. All tables together take at most half of the budget, or there is one table alone. So a request for buffers of up to
//!    half is granted as soon as the packs that have theirs are done, and those wait for nothing.
//! 2. A request for more waits until the other packs are done, and no table is granted meanwhile. A second such request at
//!    the same time is refused: that pack gives its table back, and waits until it is alone.
//! 3. While a pack that holds nothing waits until it is alone, no other table is granted.

mod limit;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// What the program needs apart from the objects of repositories, in bytes: 64 MiB of parts under way to S3, and as much for
/// lists, status, connections and code. 10,000 targets take 35 MB of it.
const OTHER_BYTES: u64 = 128 << 20;
/// The least that is taken of a memory limit, as a fraction of it.
const LEAST_SHARE: u64 = 4;
/// The least that the budget can be, in bytes. Small repositories need 4 MiB each.
pub(crate) const LEAST_BUDGET_BYTES: u64 = 16 << 20;
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
    /// Packs that hold nothing and wait until there is no other.
    waiting_alone: usize,
    /// A pack that has its table waits for more than half.
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
    /// Another pack waits for more than half of the budget too: give everything back, and ask for all at once.
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
        Self { bytes: bytes.max(LEAST_BUDGET_BYTES), held: Mutex::default(), changed: Condvar::new() }
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
        self.grant(bytes, 0, bytes > self.bytes / 2, interrupt)
    }

    /// Waits until there is no other pack, for a table and buffers at once.
    pub(crate) fn alone(&self, table: u64, buffers: u64, interrupt: &AtomicBool) -> Result<Share<'_>, Refusal> {
        self.grant(table, buffers, true, interrupt)
    }

    fn grant(&self, table: u64, buffers: u64, alone: bool, interrupt: &AtomicBool) -> Result<Share<'_>, Refusal> {
        if table.saturating_add(buffers) > self.bytes {
            return Err(Refusal::TooSmall { budget: self.bytes });
        }
        let mut held = self.held.lock();
        held.waiting_alone += usize::from(alone);
        let granted = self.wait(&mut held, interrupt, |held| {
            let room = held.tables + table <= self.bytes / 2 && held.sum() + table <= self.bytes;
            !held.wants_all && if alone { held.packs == 0 } else { held.waiting_alone == 0 && room }
        });
        held.waiting_alone -= usize::from(alone);
        self.changed.notify_all();
        granted?;
        held.packs += 1;
        held.tables += table;
        held.buffers += buffers;
        Ok(Share { budget: self, table, buffers })
    }

    /// Waits for `bytes`, or all that there is, for something that reads single objects. `None` if the caller is to give up.
    pub(crate) fn reading(&self, bytes: u64, interrupt: &AtomicBool) -> Option<Share<'_>> {
        self.table(bytes.min(self.bytes), interrupt).ok()
    }

    /// Waits until `ready`, or `interrupt` is set. Others hold the lock meanwhile.
    fn wait(
        &self,
        held: &mut MutexGuard<'_, Held>,
        interrupt: &AtomicBool,
        ready: impl Fn(&Held) -> bool,
    ) -> Result<(), Refusal> {
        while !ready(held) {
            if interrupt.load(Ordering::Relaxed) {
                return Err(Refusal::Interrupted);
            }
            self.changed.wait_for(held, WAIT_POLL);
        }
        Ok(())
    }
}

impl Held {
    fn sum(&self) -> u64 {
        self.tables + self.buffers
    }
}

impl Share<'_> {
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
        let granted = budget.wait(&mut held, interrupt, fits);
        if waits_for_all {
            held.wants_all = false;
            budget.changed.notify_all();
        }
        granted?;
        held.buffers += bytes;
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::thread;

    const MIB: u64 = 1 << 20;
    static GO_ON: AtomicBool = AtomicBool::new(false);

    fn budget() -> MemoryBudget {
        MemoryBudget::new(Some(100 * MIB))
    }

    /// How a request ends that does not wait.
    fn at_once<T>(request: impl FnOnce(&AtomicBool) -> Result<T, Refusal>) -> Result<T, Refusal> {
        request(&AtomicBool::new(true))
    }

    #[test]
    fn tables_share_half_of_the_budget_and_buffers_all_that_is_left() {
        let budget = budget();
        let mut first = budget.table(30 * MIB, &GO_ON).unwrap();
        assert_eq!(at_once(|stop| budget.table(21 * MIB, stop)).unwrap_err(), Refusal::Interrupted, "more than half");
        let mut second = budget.table(20 * MIB, &GO_ON).unwrap();
        first.buffers(40 * MIB, &GO_ON).unwrap();
        assert_eq!(at_once(|stop| second.buffers(11 * MIB, stop)), Err(Refusal::Interrupted), "100 are held");
        second.buffers(10 * MIB, &GO_ON).unwrap();
        drop((first, second));
        assert_eq!(budget.held.lock().sum(), 0);
    }

    #[test]
    fn a_pack_that_is_alone_gets_all() {
        let budget = budget();
        assert_eq!(budget.table(101 * MIB, &GO_ON).unwrap_err(), Refusal::TooSmall { budget: 100 * MIB });
        let mut large = budget.table(70 * MIB, &GO_ON).unwrap();
        assert_eq!(at_once(|stop| budget.table(1, stop)).unwrap_err(), Refusal::Interrupted, "it is to stay alone");
        assert_eq!(large.buffers(31 * MIB, &GO_ON), Err(Refusal::TooSmall { budget: 100 * MIB }));
        large.buffers(30 * MIB, &GO_ON).unwrap();
        drop(large);
        budget.table(50 * MIB, &GO_ON).unwrap().buffers(50 * MIB, &GO_ON).unwrap();
    }

    #[test]
    fn a_large_table_is_not_kept_waiting_by_ever_new_small_ones() {
        let budget = budget();
        let small = budget.table(MIB, &GO_ON).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.table(70 * MIB, &GO_ON).map(drop));
            while budget.held.lock().waiting_alone == 0 {
                thread::yield_now();
            }
            assert_eq!(at_once(|stop| budget.table(MIB, stop)).unwrap_err(), Refusal::Interrupted);
            drop(small);
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        assert_eq!(at_once(|stop| budget.table(MIB, stop)).map(drop), Ok(()));
    }

    #[test]
    fn a_pack_that_wants_more_than_half_waits_for_the_others_and_no_new_one_comes_between() {
        let budget = budget();
        let (mut small, mut large) = (budget.table(10 * MIB, &GO_ON).unwrap(), budget.table(10 * MIB, &GO_ON).unwrap());
        let mut other = budget.table(10 * MIB, &GO_ON).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| large.buffers(85 * MIB, &GO_ON));
            while !budget.held.lock().wants_all {
                thread::yield_now();
            }
            assert_eq!(at_once(|stop| budget.table(1, stop)).unwrap_err(), Refusal::Interrupted);
            assert_eq!(other.buffers(85 * MIB, &GO_ON), Err(Refusal::Busy), "two would wait for each other");
            small.buffers(50 * MIB, &GO_ON).unwrap();
            drop(small);
            assert!(!waiting.is_finished());
            drop(other);
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        drop(large);
        budget.table(50 * MIB, &GO_ON).unwrap();
    }

    #[test]
    fn a_pack_that_gives_up_waiting_leaves_the_way_free() {
        let budget = budget();
        let small = budget.table(10 * MIB, &GO_ON).unwrap();
        let mut large = budget.table(10 * MIB, &GO_ON).unwrap();
        assert_eq!(at_once(|stop| large.buffers(90 * MIB, stop)), Err(Refusal::Interrupted));
        budget.table(10 * MIB, &GO_ON).unwrap();
        drop(small);
        large.buffers(90 * MIB, &GO_ON).unwrap();
    }

    /// Many packs at the same time, of all sizes: each ends, and never is more held than there is.
    #[test]
    fn no_packs_wait_for_each_other() {
        let budget = budget();
        thread::scope(|scope| {
            for seed in 1..=8_u64 {
                let budget = &budget;
                scope.spawn(move || {
                    let mut state = seed;
                    let mut upto = |most: u64| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        (state >> 33) % most
                    };
                    for _ in 0..200 {
                        let mut share = budget.table(upto(70) * MIB, &GO_ON).unwrap();
                        let (table, buffers) = (share.table, upto(90) * MIB);
                        if share.buffers(buffers, &GO_ON) == Err(Refusal::Busy) {
                            drop(share);
                            share = budget.alone(table, buffers, &GO_ON).unwrap();
                        }
                        assert_eq!(share.buffers > 0, buffers > 0 && table + buffers <= budget.bytes());
                        assert!(budget.held.lock().sum() <= budget.bytes());
                        thread::yield_now();
                    }
                });
            }
        });
        let held = budget.held.lock();
        assert!(held.sum() == 0 && held.packs == 0 && !held.wants_all);
    }
}
