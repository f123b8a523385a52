//! What another attempt would only repeat: refusals of the far side, and objects that cannot be used.
//!
//! Invariant: a refusal holds for one object and one far head. If either changes, the object is tried at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Deliver;
use crate::model::key::{CommitId, Destination, HeldObject};
use crate::plan::{Cause, OnRewrite};
use crate::text::timestamp;

/// The pause after the first refusal. It doubles with each more, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(3_600);
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3_600);
/// How much of a refusal's text is kept, in bytes.
const TEXT_LIMIT_BYTES: usize = 2_048;

/// A refusal that holds until something changes, or its pause is over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The kind of trouble.
    pub cause: Cause,
    /// What was said, with what to do.
    pub error: String,
    /// The object, and when it was written, in seconds since 1970.
    key: String,
    written: u64,
    /// Where the far branch was.
    far: Option<CommitId>,
    /// How often it was tried.
    times: u32,
    /// When it is tried again, in seconds since 1970.
    again_at: u64,
}

impl Refusal {
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        let now = seconds(now);
        // A clock that was set back does not prolong a pause.
        now >= self.again_at || now + LONGEST_PAUSE.as_secs() < self.again_at
    }

    fn is_of(&self, object: &HeldObject, far: Option<CommitId>) -> bool {
        self.key == object.key && self.written == seconds(object.last_modified) && self.far == far
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = timestamp(UNIX_EPOCH + Duration::from_secs(self.again_at)).unwrap_or_default();
        match self.cause {
            Cause::Diverged => f.write_str(&self.error),
            _ => write!(f, "{} (tried again at {again}, or at SIGUSR1)", self.error),
        }
    }
}

/// All refusals, one for each destination at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals(BTreeMap<Destination, Refusal>);

impl Refusals {
    /// The refusal of this object while the far branch is there. A rewritten branch is only held while `ON_REWRITE` says so.
    pub(super) fn of(&self, object: &HeldObject, far: Option<CommitId>, on_rewrite: OnRewrite) -> Option<&Refusal> {
        let refusal = self.0.get(&object.name.destination).filter(|refusal| refusal.is_of(object, far))?;
        match (refusal.cause, on_rewrite) {
            (Cause::Diverged, OnRewrite::Publish) => None,
            _ => Some(refusal),
        }
    }

    /// A delivery failed. Only a failure that another attempt would repeat is kept.
    pub fn note(&mut self, deliver: &Deliver, cause: Cause, error: &str, now: SystemTime) {
        if !lasts(cause) {
            return;
        }
        let before = self.0.get(deliver.destination()).filter(|refusal| refusal.is_of(&deliver.object, deliver.from));
        let times = before.map_or(0, |refusal| refusal.times).saturating_add(1);
        let pause = pause(cause, times);
        let error = error[..error.floor_char_boundary(TEXT_LIMIT_BYTES)].to_owned();
        let refusal = Refusal {
            cause,
            error,
            key: deliver.object.key.clone(),
            written: seconds(deliver.object.last_modified),
            far: deliver.from,
            times,
            again_at: seconds(now + pause),
        };
        self.0.insert(deliver.destination().clone(), refusal);
    }

    /// The destination is in sync.
    pub fn forget(&mut self, destination: &Destination) {
        self.0.remove(destination);
    }

    /// Forgets what concerns no object of the bucket any more.
    pub fn keep_only(&mut self, held: &[HeldObject]) {
        if self.0.is_empty() {
            return;
        }
        let keys: BTreeSet<&str> = held.iter().map(|object| object.key.as_str()).collect();
        self.0.retain(|_, refusal| keys.contains(refusal.key.as_str()));
    }

    /// Forgets what other identities, or other trusted keys, could change.
    pub fn new_keys(&mut self) {
        let keys = [Cause::NotOurs, Cause::Unsigned, Cause::Untrusted, Cause::Replayed];
        self.0.retain(|_, refusal| !keys.contains(&refusal.cause));
    }

    /// For a file.
    pub fn kept(&self) -> Vec<KeptRefusal> {
        let kept = |(destination, refusal): (&Destination, &Refusal)| KeptRefusal {
            destination: destination.clone(),
            cause: refusal.cause.name().to_owned(),
            error: refusal.error.clone(),
            key: refusal.key.clone(),
            written: refusal.written,
            far: refusal.far.map(|commit| commit.to_string()),
            times: refusal.times,
            again_at: refusal.again_at,
        };
        self.0.iter().map(kept).collect()
    }
}

impl From<Vec<KeptRefusal>> for Refusals {
    /// Entries that this version does not understand are dropped.
    fn from(kept: Vec<KeptRefusal>) -> Self {
        let refusal = |kept: KeptRefusal| {
            let cause =
                Cause::ALL.into_iter().find(|cause| cause.name() == kept.cause).filter(|cause| lasts(*cause))?;
            let far = kept.far.map(|far| far.parse()).transpose().ok()?;
            let KeptRefusal { destination, error, key, written, times, again_at, .. } = kept;
            Some((destination, Refusal { cause, error, key, written, far, times, again_at }))
        };
        Self(kept.into_iter().filter_map(refusal).collect())
    }
}

/// A refusal in a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptRefusal {
    #[serde(flatten)]
    destination: Destination,
    cause: String,
    error: String,
    key: String,
    written: u64,
    far: Option<String>,
    times: u32,
    again_at: u64,
}

/// Whether another attempt with the same object and the same far head would end in the same way.
fn lasts(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::ProtectedBranch
            | Cause::Hook
            | Cause::LfsMissing
            | Cause::TooLarge
            | Cause::NoRight
            | Cause::NotOurs
            | Cause::Unsigned
            | Cause::Untrusted
            | Cause::Replayed
            | Cause::Damaged
            | Cause::WrongContent
            | Cause::Diverged
    )
}

/// How long a failure of this kind holds that has come this often.
fn pause(cause: Cause, times: u32) -> Duration {
    let doublings = match cause {
        // Nothing but a change makes a difference.
        Cause::Diverged => return LONGEST_PAUSE,
        // What a connection has damaged is whole in the next pass.
        Cause::Damaged | Cause::WrongContent if times == 1 => return Duration::ZERO,
        Cause::Damaged | Cause::WrongContent => times - 2,
        _ => times - 1,
    };
    FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(LONGEST_PAUSE)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
