//! The state at one moment, as it is shown.

use std::time::{Duration, Instant, SystemTime};

use super::{PassId, PassOutcome, TargetState, Trigger};
use crate::model::key::Destination;
use crate::model::target::Source;
use crate::plan::Cause;
use crate::progress::ProgressView;
use crate::text::since;
use crate::workdir::mirrors::Disk;

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The moment.
    pub now: SystemTime,
    /// When the program started.
    pub started: SystemTime,
    /// Whether this is a dry run.
    pub dry_run: bool,
    /// All targets, ordered by destination.
    pub targets: Vec<TargetStatus>,
    /// Passes under way: a full one, passes for pushes, or both.
    pub passes: Vec<RunningPass>,
    /// Targets under way.
    pub running: Vec<ProgressView>,
    /// The last passes, the oldest first.
    pub history: Vec<PassRecord>,
    /// When the next full pass is due; `None` during one.
    pub next_pass: Option<SystemTime>,
    /// When the last successful full pass ended.
    pub last_success: Option<SystemTime>,
    /// What the loop hangs on, if it makes no progress.
    pub stalled: Option<String>,
    /// The retire guard's message, if it held something back.
    pub guard: Option<String>,
    /// The bucket's content.
    pub bucket: Option<BucketCount>,
    /// WORKDIR's disk.
    pub disk: Option<Disk>,
}

impl Snapshot {
    /// The last full pass, even if it failed.
    pub fn last_full_pass(&self) -> Option<&PassRecord> {
        self.history.iter().rfind(|pass| pass.trigger.is_full())
    }

    /// The longest time that a target has been out of sync.
    pub fn oldest_out_of_sync(&self) -> Option<Duration> {
        let out = self.targets.iter().filter(|target| target.state != TargetState::InSync);
        out.map(|target| since(target.since, self.now)).max()
    }
}

/// One destination.
#[derive(Debug, Clone)]
pub struct TargetStatus {
    /// The destination.
    pub destination: Destination,
    /// The source; `None` if no target names the destination any more and deleting its objects failed.
    pub source: Option<Source>,
    /// Whether it is in sync.
    pub state: TargetState,
    /// The commit in the bucket, according to the newest object's name.
    pub commit: Option<String>,
    /// That object's size in bytes.
    pub bytes: Option<u64>,
    /// When that object was written.
    pub published: Option<SystemTime>,
    /// Since when it has been in sync, or out of sync, as far as this program knows.
    pub since: SystemTime,
    /// Why it has to be published, if it is behind.
    pub pending: Option<String>,
    /// The last error.
    pub trouble: Option<TargetTrouble>,
}

impl TargetStatus {
    pub(super) fn new(destination: &Destination, state: TargetState, since: SystemTime) -> Self {
        Self {
            destination: destination.clone(),
            source: None,
            state,
            commit: None,
            bytes: None,
            published: None,
            since,
            pending: None,
            trouble: None,
        }
    }
}

/// Why a target is not in sync.
#[derive(Debug, Clone)]
pub struct TargetTrouble {
    /// The kind of trouble.
    pub cause: Cause,
    /// The error in words.
    pub error: String,
    /// When it was last seen.
    pub seen: SystemTime,
}

/// A pass under way.
#[derive(Debug, Clone)]
pub struct RunningPass {
    pub(super) id: PassId,
    pub(super) clock: Instant,
    /// What began it.
    pub trigger: Trigger,
    /// When it began.
    pub began: SystemTime,
    /// How many actions it has, and how many of them are done; `None` while it observes.
    pub actions: Option<(usize, usize)>,
}

/// A pass that ended.
#[derive(Debug, Clone)]
pub struct PassRecord {
    /// What began it.
    pub trigger: Trigger,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub outcome: PassOutcome,
    /// Destinations published.
    pub published: usize,
    /// Destinations retired.
    pub retired: usize,
    /// Targets blocked or failed.
    pub troubled: usize,
}

/// What is in the bucket.
#[derive(Debug, Clone, Copy)]
pub struct BucketCount {
    /// Objects whose names decode.
    pub objects: usize,
    /// Other objects.
    pub foreign: usize,
}
