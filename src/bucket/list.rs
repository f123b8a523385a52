//! Listing the bucket.
//!
//! Invariant: a listing is complete or an error, and holds each key once.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object};
use tokio::spawn;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::ahead::Ahead;
use super::error::failed;
use super::{Bucket, BucketError};
use crate::model::key::{self, DecodedKey, Destination, HeldObject};
use crate::model::shard::Shard;

/// Objects that are read from a listing. A bucket with more is used for something else too.
pub(super) const MAX_OBJECTS: usize = 1_000_000;
/// Pages of a listing. A page may be short or empty, but not most of them.
const MAX_PAGES: usize = 100_000;
/// How long a listing may take, all its pages.
const LISTING_TIME_LIMIT: Duration = Duration::from_secs(15 * 60);
/// S3's limit on a key, in bytes.
const KEY_LIMIT_BYTES: usize = 1_024;
/// Longest token for the next page, in bytes. Some servers put a whole key into it, encoded.
const TOKEN_LIMIT_BYTES: usize = 8 << 10;
/// All keys together that are kept of a listing, in bytes: 128 MiB, 700,000 keys of the usual length. Decoded they take
/// about three times that.
const KEPT_KEYS_LIMIT_BYTES: usize = 128 << 20;
/// Foreign keys that are kept as examples; all are counted.
pub const FOREIGN_EXAMPLES: usize = 20;

const LIST: &str = "list the bucket";

/// The bucket's content.
#[derive(Debug, Default)]
pub struct Listing {
    /// Objects whose keys decode: each key once.
    pub held: Vec<HeldObject>,
    /// The others: never touched.
    pub foreign: Foreign,
}

/// Objects whose keys do not decode.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Foreign {
    pub count: usize,
    /// The first keys.
    pub examples: Vec<String>,
}

impl Listing {
    /// Keeps what belongs to this share. Foreign objects belong to no share; the first replica reports them.
    pub fn keep_own(&mut self, share: Shard) {
        share.keep_own(&mut self.held, |object| &object.name.destination);
        if !share.is_first() {
            self.foreign = Foreign::default();
        }
    }
}

impl Foreign {
    /// Counts it, and keeps its key if there are fewer than `kept` so far.
    fn add(&mut self, key: String, kept: usize) {
        self.count += 1;
        if self.examples.len() < kept {
            self.examples.push(key);
        }
    }
}

impl Bucket {
    /// Lists every object.
    pub async fn list(&self) -> Result<Listing, BucketError> {
        self.list_counting(&AtomicUsize::new(0)).await
    }

    /// Lists every object; `seen` holds the number of objects so far.
    pub async fn list_counting(&self, seen: &AtomicUsize) -> Result<Listing, BucketError> {
        self.list_naming(FOREIGN_EXAMPLES, seen).await
    }

    /// The same, with the keys of the first `names` foreign objects.
    pub async fn list_naming(&self, names: usize, seen: &AtomicUsize) -> Result<Listing, BucketError> {
        let (mut held, mut foreign) = (Held::default(), Foreign::default());
        self.each_object(seen, |key, name, object| match name {
            Some(name) => held.add(key, name, &object),
            None => {
                foreign.add(key, names);
                Ok(())
            }
        })
        .await?;
        Ok(Listing { held: held.each_once(), foreign })
    }

    /// Gives each object whose key decodes to `take` as soon as it is listed, in the server's order. Keeps a hash of each key,
    /// so that an object that is listed twice comes once, and the keys of the first `names` foreign objects.
    pub async fn list_each(
        &self,
        names: usize,
        seen: &AtomicUsize,
        mut take: impl FnMut(HeldObject) -> Result<(), BucketError>,
    ) -> Result<Foreign, BucketError> {
        let (mut foreign, mut known, hasher) = (Foreign::default(), HashSet::new(), RandomState::new());
        self.each_object(seen, |key, name, object| match name {
            Some(name) if known.insert(hasher.hash_one(&key)) => take(held_object(key, name, &object)?),
            Some(_) => Ok(()),
            None => {
                foreign.add(key, names);
                Ok(())
            }
        })
        .await?;
        Ok(foreign)
    }

