//! The progress of one destination, for the status page, metrics and a terminal.
//!
//! Invariant: work only touches atomics, so no reader can slow it down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::model::key::Destination;
use crate::model::stage::Stage;

/// How many seconds the rate covers, including the current one. A part of an upload counts once it has arrived whole; with
/// fewer seconds, a slow upload would seem to stand still between two parts.
const RATE_SECONDS: u64 = 10;
/// The low bits of a second's word count its bytes; the bits above hold the second's number. That is enough for 1 TiB per
/// second, and for half a year.
const BYTE_BITS: u32 = 40;
const MOST_BYTES: u64 = (1 << BYTE_BITS) - 1;

/// When the program last made progress.
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
    pub fn beat(&self) {
        self.last_millis.store(millis(self.begun.elapsed()), Ordering::Relaxed);
    }

    pub fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last_millis.load(Ordering::Relaxed))
    }
}

/// Bytes that were moved: in all, and in each of the last seconds. Times count from the beginning of the target's work.
#[derive(Debug, Default)]
struct Moved {
    begun_millis: AtomicU64,
    total: AtomicU64,
    seconds: [AtomicU64; RATE_SECONDS as usize],
}

impl Moved {
    /// Starts counting from zero.
    fn begin(&self, now: Duration) {
        self.begun_millis.store(millis(now), Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
        self.seconds.iter().for_each(|second| second.store(0, Ordering::Relaxed));
    }

    fn add(&self, now: Duration, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        let second = now.as_secs();
        let slot = &self.seconds[(second % RATE_SECONDS) as usize];
        // Several threads may count at the same time, without waiting for each other.
        slot.update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            let before = if old >> BYTE_BITS == second { old & MOST_BYTES } else { 0 };
            (second << BYTE_BITS) | before.saturating_add(bytes).min(MOST_BYTES)
        });
    }

    fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes per second, over the last [`RATE_SECONDS`] or since counting began.
    fn rate(&self, now: Duration) -> u64 {
        let first = (now.as_secs() + 1).saturating_sub(RATE_SECONDS);
        let recent = self.seconds.iter().map(|second| second.load(Ordering::Relaxed));
        let recent = recent.filter(|second| (first..=now.as_secs()).contains(&(second >> BYTE_BITS)));
        let bytes: u64 = recent.map(|second| second & MOST_BYTES).sum();
        let from = (first * 1_000).max(self.begun_millis.load(Ordering::Relaxed));
        bytes.saturating_mul(1_000) / millis(now).saturating_sub(from).max(1)
    }
}

pub type StageSeconds = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// Metrics that all targets add to.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Bytes that came: of packs from the source, or of objects from the bucket.
    pub received: Counter,
    /// Bytes that went: of objects to the bucket, or of packs to the far side.
    pub sent: Counter,
    /// Seconds by stage.
    pub stages: StageSeconds,
}

/// One target under way.
#[derive(Debug)]
pub struct Progress {
    destination: Destination,
    begun: Instant,
    stage: AtomicU8,
    received: Moved,
    sent: Moved,
    /// How many bytes will be received, and sent; 0 if that is not known.
    to_receive: AtomicU64,
    to_send: AtomicU64,
    counters: Counters,
    pulse: Arc<Pulse>,
}

/// [`Progress`] at one moment.
#[derive(Debug, Clone)]
pub struct ProgressView {
    pub destination: Destination,
    pub stage: Stage,
    /// Bytes that this stage has moved.
    pub bytes: u64,
    /// About how many there will be, if that is known.
    pub of: Option<u64>,
    pub bytes_per_second: u64,
    /// How long the target has been under way.
    pub took: Duration,
}

impl Progress {
    pub fn new(destination: Destination, stage: Stage, counters: Counters, pulse: Arc<Pulse>) -> Self {
        let stage = AtomicU8::new(stage as u8);
        let (received, sent) = Default::default();
        let (to_receive, to_send) = Default::default();
        Self { destination, begun: Instant::now(), stage, received, sent, to_receive, to_send, counters, pulse }
    }

    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    pub fn stage(&self) -> Stage {
        let now = self.stage.load(Ordering::Relaxed);
        Stage::ALL.into_iter().find(|stage| *stage as u8 == now).unwrap_or(Stage::Fetching)
    }

    /// A stage begins. Its seconds are counted when the timer is dropped.
    pub fn enter(self: &Arc<Self>, stage: Stage) -> StageTimer {
        // Another attempt starts from zero.
        match stage {
            Stage::Fetching | Stage::Downloading => self.received.begin(self.begun.elapsed()),
            Stage::Uploading | Stage::Pushing => self.sent.begin(self.begun.elapsed()),
            Stage::Verifying | Stage::Deleting => {}
        }
        self.stage.store(stage as u8, Ordering::Relaxed);
        self.pulse.beat();
        StageTimer { progress: Arc::clone(self), stage, begun: Instant::now() }
    }

