//! One pass — observe, plan, apply, report — and the loop around it.
//!
//! Invariant: a pass that cannot observe everything changes nothing, and no failure of a pass ends the loop.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::apply::{Done, Outcome, apply};
use crate::bucket::{Bucket, BucketError, Listing};
use crate::config::{self, QuerySource, Secret};
use crate::http::{self, Login};
use crate::key::Destination;
use crate::limits::Concurrency;
use crate::mirror::MirrorStore;
use crate::pack::IndexGate;
use crate::plan::{Desired, Plan, PlanError, Policy, plan};
use crate::probe;
use crate::publish::{HeldRewrites, Publisher};
use crate::report::{Report, error_chain, printable};
use crate::target::{BUILT_IN_QUERY, GraphqlServer, Target, TargetsError};
use crate::tls::TrustRoots;
use crate::wire::GitServer;
use crate::workdir::Workdir;

/// How many foreign keys are named in the log; the others are only counted.
const FOREIGN_SHOWN: usize = 5;

/// Why a pass could not come to a plan. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A secret's file.
    #[error("cannot read a secret")]
    Secret(#[source] anyhow::Error),
    /// The query's file.
    #[error("GRAPHQL_QUERY_FILE: cannot read {path}")]
    Query {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The target list.
    #[error("no target list from GRAPHQL_SERVER")]
    Targets(#[from] TargetsError),
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
    republish: BTreeSet<Destination>,
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
        let concurrency = Concurrency::within_this_process(wanted);
        let http = http::client(roots, concurrency.probe.get())?;
        let bucket = Bucket::connect(&settings.s3, roots).await?;
        Ok(Self { settings, concurrency, http, bucket, foreign_seen: HashSet::new(), republish: None })
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
        let desired = async {
            let targets = graphql.targets(&query).await?;
            let heads = probe::heads(&git, targets.accepted, self.concurrency.probe).await;
            Ok::<_, PassError>(Desired { targets: heads, refused: targets.refused })
        };
        let listing = async { self.bucket.list().await.map_err(PassError::from) };
        let (desired, Listing { held, foreign }) = tokio::try_join!(desired, listing)?;
        let republish = match &self.republish {
            Some(left) => left.clone(),
            None => self.settings.republish.among(&desired)?,
        };
        let policy = Policy {
            format: self.settings.archive_format,
            max_retire: self.settings.max_retire,
            on_rewrite: self.settings.on_rewrite,
            republish: &republish,
        };
        let plan = plan(&desired, &held, policy)?;
        let refused = desired.refused.into_iter().map(|refused| refused.target);
        let wanted = desired.targets.into_iter().map(|(target, _)| target).chain(refused).collect();
        Ok(Observation { plan, foreign, git, wanted, republish })
    }

    /// One pass.
    ///
    /// # Errors
    /// [`PassError`] where nothing was done; what went wrong for single targets is in the report.
    pub async fn pass(&mut self, workshop: &mut Workshop, stop: &CancellationToken) -> Result<Report, PassError> {
        let begun = Instant::now();
        stop.run_until_cancelled(self.abort_recorded(workshop)).await;
        let Observation { mut plan, foreign, git, wanted, republish } = self.observe(stop).await?;
        for blocked in &plan.blocked {
            let Destination { group, project, branch } = &blocked.destination;
            tracing::error!(group, project, branch, reason = %printable(&blocked.blocker.to_string()), "blocked: {}", printable(&blocked.destination.to_string()));
        }
        if let Some(guard) = &plan.guard {
            tracing::error!(would_retire = guard.would_retire, held = guard.held, "retire guard: {guard}");
        }
        stop.run_until_cancelled(self.abort_abandoned(workshop, &wanted)).await;
        workshop.mirrors.keep_only(wanted.iter().map(|target| &target.source));
        workshop.held.keep_only(wanted.iter().map(|target| &target.destination));
        let publisher = Publisher {
            git,
            bucket: self.bucket.clone(),
            mirrors: Arc::clone(&workshop.mirrors),
            workdir: Arc::clone(&workshop.workdir),
            recipients: self.settings.recipients.clone().into(),
            max_repository_bytes: self.settings.max_repository_bytes,
            time_limit: self.settings.target_timeout,
            gate: Arc::clone(&workshop.gate),
            held: Arc::clone(&workshop.held),
        };
        let actions = std::mem::take(&mut plan.actions);
        let outcomes = apply(actions, &publisher, self.concurrency.sync, stop).await;
        self.republish = Some(still_to_republish(republish, &outcomes));
        let report = Report::new(&plan, &outcomes, foreign.len(), begun.elapsed());
        log_report(&report);
        if stop.is_cancelled() { Err(PassError::Stopped) } else { Ok(report) }
    }

    /// Passes, the configured time apart, until `stop`.
    pub async fn run(&mut self, workshop: &mut Workshop, stop: &CancellationToken) {
        loop {
            match self.pass(workshop, stop).await {
                Ok(_) => {}
                Err(PassError::Stopped) => return,
                Err(error) => log_failed_pass(&error),
            }
            if self.sleep(stop).await.is_none() {
                return;
            }
        }
    }

    /// Waits for the next pass; `None` where the program is asked to stop instead.
    pub async fn sleep(&self, stop: &CancellationToken) -> Option<()> {
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

    fn graphql(&self) -> Result<GraphqlServer, PassError> {
        let config::Graphql { server, login, .. } = &self.settings.graphql;
        let login = login.as_ref().map(|(user, password)| self.login(user, password)).transpose()?;
        Ok(GraphqlServer { client: self.http.clone(), url: server.clone(), login })
    }

    fn git(&self) -> Result<GitServer, PassError> {
        let config::Gitlab { base_url, username, token } = &self.settings.gitlab;
        Ok(GitServer::new(self.http.clone(), base_url.clone(), self.login(username, token)?))
    }

    /// Secrets in files are read at every pass, so that a rotated one works without a restart.
    fn login(&self, user: &str, secret: &Secret) -> Result<Login, PassError> {
        let secret: SecretString = secret.read().map_err(|error| PassError::Secret(error.into()))?;
        Login::new(user, &secret).map_err(PassError::Secret)
    }

    fn query(&self) -> Result<String, PassError> {
        match &self.settings.graphql.query {
            QuerySource::BuiltIn => Ok(BUILT_IN_QUERY.to_owned()),
            QuerySource::File(path) => std::fs::read_to_string(path)
                .map_err(|source| PassError::Query { path: path.display().to_string(), source }),
        }
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

/// What was not uploaded: the next pass tries it again.
fn still_to_republish(mut asked_for: BTreeSet<Destination>, outcomes: &[Outcome]) -> BTreeSet<Destination> {
    for Outcome { action, result } in outcomes {
        if let Ok(Done::Published(_)) = result {
            asked_for.remove(action.destination());
        }
    }
    asked_for
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
