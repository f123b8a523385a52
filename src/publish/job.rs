//! One attempt at publishing one commit: one half fetches and verifies, the other archives and uploads.
//!
//! Invariant: if one half fails, it stops the other, and the upload is not completed.

mod increments;

use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::error::PublishError;
use super::feed;
use super::{Publisher, fetch_error};
use crate::artifact::archive::{self, Contents, Pack};
use crate::artifact::encrypt::{self, Sealer};
use crate::artifact::signature::SignedManifest;
use crate::bucket::{BucketError, PartWriter};
use crate::git::lfs;
use crate::git::pack::thin::receive_thin;
use crate::git::pack::{self, PackError, ReceiveLimits, ReceivedPack};
use crate::git::store::Store;
use crate::git::wire::{GitServer, PackStream};
use crate::interrupt::Interrupt;
use crate::model::key::CommitId;
use crate::model::manifest::Manifest;
use crate::model::stage::Stage;
use crate::model::target::Source;
use crate::plan::outcome::Rewrite;
use crate::plan::{OnRewrite, Publish};
use crate::progress::{Progress, StageTimer};
use crate::text::{error_chain, printable};
use crate::workdir::mirrors::{Mirror, MirrorError, StoredPack};

/// An object that is up.
pub(super) struct Shipped {
    pub(super) key: String,
    pub(super) bytes: u64,
    /// What it is on top of, if it is an increment.
    pub(super) base: Option<CommitId>,
    pub(super) rewritten_from: Option<CommitId>,
    pub(super) lfs_paths: usize,
}

/// One attempt at one commit.
pub(super) struct Job<'a> {
    pub(super) publisher: &'a Publisher,
    pub(super) git: &'a GitServer,
    pub(super) publish: &'a Publish,
    pub(super) commit: CommitId,
    /// Of the whole history's object.
    pub(super) key: &'a str,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) stop: &'a CancellationToken,
}

