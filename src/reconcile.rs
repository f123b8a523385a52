//! One pass — observe, plan, apply, report — and the loop around it.
//!
//! Invariant: a pass that cannot observe everything changes nothing, and a failed pass never ends the loop.

mod apply;
mod claims;
mod clients;
mod error;
mod log;
mod observe;
mod pr_check;
mod push;
mod recipients;
mod remember;
mod unfinished_uploads;
mod uploads;

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::apply::{ApplyContext, apply};
use self::claims::{Claim, Claims};
pub use self::clients::Clients;
pub(crate) use self::clients::TargetList;
pub use self::error::PassError;
pub use self::log::{WITH_TAR_GZ, failed_pass as log_failed_pass};
use self::observe::{Observed, observe};
pub use self::pr_check::is_concerned;
use self::recipients::Recipients;
use self::remember::Recall;
use self::uploads::Uploads;
use crate::artifact::signature::SigningKey;
use crate::config;
use crate::descriptors::{Concurrency, DESCRIPTORS_PER_TARGET, SERVER_DESCRIPTORS};
use crate::git::wire::GitServer;
use crate::model::key::{ArchiveFormat, Destination};
use crate::model::program::Program;
use crate::model::target::Target;
use crate::net::tls::TrustRoots;
use crate::passes::log::ForeignLog;
use crate::passes::{self, Pauses, Triggers, Workers};
use crate::plan::report::{Report, Trouble};
use crate::plan::{Action, Plan, Remembered, plan_share};
use crate::publish::{Limits, Publisher};
use crate::status::{PassFailure, PassId, PassSummary, Planned, Signatures, Status, Trigger, Watched};
use crate::text::error_chain;
use crate::threads;

/// Full passes under way at the same time.
const MOST_FULL_PASSES: usize = 4;

/// What push passes reuse of the last full pass: GraphQL can be slow, and a push does not change the target list.
#[derive(Debug)]
struct LastFullPass {
    targets: Vec<Target>,
    format: ArchiveFormat,
}

/// The concurrency that fits the limits on threads and on open files, with what the port and push passes need set aside.
pub fn concurrency(settings: &config::Run) -> Concurrency {
    let wanted = Concurrency {
        sync: threads::targets(settings.common.sync_concurrency),
        probe: settings.common.probe_concurrency,
    };
    let served = if settings.common.run_once { 0 } else { SERVER_DESCRIPTORS };
    let pushes =
        usize::from(settings.common.webhook_secret.is_some()) * (DESCRIPTORS_PER_TARGET + push::MOST_PUSH_PASSES);
    Concurrency::within_this_process(wanted, served + pushes)
}

/// A full pass that has a plan.
struct Prepared {
    git: GitServer,
    actions: Vec<Action>,
    /// What the pass does without its actions.
    report: Report,
}

/// What passes share and remember.
pub struct Reconciler {
    settings: config::Run,
    clients: Clients,
    concurrency: Concurrency,
    status: Arc<Status>,
    triggers: Arc<Triggers>,
    claims: Arc<Claims>,
    /// One permit for each running action, for all passes together.
    slots: Semaphore,
    /// Only with webhooks.
    known: Mutex<Option<Arc<LastFullPass>>>,
    recall: Recall,
    foreign_log: ForeignLog,
    /// What the next listing must show.
    uploads: Uploads,
    /// What is left to do of `REPUBLISH`; `None` before the first pass.
    republish: Mutex<Option<BTreeSet<Destination>>>,
    recipients: Recipients,
    pauses: Pauses,
    /// When unrecorded unfinished uploads were last searched for.
    abandoned_checked: Mutex<Option<Instant>>,
}

