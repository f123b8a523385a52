//! What is in sync, what is not, since when and why: one state, fed by the loop, read by everything that shows it.
//!
//! Invariant: it decides nothing and is asked by nobody who decides. Its lock is held for moments only, and the hot
//! paths of publishing do not take it.

pub mod metrics;
mod records;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::records::{count_objects, objects_now, records, settle};
pub use self::words::{PassOutcome, TargetState, Trigger};
use crate::model::key::Destination;
use crate::model::key::HeldObject;
use crate::model::stage::Stage;
use crate::model::target::{Source, Target};
use crate::plan::Cause;
use crate::plan::outcome::{Failure, Outcome};
use crate::plan::report::Report;
use crate::plan::{Action, Plan};
use crate::progress::{Progress, ProgressView, Pulse};
use crate::status::metrics::Metrics;
use crate::text::since;
use crate::workdir::OutOfSync;
use crate::workdir::mirrors::Disk;
use crate::workdir::mirrors::MirrorStore;
use parking_lot::Mutex;

/// How many passes are remembered, full ones and those for pushes.
const HISTORY: usize = 60;

/// One destination.
#[derive(Debug, Clone)]
pub struct TargetStatus {
    /// Where to.
    pub destination: Destination,
    /// Where from; `None` where no target names the destination any more and deleting its objects failed.
    pub source: Option<Source>,
    /// How it stands.
    pub state: TargetState,
    /// The commit in the bucket, as the newest object's name says it.
    pub commit: Option<String>,
    /// That object's size in bytes.
    pub bytes: Option<u64>,
    /// When that object was written.
    pub published: Option<SystemTime>,
    /// Since when it has been in sync, or out of it, as far as this program knows.
    pub since: SystemTime,
    /// What is to be done for it, in words, where it is behind.
    pub pending: Option<String>,
    /// What stands in its way.
    pub trouble: Option<Trouble>,
}

/// Why a target is not in sync.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// What kind of trouble it is.
    pub cause: Cause,
    /// The error in words.
    pub error: String,
    /// When it was seen last.
    pub seen: SystemTime,
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

/// Which of the passes under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassId(u64);

/// A pass under way.
#[derive(Debug, Clone)]
pub struct RunningPass {
    /// What began it.
    pub trigger: Trigger,
    /// When it began.
    pub began: SystemTime,
    /// Its actions and how many of them are done; `None` while it still looks at what there is.
    pub actions: Option<(usize, usize)>,
}

/// What is in the bucket.
#[derive(Debug, Clone, Copy)]
pub struct BucketCount {
    /// Objects with names that decode.
    pub objects: usize,
    /// Others.
    pub foreign: usize,
}

/// What a pass saw before it acted.
#[derive(Debug)]
pub struct Seen<'a> {
    /// What it will do.
    pub plan: &'a Plan,
    /// The targets it is about.
    pub targets: &'a [Target],
    /// What the bucket holds of them.
    pub held: &'a [HeldObject],
    /// How many foreign objects the bucket holds; `None` for a pass that is about some targets only. Others are left as
    /// they are then.
    pub foreign: Option<usize>,
    /// Destinations that another pass was at meanwhile: what is known of them is newer than what this one saw.
    pub moved: &'a BTreeSet<Destination>,
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The moment.
    pub now: SystemTime,
    /// When the program started.
    pub started: SystemTime,
    /// Whether it only says what it would do.
    pub dry_run: bool,
    /// All targets, in the order of destinations.
    pub targets: Vec<TargetStatus>,
    /// Passes under way: a full one, one for pushes, or both.
    pub passes: Vec<RunningPass>,
    /// Targets at work.
    pub running: Vec<ProgressView>,
    /// The last passes, the oldest first.
    pub history: Vec<PassRecord>,
    /// When the next full pass is due; `None` while one is under way.
    pub next_pass: Option<SystemTime>,
    /// When the last full pass that succeeded ended.
    pub last_success: Option<SystemTime>,
    /// What the loop hangs at, where it makes no progress.
    pub stalled: Option<String>,
    /// What the retire guard says, where it held something back.
    pub guard: Option<String>,
    /// The bucket.
    pub bucket: Option<BucketCount>,
    /// The disk.
    pub disk: Option<Disk>,
}

impl Snapshot {
    /// The last full pass, one that failed included.
    pub fn last_full_pass(&self) -> Option<&PassRecord> {
        self.history.iter().rfind(|pass| pass.trigger.is_full())
    }

