//! One target from the source to the bucket: fetch, archive, encrypt and upload as one stream.
//!
//! Invariant: the object is completed only after every object of every pack in it was verified, and it holds the commit
//! that its name says.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use age::x25519::Recipient;
use bytes::{Buf, Bytes};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::archive::{self, Contents, Pack};
use crate::bucket::{Bucket, BucketError};
use crate::encrypt;
use crate::http::{self, RequestError, Retryable};
use crate::inspect;
use crate::key::{self, CommitId, Destination, KeyTooLong};
use crate::mirror::{Mirror, MirrorError, MirrorStore, StoredPack};
use crate::pack::{self, IndexGate, Limits, PackError, ReceivedPack};
use crate::plan::{OnRewrite, Publish};
use crate::progress::{Progress, Stage, StageTimer};
use crate::report::{error_chain, printable};
use crate::target::Source;
use crate::wire::{GitServer, PackStream, WireError};
use crate::workdir::Workdir;

/// Pieces of a pack, 64 KiB at most each, between the wire and the indexer.
const FEED_PIECES: usize = 32;
/// How long the branch may be looked up again where its commit is gone.
const REPROBE_BUDGET: Duration = Duration::from_secs(60);
/// After this long a history with gaps is fetched again: somebody may have mended it.
const GAP_KNOWN_FOR: Duration = Duration::from_secs(3_600);
/// How long a target that is told to stop may take to abort its upload.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// What every target's publication needs.
pub struct Publisher {
    /// The source GitLab.
    pub git: GitServer,
    /// Where objects go.
    pub bucket: Bucket,
    /// Repositories kept from earlier passes.
    pub mirrors: Arc<MirrorStore>,
    /// Where uploads are recorded.
    pub workdir: Arc<Workdir>,
    /// Who can decrypt.
    pub recipients: Arc<[Recipient]>,
    /// Longest pack accepted, in bytes.
    pub max_repository_bytes: u64,
    /// How long one target may take.
    pub time_limit: Duration,
    /// Shared by all that index packs.
    pub gate: Arc<IndexGate>,
    /// Rewritten branches that are held back.
    pub held: Arc<HeldRewrites>,
    /// Commits whose history was found to have gaps.
    pub gaps: Arc<KnownGaps>,
}

/// Commits whose history was found to have gaps, so that a large repository is not fetched in every pass to find that out
/// again.
#[derive(Debug, Default)]
pub struct KnownGaps(Mutex<HashMap<Source, Gap>>);

#[derive(Debug, Clone)]
struct Gap {
    commit: CommitId,
    what: &'static str,
    id: String,
    found: Instant,
}

