//! Work on one CPU, as on a machine of its own.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that this process may run on, by number.
///
/// # Errors
/// The system does not say.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Runs this on one CPU alone, with all threads and processes that it starts.
///
/// # Errors
/// This process may not run there.
pub fn on<T>(cpu: usize, run: impl FnOnce() -> T) -> io::Result<T> {
    let before = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one)?;
    let outcome = run();
    sched_setaffinity(None, &before)?;
    Ok(outcome)
}
