//! What delivering any destination needs, and the limits around one delivery.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::error::DeliverError;
use super::job::Job;
use crate::artifact::encrypt::Identities;
use crate::bucket::Bucket;
use crate::config;
use crate::git::push::PushServer;
use crate::memory::MemoryBudget;
use crate::net::http;
use crate::plan::delivery::Deliver;
use crate::plan::delivery::report::Delivered;
use crate::plan::outcome::Failure;
use crate::progress::Progress;
use crate::workdir::Spool;

/// How long a delivery may take to end its push properly when it has to stop.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// What delivering any destination needs.
pub struct Courier {
    pub(super) bucket: Bucket,
    pub(super) spool: Spool,
    pub(super) memory: Arc<MemoryBudget>,
    /// Longest archive accepted, in bytes.
    pub(super) max_repository_bytes: u64,
    time_limit: Duration,
}

impl Courier {
    /// Opens and locks WORKDIR.
    pub(super) fn open(settings: &config::Consume, bucket: Bucket) -> anyhow::Result<Self> {
        Ok(Self {
            bucket,
            spool: Spool::open(&settings.workdir)?,
            memory: Arc::new(MemoryBudget::new(settings.memory_budget_bytes)),
            max_repository_bytes: settings.max_repository_bytes,
            time_limit: settings.target_timeout,
        })
    }

    /// Delivers one object within the time limit. Tries again if a connection breaks.
    pub(super) async fn deliver(
        &self,
        git: &PushServer,
        deliver: &Deliver,
        identities: &Arc<Identities>,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
    ) -> Result<Delivered, Failure> {
        let begun = Instant::now();
        let stop_this = stop.child_token();
        let job = Job { courier: self, git, deliver, identities, progress, stop: &stop_this };
        let mut work = Box::pin(http::retrying_until(&stop_this, self.time_limit, async || job.run().await));
        let in_time = timeout(self.time_limit, &mut work);
        let done = match stop.run_until_cancelled(in_time).await {
            Some(Ok(done)) => done,
            ended => {
                stop_this.cancel();
                let why = ended.map_or(DeliverError::Stopped, |_| DeliverError::TimeLimit(self.time_limit));
                // The far side cleans up if the push is ended properly. It may still have succeeded.
                timeout(STOP_GRACE, work).await.ok().and_then(Result::ok).ok_or(why)
            }
        };
        match done {
            Ok((rewritten_from, pushed_bytes)) => Ok(Delivered { rewritten_from, pushed_bytes, took: begun.elapsed() }),
            Err(_) if stop.is_cancelled() => Err(Failure::Stopped),
            Err(error) => Err(error.into_failure(progress.stage())),
        }
    }
}