    /// Lists the objects of these destinations. Reads every page, but keeps nothing else in memory.
    pub async fn list_of(&self, destinations: &HashSet<&Destination>) -> Result<Vec<HeldObject>, BucketError> {
        let mut held = Held::default();
        self.each_object(&AtomicUsize::new(0), |key, name, object| {
            match name.filter(|name| destinations.contains(&name.destination)) {
                Some(name) => held.add(key, name, &object),
                None => Ok(()),
            }
        })
        .await?;
        Ok(held.each_once())
    }

    /// Reads every page, and gives `take` each object with its key and what that decodes to.
    async fn each_object(
        &self,
        seen: &AtomicUsize,
        mut take: impl FnMut(String, Option<DecodedKey>, Object) -> Result<(), BucketError>,
    ) -> Result<(), BucketError> {
        let mut take_page = |page: ListObjectsV2Output| {
            let encoded = page.encoding_type == Some(EncodingType::Url);
            for mut object in page.contents.unwrap_or_default() {
                if seen.fetch_add(1, Ordering::Relaxed) == MAX_OBJECTS {
                    return Err(BucketError::TooManyObjects);
                }
                let key = object.key.take().filter(|key| !key.is_empty()).ok_or(without("an object's key"))?;
                let (key, name) = read_key(key, encoded);
                if key.len() > KEY_LIMIT_BYTES {
                    return Err(BucketError::TooLong { action: LIST, what: "a key", limit_bytes: KEY_LIMIT_BYTES });
                }
                take(key, name, object)?;
            }
            Ok(())
        };
        let reading = async {
            let (mut asked, mut tokens) = (self.ask(None), Tokens::default());
            let mut early = self.ask_early(&mut asked).await;
            loop {
                let page = asked.arrived().await?;
                let Some(token) = next_page(&page)? else { return take_page(page) };
                tokens.add(&token)?;
                (asked, early) = match early {
                    // Three pages may be in memory: one is taken, one is parsed, one comes.
                    Some((mut next, guess)) if guess == token => {
                        let after_next = self.ask_early(&mut next).await;
                        take_page(page)?;
                        (next, after_next)
                    }
                    // One: this page may be long.
                    other => {
                        drop(other);
                        take_page(page)?;
                        let mut next = self.ask(Some(token));
                        let after_next = self.ask_early(&mut next).await;
                        (next, after_next)
                    }
                };
            }
        };
        in_time(LIST, reading).await
    }

    /// Asks for the page that this token stands for; for the first one without.
    fn ask(&self, token: Option<String>) -> Asked {
        let request = self.client.list_objects_v2().bucket(&self.name).set_continuation_token(token);
        let (watch, ahead) = Ahead::new();
        // A key may hold characters that XML cannot, and one such key would make the whole page unreadable.
        let sent = request.encoding_type(EncodingType::Url).customize().interceptor(watch).send();
        let action = format!("{LIST} {}", self.name);
        let page = spawn(async { sent.await.map_err(failed(action)) });
        Asked { page: AbortOnDropHandle::new(page), ahead }
    }

    /// Waits until this page has arrived, and asks for the one after it if this one is short and says which one that is.
    async fn ask_early(&self, asked: &mut Asked) -> Option<(Asked, String)> {
        let token = (&mut asked.ahead).await.ok()?;
        Some((self.ask(Some(token.clone())), token))
    }
}

/// A page on its way. Dropping it gives it up.
struct Asked {
    page: AbortOnDropHandle<Result<ListObjectsV2Output, BucketError>>,
    /// The token for the page after it, as soon as this one has arrived.
    ahead: oneshot::Receiver<String>,
}

