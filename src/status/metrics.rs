//! Metrics: those that dashboards of the Go programs already use, under the same names, and each program's own.
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

use super::{Change, PassOutcome, Snapshot, TargetState, Trigger, What};
use crate::model::program::Program;
use crate::model::stage::Stage;
use crate::plan::{Cause, PublishReason, RetireReason};
use crate::progress::Counters;

/// The label `shard_id` if `INSTANCE_SHARD` is unset: what dashboards of the Go programs select by.
pub const DEFAULT_SHARD: &str = "fedramp";

/// Bucket bounds of the stage histogram, in seconds: from a small increment to the default TARGET_TIMEOUT.
const STAGE_SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Labelled<const N: usize> = Family<Labels<N>, Counter>;
/// A gauge that is hidden until it has a value, because no value is not 0.
type Later = Family<Labels<0>, Gauge<f64, AtomicU64>>;

/// All metrics. Those that the program does not have are not registered.
#[derive(Debug)]
pub struct Metrics {
    program: Program,
    registry: Registry,
    go_executions: Counter,
    go_last_status: Later,
    go_last_seconds: Later,
    passes: Labelled<2>,
    published: Labelled<1>,
    retired: Labelled<1>,
    swept: Counter,
    delivered: Labelled<1>,
    failed: Labelled<2>,
    webhooks: Labelled<1>,
    moved: Counters,
    saved: Counter,
    targets: Family<Labels<1>, Gauge>,
    troubled: Family<Labels<1>, Gauge>,
    oldest: Gauge<f64, AtomicU64>,
    last_success: Later,
    last_failed: Later,
    guard: Gauge,
    objects: Later,
    foreign: Later,
    mirrors: Later,
    free: Later,
}

/// What an action achieved, as metrics count it: with a reason from a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Published(&'static str),
    Retired(&'static str),
    Swept,
    Delivered(DeliveryReason),
}

impl Count {
    pub fn published(reason: &PublishReason) -> Self {
        Self::Published(publish_reason(reason))
    }

    pub const fn retired(reason: RetireReason) -> Self {
        Self::Retired(retire_reason(reason))
    }
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
    /// All metrics at zero, with the labels that dashboards of the Go programs select by.
    pub fn new(program: Program, shard: &str) -> Self {
        use Program::{Consumer, Producer};
        let labels = [("shard_id", shard), ("integration", program.name())]
            .map(|(name, value)| (name.into(), value.to_owned().into()));
        let mut registry = Registry::with_labels(labels.into_iter());
        let mut go = Register { registry: &mut registry, prefix: "qontract_reconcile", program };
        let go_executions = go.metric("execution_counter", "Full passes that succeeded");
        let go_last_status = go.metric("last_run_status", "Whether the last full pass succeeded: 0 success, 1 failure");
        let go_last_seconds = go.metric("last_run_seconds", "How long the last full pass took, in seconds");
        let prefix = match program {
            Producer => "git_partition_sync",
            Consumer => "git_partition_sync_consumer",
        };
        let mut ours = Register { registry: &mut registry, prefix, program };
        let build: Family<Labels<1>, Gauge> = ours.metric("build_info", "The program's version");
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        let stages = Family::new_with_constructor((|| Histogram::new(STAGE_SECONDS)) as fn() -> Histogram);
        let metrics = Self {
            program,
            go_executions,
            go_last_status,
            go_last_seconds,
            passes: ours.metric("passes", "Passes that ended, by trigger and outcome"),
            published: ours.only(Producer, "published", "Objects published, by reason"),
            retired: ours.only(Producer, "retired", "Destinations retired, by reason"),
            swept: ours.only(Producer, "swept", "Destinations from which outdated objects were deleted"),
            delivered: ours.only(Consumer, "delivered", "Commits pushed to the far side, by reason"),
            failed: ours.metric("failed", "Actions that failed, by stage and reason"),
            webhooks: ours.metric("webhooks", "Webhook requests, by result"),
            moved: match program {
                Producer => Counters {
                    received: ours.metric("fetched_bytes", "Bytes of packs fetched from the source"),
                    sent: ours.metric("uploaded_bytes", "Bytes of objects uploaded to the bucket"),
                    stages: ours.register("stage_duration_seconds", "How long stages of publishing took", stages),
                },
                Consumer => Counters {
                    received: ours.metric("downloaded_bytes", "Bytes of objects downloaded from the bucket"),
                    sent: ours.metric("pushed_bytes", "Bytes of packs pushed to the far side"),
                    stages: ours.register("stage_duration_seconds", "How long stages of delivering took", stages),
                },
            },
            saved: ours.only(
                Producer,
                "saved_bytes",
                "Bytes that increments were smaller than the whole objects that they are on top of",
            ),
            targets: ours.metric("targets", "Targets, by state"),
            troubled: ours.metric("troubled_targets", "Targets in trouble, by reason"),
            oldest: ours.metric(
                "oldest_out_of_sync_seconds",
                "The longest time that a target has been out of sync; 0 if all are in sync",
            ),
            last_success: ours
                .metric("last_success_timestamp_seconds", "When the last successful full pass ended, in Unix time"),
            last_failed: ours
                .metric("last_pass_failed", "1 if the last full pass made no plan and changed nothing, else 0"),
            guard: ours.only(Producer, "retire_guard_held", "1 if the retire guard holds something back"),
            objects: ours.metric("bucket_objects", "Objects in the bucket whose names decode"),
            foreign: ours.metric("bucket_foreign_objects", "Objects in the bucket with foreign names"),
            mirrors: ours.only(Producer, "mirror_bytes", "Disk space that mirrors take"),
            free: ours.metric("workdir_available_bytes", "Free space on WORKDIR's file system"),
            registry,
        };
        metrics.show_zeros();
        metrics
    }

