//! The far side: one pass — observe, plan, deliver, report — and the loop around it.
//!
//! Invariant: nothing is deleted on the far side, and nothing is pushed that its object's name does not promise.

mod busy;
mod clients;
mod courier;
mod error;
mod job;
mod known;
mod log;
mod shown;

use std::cell::RefCell;
use std::future::pending;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::busy::Busy;
pub use self::clients::Clients;
pub use self::courier::Courier;
pub use self::error::PassError;
use self::known::KnownHeads;
pub use self::log::failed_pass as log_failed_pass;
use crate::artifact::encrypt::Identities;
use crate::bucket::Listing;
use crate::config;
use crate::descriptors::{Concurrency, SERVER_DESCRIPTORS};
use crate::git::heads::FarSide;
use crate::git::push::PushServer;
use crate::model::program::Program;
use crate::net::tls::TrustRoots;
use crate::passes::log::{Failures, ForeignLog};
use crate::passes::{self, Pauses, Triggers, Workers, work_off};
use crate::plan::Cause;
use crate::plan::delivery::report::{DeliveryOutcome, DeliveryReport};
use crate::plan::delivery::{Deliver, DeliveryPlan, DeliveryPolicy, Refusals, candidates, plan_deliveries};
use crate::plan::outcome::Failure;
use crate::status::{PassId, Status, Trigger, Watched};
use crate::workdir::kept_refusals;

/// What passes share and remember.
pub struct Deliverer {
    settings: config::Consume,
    clients: Clients,
    concurrency: Concurrency,
    status: Arc<Status>,
    triggers: Arc<Triggers>,
    busy: Arc<Busy>,
    /// One permit for each delivery, for all passes together.
    slots: Semaphore,
    far: KnownHeads,
    refusals: Mutex<Refusals>,
    /// The recipients of the identities that the last pass read.
    recipients: Mutex<Option<Vec<String>>>,
    foreign_log: ForeignLog,
    pauses: Pauses,
}

/// The concurrency that fits the limit on open files, with what the port needs set aside.
pub fn concurrency(settings: &config::Consume) -> Concurrency {
    let wanted = Concurrency { sync: settings.sync_concurrency, probe: settings.probe_concurrency };
    Concurrency::within_this_process(wanted, if settings.run_once { 0 } else { SERVER_DESCRIPTORS })
}

impl Deliverer {
    /// Sets everything up without sending a request.
    ///
    /// # Errors
    /// If certificates, proxies or the AWS configuration are unusable.
    pub async fn new(settings: config::Consume, roots: &TrustRoots, triggers: Arc<Triggers>) -> anyhow::Result<Self> {
        let concurrency = concurrency(&settings);
        let mut refusals = kept_refusals(&settings.workdir);
        refusals.new_identities();
        Ok(Self {
            clients: Clients::new(&settings, roots, concurrency.probe).await?,
            concurrency,
            status: Arc::new(Status::new(
                Program::Consumer,
                &settings.instance,
                settings.stall_timeout,
                settings.dry_run,
            )),
            triggers,
            busy: Arc::default(),
            slots: Semaphore::new(concurrency.sync.get()),
            far: KnownHeads::default(),
            refusals: Mutex::new(refusals),
            recipients: Mutex::default(),
            foreign_log: ForeignLog::default(),
            pauses: Pauses::default(),
            settings,
        })
    }

    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Opens and locks WORKDIR. A dry run does not need it.
    ///
    /// # Errors
    /// If WORKDIR is unusable.
    pub fn courier(&self) -> anyhow::Result<Courier> {
        let courier = Courier::open(&self.settings, self.clients.bucket.clone())?;
        self.status.remembers(courier.spool.kept_since());
        self.status.watches(Watched::Folder(self.settings.workdir.clone()));
        Ok(courier)
    }

