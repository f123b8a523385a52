//! One target from the source to the bucket: fetch, archive, encrypt and upload as one stream.
//!
//! Invariant: an upload is completed only after every Git object in it was verified, and it holds the commit in its name.

mod error;
mod feed;
mod job;
mod memory;
mod times;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use age::x25519::Recipient;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::error::PublishError;
use self::job::{Job, Shipped};
use self::memory::Memory;
use self::times::Times;
use crate::artifact::signature::SigningKey;
use crate::bucket::{Bucket, BucketError};
use crate::git::pack::IndexTurns;
use crate::git::wire::{GitServer, Tip, WireError};
use crate::interrupt::within;
use crate::memory::MemoryBudget;
use crate::model::key::{self, CommitId};
use crate::model::target::{Source, Target};
use crate::net::http;
use crate::plan::Publish;
use crate::plan::outcome::Published;
use crate::progress::Progress;
use crate::workdir::mirrors::MirrorStore;
use crate::workdir::{CrashRecord, Workdir};

/// Limit for probing a branch again, if its commit is gone.
const REPROBE_BUDGET: Duration = Duration::from_secs(60);

/// What publishing any target needs.
pub struct Publisher {
    pub bucket: Bucket,
    pub mirrors: Arc<MirrorStore>,
    /// Where uploads are recorded.
    pub workdir: Workdir,
    recipients: Arc<[Recipient]>,
    signing_key: Option<SigningKey>,
    times: Times,
    /// Longest pack accepted, in bytes.
    max_repository_bytes: u64,
    time_limit: Duration,
    memory: Arc<MemoryBudget>,
    /// Lets large packs use all cores one after the other.
    turns: Arc<IndexTurns>,
    failures: Memory,
}

/// Limits for publishing.
#[derive(Debug)]
pub struct Limits {
    pub mirror_cache_bytes: u64,
    pub max_repository_bytes: u64,
    pub memory_budget_bytes: Option<u64>,
    pub time_limit: Duration,
}

impl Publisher {
    /// Opens and locks WORKDIR.
    ///
    /// # Errors
    /// If WORKDIR is unusable.
    pub fn open(
        workdir: &Path,
        bucket: Bucket,
        recipients: &[Recipient],
        signing_key: Option<SigningKey>,
        limits: &Limits,
    ) -> anyhow::Result<Self> {
        let workdir = Workdir::open(workdir)?;
        let mirrors = Arc::new(MirrorStore::open(workdir.mirrors(), limits.mirror_cache_bytes)?);
        Ok(Self {
            bucket,
            mirrors,
            workdir,
            recipients: recipients.into(),
            signing_key,
            times: Times::default(),
            max_repository_bytes: limits.max_repository_bytes,
            time_limit: limits.time_limit,
            memory: Arc::new(MemoryBudget::new(limits.memory_budget_bytes)),
            turns: Arc::default(),
            failures: Memory::default(),
        })
    }

    fn crash_record(&self, publish: &Publish) -> CrashRecord {
        self.workdir.crash_record(&publish.target.destination)
    }

    /// Publishes one target within the time limit.
    ///
    /// # Errors
    /// [`PublishError`]; an upload that was begun is aborted or stays recorded. If S3's last answer was lost, the object may have
    /// appeared all the same; the next pass sees it.
    pub async fn publish(
        &self,
        git: &GitServer,
        publish: &Publish,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
    ) -> Result<Published, PublishError> {
        let begun = Instant::now();
        let publish_head = async |stop| self.publish_head(git, publish, progress, &stop).await;
        let done = within(self.time_limit, stop, publish_head).await;
        let (commit, Shipped { key, bytes, base, rewritten_from, lfs_paths }) = match done {
            Err(_) if stop.is_cancelled() => return Err(PublishError::Stopped),
            other => other?,
        };
        let saved_bytes = if base.is_some() { publish.held_bytes.saturating_sub(bytes) } else { 0 };
        Ok(Published { commit, key, bytes, base, saved_bytes, took: begun.elapsed(), rewritten_from, lfs_paths })
    }

    /// Publishes the planned commit or, if the server has pruned it since the probe, the branch's current one.
    async fn publish_head(
        &self,
        git: &GitServer,
        publish: &Publish,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
    ) -> Result<(CommitId, Shipped), PublishError> {
        let attempt = async |commit, key: &str| {
            let job = Job { publisher: self, git, publish, commit, key, progress, stop };
            self.publish_commit(&job).await
        };
        let planned = attempt(publish.commit, &publish.key).await;
        let Err(PublishError::Fetch { source: WireError::NotOurRef(_), .. }) = planned else {
            return planned.map(|shipped| (publish.commit, shipped));
        };
        let source = &publish.target.source;
        let branches = [source.branch.as_str()].into();
        let probe = http::retrying(REPROBE_BUDGET, async || git.ls_refs(&source.project, &branches).await);
        let heads = stop.run_until_cancelled(probe).await.ok_or(PublishError::Stopped)?;
        let heads = heads.map_err(|error| fetch_error(source, error))?;
        let Some(Tip::Commit(commit)) = heads.get(&source.branch).copied() else {
            return Err(PublishError::BranchGone(source.clone()));
        };
        let key = key::encode(&publish.target.destination, commit, publish.format)?;
        attempt(commit, &key).await.map(|shipped| (commit, shipped))
    }

    /// Publishes one commit. Tries again if the connection to the source breaks.
    async fn publish_commit(&self, job: &Job<'_>) -> Result<Shipped, PublishError> {
        if let Some(known) = self.failures.recall(job.publish, job.commit) {
            return Err(known);
        }
        let published = http::retrying_until(job.stop, self.time_limit, async || match job.run().await {
            Err(error) if error.disk_is_full() => {
                self.mirrors.evict_idle();
                job.run().await
            }
            other => other,
        })
        .await;
        if let Err(error) = &published {
            self.failures.note(job.publish, job.commit, error);
        }
        published
    }

    /// Deletes objects one after the other, within the time limit of a target, because there can be any number.
    ///
    /// # Errors
    /// [`BucketError`]; the next pass finds the objects that are left.
    pub async fn delete(
        &self,
        keys: impl Iterator<Item = &String>,
        stop: &CancellationToken,
    ) -> Result<(), BucketError> {
        let deleting = async {
            for key in keys {
                self.bucket.delete(key).await?;
            }
            Ok(())
        };
        let deleting = timeout(self.time_limit, deleting);
        let deleted = stop.run_until_cancelled(deleting).await.ok_or(BucketError::Stopped)?;
        deleted.unwrap_or(Err(BucketError::TooSlow { action: "delete outdated objects", limit: self.time_limit }))
    }

    /// Removes the mirrors of all other targets, and forgets what earlier attempts found out about them.
    pub fn keep_only<'a, W: Iterator<Item = &'a Target>>(&self, wanted: impl Fn() -> W) {
        self.mirrors.keep_only(wanted().map(|target| &target.source));
        self.failures.keep_only(wanted().map(|target| &target.destination));
        self.times.keep_only(wanted().map(|target| &target.destination));
    }
}

fn fetch_error(source: &Source, error: WireError) -> PublishError {
    PublishError::Fetch { source_branch: source.to_string(), source: error }
}
