//! One attempt at one delivery: streamed from the bucket into the far GitLab, or by way of the disk.
//!
//! Invariant: the far branch moves only if the archive was read to its end and is what its name says: a pack that is
//! streamed lacks its last bytes until then. The far server verifies each object, and that the commit's history is complete.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::courier::Courier;
use super::error::DeliverError;
use crate::artifact::encrypt::Identities;
use crate::artifact::open::unpack_object;
use crate::artifact::stream::{StreamError, stream_pack};
use crate::git::pack::{self, PackToPush, SubsetError};
use crate::git::push::{PackBody, RefUpdate, Refusal, pack_channel};
use crate::git::wire::GitServer;
use crate::memory::MemoryBudget;
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
    pub(super) git: &'a GitServer,
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
        let (begun, pack) = oneshot::channel();
        let (object, commit, identities) = (self.deliver.object.clone(), self.deliver.commit, Arc::clone(self.identities));
        let progress = Arc::clone(self.progress);
        let reading = spawn_blocking(move || {
            let mut pushing = None;
            stream_pack(reader, object.name.format, &object.name.destination.branch, commit, &identities, |bytes| {
                pushing = Some(progress.enter(Stage::Pushing));
                progress.expect_upload(bytes);
                let (writer, body) = pack_channel(bytes);
                // The receiver is gone if the delivery was given up.
                drop(begun.send((bytes, body)));
                Ok(writer)
            })
        });
        let pushing = async {
            // Without a pack there is nothing to push; the other half reports why.
            let (bytes, body) = pack.await.ok()?;
            Some(self.push(body).await.map(|()| bytes))
        };
        let (read, pushed) = tokio::join!(reading, pushing);
        match (read?, pushed) {
            (Ok(_), Some(pushed)) => Ok((None, pushed?)),
            (Err(StreamError::Receiver(_)), Some(Err(error))) => Err(error),
            (Err(StreamError::Artifact(error)), _) => Err(error.into()),
            (Err(StreamError::NeedsDisk(why)), _) => Err(DeliverError::NeedsDisk(why)),
            (Err(StreamError::Receiver(error)), _) => Err(DeliverError::Disk(error)),
            (Ok(_), None) => Err(DeliverError::Stopped),
        }
    }

    /// Keeps the object on the disk, and pushes what the far side lacks of it.
    async fn push_from_disk(&self) -> Result<Pushed, DeliverError> {
        let place = self.courier.spool.place().map_err(DeliverError::Disk)?;
        let repository = place.path().join("repository");
        self.unpack(&repository).await?;
        let from = self.deliver.from;
        let (git_dir, commit) = (repository.join(".git"), self.deliver.commit);
        let descends = self.blocking(move |_| pack::descends_from(&git_dir, commit, from)).await?;
        let rewritten_from = from.filter(|_| !descends);
        if let (Some(from), OnRewrite::Hold) = (rewritten_from, self.deliver.on_rewrite) {
            return Err(DeliverError::Held(Rewrite { from, to: commit }));
        }
        match self.push_lacking(&repository, from).await {
            // The far side lacks what it should have: send everything, once.
            Err(DeliverError::Push(error)) if from.is_some() && error.refusal() == Some(Refusal::Incomplete) => {
                Ok((rewritten_from, self.push_lacking(&repository, None).await?))
            }
            pushed => Ok((rewritten_from, pushed?)),
        }
    }

    /// Pushes what the commit has and `have` lacks. Returns the size of the pack.
    async fn push_lacking(&self, repository: &Path, have: Option<CommitId>) -> Result<u64, DeliverError> {
        let (git_dir, commit) = (repository.join(".git"), self.deliver.commit);
        let pack = self.blocking(move |memory| pack::pack_to_push(&git_dir, commit, have, memory)).await?;
        let PackToPush { path, bytes } = pack;
        let file = File::open(path).map_err(DeliverError::Disk)?;
        let _pushing = self.progress.enter(Stage::Pushing);
        self.progress.expect_upload(bytes);
        self.push(PackBody::from_file(file, bytes)).await?;
        Ok(bytes)
    }

    /// Pushes the pack. If the answer is lost, the far branch tells whether it was taken.
    async fn push(&self, pack: PackBody) -> Result<(), DeliverError> {
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
        let progress = Arc::clone(self.progress);
        let came = move |bytes| progress.downloaded(bytes as u64);
        Ok(self.courier.bucket.download(&self.deliver.object.key, self.stop, came).await?)
    }

    /// Runs work that reads the repository on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&MemoryBudget) -> Result<T, SubsetError> + Send + 'static,
    ) -> Result<T, DeliverError> {
        let memory = Arc::clone(&self.courier.memory);
        Ok(spawn_blocking(move || work(&memory)).await??)
    }

    async fn unpack(&self, repository: &Path) -> Result<(), DeliverError> {
        let reader = self.download().await?;
        let (object, commit, identities) = (self.deliver.object.clone(), self.deliver.commit, Arc::clone(self.identities));
        let (repository, limit) = (repository.to_owned(), self.courier.max_repository_bytes);
        let unpacking = spawn_blocking(move || {
            let HeldObject { name, .. } = object;
            unpack_object(reader, name.format, &name.destination.branch, commit, &identities, &repository, limit)
        });
        unpacking.await??;
        Ok(())
    }
}