    /// Creates every possible series: a counter that appears with its first event has no rate for that event.
    fn show_zeros(&self) {
        for trigger in Trigger::of(self.program) {
            for outcome in PassOutcome::NAMES {
                drop(self.passes.get_or_create(&[("trigger", trigger.name()), ("outcome", outcome)]));
            }
        }
        for reason in PUBLISH_REASONS {
            drop(self.published.get_or_create(&[("reason", reason)]));
        }
        for reason in DeliveryReason::ALL {
            drop(self.delivered.get_or_create(&[("reason", reason.name())]));
        }
        drop(self.retired.get_or_create(&[("reason", retire_reason(RetireReason::NoTarget))]));
        for result in WebhookResult::ALL {
            drop(self.webhooks.get_or_create(&[("result", result.name())]));
        }
        for stage in Stage::of(self.program) {
            drop(self.moved.stages.get_or_create(&[("stage", stage.name())]));
            for cause in Cause::of(self.program) {
                drop(self.failed.get_or_create(&[("stage", stage.name()), ("reason", cause.name())]));
            }
        }
    }

    /// The counters for bytes and seconds of targets under way.
    pub(super) fn moved(&self) -> Counters {
        self.moved.clone()
    }

    /// Counts what an action has changed.
    pub(super) fn action_ended(&self, Change { what, count, saved_bytes, .. }: &Change) {
        self.saved.inc_by(*saved_bytes);
        if let What::OutOfSync { cause, stage, .. } = what {
            self.failed.get_or_create(&[("stage", stage.name()), ("reason", cause.name())]).inc();
        }
        let by_reason = |family: &Labelled<1>, reason| family.get_or_create(&[("reason", reason)]).inc();
        match count {
            None => 0,
            Some(Count::Published(reason)) => by_reason(&self.published, *reason),
            Some(Count::Retired(reason)) => by_reason(&self.retired, *reason),
            Some(Count::Swept) => self.swept.inc(),
            Some(Count::Delivered(reason)) => by_reason(&self.delivered, reason.name()),
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
        let mut troubled: BTreeMap<_, i64> = Cause::of(self.program).iter().map(|cause| (cause.name(), 0)).collect();
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
            set(&self.last_failed, if matches!(pass.outcome, PassOutcome::Failed(_)) { 1.0 } else { 0.0 });
        }
        if let Some(time) = now.last_success {
            set(&self.last_success, time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        }
        if let Some(bucket) = now.bucket {
            set(&self.objects, bucket.objects as f64);
            set(&self.foreign, bucket.foreign as f64);
        }
        if let Some(disk) = now.disk {
            if let Some(bytes) = disk.mirror_bytes {
                set(&self.mirrors, bytes as f64);
            }
            set(&self.free, disk.available_bytes as f64);
        }
    }
}

struct Register<'a> {
    registry: &'a mut Registry,
    prefix: &'static str,
    program: Program,
}

impl Register<'_> {
    fn metric<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.register(name, help, M::default())
    }

    /// A metric that only one of the programs shows.
    fn only<M: Metric + Clone + Default>(&mut self, program: Program, name: &str, help: &str) -> M {
        if program == self.program { self.metric(name, help) } else { M::default() }
    }

    fn register<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.registry.register(format!("{}_{name}", self.prefix), help, metric.clone());
        metric
    }
}

