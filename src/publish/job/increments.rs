//! Publishing what a commit adds to an earlier one.
//!
//! Invariant: an increment holds all that its base lacks of the commit, which descends from what was published before.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::{Depth, Job, Shipped};
use crate::artifact::increment;
use crate::git::pack::ReceiveLimits;
use crate::git::wire::WireError;
use crate::interrupt::Interrupt;
use crate::model::key::{self, CommitId};
use crate::plan::Increment;
use crate::publish::error::PublishError;
use crate::publish::{feed, fetch_error};
use crate::text::{error_chain, printable};
use crate::workdir::mirrors::{IncrementPack, Mirror};

/// What an increment's object has beside its pack, in bytes, at most: age's header, the archive's records, the manifest and its
/// signature, the bundle's header.
const INCREMENT_FRAME_BYTES: u64 = 8 << 10;
/// An increment that takes in earlier ones is packed by the source once more if it is not shorter than this, in bytes.
const LEAST_PACKED_AGAIN_BYTES: u64 = 2 << 10;
/// How long that may take. It only saves bytes.
const PACKED_AGAIN_TIMEOUT: Duration = Duration::from_secs(60);

impl Job<'_> {
    /// Publishes what the commit adds to the increment's base. The mirror is brought to the commit first: by what is new there,
    /// or, if there is no mirror, by the whole history of the base and what is new since. Says why, if it has to be the whole
    /// history.
    pub(super) async fn publish_increment(
        &self,
        increment: &Increment,
    ) -> Result<Result<Shipped, &'static str>, PublishError> {
        const REWRITTEN: &str = "the commit does not descend from the published one";
        let mut mirror = self.publisher.mirrors.lease(self.source()).await;
        let had = mirror.commit();
        if had.is_none() {
            match self.fetch_base(mirror, increment.base).await {
                Ok(fetched) => mirror = fetched,
                Err(PublishError::Fetch { source: WireError::NotOurRef(_), .. }) => {
                    return Ok(Err("the source does not have the increment's base any more"));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(have) = mirror.commit().filter(|have| *have != self.commit) {
            let Some(updated) = self.update(mirror, have, Depth::Thin).await? else { return Ok(Err(REWRITTEN)) };
            mirror = updated;
        }
        if mirror.rewritten_from(self.publish.old_commit())?.is_some() {
            return Ok(Err(REWRITTEN));
        }
        if mirror.bytes() > self.publisher.max_repository_bytes {
            return Ok(Err("what is kept of the repository has grown too large"));
        }
        let (base, commit) = (increment.base, self.commit);
        let (memory, interrupt) = (Arc::clone(&self.publisher.memory), Interrupt::when(self.stop));
        let writing = spawn_blocking(move || {
            let pack = mirror.write_increment(base, commit, &memory, &interrupt.flag)?;
            Ok::<_, PublishError>((mirror, pack))
        });
        let (mut mirror, mut pack) = writing.await??;
        let takes_in_earlier = increment.takes_in_earlier && had != Some(base);
        if takes_in_earlier && pack.file().len >= LEAST_PACKED_AGAIN_BYTES {
            (mirror, pack) = self.packed_again(mirror, pack, base).await?;
        }
        if pack.file().len + INCREMENT_FRAME_BYTES > increment.limit_bytes {
            return Ok(Err("the increments would be too large beside the whole history"));
        }
        let destination = &self.publish.target.destination;
        let key = key::encode_increment(destination, base, commit)?;
        let manifest = self.manifest(Some(base))?;
        let (branch, file) = (destination.branch.clone(), pack.file().clone());
        let write = move |sealer| increment::write(&manifest, &branch, commit, base, &file, sealer);
        let shipping = self.upload(&key, pack.file().len, pack.file().len + INCREMENT_FRAME_BYTES, write);
        let (shipped, lfs_paths) = tokio::join!(shipping, self.lfs_paths(&mirror));
        let bytes = shipped?;
        Ok(Ok(Shipped { key, bytes, base: Some(base), rewritten_from: None, lfs_paths }))
    }

    /// Asks the source for all that an increment brings, to make it shorter than `copied`, which has the deltas that each commit
    /// came with: Git finds better ones if it packs all commits at once. No more is read than `copied` is long. If that does not
    /// make it shorter, for any reason, this returns `copied`.
    async fn packed_again(
        &self,
        mirror: Mirror,
        copied: IncrementPack,
        base: CommitId,
    ) -> Result<(Mirror, IncrementPack), PublishError> {
        let stop = self.stop.child_token();
        let late = stop.clone();
        let _timer = AbortOnDropHandle::new(tokio::spawn(async move {
            sleep(PACKED_AGAIN_TIMEOUT).await;
            late.cancel();
        }));
        let job = Job { stop: &stop, ..*self };
        let (stream, fetching) = match job.fetch(self.commit, Some((base, Depth::Thin))).await {
            Ok(fetched) => fetched,
            Err(error) => return self.not_packed_again(&error).map(|()| (mirror, copied)),
        };
        let (feed, source) = feed::channel();
        let (interrupt, publisher) = (Interrupt::when(&stop), self.publisher);
        let (turns, memory) = (Arc::clone(&publisher.turns), Arc::clone(&publisher.memory));
        let (limit, commit, flag) = (publisher.max_repository_bytes, self.commit, Arc::clone(&interrupt.flag));
        let (longest, mut record) = (copied.file().len, publisher.crash_record(self.publish));
        let writing = spawn_blocking(move || {
            let limits = ReceiveLimits { pack_bytes: limit, interrupt: &flag, memory: &memory, turns: &turns };
            let written = mirror.write_received(source.take(longest), base, commit, &limits, || record.begin());
            drop((record, fetching));
            (mirror, written)
        });
        let fed = stop.run_until_cancelled(feed::feed_pack(stream, feed, self.progress)).await.unwrap_or(Ok(()));
        let (mirror, written) = writing.await?;
        let written = fed.map_err(|error| fetch_error(self.source(), error)).and_then(|()| Ok(written?));
        match written {
            Ok(packed) if packed.file().len < copied.file().len => Ok((mirror, packed)),
            Ok(_) => Ok((mirror, copied)),
            Err(error) => self.not_packed_again(&error).map(|()| (mirror, copied)),
        }
    }

    fn not_packed_again(&self, error: &PublishError) -> Result<(), PublishError> {
        if self.stop.is_cancelled() {
            return Err(PublishError::Stopped);
        }
        let (source, error) = (printable(&self.source().to_string()), error_chain(error));
        tracing::debug!(source, error, "the source does not pack a longer increment better");
        Ok(())
    }

    /// Fetches the whole history of an earlier commit into an empty mirror.
    async fn fetch_base(&self, mut mirror: Mirror, base: CommitId) -> Result<Mirror, PublishError> {
        let stream = self.fetch(base, None).await?;
        mirror.start_afresh()?;
        let (unused, _) = oneshot::channel();
        let finish =
            move |mirror: &mut Mirror, pack, limits: &ReceiveLimits<'_>| Ok(mirror.finish_fresh(base, pack, limits)?);
        let (mirror, ()) = self.receive(stream, mirror, Depth::Full, unused, finish).await?;
        Ok(mirror)
    }
}
