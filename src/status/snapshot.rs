//! The state at one moment, as it is shown.

use std::time::{Duration, Instant, SystemTime};

use super::{Outcomes, PassId, PassOutcome, Signatures, TargetState, Targets, Trigger};
use crate::model::key::Destination;
use crate::model::manifest::Origin;
use crate::model::program::Program;
use crate::model::target::Source;
use crate::plan::{Cause, RetireBudget, RetireGuard};
use crate::progress::ProgressView;
use crate::text::since;

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub program: Program,
    pub now: SystemTime,
    pub started: SystemTime,
    pub dry_run: bool,
    /// All targets, ordered by destination.
    pub targets: Targets,
    pub passes: Vec<RunningPass>,
    pub running: Vec<ProgressView>,
    /// The last passes, the oldest first.
    pub history: Vec<PassRecord>,
    /// When the next full pass is due; `None` during one.
    pub next_pass: Option<SystemTime>,
    /// When the last successful full pass ended.
    pub last_success: Option<SystemTime>,
    /// What the loop hangs on, if it makes no progress.
    pub stalled: Option<String>,
    /// The retire guard, if it held something back.
    pub guard: Option<Guarded>,
    /// How much of what a day may retire was used by the last plan.
    pub budget: Option<RetireBudget>,
    pub bucket: Option<BucketCount>,
    /// Whether the last full pass found an empty target list, or an empty bucket, for all shards.
    pub nothing_listed: bool,
    pub disk: Option<Disk>,
    /// Who signs, or whose signatures count.
    pub signatures: Option<Signatures>,
}

impl Snapshot {
    /// The last full pass, even if it failed.
    pub fn last_full_pass(&self) -> Option<&PassRecord> {
        self.history.iter().rfind(|pass| pass.trigger.is_full())
    }

    /// How much less was uploaded for all targets than without increments, in bytes.
    pub fn saved_bytes(&self) -> u64 {
        self.targets.iter().map(|target| target.saved_bytes).fold(0, u64::saturating_add)
    }

    /// The longest time that a target has been out of sync.
    pub fn oldest_out_of_sync(&self) -> Option<Duration> {
        let out = self.targets.iter().filter(|target| target.state != TargetState::InSync);
        out.map(|target| since(target.since, self.now)).max()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    pub destination: Destination,
    /// The source; `None` if no target names the destination any more and deleting its objects failed.
    pub source: Option<Source>,
    pub state: TargetState,
    /// The producer: the newest object's commit. The consumer: the far branch's.
    pub commit: Option<String>,
    /// The consumer: the newest object's commit, if the far branch does not have it.
    pub waiting: Option<String>,
    /// The newest object's size, and when it was written.
    pub bytes: Option<u64>,
    pub published: Option<SystemTime>,
    /// Since when it has been in sync, or out of sync, as far as this program knows.
    pub since: SystemTime,
    /// Why it has to be published, or delivered, if it is behind.
    pub pending: Option<String>,
    pub trouble: Option<TargetTrouble>,
    /// How many increments the bucket has on top of the whole history.
    pub increments: usize,
    /// The producer: how much less was uploaded than without increments, in bytes. At first it is what the increments in the
    /// bucket tell; from then on, what each upload has saved is added.
    pub saved_bytes: u64,
    /// The consumer: who made what was delivered last, if this process has delivered it.
    pub origin: Option<Origin>,
    pub outcomes: Outcomes,
}

impl TargetStatus {
    pub fn new(destination: &Destination, state: TargetState, since: SystemTime) -> Self {
        Self {
            destination: destination.clone(),
            source: None,
            state,
            commit: None,
            waiting: None,
            bytes: None,
            published: None,
            since,
            pending: None,
            trouble: None,
            increments: 0,
            saved_bytes: 0,
            origin: None,
            outcomes: Outcomes::default(),
        }
    }
}

/// What the retire guard holds back.
#[derive(Debug, Clone)]
pub struct Guarded {
    pub guard: RetireGuard,
    /// The first of the destinations.
    pub first: Vec<Destination>,
}

/// Why a target is not in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetTrouble {
    pub cause: Cause,
    pub error: String,
    pub seen: SystemTime,
}

#[derive(Debug, Clone)]
pub struct RunningPass {
    pub(super) id: PassId,
    pub(super) clock: Instant,
    pub trigger: Trigger,
    pub began: SystemTime,
    /// How many actions it has, and how many of them are done; `None` while it observes.
    pub actions: Option<(usize, usize)>,
}

#[derive(Debug, Clone)]
pub struct PassRecord {
    pub trigger: Trigger,
    pub began: SystemTime,
    pub took: Duration,
    pub outcome: PassOutcome,
    /// How many targets were published, or delivered.
    pub transferred: usize,
    pub retired: usize,
    /// Targets blocked or failed.
    pub troubled: usize,
}

impl PassRecord {
    /// Whether it changed nothing, and did not fail either.
    pub(super) fn is_idle(&self) -> bool {
        (self.transferred, self.retired) == (0, 0) && !matches!(self.outcome, PassOutcome::Failed(_))
    }
}

/// Use of WORKDIR's disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// The consumer keeps no mirrors.
    pub mirror_bytes: Option<u64>,
    pub available_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct BucketCount {
    pub objects: usize,
    pub foreign: usize,
}