impl Asked {
    async fn arrived(self) -> Result<ListObjectsV2Output, BucketError> {
        self.page.await.unwrap_or_else(|ended| match ended.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => Err(BucketError::Stopped),
        })
    }
}

/// The token for the next page; `None` if this one is the last.
fn next_page(page: &ListObjectsV2Output) -> Result<Option<String>, BucketError> {
    // A document can be well-formed and hold nothing. Each S3 server says whether this page is the last one.
    let truncated = page.is_truncated.ok_or(without("IsTruncated, which says whether the listing is complete"))?;
    let listed = page.contents().len() + page.common_prefixes().len();
    if page.key_count.and_then(|announced| usize::try_from(announced).ok()).is_some_and(|announced| announced > listed)
    {
        return Err(without("all the objects that it counts in KeyCount"));
    }
    if !truncated {
        return Ok(None);
    }
    let token = page.next_continuation_token.as_ref().filter(|token| !token.is_empty());
    token.cloned().map(Some).ok_or(without("a token for the next page"))
}

/// The tokens so far, as hashes. One that comes a second time would make the listing endless.
#[derive(Default)]
struct Tokens {
    hasher: RandomState,
    seen: HashSet<u64>,
}

impl Tokens {
    fn add(&mut self, token: &str) -> Result<(), BucketError> {
        if token.len() > TOKEN_LIMIT_BYTES {
            return Err(BucketError::TooLong { action: LIST, what: "a token", limit_bytes: TOKEN_LIMIT_BYTES });
        }
        let is_new = self.seen.insert(self.hasher.hash_one(token));
        if is_new && self.seen.len() < MAX_PAGES { Ok(()) } else { Err(without("an end")) }
    }
}

/// Objects that are kept, within [`KEPT_KEYS_LIMIT_BYTES`].
#[derive(Default)]
struct Held {
    objects: Vec<HeldObject>,
    key_bytes: usize,
}

impl Held {
    fn add(&mut self, key: String, name: DecodedKey, object: &Object) -> Result<(), BucketError> {
        self.key_bytes += key.len();
        if self.key_bytes > KEPT_KEYS_LIMIT_BYTES {
            let what = "keys of this program";
            return Err(BucketError::TooLong { action: LIST, what, limit_bytes: KEPT_KEYS_LIMIT_BYTES });
        }
        let mut object = held_object(key, name, object)?;
        // Decoding leaves room behind it, and there can be very many.
        object.key.shrink_to_fit();
        self.objects.push(object);
        Ok(())
    }

    /// Each key once, as it was last modified. A server may list an object twice, for example one that is replaced while it
    /// lists.
    fn each_once(mut self) -> Vec<HeldObject> {
        let newest_first = |a: &HeldObject, b: &HeldObject| b.last_modified.cmp(&a.last_modified);
        self.objects.sort_by(|a, b| a.key.cmp(&b.key).then_with(|| newest_first(a, b)));
        self.objects.dedup_by(|later, kept| later.key == kept.key);
        self.objects.shrink_to_fit();
        self.objects
    }
}

