//! Listing the bucket.
//!
//! Invariant: a listing is complete or an error.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::{EncodingType, Object};
use tokio::time::timeout;

use super::answer::WholeDocument;
use super::error::failed;
use super::{Bucket, BucketError};
use crate::model::key::{self, DecodedKey, Destination, HeldObject};

/// Objects that are read from a listing. A bucket with more is used for something else too.
pub(super) const MAX_OBJECTS: usize = 1_000_000;
/// How long a listing may take, all its pages.
const LISTING_TIME_LIMIT: Duration = Duration::from_secs(15 * 60);

const LIST: &str = "list the bucket";

/// The bucket's content.
#[derive(Debug, Default)]
pub struct Listing {
    /// Objects whose keys decode.
    pub held: Vec<HeldObject>,
    /// Keys that do not decode: never touched.
    pub foreign: Vec<String>,
}

impl Bucket {
    /// Lists every object.
    pub async fn list(&self) -> Result<Listing, BucketError> {
        self.list_counting(&AtomicUsize::new(0)).await
    }

    /// Lists every object; `seen` holds the number of objects so far.
    pub async fn list_counting(&self, seen: &AtomicUsize) -> Result<Listing, BucketError> {
        let mut listing = Listing::default();
        self.each_object(seen, |key, object| {
            match key::decode(&key) {
                Some(name) => listing.held.push(held(key, name, &object)?),
                None => listing.foreign.push(key),
            }
            Ok(())
        })
        .await?;
        Ok(listing)
    }

    /// Lists the objects of these destinations. Reads every page, but keeps nothing else in memory.
    pub async fn list_of(&self, destinations: &HashSet<&Destination>) -> Result<Vec<HeldObject>, BucketError> {
        let mut found = vec![];
        self.each_object(&AtomicUsize::new(0), |key, object| {
            if let Some(name) = key::decode(&key).filter(|name| destinations.contains(&name.destination)) {
                found.push(held(key, name, &object)?);
            }
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// Reads every page, and gives `take` each object with its decoded key.
    async fn each_object(
        &self,
        seen: &AtomicUsize,
        mut take: impl FnMut(String, Object) -> Result<(), BucketError>,
    ) -> Result<(), BucketError> {
        let reading = async {
            let (mut after, mut tokens) = (None::<String>, BTreeSet::new());
            loop {
                let request = self.client.list_objects_v2().bucket(&self.name).set_continuation_token(after);
                // A key may hold characters that XML cannot, and one such key would make the whole page unreadable.
                let request = request.encoding_type(EncodingType::Url).customize().interceptor(WholeDocument);
                let page = request.send().await.map_err(failed(LIST))?;
                let encoded = page.encoding_type == Some(EncodingType::Url);
                for mut object in page.contents.unwrap_or_default() {
                    if seen.fetch_add(1, Ordering::Relaxed) == MAX_OBJECTS {
                        return Err(BucketError::TooManyObjects);
                    }
                    let key = object.key.take().ok_or(without("an object's key"))?;
                    take(if encoded { url_decoded(&key) } else { key }, object)?;
                }
                if !page.is_truncated.unwrap_or_default() {
                    return Ok(());
                }
                let token = page.next_continuation_token.ok_or(without("a token for the next page"))?;
                // A token that comes a second time would make this loop endless.
                if !tokens.insert(token.clone()) {
                    return Err(without("an end"));
                }
                after = Some(token);
            }
        };
        in_time(LIST, reading).await
    }
}

fn held(key: String, name: DecodedKey, object: &Object) -> Result<HeldObject, BucketError> {
    let last_modified = object.last_modified.and_then(|time| SystemTime::try_from(time).ok());
    let last_modified = last_modified.ok_or(without("an object's time"))?;
    let bytes = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
    Ok(HeldObject { key, name, last_modified, bytes })
}

const fn without(missing: &'static str) -> BucketError {
    BucketError::Incomplete { action: LIST, missing }
}

/// Ends a listing that takes too long.
pub(super) async fn in_time<T>(
    action: &'static str,
    listing: impl Future<Output = Result<T, BucketError>>,
) -> Result<T, BucketError> {
    let too_slow = BucketError::TooSlow { action, limit: LISTING_TIME_LIMIT };
    timeout(LISTING_TIME_LIMIT, listing).await.unwrap_or(Err(too_slow))
}

/// Decodes a key of a listing. S3 writes a space as `+` and a plus sign as `%2B`. Here `+` stays `+`: our keys hold plus
/// signs but no spaces, and some servers leave a plus sign as it is.
fn url_decoded(key: &str) -> String {
    percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned()
}
