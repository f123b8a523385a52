//! One attempt at publishing one commit: one half fetches and verifies, the other archives and uploads.
//!
//! Invariant: if one half fails, it stops the other, and the upload is not completed.

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::error::PublishError;
use super::feed;
use super::{Publisher, fetch_error};
use crate::artifact::archive::{self, Contents, Pack};
use crate::artifact::encrypt;
use crate::bucket::BucketError;
use crate::git::lfs;
use crate::git::pack::{self, PackError, ReceiveLimits, ReceivedPack};
use crate::git::store::Store;
use crate::git::wire::{GitServer, PackStream};
use crate::interrupt::Interrupt;
use crate::model::key::CommitId;
use crate::model::stage::Stage;
use crate::model::target::Source;
use crate::plan::outcome::Rewrite;
use crate::plan::{OnRewrite, Publish};
use crate::progress::{Progress, StageTimer};
use crate::text::{error_chain, printable};
use crate::workdir::mirrors::{Mirror, MirrorError, StoredPack};

/// An object that is up.
pub(super) struct Shipped {
    pub(super) bytes: u64,
    pub(super) rewritten_from: Option<CommitId>,
    pub(super) lfs_paths: usize,
}

/// One attempt at one commit.
pub(super) struct Job<'a> {
    pub(super) publisher: &'a Publisher,
    pub(super) git: &'a GitServer,
    pub(super) publish: &'a Publish,
    pub(super) commit: CommitId,
    pub(super) key: &'a str,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) stop: &'a CancellationToken,
}

