//! One pass — observe, plan, apply, report — and the loop around it.
//!
//! Invariant: a pass that cannot observe everything changes nothing, and no failure of a pass ends the loop. The bucket is
//! looked at before anything else: whatever it holds then, another replica put there after looking at targets and branches
//! earlier than this one, so that what is deleted is never newer than what it was judged by.

mod claims;
mod log;
mod push;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::claims::Claim;
use self::claims::Claims;
pub use self::log::failed_pass as log_failed_pass;
use crate::apply::{Crew, Done, Outcome, apply};
use crate::bucket::{Bucket, BucketError, Listing};
use crate::config::{self, QuerySource, Secret};
use crate::http::{self, Login};
use crate::key::{ArchiveFormat, Destination};
use crate::limits::{Concurrency, DESCRIPTORS_PER_TARGET};
use crate::mirror::MirrorStore;
use crate::pack::IndexGate;
use crate::plan::{Action, Desired, Head, HeldObject, Plan, PlanError, Policy, Whole, plan_share};
use crate::prcheck::{self, CheckError};
use crate::probe;
use crate::publish::{HeldRewrites, KnownGaps, Publisher};
use crate::report::{Report, error_chain, printable};
use crate::server;
use crate::status::{PassId, Seen, Status};
use crate::target::{BUILT_IN_QUERY, GraphqlServer, Target, TargetsError};
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
#[derive(Debug)]
struct Known {
    targets: Vec<Target>,
    format: ArchiveFormat,
}

/// What passes share, and what they remember of each other.
pub struct Reconciler {
    settings: config::Run,
    concurrency: Concurrency,
    http: reqwest::Client,
    bucket: Bucket,
    status: Arc<Status>,
    triggers: Arc<Triggers>,
    claims: Arc<Claims>,
    /// Targets at work and projects looked up, of all passes together.
    slots: Semaphore,
    probes: Semaphore,
    known: Mutex<Option<Arc<Known>>>,
    foreign_seen: Mutex<HashSet<String>>,
    /// What is left to do of `REPUBLISH`; nothing is known of it before the first target list.
    republish: Mutex<Option<BTreeSet<Destination>>>,
}

/// What a pass needs to change anything, and a dry run does not have.
pub struct Workshop {
    workdir: Arc<Workdir>,
    mirrors: Arc<MirrorStore>,
    gate: Arc<IndexGate>,
    held: Arc<HeldRewrites>,
    gaps: Arc<KnownGaps>,
    abandoned_checked: Mutex<Option<Instant>>,
}

impl Workshop {
    /// Writes down since when targets are out of sync, so that a restart does not forget it.
    fn keep_since(&self, status: &Status) {
        if let Err(error) = self.workdir.keep_since(&status.out_of_sync()) {
            tracing::debug!(%error, "cannot write down since when targets are out of sync");
        }
    }
}