impl KnownGaps {
    /// Forgets all but these source branches.
    pub fn keep_only<'a>(&self, wanted: impl Iterator<Item = &'a Source>) {
        let wanted: HashSet<_> = wanted.collect();
        self.lock().retain(|source, _| wanted.contains(source));
    }

    fn known(&self, source: &Source, commit: CommitId) -> Option<PackError> {
        let gap = self.lock().get(source).cloned()?;
        let same = gap.commit == commit && gap.found.elapsed() < GAP_KNOWN_FOR;
        same.then_some(PackError::Incomplete { what: gap.what, id: gap.id })
    }

    fn note(&self, source: &Source, commit: CommitId, published: &Result<Shipped, PublishError>) {
        if let Err(PublishError::Pack(PackError::Incomplete { what, id })) = published {
            let gap = Gap { commit, what, id: id.clone(), found: Instant::now() };
            self.lock().insert(source.clone(), gap);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, Gap>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rewritten branches that are held back, so that one need not be fetched again to find out that it is.
#[derive(Debug, Default)]
pub struct HeldRewrites(Mutex<HashMap<Destination, Rewrite>>);

impl HeldRewrites {
    /// Forgets all but these destinations.
    pub fn keep_only<'a>(&self, wanted: impl Iterator<Item = &'a Destination>) {
        let wanted: Vec<_> = wanted.collect();
        self.lock().retain(|destination, _| wanted.contains(&destination));
    }

    fn known(&self, publish: &Publish, commit: CommitId) -> Option<Rewrite> {
        let rewrite = self.lock().get(&publish.target.destination).copied()?;
        let same = rewrite.to == commit && publish.old_commit() == Some(&rewrite.from.to_string());
        (same && publish.on_rewrite == OnRewrite::Hold).then_some(rewrite)
    }

    fn note(&self, publish: &Publish, rewrite: Rewrite) {
        self.lock().insert(publish.target.destination.clone(), rewrite);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, Rewrite>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A branch whose head does not descend from what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// The published commit.
    pub from: CommitId,
    /// The head.
    pub to: CommitId,
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The commit: the planned one, unless the branch moved and the planned one was pruned meanwhile.
    pub commit: CommitId,
    /// The object's key.
    pub key: String,
    /// The object's size in bytes.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// The commit that was published before, where this one does not descend from it.
    pub rewritten_from: Option<CommitId>,
    /// Paths of the commit that are Git LFS pointers: their content does not cross.
    pub lfs_paths: usize,
}

/// An object that is up.
struct Shipped {
    bytes: u64,
    rewritten_from: Option<CommitId>,
    lfs_paths: usize,
}

/// Why a target was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Reading from the source failed.
    #[error("cannot fetch {source_branch}")]
    Fetch {
        /// What was fetched.
        source_branch: String,
        /// What went wrong.
        #[source]
        source: WireError,
    },
    /// The pack was not taken.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The repository under WORKDIR.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// Archiving or encrypting failed.
    #[error("cannot make the archive")]
    Archive(#[source] io::Error),
    /// Storing the object failed.
    #[error(transparent)]
    Upload(#[from] BucketError),
    /// The branch moved, and its name is too long.
    #[error(transparent)]
    Name(#[from] KeyTooLong),
    /// The branch is gone since the probe.
    #[error("{0} is gone since it was probed")]
    BranchGone(Source),
    /// The branch was rewritten, and such a branch is held.
    #[error(
        "the branch was rewritten: {} does not descend from {}, which stays published. If that is right, run one pass \
         with -on-rewrite=publish",
        .0.to, .0.from
    )]
    Held(Rewrite),
    /// The time limit.
    #[error("not finished within TARGET_TIMEOUT ({} s)", .0.as_secs())]
    TimeLimit(Duration),
    /// The program was asked to stop.
    #[error("stopped")]
    Stopped,
    /// A request outside of a fetch.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A thread of the program failed.
    #[error("internal error: a task failed")]
    Task(#[from] JoinError),
}

impl Retryable for PublishError {
    fn retry(&self) -> (bool, Duration) {
        match self {
            Self::Fetch { source, .. } => source.retry(),
            _ => (false, Duration::ZERO),
        }
    }
}

impl PublishError {
    fn disk_is_full(&self) -> bool {
        let io = match self {
            Self::Pack(PackError::Io(error)) | Self::Mirror(MirrorError::Io(error)) => error,
            _ => return false,
        };
        matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    fn is_of_the_mirror(&self) -> bool {
        matches!(self, Self::Mirror(_) | Self::Archive(_))
    }
}

impl Publisher {
    /// Publishes one target within the time limit.
    ///
    /// # Errors
    /// [`PublishError`]; no object has appeared then, and a begun upload was aborted or stays recorded.
    pub async fn publish(
        &self,
        publish: &Publish,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
    ) -> Result<Published, PublishError> {
        let begun = Instant::now();
        let stop_this = stop.child_token();
        let mut work = Box::pin(self.publish_head(publish, progress, &stop_this));
        let in_time = tokio::time::timeout(self.time_limit, &mut work);
        let done = match stop.run_until_cancelled(in_time).await {
            Some(Ok(done)) => done,
            ended => {
                stop_this.cancel();
                let why = ended.map_or(PublishError::Stopped, |_| PublishError::TimeLimit(self.time_limit));
                // Only the clean-up is waited for, and not for ever. It may turn out that the object is up all the same.
                tokio::time::timeout(STOP_GRACE, work).await.ok().and_then(Result::ok).ok_or(why)
            }
        };
        let (commit, key, Shipped { bytes, rewritten_from, lfs_paths }) = match done {
            Err(_) if stop.is_cancelled() => return Err(PublishError::Stopped),
            other => other?,
        };
        Ok(Published { commit, key, bytes, took: begun.elapsed(), rewritten_from, lfs_paths })
    }

    /// Publishes the planned commit; where the server has pruned it since the probe, the one the branch is at now.
    async fn publish_head(
        &self,
        publish: &Publish,
        progress: &Arc<Progress>,
        stop: &CancellationToken,
    ) -> Result<(CommitId, String, Shipped), PublishError> {
        let planned = self.publish_commit((publish, progress), publish.commit, &publish.key, stop).await;
        let Err(PublishError::Fetch { source: WireError::NotOurRef(_), .. }) = planned else {
            return planned.map(|shipped| (publish.commit, publish.key.clone(), shipped));
        };
        let source = &publish.target.source;
        let branches = [source.branch.as_str()].into();
        let probe = http::retrying(REPROBE_BUDGET, async || self.git.ls_refs(&source.project, &branches).await);
        let heads = stop.run_until_cancelled(probe).await.ok_or(PublishError::Stopped)?;
        let heads = heads.map_err(|error| fetch_error(source, error))?;
        let commit = *heads.get(&source.branch).ok_or_else(|| PublishError::BranchGone(source.clone()))?;
        let key = key::encode(&publish.target.destination, commit, publish.format)?;
        let shipped = self.publish_commit((publish, progress), commit, &key, stop).await?;
        Ok((commit, key, shipped))
    }

    /// Publishes one commit under `key`; again where the connection to the source breaks.
    async fn publish_commit(
        &self,
        (publish, progress): (&Publish, &Arc<Progress>),
        commit: CommitId,
        key: &str,
        stop: &CancellationToken,
    ) -> Result<Shipped, PublishError> {
        if let Some(rewrite) = self.held.known(publish, commit) {
            return Err(PublishError::Held(rewrite));
        }
        if let Some(gap) = self.gaps.known(&publish.target.source, commit) {
            return Err(gap.into());
        }
        let published = http::retrying_until(stop, self.time_limit, async || {
            let job = Job { publisher: self, publish, commit, key, progress, stop };
            match job.run().await {
                Err(error) if error.disk_is_full() => {
                    self.mirrors.evict_idle();
                    job.run().await
                }
                other => other,
            }
        })
        .await;
        if let Err(PublishError::Held(rewrite)) = published {
            self.held.note(publish, rewrite);
        }
        self.gaps.note(&publish.target.source, commit, &published);
        published
    }
}

fn fetch_error(source: &Source, error: WireError) -> PublishError {
    PublishError::Fetch { source_branch: source.to_string(), source: error }
}

/// One attempt at one commit.
struct Job<'a> {
    publisher: &'a Publisher,
    publish: &'a Publish,
    commit: CommitId,
    key: &'a str,
    progress: &'a Arc<Progress>,
    stop: &'a CancellationToken,
}

impl Job<'_> {
    async fn run(&self) -> Result<Shipped, PublishError> {
        let mirror = self.publisher.mirrors.lease(self.source()).await;
        match mirror.commit() {
            None => self.publish_afresh(mirror).await,
            Some(have) => match self.publish_increment(mirror, have).await {
                Ok(Some(shipped)) => Ok(shipped),
                // The branch was rewritten, or the mirror is damaged: a fresh one serves in both cases.
                Ok(None) | Err(PublishError::Pack(PackError::Empty | PackError::Incomplete { .. })) => {
                    self.publish_afresh(self.fresh_lease().await?).await
                }
                Err(error) if error.is_of_the_mirror() && !self.stop.is_cancelled() => {
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

    /// Publishes from the mirror, after fetching what it lacks. `None`: the new commit does not descend from the mirror's,
    /// or the mirror has grown too large.
    async fn publish_increment(&self, mut mirror: Mirror, have: CommitId) -> Result<Option<Shipped>, PublishError> {
        if have != self.commit {
            let stream = self.fetch(Some(have)).await?;
            let commit = self.commit;
            let (unused, _) = oneshot::channel();
            let finish = move |mirror: &mut Mirror, pack| Ok(mirror.finish_increment(commit, pack)?);
            let (received, on_time) = self.receive(stream, mirror, unused, finish).await?;
            mirror = received;
            if !on_time {
                return Ok(None);
            }
        }
        let bytes: u64 = mirror.files().iter().map(|(_, [data, _])| data.len).sum();
        if bytes > self.publisher.max_repository_bytes {
            // Increments hold some things twice: whether the repository itself has grown too large, a fresh fetch tells.
            return Ok(None);
        }
        let rewritten_from = rewrite_let_through(self.publish, &mirror)?;
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

    /// Fetches the whole history. Archiving and uploading begin when the pack's last byte is there, and go on while its
    /// objects are verified; the index comes last in the archive, and with it the verdict.
    async fn publish_afresh(&self, mut mirror: Mirror) -> Result<Shipped, PublishError> {
        let stream = self.fetch(None).await?;
        mirror.start_afresh()?;
        let (commit, publish) = (self.commit, self.publish.clone());
        let (received, pack) = oneshot::channel();
        let (indexed, index) = oneshot::channel();
        let finish = move |mirror: &mut Mirror, pack: StoredPack| {
            mirror.finish_fresh(commit, pack)?;
            // Without its index, what is on its way already comes to nothing.
            let rewritten_from = rewrite_let_through(&publish, mirror)?;
            if let Some((_, [_, index])) = mirror.files().pop() {
                // Nobody listens where the upload has failed already.
                drop(indexed.send(index));
            }
            Ok(rewritten_from)
        };
        let receiving = async {
            let (mirror, rewritten_from) = self.receive(stream, mirror, received, finish).await?;
            let lfs_paths = self.lfs_paths(&mirror).await;
            Ok::<_, PublishError>((mirror, rewritten_from, lfs_paths))
        };
        let shipping = async {
            // Without a pack there is nothing to ship; what became of it is the other half's to say.
            let Ok(ReceivedPack { name, file }) = pack.await else { return Ok(0) };
            let index =
                Box::new(move || index.blocking_recv().map_err(|_| io::Error::other("the pack was not verified")));
            self.ship(vec![Pack { name, data: file, index }]).await
        };
        let (received, shipped) = tokio::join!(receiving, shipping);
        // The mirror is held until the archive has been read.
        let (_mirror, rewritten_from, lfs_paths) = received?;
        Ok(Shipped { bytes: shipped?, rewritten_from, lfs_paths })
    }

    /// How many paths are Git LFS pointers, as far as that can be found out: the object is as good as without.
    async fn lfs_paths(&self, mirror: &Mirror) -> usize {
        let (path, commit) = (mirror.path().to_owned(), self.commit);
        let counting =
            spawn_blocking(move || git2::Repository::open_bare(path).and_then(|it| inspect::lfs_paths(&it, commit)));
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
        let fetch = self.publisher.git.fetch(&self.source().project, self.commit, have);
        let stream = self.stop.run_until_cancelled(fetch).await.ok_or(PublishError::Stopped)?;
        stream.map(|stream| (stream, fetching)).map_err(|error| fetch_error(self.source(), error))
    }

    /// Takes a pack from the wire into the mirror. `received` is told when its last byte is there, and `finish` is called
    /// with the verified pack.
    async fn receive<T: Send + 'static>(
        &self,
        (stream, fetching): (PackStream, StageTimer),
        mut mirror: Mirror,
        received: oneshot::Sender<ReceivedPack>,
        finish: impl FnOnce(&mut Mirror, StoredPack) -> Result<T, PublishError> + Send + 'static,
    ) -> Result<(Mirror, T), PublishError> {
        let (feed, pieces) = mpsc::channel(FEED_PIECES);
        let interrupt = Interrupt::when(self.stop);
        let (gate, limit, flag) =
            (Arc::clone(&self.publisher.gate), self.publisher.max_repository_bytes, Arc::clone(&interrupt.flag));
        let progress = Arc::clone(self.progress);
        let indexing = spawn_blocking(move || {
            let mut stage = fetching;
            let limits = Limits { pack_bytes: limit, interrupt: &flag, gate: &gate };
            let source = Pieces { pieces, current: Bytes::new(), ended: false };
            let (pack, index) = pack::receive(source, &mirror.pack_dir(), &limits, |pack| {
                stage = progress.enter(Stage::Verifying);
                drop(received.send(pack));
            })?;
            let finished = finish(&mut mirror, StoredPack::new(&pack, &index))?;
            drop(stage);
            Ok((mirror, finished))
        });
        let fed = self.stop.run_until_cancelled(feed_pack(stream, feed, self.progress)).await.unwrap_or(Ok(()));
        let indexed = indexing.await?;
        // Where the wire broke, that is the reason, and the indexer's complaint only its consequence.
        fed.map_err(|error| fetch_error(self.source(), error))?;
        indexed
    }

    /// Archives, encrypts and uploads. Returns the object's size in bytes.
    async fn ship(&self, packs: Vec<Pack>) -> Result<u64, PublishError> {
        let publisher = self.publisher;
        let data: u64 = packs.iter().map(|pack| pack.data.len).sum();
        // The index comes last, and how long it will be is not known yet: seldom more than a quarter of the pack.
        let expected = data + data / 4;
        let _uploading = self.progress.enter(Stage::Uploading);
        self.progress.expect_upload(data);
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
            // The writer failed, so there was nothing to complete.
            (Err(error), Ok(_) | Err(BucketError::WriterGone)) => Err(PublishError::Archive(error)),
            (_, Err(error)) => Err(error.into()),
        }
    }
}

/// The commit that is published, where the mirror's does not descend from it and is to be published all the same.
fn rewrite_let_through(publish: &Publish, mirror: &Mirror) -> Result<Option<CommitId>, PublishError> {
    let rewritten_from = mirror.rewritten_from(publish.old_commit())?;
    match (rewritten_from, mirror.commit(), publish.on_rewrite) {
        (Some(from), Some(to), OnRewrite::Hold) => Err(PublishError::Held(Rewrite { from, to })),
        (from, _, OnRewrite::Publish | OnRewrite::Hold) => Ok(from),
    }
}

/// Passes the pack on, piece by piece, and its end as such.
async fn feed_pack(
    mut stream: PackStream,
    feed: mpsc::Sender<Option<Bytes>>,
    progress: &Progress,
) -> Result<(), WireError> {
    loop {
        let piece = stream.next().await?;
        progress.fetched(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        let end = piece.is_none();
        // The indexer has given up where nobody receives; it says why.
        if feed.send(piece).await.is_err() || end {
            return Ok(());
        }
    }
}

/// The pack as the indexer reads it. A feed that stops without its end is an error, never the end of the pack.
struct Pieces {
    pieces: mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => self.current = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::other("the connection broke off")),
            }
        }
        let read = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

/// A flag for threads that cannot wait for a token: set when the token is cancelled, or when nobody waits any more.
struct Interrupt {
    flag: Arc<AtomicBool>,
    _watch: AbortOnDropHandle<()>,
}

impl Interrupt {
    fn when(stop: &CancellationToken) -> Self {
        let flag = Arc::new(AtomicBool::new(false));
        let (stop, set) = (stop.clone(), Arc::clone(&flag));
        let watch = tokio::spawn(async move {
            stop.cancelled().await;
            set.store(true, Ordering::Relaxed);
        });
        Self { flag, _watch: AbortOnDropHandle::new(watch) }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Relaxed);
    }
}
