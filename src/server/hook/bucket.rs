//! Events of the bucket, as S3, MinIO, SeaweedFS and Amazon EventBridge report them.
//!
//! Invariant: a request says only that something has changed. What has changed comes from the bucket's listing as always.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;

use super::{Answer, Webhook, genuine};
use crate::bucket::read_key;
use crate::model::key::{self, DecodedKey, MAX_KEY_BYTES};
use crate::model::shard::Shard;
use crate::text::json;

/// For senders that can only set a header to the secret itself.
const API_KEY: &str = "x-api-key";
/// A longer path of SeaweedFS's filer is not read, in bytes: `/buckets/`, the bucket, and the key.
const PATH_LIMIT_BYTES: usize = 2 * MAX_KEY_BYTES;

/// The fields of an event that are read here. Each sender has its own.
#[derive(Deserialize)]
struct Event {
    /// S3's own form, which MinIO sends too. Its keys are URL-encoded.
    #[serde(rename = "Records", default)]
    records: Vec<Record>,
    /// EventBridge's form of an S3 event.
    detail: Option<Entry>,
    /// The path in SeaweedFS's filer.
    key: Option<String>,
}

#[derive(Deserialize)]
struct Record {
    s3: Entry,
}

#[derive(Deserialize)]
struct Entry {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

/// `POST /webhook`.
pub(super) async fn handle(webhook: &Webhook, share: Shard, request: Request) -> Answer {
    if let Err(refused) = genuine(webhook, tokens(request.headers())) {
        return refused;
    }
    let Ok(body) = Bytes::from_request(request, &()).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or broke off\n");
    };
    if !concerns(share, &body) {
        return (StatusCode::OK, "no object of this replica: ignored\n");
    }
    webhook.triggers.bucket_changed();
    (StatusCode::ACCEPTED, "a pass begins\n")
}

/// `Authorization: Bearer TOKEN`, and `X-API-Key: TOKEN`.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    bearer.into_iter().chain(headers.get(API_KEY).map(HeaderValue::as_bytes))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Whether an event may concern an object of this share. One that names no key, or that cannot be read, may.
fn concerns(share: Shard, body: &[u8]) -> bool {
    let Ok(Event { records, detail, key }) = json::from_slice(body) else { return true };
    let listed = records.iter().map(|record| &record.s3).chain(&detail).map(|entry| of_key(&entry.object.key));
    let mut names = listed.chain(key.as_deref().map(of_path)).peekable();
    names.peek().is_none() || names.any(|name| name.is_some_and(|name| share.owns(&name.destination)))
}

/// What a key says, URL-encoded or not. No key of ours holds a `%`.
fn of_key(key: &str) -> Option<DecodedKey> {
    read_key(key.to_owned(), true).1
}

