//! One attempt at one delivery: streamed from the bucket into the far GitLab, or by way of the disk.
//!
//! Invariant: the far branch moves only if the archive was read to its end and is what its name says: a pack that is
//! streamed lacks its last bytes until then. The far server verifies each object, and that the commit's history is complete.

mod increments;

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::courier::Courier;
use super::error::DeliverError;
use crate::artifact::Limits;
use crate::artifact::error::ArtifactError;
use crate::artifact::increment;
use crate::artifact::open::{Expected, Keys, Said, unpack};
use crate::artifact::signature::Judged;
use crate::artifact::stream::stream_pack;
use crate::files::create_private_dir;
use crate::git::pack::subset::{descends, write_subset};
use crate::git::push::{PackBody, PackWriter, PushError, PushServer, RefUpdate, Refusal, pack_channel};
use crate::interrupt::Interrupt;
use crate::model::key::{CommitId, HeldObject};
use crate::model::manifest::{Manifest, Origin};
use crate::model::stage::Stage;
use crate::net::http;
use crate::plan::OnRewrite;
use crate::plan::delivery::{Deliver, Move, Route, Window};
use crate::plan::outcome::Rewrite;
use crate::progress::Progress;

/// How long it may take to find out what became of a push whose answer was lost.
const LOOKUP_BUDGET: Duration = Duration::from_secs(60);

/// What was pushed.
#[derive(Debug)]
pub(super) struct Pushed {
    /// The far head that the new commit does not descend from, if so.
    pub(super) rewritten_from: Option<CommitId>,
    /// The size of all pushed packs in bytes.
    pub(super) bytes: u64,
    /// Who made the object that brings the commit.
    pub(super) origin: Origin,
    /// When it was published, if a trusted key has signed that.
    pub(super) published: Option<SystemTime>,
}

impl Pushed {
    fn new(rewritten_from: Option<CommitId>, bytes: u64, origin: Origin, manifest: Option<&Manifest>) -> Self {
        Self { rewritten_from, bytes, origin, published: published(&origin, manifest) }
    }
}

/// When it was published, if a trusted key has signed that.
fn published(origin: &Origin, manifest: Option<&Manifest>) -> Option<SystemTime> {
    manifest.filter(|_| matches!(origin, Origin::Signed { .. })).map(|manifest| manifest.published)
}

/// One attempt at one delivery.
pub(super) struct Job<'a> {
    pub(super) courier: &'a Courier,
    pub(super) git: &'a PushServer,
    pub(super) deliver: &'a Deliver,
    pub(super) keys: &'a Arc<Keys>,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) stop: &'a CancellationToken,
    /// What came over before this attempt.
    pub(super) sent: Cell<Sent>,
}

/// What of a chain the far side has got, push by push.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sent {
    /// The first objects of the chain, so many.
    objects: usize,
    /// The size of their packs in bytes.
    bytes: u64,
}

