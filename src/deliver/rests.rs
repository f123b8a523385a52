//! When a delivery that failed is tried again. Passes may come every few seconds, and an attempt may cost a large download.
//!
//! Invariant: another object and another far head are tried at once, and so is everything if somebody asks for a pass.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use parking_lot::Mutex;

use super::interval;
use crate::model::key::{CommitId, Destination, HeldObject};
use crate::plan::delivery::Deliver;
use crate::plan::outcome::Failure;

/// The failures that are not to be repeated at once, one for each destination at most.
#[derive(Debug, Default)]
pub(super) struct Rests(Mutex<BTreeMap<Destination, Rest>>);

#[derive(Debug)]
struct Rest {
    /// The object, and where the far branch was.
    key: String,
    from: Option<CommitId>,
    failure: Failure,
    /// How often it failed in a row.
    times: u32,
    until: Instant,
}

impl Rest {
    fn is_of(&self, deliver: &Deliver) -> bool {
        self.key == deliver.object.key && self.from == deliver.from
    }
}

impl Rests {
    /// A delivery failed.
    pub(super) fn note(&self, deliver: &Deliver, failure: &Failure, now: Instant) {
        let mut rests = self.0.lock();
        let before = rests.get(deliver.destination()).filter(|rest| rest.is_of(deliver));
        let times = before.map_or(0, |rest| rest.times).saturating_add(1);
        let rest = Rest {
            key: deliver.object.key.clone(),
            from: deliver.from,
            failure: failure.clone(),
            times,
            until: now + interval::doubled(times - 1),
        };
        rests.insert(deliver.destination().clone(), rest);
    }

    /// The destination is in sync, or left alone for another reason.
    pub(super) fn forget(&self, destination: &Destination) {
        self.0.lock().remove(destination);
    }

    /// How this delivery failed, if it is not to be tried again yet.
    pub(super) fn of(&self, deliver: &Deliver, now: Instant) -> Option<Failure> {
        let rests = self.0.lock();
        let rest = rests.get(deliver.destination()).filter(|rest| rest.is_of(deliver) && now < rest.until)?;
        Some(rest.failure.clone())
    }

    /// Forgets what concerns no destination of the bucket any more.
    pub(super) fn keep_only(&self, held: &[HeldObject]) {
        let mut rests = self.0.lock();
        if !rests.is_empty() {
            let wanted: BTreeSet<_> = held.iter().map(|object| &object.name.destination).collect();
            rests.retain(|destination, _| wanted.contains(destination));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::model::key::{ArchiveFormat, decode, encode};
    use crate::model::stage::Stage;
    use crate::plan::delivery::{DeliverReason, Route};
    use crate::plan::{Cause, OnRewrite};

    /// The delivery of a commit to a project, whose far branch is there.
    pub(in super::super) fn delivery(project: &str, commit: u8, from: Option<u8>) -> Deliver {
        let destination = Destination { group: "g".to_owned(), project: project.to_owned(), branch: "main".to_owned() };
        let commit = CommitId::from_bytes([commit; 20]);
        let key = encode(&destination, commit, ArchiveFormat::Zip).unwrap();
        let name = decode(&key).unwrap();
        let object = HeldObject { key, name, last_modified: SystemTime::UNIX_EPOCH, bytes: 1 };
        Deliver {
            chain: vec![object.clone()],
            object,
            route: Route::All,
            commit,
            from: from.map(|from| CommitId::from_bytes([from; 20])),
            on_rewrite: OnRewrite::Publish,
            reason: DeliverReason::New,
        }
    }

    fn failure(error: &str) -> Failure {
        Failure::Failed { cause: Cause::Push, stage: Stage::Pushing, error: error.to_owned() }
    }

    #[test]
    fn a_delivery_that_keeps_failing_is_tried_less_and_less_often_up_to_every_five_minutes() {
        let (rests, deliver) = (Rests::default(), delivery("p", 1, None));
        let mut now = Instant::now();
        let mut pauses = vec![];
        for _ in 0..8 {
            assert_eq!(rests.of(&deliver, now), None);
            rests.note(&deliver, &failure("no"), now);
            assert_eq!(rests.of(&deliver, now), Some(failure("no")));
            let pause = (0..).find(|s| rests.of(&deliver, now + Duration::from_secs(*s)).is_none()).unwrap();
            pauses.push(pause);
            now += Duration::from_secs(pause);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
        rests.forget(deliver.destination());
        rests.note(&deliver, &failure("no"), now);
        assert_eq!(rests.of(&deliver, now + Duration::from_secs(10)), None, "it begins with the shortest again");
    }

    #[test]
    fn another_object_and_another_far_head_are_tried_at_once() {
        let (rests, now) = (Rests::default(), Instant::now());
        rests.note(&delivery("p", 1, Some(9)), &failure("no"), now);
        assert!(rests.of(&delivery("p", 1, Some(9)), now).is_some());
        for other in
            [delivery("p", 2, Some(9)), delivery("p", 1, Some(8)), delivery("p", 1, None), delivery("q", 1, Some(9))]
        {
            assert_eq!(rests.of(&other, now), None);
        }
    }

    #[test]
    fn what_left_the_bucket_is_forgotten() {
        let (rests, now) = (Rests::default(), Instant::now());
        for project in ["p", "q"] {
            rests.note(&delivery(project, 1, None), &failure("no"), now);
        }
        rests.keep_only(&[delivery("q", 2, None).object]);
        assert_eq!(rests.0.lock().keys().map(|it| it.project.as_str()).collect::<Vec<_>>(), ["q"]);
    }
}
