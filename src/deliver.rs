//! The far side: one pass — observe, plan, deliver, report — and the loop around it.
//!
//! Invariant: nothing is deleted on the far side, and nothing is pushed that its object's name does not promise.

mod busy;
mod clients;
mod courier;
mod error;
mod interval;
mod job;
mod known;
mod log;
mod rests;
mod shown;
mod superseded;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::busy::{Busy, project};
pub use self::clients::Clients;
pub use self::courier::Courier;
use self::error::DeliverError;
pub use self::error::PassError;
pub(crate) use self::error::object_cause;
use self::interval::Past;
pub(crate) use self::interval::of_a_bucket_with as pause_of_a_bucket_with;
use self::known::KnownHeads;
use self::log::Said;
pub use self::log::failed_pass as log_failed_pass;
use self::rests::Rests;
use self::superseded::Superseded;
use crate::artifact::open::Keys;
use crate::artifact::signature::TrustedKeys;
use crate::bucket::Listing;
use crate::config;
use crate::descriptors::{Concurrency, SERVER_DESCRIPTORS};
use crate::git::heads::FarSide;
use crate::git::push::PushServer;
use crate::model::program::Program;
use crate::model::stage::Stage;
use crate::net::tls::TrustRoots;
use crate::passes::log::{Failures, ForeignLog};
use crate::passes::{self, Pauses, Triggers, Workers, work_off};
use crate::plan::Cause;
use crate::plan::delivery::report::{DeliveryOutcome, DeliveryReport, Done};
use crate::plan::delivery::{Deliver, DeliveryPlan, DeliveryPolicy, Refusals, candidates, plan_deliveries};
use crate::plan::outcome::Failure;
use crate::status::{PassId, Signatures, Status, Trigger, Watched};
use crate::threads;
use crate::workdir::kept_refusals;

/// Most passes that one run makes in addition, because objects were just being replaced.
const MOST_MORE_PASSES: usize = 2;

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
    rests: Rests,
    refusals: Mutex<Refusals>,
    /// The recipients of the identities that the last pass read, and the keys that it trusted.
    last_keys: Mutex<Option<(Vec<String>, Option<TrustedKeys>)>>,
    superseded: Superseded,
    foreign_log: ForeignLog,
    said: Said,
    past: Mutex<Past>,
    pauses: Pauses,
}

/// Whose signatures count.
fn wanted(trusted: Option<&TrustedKeys>) -> Signatures {
    Signatures::Wanted(trusted.map(|keys| keys.ids().collect()))
}

/// The concurrency that fits the limits on threads and on open files, with what the port needs set aside.
pub fn concurrency(settings: &config::Consume) -> Concurrency {
    let wanted = Concurrency {
        sync: threads::targets(settings.common.sync_concurrency),
        probe: settings.common.probe_concurrency,
    };
    Concurrency::within_this_process(wanted, if settings.common.run_once { 0 } else { SERVER_DESCRIPTORS })
}