impl Job<'_> {
    pub(super) async fn run(&self) -> Result<Shipped, PublishError> {
        match self.publish.increment() {
            None => self.publish_whole().await,
            Some(increment) => match self.publish_increment(increment).await {
                Ok(Ok(shipped)) => Ok(shipped),
                Ok(Err(why)) => self.publish_whole_instead(why).await,
                Err(error) if self.can_be_solved_afresh(&error) => {
                    self.publish_whole_instead(&error_chain(&error)).await
                }
                Err(error) => Err(error),
            },
        }
    }

    async fn publish_whole_instead(&self, why: &str) -> Result<Shipped, PublishError> {
        let shipped = self.publish_whole().await?;
        let destination = printable(&self.publish.target.destination.to_string());
        tracing::info!(destination, why, "an increment cannot be made, so the whole history crosses");
        Ok(shipped)
    }

    /// Whether it is the mirror that is to blame, or the answer to a fetch for it: one that is incomplete, or too large with the
    /// objects that it is based on.
    fn can_be_solved_afresh(&self, error: &PublishError) -> bool {
        use PackError::{Empty, Incomplete, TooLarge};
        let is_of_the_answer = matches!(error, PublishError::Pack(Empty | Incomplete { .. } | TooLarge { .. }));
        // On a full disk, other mirrors make room and the same is tried again.
        (is_of_the_answer || error.is_from_mirror()) && !error.disk_is_full() && !self.stop.is_cancelled()
    }

    async fn publish_whole(&self) -> Result<Shipped, PublishError> {
        let mirror = self.publisher.mirrors.lease(self.source()).await;
        match mirror.commit() {
            None => self.publish_afresh(mirror).await,
            Some(have) => match self.publish_from_mirror(mirror, have).await {
                Ok(Some(shipped)) => Ok(shipped),
                // The branch was rewritten. Fetching it afresh solves that.
                Ok(None) => self.publish_afresh(self.fresh_lease().await?).await,
                Err(error) if self.can_be_solved_afresh(&error) => {
                    let (source, error) = (printable(&self.source().to_string()), error_chain(&error));
                    tracing::warn!(source, error, "the kept repository cannot be used and is fetched afresh");
                    self.publish_afresh(self.fresh_lease().await?).await
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Fetches what the mirror lacks. `None`: the commit does not descend from the mirror's.
    async fn update(&self, mirror: Mirror, have: CommitId, depth: Depth) -> Result<Option<Mirror>, PublishError> {
        let stream = self.fetch(self.commit, Some((have, depth))).await?;
        let commit = self.commit;
        let (unused, _) = oneshot::channel();
        let finish = move |mirror: &mut Mirror, pack, limits: &ReceiveLimits<'_>| {
            Ok(mirror.finish_increment(commit, pack, limits)?)
        };
        let (mirror, descends) = self.receive(stream, mirror, depth, unused, finish).await?;
        Ok(descends.then_some(mirror))
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
    async fn publish_from_mirror(&self, mut mirror: Mirror, have: CommitId) -> Result<Option<Shipped>, PublishError> {
        if have != self.commit {
            let Some(updated) = self.update(mirror, have, Depth::Full).await? else { return Ok(None) };
            mirror = updated;
        }
        if mirror.bytes() > self.publisher.max_repository_bytes {
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
        Ok(Some(self.shipped_whole(shipped?, rewritten_from, lfs_paths)))
    }

    /// Fetches the whole history. Archiving and uploading begin when the pack's last byte is there, while its objects are
    /// being verified. The index is the archive's last part; it exists only if verification succeeds.
    async fn publish_afresh(&self, mut mirror: Mirror) -> Result<Shipped, PublishError> {
        let stream = self.fetch(self.commit, None).await?;
        mirror.start_afresh()?;
        let (commit, publish) = (self.commit, self.publish.clone());
        let (on_disk, pack) = oneshot::channel();
        let (indexed, index) = oneshot::channel();
        let finish = move |mirror: &mut Mirror, pack, limits: &ReceiveLimits<'_>| {
            mirror.finish_fresh(commit, pack, limits)?;
            // On an error the index is never sent, and the upload is aborted.
            let rewritten_from = check_rewrite(&publish, mirror)?;
            if let Some((_, [_, index])) = mirror.files().pop() {
                // The receiver is gone if the upload has failed already.
                drop(indexed.send(index));
            }
            Ok(rewritten_from)
        };
        let receiving = async {
            let (mirror, rewritten_from) = self.receive(stream, mirror, Depth::Full, on_disk, finish).await?;
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
        Ok(self.shipped_whole(shipped?, rewritten_from, lfs_paths))
    }

    fn shipped_whole(&self, bytes: u64, rewritten_from: Option<CommitId>, lfs_paths: usize) -> Shipped {
        Shipped { key: self.key.to_owned(), bytes, base: None, rewritten_from, lfs_paths }
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

    async fn fetch(
        &self,
        want: CommitId,
        have: Option<(CommitId, Depth)>,
    ) -> Result<(PackStream, StageTimer), PublishError> {
        let fetching = self.progress.enter(Stage::Fetching);
        let project = &self.source().project;
        let fetch = async {
            match have {
                Some((have, Depth::Thin)) => self.git.fetch_thin(project, want, have).await,
                Some((have, Depth::Full)) => self.git.fetch(project, want, Some(have)).await,
                None => self.git.fetch(project, want, None).await,
            }
        };
        let stream = self.stop.run_until_cancelled(fetch).await.ok_or(PublishError::Stopped)?;
        stream.map(|stream| (stream, fetching)).map_err(|error| fetch_error(self.source(), error))
    }

    /// Receives a pack into the mirror. `on_disk` gets it when its last byte is there, `finish` when it is verified.
    async fn receive<T: Send + 'static>(
        &self,
        (stream, fetching): (PackStream, StageTimer),
        mut mirror: Mirror,
        depth: Depth,
        on_disk: oneshot::Sender<ReceivedPack>,
        finish: impl FnOnce(&mut Mirror, StoredPack, &ReceiveLimits<'_>) -> Result<T, PublishError> + Send + 'static,
    ) -> Result<(Mirror, T), PublishError> {
        let (feed, source) = feed::channel();
        let interrupt = Interrupt::when(self.stop);
        let (turns, memory) = (Arc::clone(&self.publisher.turns), Arc::clone(&self.publisher.memory));
        let (limit, flag) = (self.publisher.max_repository_bytes, Arc::clone(&interrupt.flag));
        let (progress, mut record) = (Arc::clone(self.progress), self.publisher.crash_record(self.publish));
        let indexing = spawn_blocking(move || {
            let mut stage = fetching;
            let limits = ReceiveLimits { pack_bytes: limit, interrupt: &flag, memory: &memory, turns: &turns };
            let mut verifying = || {
                stage = progress.enter(Stage::Verifying);
                record.begin();
            };
            let (pack, index) = match depth {
                Depth::Full => pack::receive(source, &mirror.pack_dir(), &limits, |pack| {
                    verifying();
                    drop(on_disk.send(pack));
                }),
                Depth::Thin => receive_thin(source, &mirror.pack_dir(), &limits, verifying),
            }?;
            drop(record);
            let finished = finish(&mut mirror, StoredPack::new(&pack, &index), &limits)?;
            drop(stage);
            Ok((mirror, finished))
        });
        let fed = self.stop.run_until_cancelled(feed::feed_pack(stream, feed, self.progress)).await.unwrap_or(Ok(()));
        let indexed = indexing.await?;
        // If the wire broke, that is the cause, and the indexer's error a consequence.
        fed.map_err(|error| fetch_error(self.source(), error))?;
        indexed
    }

    /// What the object says about itself. A whole history says so only if there is a key to sign it.
    fn manifest(&self, base: Option<CommitId>) -> Result<SignedManifest, PublishError> {
        let destination = &self.publish.target.destination;
        // An increment descends from what was published before, and replaces nothing.
        let previous = self.publish.old_commit().filter(|_| base.is_none()).and_then(|commit| commit.parse().ok());
        let manifest = Manifest {
            destination: destination.clone(),
            commit: self.commit,
            base,
            previous,
            published: self.publisher.times.next(destination, self.publish.newest_written),
        };
        SignedManifest::new(&manifest, self.publisher.signing_key.as_ref()).map_err(PublishError::Archive)
    }

    /// Archives, encrypts and uploads a whole history. Returns the object's size in bytes.
    async fn ship(&self, packs: Vec<Pack>) -> Result<u64, PublishError> {
        let data: u64 = packs.iter().map(|pack| pack.data.len).sum();
        let manifest = self.publisher.signing_key.is_some().then(|| self.manifest(None)).transpose()?;
        let branch = self.publish.target.destination.branch.clone();
        let contents = Contents { branch, commit: self.commit, manifest, packs };
        let format = self.publish.format;
        let write = move |sealer| archive::write(format, contents, sealer);
        // The length of the index is not known yet; it is seldom more than a quarter of the pack.
        self.upload(self.key, data, data + data / 4, write).await
    }

    /// Encrypts and uploads what `write` writes: packs of `data` bytes, and probably `expected` bytes in all. Returns the object's
    /// size in bytes.
    async fn upload(
        &self,
        key: &str,
        data: u64,
        expected: u64,
        write: impl FnOnce(Sealer<PartWriter>) -> io::Result<Sealer<PartWriter>> + Send + 'static,
    ) -> Result<u64, PublishError> {
        let publisher = self.publisher;
        let _uploading = self.progress.enter(Stage::Uploading);
        self.progress.expect_to_send(data);
        let (writer, parts) = publisher.bucket.pipe(expected);
        let recipients = Arc::clone(&publisher.recipients);
        let writing = spawn_blocking(move || -> io::Result<u64> {
            let sealer = encrypt::encrypting(&recipients, writer).map_err(io::Error::other)?;
            write(sealer)?.finish()?.finish()
        });
        let uploaded = publisher.bucket.upload(key, parts, &publisher.workdir, self.progress, self.stop).await;
        match (writing.await?, uploaded) {
            (Ok(_), Ok(bytes)) => Ok(bytes),
            // The writer failed first.
            (Err(error), Ok(_) | Err(BucketError::WriterGone)) => Err(PublishError::Archive(error)),
            (_, Err(error)) => Err(error.into()),
        }
    }
}

/// What a fetch brings beside what the mirror has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Objects that need nothing else to be decoded.
    Full,
    /// Also deltas on what the mirror has.
    Thin,
}

/// The published commit, if the mirror's commit does not descend from it and may replace it.
fn check_rewrite(publish: &Publish, mirror: &Mirror) -> Result<Option<CommitId>, PublishError> {
    let rewritten_from = mirror.rewritten_from(publish.old_commit())?;
    match (rewritten_from, mirror.commit(), publish.on_rewrite) {
        (Some(from), Some(to), OnRewrite::Hold) => Err(PublishError::Held(Rewrite { from, to })),
        (from, _, OnRewrite::Publish | OnRewrite::Hold) => Ok(from),
    }
}
