//! Turns at using all cores.
//!
//! Invariant: a waiting thread can be told to give up, and waits for a bounded time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

/// How often a waiting thread checks whether it should give up.
const TURN_POLL: Duration = Duration::from_millis(100);

/// One large pack at a time uses all cores to resolve its deltas; small ones do not wait. This limits threads only: a pack
/// that has waited long enough proceeds anyway.
#[derive(Debug, Default)]
pub struct IndexTurns(Mutex<()>);

impl IndexTurns {
    /// Waits for the turn, which ends when the guard is dropped; `None` if it did not come in time, or `interrupt` is set.
    pub(super) fn enter(&self, timeout: Duration, interrupt: &AtomicBool) -> Option<MutexGuard<'_, ()>> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let turn = self.0.try_lock_for(left.min(TURN_POLL));
            if turn.is_some() || left.is_zero() || interrupt.load(Ordering::Relaxed) {
                return turn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use std::thread;

    #[test]
    fn a_pack_waits_for_its_turn_but_not_for_ever() {
        let (turns, go_on) = (IndexTurns::default(), AtomicBool::new(false));
        let first = turns.enter(Duration::ZERO, &go_on).unwrap();
        assert!(turns.enter(Duration::from_millis(20), &go_on).is_none(), "the time is over");
        assert!(turns.enter(Duration::from_secs(600), &AtomicBool::new(true)).is_none(), "it is to be given up");
        thread::scope(|scope| {
            let second = scope.spawn(|| turns.enter(Duration::from_secs(600), &go_on).is_some());
            thread::sleep(Duration::from_millis(20));
            assert!(!second.is_finished());
            drop(first);
            assert!(second.join().unwrap());
        });
        assert!(turns.enter(Duration::ZERO, &go_on).is_some(), "a pack without a turn gives none back");
    }
}