impl Job<'_> {
    pub(super) async fn run(&self) -> Result<Shipped, PublishError> {
        let mirror = self.publisher.mirrors.lease(self.source()).await;
        match mirror.commit() {
            None => self.publish_afresh(mirror).await,
            Some(have) => match self.publish_increment(mirror, have).await {
                Ok(Some(shipped)) => Ok(shipped),
                // The branch was rewritten, or the mirror is damaged. Fetching it afresh solves both.
                Ok(None) | Err(PublishError::Pack(PackError::Empty | PackError::Incomplete { .. })) => {
                    self.publish_afresh(self.fresh_lease().await?).await
                }
                Err(error) if error.is_from_mirror() && !self.stop.is_cancelled() => {
                    let (source, error) = (printable(&self.source().to_string()), error_chain(&error));
                    tracing::warn!(source, error, "the kept repository cannot be used and is fetched afresh");
                    self.publish_afresh(self.fresh_lease().await?).await
                }
                Err(error) => Err(error),
            },
        }
    }

    fn source(&self) -> &Source {
        &self.publish.target.source
    }

    async fn fresh_lease(&self) -> Result<Mirror, PublishError> {
        let mut mirror = self.publisher.mirrors.lease(self.source()).await;
        mirror.discard().map_err(MirrorError::Io)?;
        Ok(mirror)
    }

    /// Publishes from the mirror, after fetching what it lacks. `None` if a fresh fetch is needed: the new commit does not
    /// descend from the mirror's, or the mirror has grown too large.
    async fn publish_increment(&self, mut mirror: Mirror, have: CommitId) -> Result<Option<Shipped>, PublishError> {
        if have != self.commit {
            let stream = self.fetch(Some(have)).await?;
            let commit = self.commit;
            let (unused, _) = oneshot::channel();
            let finish = move |mirror: &mut Mirror, pack| Ok(mirror.finish_increment(commit, pack)?);
            let (updated, descends) = self.receive(stream, mirror, unused, finish).await?;
            mirror = updated;
            if !descends {
                return Ok(None);
            }
        }
        let bytes: u64 = mirror.files().iter().map(|(_, [data, _])| data.len).sum();
        if bytes > self.publisher.max_repository_bytes {
            // Increments can hold the same object twice. A fresh fetch tells whether the repository itself is too large.
            return Ok(None);
        }
        let rewritten_from = check_rewrite(self.publish, &mirror)?;
        let packs = mirror.files().into_iter().map(|(name, [data, index])| Pack {
            name,
            data,
            index: Box::new(move || Ok(index)),
        });
        let (shipped, lfs_paths) = tokio::join!(self.ship(packs.collect()), self.lfs_paths(&mirror));
        if matches!(shipped, Err(PublishError::Archive(_))) {
            mirror.discard().map_err(MirrorError::Io)?;
        }
        shipped.map(|bytes| Some(Shipped { bytes, rewritten_from, lfs_paths }))
    }

    /// Fetches the whole history. Archiving and uploading begin when the pack's last byte is there, while its objects are
    /// being verified. The index is the archive's last part; it exists only if verification succeeds.
    async fn publish_afresh(&self, mut mirror: Mirror) -> Result<Shipped, PublishError> {
        let stream = self.fetch(None).await?;
        mirror.start_afresh()?;
        let (commit, publish) = (self.commit, self.publish.clone());
        let (on_disk, pack) = oneshot::channel();
        let (indexed, index) = oneshot::channel();
        let finish = move |mirror: &mut Mirror, pack: StoredPack| {
            mirror.finish_fresh(commit, pack)?;
            // On an error the index is never sent, and the upload is aborted.
            let rewritten_from = check_rewrite(&publish, mirror)?;
            if let Some((_, [_, index])) = mirror.files().pop() {
                // The receiver is gone if the upload has failed already.
                drop(indexed.send(index));
            }
            Ok(rewritten_from)
        };
        let receiving = async {
            let (mirror, rewritten_from) = self.receive(stream, mirror, on_disk, finish).await?;
            let lfs_paths = self.lfs_paths(&mirror).await;
            Ok::<_, PublishError>((mirror, rewritten_from, lfs_paths))
        };
        let shipping = async {
            // Without a pack there is nothing to ship; the other half reports why.
            let Ok(ReceivedPack { name, file, .. }) = pack.await else { return Ok(0) };
            let index =
                Box::new(move || index.blocking_recv().map_err(|_| io::Error::other("the pack was not verified")));
            self.ship(vec![Pack { name, data: file, index }]).await
        };
        let (received, shipped) = tokio::join!(receiving, shipping);
        // The mirror is held until the archive has been read.
        let (_mirror, rewritten_from, lfs_paths) = received?;
        Ok(Shipped { bytes: shipped?, rewritten_from, lfs_paths })
    }

    /// How many paths are Git LFS pointers. A failure counts as none: it does not affect the object.
    async fn lfs_paths(&self, mirror: &Mirror) -> usize {
        let (path, commit, bytes) = (mirror.path().to_owned(), self.commit, mirror.reading_bytes(None));
        let (interrupt, memory) = (Interrupt::when(self.stop), Arc::clone(&self.publisher.memory));
        let flag = Arc::clone(&interrupt.flag);
        let counting = spawn_blocking(move || {
            let _held = memory.reading(bytes, &flag);
            Store::open(&path).and_then(|store| lfs::lfs_paths(&store, commit))
        });
        match counting.await {
            Ok(Ok(paths)) => {
                if !paths.all {
                    tracing::debug!(found = paths.found, "not all of the commit was searched for Git LFS pointers");
                }
                paths.found
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot look for Git LFS pointers");
                0
            }
            Err(_) => 0,
        }
    }

    async fn fetch(&self, have: Option<CommitId>) -> Result<(PackStream, StageTimer), PublishError> {
        let fetching = self.progress.enter(Stage::Fetching);
        let fetch = self.git.fetch(&self.source().project, self.commit, have);
        let stream = self.stop.run_until_cancelled(fetch).await.ok_or(PublishError::Stopped)?;
        stream.map(|stream| (stream, fetching)).map_err(|error| fetch_error(self.source(), error))
    }

    /// Receives a pack into the mirror. `on_disk` gets it when its last byte is there, `finish` when it is verified.
    async fn receive<T: Send + 'static>(
        &self,
        (stream, fetching): (PackStream, StageTimer),
        mut mirror: Mirror,
        on_disk: oneshot::Sender<ReceivedPack>,
        finish: impl FnOnce(&mut Mirror, StoredPack) -> Result<T, PublishError> + Send + 'static,
    ) -> Result<(Mirror, T), PublishError> {
        let (feed, source) = feed::channel();
        let interrupt = Interrupt::when(self.stop);
        let (turns, memory) = (Arc::clone(&self.publisher.turns), Arc::clone(&self.publisher.memory));
        let (limit, flag) = (self.publisher.max_repository_bytes, Arc::clone(&interrupt.flag));
        let (progress, mut record) = (Arc::clone(self.progress), self.publisher.crash_record(self.publish));
        let indexing = spawn_blocking(move || {
            let mut stage = fetching;
            let limits = ReceiveLimits { pack_bytes: limit, interrupt: &flag, memory: &memory, turns: &turns };
            let (pack, index) = pack::receive(source, &mirror.pack_dir(), &limits, |pack| {
                stage = progress.enter(Stage::Verifying);
                record.begin();
                drop(on_disk.send(pack));
            })?;
            drop(record);
            let stored = StoredPack::new(&pack, &index);
            let _held = memory.reading(mirror.reading_bytes(Some(&stored)), &flag).ok_or(PublishError::Stopped)?;
            let finished = finish(&mut mirror, stored)?;
            drop(stage);
            Ok((mirror, finished))
        });
        let fed = self.stop.run_until_cancelled(feed::feed_pack(stream, feed, self.progress)).await.unwrap_or(Ok(()));
        let indexed = indexing.await?;
        // If the wire broke, that is the cause, and the indexer's error a consequence.
        fed.map_err(|error| fetch_error(self.source(), error))?;
        indexed
    }

    /// Archives, encrypts and uploads. Returns the object's size in bytes.
    async fn ship(&self, packs: Vec<Pack>) -> Result<u64, PublishError> {
        let publisher = self.publisher;
        let data: u64 = packs.iter().map(|pack| pack.data.len).sum();
        // The length of the index is not known yet; it is seldom more than a quarter of the pack.
        let expected = data + data / 4;
        let _uploading = self.progress.enter(Stage::Uploading);
        self.progress.expect_to_send(data);
        let (writer, parts) = publisher.bucket.pipe(expected);
        let contents = Contents { branch: self.publish.target.destination.branch.clone(), commit: self.commit, packs };
        let (recipients, format) = (Arc::clone(&publisher.recipients), self.publish.format);
        let writing = spawn_blocking(move || -> io::Result<u64> {
            let sealer = encrypt::encrypting(&recipients, writer).map_err(io::Error::other)?;
            archive::write(format, contents, sealer)?.finish()?.finish()
        });
        let uploaded = publisher.bucket.upload(self.key, parts, &publisher.workdir, self.progress, self.stop).await;
        match (writing.await?, uploaded) {
            (Ok(_), Ok(bytes)) => Ok(bytes),
            // The writer failed first.
            (Err(error), Ok(_) | Err(BucketError::WriterGone)) => Err(PublishError::Archive(error)),
            (_, Err(error)) => Err(error.into()),
        }
    }
}

/// The published commit, if the mirror's commit does not descend from it and may replace it.
fn check_rewrite(publish: &Publish, mirror: &Mirror) -> Result<Option<CommitId>, PublishError> {
    let rewritten_from = mirror.rewritten_from(publish.old_commit())?;
    match (rewritten_from, mirror.commit(), publish.on_rewrite) {
        (Some(from), Some(to), OnRewrite::Hold) => Err(PublishError::Held(Rewrite { from, to })),
        (from, _, OnRewrite::Publish | OnRewrite::Hold) => Ok(from),
    }
}