impl Reconciler {
    /// Sets up the clients. No request is sent to GitLab, GraphQL or S3. `triggers` are what starts passes before their
    /// time.
    ///
    /// # Errors
    /// Where certificates, proxies or the AWS configuration make no sense.
    pub async fn new(settings: config::Run, roots: &TrustRoots, triggers: Arc<Triggers>) -> anyhow::Result<Self> {
        let wanted = Concurrency { sync: settings.sync_concurrency, probe: settings.probe_concurrency };
        let served = if settings.run_once { 0 } else { server::DESCRIPTORS };
        // While a full pass is at as many targets as it may, a push still gets its turn.
        let beside = usize::from(settings.webhook_secret.is_some());
        let for_pushes = beside * (DESCRIPTORS_PER_TARGET + push::MOST_PUSH_PASSES);
        let concurrency = Concurrency::within_this_process(wanted, served + for_pushes);
        let http = http::client(roots, settings.timeouts, concurrency.probe.get())?;
        let bucket = Bucket::connect(&settings.s3, settings.timeouts, roots).await?;
        let status = Arc::new(Status::new(&settings.shard, settings.stall_timeout, settings.dry_run));
        Ok(Self {
            settings,
            concurrency,
            http,
            bucket,
            status,
            claims: Claims::new(Arc::clone(&triggers)),
            triggers,
            slots: Semaphore::new(concurrency.sync.get() + beside),
            probes: Semaphore::new(concurrency.probe.get()),
            known: Mutex::default(),
            foreign_seen: Mutex::default(),
            republish: Mutex::default(),
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
        probe::heads(git, targets, (&self.probes, self.concurrency.probe), self.status.pulse()).await
    }

    /// Takes WORKDIR.
    ///
    /// # Errors
    /// Where it cannot be used.
    pub fn open_workshop(&self) -> anyhow::Result<Workshop> {
        let workdir = Workdir::open(&self.settings.workdir)?;
        let mirrors = Arc::new(MirrorStore::open(workdir.mirrors(), self.settings.mirror_cache_bytes)?);
        self.status.remembers(workdir.kept_since());
        self.status.watches(Arc::clone(&mirrors));
        Ok(Workshop {
            workdir: Arc::new(workdir),
            mirrors,
            gate: Arc::default(),
            held: Arc::default(),
            gaps: Arc::default(),
            abandoned_checked: Mutex::default(),
        })
    }

    /// What a pass would do; nothing is changed. It counts as a pass for whoever shows what goes on.
    ///
    /// # Errors
    /// [`PassError`].
    pub async fn preview(&self, trigger: Trigger, stop: &CancellationToken) -> Result<Observation, PassError> {
        let (pass, begun) = (self.status.pass_begins(trigger), Instant::now());
        let observed = self.observe(stop).await;
        let report = observed.as_ref().map(|observation| {
            self.status.seen(pass, &observation.seen(&BTreeSet::new()));
            Report::new(&observation.plan, &[], observation.foreign.len(), begun.elapsed())
        });
        self.status.pass_ends(pass, report.as_ref().map_err(|error| *error));
        observed
    }

    async fn observe(&self, stop: &CancellationToken) -> Result<Observation, PassError> {
        let observation = stop.run_until_cancelled(self.observe_all()).await.ok_or(PassError::Stopped)??;
        self.log_foreign(&observation.foreign);
        Ok(observation)
    }

    async fn observe_all(&self) -> Result<Observation, PassError> {
        let (graphql, query) = (self.graphql()?, self.query()?);
        let git = self.git()?;
        let share = self.settings.share;
        // First of all, and to its end: see this module's invariant.
        let mut listing = self.bucket.list().await?;
        let mut targets = graphql.targets(&query).await?;
        let no_targets = targets.destinations().next().is_none();
        let left = lock(&self.republish).clone();
        let mut republish = left.map_or_else(|| self.settings.republish.among(targets.destinations()), Ok)?;
        republish.retain(|destination| share.owns(destination));
        share.keep_own(&mut targets.accepted, |target| &target.destination);
        share.keep_own(&mut targets.refused, |refused| &refused.target.destination);
        let heads = self.heads(&git, targets.accepted).await;
        let desired = Desired { targets: heads, refused: targets.refused };
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

    /// One full pass.
    ///
    /// # Errors
    /// [`PassError`] where nothing was done; what went wrong for single targets is in the report.
    pub async fn pass(
        &self,
        workshop: &Workshop,
        trigger: Trigger,
        stop: &CancellationToken,
    ) -> Result<Report, PassError> {
        let pass = self.status.pass_begins(trigger);
        let result = self.full_pass(workshop, pass, stop).await;
        self.status.pass_ends(pass, result.as_ref());
        workshop.keep_since(&self.status);
        result
    }

    async fn full_pass(
        &self,
        workshop: &Workshop,
        pass: PassId,
        stop: &CancellationToken,
    ) -> Result<Report, PassError> {
        let begun = Instant::now();
        workshop.workdir.restore()?;
        stop.run_until_cancelled(self.abort_recorded(workshop)).await;
        self.claims.look();
        let mut observation = self.observe(stop).await?;
        let moved = self.claims.moved();
        observation.plan.blocked.retain(|blocked| !moved.contains(&blocked.destination));
        self.status.seen(pass, &observation.seen(&moved));
        workshop.keep_since(&self.status);
        let Observation { mut plan, foreign, git, wanted, accepted, republish, .. } = observation;
        *lock(&self.known) = Some(Arc::new(Known { targets: accepted, format: plan.format }));
        log::blocked(&plan);
        stop.run_until_cancelled(self.abort_abandoned(workshop, &wanted)).await;
        workshop.mirrors.keep_only(wanted.iter().map(|target| &target.source));
        workshop.held.keep_only(wanted.iter().map(|target| &target.destination));
        workshop.gaps.keep_only(wanted.iter().map(|target| &target.source));
        let publisher = self.publisher(workshop, git);
        let actions = std::mem::take(&mut plan.actions);
        let claim = |action: &Action| self.claims.of_full_pass(action);
        let outcomes = apply(actions, &self.crew(&publisher, pass, &claim), stop).await;
        *lock(&self.republish) = Some(still_to_republish(republish, &outcomes));
        let report = Report::new(&plan, &outcomes, foreign.len(), begun.elapsed());
        log::report(&report);
        if stop.is_cancelled() { Err(PassError::Stopped) } else { Ok(report) }
    }

    fn crew<'a>(
        &'a self,
        publisher: &'a Publisher,
        pass: PassId,
        claim: &'a dyn Fn(&Action) -> Option<Claim>,
    ) -> Crew<'a> {
        Crew { publisher, concurrency: self.concurrency.sync, slots: &self.slots, status: &self.status, pass, claim }
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
            gaps: Arc::clone(&workshop.gaps),
        }
    }