    /// For how long the target has been out of sync that has been for longest.
    pub fn oldest_out_of_sync(&self) -> Option<Duration> {
        let out = self.targets.iter().filter(|target| target.state != TargetState::InSync);
        out.map(|target| since(target.since, self.now)).max()
    }
}

/// The state that everything shown comes from.
#[derive(Debug)]
pub struct Status {
    metrics: Arc<Metrics>,
    pulse: Arc<Pulse>,
    stall_timeout: Duration,
    dry_run: bool,
    mirrors: OnceLock<Arc<MirrorStore>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    started: SystemTime,
    targets: BTreeMap<Destination, TargetStatus>,
    /// What an earlier process knew of targets out of sync, until a full pass has looked at them.
    remembered: BTreeMap<Destination, SystemTime>,
    passes: Vec<(PassId, RunningPass, Instant)>,
    last_pass: u64,
    running: Vec<Arc<Progress>>,
    history: VecDeque<PassRecord>,
    next_pass: Option<(SystemTime, Instant)>,
    last_success: Option<SystemTime>,
    planned_once: bool,
    guard: Option<String>,
    bucket: Option<BucketCount>,
}

impl State {
    fn pass(&mut self, id: PassId) -> Option<&mut RunningPass> {
        self.passes.iter_mut().find(|(running, ..)| *running == id).map(|(_, pass, _)| pass)
    }

    /// Adds a pass to the history. Full passes and those for pushes have half of it each at least, so that a busy webhook
    /// does not push out the one that failed.
    fn remember(&mut self, pass: PassRecord) {
        if self.history.len() == HISTORY {
            let all = self.history.iter().chain([&pass]);
            let crowd_is_full = all.filter(|pass| pass.trigger.is_full()).count() > HISTORY / 2;
            let oldest = self.history.iter().position(|pass| pass.trigger.is_full() == crowd_is_full);
            self.history.remove(oldest.unwrap_or_default());
        }
        self.history.push_back(pass);
    }
}

