//! What this process uploaded and no listing has shown yet.
//!
//! Invariant: an object that S3 said it stored is in the next full listing, or that pass says that it is lost.

use std::collections::{BTreeMap, HashSet};

use parking_lot::Mutex;

use crate::model::key::{Destination, HeldObject};
use crate::plan::report::Trouble;

/// At most one object for each destination.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    uploads: u64,
    unseen: BTreeMap<Destination, Upload>,
}

#[derive(Debug)]
struct Upload {
    number: u64,
    key: String,
    /// What was there before it.
    superseded: Vec<String>,
}

/// The uploads that were done when a listing began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before(u64);

/// An object that was stored and is not there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub destination: Destination,
    pub key: String,
}

/// What to say about it.
pub(super) const LOST: &str = "the object that was uploaded last is not in the next listing of the bucket: check \
    AWS_ENDPOINT_URL_S3, caches in front of it, and what else deletes objects";

impl From<Lost> for Trouble {
    fn from(lost: Lost) -> Self {
        Self { reason: LOST.to_owned(), destination: lost.destination }
    }
}

impl Uploads {
    /// An object is stored, and replaces these.
    pub(super) fn stored(&self, destination: &Destination, key: &str, superseded: &[String]) {
        let mut state = self.0.lock();
        state.uploads += 1;
        let upload = Upload { number: state.uploads, key: key.to_owned(), superseded: superseded.to_vec() };
        state.unseen.insert(destination.clone(), upload);
    }

    /// This process is about to delete all objects of a destination, or all but one.
    pub(super) fn deleting(&self, destination: &Destination, keys: &[String]) {
        let mut state = self.0.lock();
        if state.unseen.get(destination).is_some_and(|upload| keys.contains(&upload.key)) {
            state.unseen.remove(destination);
        }
    }

    /// To be called before a listing begins.
    pub(super) fn before_listing(&self) -> Before {
        Before(self.0.lock().uploads)
    }

    /// What is missing in a full listing. Each upload is looked for once. One that another replica has superseded since is not
    /// missed: then there is an object that was not there before.
    pub(super) fn missing_in(&self, held: &[HeldObject], Before(before): Before) -> Vec<Lost> {
        let mut state = self.0.lock();
        if state.unseen.is_empty() {
            return vec![];
        }
        let mut seen = HashSet::new();
        for object in held {
            let upload = state.unseen.get(&object.name.destination);
            if upload.is_some_and(|upload| !upload.superseded.contains(&object.key) || upload.key == object.key) {
                seen.insert(&object.name.destination);
            }
        }
        let mut lost = vec![];
        state.unseen.retain(|destination, upload| {
            if upload.number > before {
                return true;
            }
            if !seen.contains(destination) {
                lost.push(Lost { destination: destination.clone(), key: upload.key.clone() });
            }
            false
        });
        lost
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::SystemTime;

    use super::*;
    use crate::model::key::{self, ArchiveFormat};

    fn destination(branch: &str) -> Destination {
        Destination { group: "far".to_owned(), project: "app".to_owned(), branch: branch.to_owned() }
    }

    fn key(branch: &str, digit: &str) -> String {
        key::encode(&destination(branch), digit.repeat(40).parse().unwrap(), ArchiveFormat::Zip).unwrap()
    }

    fn held(keys: &[String]) -> Vec<HeldObject> {
        let object = |key: &String| HeldObject {
            key: key.clone(),
            name: key::decode(key).unwrap(),
            last_modified: SystemTime::UNIX_EPOCH,
            bytes: 1,
        };
        keys.iter().map(object).collect()
    }

    /// One upload: commit 2 replaces commit 1.
    fn uploaded() -> Uploads {
        let uploads = Uploads::default();
        uploads.stored(&destination("main"), &key("main", "2"), &[key("main", "1")]);
        uploads
    }

    #[test]
    fn what_was_uploaded_and_is_not_listed_is_lost_once() {
        for listed in [vec![], vec![key("main", "1")], vec![key("other", "2")]] {
            let uploads = uploaded();
            let before = uploads.before_listing();
            let lost = Lost { destination: destination("main"), key: key("main", "2") };
            assert_eq!(uploads.missing_in(&held(&listed), before), [lost], "{listed:?}");
            assert_eq!(uploads.missing_in(&held(&listed), before), [], "it is told once");
        }
    }

    #[test]
    fn what_is_listed_or_superseded_is_not_lost() {
        for listed in [vec![key("main", "2")], vec![key("main", "1"), key("main", "2")], vec![key("main", "3")]] {
            let uploads = uploaded();
            assert_eq!(uploads.missing_in(&held(&listed), uploads.before_listing()), [], "{listed:?}");
            assert_eq!(uploads.missing_in(&[], uploads.before_listing()), [], "a listing has shown it");
        }
    }

    #[test]
    fn what_is_uploaded_while_a_listing_is_read_is_looked_for_in_the_next() {
        let uploads = Uploads::default();
        let before = uploads.before_listing();
        uploads.stored(&destination("main"), &key("main", "2"), &[]);
        assert_eq!(uploads.missing_in(&[], before), []);
        assert_eq!(uploads.missing_in(&[], uploads.before_listing()).len(), 1);
    }

    #[test]
    fn what_is_replaced_or_deleted_while_a_listing_is_read_is_not_lost() {
        let uploads = uploaded();
        let before = uploads.before_listing();
        uploads.stored(&destination("main"), &key("main", "3"), &[key("main", "2")]);
        assert_eq!(uploads.missing_in(&[], before), []);

        let uploads = uploaded();
        uploads.deleting(&destination("main"), &[key("main", "1")]);
        let before = uploads.before_listing();
        uploads.deleting(&destination("main"), &[key("main", "2")]);
        assert_eq!(uploads.missing_in(&[], before), []);
    }

    #[test]
    fn an_object_that_is_uploaded_again_under_its_own_key_is_not_lost() {
        let uploads = Uploads::default();
        uploads.stored(&destination("main"), &key("main", "2"), &[key("main", "2"), key("main", "1")]);
        assert_eq!(uploads.missing_in(&held(&[key("main", "2")]), uploads.before_listing()), []);
    }
}
