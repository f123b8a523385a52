//! Progress of a restore.
//!
//! Invariant: no lock is held while something else is waited for.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::super::listing_scene;
use crate::model::key::HeldObject;
use crate::terminal::{AtWork, Scene};

/// The state of one restore.
#[derive(Debug, Default)]
pub struct Watch {
    /// Objects listed so far.
    pub(super) listed: AtomicUsize,
    /// How many objects are wanted, once that is known, and how many are done.
    wanted: Mutex<Option<usize>>,
    done: AtomicUsize,
    current: Mutex<Option<Current>>,
    /// Bytes downloaded of the current object.
    bytes: AtomicU64,
}

/// The object that is being restored.
#[derive(Debug)]
struct Current {
    name: String,
    size: u64,
    begun: Instant,
}

impl Watch {
    /// The listing is complete, and this many objects will be restored.
    pub(super) fn wants(&self, count: usize) {
        *self.wanted.lock() = Some(count);
    }

    /// Starts an object.
    pub(super) fn begins(&self, object: &HeldObject) {
        self.bytes.store(0, Ordering::Relaxed);
        let current = Current { name: object.name.destination.to_string(), size: object.bytes, begun: Instant::now() };
        *self.current.lock() = Some(current);
    }

    /// Counts downloaded bytes of the current object.
    pub(super) fn downloaded(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The current object has its verdict.
    pub(super) fn ends(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
        *self.current.lock() = None;
    }

    /// The state now.
    pub fn scene(&self) -> Scene {
        let Some(wanted) = *self.wanted.lock() else {
            return listing_scene(self.listed.load(Ordering::Relaxed));
        };
        let current = self.current.lock();
        let at_work = current.as_ref().map(|Current { name, size, begun }| {
            let bytes = self.bytes.load(Ordering::Relaxed);
            let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            let bytes_per_second = bytes.saturating_mul(1_000) / millis;
            match bytes < *size {
                true => AtWork { name: name.clone(), stage: "downloading", bytes, of: Some(*size), bytes_per_second },
                false => AtWork { name: name.clone(), stage: "verifying", bytes: 0, of: None, bytes_per_second: 0 },
            }
        });
        let done = Some((self.done.load(Ordering::Relaxed) as u64, wanted as u64));
        Scene { title: "objects".to_owned(), done, at_work: at_work.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::SystemTime;

    use super::*;
    use crate::model::key::{self, ArchiveFormat, CommitId, Destination};

    #[test]
    fn a_restore_is_listing_then_downloading_then_verifying() {
        let destination = Destination { group: "far".into(), project: "p".into(), branch: "main".into() };
        let key = key::encode(&destination, CommitId::from_bytes([1; 20]), ArchiveFormat::Zip).unwrap();
        let name = key::decode(&key).unwrap();
        let object = HeldObject { key, name, last_modified: SystemTime::UNIX_EPOCH, bytes: 10 };
        let watch = Watch::default();
        watch.listed.store(7, Ordering::Relaxed);
        assert_eq!(watch.scene(), Scene::new("listing the bucket: 7 objects"));
        watch.wants(2);
        watch.begins(&object);
        watch.downloaded(4);
        let scene = watch.scene();
        assert_eq!((scene.title.as_str(), scene.done), ("objects", Some((0, 2))));
        let [downloading] = &scene.at_work[..] else { panic!("{scene:?}") };
        let AtWork { name, stage, bytes, of, .. } = downloading;
        assert_eq!((name.as_str(), *stage, *bytes, *of), ("far/p@main", "downloading", 4, Some(10)));
        watch.downloaded(6);
        assert_eq!(watch.scene().at_work[0].stage, "verifying");
        watch.ends();
        assert_eq!((watch.scene().done, watch.scene().at_work), (Some((1, 2)), vec![]));
    }
}
