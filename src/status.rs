//! What is in sync, what is not, since when and why: one state, fed by the loop, read by everything that shows it.
//!
//! It takes plain data, which each program makes of its own plans and outcomes: the producer in [`records`].
//!
//! Invariant: no decision depends on it. Its lock is held only briefly, and an action takes it only when it begins or ends.

mod input;
pub mod metrics;
mod outcomes;
mod records;
mod snapshot;
mod states;
mod targets;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};

pub use self::input::{
    Arrived, Change, HeldIncrements, Increments, Known, PassFailure, PassSummary, Seen, Signatures, What, Whole,
    increments,
};
use self::metrics::Metrics;
pub use self::outcomes::{Outcome, Outcomes};
pub use self::records::Planned;
pub use self::snapshot::{BucketCount, Disk, Guarded, PassRecord, RunningPass, Snapshot, TargetStatus, TargetTrouble};
pub use self::states::{PassOutcome, TargetState, Trigger};
pub use self::targets::Targets;
use crate::files::available_bytes;
use crate::model::key::Destination;
use crate::model::program::Program;
use crate::model::stage::Stage;
use crate::plan::RetireBudget;
use crate::progress::{Progress, ProgressView, Pulse};
use crate::workdir::OutOfSync;
use crate::workdir::mirrors::MirrorStore;

/// How many passes are remembered, full ones and those for pushes.
const HISTORY: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassId(u64);

/// What takes space under WORKDIR.
#[derive(Debug)]
pub enum Watched {
    Mirrors(Arc<MirrorStore>),
    /// A folder that is empty between passes.
    Folder(PathBuf),
}

impl Watched {
    fn disk(&self) -> Disk {
        match self {
            Self::Mirrors(mirrors) => {
                let disk = mirrors.disk();
                Disk { mirror_bytes: Some(disk.mirror_bytes), available_bytes: disk.available_bytes }
            }
            Self::Folder(folder) => Disk { mirror_bytes: None, available_bytes: available_bytes(folder) },
        }
    }
}

/// The state that everything shown comes from.
#[derive(Debug)]
pub struct Status {
    program: Program,
    metrics: Metrics,
    /// Beats with the progress of passes outside of their actions.
    pulse: Pulse,
    /// Beats with the progress of any action.
    actions: Arc<Pulse>,
    started: SystemTime,
    stall_timeout: Duration,
    dry_run: bool,
    watched: OnceLock<Watched>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    targets: Targets,
    /// How often anything here has changed; running targets' bytes do not count.
    changes: u64,
    /// Targets that were out of sync when an earlier process ended, until the first full pass has a plan.
    remembered: Arc<BTreeMap<Destination, SystemTime>>,
    passes: Vec<RunningPass>,
    last_pass: u64,
    running: Vec<Arc<Progress>>,
    history: VecDeque<PassRecord>,
    next_pass: Option<(SystemTime, Instant)>,
    last_success: Option<SystemTime>,
    planned_once: bool,
    guard: Option<Guarded>,
    budget: Option<RetireBudget>,
    bucket: Option<BucketCount>,
    nothing_listed: bool,
    signatures: Option<Signatures>,
}

impl State {
    fn pass(&mut self, id: PassId) -> Option<&mut RunningPass> {
        self.passes.iter_mut().find(|pass| pass.id == id)
    }

    /// Adds a pass to the history. At least half of it is reserved for either kind, so that the many of one do not push out
    /// the few of the other, such as one that failed: with a busy webhook, or at an interval of seconds.
    fn remember(&mut self, pass: PassRecord, is_many: impl Fn(&PassRecord) -> bool) {
        if self.history.len() == HISTORY {
            let all = self.history.iter().chain([&pass]);
            let drop_many = all.filter(|pass| is_many(pass)).count() > HISTORY / 2;
            let oldest = self.history.iter().position(|pass| is_many(pass) == drop_many);
            self.history.remove(oldest.unwrap_or_default());
        }
        self.history.push_back(pass);
    }

    fn running(&self) -> Vec<ProgressView> {
        self.running.iter().map(|progress| progress.view()).collect()
    }
}