impl Deliverer {
    /// Sets everything up without sending a request.
    ///
    /// # Errors
    /// If certificates, proxies or the AWS configuration are unusable.
    pub async fn new(settings: config::Consume, roots: &TrustRoots, triggers: Arc<Triggers>) -> anyhow::Result<Self> {
        let concurrency = concurrency(&settings);
        let mut refusals = kept_refusals(&settings.common.workdir);
        refusals.new_keys();
        let status = Status::new(
            Program::Consumer,
            settings.common.instance.label(),
            settings.common.stall_timeout,
            settings.common.dry_run,
        );
        if let Ok(trusted) = settings.keys.trusted_keys() {
            status.signatures_are(wanted(trusted.as_ref()));
        }
        Ok(Self {
            clients: Clients::new(&settings, roots, concurrency.probe).await?,
            concurrency,
            status: Arc::new(status),
            busy: Busy::new(Arc::clone(&triggers)),
            triggers,
            slots: Semaphore::new(concurrency.sync.get()),
            far: KnownHeads::default(),
            rests: Rests::default(),
            refusals: Mutex::new(refusals),
            last_keys: Mutex::default(),
            superseded: Superseded::default(),
            foreign_log: ForeignLog::default(),
            said: Said::default(),
            past: Mutex::default(),
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
        self.status.watches(Watched::Folder(self.settings.common.workdir.clone()));
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
        // Each but the newest has a delivery under way, so that this never makes one wait.
        let most = self.concurrency.sync.get() + 1;
        passes::full_passes(most, pass, async || self.wait(stop).await).await;
    }

    /// Waits until the next pass is due, and returns its trigger; `None` if the program is asked to stop.
    pub async fn wait(&self, stop: &CancellationToken) -> Option<Trigger> {
        let (pause, refused) = self.pauses.next(self.interval());
        self.status.sleeps(pause);
        let early = async {
            if refused {
                // The bucket may change as it likes: each login that is refused makes things worse.
                self.clients.gitlab.token_changes().await;
                Trigger::Schedule
            } else {
                tokio::select! {
                    () = self.triggers.bucket_change() => Trigger::Event,
                    // As after an event, what has failed rests.
                    () = self.superseded.next_pass() => Trigger::Event,
                }
            }
        };
        passes::wait(pause, &self.triggers, early, stop).await
    }

    fn interval(&self) -> Duration {
        interval::pause(self.settings.sleep, self.settings.common.dry_run, *self.past.lock())
    }

    /// One full pass, to the end of its last delivery; and more, if objects were just being replaced.
    ///
    /// # Errors
    /// [`PassError`] if the pass could not observe, or was stopped; failures of single destinations are in the report.
    pub async fn pass(
        &self,
        courier: &Courier,
        trigger: Trigger,
        stop: &CancellationToken,
    ) -> Result<DeliveryReport, PassError> {
        let pass = async || self.pass_until_begun(courier, trigger, &CancellationToken::new(), stop).await;
        let mut report = pass().await?;
        for more in 1..=MOST_MORE_PASSES {
            if report.superseded == 0 {
                break;
            }
            stop.run_until_cancelled(self.superseded.next_pass()).await;
            if more == MOST_MORE_PASSES {
                self.superseded.ends();
            }
            report = report.then(pass().await?);
        }
        Ok(report)
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
        if report.is_err() && !is_stopped {
            self.superseded.pass_failed();
        }
        let ended = report.as_ref().map(|(report, _)| report);
        self.pass_ends(pass, if is_stopped { Err(&PassError::Stopped) } else { ended });
        if let Err(error) = courier.spool.keep_since(&self.status.out_of_sync()) {
            tracing::debug!(%error, "cannot save since when destinations are out of sync");
        }
        let (report, has_tried) = report?;
        log::report(&report, &self.said, !has_tried && trigger != Trigger::Signal);
        if is_stopped { Err(PassError::Stopped) } else { Ok(report) }
    }

    /// Its report, and whether it tried a delivery.
    async fn full_pass(
        &self,
        courier: &Courier,
        pass: PassId,
        trigger: Trigger,
        all_begun: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<(DeliveryReport, bool), PassError> {
        let begun = Instant::now();
        self.superseded.pass_begins();
        courier.spool.restore()?;
        let (git, keys) = (self.clients.git()?, Arc::new(self.keys()?));
        if keys.trusted.is_some() {
            // The record's beginning counts, also if this process takes nothing.
            courier.keep_new_taken();
        }
        let (listing, mut plan) = self.observe_and_plan(FarSide::ForPush(&git), pass, trigger, stop).await?;
        self.refusals.lock().keep_only(&listing.held);
        self.superseded.keep_only(&listing.held);
        self.rests.keep_only(&listing.held);
        log::blocked(&plan, &self.said, trigger == Trigger::Signal);
        log::unsettled(&plan, &self.said);
        let (deliveries, resting) = self.without_resting(std::mem::take(&mut plan.deliveries), pass, trigger);
        let mut report = DeliveryReport::new(&plan, &[], listing.foreign.count, begun.elapsed());
        drop((listing, plan));
        let workers = Workers { concurrency: self.concurrency.sync, slots: &self.slots, all_begun };
        let (outcomes, failures, not_tried) = (RefCell::new(vec![]), Failures::default(), Cell::new(0));
        work_off(
            deliveries,
            Deliver::download_bytes,
            |deliver| project(deliver.destination()),
            workers,
            async |deliver: Deliver| {
                let Some(_claim) = self.busy.claim(&deliver) else {
                    self.status.left_out(pass);
                    return;
                };
                let outcome = match self.clients.gitlab.login_is_refused() && !stop.is_cancelled() {
                    true => {
                        not_tried.set(not_tried.get() + 1);
                        self.not_tried(pass, deliver)
                    }
                    false => {
                        let outcome = self.deliver(courier, &git, &keys, pass, deliver, stop).await;
                        log::outcome(&outcome, &failures);
                        outcome
                    }
                };
                outcomes.borrow_mut().push(outcome);
            },
        )
        .await;
        drop(failures);
        log::not_tried(not_tried.get());
        let mut outcomes = outcomes.into_inner();
        let has_tried = !outcomes.is_empty();
        outcomes.extend(resting);
        outcomes.sort_by(|a, b| a.deliver.destination().cmp(b.deliver.destination()));
        report.add(&outcomes, begun.elapsed());
        self.keep_refusals(courier);
        // What was about to be pushed counts, too, if that failed.
        if has_tried && keys.trusted.is_some() {
            courier.keep_taken();
        }
        Ok((report, has_tried))
    }

    /// The deliveries to try now, and how those failed that are not tried again yet. If passes come at an interval that is set,
    /// each pass tries everything, and so does one that somebody asks for.
    fn without_resting(
        &self,
        deliveries: Vec<Deliver>,
        pass: PassId,
        trigger: Trigger,
    ) -> (Vec<Deliver>, Vec<DeliveryOutcome>) {
        let rests = match trigger {
            Trigger::Signal => false,
            Trigger::Schedule | Trigger::Push => self.settings.sleep.is_none(),
            Trigger::Event => true,
        };
        let (now, mut due, mut resting) = (Instant::now(), vec![], vec![]);
        for deliver in deliveries {
            match self.rests.of(&deliver, now).filter(|_| rests) {
                None => due.push(deliver),
                Some(failure) => {
                    self.status.left_out(pass);
                    resting.push(DeliveryOutcome { deliver, result: Err(failure) });
                }
            }
        }
        (due, resting)
    }

    /// One delivery, and what it teaches.
    async fn deliver(
        &self,
        courier: &Courier,
        git: &PushServer,
        keys: &Arc<Keys>,
        pass: PassId,
        deliver: Deliver,
        stop: &CancellationToken,
    ) -> DeliveryOutcome {
        let progress = self.delivery_begins(&deliver);
        let begun = Instant::now();
        let delivered = match stop.is_cancelled() {
            true => Err(DeliverError::Stopped),
            false => courier.deliver(git, &deliver, keys, &progress, stop).await,
        };
        let login = delivered.as_ref().map_or_else(DeliverError::login, |_| Some(true));
        login.into_iter().for_each(|accepted| self.clients.gitlab.login_was(accepted, begun));
        let result = match delivered {
            Ok(delivered) => Ok(Done::Pushed(delivered)),
            Err(error) if error.is_gone() && self.superseded.lets_off(&deliver.object) => Ok(Done::Superseded),
            Err(error) => Err(error.into_failure(progress.stage())),
        };
        match &result {
            Ok(Done::Superseded) => {}
            Ok(Done::Pushed(_)) => {
                self.far.saw(deliver.destination(), deliver.commit);
                self.refusals.lock().forget(deliver.destination());
                self.rests.forget(deliver.destination());
            }
            Err(failure @ Failure::Failed { cause, error, .. }) => {
                self.far.forget(deliver.destination());
                self.rests.note(&deliver, failure, Instant::now());
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

    /// A delivery that is not begun, because the login was refused for others.
    fn not_tried(&self, pass: PassId, deliver: Deliver) -> DeliveryOutcome {
        let progress = self.delivery_begins(&deliver);
        let result = Err(DeliverError::LoginRefused.into_failure(Stage::Pushing));
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
        self.triggers.full_pass_begins();
        self.busy.observing();
        let requested = trigger == Trigger::Signal;
        let is_for_push = matches!(side, FarSide::ForPush(_));
        if requested {
            // Somebody who asks for a pass may know of a change over there.
            self.far.clear();
        }
        let observing = async {
            let mut listing = self.clients.bucket.list().await?;
            let objects = listing.held.len() + listing.foreign.count;
            let nothing_listed = listing.held.is_empty();
            listing.keep_own(self.settings.common.share);
            self.foreign_log.log(&listing.foreign);
            let candidates = candidates(&listing.held);
            let far = self.far_heads(side, &candidates).await?;
            *self.past.lock() = Past { objects, failed: 0 };
            let policy = DeliveryPolicy {
                on_rewrite: self.settings.common.on_rewrite,
                now: SystemTime::now(),
                ask_again: requested,
            };
            let plan = plan_deliveries(&candidates, &far, &self.refusals.lock(), policy);
            let plan = self.busy.without(plan);
            // A dry run shows what is there.
            let plan = if is_for_push { self.superseded.without(plan, Instant::now()) } else { plan };
            Ok::<_, PassError>((listing, plan, nothing_listed))
        };
        let (listing, plan, nothing_listed) = stop.run_until_cancelled(observing).await.ok_or(PassError::Stopped)??;
        // Now: the wait for the next pass begins before this one ends.
        self.pauses.accepted();
        self.planned(pass, &listing, &plan, nothing_listed);
        Ok((listing, plan))
    }

    /// The keys of now. If they are others than before, what they could not open or did not trust is tried again.
    fn keys(&self) -> Result<Keys, PassError> {
        let keys = self.clients.keys()?;
        let recipients = keys.identities.recipients().map(|recipient| recipient.to_string()).collect();
        let now = (recipients, keys.trusted.clone());
        self.status.signatures_are(wanted(keys.trusted.as_ref()));
        let before = self.last_keys.lock().replace(now.clone());
        if before.is_some_and(|before| before != now) {
            self.refusals.lock().new_keys();
        }
        Ok(keys)
    }

    fn keep_refusals(&self, courier: &Courier) {
        if let Err(error) = courier.spool.keep_refusals(&self.refusals.lock()) {
            tracing::warn!(%error, "cannot keep which pushes were refused: after a restart they are tried again");
        }
    }
}