/// What the key at the end of a path says: a key may have slashes of its own.
fn of_path(path: &str) -> Option<DecodedKey> {
    let path = Some(path).filter(|path| path.len() <= PATH_LIMIT_BYTES)?;
    path.match_indices('/').find_map(|(slash, _)| key::decode(&path[slash + 1..])).or_else(|| key::decode(path))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::num::NonZeroU32;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::key::{ArchiveFormat, CommitId, Destination, encode, encode_increment};
    use crate::model::shard::owner;

    fn destination(branch: &str) -> Destination {
        Destination { group: "far".to_owned(), project: "app".to_owned(), branch: branch.to_owned() }
    }

    /// Keys of each kind, with each character of base64 that URLs encode.
    fn keys() -> Vec<String> {
        let commit = CommitId::from_bytes([0xab; 20]);
        let keys = ["main", "mai", "ma", "ä~>?ÿ", "a/b>>>???"].map(destination).map(|destination| {
            let whole = ArchiveFormat::ALL.map(|format| encode(&destination, commit, format).unwrap());
            whole.into_iter().chain([encode_increment(&destination, CommitId::from_bytes([1; 20]), commit).unwrap()])
        });
        let keys: Vec<_> = keys.into_iter().flatten().collect();
        assert!(["=", "+", "/"].iter().all(|part| keys.iter().any(|key| key.contains(part))), "{keys:?}");
        keys
    }

    fn encoded(key: &str) -> String {
        percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    /// The events of all senders for a key.
    fn events(key: &str) -> Vec<serde_json::Value> {
        let record =
            |key: &str| json!({ "eventName": "ObjectCreated:Put", "s3": { "object": { "key": key, "size": 1 } } });
        vec![
            json!({ "Records": [record(&encoded(key))] }),
            // Amazon leaves slashes as they are.
            json!({ "Records": [record("a.txt"), record(&encoded(key).replace("%2F", "/"))] }),
            json!({ "EventName": "s3:ObjectCreated:Put", "Key": format!("b/{key}"), "Records": [record(&encoded(key))] }),
            json!({ "detail-type": "Object Created", "source": "aws.s3", "detail": { "object": { "key": key } } }),
            json!({ "key": format!("/buckets/git-sync/{key}"), "event_type": "create", "message": {} }),
            json!({ "key": key, "event_type": "create", "message": {} }),
        ]
    }

    #[test]
    fn events_of_all_senders_are_read_for_keys_of_each_kind() {
        let two = NonZeroU32::new(2).unwrap();
        for key in keys() {
            let owner = owner(&key::decode(&key).unwrap().destination, two);
            for event in events(&key) {
                let body = event.to_string();
                for index in 0..2 {
                    let share = Shard::new(index, two).unwrap();
                    assert_eq!(concerns(share, body.as_bytes()), index == owner, "{body}");
                }
                assert!(concerns(Shard::WHOLE, body.as_bytes()), "{body}");
            }
        }
    }

    #[test]
    fn foreign_keys_do_not_matter() {
        for event in
            ["notes.txt", "100%25.txt", ".uploads/3f/0001.part", "", "%", "e30=.zip.age"].into_iter().flat_map(events)
        {
            assert!(!concerns(Shard::WHOLE, event.to_string().as_bytes()), "{event}");
        }
        let long = json!({ "key": format!("{}{}", "/".repeat(PATH_LIMIT_BYTES), keys()[0]) }).to_string();
        assert!(!concerns(Shard::WHOLE, long.as_bytes()));
    }

    #[test]
    fn what_names_no_key_may_be_about_any_object() {
        let test_event = r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"git-sync"}"#;
        for body in
            ["", "no JSON", "[]", "{}", r#"{"Records":7}"#, r#"{"Records":[]}"#, r#"{"Records":[{}]}"#, test_event]
        {
            assert!(concerns(Shard::WHOLE, body.as_bytes()), "{body}");
        }
        assert!(concerns(Shard::WHOLE, &[0xff, 0xfe]));
    }

    #[test]
    fn the_token_is_read_from_either_header() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
        };
        for (pairs, expected) in [
            (&[("authorization", "Bearer one")][..], &["one"][..]),
            (&[("authorization", "bearer one")], &["one"]),
            (&[("authorization", "Bearer two words")], &["two words"]),
            (&[("x-api-key", "two")], &["two"]),
            (&[("authorization", "Bearer one"), ("x-api-key", "two")], &["one", "two"]),
            (&[("authorization", "Basic b25l")], &[]),
            (&[("authorization", "one")], &[]),
            (&[("authorization", "Bearer")], &[]),
            (&[], &[]),
        ] {
            let headers = headers(pairs);
            let found: Vec<_> = tokens(&headers).map(|token| std::str::from_utf8(token).unwrap()).collect();
            assert_eq!(found, expected, "{pairs:?}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200), key in "\\PC{0,60}") {
            let _ = concerns(Shard::WHOLE, &body);
            for event in events(&key) {
                let _ = concerns(Shard::WHOLE, event.to_string().as_bytes());
            }
        }
    }
}
