//! Threads that the system grants.
//!
//! Invariant: a limit on threads is named as what it is, and where another thread would only be faster, the work goes on
//! without it.

use std::num::NonZeroUsize;
use std::thread::{self, Builder, ScopedJoinHandle, available_parallelism};

use parking_lot::Mutex;

/// Threads that the program needs besides those that run its tasks, whatever it does: for host names, files and pages.
const LEAST_THREADS: usize = 4;
/// Threads that wait or work for one target at the same time.
const THREADS_PER_TARGET: usize = 3;
/// Stack of a thread that only proves that it can be started, in bytes.
const PROOF_STACK_BYTES: usize = 64 << 10;

/// The system grants fewer threads than the program cannot do without.
#[derive(Debug, thiserror::Error)]
#[error(
    "the system grants only {granted} of the {needed} threads that are needed: raise the limit on processes (ulimit -u, or the \
     container's limit on pids)"
)]
pub struct TooFew {
    granted: usize,
    needed: usize,
}

/// Whether the system grants the threads without which nothing works. A runtime would panic, or wait for ever.
///
/// # Errors
/// [`TooFew`].
pub fn enough() -> Result<(), TooFew> {
    let needed = available_parallelism().map_or(1, NonZeroUsize::get) + LEAST_THREADS;
    let granted = granted(needed);
    if granted < needed { Err(TooFew { granted, needed }) } else { Ok(()) }
}

/// For how many targets at the same time, up to `wanted`, the system grants threads; always one. With more targets than that,
/// they would wait for each other.
pub fn targets(wanted: NonZeroUsize) -> NonZeroUsize {
    let granted = granted(wanted.get() * THREADS_PER_TARGET + LEAST_THREADS);
    let fit = granted.saturating_sub(LEAST_THREADS) / THREADS_PER_TARGET;
    let fitting = NonZeroUsize::new(fit.min(wanted.get())).unwrap_or(NonZeroUsize::MIN);
    if fitting != wanted {
        tracing::warn!(sync_concurrency = fitting, "the limit on threads allows less concurrency than configured");
    }
    fitting
}

/// How many threads, up to `most`, can run at the same time beside those that do.
fn granted(most: usize) -> usize {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let _closed = gate.lock();
        let started =
            |_: &usize| Builder::new().stack_size(PROOF_STACK_BYTES).spawn_scoped(scope, || drop(gate.lock())).is_ok();
        (0..most).take_while(started).count()
    })
}

/// Runs `work` in another thread of the scope; `None` if the system grants none.
pub fn another<'scope, 'env, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, 'env>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, work).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_limit_grants_what_is_needed() {
        assert_eq!(granted(0), 0);
        assert_eq!(granted(40), 40);
        enough().map_err(|error| error.to_string()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(targets(NonZeroUsize::MIN.saturating_add(7)).get(), 8);
    }
}
