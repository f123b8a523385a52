//! Metrics: those that dashboards of the Go program already use, under the same names, and this program's own.
//!
//! Invariant: label values come from closed lists in this program, never from a project, a branch or a server's answer.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::time::UNIX_EPOCH;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::model::stage::Stage;
use crate::plan::outcome::{Failure, Outcome};
use crate::plan::{Action, Cause, PublishReason, RetireReason};
use crate::progress::Counters;
use crate::status::{PassOutcome, Snapshot, TargetState, Trigger};

/// The value of the label `integration`, which dashboards select programs by.
const INTEGRATION: &str = "git-partition-sync-producer";
/// Bucket bounds of the stage histogram, in seconds: from a small increment to the default TARGET_TIMEOUT.
const STAGE_SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Labelled<const N: usize> = Family<Labels<N>, Counter>;
/// A gauge that is hidden until it has a value, because no value is not 0.
type Later = Family<Labels<0>, Gauge<f64, AtomicU64>>;

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    go_executions: Counter,
    go_last_status: Later,
    go_last_seconds: Later,
    passes: Labelled<2>,
    published: Labelled<1>,
    retired: Labelled<1>,
    swept: Counter,
    failed: Labelled<2>,
    webhooks: Labelled<1>,
    moved: Counters,
    targets: Family<Labels<1>, Gauge>,
    troubled: Family<Labels<1>, Gauge>,
    oldest: Gauge<f64, AtomicU64>,
    last_success: Later,
    guard: Gauge,
    objects: Later,
    foreign: Later,
    mirrors: Later,
    free: Later,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookResult {
    Accepted,
    Ignored,
    Refused,
}

impl WebhookResult {
    const ALL: [Self; 3] = [Self::Accepted, Self::Ignored, Self::Refused];

    const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
        }
    }
}

impl Metrics {
    /// All metrics at zero, with the labels that dashboards of the Go program select by.
    pub fn new(shard: &str) -> Self {
        let labels = [("shard_id", shard), ("integration", INTEGRATION)]
            .map(|(name, value)| (name.into(), value.to_owned().into()));
        let mut registry = Registry::with_labels(labels.into_iter());
        let mut go = Register { registry: &mut registry, prefix: "qontract_reconcile" };
        let go_executions = go.metric("execution_counter", "Full passes that succeeded");
        let go_last_status = go.metric("last_run_status", "Whether the last full pass succeeded: 0 success, 1 failure");
        let go_last_seconds = go.metric("last_run_seconds", "How long the last full pass took, in seconds");
        let mut ours = Register { registry: &mut registry, prefix: "git_partition_sync" };
        let build: Family<Labels<1>, Gauge> = ours.metric("build_info", "The program's version");
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        let stages = Family::new_with_constructor((|| Histogram::new(STAGE_SECONDS)) as fn() -> Histogram);
        let metrics = Self {
            go_executions,
            go_last_status,
            go_last_seconds,
            passes: ours.metric("passes", "Passes that ended, by trigger and outcome"),
            published: ours.metric("published", "Objects published, by reason"),
            retired: ours.metric("retired", "Destinations retired, by reason"),
            swept: ours.metric("swept", "Destinations from which outdated objects were deleted"),
            failed: ours.metric("failed", "Actions that failed, by stage and reason"),
            webhooks: ours.metric("webhooks", "Webhook requests, by result"),
            moved: Counters {
                fetched: ours.metric("fetched_bytes", "Bytes of packs fetched from the source"),
                uploaded: ours.metric("uploaded_bytes", "Bytes of objects uploaded to the bucket"),
                stages: ours.register("stage_duration_seconds", "How long stages of publishing took", stages),
            },
            targets: ours.metric("targets", "Targets, by state"),
            troubled: ours.metric("troubled_targets", "Targets in trouble, by reason"),
            oldest: ours.metric(
                "oldest_out_of_sync_seconds",
                "The longest time that a target has been out of sync; 0 if all are in sync",
            ),
            last_success: ours
                .metric("last_success_timestamp_seconds", "When the last successful full pass ended, in Unix time"),
            guard: ours.metric("retire_guard_held", "1 if the retire guard holds something back"),
            objects: ours.metric("bucket_objects", "Objects in the bucket whose names decode"),
            foreign: ours.metric("bucket_foreign_objects", "Objects in the bucket with foreign names"),
            mirrors: ours.metric("mirror_bytes", "Disk space that mirrors take"),
            free: ours.metric("workdir_available_bytes", "Free space on WORKDIR's file system"),
            registry,
        };
        metrics.show_zeros();
        metrics
    }

    /// Creates every possible series: a counter that appears with its first event has no rate for that event.
    fn show_zeros(&self) {
        for trigger in Trigger::ALL {
            for outcome in PassOutcome::NAMES {
                drop(self.passes.get_or_create(&[("trigger", trigger.name()), ("outcome", outcome)]));
            }
        }
        for reason in PUBLISH_REASONS {
            drop(self.published.get_or_create(&[("reason", reason)]));
        }
        drop(self.retired.get_or_create(&[("reason", retire_reason(RetireReason::NoTarget))]));
        for result in WebhookResult::ALL {
            drop(self.webhooks.get_or_create(&[("result", result.name())]));
        }
        for stage in Stage::ALL {
            drop(self.moved.stages.get_or_create(&[("stage", stage.name())]));
            for cause in Cause::ALL {
                drop(self.failed.get_or_create(&[("stage", stage.name()), ("reason", cause.name())]));
            }
        }
    }