    /// What a pass would do, and the number of foreign objects. Nothing changes, and no object is read.
    ///
    /// # Errors
    /// [`PassError`].
    pub async fn preview(
        &self,
        trigger: Trigger,
        stop: &CancellationToken,
    ) -> Result<(DeliveryPlan, usize), PassError> {
        let (pass, begun) = (self.status.pass_begins(trigger), Instant::now());
        let previewed = async {
            let git = self.clients.reader()?;
            let (listing, plan) = self.observe_and_plan(FarSide::ReadOnly(&git), pass, trigger, stop).await?;
            Ok((plan, listing.foreign.count))
        };
        let previewed: Result<_, PassError> = previewed.await;
        let report =
            previewed.as_ref().map(|(plan, foreign)| DeliveryReport::new(plan, &[], *foreign, begun.elapsed()));
        self.pass_ends(pass, report.as_ref().map_err(|error| *error));
        previewed
    }

    /// Runs full passes, until `stop`.
    pub async fn run(&self, courier: &Courier, stop: &CancellationToken) {
        let pass = async |trigger, all_begun: &CancellationToken| match self
            .pass_until_begun(courier, trigger, all_begun, stop)
            .await
        {
            Ok(_) | Err(PassError::Stopped) => {}
            Err(error) => log_failed_pass(&error),
        };
        passes::full_passes(pass, async || self.wait(stop).await).await;
    }

    /// Waits until the next pass is due, and returns its trigger; `None` if the program is asked to stop.
    pub async fn wait(&self, stop: &CancellationToken) -> Option<Trigger> {
        let (pause, refused) = self.pauses.next(self.settings.sleep);
        self.status.sleeps(pause);
        let another_token = async { if refused { self.clients.gitlab.token_changes().await } else { pending().await } };
        passes::wait(pause, &self.triggers, another_token, stop).await
    }

    /// One full pass, to the end of its last delivery.
    ///
    /// # Errors
    /// [`PassError`] if the pass could not observe, or was stopped; failures of single destinations are in the report.
    pub async fn pass(
        &self,
        courier: &Courier,
        trigger: Trigger,
        stop: &CancellationToken,
    ) -> Result<DeliveryReport, PassError> {
        self.pass_until_begun(courier, trigger, &CancellationToken::new(), stop).await
    }