impl Status {
    /// Nothing is known yet. The loop counts as stuck after `stall_timeout` without progress.
    pub fn new(program: Program, shard: &str, stall_timeout: Duration, dry_run: bool) -> Self {
        Self {
            program,
            metrics: Metrics::new(program, shard),
            pulse: Pulse::default(),
            actions: Arc::default(),
            started: SystemTime::now(),
            stall_timeout,
            dry_run,
            watched: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    pub fn program(&self) -> Program {
        self.program
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The pulse, for progress outside of actions.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    pub fn snapshot(&self) -> Snapshot {
        // Before the lock: a disk can be slow.
        let disk = self.watched.get().map(Watched::disk);
        let state = self.state.lock();
        Snapshot {
            program: self.program,
            now: SystemTime::now(),
            started: self.started,
            dry_run: self.dry_run,
            targets: state.targets.clone(),
            passes: state.passes.clone(),
            running: state.running(),
            history: state.history.iter().cloned().collect(),
            next_pass: state.next_pass.map(|(time, _)| time),
            last_success: state.last_success,
            stalled: self.stalled(&state),
            guard: state.guard.clone(),
            budget: state.budget,
            bucket: state.bucket,
            nothing_listed: state.nothing_listed,
            signatures: state.signatures.clone(),
            disk,
        }
    }

    /// How many actions the current pass has and how many are done, once it has a plan; and the targets under way.
    pub fn at_work(&self) -> (Option<(usize, usize)>, Vec<ProgressView>) {
        let state = self.state.lock();
        (state.passes.first().and_then(|pass| pass.actions), state.running())
    }

    /// An error if the loop makes no progress: what it hangs on, in words.
    pub fn alive(&self) -> Result<(), String> {
        self.stalled(&self.state.lock()).map_or(Ok(()), Err)
    }

    fn stalled(&self, state: &State) -> Option<String> {
        let (pulse, actions) = (self.pulse.last(), self.actions.last());
        // Passes overlap, so the progress of one must not hide that another hangs.
        let acting = (!state.running.is_empty()).then_some(actions);
        let observing = state.passes.iter().any(|pass| pass.actions.is_none()).then_some(pulse);
        let due = state.next_pass.map(|(_, due)| due.max(pulse));
        let quiet_since = acting.into_iter().chain(observing).chain(due).min();
        let quiet = quiet_since.unwrap_or_else(|| pulse.max(actions)).elapsed();
        if quiet < self.stall_timeout {
            return None;
        }
        let at: Vec<_> =
            state.running.iter().map(|progress| format!("{} {}", progress.stage(), progress.destination())).collect();
        let at = match (at.is_empty(), state.passes.is_empty()) {
            (false, _) => at.join(", "),
            (true, false) => format!("reading {}", self.program.observes()),
            (true, true) => "no pass is under way although one is due".to_owned(),
        };
        Some(format!("no progress for {} s: {at}", quiet.as_secs()))
    }

    /// An error until a full pass has planned and run to its end: what is missing, in words.
    pub fn ready(&self) -> Result<(), String> {
        let state = self.state.lock();
        if state.planned_once {
            return Ok(());
        }
        Err(match state.history.back() {
            Some(PassRecord { outcome: PassOutcome::Failed(PassFailure { error, .. }), .. }) => {
                format!("no pass has succeeded yet: {error}")
            }
            _ => "the first pass is not done yet".to_owned(),
        })
    }

    /// Another number for each change of what [`Self::snapshot`] shows, except for the progress of running targets.
    pub fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    fn change(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.changes += 1;
        state
    }

    // ---- What the loop reports ----

    /// Sets what under WORKDIR is watched: its size on the disk, and what is free there, are shown.
    pub fn watches(&self, watched: Watched) {
        // There is only one WORKDIR.
        drop(self.watched.set(watched));
    }

    /// Sets what signs, or whose signatures count.
    pub fn signatures_are(&self, signatures: Signatures) {
        let mut state = self.state.lock();
        if state.signatures.as_ref() != Some(&signatures) {
            state.signatures = Some(signatures);
            state.changes += 1;
        }
    }

    /// Restores what an earlier process saved of [`Self::out_of_sync`].
    pub fn remembers(&self, targets: Vec<OutOfSync>) {
        let known = targets.into_iter().filter_map(|OutOfSync { destination, since }| {
            Some((destination, UNIX_EPOCH.checked_add(Duration::from_secs(since))?))
        });
        self.change().remembered = Arc::new(known.collect());
    }

    /// The targets that are not in sync, and since when. Until the first full pass has a plan, also those that an earlier
    /// process saved.
    pub fn out_of_sync(&self) -> Vec<OutOfSync> {
        let out_of_sync = |(destination, since): (&Destination, SystemTime)| {
            let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            OutOfSync { destination: destination.clone(), since }
        };
        let state = self.state.lock();
        let known = state.targets.iter().filter(|target| target.state != TargetState::InSync);
        let known = known.map(|target| (&target.destination, target.since));
        let remembered = state.remembered.iter().map(|(destination, since)| (destination, *since));
        known.chain(remembered).map(out_of_sync).collect()
    }

    pub fn pass_begins(&self, trigger: Trigger) -> PassId {
        self.pulse.beat();
        let mut state = self.change();
        if trigger.is_full() {
            state.next_pass = None;
        }
        state.last_pass += 1;
        let id = PassId(state.last_pass);
        let (began, clock) = (SystemTime::now(), Instant::now());
        state.passes.push(RunningPass { id, clock, trigger, began, actions: None });
        id
    }

    /// A pass has a plan. `look` makes of it, and of what is known, what is shown. Nobody waits for that meanwhile.
    pub fn seen(&self, pass: PassId, look: impl FnOnce(&Known<'_>) -> Seen) {
        self.pulse.beat();
        let (targets, remembered) = {
            let state = self.state.lock();
            (state.targets.clone(), Arc::clone(&state.remembered))
        };
        let Seen { records, actions, whole } =
            look(&Known { now: SystemTime::now(), targets: &targets, remembered: &remembered });
        let mut state = self.change();
        if let Some(pass) = state.pass(pass) {
            pass.actions = Some((actions, 0));
        }
        if let Some(Whole { bucket, nothing_listed, budget, guard }) = whole {
            (state.bucket, state.nothing_listed) = (Some(bucket), nothing_listed);
            (state.budget, state.guard) = (budget, guard);
            state.targets = state.targets.since(&targets, records);
            state.remembered = Arc::default();
        } else {
            let known = |at: &Targets, record: &TargetStatus| at.get(&record.destination).map(Arc::as_ptr);
            for record in records.iter() {
                // What has changed meanwhile is newer.
                if known(&targets, record) == known(&state.targets, record) {
                    state.targets.insert(Arc::clone(record));
                }
            }
        }
        // Outside of the lock: there can be many records that nobody else has.
        drop(state);
        drop(targets);
    }

    /// An action begins with this stage.
    pub fn action_begins(&self, destination: Destination, stage: Stage) -> Arc<Progress> {
        let progress = Arc::new(Progress::new(destination, stage, self.metrics.moved(), Arc::clone(&self.actions)));
        self.actions.beat();
        self.change().running.push(Arc::clone(&progress));
        progress
    }

    pub fn action_ends(&self, pass: PassId, progress: &Arc<Progress>, change: &Change) {
        self.actions.beat();
        let mut state = self.change();
        state.running.retain(|running| !Arc::ptr_eq(running, progress));
        if let Some(pass) = state.pass(pass) {
            pass.actions = pass.actions.map(|(all, done)| (all, done + 1));
        }
        self.metrics.action_ended(change);
        change.settle(&mut state.targets, progress.destination());
        if let Some(bucket) = &mut state.bucket {
            let (came, gone) = change.objects;
            bucket.objects = (bucket.objects + came).saturating_sub(gone);
        }
    }

    /// A pass leaves one of its actions to another pass.
    pub fn left_out(&self, pass: PassId) {
        if let Some(pass) = self.change().pass(pass) {
            pass.actions = pass.actions.map(|(all, done)| (all.saturating_sub(1), done));
        }
    }

    pub fn pass_ends(&self, pass: PassId, result: Result<PassSummary, PassFailure>) {
        self.pulse.beat();
        let mut state = self.change();
        let Some(at) = state.passes.iter().position(|running| running.id == pass) else { return };
        let RunningPass { trigger, began, clock, .. } = state.passes.remove(at);
        let outcome = match &result {
            Ok(PassSummary { success: true, .. }) => PassOutcome::Success,
            Ok(_) => PassOutcome::Incomplete,
            Err(failure) => PassOutcome::Failed(failure.clone()),
        };
        self.metrics.pass_ended(trigger, &outcome);
        if trigger.is_full() {
            state.planned_once |= result.is_ok();
            if outcome == PassOutcome::Success {
                state.last_success = Some(SystemTime::now());
            }
        }
        let (transferred, retired, troubled) =
            result.map_or((0, 0, 0), |summary| (summary.transferred, summary.retired, summary.troubled));
        let took = clock.elapsed();
        let record = PassRecord { trigger, began, took, outcome, transferred, retired, troubled };
        state.remember(record, |pass| match self.program {
            Program::Producer => !pass.trigger.is_full(),
            Program::Consumer => pass.is_idle(),
        });
    }

    pub fn sleeps(&self, time: Duration) {
        self.change().next_pass = Some((SystemTime::now() + time, Instant::now() + time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: PassSummary = PassSummary { success: true, transferred: 0, retired: 0, troubled: 0 };

    fn status() -> Status {
        Status::new(Program::Producer, "test", Duration::from_secs(60), false)
    }

    fn failed(error: &str) -> Result<PassSummary, PassFailure> {
        Err(PassFailure { error: error.to_owned(), advice: None })
    }

    fn ends(status: &Status, trigger: Trigger, result: Result<PassSummary, PassFailure>) {
        let pass = status.pass_begins(trigger);
        status.pass_ends(pass, result);
    }

    #[test]
    fn many_passes_for_pushes_do_not_push_out_the_full_pass_that_failed() {
        let status = status();
        ends(&status, Trigger::Schedule, failed("stopped"));
        for _ in 0..2 * HISTORY {
            ends(&status, Trigger::Push, Ok(GOOD));
        }
        let now = status.snapshot();
        assert_eq!(now.history.len(), HISTORY);
        assert!(matches!(now.last_full_pass(), Some(PassRecord { outcome: PassOutcome::Failed(_), .. })));

        for _ in 0..2 * HISTORY {
            ends(&status, Trigger::Schedule, Ok(GOOD));
        }
        let now = status.snapshot();
        let pushes = now.history.iter().filter(|pass| !pass.trigger.is_full()).count();
        assert_eq!((now.history.len(), pushes), (HISTORY, HISTORY / 2));
        assert!(matches!(now.last_full_pass(), Some(PassRecord { outcome: PassOutcome::Success, .. })));
    }

    #[test]
    fn many_passes_without_anything_to_do_do_not_push_out_those_that_delivered_or_failed() {
        let status = Status::new(Program::Consumer, "test", Duration::from_secs(60), false);
        ends(&status, Trigger::Schedule, failed("away"));
        ends(&status, Trigger::Event, Ok(PassSummary { transferred: 1, ..GOOD }));
        for _ in 0..2 * HISTORY {
            ends(&status, Trigger::Schedule, Ok(PassSummary { success: false, troubled: 1, ..GOOD }));
        }
        let now = status.snapshot();
        let kept: Vec<_> = now.history.iter().filter(|pass| !pass.is_idle()).map(|pass| pass.trigger).collect();
        assert_eq!((now.history.len(), kept), (HISTORY, vec![Trigger::Schedule, Trigger::Event]));
    }

    #[test]
    fn passes_side_by_side_are_told_apart() {
        let status = status();
        let [first, second] = [Trigger::Push; 2].map(|trigger| status.pass_begins(trigger));
        status.pass_ends(first, Ok(GOOD));
        assert_eq!(status.snapshot().passes.len(), 1);
        status.pass_ends(first, Ok(GOOD));
        assert_eq!(status.snapshot().history.len(), 1, "it ended once");
        status.pass_ends(second, failed("stopped"));
        assert_eq!(status.snapshot().history.len(), 2);
    }

    #[test]
    fn what_an_earlier_process_knew_is_kept_until_a_full_pass_has_looked() {
        let status = status();
        let destination = Destination { group: "far".into(), project: "p".into(), branch: "main".into() };
        let known = vec![OutOfSync { destination, since: 1_700_000_000 }];
        status.remembers(known.clone());
        assert_eq!(status.out_of_sync(), known);
    }

    fn destination(project: &str) -> Destination {
        Destination { group: "far".to_owned(), project: project.to_owned(), branch: "main".to_owned() }
    }

    /// The records of these projects, all of them behind.
    fn behind(projects: &[&str], known: &Known<'_>) -> Targets {
        let record = |project: &&str| TargetStatus::new(&destination(project), TargetState::Behind, known.now);
        projects.iter().map(|project| Arc::new(record(project))).collect()
    }

    #[test]
    fn nobody_waits_while_records_are_made_and_what_changes_meanwhile_stays() {
        let status = status();
        let pass = status.pass_begins(Trigger::Schedule);
        let whole = || {
            let bucket = BucketCount { objects: 0, foreign: 0 };
            Some(Whole { bucket, nothing_listed: false, budget: None, guard: None })
        };
        status.seen(pass, |known| Seen { records: behind(&["a", "b"], known), actions: 2, whole: whole() });
        for whole in [whole(), None] {
            status.seen(pass, |known| {
                let records = behind(&["a", "b"], known);
                std::thread::scope(|scope| {
                    let (done, waiting) = std::sync::mpsc::channel();
                    let status = &status;
                    scope.spawn(move || {
                        let change = Change { what: What::InSync(None), ..Change::NONE };
                        let progress = status.action_begins(destination("a"), Stage::Fetching);
                        status.action_ends(pass, &progress, &change);
                        done.send(status.snapshot().targets.len()).unwrap_or_default();
                    });
                    assert_eq!(waiting.recv_timeout(Duration::from_secs(20)), Ok(2), "it is not locked");
                });
                Seen { records, actions: 2, whole }
            });
            let states: Vec<_> = status.snapshot().targets.iter().map(|target| target.state).collect();
            assert_eq!(states, [TargetState::InSync, TargetState::Behind], "what is known of a is newer");
        }
    }
}