impl Job<'_> {
    /// One attempt. The next one goes on where it ended.
    pub(super) async fn run(&self) -> Result<Pushed, DeliverError> {
        if let Sent { objects: first @ 1.., .. } = self.sent.get() {
            return self.with_disk(async |place| self.push_from(place, first, None).await).await;
        }
        match (self.deliver.route, &self.deliver.chain[..]) {
            (Route::All, [whole]) => match self.stream(whole, self.window()).await {
                Err(DeliverError::NeedsDisk(why)) => {
                    tracing::debug!(why, "an object cannot be streamed, and is delivered by way of the disk");
                    self.with_disk(async |place| self.push_from_disk(place, &mut vec![], None).await).await
                }
                streamed => streamed,
            },
            (Route::All, [whole, ..]) => self.with_disk(async |place| self.push_all(place, whole).await).await,
            (Route::All, []) => Err(DeliverError::NoObject),
            (Route::From(first), _) => {
                self.with_disk(async |place| self.push_from(place, first, self.deliver.from).await).await
            }
            (Route::Search, _) => self.with_disk(async |place| self.search(place).await).await,
        }
    }

    /// With a folder of its own on the disk.
    async fn with_disk(
        &self,
        work: impl AsyncFnOnce(&Path) -> Result<Pushed, DeliverError>,
    ) -> Result<Pushed, DeliverError> {
        let place = self.courier.spool.place().map_err(DeliverError::Disk)?;
        let pushed = work(place.path()).await;
        place.remove().await;
        pushed
    }

    /// Pushes a whole history while its object is being read. Nothing touches the disk.
    async fn stream(&self, object: &HeldObject, window: Option<Window>) -> Result<Pushed, DeliverError> {
        let commit = commit_of(object)?;
        let reader = self.download(object).await?;
        let (keys, limits, object) = (Arc::clone(self.keys), self.limits(), object.clone());
        let ((said, known), (proven, taking)) = (oneshot::channel(), oneshot::channel());
        let pushed = self.push(None, commit, move |begin| {
            let expected = expected(&object, commit, &keys, window)?;
            // Its receiver waits until this is sent or dropped.
            let begin = |bytes, judged: &Judged| {
                let _ = proven.send(published(&judged.origin, judged.manifest.as_ref()));
                begin(bytes)
            };
            let streamed = stream_pack(reader, &expected, &keys.identities, limits, begin)?;
            note_others(&streamed.said);
            // The receiver is gone if the delivery was given up.
            drop(said.send(streamed.said));
            Ok(streamed.pack_bytes)
        });
        let noted = async { self.note(taking.await.ok().flatten()) };
        let (bytes, ()) = tokio::join!(pushed, noted);
        let bytes = bytes?;
        let Said { origin, manifest, .. } = known.await.map_err(|_| DeliverError::Stopped)?;
        Ok(Pushed::new(None, bytes, origin, manifest.as_ref()))
    }

    /// Unpacks everything, and pushes what the far side lacks of it.
    async fn push_from_disk(
        &self,
        place: &Path,
        opened: &mut Vec<Opened>,
        from: Option<CommitId>,
    ) -> Result<Pushed, DeliverError> {
        let Some(whole) = self.deliver.chain.first() else { return Err(DeliverError::NoObject) };
        self.open_from(place, 1, opened).await?;
        let repository = place.join("repository");
        let said = self.unpack(whole, &repository).await?;
        let (origin, manifest) = match opened.last() {
            // An increment replaces nothing: what the chain replaces, its whole history names.
            Some(tip) => {
                let previous = said.manifest.and_then(|whole| whole.previous);
                (tip.increment.origin, Some(Manifest { previous, ..tip.increment.manifest.clone() }))
            }
            None => (said.origin, said.manifest),
        };
        for increment in opened.drain(..) {
            self.apply(&repository, increment).await?;
        }
        let to = self.deliver.commit;
        let rewritten_from = match from {
            Some(from) if !self.descends(&repository, from).await? => Some(from),
            Some(_) | None => None,
        };
        let does = match (from, rewritten_from) {
            (None, _) => Move::Creates,
            (Some(_), None) => Move::Forward,
            (Some(_), Some(from)) => Move::Replaces(from),
        };
        self.allow(&origin, manifest.as_ref(), does)?;
        if let (Some(from), OnRewrite::Hold) = (rewritten_from, self.deliver.on_rewrite) {
            return Err(DeliverError::Held(Rewrite { from, to }));
        }
        self.note(published(&origin, manifest.as_ref()));
        let bytes = match self.push_lacking(&repository, from, from).await {
            // The far side lacks what it should have: send everything, once.
            Err(DeliverError::Push(error)) if from.is_some() && wants_everything(&error) => {
                self.push_lacking(&repository, from, None).await?
            }
            pushed => pushed?,
        };
        Ok(Pushed::new(rewritten_from, self.sent.get().bytes + bytes, origin, manifest.as_ref()))
    }

    /// Whether what was published then may still be taken. Only a signature tells when that was.
    fn allow(&self, origin: &Origin, manifest: Option<&Manifest>, does: Move) -> Result<(), DeliverError> {
        match (origin, manifest) {
            (Origin::Signed { .. }, Some(manifest)) => {
                Ok(self.courier.taken.lock().allow(manifest, does, SystemTime::now())?)
            }
            (Origin::Signed { .. } | Origin::Unchecked { .. } | Origin::Unsigned, _) => Ok(()),
        }
    }

    /// The same, and it is about to be pushed.
    fn take(&self, origin: &Origin, manifest: Option<&Manifest>, does: Move) -> Result<(), DeliverError> {
        self.allow(origin, manifest, does)?;
        self.note(published(origin, manifest));
        Ok(())
    }

    /// What was published then counts as taken from now on: what becomes of the push may never be known here.
    fn note(&self, published: Option<SystemTime>) {
        if let Some(published) = published {
            self.courier.note_taken(self.deliver.destination(), published);
        }
    }

    /// When a whole history that creates the branch may have been published.
    fn window(&self) -> Option<Window> {
        self.keys.trusted.as_ref()?;
        Some(self.courier.taken.lock().window(self.deliver.destination(), SystemTime::now()))
    }

    /// Whether the commit descends from `base`.
    async fn descends(&self, repository: &Path, base: CommitId) -> Result<bool, DeliverError> {
        let (repository, commit) = (repository.to_owned(), self.deliver.commit);
        let (memory, interrupt) = (Arc::clone(&self.courier.memory), Interrupt::when(self.stop));
        let asking = spawn_blocking(move || descends(&repository, commit, base, &memory, &interrupt.flag));
        Ok(asking.await??)
    }

    /// Pushes what the commit has and `have` lacks to a branch that is at `old`. Returns the size of the pack in bytes.
    async fn push_lacking(
        &self,
        repository: &Path,
        old: Option<CommitId>,
        have: Option<CommitId>,
    ) -> Result<u64, DeliverError> {
        let (repository, commit) = (repository.to_owned(), self.deliver.commit);
        let (memory, interrupt) = (Arc::clone(&self.courier.memory), Interrupt::when(self.stop));
        self.push(old, commit, move |begin| {
            let sent = write_subset(&repository, commit, have, &memory, &interrupt.flag, begin);
            sent.map(|sent| sent.bytes).map_err(DeliverError::from)
        })
        .await
    }

    /// Moves the branch from `old` to `new` by the pack that `make` writes, and returns the pack's size in bytes.
    async fn push(
        &self,
        old: Option<CommitId>,
        new: CommitId,
        make: impl FnOnce(&mut dyn FnMut(u64) -> io::Result<Counted>) -> Result<u64, DeliverError> + Send + 'static,
    ) -> Result<u64, DeliverError> {
        let (begun, pack) = oneshot::channel();
        let progress = Arc::clone(self.progress);
        let making = spawn_blocking(move || {
            let (mut begun, mut pushing) = (Some(begun), None);
            let made = make(&mut |bytes| {
                pushing = Some(progress.enter(Stage::Pushing));
                progress.expect_to_send(bytes);
                let (writer, body) = pack_channel(bytes);
                // The receiver is gone if the delivery was given up.
                drop(begun.take().map(|begun| begun.send(body)));
                Ok(Counted { writer, progress: Arc::clone(&progress) })
            });
            drop(pushing);
            made
        });
        let pushing = async {
            // Without a pack there is nothing to push; the other half reports why.
            Some(self.send(old, new, pack.await.ok()?).await)
        };
        let (made, pushed) = tokio::join!(making, pushing);
        match (made?, pushed) {
            // The server took the pack before it had all of what was announced.
            (Err(DeliverError::Receiver(_)), Some(Ok(()))) => {
                Err(ArtifactError::Damaged(io::Error::other("its pack ends before its place in the archive does"))
                    .into())
            }
            // The server's answer says why it took no more.
            (Err(DeliverError::Receiver(_)) | Ok(_), Some(Err(error))) => Err(error),
            (made, _) => made,
        }
    }

    /// Sends a pack. If the answer is lost, the far branch tells whether it was taken.
    async fn send(&self, old: Option<CommitId>, new: CommitId, pack: PackBody) -> Result<(), DeliverError> {
        let destination = self.deliver.destination();
        let (project, branch) = (destination.path(), destination.branch.as_str());
        let update = RefUpdate { branch, old, new };
        let error = match self.git.push(&project, &update, pack).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !error.all_sent() {
            return Err(error.into());
        }
        let branches = [branch].into();
        let lookup = http::retrying(LOOKUP_BUDGET, async || self.git.heads_for_push(&project, &branches).await);
        match lookup.await {
            Ok(heads) if heads.get(branch) == Some(&new) => Ok(()),
            Ok(_) | Err(_) => Err(error.into()),
        }
    }

    /// An object's content. Its bytes count as progress.
    async fn download(&self, object: &HeldObject) -> Result<impl Read + Send + use<>, DeliverError> {
        drop(self.progress.enter(Stage::Downloading));
        self.progress.expect_to_receive(object.bytes);
        let progress = Arc::clone(self.progress);
        let came = move |bytes| progress.received(bytes as u64);
        Ok(self.courier.bucket.download(&object.key, self.stop, came).await?)
    }

    async fn unpack(&self, object: &HeldObject, repository: &Path) -> Result<Said, DeliverError> {
        let commit = commit_of(object)?;
        let reader = self.download(object).await?;
        let (keys, object) = (Arc::clone(self.keys), object.clone());
        let (repository, limits) = (repository.to_owned(), self.limits());
        let unpacking = spawn_blocking(move || {
            create_private_dir(&repository).map_err(DeliverError::Disk)?;
            let expected = expected(&object, commit, &keys, None)?;
            let said = unpack(reader, &expected, &keys.identities, limits, &repository)?;
            note_others(&said);
            Ok(said)
        });
        unpacking.await?
    }

    fn limits(&self) -> Limits {
        Limits { bytes: self.courier.max_repository_bytes, ..Limits::default() }
    }
}

/// Counts what is pushed.
struct Counted {
    writer: PackWriter,
    progress: Arc<Progress>,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.progress.sent(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// An increment whose pack is on the disk.
struct Opened {
    base: CommitId,
    commit: CommitId,
    increment: increment::Increment,
}

/// Whether the far side lacks what the pack is on top of.
fn wants_everything(error: &PushError) -> bool {
    error.refusal().is_some_and(Refusal::wants_whole)
}

fn note_others(Said { other_references, .. }: &Said) {
    if *other_references > 0 {
        tracing::debug!(other_references, "other references of the archive are left out");
    }
}

/// The commit in the name of an object that the plan accepted.
fn commit_of(object: &HeldObject) -> Result<CommitId, DeliverError> {
    object.name.commit.parse().map_err(|_| DeliverError::NoObject)
}

fn expected<'a>(
    object: &'a HeldObject,
    commit: CommitId,
    keys: &'a Keys,
    window: Option<Window>,
) -> Result<Expected<'a>, DeliverError> {
    let format = object.name.content.format().ok_or(DeliverError::NoObject)?;
    Ok(Expected { format, commit, bytes: Some(object.bytes), trust: keys.trust(&object.name.destination, window) })
}
