//! One attempt at one delivery: streamed from the bucket into the far GitLab, or by way of the disk.
//!
//! Invariant: the far branch moves only if the archive was read to its end and is what its name says: a pack that is
//! streamed lacks its last bytes until then. The far server verifies each object, and that the commit's history is complete.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::courier::Courier;
use super::error::DeliverError;
use crate::artifact::Limits;
use crate::artifact::encrypt::Identities;
use crate::artifact::open::{Expected, unpack};
use crate::artifact::stream::{Streamed, stream_pack};
use crate::files::create_private_dir;
use crate::git::pack::subset::{descends, write_subset};
use crate::git::push::{PackBody, PackWriter, PushServer, RefUpdate, Remedy, pack_channel};
use crate::interrupt::Interrupt;
use crate::model::key::{CommitId, HeldObject};
use crate::model::stage::Stage;
use crate::net::http;
use crate::plan::OnRewrite;
use crate::plan::delivery::Deliver;
use crate::plan::outcome::Rewrite;
use crate::progress::Progress;

/// How long it may take to find out what became of a push whose answer was lost.
const LOOKUP_BUDGET: Duration = Duration::from_secs(60);

/// The far head that the new commit does not descend from, if so; and the size of the pushed pack in bytes.
type Pushed = (Option<CommitId>, u64);

/// One attempt at one delivery.
pub(super) struct Job<'a> {
    pub(super) courier: &'a Courier,
    pub(super) git: &'a PushServer,
    pub(super) deliver: &'a Deliver,
    pub(super) identities: &'a Arc<Identities>,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) stop: &'a CancellationToken,
}

impl Job<'_> {
    pub(super) async fn run(&self) -> Result<Pushed, DeliverError> {
        if self.deliver.from.is_some() {
            return self.push_from_disk().await;
        }
        match self.stream().await {
            Err(DeliverError::NeedsDisk(why)) => {
                tracing::debug!(why, "an object cannot be streamed, and is delivered by way of the disk");
                self.push_from_disk().await
            }
            streamed => streamed,
        }
    }

    /// Pushes a branch that the far side does not have while its object is being read. Nothing touches the disk.
    async fn stream(&self) -> Result<Pushed, DeliverError> {
        let reader = self.download().await?;
        let (object, commit, identities) = self.owned();
        let limits = self.limits();
        let pushed = self.push(move |begin| {
            let streamed = stream_pack(reader, &expected(&object, commit), &identities, limits, begin);
            let Streamed { pack_bytes, other_references } = streamed?;
            if other_references > 0 {
                tracing::debug!(other_references, "other references of the archive are left out");
            }
            Ok(pack_bytes)
        });
        Ok((None, pushed.await?))
    }

    /// Keeps the object on the disk while it is pushed.
    async fn push_from_disk(&self) -> Result<Pushed, DeliverError> {
        let place = self.courier.spool.place().map_err(DeliverError::Disk)?;
        let pushed = self.unpack_and_push(&place.path().join("repository")).await;
        place.remove().await;
        pushed
    }

    /// Unpacks the object, and pushes what the far side lacks of it.
    async fn unpack_and_push(&self, repository: &Path) -> Result<Pushed, DeliverError> {
        self.unpack(repository).await?;
        let (from, to) = (self.deliver.from, self.deliver.commit);
        let rewritten_from = match from {
            Some(from) if !self.descends(repository, from).await? => Some(from),
            Some(_) | None => None,
        };
        if let (Some(from), OnRewrite::Hold) = (rewritten_from, self.deliver.on_rewrite) {
            return Err(DeliverError::Held(Rewrite { from, to }));
        }
        match self.push_lacking(repository, from).await {
            // The far side lacks what it should have: send everything, once.
            Err(DeliverError::Push(error))
                if from.is_some() && error.refusal().is_some_and(|it| it.remedy() == Remedy::SendWhole) =>
            {
                Ok((rewritten_from, self.push_lacking(repository, None).await?))
            }
            pushed => Ok((rewritten_from, pushed?)),
        }
    }

    /// Whether the commit descends from `base`.
    async fn descends(&self, repository: &Path, base: CommitId) -> Result<bool, DeliverError> {
        let (repository, commit) = (repository.to_owned(), self.deliver.commit);
        let (memory, interrupt) = (Arc::clone(&self.courier.memory), Interrupt::when(self.stop));
        let asking = spawn_blocking(move || descends(&repository, commit, base, &memory, &interrupt.flag));
        Ok(asking.await??)
    }

    /// Pushes what the commit has and `have` lacks. Returns the size of the pack in bytes.
    async fn push_lacking(&self, repository: &Path, have: Option<CommitId>) -> Result<u64, DeliverError> {
        let (repository, commit) = (repository.to_owned(), self.deliver.commit);
        let (memory, interrupt) = (Arc::clone(&self.courier.memory), Interrupt::when(self.stop));
        self.push(move |begin| {
            let sent = write_subset(&repository, commit, have, &memory, &interrupt.flag, begin);
            sent.map(|sent| sent.bytes).map_err(DeliverError::from)
        })
        .await
    }

    /// Pushes the pack that `make` writes, and returns its size in bytes.
    async fn push(
        &self,
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
            Some(self.send(pack.await.ok()?).await)
        };
        let (made, pushed) = tokio::join!(making, pushing);
        match (made?, pushed) {
            // The server's answer says why it took no more.
            (Err(DeliverError::Receiver(_)) | Ok(_), Some(Err(error))) => Err(error),
            (made, _) => made,
        }
    }

    /// Sends a pack. If the answer is lost, the far branch tells whether it was taken.
    async fn send(&self, pack: PackBody) -> Result<(), DeliverError> {
        let destination = self.deliver.destination();
        let (project, branch) = (destination.path(), destination.branch.as_str());
        let update = RefUpdate { branch, old: self.deliver.from, new: self.deliver.commit };
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
            Ok(heads) if heads.get(branch) == Some(&self.deliver.commit) => Ok(()),
            Ok(_) | Err(_) => Err(error.into()),
        }
    }

    /// The object's content. Its bytes count as progress.
    async fn download(&self) -> Result<impl Read + Send + use<>, DeliverError> {
        drop(self.progress.enter(Stage::Downloading));
        self.progress.expect_to_receive(self.deliver.object.bytes);
        let progress = Arc::clone(self.progress);
        let came = move |bytes| progress.received(bytes as u64);
        Ok(self.courier.bucket.download(&self.deliver.object.key, self.stop, came).await?)
    }

    async fn unpack(&self, repository: &Path) -> Result<(), DeliverError> {
        let reader = self.download().await?;
        let (object, commit, identities) = self.owned();
        let (repository, limits) = (repository.to_owned(), self.limits());
        let unpacking = spawn_blocking(move || {
            create_private_dir(&repository).map_err(DeliverError::Disk)?;
            Ok(unpack(reader, &expected(&object, commit), &identities, limits, &repository)?)
        });
        unpacking.await?.map(drop)
    }

    fn owned(&self) -> (HeldObject, CommitId, Arc<Identities>) {
        (self.deliver.object.clone(), self.deliver.commit, Arc::clone(self.identities))
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

fn expected(object: &HeldObject, commit: CommitId) -> Expected<'_> {
    let name = &object.name;
    Expected { format: name.format, branch: &name.destination.branch, commit, bytes: Some(object.bytes) }
}
