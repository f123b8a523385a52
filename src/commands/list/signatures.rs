//! Who signed objects: their beginnings are downloaded, decrypted and judged.
//!
//! Invariant: of each object at most [`START_BYTES`] are requested, and [`CONCURRENCY`] objects are read at a time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, stream};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::artifact::error::ArtifactError;
use crate::artifact::open::Keys;
use crate::artifact::origin::{START_BYTES, origin};
use crate::bucket::Bucket;
use crate::model::key::{CommitId, HeldObject};
use crate::model::manifest::{KeyId, Origin};
use crate::terminal::Scene;
use crate::text::{error_chain, objects, printable};

/// How many objects are read at a time.
const CONCURRENCY: usize = 16;
/// How many destinations are named for one reason.
const NAMED: usize = 3;

/// What was found out of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signature {
    /// A consumer with the same `TRUSTED_KEYS` takes it.
    Good(Origin),
    /// It does not, because of this.
    Refused(String),
    /// It was not found out, because of this.
    Unknown(String),
}

/// What was found out, by the objects' keys.
pub(super) type Signatures = HashMap<String, Signature>;

/// How many objects were read.
#[derive(Debug, Default)]
pub(super) struct Watch(AtomicU64);

impl Watch {
    pub(super) fn scene(&self, wanted: usize) -> Scene {
        let done = Some((self.0.load(Ordering::Relaxed), wanted as u64));
        Scene { title: "signatures".to_owned(), done, at_work: vec![] }
    }
}

/// Reads the beginning of each of these objects.
pub(super) async fn read(bucket: &Bucket, keys: Keys, wanted: &[&HeldObject], watch: &Watch) -> Signatures {
    let keys = Arc::new(keys);
    let one = async |object: &&HeldObject| {
        let signature = signature(bucket, Arc::clone(&keys), (*object).clone()).await;
        watch.0.fetch_add(1, Ordering::Relaxed);
        (object.key.clone(), signature)
    };
    stream::iter(wanted.iter().map(one)).buffer_unordered(CONCURRENCY).collect().await
}

async fn signature(bucket: &Bucket, keys: Arc<Keys>, object: HeldObject) -> Signature {
    let Ok(commit) = object.name.commit.parse::<CommitId>() else {
        return Signature::Unknown("the commit in its name is not written as a producer writes it".to_owned());
    };
    let reader = match bucket.download_start(&object.key, START_BYTES, &CancellationToken::new()).await {
        Ok(reader) => reader,
        Err(error) => return Signature::Unknown(error_chain(&error)),
    };
    let judging = spawn_blocking(move || {
        let trust = keys.trust(&object.name.destination, None);
        match origin(reader, object.bytes, object.name.content, commit, trust, &keys.identities) {
            Ok(origin) => Signature::Good(origin),
            Err(error @ ArtifactError::Origin(_)) => Signature::Refused(error_chain(&error)),
            Err(error) => Signature::Unknown(error_chain(&error)),
        }
    });
    judging.await.unwrap_or_else(|error| Signature::Unknown(error_chain(&error)))
}

/// What is said of all objects that bring one commit together: the worst of them.
pub(super) fn of_all<'a>(signatures: impl IntoIterator<Item = &'a Signature>) -> String {
    let (mut keys, mut worst) = (vec![], None);
    for signature in signatures {
        let rank = match signature {
            Signature::Refused(_) => (3, "refused"),
            Signature::Unknown(_) => (2, "unknown"),
            Signature::Good(Origin::Unsigned) => (1, "unsigned"),
            Signature::Good(Origin::Signed { key } | Origin::Unchecked { key }) => {
                keys.push(*key);
                continue;
            }
        };
        worst = worst.max(Some(rank));
    }
    match (worst, keys.last()) {
        (Some((_, word)), _) => word.to_owned(),
        (None, None) => String::new(),
        (None, Some(last)) => {
            let mut others: Vec<KeyId> = keys.iter().filter(|key| *key != last).copied().collect();
            others.sort_unstable();
            others.dedup();
            let others = if others.is_empty() { String::new() } else { format!(" +{}", others.len()) };
            format!("{last}{others}")
        }
    }
}

/// Whether a consumer with the same keys takes all of them.
pub(super) fn are_good(signatures: &Signatures) -> bool {
    signatures.values().all(|signature| matches!(signature, Signature::Good(_)))
}

/// A line for each reason to take something not, and one that says what was read.
pub(super) fn summary(held: &[HeldObject], signatures: &Signatures, checked: bool) -> String {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for object in held {
        if let Some(Signature::Refused(why) | Signature::Unknown(why)) = signatures.get(&object.key) {
            let destinations = reasons.entry(why).or_default();
            let destination = printable(&object.name.destination.to_string());
            if destinations.last() != Some(&destination) {
                destinations.push(destination);
            }
        }
    }
    let reason = |(why, destinations): (&str, Vec<String>)| {
        let named = destinations.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = match destinations.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{named}{more}: {}\n", printable(why))
    };
    let reasons: String = reasons.into_iter().map(reason).collect();
    let checked = if checked { "" } else { "; none was checked, because TRUSTED_KEYS is not set" };
    format!("{reasons}the signatures of {} were read{checked}\n", objects(signatures.len()))
}