impl Status {
    /// Nothing is known yet. Without any progress for `stall_timeout` the loop counts as stuck.
    pub fn new(shard: &str, stall_timeout: Duration, dry_run: bool) -> Self {
        let state = State {
            started: SystemTime::now(),
            targets: BTreeMap::new(),
            remembered: BTreeMap::new(),
            passes: vec![],
            last_pass: 0,
            running: vec![],
            history: VecDeque::new(),
            next_pass: None,
            last_success: None,
            planned_once: false,
            guard: None,
            bucket: None,
        };
        let (metrics, pulse) = (Arc::new(Metrics::new(shard)), Arc::default());
        Self { metrics, pulse, stall_timeout, dry_run, mirrors: OnceLock::new(), state: Mutex::new(state) }
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Something moved that is not a target's bytes.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Everything, as it is now.
    pub fn snapshot(&self) -> Snapshot {
        // Before the lock: a disk can be slow.
        let disk = self.mirrors.get().map(|mirrors| mirrors.disk());
        let state = self.state.lock();
        Snapshot {
            now: SystemTime::now(),
            started: state.started,
            dry_run: self.dry_run,
            targets: state.targets.values().cloned().collect(),
            passes: state.passes.iter().map(|(_, pass, _)| pass.clone()).collect(),
            running: state.running.iter().map(|progress| progress.view()).collect(),
            history: state.history.iter().cloned().collect(),
            next_pass: state.next_pass.map(|(time, _)| time),
            last_success: state.last_success,
            stalled: self.stalled(&state),
            guard: state.guard.clone(),
            bucket: state.bucket,
            disk,
        }
    }

    /// How many actions the pass under way has and how many are done, once it has a plan; and what is at work.
    pub fn at_work(&self) -> (Option<(usize, usize)>, Vec<ProgressView>) {
        let state = self.state.lock();
        let actions = state.passes.first().and_then(|(_, pass, _)| pass.actions);
        (actions, state.running.iter().map(|progress| progress.view()).collect())
    }

    /// Whether the loop makes progress.
    ///
    /// # Errors
    /// What it hangs at, in words.
    pub fn alive(&self) -> Result<(), String> {
        self.stalled(&self.state.lock()).map_or(Ok(()), Err)
    }

    fn stalled(&self, state: &State) -> Option<String> {
        let quiet_since = state.next_pass.map_or(self.pulse.last(), |(_, due)| due.max(self.pulse.last()));
        let quiet = quiet_since.elapsed();
        if quiet < self.stall_timeout {
            return None;
        }
        let at: Vec<_> =
            state.running.iter().map(|progress| format!("{} {}", progress.stage(), progress.destination())).collect();
        let at = match (at.is_empty(), state.passes.is_empty()) {
            (false, _) => at.join(", "),
            (true, false) => "looking at targets, branches and bucket".to_owned(),
            (true, true) => "no pass is under way although one is due".to_owned(),
        };
        Some(format!("no progress for {} s: {at}", quiet.as_secs()))
    }

    /// Whether a full pass has got as far as a plan and to its end.
    ///
    /// # Errors
    /// What there is to wait for, in words.
    pub fn ready(&self) -> Result<(), String> {
        let state = self.state.lock();
        if state.planned_once {
            return Ok(());
        }
        Err(match state.history.back() {
            Some(PassRecord { outcome: PassOutcome::Failed(why), .. }) => format!("no pass has succeeded yet: {why}"),
            _ => "the first pass is not done yet".to_owned(),
        })
    }

    // ---- What the loop says ----

    /// The mirrors under WORKDIR, for what they take on the disk.
    pub fn watches(&self, mirrors: Arc<MirrorStore>) {
        // There is only one WORKDIR.
        drop(self.mirrors.set(mirrors));
    }

    /// What an earlier process wrote down of [`Self::out_of_sync`].
    pub fn remembers(&self, targets: Vec<OutOfSync>) {
        let since = |it: &OutOfSync| UNIX_EPOCH.checked_add(Duration::from_secs(it.since));
        let known = targets.into_iter().filter_map(|it| Some((since(&it)?, it.destination)));
        self.state.lock().remembered = known.map(|(since, destination)| (destination, since)).collect();
    }

    /// The targets that are not in sync, and since when; those that an earlier process knew of, as long as no full pass
    /// has looked at them.
    pub fn out_of_sync(&self) -> Vec<OutOfSync> {
        let state = self.state.lock();
        let out = state.targets.values().filter(|target| target.state != TargetState::InSync);
        let out = out.map(|target| (&target.destination, target.since));
        let remembered = state.remembered.iter().map(|(destination, since)| (destination, *since));
        let seconds = |since: SystemTime| since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let all = out.chain(remembered);
        all.map(|(destination, since)| OutOfSync { destination: destination.clone(), since: seconds(since) }).collect()
    }

    /// A pass begins.
    pub fn pass_begins(&self, trigger: Trigger) -> PassId {
        self.pulse.beat();
        let mut state = self.state.lock();
        if trigger.is_full() {
            state.next_pass = None;
        }
        state.last_pass += 1;
        let id = PassId(state.last_pass);
        state.passes.push((id, RunningPass { trigger, began: SystemTime::now(), actions: None }, Instant::now()));
        id
    }

    /// A pass has a plan.
    pub fn seen(&self, pass: PassId, seen: &Seen<'_>) {
        self.pulse.beat();
        let mut state = self.state.lock();
        if let Some(pass) = state.pass(pass) {
            pass.actions = Some((seen.plan.actions.len(), 0));
        }
        let mut targets = records(&state.targets, &state.remembered, seen);
        if let Some(foreign) = seen.foreign {
            state.bucket = Some(BucketCount { objects: objects_now(seen, &state.targets), foreign });
            state.guard = seen.plan.guard.map(|guard| guard.to_string());
            state.targets = targets;
            state.remembered.clear();
        } else {
            state.targets.append(&mut targets);
        }
    }

    /// An action begins.
    pub fn action_begins(&self, action: &Action) -> Arc<Progress> {
        let stage = match action {
            Action::Publish(_) => Stage::Fetching,
            Action::Retire(_) | Action::Sweep(_) => Stage::Deleting,
        };
        let destination = action.destination().clone();
        let progress = Progress::new(destination, stage, self.metrics.moved(), Arc::clone(&self.pulse));
        let progress = Arc::new(progress);
        self.pulse.beat();
        self.state.lock().running.push(Arc::clone(&progress));
        progress
    }

    /// An action ended.
    pub fn action_ends(&self, pass: PassId, progress: &Arc<Progress>, outcome: &Outcome) {
        self.pulse.beat();
        let mut state = self.state.lock();
        state.running.retain(|running| !Arc::ptr_eq(running, progress));
        if let Some(pass) = state.pass(pass) {
            pass.actions = pass.actions.map(|(all, done)| (all, done + 1));
        }
        self.count(outcome, progress.stage());
        settle(&mut state.targets, outcome);
        if let Some(bucket) = &mut state.bucket {
            count_objects(&mut bucket.objects, outcome);
        }
    }

    fn count(&self, Outcome { action, result }: &Outcome, stage: Stage) {
        match (action, result) {
            (Action::Publish(publish), Ok(_)) => self.metrics.published(&publish.reason),
            (Action::Retire(retire), Ok(_)) => self.metrics.retired(retire.reason),
            (Action::Sweep(_), Ok(_)) => self.metrics.swept(),
            (_, Err(Failure::Stopped)) => {}
            (_, Err(Failure::Held { .. })) => self.metrics.failed(stage, Cause::Held),
            (_, Err(Failure::Failed { cause, stage, .. })) => self.metrics.failed(*stage, *cause),
        }
    }

    /// Actions of a pass are left to others.
    pub fn left_out(&self, pass: PassId) {
        if let Some(pass) = self.state.lock().pass(pass) {
            pass.actions = pass.actions.map(|(all, done)| (all.saturating_sub(1), done));
        }
    }

    /// A pass ended.
    pub fn pass_ends(&self, pass: PassId, result: Result<&Report, String>) {
        self.pulse.beat();
        let mut state = self.state.lock();
        let Some(at) = state.passes.iter().position(|(running, ..)| *running == pass) else { return };
        let (_, RunningPass { trigger, began, .. }, clock) = state.passes.remove(at);
        let outcome = match &result {
            Ok(report) if report.is_success() => PassOutcome::Success,
            Ok(_) => PassOutcome::Incomplete,
            Err(error) => PassOutcome::Failed(error.clone()),
        };
        self.metrics.pass_ended(trigger, &outcome);
        if trigger.is_full() {
            state.planned_once |= result.is_ok();
            if outcome == PassOutcome::Success {
                state.last_success = Some(SystemTime::now());
            }
        }
        let (published, retired, troubled) = result.map_or((0, 0, 0), |report| {
            (report.published, report.retired, report.blocked.len() + report.failed.len() + report.held.len())
        });
        let took = clock.elapsed();
        state.remember(PassRecord { trigger, began, took, outcome, published, retired, troubled });
    }

    /// The loop sleeps.
    pub fn sleeps(&self, time: Duration) {
        self.state.lock().next_pass = Some((SystemTime::now() + time, Instant::now() + time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(status: &Status, trigger: Trigger, result: Result<&Report, String>) {
        let pass = status.pass_begins(trigger);
        status.pass_ends(pass, result);
    }

    #[test]
    fn many_passes_for_pushes_do_not_push_out_the_full_pass_that_failed() {
        let status = Status::new("test", Duration::from_secs(60), false);
        ends(&status, Trigger::Schedule, Err("stopped".to_owned()));
        for _ in 0..2 * HISTORY {
            ends(&status, Trigger::Push, Ok(&Report::default()));
        }
        let now = status.snapshot();
        assert_eq!(now.history.len(), HISTORY);
        assert!(matches!(now.last_full_pass(), Some(PassRecord { outcome: PassOutcome::Failed(_), .. })));

        for _ in 0..2 * HISTORY {
            ends(&status, Trigger::Schedule, Ok(&Report::default()));
        }
        let now = status.snapshot();
        let pushes = now.history.iter().filter(|pass| !pass.trigger.is_full()).count();
        assert_eq!((now.history.len(), pushes), (HISTORY, HISTORY / 2));
        assert!(matches!(now.last_full_pass(), Some(PassRecord { outcome: PassOutcome::Success, .. })));
    }

    #[test]
    fn passes_side_by_side_are_told_apart() {
        let status = Status::new("test", Duration::from_secs(60), false);
        let [first, second] = [Trigger::Push; 2].map(|trigger| status.pass_begins(trigger));
        status.pass_ends(first, Ok(&Report::default()));
        assert_eq!(status.snapshot().passes.len(), 1);
        status.pass_ends(first, Ok(&Report::default()));
        assert_eq!(status.snapshot().history.len(), 1, "it ended once");
        status.pass_ends(second, Err("stopped".to_owned()));
        assert_eq!(status.snapshot().history.len(), 2);
    }

    #[test]
    fn what_an_earlier_process_knew_is_kept_until_a_full_pass_has_looked() {
        let status = Status::new("test", Duration::from_secs(60), false);
        let destination = Destination { group: "far".into(), project: "p".into(), branch: "main".into() };
        let known = vec![OutOfSync { destination, since: 1_700_000_000 }];
        status.remembers(known.clone());
        assert_eq!(status.out_of_sync(), known);
    }
}