const PUBLISH_REASONS: [&str; 8] =
    ["new", "new_commit", "other_format", "other_name", "not_newest", "requested", "held_as_increments", "no_whole"];

fn publish_reason(reason: &PublishReason) -> &'static str {
    let [new, new_commit, other_format, other_name, not_newest, requested, held_as_increments, no_whole] =
        PUBLISH_REASONS;
    match reason {
        PublishReason::New => new,
        PublishReason::NewCommit { .. } => new_commit,
        PublishReason::OtherFormat { .. } => other_format,
        PublishReason::OtherName => other_name,
        PublishReason::NotNewest { .. } => not_newest,
        PublishReason::Requested => requested,
        PublishReason::HeldAsIncrements => held_as_increments,
        PublishReason::NoWhole => no_whole,
    }
}

/// Why a commit is pushed to the far side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryReason {
    /// There was no such branch.
    New,
    /// The branch was at an earlier commit.
    NewCommit,
    /// The branch was at a commit that the new one does not descend from.
    Rewritten,
}

impl DeliveryReason {
    const ALL: [Self; 3] = [Self::New, Self::NewCommit, Self::Rewritten];

    const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::NewCommit => "new_commit",
            Self::Rewritten => "rewritten",
        }
    }
}

const fn retire_reason(reason: RetireReason) -> &'static str {
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use super::super::{Arrived, Increments, Status};
    use super::*;
    use crate::model::key::Destination;

    #[test]
    fn each_program_has_its_own_metrics_and_those_that_both_have() {
        let names = |program: Program| {
            let status = Status::new(program, "gov", Duration::MAX, false);
            let text = status.metrics().text(&status.snapshot()).unwrap();
            assert!(text.contains(&format!("integration=\"{}\"", program.name())), "{text}");
            let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        let (producer, consumer) = (names(Program::Producer), names(Program::Consumer));
        let ours = |name: &&String| name.starts_with("git_partition_sync_consumer_");
        assert_eq!(producer.iter().find(ours), None);
        let [own, shared]: [Vec<_>; 2] =
            [true, false].map(|own| consumer.iter().filter(|it| ours(it) == own).collect());
        assert!(shared.iter().all(|name| name.starts_with("qontract_reconcile_")), "{shared:?}");
        for (name, has) in [("delivered_total", true), ("targets", true), ("retired_total", false), ("guard", false)] {
            assert_eq!(own.iter().any(|it| it.ends_with(name)), has, "{name} in {own:?}");
        }
    }

    #[test]
    fn what_was_delivered_is_counted_and_shown() {
        let status = Status::new(Program::Consumer, "gov", Duration::MAX, false);
        let destination = Destination { group: "far".into(), project: "p".into(), branch: "main".into() };
        let pass = status.pass_begins(Trigger::Schedule);
        let end = |what, count| {
            let progress = status.action_begins(destination.clone(), Stage::Pushing);
            progress.sent(7);
            status.action_ends(pass, &progress, &Change { what, objects: (0, 0), count, saved_bytes: 0 });
        };
        let (state, error) = (TargetState::Failing, "no".to_owned());
        end(What::OutOfSync { state, cause: Cause::ProtectedBranch, stage: Stage::Pushing, error }, None);
        let now = status.snapshot();
        assert_eq!((now.targets[0].state, now.targets[0].commit.as_deref()), (TargetState::Failing, None));
        let arrived = Arrived {
            commit: "c".to_owned(),
            bytes: 9,
            published: UNIX_EPOCH,
            increments: Increments::AsBefore,
            origin: None,
        };
        end(What::InSync(Some(arrived)), Some(Count::Delivered(DeliveryReason::New)));
        let now = status.snapshot();
        assert_eq!((now.targets[0].state, now.targets[0].commit.as_deref()), (TargetState::InSync, Some("c")));

        let text = status.metrics().text(&now).unwrap();
        for (name, labels, value) in [
            ("delivered_total", "reason=\"new\"", 1),
            ("delivered_total", "reason=\"rewritten\"", 0),
            ("failed_total", "stage=\"pushing\",reason=\"protected_branch\"", 1),
            ("pushed_bytes_total", "", 14),
            ("targets", "state=\"in_sync\"", 1),
        ] {
            let series = format!("git_partition_sync_consumer_{name}{{");
            let mut lines = text.lines().filter(|line| line.starts_with(&series) && line.contains(labels));
            assert!(lines.next().is_some_and(|line| line.ends_with(&format!(" {value}"))), "{name} {labels}\n{text}");
        }
    }
}