impl Reconciler {
    /// Sets everything up without sending a request.
    ///
    /// # Errors
    /// If certificates, proxies or the AWS configuration are unusable.
    pub async fn new(mut settings: config::Run, roots: &TrustRoots, triggers: Arc<Triggers>) -> anyhow::Result<Self> {
        let concurrency = concurrency(&settings);
        // So that a push need not wait for a full pass that uses all its slots.
        let push_slots = usize::from(settings.common.webhook_secret.is_some());
        let status = Status::new(
            Program::Producer,
            settings.common.instance.label(),
            settings.common.stall_timeout,
            settings.common.dry_run,
        );
        status.signatures_are(Signatures::Made(settings.signing_key.as_ref().map(SigningKey::id)));
        Ok(Self {
            clients: Clients::new(&settings, roots, concurrency.probe).await?,
            concurrency,
            status: Arc::new(status),
            claims: Claims::new(Arc::clone(&triggers)),
            triggers,
            slots: Semaphore::new(concurrency.sync.get() + push_slots),
            known: Mutex::default(),
            recall: Recall::default(),
            foreign_log: ForeignLog::default(),
            uploads: Uploads::to(&settings.common.s3),
            republish: Mutex::default(),
            recipients: Recipients::compare(&mut settings),
            pauses: Pauses::default(),
            abandoned_checked: Mutex::default(),
            settings,
        })
    }

    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// The clients, for the pull-request check before the first pass.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Opens and locks WORKDIR. A dry run does not need it.
    ///
    /// # Errors
    /// If WORKDIR is unusable.
    pub fn publisher(&self) -> anyhow::Result<Publisher> {
        let config::Run { common, recipients, signing_key, mirror_cache_bytes, .. } = &self.settings;
        let limits = Limits {
            mirror_cache_bytes: *mirror_cache_bytes,
            max_repository_bytes: common.max_repository_bytes,
            memory_budget_bytes: common.memory_budget_bytes,
            time_limit: common.target_timeout,
        };
        let (bucket, signing_key) = (self.clients.bucket.clone(), signing_key.clone());
        let publisher = Publisher::open(&common.workdir, bucket, recipients, signing_key, &limits)?;
        log::crashed(&publisher.workdir.crashed());
        self.status.remembers(publisher.workdir.kept_since());
        self.uploads.remember(&publisher.workdir);
        self.status.watches(Watched::Mirrors(Arc::clone(&publisher.mirrors)));
        Ok(publisher)
    }

    /// What a pass would do, and the number of foreign objects. Nothing changes. Page and metrics count it as a pass.
    ///
    /// # Errors
    /// [`PassError`].
    pub async fn preview(&self, trigger: Trigger, stop: &CancellationToken) -> Result<(Plan, usize), PassError> {
        let (pass, begun) = (self.status.pass_begins(trigger), Instant::now());
        let previewed = async {
            let observed = self.observe(stop).await?;
            let plan = self.plan(&observed);
            self.seen(pass, &observed, &plan, &BTreeSet::new());
            Ok((plan, observed.foreign.count))
        };
        let previewed: Result<_, PassError> = previewed.await;
        let report = previewed.as_ref().map(|(plan, foreign)| Report::new(plan, &[], *foreign, begun.elapsed()));
        self.pass_ends(pass, report.as_ref().map_err(|error| *error));
        previewed
    }

    async fn observe(&self, stop: &CancellationToken) -> Result<Observed, PassError> {
        let republish = self.republish.lock().clone();
        let observing = observe(&self.clients, &self.settings, republish, self.status.pulse());
        let observed = stop.run_until_cancelled(observing).await.ok_or(PassError::Stopped)??;
        // Now: the wait for the next pass begins before this one ends.
        self.pauses.accepted();
        self.foreign_log.log(&observed.foreign);
        Ok(observed)
    }

    fn plan(&self, observed: &Observed) -> Plan {
        let mut memory = self.recall.get(&self.settings.common.workdir, self.settings.common.dry_run);
        memory.confirm(observed.held.iter().map(|object| &object.name.destination));
        let remembered = Remembered { budget: memory.budget(SystemTime::now()), memory: &memory };
        let policy = observed.policy(&self.settings);
        plan_share(&observed.desired, &observed.held, policy, &observed.bucket_wide, remembered)
    }

