//! Concurrency that fits the limit on open files.
//!
//! Invariant: a pass fits the limit whatever the settings say; it gets slower instead of failing.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the process itself needs: standard streams, the runtime, signals, the lock, the listing's connection.
const BASE_DESCRIPTORS: usize = 28;
/// Descriptors for one target while it is published: a Git connection, the pack twice, its index, the repository's
/// handles, four connections to S3.
pub(crate) const DESCRIPTORS_PER_TARGET: usize = 12;
/// Connections that the metrics port serves at the same time.
pub(crate) const SERVER_CONNECTIONS: usize = 8;
/// Connections that were closed to make room, and whose tasks have not noticed yet.
pub(crate) const CLOSING_CONNECTIONS: usize = 4;
/// Descriptors for the metrics port: those, one that is being accepted, and its own.
pub(crate) const SERVER_DESCRIPTORS: usize = SERVER_CONNECTIONS + CLOSING_CONNECTIONS + 2;
/// As many descriptors as the largest settings can use.
const USEFUL_DESCRIPTORS: u64 = 2_048;

/// Degrees of concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// Targets published at the same time.
    pub sync: NonZeroUsize,
    /// Projects probed at the same time.
    pub probe: NonZeroUsize,
}

impl Concurrency {
    /// The most of `wanted` that fits `descriptors` open files. A third of what is free goes to probes, whose
    /// connections are kept open while targets are published.
    pub fn within(wanted: Self, descriptors: usize) -> Self {
        let free = descriptors.saturating_sub(BASE_DESCRIPTORS);
        let at_most =
            |wanted: NonZeroUsize, fits: usize| NonZeroUsize::new(wanted.get().min(fits)).unwrap_or(NonZeroUsize::MIN);
        let probe = at_most(wanted.probe, free / 3);
        let sync = at_most(wanted.sync, free.saturating_sub(probe.get()) / DESCRIPTORS_PER_TARGET);
        Self { sync, probe }
    }

    /// The same for this process, after raising its limit as far as possible and useful. `others` are descriptors needed
    /// for other things.
    pub fn within_this_process(wanted: Self, others: usize) -> Self {
        let limit = getrlimit(Resource::Nofile);
        let current = limit.current.map(|current| {
            let raised = limit.maximum.unwrap_or(USEFUL_DESCRIPTORS).min(USEFUL_DESCRIPTORS);
            let more = Rlimit { current: Some(raised), maximum: limit.maximum };
            if raised > current && setrlimit(Resource::Nofile, more).is_ok() { raised } else { current }
        });
        let descriptors = current.and_then(|current| usize::try_from(current).ok()).unwrap_or(usize::MAX);
        let fitting = Self::within(wanted, descriptors.saturating_sub(others));
        if fitting != wanted {
            tracing::warn!(
                open_files = current,
                sync_concurrency = fitting.sync,
                probe_concurrency = fitting.probe,
                "the limit on open files allows less concurrency than configured"
            );
        }
        fitting
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn concurrency(sync: usize, probe: usize) -> Concurrency {
        Concurrency { sync: sync.try_into().unwrap(), probe: probe.try_into().unwrap() }
    }

    #[test]
    fn ninety_six_descriptors_are_enough_for_some_concurrency() {
        assert_eq!(Concurrency::within(concurrency(8, 32), 96), concurrency(3, 22));
    }

    #[test]
    fn plenty_of_descriptors_leave_the_settings_alone() {
        assert_eq!(Concurrency::within(concurrency(64, 256), 2_048), concurrency(64, 256));
        assert_eq!(Concurrency::within(concurrency(8, 32), usize::MAX), concurrency(8, 32));
    }

    #[test]
    fn there_is_always_one_of_each() {
        assert_eq!(Concurrency::within(concurrency(8, 32), 0), concurrency(1, 1));
    }
}