    /// Full passes, the configured time apart or when one is asked for, and passes for pushes beside them, until `stop`.
    pub async fn run(&self, workshop: &Workshop, stop: &CancellationToken) {
        let full_passes = async {
            let mut trigger = Some(Trigger::Schedule);
            while let Some(began_by) = trigger {
                match self.pass(workshop, began_by, stop).await {
                    Ok(_) | Err(PassError::Stopped) => {}
                    Err(error) => log_failed_pass(&error),
                }
                trigger = self.wait(stop).await;
            }
        };
        tokio::join!(full_passes, self.push_passes(workshop, stop));
    }

    /// Waits for the next full pass, and says what begins it; `None` where the program is asked to stop instead.
    pub async fn wait(&self, stop: &CancellationToken) -> Option<Trigger> {
        self.status.sleeps(self.settings.sleep);
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            () = tokio::time::sleep(self.settings.sleep) => Some(Trigger::Schedule),
            () = self.triggers.full_pass_wanted() => Some(Trigger::Signal),
        }
    }

    /// Aborts uploads that a killed run, or a pass whose abort failed, left behind.
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
    async fn abort_abandoned(&self, workshop: &Workshop, wanted: &[Target]) {
        let limit = self.settings.target_timeout;
        let first = {
            let mut checked = lock(&workshop.abandoned_checked);
            if checked.is_some_and(|checked| checked.elapsed() < limit) {
                return;
            }
            checked.replace(Instant::now()).is_none()
        };
        let ours = wanted.iter().map(|target| &target.destination).collect();
        let Some(before) = SystemTime::now().checked_sub(limit) else { return };
        match self.bucket.abort_abandoned(&ours, &workshop.workdir.uploads_under_way(), before).await {
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

    fn log_foreign(&self, foreign: &[String]) {
        let mut seen = lock(&self.foreign_seen);
        let new: Vec<_> = foreign.iter().filter(|key| !seen.contains(*key)).collect();
        if new.is_empty() {
            return;
        }
        let shown: Vec<_> = new.iter().take(FOREIGN_SHOWN).map(|key| printable(key)).collect();
        tracing::warn!(
            count = new.len(),
            examples = shown.join(" "),
            "the bucket holds objects with foreign names, which are left alone"
        );
        *seen = foreign.iter().cloned().collect();
    }
}

impl Observation {
    fn seen<'a>(&'a self, moved: &'a BTreeSet<Destination>) -> Seen<'a> {
        let Self { plan, wanted, held, foreign, .. } = self;
        Seen { plan, targets: wanted, held, foreign: Some(foreign.len()), moved }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
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