    fn seen(&self, pass: PassId, observed: &Observed, plan: &Plan, moved: &BTreeSet<Destination>) {
        let Observed { held, foreign, .. } = observed;
        let (targets, no_targets) = (&observed.wanted().collect::<Vec<_>>(), observed.bucket_wide.no_targets);
        let planned = Planned { plan, targets, held, foreign: Some(foreign.count), no_targets, moved };
        self.status.seen(pass, |known| planned.seen(known));
    }

    fn pass_ends(&self, pass: PassId, result: Result<&Report, &PassError>) {
        if let Err(PassError::Login(_)) = result {
            self.pauses.refused();
        }
        let failure = |error: &PassError| PassFailure { error: error_chain(error), advice: error.advice() };
        self.status.pass_ends(pass, result.map(PassSummary::from).map_err(failure));
    }

    /// Runs full passes and push passes, until `stop`.
    pub async fn run(&self, publisher: &Publisher, stop: &CancellationToken) {
        let pass = async |trigger, all_begun: &CancellationToken| match self
            .pass_until_begun(publisher, trigger, all_begun, stop)
            .await
        {
            Ok(_) | Err(PassError::Stopped) => {}
            Err(error) => log_failed_pass(&error),
        };
        let wait = async || self.wait(stop).await;
        tokio::join!(passes::full_passes(MOST_FULL_PASSES, pass, wait), self.push_passes(publisher, stop));
    }

    /// Waits until the next full pass is due, and returns its trigger; `None` if the program is asked to stop.
    pub async fn wait(&self, stop: &CancellationToken) -> Option<Trigger> {
        let (pause, refused) = self.pauses.next(self.settings.sleep);
        self.status.sleeps(pause);
        let another_token = async {
            if refused {
                self.clients.gitlab.token_changes().await
            } else {
                pending().await
            }
            Trigger::Schedule
        };
        passes::wait(pause, &self.triggers, another_token, stop).await
    }

    /// One full pass, to the end of its last action.
    ///
    /// # Errors
    /// [`PassError`] if the pass could not observe, or was stopped; failures of single targets are in the report.
    pub async fn pass(
        &self,
        publisher: &Publisher,
        trigger: Trigger,
        stop: &CancellationToken,
    ) -> Result<Report, PassError> {
        self.pass_until_begun(publisher, trigger, &CancellationToken::new(), stop).await
    }

