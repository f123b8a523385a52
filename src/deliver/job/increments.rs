//! Pushing increments: each on top of the one before, as it lies in the bucket.
//!
//! Invariant: all that are pushed were read to their ends before the first one is. If the far side lacks what one is on top of,
//! everything is pushed from the disk, once.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::spawn_blocking;

use super::{Job, Opened, Pushed, Sent, commit_of, wants_everything};
use crate::artifact::increment::{self, ExpectedIncrement};
use crate::deliver::error::DeliverError;
use crate::git::pack::thin::history::leads_to;
use crate::interrupt::Interrupt;
use crate::model::key::{CommitId, Content, HeldObject};
use crate::model::manifest::Origin;
use crate::plan::OnRewrite;
use crate::plan::delivery::Move;

/// How much of an increment's pack is in memory while it is pushed, in bytes.
const COPY_BYTES: usize = 64 << 10;

impl Job<'_> {
    /// Pushes a branch that the far side does not have: the whole history is streamed, the increments follow. They are opened
    /// before anything is pushed, because the last one tells when this was published.
    pub(super) async fn push_all(&self, place: &Path, whole: &HeldObject) -> Result<Pushed, DeliverError> {
        let mut opened = vec![];
        self.open_from(place, 1, &mut opened).await?;
        if let Some(tip) = opened.last() {
            self.take(&tip.increment.origin, Some(&tip.increment.manifest), Move::Creates)?;
        }
        match self.stream(whole, None).await {
            Ok(Pushed { bytes, .. }) => {
                self.sent.set(Sent { objects: 1, bytes });
                self.push_increments(place, opened, None).await
            }
            Err(DeliverError::NeedsDisk(why)) => {
                tracing::debug!(why, "an object cannot be streamed, and is delivered by way of the disk");
                self.push_from_disk(place, &mut opened, None).await
            }
            Err(error) => Err(error),
        }
    }

    /// Pushes to a branch that is not where one of the increments begins. If one of them leads back to that commit, that one
    /// and those after it bring all that the far side lacks.
    pub(super) async fn search(&self, place: &Path) -> Result<Pushed, DeliverError> {
        let (mut opened, chain) = (vec![], &self.deliver.chain);
        let Some(from) = self.deliver.from else { return self.push_from_disk(place, &mut opened, None).await };
        for at in (1..chain.len()).rev() {
            self.open_from(place, at, &mut opened).await?;
            let Some(first) = opened.first() else { break };
            if self.leads_to(first, from).await? {
                return self.push_increments(place, opened, Some(from)).await;
            }
        }
        self.push_from_disk(place, &mut opened, Some(from)).await
    }

    /// Opens the increments from this one on, and pushes them.
    pub(super) async fn push_from(
        &self,
        place: &Path,
        first: usize,
        from: Option<CommitId>,
    ) -> Result<Pushed, DeliverError> {
        let mut opened = vec![];
        self.open_from(place, first, &mut opened).await?;
        self.push_increments(place, opened, from).await
    }

    /// Opens the increments of the chain from this one on, those that are not open yet.
    pub(super) async fn open_from(
        &self,
        place: &Path,
        first: usize,
        opened: &mut Vec<Opened>,
    ) -> Result<(), DeliverError> {
        let missing = first..self.deliver.chain.len() - opened.len();
        let mut found = vec![];
        for at in missing {
            found.push(self.open(place, &self.deliver.chain[at]).await?);
        }
        opened.splice(0..0, found);
        Ok(())
    }

    /// Downloads an increment, and checks it to its end.
    async fn open(&self, place: &Path, object: &HeldObject) -> Result<Opened, DeliverError> {
        let (base, commit) = ends_of(object)?;
        let reader = self.download(object).await?;
        let (keys, limits, object) = (Arc::clone(self.keys), self.limits(), object.clone());
        let file = place.join(format!("{commit}.pack"));
        let reading = spawn_blocking(move || {
            let trust = keys.trust(&object.name.destination, None);
            let expected = ExpectedIncrement { commit, base, bytes: Some(object.bytes), trust };
            increment::read(reader, &expected, &keys.identities, limits, &file)
        });
        Ok(Opened { base, commit, increment: reading.await?? })
    }

    /// Pushes increments one after the other, each on top of the one before. `from` is where the branch is, or `None` if this
    /// delivery brought it to where the first one begins. If the far side lacks what it should have, it is sent everything,
    /// once.
    async fn push_increments(
        &self,
        place: &Path,
        mut opened: Vec<Opened>,
        from: Option<CommitId>,
    ) -> Result<Pushed, DeliverError> {
        let (mut at, first) = (from, self.deliver.chain.len() - opened.len());
        let tip = opened.last().map(|tip| (tip.increment.origin, tip.increment.manifest.clone()));
        let Some((origin, manifest)) = tip else { return Err(DeliverError::NoObject) };
        if let (Some(from), Some(first)) = (at, opened.first()) {
            // A trusted signer vouches that the branch moves forward. Otherwise the history in the pack has to prove it.
            let is_vouched = matches!(origin, Origin::Signed { .. });
            if !is_vouched && self.deliver.on_rewrite == OnRewrite::Hold {
                let mut moves_forward = self.leads_to(first, from).await?;
                for increment in opened.iter().skip(1) {
                    moves_forward = moves_forward && self.leads_to(increment, increment.base).await?;
                }
                if !moves_forward {
                    return self.push_from_disk(place, &mut opened, at).await;
                }
            }
            self.take(&origin, Some(&manifest), Move::Forward)?;
        }
        for (increment, objects) in opened.iter().zip(first + 1..) {
            // A branch that was made a moment ago is where its whole history ends.
            let old = at.or(Some(increment.base));
            match self.push_file(increment, old).await {
                Ok(pushed) => self.sent.set(Sent { objects, bytes: self.sent.get().bytes + pushed }),
                Err(DeliverError::Push(error)) if wants_everything(&error) => {
                    tracing::debug!(%error, "the far side lacks what an increment is on top of");
                    return self.push_from_disk(place, &mut opened, old).await;
                }
                Err(error) => return Err(error),
            }
            at = Some(increment.commit);
        }
        Ok(Pushed::new(None, self.sent.get().bytes, origin, Some(&manifest)))
    }

    /// Pushes an increment's pack as it is. Returns its size in bytes.
    async fn push_file(&self, opened: &Opened, old: Option<CommitId>) -> Result<u64, DeliverError> {
        let pack = opened.increment.pack.clone();
        let interrupt = Interrupt::when(self.stop);
        self.push(old, opened.commit, move |begin| {
            let mut file = File::open(&pack.path).map_err(DeliverError::Disk)?;
            let mut out = begin(pack.len).map_err(DeliverError::Receiver)?;
            let mut buffer = vec![0; COPY_BYTES];
            loop {
                let read = file.read(&mut buffer).map_err(DeliverError::Disk)?;
                if read == 0 {
                    return Ok(pack.len);
                }
                if interrupt.flag.load(Ordering::Relaxed) {
                    return Err(DeliverError::Stopped);
                }
                out.write_all(&buffer[..read]).map_err(DeliverError::Receiver)?;
            }
        })
        .await
    }

    /// Adds an increment to the repository that holds what it is on top of.
    pub(super) async fn apply(&self, repository: &Path, opened: Opened) -> Result<(), DeliverError> {
        let (memory, interrupt) = (Arc::clone(&self.courier.memory), Interrupt::when(self.stop));
        let (repository, limit) = (repository.to_owned(), self.courier.max_repository_bytes);
        let branch = self.deliver.destination().branch.clone();
        let applying = spawn_blocking(move || {
            let Opened { commit, increment, .. } = opened;
            increment::apply(&increment.pack, &repository, &branch, commit, limit, &memory, &interrupt.flag)
        });
        Ok(applying.await??)
    }

    /// Whether the increment's history leads back to this commit, as far as its own pack tells.
    async fn leads_to(&self, opened: &Opened, ancestor: CommitId) -> Result<bool, DeliverError> {
        let (pack, commit) = (opened.increment.pack.clone(), opened.commit);
        let (memory, interrupt) = (Arc::clone(&self.courier.memory), Interrupt::when(self.stop));
        let asking = spawn_blocking(move || leads_to(&pack.path, commit, ancestor, &memory, &interrupt.flag));
        asking.await?.map_err(DeliverError::Increment)
    }
}

/// Where an increment begins and ends.
fn ends_of(object: &HeldObject) -> Result<(CommitId, CommitId), DeliverError> {
    match object.name.content {
        Content::Increment { base } => Ok((base, commit_of(object)?)),
        Content::Whole(_) => Err(DeliverError::NoObject),
    }
}
