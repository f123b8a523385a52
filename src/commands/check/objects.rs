//! The bucket as the consumer reads it: the listing, and the first bytes of a few objects.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::bucket::{and_foreign, failed};
use super::finding::{Check, by_reason};
use crate::artifact::encrypt::{Identities, decrypting};
use crate::artifact::error::ArtifactError;
use crate::artifact::open::Keys;
use crate::artifact::origin::{START_BYTES, origin};
use crate::artifact::signature::TrustError;
use crate::bucket::{Bucket, BucketError, Listing};
use crate::config;
use crate::deliver::{object_cause, pause_of_a_bucket_with};
use crate::model::key::{ArchiveFormat, CommitId, Content, HeldObject};
use crate::model::program::Program;
use crate::plan::Cause;
use crate::text::{counted, error_chain, human_duration, objects, since};

/// Of how many objects the first bytes are read, at most: the newest ones of as many destinations.
const OBJECTS_TRIED: usize = 5;
/// How much of an object is read, in bytes: the longest header, and the nonce behind it.
const HEAD_BYTES: u64 = (64 << 10) + 16;

/// The bucket's listing, and the objects of this replica's share, the newest first.
pub(super) async fn listing(bucket: &Bucket, settings: &config::Consume) -> (Check, Vec<HeldObject>) {
    const NAME: &str = "bucket: list";
    let name = &settings.common.s3.bucket;
    let Listing { mut held, foreign } = match bucket.list().await {
        Ok(listing) => listing,
        Err(error) => {
            let check = Check::failed(NAME, error_chain(&error));
            return (check.advice(error.listing_advice(Program::Consumer)), vec![]);
        }
    };
    held.sort_by(|a, b| (Reverse(a.last_modified), &a.key).cmp(&(Reverse(b.last_modified), &b.key)));
    let pause = settings.sleep.unwrap_or_else(|| pause_of_a_bucket_with(held.len() + foreign.count));
    let (foreign, pause) = (and_foreign(&foreign), human_duration(pause));
    let check = match held.first() {
        None => {
            let check = Check::warning(NAME, format!("{name} has nothing to deliver yet{foreign}"));
            check.advice("Run git-partition-sync-producer on the near side. If it has run, check AWS_S3_BUCKET, and what copies the bucket.")
        }
        Some(newest) => {
            let of = |format| held.iter().filter(|object| object.name.content.format() == Some(format)).count();
            let formats =
                ArchiveFormat::ALL.map(|format| (of(format), format)).into_iter().filter(|(count, _)| *count > 0);
            let increments =
                held.iter().filter(|object| matches!(object.name.content, Content::Increment { .. })).count();
            let formats = formats.map(|(count, format)| format!("{count} {format}"));
            let formats: Vec<_> = formats.chain((increments > 0).then(|| counted(increments, "increment"))).collect();
            let age = human_duration(since(newest.last_modified, SystemTime::now()));
            let (count, formats) = (objects(held.len()), formats.join(", "));
            let finding =
                format!("{name} has {count} ({formats}), the newest {age} old{foreign}; a pass every {pause}");
            Check::passed(NAME, finding)
        }
    };
    settings.common.share.keep_own(&mut held, |object| &object.name.destination);
    (check, held)
}

/// Whether the identities open objects, and whether their signatures are trusted if that counts. Of each only the beginning is
/// read.
pub(super) async fn reading(
    bucket: &Bucket,
    settings: &config::Consume,
    held: &[HeldObject],
    identities: Option<Identities>,
) -> Check {
    const NAME: &str = "bucket: read";
    let Some(identities) = identities else { return Check::skipped(NAME, "without an identity") };
    let Ok(trusted) = settings.keys.trusted_keys() else { return Check::skipped(NAME, "without the trusted keys") };
    let is_judged = trusted.is_some();
    let keys = Arc::new(Keys { identities, trusted });
    let mut seen = HashSet::new();
    // A pass says what is wrong with the name of one that cannot be judged.
    let can_be_judged = |object: &&HeldObject| !is_judged || object.name.commit.parse::<CommitId>().is_ok();
    let newest = held.iter().filter(can_be_judged);
    let newest = newest.filter(|object| seen.insert(&object.name.destination)).take(OBJECTS_TRIED);
    let (mut tried, mut unusable) = (0, vec![]);
    for object in newest {
        tried += 1;
        match open(bucket, object, settings.common.timeouts.idle, &keys).await {
            Ok(()) => {}
            // It would be the same for all objects.
            Err(Unusable::Request(error)) if error.is_access_denied() => {
                return failed(NAME, &error, "s3:GetObject", Program::Consumer);
            }
            Err(why) => unusable.push((object.name.destination.to_string(), why)),
        }
    }
    let also = if is_judged { ", and a trusted key signed" } else { "" };
    let (it, them) = if is_judged { (" it", " them") } else { ("", "") };
    match unusable.first() {
        _ if tried == 0 => Check::skipped(NAME, "without an object"),
        None if tried == 1 => Check::passed(NAME, format!("the newest object can be opened{also}{it}")),
        None => Check::passed(NAME, format!("the newest objects of {tried} destinations can be opened{also}{them}")),
        Some((_, first)) => not_usable(NAME, first.cause(), unusable.as_slice(), tried),
    }
}

