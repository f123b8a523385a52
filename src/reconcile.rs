//! One pass — observe, plan, apply, report — and the loop around it.
//!
//! Invariant: a pass that cannot observe everything changes nothing, and no failure of a pass ends the loop.

use std::collections::{BTreeSet, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::apply::{Done, Outcome, apply};
use crate::bucket::{Bucket, BucketError, Listing};
use crate::config::{self, QuerySource, Secret};
use crate::http::{self, Login};
use crate::key::{ArchiveFormat, Destination};
use crate::limits::{Concurrency, DESCRIPTORS_PER_TARGET};
use crate::mirror::MirrorStore;
use crate::pack::IndexGate;
use crate::plan::{
    Desired, FormatChoice, Head, HeldObject, MaxRetire, Plan, PlanError, Policy, Whole, plan, plan_share,
};
use crate::prcheck::{self, CheckError};
use crate::probe;
use crate::publish::{HeldRewrites, Publisher};
use crate::report::{Report, error_chain, printable};
use crate::server;
use crate::status::{Seen, Status};
use crate::target::{BUILT_IN_QUERY, GraphqlServer, Source, Target, TargetsError};
use crate::tls::TrustRoots;
use crate::trigger::{Trigger, Triggers};
use crate::wire::GitServer;
use crate::workdir::{Workdir, WorkdirError};

/// How many foreign keys are named in the log; the others are only counted.
const FOREIGN_SHOWN: usize = 5;

/// Why a pass could not come to a plan. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A secret's file.
    #[error("cannot read a secret")]
    Secret(#[source] anyhow::Error),
    /// The query's file.
    #[error("cannot read the query in {path}")]
    Query {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The pull-request check.
    #[error(transparent)]
    PrCheck(#[from] Box<CheckError>),
    /// The target list.
    #[error("no target list from GRAPHQL_SERVER")]
    Targets(#[from] TargetsError),
    /// Our part of WORKDIR was removed, and cannot be made again.
    #[error(transparent)]
    Workdir(#[from] WorkdirError),
    /// The bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The program was asked to stop.
    #[error("stopped")]
    Stopped,
}

/// The desired and the observed state, and what follows from them.
pub struct Observation {
    /// What to do.
    pub plan: Plan,
    /// Objects whose names do not decode.
    pub foreign: Vec<String>,
    git: GitServer,
    wanted: Vec<Target>,
    accepted: Vec<Target>,
    held: Vec<HeldObject>,
    republish: BTreeSet<Destination>,
}

/// What a pass for pushes takes over from the last full pass: asking GraphQL may be slow, and a push changes nothing
/// about what is wanted.
struct Known {
    targets: Vec<Target>,
    format: ArchiveFormat,
}

/// Everything that stays the same from pass to pass.
pub struct Reconciler {
    settings: config::Run,
    concurrency: Concurrency,
    http: reqwest::Client,
    bucket: Bucket,
    foreign_seen: HashSet<String>,
    /// What is left to do of `REPUBLISH`; nothing is known of it before the first target list.
    republish: Option<BTreeSet<Destination>>,
    known: Option<Known>,
    status: Arc<Status>,
}

/// What a pass needs to change anything, and a dry run does not have.
pub struct Workshop {
    workdir: Arc<Workdir>,
    mirrors: Arc<MirrorStore>,
    gate: Arc<IndexGate>,
    held: Arc<HeldRewrites>,
    abandoned_checked: Option<Instant>,
}

impl Reconciler {
    /// Sets up the clients. No request is sent to GitLab, GraphQL or S3.
    ///
    /// # Errors
    /// Where certificates, proxies or the AWS configuration make no sense.
    pub async fn new(settings: config::Run, roots: &TrustRoots) -> anyhow::Result<Self> {
        let wanted = Concurrency { sync: settings.sync_concurrency, probe: settings.probe_concurrency };
        let served = if settings.run_once { 0 } else { server::DESCRIPTORS };
        // A pass for pushes publishes one target beside a full pass.
        let beside = if settings.webhook_secret.is_some() { DESCRIPTORS_PER_TARGET } else { 0 };
        let concurrency = Concurrency::within_this_process(wanted, served + beside);
        let http = http::client(roots, settings.timeouts, concurrency.probe.get())?;
        let bucket = Bucket::connect(&settings.s3, settings.timeouts, roots).await?;
        let status = Arc::new(Status::new(&settings.shard, settings.stall_timeout));
        Ok(Self {
            settings,
            concurrency,
            http,
            bucket,
            foreign_seen: HashSet::new(),
            republish: None,
            known: None,
            status,
        })
    }

    /// What goes on, for whoever shows it.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Whether there is anything to do: `false` where a pull-request check was asked for and its change is none of this
    /// program's.
    ///
    /// # Errors
    /// [`PassError`] where that cannot be told.
    pub async fn is_concerned(&self, stop: &CancellationToken) -> Result<bool, PassError> {
        let Some(config::PrCheck { previous, query, saas_file }) = &self.settings.pr_check else { return Ok(true) };
        let (graphql, query) = (self.graphql()?, query_text(query, prcheck::BUILT_IN_QUERY)?);
        let comparing = prcheck::changes(&graphql, previous, &query, saas_file);
        let changes = stop.run_until_cancelled(comparing).await.ok_or(PassError::Stopped)?.map_err(Box::new)?;
        if !changes.saas_file_found {
            tracing::warn!(saas_file, "neither bundle has a SaaS file of the name in GIT_PARTITION_SAAS_NAME");
        }
        if changes.any() {
            let prcheck::Changes { definitions, deployment, .. } = changes;
            tracing::info!(previous, definitions, deployment, "the bundle has changed what concerns this program");
        } else {
            tracing::info!(
                previous,
                "no target and no deployment has changed since the previous bundle: nothing to do"
            );
        }
        Ok(changes.any())
    }

    /// How it was set up.
    pub(crate) fn settings(&self) -> &config::Run {
        &self.settings
    }

    /// Where artifacts go.
    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The heads of the targets' source branches.
    pub(crate) async fn heads(&self, git: &GitServer, targets: Vec<Target>) -> Vec<(Target, Head)> {
        probe::heads(git, targets, self.concurrency.probe, self.status.pulse()).await
    }

    /// Takes WORKDIR.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub fn open_workshop(&self) -> anyhow::Result<Workshop> {
        let workdir = Workdir::open(&self.settings.workdir)?;
        let mirrors = MirrorStore::open(workdir.mirrors(), self.settings.mirror_cache_bytes)?;
        Ok(Workshop {
            workdir: Arc::new(workdir),
            mirrors: Arc::new(mirrors),
            gate: Arc::default(),
            held: Arc::default(),
            abandoned_checked: None,
        })
    }

    /// Looks at everything and decides; changes nothing.
    ///
    /// # Errors
    /// [`PassError`].
    pub async fn observe(&mut self, stop: &CancellationToken) -> Result<Observation, PassError> {
        let observation = stop.run_until_cancelled(self.observe_all()).await.ok_or(PassError::Stopped)??;
        self.log_foreign(&observation.foreign);
        Ok(observation)
    }

    async fn observe_all(&self) -> Result<Observation, PassError> {
        let (graphql, query) = (self.graphql()?, self.query()?);
        let git = self.git()?;
        let share = self.settings.share;
        let desired = async {
            let mut targets = graphql.targets(&query).await?;
            let no_targets = targets.destinations().next().is_none();
            let mut republish = match &self.republish {
                Some(left) => left.clone(),
                None => self.settings.republish.among(targets.destinations())?,
            };
            republish.retain(|destination| share.owns(destination));
            share.keep_own(&mut targets.accepted, |target| &target.destination);
            share.keep_own(&mut targets.refused, |refused| &refused.target.destination);
            let heads = self.heads(&git, targets.accepted).await;
            Ok::<_, PassError>((Desired { targets: heads, refused: targets.refused }, republish, no_targets))
        };
        let listing = async { self.bucket.list().await.map_err(PassError::from) };
        let ((desired, republish, no_targets), mut listing) = tokio::try_join!(desired, listing)?;
        let whole = Whole { format: self.settings.archive_format.resolve(&listing.held)?, no_targets };
        share.keep_own(&mut listing.held, |object| &object.name.destination);
        if !share.is_first() {
            // They are nobody's share; one replica's word about them is enough.
            listing.foreign.clear();
        }
        let Listing { held, foreign } = listing;
        let policy = Policy {
            format: self.settings.archive_format,
            max_retire: self.settings.max_retire,
            on_rewrite: self.settings.on_rewrite,
            republish: &republish,
        };
        let plan = plan_share(&desired, &held, policy, whole);
        let refused = desired.refused.into_iter().map(|refused| refused.target);
        let accepted: Vec<_> = desired.targets.into_iter().map(|(target, _)| target).collect();
        let wanted = accepted.iter().cloned().chain(refused).collect();
        Ok(Observation { plan, foreign, git, wanted, accepted, held, republish })
    }

    /// One full pass. Meanwhile passes for pushes go on where `triggers` has any.
    ///
    /// # Errors
    /// [`PassError`] where nothing was done; what went wrong for single targets is in the report.
    pub async fn pass(
        &mut self,
        workshop: &mut Workshop,
        trigger: Trigger,
        triggers: &Triggers,
        stop: &CancellationToken,
    ) -> Result<Report, PassError> {
        self.status.pass_begins(trigger);
        let passing = async {
            let begun = Instant::now();
            workshop.workdir.restore()?;
            stop.run_until_cancelled(self.abort_recorded(workshop)).await;
            let Observation { mut plan, foreign, git, wanted, accepted, held, republish } = self.observe(stop).await?;
            self.known = Some(Known { targets: accepted, format: plan.format });
            let seen = Seen { plan: &plan, targets: &wanted, held: &held, foreign: Some(foreign.len()) };
            self.status.seen(trigger, &seen);
            log_blocked(&plan);
            if let Some(guard) = &plan.guard {
                tracing::error!(would_retire = guard.would_retire, held = guard.held, "retire guard: {guard}");
            }
            stop.run_until_cancelled(self.abort_abandoned(workshop, &wanted)).await;
            workshop.mirrors.keep_only(wanted.iter().map(|target| &target.source));
            workshop.held.keep_only(wanted.iter().map(|target| &target.destination));
            let publisher = self.publisher(workshop, git);
            let actions = std::mem::take(&mut plan.actions);
            let busy = actions.iter().map(|action| action.destination().clone()).collect();
            let applying = apply(actions, &publisher, self.concurrency.sync, (&self.status, trigger), stop);
            let outcomes = self.beside_pushes(applying, workshop, busy, triggers, stop).await;
            self.republish = Some(still_to_republish(republish, &outcomes));
            let report = Report::new(&plan, &outcomes, foreign.len(), begun.elapsed());
            log_report(&report);
            if stop.is_cancelled() { Err(PassError::Stopped) } else { Ok(report) }
        };
        let result: Result<Report, PassError> = passing.await;
        self.status.disk(Some(workshop.mirrors.disk()));
        self.status.pass_ends(trigger, result.as_ref());
        result
    }

    fn publisher(&self, workshop: &Workshop, git: GitServer) -> Publisher {
        Publisher {
            git,
            bucket: self.bucket.clone(),
            mirrors: Arc::clone(&workshop.mirrors),
            workdir: Arc::clone(&workshop.workdir),
            recipients: self.settings.recipients.clone().into(),
            max_repository_bytes: self.settings.max_repository_bytes,
            time_limit: self.settings.target_timeout,
            gate: Arc::clone(&workshop.gate),
            held: Arc::clone(&workshop.held),
        }
    }

    /// Waits for a full pass's actions, and for pushes meanwhile: a first pass can take hours. Pushes for destinations
    /// that the full pass itself acts on wait until it is done.
    async fn beside_pushes(
        &self,
        applying: impl Future<Output = Vec<Outcome>>,
        workshop: &Workshop,
        busy: BTreeSet<Destination>,
        triggers: &Triggers,
        stop: &CancellationToken,
    ) -> Vec<Outcome> {
        let (applied, mut deferred) = (CancellationToken::new(), BTreeSet::new());
        let pushes = async {
            while let Some(pushed) = applied.run_until_cancelled(triggers.pushes()).await {
                let (later, now) = pushed.into_iter().partition(|source| self.is_busy(source, &busy));
                deferred.extend::<BTreeSet<_>>(later);
                self.push_pass(workshop, &now, NonZeroUsize::MIN, stop).await;
            }
        };
        let applying = async {
            let outcomes = applying.await;
            applied.cancel();
            outcomes
        };
        let (outcomes, ()) = tokio::join!(applying, pushes);
        triggers.pushed(deferred);
        outcomes
    }

    fn is_busy(&self, source: &Source, busy: &BTreeSet<Destination>) -> bool {
        let mut targets = self.known.iter().flat_map(|known| &known.targets);
        targets.any(|target| target.source == *source && busy.contains(&target.destination))
    }

    /// A pass for the targets of some source branches. It publishes, and deletes what that supersedes; what becomes of
    /// any other object is a full pass's business.
    async fn push_pass(
        &self,
        workshop: &Workshop,
        pushed: &BTreeSet<Source>,
        concurrency: NonZeroUsize,
        stop: &CancellationToken,
    ) {
        let Some(Known { targets, format }) = &self.known else { return };
        let targets: Vec<_> = targets.iter().filter(|target| pushed.contains(&target.source)).cloned().collect();
        if targets.is_empty() {
            return;
        }
        let publishing = async {
            let begun = Instant::now();
            let looking = self.look_at(&targets, *format);
            let (git, mut plan, held) = stop.run_until_cancelled(looking).await.ok_or(PassError::Stopped)??;
            self.status.seen(Trigger::Push, &Seen { plan: &plan, targets: &targets, held: &held, foreign: None });
            log_blocked(&plan);
            let actions = std::mem::take(&mut plan.actions);
            let publisher = self.publisher(workshop, git);
            let outcomes = apply(actions, &publisher, concurrency, (&self.status, Trigger::Push), stop).await;
            let report = Report::new(&plan, &outcomes, 0, begun.elapsed());
            log_report(&report);
            if stop.is_cancelled() { Err(PassError::Stopped) } else { Ok(report) }
        };
        self.status.pass_begins(Trigger::Push);
        let result: Result<Report, PassError> = publishing.await;
        self.status.disk(Some(workshop.mirrors.disk()));
        self.status.pass_ends(Trigger::Push, result.as_ref());
        if let Err(error) = result {
            log_failed_pass(&error);
        }
    }

    /// Plans for some targets. Of the bucket only their objects are looked at, so that no other can be deleted.
    async fn look_at(
        &self,
        targets: &[Target],
        format: ArchiveFormat,
    ) -> Result<(GitServer, Plan, Vec<HeldObject>), PassError> {
        let git = self.git()?;
        let heads = self.heads(&git, targets.to_vec());
        let (listing, targets) = tokio::join!(self.bucket.list(), heads);
        let ours: HashSet<_> = targets.iter().map(|(target, _)| &target.destination).collect();
        let mut held = listing?.held;
        held.retain(|object| ours.contains(&object.name.destination));
        let desired = Desired { targets, refused: vec![] };
        let policy = Policy {
            format: FormatChoice::Only(format),
            max_retire: MaxRetire::Count(0),
            on_rewrite: self.settings.on_rewrite,
            republish: &BTreeSet::new(),
        };
        let plan = plan(&desired, &held, policy)?;
        Ok((git, plan, held))
    }

    /// Full passes, the configured time apart or when one is asked for, and passes for pushes between them, until `stop`.
    pub async fn run(&mut self, workshop: &mut Workshop, triggers: &Triggers, stop: &CancellationToken) {
        let mut trigger = Trigger::Schedule;
        loop {
            match self.pass(workshop, trigger, triggers, stop).await {
                Ok(_) => {}
                Err(PassError::Stopped) => return,
                Err(error) => log_failed_pass(&error),
            }
            trigger = self.wait(workshop, triggers, stop).await;
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Waits for the next full pass. Pushes do not put it off.
    async fn wait(&self, workshop: &Workshop, triggers: &Triggers, stop: &CancellationToken) -> Trigger {
        self.status.sleeps(self.settings.sleep);
        let mut due = std::pin::pin!(tokio::time::sleep(self.settings.sleep));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Trigger::Schedule,
                () = &mut due => return Trigger::Schedule,
                () = triggers.full_pass_wanted() => return Trigger::Signal,
                pushed = triggers.pushes() => self.push_pass(workshop, &pushed, self.concurrency.sync, stop).await,
            }
        }
    }

    /// Waits for the next pass; `None` where the program is asked to stop instead.
    pub async fn sleep(&self, stop: &CancellationToken) -> Option<()> {
        self.status.sleeps(self.settings.sleep);
        stop.run_until_cancelled(tokio::time::sleep(self.settings.sleep)).await
    }

    /// Aborts uploads that a killed run, or a pass whose abort failed, left behind. At the start of a pass none is under
    /// way.
    async fn abort_recorded(&self, workshop: &Workshop) {
        match workshop.workdir.recorded_uploads() {
            Ok(records) if records.is_empty() => {}
            Ok(records) => {
                let recorded = records.len();
                let aborted = self.bucket.abort_recorded(records).await;
                tracing::info!(recorded, aborted, "uploads were left unfinished, and are aborted");
            }
            Err(error) => tracing::warn!(%error, "cannot read the records of unfinished uploads"),
        }
    }

    /// Aborts unfinished uploads that nothing recorded: at the first pass, and then as often as one can have become too
    /// old to be anybody's.
    async fn abort_abandoned(&self, workshop: &mut Workshop, wanted: &[Target]) {
        if workshop.abandoned_checked.is_some_and(|checked| checked.elapsed() < self.settings.target_timeout) {
            return;
        }
        let first = workshop.abandoned_checked.replace(Instant::now()).is_none();
        let ours = wanted.iter().map(|target| &target.destination).collect();
        let Some(before) = SystemTime::now().checked_sub(self.settings.target_timeout) else { return };
        match self.bucket.abort_abandoned(&ours, before).await {
            Ok(0) => {}
            Ok(aborted) => tracing::info!(aborted, "aborted uploads that somebody left unfinished"),
            Err(error) if first => tracing::warn!(error = error_chain(&error), "cannot look for unfinished uploads"),
            Err(error) => tracing::debug!(error = error_chain(&error), "cannot look for unfinished uploads"),
        }
    }

    pub(crate) fn graphql(&self) -> Result<GraphqlServer, PassError> {
        let config::Graphql { server, login, .. } = &self.settings.graphql;
        let login = login.as_ref().map(|(user, password)| self.login(user, password)).transpose()?;
        Ok(GraphqlServer { client: self.http.clone(), url: server.clone(), login })
    }

    pub(crate) fn git(&self) -> Result<GitServer, PassError> {
        let config::Gitlab { base_url, username, token } = &self.settings.gitlab;
        Ok(GitServer::new(self.http.clone(), base_url.clone(), self.login(username, token)?))
    }

    /// Secrets in files are read at every pass, so that a rotated one works without a restart.
    fn login(&self, user: &str, secret: &Secret) -> Result<Login, PassError> {
        let secret: SecretString = secret.read().map_err(|error| PassError::Secret(error.into()))?;
        Login::new(user, &secret).map_err(PassError::Secret)
    }

    pub(crate) fn query(&self) -> Result<String, PassError> {
        query_text(&self.settings.graphql.query, BUILT_IN_QUERY)
    }

    fn log_foreign(&mut self, foreign: &[String]) {
        let new: Vec<_> = foreign.iter().filter(|key| !self.foreign_seen.contains(*key)).collect();
        if new.is_empty() {
            return;
        }
        let shown: Vec<_> = new.iter().take(FOREIGN_SHOWN).map(|key| printable(key)).collect();
        tracing::warn!(
            count = new.len(),
            examples = shown.join(" "),
            "the bucket holds objects with foreign names, which are left alone"
        );
        self.foreign_seen = foreign.iter().cloned().collect();
    }
}

fn query_text(query: &QuerySource, built_in: &str) -> Result<String, PassError> {
    match query {
        QuerySource::BuiltIn => Ok(built_in.to_owned()),
        QuerySource::File(path) => std::fs::read_to_string(path)
            .map_err(|source| PassError::Query { path: path.display().to_string(), source }),
    }
}

/// What was not uploaded: the next pass tries it again.
fn still_to_republish(mut asked_for: BTreeSet<Destination>, outcomes: &[Outcome]) -> BTreeSet<Destination> {
    for Outcome { action, result } in outcomes {
        if let Ok(Done::Published(_)) = result {
            asked_for.remove(action.destination());
        }
    }
    asked_for
}

fn log_blocked(plan: &Plan) {
    for blocked in &plan.blocked {
        let Destination { group, project, branch } = &blocked.destination;
        tracing::error!(group, project, branch, reason = %printable(&blocked.blocker.to_string()), "blocked: {}", printable(&blocked.destination.to_string()));
    }
}

/// One line for a pass that ended without a plan.
pub fn log_failed_pass(error: &PassError) {
    if matches!(error, PassError::Stopped) {
        tracing::warn!("stopped before the pass was complete");
        return;
    }
    tracing::error!(error = error_chain(error), "the pass failed and nothing was changed");
}

fn log_report(report: &Report) {
    let Report { published, retired, swept, unchanged, blocked, failed, held, foreign, uploaded_bytes, .. } = report;
    let (blocked, failed, held, seconds) = (blocked.len(), failed.len(), held.len(), report.seconds);
    let seconds = Duration::from_secs_f64(seconds).as_millis() as f64 / 1e3;
    macro_rules! log {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                published,
                retired,
                swept,
                unchanged,
                blocked,
                failed,
                held,
                foreign,
                uploaded_bytes,
                seconds,
                $message
            )
        };
    }
    if report.is_success() {
        log!(info, "pass done");
    } else {
        log!(warn, "pass done, not everything is in sync");
    }
}
