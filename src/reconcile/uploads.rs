//! What was uploaded and no listing has shown yet, also by an earlier process: WORKDIR has a copy.
//!
//! Invariant: an object that S3 said it stored, for a target that is still wanted, is in the next full listing, or that pass
//! says that it is lost.

use std::collections::{BTreeMap, HashSet};

use parking_lot::Mutex;

use crate::bucket::S3;
use crate::model::key::{self, Destination, HeldObject};
use crate::model::target::{Head, Target};
use crate::plan::report::Trouble;
use crate::workdir::{UnseenUpload, UnseenUploads, Workdir};

/// How many uploads are kept for the next process, and how many superseded objects of each. The others are only not looked for.
const MOST_KEPT: usize = 10_000;
const MOST_SUPERSEDED_KEPT: usize = 16;

/// At most one object for each destination.
#[derive(Debug, Default)]
pub struct Uploads {
    /// Which bucket they are in.
    bucket: String,
    state: Mutex<State>,
}

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
    pub(super) fn to(s3: &S3) -> Self {
        let server = s3.endpoint_url.as_ref().map_or("AWS", |url| url.as_str());
        Self { bucket: format!("{} at {server}", s3.bucket), state: Mutex::default() }
    }

    /// Adds what an earlier process has kept for this bucket.
    pub(super) fn remember(&self, workdir: &Workdir) {
        let kept = match workdir.kept_unseen() {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(%error, "cannot read under WORKDIR what was uploaded last: it is not looked for");
                return;
            }
        };
        let kept = Some(kept).filter(|kept| kept.bucket == self.bucket).unwrap_or_default();
        let mut state = self.state.lock();
        for UnseenUpload { key, superseded } in kept.uploads.into_iter().take(MOST_KEPT) {
            if let Some(name) = key::decode(&key) {
                state.unseen.entry(name.destination).or_insert(Upload { number: 0, key, superseded });
            }
        }
    }

    /// Keeps them for the next process.
    pub(super) fn keep(&self, workdir: &Workdir) {
        let kept = |upload: &Upload| UnseenUpload {
            key: upload.key.clone(),
            superseded: upload.superseded.iter().take(MOST_SUPERSEDED_KEPT).cloned().collect(),
        };
        let uploads = self.state.lock().unseen.values().take(MOST_KEPT).map(kept).collect();
        if let Err(error) = workdir.keep_unseen(&UnseenUploads { bucket: self.bucket.clone(), uploads }) {
            tracing::debug!(%error, "cannot save what was uploaded");
        }
    }

    /// An object is stored, and replaces these.
    pub(super) fn stored(&self, destination: &Destination, key: &str, superseded: &[String]) {
        let mut state = self.state.lock();
        state.uploads += 1;
        let upload = Upload { number: state.uploads, key: key.to_owned(), superseded: superseded.to_vec() };
        state.unseen.insert(destination.clone(), upload);
    }

    /// This process is about to delete all objects of a destination, or all but one.
    pub(super) fn deleting(&self, destination: &Destination, keys: &[String]) {
        let mut state = self.state.lock();
        if state.unseen.get(destination).is_some_and(|upload| keys.contains(&upload.key)) {
            state.unseen.remove(destination);
        }
    }

    /// To be called before a listing begins.
    pub(super) fn before_listing(&self) -> Before {
        Before(self.state.lock().uploads)
    }

    /// What is missing in a full listing. Each upload is looked for once. One that another replica has superseded since is not
    /// missed: then there is an object that was not there before. Neither is one for a destination that is not among these
    /// targets any more: another process may have retired it.
    pub(super) fn missing_in(
        &self,
        held: &[HeldObject],
        targets: &[(Target, Head)],
        Before(before): Before,
    ) -> Vec<Lost> {
        let mut state = self.state.lock();
        if state.unseen.is_empty() {
            return vec![];
        }
        let wanted: HashSet<_> = targets.iter().map(|(target, _)| &target.destination).collect();
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
            if !seen.contains(destination) && wanted.contains(destination) {
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
    use crate::model::key::ArchiveFormat;
    use crate::model::target::{Source, Unknown};

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

    /// A target for this branch, whose source cannot be read.
    fn wanted(branch: &str) -> [(Target, Head); 1] {
        let source = Source { project: "near/app".to_owned(), branch: "main".to_owned() };
        [(Target { source, destination: destination(branch) }, Head::Unknown(Unknown::NotTried))]
    }

    /// What is missing in a listing that holds these keys.
    fn missing(uploads: &Uploads, listed: &[String], before: Before) -> Vec<Lost> {
        uploads.missing_in(&held(listed), &wanted("main"), before)
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
            assert_eq!(missing(&uploads, &listed, before), [lost], "{listed:?}");
            assert_eq!(missing(&uploads, &listed, before), [], "it is told once");
        }
    }

    #[test]
    fn what_is_listed_or_superseded_is_not_lost() {
        for listed in [vec![key("main", "2")], vec![key("main", "1"), key("main", "2")], vec![key("main", "3")]] {
            let uploads = uploaded();
            assert_eq!(missing(&uploads, &listed, uploads.before_listing()), [], "{listed:?}");
            assert_eq!(missing(&uploads, &[], uploads.before_listing()), [], "a listing has shown it");
        }
    }

    #[test]
    fn what_is_uploaded_while_a_listing_is_read_is_looked_for_in_the_next() {
        let uploads = Uploads::default();
        let before = uploads.before_listing();
        uploads.stored(&destination("main"), &key("main", "2"), &[]);
        assert_eq!(missing(&uploads, &[], before), []);
        assert_eq!(missing(&uploads, &[], uploads.before_listing()).len(), 1);
    }

    #[test]
    fn what_is_replaced_or_deleted_while_a_listing_is_read_is_not_lost() {
        let uploads = uploaded();
        let before = uploads.before_listing();
        uploads.stored(&destination("main"), &key("main", "3"), &[key("main", "2")]);
        assert_eq!(missing(&uploads, &[], before), []);

        let uploads = uploaded();
        uploads.deleting(&destination("main"), &[key("main", "1")]);
        let before = uploads.before_listing();
        uploads.deleting(&destination("main"), &[key("main", "2")]);
        assert_eq!(missing(&uploads, &[], before), []);
    }

    #[test]
    fn an_object_that_is_uploaded_again_under_its_own_key_is_not_lost() {
        let uploads = Uploads::default();
        uploads.stored(&destination("main"), &key("main", "2"), &[key("main", "2"), key("main", "1")]);
        assert_eq!(missing(&uploads, &[key("main", "2")], uploads.before_listing()), []);
    }

    #[test]
    fn what_no_target_wants_any_more_is_not_lost() {
        let uploads = uploaded();
        assert_eq!(uploads.missing_in(&[], &wanted("other"), uploads.before_listing()), []);
        assert_eq!(missing(&uploads, &[], uploads.before_listing()), []);
    }

    #[test]
    fn the_next_process_looks_for_what_was_uploaded_to_the_same_bucket() {
        let place = tempfile::tempdir().unwrap();
        let workdir = Workdir::open(place.path()).unwrap();
        let named = |bucket: &str| Uploads { bucket: bucket.to_owned(), ..Uploads::default() };
        let first = named("ours");
        first.stored(&destination("main"), &key("main", "2"), &vec![key("main", "1"); 100]);
        first.keep(&workdir);
        for (bucket, lost) in [("ours", 1), ("theirs", 0)] {
            let next = named(bucket);
            next.remember(&workdir);
            let before = next.before_listing();
            assert_eq!(missing(&next, &[key("main", "1")], before).len(), lost, "{bucket}");
            assert_eq!(missing(&next, &[], before), [], "it is told once");
        }
        // What was looked for is not kept any longer.
        named("ours").keep(&workdir);
        assert_eq!(workdir.kept_unseen().unwrap(), UnseenUploads::default());
        let many = named("ours");
        for n in 0..MOST_KEPT + 1 {
            many.stored(&destination(&n.to_string()), &key(&n.to_string(), "2"), &[]);
        }
        many.keep(&workdir);
        assert_eq!(workdir.kept_unseen().unwrap().uploads.len(), MOST_KEPT);
    }
}