/// What is wrong with some of the objects.
fn not_usable(name: &'static str, cause: Cause, unusable: &[(String, Unusable)], tried: usize) -> Check {
    let (count, all) = (unusable.len(), objects(tried));
    let are = if count == 1 { "is" } else { "are" };
    let shared = unusable.first().and_then(|(_, why)| why.in_short());
    let are_alike = unusable.iter().all(|(_, why)| why.in_short() == shared);
    let check = match shared.filter(|_| are_alike) {
        Some(short) => {
            let destinations = unusable.iter().map(|(destination, _)| destination.clone()).collect();
            Check::failed(name, format!("{count} of {all} {are} {short}")).details(destinations)
        }
        None => {
            let is_origin = unusable.iter().any(|(_, why)| matches!(why, Unusable::Content(ArtifactError::Origin(_))));
            let what = if is_origin { "cannot be delivered" } else { "cannot be opened" };
            let reasons = unusable.iter().map(|(destination, why)| (destination.clone(), why.text())).collect();
            Check::failed(name, format!("{count} of {all} {what}")).details(by_reason(reasons))
        }
    };
    check.advice(cause.advice(Program::Consumer))
}

/// Why an object cannot be used.
enum Unusable {
    Request(BucketError),
    Content(ArtifactError),
}

impl Unusable {
    fn text(&self) -> String {
        match self {
            Self::Request(error) => error_chain(error),
            Self::Content(error) => error_chain(error),
        }
    }

    fn cause(&self) -> Cause {
        match self {
            Self::Request(_) => Cause::Download,
            Self::Content(error) => object_cause(error),
        }
    }

    /// What an object is, if that says all about why it is not trusted.
    fn in_short(&self) -> Option<String> {
        match self {
            Self::Content(ArtifactError::Origin(TrustError::Unsigned)) => {
                Some("not signed, and TRUSTED_KEYS takes only what is".to_owned())
            }
            Self::Content(ArtifactError::Origin(TrustError::UnknownKey(key))) => {
                Some(format!("signed with {key}, which is not in TRUSTED_KEYS"))
            }
            Self::Request(_) | Self::Content(_) => None,
        }
    }
}

/// Downloads the beginning of an object, within `limit`, and decrypts its header. With trusted keys, its manifest is judged,
/// which comes before the packs.
async fn open(bucket: &Bucket, object: &HeldObject, limit: Duration, keys: &Arc<Keys>) -> Result<(), Unusable> {
    let bytes = if keys.trusted.is_some() { START_BYTES } else { HEAD_BYTES };
    let start = timeout(limit, first_bytes(bucket, &object.key, bytes)).await;
    let late = |_| Unusable::Content(ArtifactError::Download(io::ErrorKind::TimedOut.into()));
    let start = start.map_err(late)??;
    let (keys, object) = (Arc::clone(keys), object.clone());
    let judging = spawn_blocking(move || judge(&keys, &object, &start));
    judging.await.unwrap_or_else(|error| Err(Unusable::Content(ArtifactError::Damaged(error.into()))))
}

fn judge(keys: &Keys, object: &HeldObject, start: &[u8]) -> Result<(), Unusable> {
    let name = &object.name;
    // A pass says what is wrong with such a name.
    let (Some(_), Ok(commit)) = (&keys.trusted, name.commit.parse::<CommitId>()) else {
        let opened = decrypting(&keys.identities, start, None).map(drop);
        return opened.map_err(|error| Unusable::Content(error.into()));
    };
    let trust = keys.trust(&name.destination, None);
    let found = origin(start, object.bytes, name.content, commit, trust, &keys.identities);
    found.map(drop).map_err(Unusable::Content)
}

async fn first_bytes(bucket: &Bucket, key: &str, bytes: u64) -> Result<Vec<u8>, Unusable> {
    // However this ends, the rest is not downloaded.
    let stop = CancellationToken::new();
    let _end = stop.clone().drop_guard();
    let mut reader = bucket.download_start(key, bytes, &stop).await.map_err(Unusable::Request)?;
    let reading = spawn_blocking(move || {
        let mut start = vec![];
        reader.read_to_end(&mut start).map(|_| start)
    });
    let start = reading.await.unwrap_or_else(|error| Err(error.into()));
    start.map_err(|error| Unusable::Content(ArtifactError::Download(error)))
}
