//! Objects that the producer superseded between the listing and the download, which is no failure.
//!
//! Invariant: each object is let off once, so a bucket that lists what it does not have starts no endless row of passes.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::key::HeldObject;

/// How long after that the next pass begins. It leaves the producer the time to end what it is doing.
const SOON: Duration = Duration::from_secs(1);

/// What was let off.
#[derive(Debug, Default)]
pub(super) struct Superseded {
    keys: Mutex<BTreeSet<String>>,
    came: Notify,
}

impl Superseded {
    /// An object is gone. Whether it is let off: the next listing has another one then.
    pub(super) fn lets_off(&self, key: &str) -> bool {
        let is_first = self.keys.lock().insert(key.to_owned());
        if is_first {
            self.came.notify_one();
        }
        is_first
    }

    /// Forgets what is not listed any more.
    pub(super) fn keep_only(&self, held: &[HeldObject]) {
        let mut keys = self.keys.lock();
        if !keys.is_empty() {
            let held: BTreeSet<_> = held.iter().map(|object| object.key.as_str()).collect();
            keys.retain(|key| held.contains(key.as_str()));
        }
    }

    /// Waits until an object was let off and it is time for the next pass.
    pub(super) async fn next_pass(&self) {
        self.came.notified().await;
        tokio::time::sleep(SOON).await;
    }
}