    /// The same. It cancels `all_begun` when its last delivery has begun; from then on, another pass may begin.
    async fn pass_until_begun(
        &self,
        courier: &Courier,
        trigger: Trigger,
        all_begun: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<DeliveryReport, PassError> {
        let pass = self.status.pass_begins(trigger);
        let report = self.full_pass(courier, pass, trigger, all_begun, stop).await;
        // The status learns of it first, so that what the log says can be seen there.
        let is_stopped = stop.is_cancelled();
        self.pass_ends(pass, if is_stopped { Err(&PassError::Stopped) } else { report.as_ref() });
        if let Err(error) = courier.spool.keep_since(&self.status.out_of_sync()) {
            tracing::debug!(%error, "cannot save since when destinations are out of sync");
        }
        let report = report?;
        log::report(&report);
        if is_stopped { Err(PassError::Stopped) } else { Ok(report) }
    }

    async fn full_pass(
        &self,
        courier: &Courier,
        pass: PassId,
        trigger: Trigger,
        all_begun: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<DeliveryReport, PassError> {
        let begun = Instant::now();
        courier.spool.restore()?;
        let (git, identities) = (self.clients.git()?, Arc::new(self.identities()?));
        let (listing, mut plan) = self.observe_and_plan(FarSide::ForPush(&git), pass, trigger, stop).await?;
        self.refusals.lock().keep_only(&listing.held);
        log::blocked(&plan);
        let deliveries = std::mem::take(&mut plan.deliveries);
        let mut report = DeliveryReport::new(&plan, &[], listing.foreign.count, begun.elapsed());
        drop((listing, plan));
        let workers = Workers { concurrency: self.concurrency.sync, slots: &self.slots, all_begun };
        let (outcomes, failures) = (RefCell::new(vec![]), Failures::default());
        work_off(
            deliveries,
            |deliver| deliver.object.bytes,
            workers,
            async |deliver: Deliver| {
                let Some(_claim) = self.busy.claim(deliver.destination()) else {
                    self.status.left_out(pass);
                    return;
                };
                let outcome = self.deliver(courier, &git, &identities, pass, deliver, stop).await;
                log::outcome(&outcome, &failures);
                outcomes.borrow_mut().push(outcome);
            },
        )
        .await;
        drop(failures);
        let mut outcomes = outcomes.into_inner();
        outcomes.sort_by(|a, b| a.deliver.destination().cmp(b.deliver.destination()));
        report.add(&outcomes, begun.elapsed());
        self.keep_refusals(courier);
        Ok(report)
    }

    /// One delivery, and what it teaches.
    async fn deliver(
        &self,
        courier: &Courier,
        git: &PushServer,
        identities: &Arc<Identities>,
        pass: PassId,
        deliver: Deliver,
        stop: &CancellationToken,
    ) -> DeliveryOutcome {
        let progress = self.delivery_begins(&deliver);
        let result = match stop.is_cancelled() {
            true => Err(Failure::Stopped),
            false => courier.deliver(git, &deliver, identities, &progress, stop).await,
        };
        match &result {
            Ok(_) => {
                self.far.saw(deliver.destination(), deliver.commit);
                self.refusals.lock().forget(deliver.destination());
            }
            Err(Failure::Failed { cause, error, .. }) => {
                self.far.forget(deliver.destination());
                self.refusals.lock().note(&deliver, *cause, error, SystemTime::now());
            }
            Err(Failure::Held { error, .. }) => {
                self.refusals.lock().note(&deliver, Cause::Diverged, error, SystemTime::now());
            }
            Err(Failure::Stopped) => self.far.forget(deliver.destination()),
        }
        let outcome = DeliveryOutcome { deliver, result };
        self.delivery_ends(pass, &progress, &outcome);
        outcome
    }

    /// Lists the bucket, asks where the far branches are, and plans.
    async fn observe_and_plan(
        &self,
        side: FarSide<'_>,
        pass: PassId,
        trigger: Trigger,
        stop: &CancellationToken,
    ) -> Result<(Listing, DeliveryPlan), PassError> {
        self.busy.observing();
        let requested = trigger == Trigger::Signal;
        if requested {
            // Somebody who asks for a pass may know of a change over there.
            self.far.clear();
        }
        let observing = async {
            let mut listing = self.clients.bucket.list().await?;
            listing.keep_own(self.settings.share);
            self.foreign_log.log(&listing.foreign);
            let candidates = candidates(&listing.held);
            let far = self.far_heads(side, &candidates).await?;
            let policy =
                DeliveryPolicy { on_rewrite: self.settings.on_rewrite, now: SystemTime::now(), ask_again: requested };
            let plan = plan_deliveries(&candidates, &far, &self.refusals.lock(), policy);
            Ok::<_, PassError>((listing, self.busy.without(plan)))
        };
        let (listing, plan) = stop.run_until_cancelled(observing).await.ok_or(PassError::Stopped)??;
        self.planned(pass, &listing, &plan);
        Ok((listing, plan))
    }

    /// The identities of now. If they are others than before, what they could not open is tried again.
    fn identities(&self) -> Result<Identities, PassError> {
        let identities = self.clients.identities()?;
        let recipients: Vec<_> = identities.recipients().map(|recipient| recipient.to_string()).collect();
        let before = self.recipients.lock().replace(recipients.clone());
        if before.is_some_and(|before| before != recipients) {
            self.refusals.lock().new_identities();
        }
        Ok(identities)
    }

    fn keep_refusals(&self, courier: &Courier) {
        if let Err(error) = courier.spool.keep_refusals(&self.refusals.lock()) {
            tracing::warn!(%error, "cannot keep which pushes were refused: after a restart they are tried again");
        }
    }
}
