//! The bucket as the consumer reads it: the listing, and the first bytes of a few objects.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::bucket::{and_foreign, failed};
use super::finding::{Check, by_reason};
use crate::artifact::encrypt::{Identities, decrypting};
use crate::artifact::error::ArtifactError;
use crate::bucket::{Bucket, BucketError, Listing};
use crate::config;
use crate::deliver::pause_of_a_bucket_with;
use crate::model::key::{ArchiveFormat, HeldObject};
use crate::model::program::Program;
use crate::plan::Cause;
use crate::text::{error_chain, human_duration, objects, since};

/// Of how many objects the first bytes are read, at most: the newest ones of as many destinations.
const OBJECTS_TRIED: usize = 5;
/// How much of an object is read, in bytes: the longest header, and the nonce behind it.
const HEAD_BYTES: u64 = (64 << 10) + 16;

/// The bucket's listing, and the objects of this replica's share, the newest first.
pub(super) async fn listing(bucket: &Bucket, settings: &config::Consume) -> (Check, Vec<HeldObject>) {
    const NAME: &str = "bucket: list";
    let name = &settings.s3.bucket;
    let Listing { mut held, foreign } = match bucket.list().await {
        Ok(listing) => listing,
        Err(error) => return (failed(NAME, &error, "s3:ListBucket"), vec![]),
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
            let formats: Vec<_> = formats.map(|(count, format)| format!("{count} {format}")).collect();
            let age = human_duration(since(newest.last_modified, SystemTime::now()));
            let (count, formats) = (objects(held.len()), formats.join(", "));
            let finding =
                format!("{name} has {count} ({formats}), the newest {age} old{foreign}; a pass every {pause}");
            Check::passed(NAME, finding)
        }
    };
    settings.share.keep_own(&mut held, |object| &object.name.destination);
    (check, held)
}

/// Whether the identities open objects. Of each only the first bytes are read.
pub(super) async fn reading(
    bucket: &Bucket,
    settings: &config::Consume,
    held: &[HeldObject],
    identities: Option<Identities>,
) -> Check {
    const NAME: &str = "bucket: read";
    let Some(identities) = identities else { return Check::skipped(NAME, "without an identity") };
    let mut seen = HashSet::new();
    let newest = held.iter().filter(|object| seen.insert(&object.name.destination)).take(OBJECTS_TRIED);
    let (mut tried, mut unopened, mut trouble) = (0, vec![], None);
    for object in newest {
        tried += 1;
        match open(bucket, &object.key, settings.timeouts.idle, &identities).await {
            Ok(()) => {}
            // It would be the same for all objects.
            Err(Unopened::Request(error)) if error.is_access_denied() => return failed(NAME, &error, "s3:GetObject"),
            Err(error) => {
                let (why, cause) = error.explained();
                trouble.get_or_insert(cause);
                unopened.push((object.name.destination.to_string(), why));
            }
        }
    }
    match trouble {
        _ if tried == 0 => Check::skipped(NAME, "without an object"),
        None if tried == 1 => Check::passed(NAME, "the newest object can be opened"),
        None => Check::passed(NAME, format!("the newest objects of {tried} destinations can be opened")),
        Some(cause) => {
            let check = Check::failed(NAME, format!("{} of {} cannot be opened", unopened.len(), objects(tried)));
            check.details(by_reason(unopened)).advice(cause.advice(Program::Consumer))
        }
    }
}

/// Why an object cannot be opened.
enum Unopened {
    Request(BucketError),
    Content(ArtifactError),
}

impl Unopened {
    fn explained(self) -> (String, Cause) {
        match self {
            Self::Request(error) => (error_chain(&error), Cause::Download),
            Self::Content(error) => {
                let cause = match error {
                    ArtifactError::OtherRecipients => Cause::NotOurs,
                    ArtifactError::Download(_) => Cause::Download,
                    _ => Cause::Damaged,
                };
                (error_chain(&error), cause)
            }
        }
    }
}

/// Downloads the first bytes of an object, within `limit`, and decrypts its header.
async fn open(bucket: &Bucket, key: &str, limit: Duration, identities: &Identities) -> Result<(), Unopened> {
    let head = timeout(limit, first_bytes(bucket, key)).await;
    let late = |_| Unopened::Content(ArtifactError::Download(io::ErrorKind::TimedOut.into()));
    let head = head.map_err(late)??;
    decrypting(identities, &head[..], None).map(drop).map_err(|error| Unopened::Content(error.into()))
}

async fn first_bytes(bucket: &Bucket, key: &str) -> Result<Vec<u8>, Unopened> {
    // However this ends, the rest is not downloaded.
    let stop = CancellationToken::new();
    let _end = stop.clone().drop_guard();
    let reader = bucket.download(key, &stop, |_| {}).await.map_err(Unopened::Request)?;
    let reading = spawn_blocking(move || {
        let mut head = vec![];
        reader.take(HEAD_BYTES).read_to_end(&mut head).map(|_| head)
    });
    let head = reading.await.unwrap_or_else(|error| Err(error.into()));
    head.map_err(|error| Unopened::Content(ArtifactError::Download(error)))
}