    pub fn received(&self, bytes: u64) {
        self.received.add(self.begun.elapsed(), bytes);
        self.counters.received.inc_by(bytes);
        self.pulse.beat();
    }

    /// About how many bytes will be received.
    pub fn expect_to_receive(&self, bytes: u64) {
        self.to_receive.store(bytes, Ordering::Relaxed);
    }

    /// About how many bytes will be sent.
    pub fn expect_to_send(&self, bytes: u64) {
        self.to_send.store(bytes, Ordering::Relaxed);
    }

    pub fn sent(&self, bytes: u64) {
        self.sent.add(self.begun.elapsed(), bytes);
        self.counters.sent.inc_by(bytes);
        self.pulse.beat();
    }

    pub fn view(&self) -> ProgressView {
        let (stage, took) = (self.stage(), self.begun.elapsed());
        let of_all = |moved: &Moved, expected: &AtomicU64| {
            let (bytes, expected) = (moved.total(), expected.load(Ordering::Relaxed));
            (bytes, (expected > 0).then(|| expected.max(bytes)), moved.rate(took))
        };
        let (bytes, of, bytes_per_second) = match stage {
            Stage::Fetching | Stage::Downloading => of_all(&self.received, &self.to_receive),
            Stage::Uploading | Stage::Pushing => of_all(&self.sent, &self.to_send),
            Stage::Verifying | Stage::Deleting => (0, None, 0),
        };
        ProgressView { destination: self.destination.clone(), stage, bytes, of, bytes_per_second, took }
    }
}

#[must_use = "the stage ends when it is dropped"]
pub struct StageTimer {
    progress: Arc<Progress>,
    stage: Stage,
    begun: Instant,
}

impl Drop for StageTimer {
    fn drop(&mut self) {
        self.progress.pulse.beat();
        let seconds = self.progress.counters.stages.get_or_create(&[("stage", self.stage.name())]);
        seconds.observe(self.begun.elapsed().as_secs_f64());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn moved(began: Duration) -> Moved {
        let moved = Moved::default();
        moved.begin(began);
        moved
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_not_the_average() {
        let moved = moved(Duration::ZERO);
        for second in 0..60 {
            moved.add(SECOND * second, 1_000);
        }
        for second in 60..70 {
            moved.add(SECOND * second, 50_000);
        }
        assert_eq!(moved.total(), 560_000);
        let rate = moved.rate(Duration::from_millis(69_999));
        assert!((50_000..50_100).contains(&rate), "{rate}");
    }

    #[test]
    fn what_stands_still_has_no_rate_once_the_window_is_over() {
        let moved = moved(Duration::ZERO);
        moved.add(SECOND * 3, 8 << 20);
        let mut last = u64::MAX;
        for second in 4..13 {
            let rate = moved.rate(SECOND * second);
            assert!(rate > 0 && rate <= last, "{rate} after {second} s");
            last = rate;
        }
        assert_eq!(moved.rate(SECOND * 13), 0);
        assert_eq!(moved.rate(SECOND * 100), 0);
        assert_eq!(moved.total(), 8 << 20);
        moved.add(SECOND * 103, 1_000);
        assert_eq!(moved.rate(SECOND * 104), 1_000 * 1_000 / 9_000, "what was before the stall is forgotten");
    }

    #[test]
    fn a_stage_that_has_just_begun_is_not_diluted_by_the_time_before_it() {
        let moved = moved(Duration::from_millis(100_250));
        moved.add(Duration::from_millis(100_500), 1_000);
        assert_eq!(moved.rate(Duration::from_millis(100_750)), 2_000);
        moved.begin(SECOND * 101);
        assert_eq!((moved.total(), moved.rate(SECOND * 102)), (0, 0), "another attempt begins with nothing");
    }

    #[test]
    fn several_at_work_lose_nothing() {
        let moved = moved(Duration::ZERO);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| moved.add(SECOND, 3)));
            }
        });
        assert_eq!((moved.total(), moved.rate(SECOND * 2)), (120_000, 60_000));
    }

    #[test]
    fn no_amount_of_bytes_spills_into_another_second() {
        let moved = moved(Duration::ZERO);
        moved.add(SECOND * 2, u64::MAX);
        moved.add(SECOND * 2, 1);
        assert_eq!(moved.rate(SECOND * 3), MOST_BYTES / 3);
    }
}
