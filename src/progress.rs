//! How far one target's work has come, for whoever looks while it goes on: the status page, metrics, a terminal.
//!
//! Invariant: those at work touch atomics only; nobody who looks can hold them up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::key::Destination;
use crate::metrics::Metrics;

/// What a target is going through. They follow one another in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Its pack comes from the source.
    Fetching,
    /// The pack's objects are verified. Of a fresh pack the first bytes may be uploaded meanwhile.
    Verifying,
    /// The archive is written, encrypted and uploaded.
    Uploading,
    /// Outdated objects are deleted.
    Deleting,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Fetching, Self::Verifying, Self::Uploading, Self::Deleting];

    /// Its name, in metrics and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Verifying => "verifying",
            Self::Uploading => "uploading",
            Self::Deleting => "deleting",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When something last moved, anywhere in the program.
#[derive(Debug)]
pub struct Pulse {
    begun: Instant,
    last_millis: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { begun: Instant::now(), last_millis: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// Something moved.
    pub fn beat(&self) {
        self.last_millis.store(millis(self.begun.elapsed()), Ordering::Relaxed);
    }

    /// When that was last.
    pub fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last_millis.load(Ordering::Relaxed))
    }
}

/// One target at work.
#[derive(Debug)]
pub struct Progress {
    destination: Destination,
    begun: Instant,
    stage: AtomicU8,
    stage_begun_millis: AtomicU64,
    fetched: AtomicU64,
    uploaded: AtomicU64,
    to_upload: AtomicU64,
    metrics: Arc<Metrics>,
    pulse: Arc<Pulse>,
}

/// [`Progress`] at one moment.
#[derive(Debug, Clone)]
pub struct ProgressView {
    /// Which target.
    pub destination: Destination,
    /// What it is going through.
    pub stage: Stage,
    /// Bytes that this stage has moved; 0 in a stage that moves none.
    pub bytes: u64,
    /// How many there will be, about; `None` where that cannot be known.
    pub of: Option<u64>,
    /// Bytes per second, on the average of this stage.
    pub bytes_per_second: u64,
    /// How long the target has been at work.
    pub took: Duration,
}

impl Progress {
    /// A target that work begins on, in the given stage.
    pub fn new(destination: Destination, stage: Stage, metrics: Arc<Metrics>, pulse: Arc<Pulse>) -> Self {
        let [fetched, uploaded, to_upload, stage_begun_millis] = [0; 4].map(AtomicU64::new);
        let stage = AtomicU8::new(stage as u8);
        let begun = Instant::now();
        Self { destination, begun, stage, stage_begun_millis, fetched, uploaded, to_upload, metrics, pulse }
    }

    /// Which target.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// What it is going through.
    pub fn stage(&self) -> Stage {
        let now = self.stage.load(Ordering::Relaxed);
        Stage::ALL.into_iter().find(|stage| *stage as u8 == now).unwrap_or(Stage::Fetching)
    }

    /// A stage begins. Its seconds are counted when what is returned is dropped.
    pub fn enter(self: &Arc<Self>, stage: Stage) -> StageTimer {
        if stage == Stage::Fetching {
            // Another attempt: what came before is void.
            self.fetched.store(0, Ordering::Relaxed);
        }
        if stage == Stage::Uploading {
            self.uploaded.store(0, Ordering::Relaxed);
        }
        self.stage.store(stage as u8, Ordering::Relaxed);
        self.stage_begun_millis.store(millis(self.begun.elapsed()), Ordering::Relaxed);
        self.pulse.beat();
        StageTimer { progress: Arc::clone(self), stage, begun: Instant::now() }
    }

    /// Bytes came from the source.
    pub fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.fetched(bytes);
        self.pulse.beat();
    }

    /// About how many bytes the upload will take.
    pub fn expect_upload(&self, bytes: u64) {
        self.to_upload.store(bytes, Ordering::Relaxed);
    }

    /// Bytes have reached the bucket.
    pub fn uploaded(&self, bytes: u64) {
        self.uploaded.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.uploaded(bytes);
        self.pulse.beat();
    }

    /// How it stands now.
    pub fn view(&self) -> ProgressView {
        let (stage, took) = (self.stage(), self.begun.elapsed());
        let load = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        let (bytes, of) = match stage {
            Stage::Fetching => (load(&self.fetched), None),
            Stage::Uploading => {
                let bytes = load(&self.uploaded);
                (bytes, Some(load(&self.to_upload).max(bytes)).filter(|of| *of > 0))
            }
            Stage::Verifying | Stage::Deleting => (0, None),
        };
        let in_stage = millis(took).saturating_sub(self.stage_begun_millis.load(Ordering::Relaxed)).max(1);
        let bytes_per_second = bytes.saturating_mul(1_000) / in_stage;
        ProgressView { destination: self.destination.clone(), stage, bytes, of, bytes_per_second, took }
    }
}

/// A stage that goes on.
#[must_use = "the stage ends when it is dropped"]
pub struct StageTimer {
    progress: Arc<Progress>,
    stage: Stage,
    begun: Instant,
}

impl Drop for StageTimer {
    fn drop(&mut self) {
        self.progress.pulse.beat();
        self.progress.metrics.stage_took(self.stage, self.begun.elapsed());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