    /// The same. It cancels `all_begun` when its last action has begun; from then on, another full pass may begin.
    async fn pass_until_begun(
        &self,
        publisher: &Publisher,
        trigger: Trigger,
        all_begun: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<Report, PassError> {
        let pass = self.status.pass_begins(trigger);
        let report = self.full_pass(publisher, pass, all_begun, stop).await;
        self.ends(publisher, pass, report, stop)
    }

    /// A pass is over. The status learns of it first, so that what the log says can be seen there.
    fn ends(
        &self,
        publisher: &Publisher,
        pass: PassId,
        report: Result<Report, PassError>,
        stop: &CancellationToken,
    ) -> Result<Report, PassError> {
        let is_stopped = stop.is_cancelled();
        self.pass_ends(pass, if is_stopped { Err(&PassError::Stopped) } else { report.as_ref() });
        self.keep_since(publisher);
        self.uploads.keep(&publisher.workdir);
        let report = report?;
        log::report(&report);
        if is_stopped { Err(PassError::Stopped) } else { Ok(report) }
    }

    async fn full_pass(
        &self,
        publisher: &Publisher,
        pass: PassId,
        all_begun: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<Report, PassError> {
        let begun = Instant::now();
        // What was observed is dropped here: actions can take long.
        let Prepared { git, actions, mut report } = self.prepare(publisher, pass, stop).await?;
        let claim = |action: &Action| self.claims.of_full_pass(action);
        let outcomes = apply(actions, &self.context(publisher, &git, pass, &claim, all_begun), stop).await;
        report.add(&outcomes, begun.elapsed());
        self.recipients.keep(publisher, self.republish.lock().as_ref().map_or(0, BTreeSet::len));
        Ok(report)
    }

    /// Observes and plans. Returns the actions, and the report of what the plan does without any.
    async fn prepare(
        &self,
        publisher: &Publisher,
        pass: PassId,
        stop: &CancellationToken,
    ) -> Result<Prepared, PassError> {
        publisher.workdir.restore()?;
        stop.run_until_cancelled(self.abort_recorded(publisher)).await;
        self.claims.observing();
        let uploaded = self.uploads.before_listing();
        let observed = self.observe(stop).await?;
        let lost = self.uploads.missing_in(&observed.held, &observed.desired.targets, uploaded);
        // Before anything is deleted, so that the next process does not miss that.
        self.uploads.keep(&publisher.workdir);
        log::lost(&lost);
        let mut plan = self.plan(&observed);
        let moved = self.claims.moved();
        plan.blocked.retain(|blocked| !moved.contains(&blocked.destination));
        self.seen(pass, &observed, &plan, &moved);
        self.keep_since(publisher);
        self.recall.count(&publisher.workdir, &observed, &plan);
        self.left_to_republish(&observed);
        log::blocked(&plan);
        log::increments(&plan);
        remember::log(&plan);
        let mut report = Report::new(&plan, &[], observed.foreign.count, Duration::ZERO);
        report.lost = lost.into_iter().map(Trouble::from).collect();
        stop.run_until_cancelled(self.abort_abandoned(publisher, observed.wanted())).await;
        // A list that may be wrong costs no mirror either.
        if !observed.is_doubtful(&plan) {
            publisher.keep_only(|| observed.wanted());
        }
        // The last use of what was observed, of which there can be very much.
        let Observed { git, desired, .. } = observed;
        let Plan { actions, format, .. } = plan;
        if self.settings.common.webhook_secret.is_some() {
            let targets: Vec<_> = desired.targets.into_iter().map(|(target, _)| target).collect();
            self.triggers.accept(targets.iter().map(|target| target.source.clone()));
            *self.known.lock() = Some(Arc::new(LastFullPass { targets, format }));
        }
        Ok(Prepared { git, actions, report })
    }

    /// Forgets what need not be republished any more: what is not in the bucket is not published again.
    fn left_to_republish(&self, observed: &Observed) {
        let mut left = self.republish.lock();
        let left = left.get_or_insert_with(|| observed.republish.clone());
        if left.is_empty() {
            return;
        }
        let held: BTreeSet<_> = observed.held.iter().map(|object| &object.name.destination).collect();
        let accepted = observed.accepted().map(|target| &target.destination);
        let again: BTreeSet<_> = accepted.filter(|destination| held.contains(destination)).collect();
        left.retain(|destination| again.contains(destination));
    }

    fn context<'a>(
        &'a self,
        publisher: &'a Publisher,
        git: &'a GitServer,
        pass: PassId,
        claim: &'a dyn Fn(&Action) -> Option<Claim>,
        all_begun: &'a CancellationToken,
    ) -> ApplyContext<'a> {
        ApplyContext {
            publisher,
            gitlab: &self.clients.gitlab,
            git,
            workers: Workers { concurrency: self.concurrency.sync, slots: &self.slots, all_begun },
            uploads: &self.uploads,
            status: &self.status,
            pass,
            claim,
            republish: &self.republish,
        }
    }

    /// Saves since when targets are out of sync, for the next start.
    fn keep_since(&self, publisher: &Publisher) {
        if let Err(error) = publisher.workdir.keep_since(&self.status.out_of_sync()) {
            tracing::debug!(%error, "cannot save since when targets are out of sync");
        }
    }
}