fn held_object(key: String, name: DecodedKey, object: &Object) -> Result<HeldObject, BucketError> {
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

/// A key as it is, and what it decodes to. Some servers encode keys without saying so, or twice. Such a key holds a `%`,
/// which no key of ours does, so it is decoded once more if that makes it ours.
pub(crate) fn read_key(listed: String, encoded: bool) -> (String, Option<DecodedKey>) {
    let key = if encoded { url_decoded(&listed) } else { listed };
    let name = key::decode(&key);
    if name.is_none() && key.contains('%') {
        let decoded = url_decoded(&key);
        if let Some(name) = key::decode(&decoded) {
            return (decoded, Some(name));
        }
    }
    (key, name)
}

/// Decodes a key of a listing. S3 writes a space as `+` and a plus sign as `%2B`. Here `+` stays `+`: our keys hold plus
/// signs but no spaces, and some servers leave a plus sign as it is.
fn url_decoded(key: &str) -> String {
    // What is encoded of our keys stands at their end as a rule, and there can be very many.
    let (plain, encoded) = key.split_at(key.find('%').unwrap_or(key.len()));
    plain.to_owned() + &percent_encoding::percent_decode_str(encoded).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::model::key::{ArchiveFormat, CommitId};

    fn key(branch: &str) -> String {
        let destination = Destination { group: "far".to_owned(), project: "app".to_owned(), branch: branch.to_owned() };
        let commit: CommitId = "1111111111111111111111111111111111111111".parse().unwrap();
        key::encode(&destination, commit, ArchiveFormat::Zip).unwrap()
    }

    /// Keys with each character of base64 that URLs encode.
    fn keys() -> Vec<String> {
        let keys: Vec<_> = ["main", "mai", "ma", "ä~>?ÿ", "a/b>>>???"].map(key).into();
        assert!(["=", "+", "/"].iter().all(|part| keys.iter().any(|key| key.contains(part))), "{keys:?}");
        keys
    }

    #[test]
    fn a_key_of_ours_is_read_however_it_is_encoded() {
        let encode =
            |key: &str| percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string();
        for key in keys() {
            let (once, twice) = (encode(&key), encode(&encode(&key)));
            for (listed, encoded) in [(&key, true), (&once, true), (&twice, true), (&key, false), (&once, false)] {
                let (read, name) = read_key(listed.clone(), encoded);
                assert_eq!((read.as_str(), name.is_some()), (key.as_str(), true), "{listed} {encoded}");
            }
        }
    }

    #[test]
    fn a_foreign_key_stays_as_it_is() {
        for foreign in ["100%25.txt", "a%2Fb", "%", "%zz", "e30%3D.zip.age"] {
            assert_eq!(read_key(foreign.to_owned(), false), (foreign.to_owned(), None));
        }
        assert_eq!(read_key("100%25.txt".to_owned(), true), ("100%.txt".to_owned(), None));
    }

    #[test]
    fn a_key_that_is_listed_twice_is_held_once_as_it_was_last_modified() {
        let mut held = Held::default();
        for (branch, second) in [("b", 1), ("a", 2), ("b", 3), ("b", 2)] {
            let time = aws_sdk_s3::primitives::DateTime::from_secs(second);
            let object = Object::builder().last_modified(time).size(second).build();
            held.add(key(branch), key::decode(&key(branch)).unwrap(), &object).unwrap();
        }
        let held: Vec<_> = held.each_once().into_iter().map(|it| (it.name.destination.branch, it.bytes)).collect();
        assert_eq!(held, [("a".to_owned(), 2), ("b".to_owned(), 3)]);
    }

    #[test]
    fn what_is_kept_of_a_listing_is_bounded() {
        let object = Object::builder().last_modified(aws_sdk_s3::primitives::DateTime::from_secs(1)).build();
        let mut held = Held { objects: vec![], key_bytes: KEPT_KEYS_LIMIT_BYTES - key("main").len() };
        let mut add = || held.add(key("main"), key::decode(&key("main")).unwrap(), &object);
        add().unwrap();
        assert!(matches!(add(), Err(BucketError::TooLong { .. })));

        let mut foreign = Foreign::default();
        (0..1_000).for_each(|n| foreign.add(n.to_string(), FOREIGN_EXAMPLES));
        assert_eq!((foreign.count, foreign.examples.len()), (1_000, FOREIGN_EXAMPLES));

        let mut tokens = Tokens::default();
        assert!(matches!(tokens.add(&"t".repeat(TOKEN_LIMIT_BYTES + 1)), Err(BucketError::TooLong { .. })));
        let endless = (0..=MAX_PAGES).map(|n| tokens.add(&n.to_string())).find(Result::is_err);
        assert!(matches!(endless, Some(Err(BucketError::Incomplete { missing: "an end", .. }))));
    }
}
