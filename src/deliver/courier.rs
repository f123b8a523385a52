//! What delivering any destination needs, and the limits around one delivery.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::error::DeliverError;
use super::job::{Job, Pushed};
use crate::artifact::open::Keys;
use crate::bucket::Bucket;
use crate::config;
use crate::git::push::PushServer;
use crate::interrupt::within;
use crate::memory::MemoryBudget;
use crate::model::key::Destination;
use crate::net::http;
use crate::plan::delivery::report::Delivered;
use crate::plan::delivery::{Deliver, Taken};
use crate::progress::Progress;
use crate::workdir::Spool;

/// The record of what was taken is stored with each delivery while it has at most this many destinations: about a megabyte.
const KEPT_AT_ONCE: usize = 10_000;
/// A longer one is not stored more often than this, but when a pass ends.
const KEEP_PAUSE: Duration = Duration::from_secs(1);

/// What delivering any destination needs.
pub struct Courier {
    pub(super) bucket: Bucket,
    pub(super) spool: Spool,
    /// When what was taken had been published.
    pub(super) taken: Mutex<Taken>,
    /// When this process stored that last.
    taken_kept: Mutex<Option<Instant>>,
    pub(super) memory: Arc<MemoryBudget>,
    /// Longest archive accepted, in bytes.
    pub(super) max_repository_bytes: u64,
    time_limit: Duration,
}

impl Courier {
    /// Opens and locks WORKDIR.
    pub(super) fn open(settings: &config::Consume, bucket: Bucket) -> anyhow::Result<Self> {
        let spool = Spool::open(&settings.common.workdir)?;
        Ok(Self {
            bucket,
            taken: Mutex::new(spool.taken()),
            taken_kept: Mutex::default(),
            spool,
            memory: Arc::new(MemoryBudget::new(settings.common.memory_budget_bytes)),
            max_repository_bytes: settings.common.max_repository_bytes,
            time_limit: settings.common.target_timeout,
        })
    }

    /// Delivers one object within the time limit. Tries again if a connection breaks.
    pub(super) async fn deliver(
        &self,
        git: &PushServer,
        deliver: &Deliver,
        keys: &Arc<Keys>,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
    ) -> Result<Delivered, DeliverError> {
        let begun = Instant::now();
        let attempts = async |stop| {
            let job = Job { courier: self, git, deliver, keys, progress, stop: &stop, sent: Cell::default() };
            http::retrying_until(&stop, self.time_limit, async || job.run().await).await
        };
        // The far side cleans up if a push that has to stop is ended properly.
        match within(self.time_limit, stop, attempts).await {
            Ok(Pushed { rewritten_from, bytes: pushed_bytes, origin, published }) => {
                Ok(Delivered { rewritten_from, pushed_bytes, origin, published, took: begun.elapsed() })
            }
            Err(_) if stop.is_cancelled() => Err(DeliverError::Stopped),
            Err(error) => Err(error),
        }
    }

    /// What was published then is taken. A pass may take hours, and the process may be killed before it ends.
    pub(super) fn note_taken(&self, destination: &Destination, published: SystemTime) {
        self.taken.lock().note(destination, published);
        let is_soon = self.taken_kept.lock().is_some_and(|kept| kept.elapsed() < KEEP_PAUSE);
        if !is_soon || self.taken.lock().remembered() <= KEPT_AT_ONCE {
            self.keep_taken();
        }
    }

    /// Stores the record of what was taken, if this process has not stored it yet.
    pub(super) fn keep_new_taken(&self) {
        if self.taken_kept.lock().is_none() {
            self.keep_taken();
        }
    }

    /// Stores the record of what was taken.
    pub(super) fn keep_taken(&self) {
        match self.spool.keep_taken(&self.taken.lock()) {
            Ok(()) => *self.taken_kept.lock() = Some(Instant::now()),
            Err(error) => {
                tracing::warn!(%error, "cannot keep when what was taken had been published: after a restart, an earlier object may be taken again");
            }
        }
    }
}