    /// The counters for bytes and seconds of targets under way.
    pub(super) fn moved(&self) -> Counters {
        self.moved.clone()
    }

    /// Counts an action that ended in this stage.
    pub(super) fn action_ended(&self, Outcome { action, result }: &Outcome, stage: Stage) {
        let failed = |stage: Stage, cause: Cause| {
            self.failed.get_or_create(&[("stage", stage.name()), ("reason", cause.name())]).inc()
        };
        let by_reason = |family: &Labelled<1>, reason| family.get_or_create(&[("reason", reason)]).inc();
        match (action, result) {
            (Action::Publish(publish), Ok(_)) => by_reason(&self.published, publish_reason(&publish.reason)),
            (Action::Retire(retire), Ok(_)) => by_reason(&self.retired, retire_reason(retire.reason)),
            (Action::Sweep(_), Ok(_)) => self.swept.inc(),
            (_, Err(Failure::Stopped)) => return,
            (_, Err(Failure::Held { .. })) => failed(stage, Cause::Held),
            (_, Err(Failure::Failed { cause, stage, .. })) => failed(*stage, *cause),
        };
    }

    pub(super) fn pass_ended(&self, trigger: Trigger, outcome: &PassOutcome) {
        self.passes.get_or_create(&[("trigger", trigger.name()), ("outcome", outcome.name())]).inc();
        if trigger.is_full() && *outcome == PassOutcome::Success {
            self.go_executions.inc();
        }
    }

    pub fn webhook(&self, result: WebhookResult) {
        self.webhooks.get_or_create(&[("result", result.name())]).inc();
    }

    /// All metrics in Prometheus's text format; gauges come from the snapshot.
    pub fn text(&self, now: &Snapshot) -> Result<String, std::fmt::Error> {
        self.set_gauges(now);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        prometheus_text(&text)
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    fn set_gauges(&self, now: &Snapshot) {
        let set = |gauge: &Later, value: f64| {
            gauge.get_or_create(&[]).set(value);
        };
        for state in TargetState::ALL {
            let count = now.targets.iter().filter(|target| target.state == state).count();
            self.targets.get_or_create(&[("state", state.name())]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut troubled: BTreeMap<_, i64> = Cause::ALL.iter().map(|cause| (cause.name(), 0)).collect();
        for trouble in now.targets.iter().filter_map(|target| target.trouble.as_ref()) {
            *troubled.entry(trouble.cause.name()).or_default() += 1;
        }
        for (reason, count) in troubled {
            self.troubled.get_or_create(&[("reason", reason)]).set(count);
        }
        self.oldest.set(now.oldest_out_of_sync().unwrap_or_default().as_secs_f64());
        self.guard.set(i64::from(now.guard.is_some()));
        if let Some(pass) = now.last_full_pass() {
            set(&self.go_last_status, if pass.outcome == PassOutcome::Success { 0.0 } else { 1.0 });
            set(&self.go_last_seconds, pass.took.as_secs_f64());
        }
        if let Some(time) = now.last_success {
            set(&self.last_success, time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        }
        if let Some(bucket) = now.bucket {
            set(&self.objects, bucket.objects as f64);
            set(&self.foreign, bucket.foreign as f64);
        }
        if let Some(disk) = now.disk {
            set(&self.mirrors, disk.mirror_bytes as f64);
            set(&self.free, disk.available_bytes as f64);
        }
    }
}

struct Register<'a> {
    registry: &'a mut Registry,
    prefix: &'static str,
}

impl Register<'_> {
    fn metric<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.register(name, help, M::default())
    }

    fn register<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.registry.register(format!("{}_{name}", self.prefix), help, metric.clone());
        metric
    }
}

const PUBLISH_REASONS: [&str; 6] = ["new", "new_commit", "other_format", "other_name", "not_newest", "requested"];

fn publish_reason(reason: &PublishReason) -> &'static str {
    let [new, new_commit, other_format, other_name, not_newest, requested] = PUBLISH_REASONS;
    match reason {
        PublishReason::New => new,
        PublishReason::NewCommit { .. } => new_commit,
        PublishReason::OtherFormat { .. } => other_format,
        PublishReason::OtherName => other_name,
        PublishReason::NotNewest { .. } => not_newest,
        PublishReason::Requested => requested,
    }
}

fn retire_reason(reason: RetireReason) -> &'static str {
    match reason {
        RetireReason::NoTarget => "no_target",
    }
}

/// Converts OpenMetrics, which the library writes, to the older text format, which every Prometheus tool reads. There,
/// `HELP` and `TYPE` of a counter carry the name of its samples, and there are no other comments.
fn prometheus_text(open_metrics: &str) -> Result<String, std::fmt::Error> {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = ("", "");
    for line in open_metrics.lines() {
        if let Some(named) = line.strip_prefix("# HELP ") {
            help = named.split_once(' ').unwrap_or((named, ""));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|named| named.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if help.0 == name {
                writeln!(text, "# HELP {name}{suffix} {}", help.1)?;
            }
            writeln!(text, "# TYPE {name}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(text, "{line}")?;
        }
    }
    Ok(text)
}
