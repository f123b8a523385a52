//! The status as JSON; `docs/contract.md` describes it.

use serde_json::{Value, json};

use crate::status::{PassOutcome, PassRecord, Snapshot, TargetState, TargetStatus};
use crate::text::timestamp;

pub(super) fn status(now: &Snapshot, shard: &str) -> Value {
    let count = |state| now.targets.iter().filter(|target| target.state == state).count();
    let counts: serde_json::Map<_, _> =
        TargetState::ALL.into_iter().map(|state| (state.name().to_owned(), json!(count(state)))).collect();
    let passes = now.passes.iter().map(|pass| {
        json!({
            "trigger": pass.trigger.name(),
            "began": timestamp(pass.began),
            "actions": pass.actions.map(|(all, _)| all),
            "done": pass.actions.map(|(_, done)| done),
        })
    });
    let running = now.running.iter().map(|progress| {
        let destination = &progress.destination;
        json!({
            "group": destination.group,
            "project": destination.project,
            "branch": destination.branch,
            "stage": progress.stage.name(),
            "bytes": progress.bytes,
            "of": progress.of,
            "bytes_per_second": progress.bytes_per_second,
            "seconds": progress.took.as_secs_f64(),
        })
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "shard": shard,
        "now": timestamp(now.now),
        "started": timestamp(now.started),
        "dry_run": now.dry_run,
        "next_pass": now.next_pass.and_then(timestamp),
        "last_success": now.last_success.and_then(timestamp),
        "stalled": now.stalled,
        "retire_guard": now.guard,
        "retired_24h": now.budget.map(|budget| budget.retired),
        "retire_limit_24h": now.budget.and_then(|budget| budget.limit),
        "bucket": now.bucket.map(|bucket| json!({ "objects": bucket.objects, "foreign": bucket.foreign })),
        "disk": now.disk.map(|disk| json!({
            "mirror_bytes": disk.mirror_bytes,
            "available_bytes": disk.available_bytes,
        })),
        "counts": counts,
        "passes": passes.collect::<Vec<_>>(),
        "running": running.collect::<Vec<_>>(),
        "history": now.history.iter().map(pass).collect::<Vec<_>>(),
        "targets": now.targets.iter().map(target).collect::<Vec<_>>(),
    })
}

fn pass(pass: &PassRecord) -> Value {
    let error = match &pass.outcome {
        PassOutcome::Failed(why) => Some(why),
        PassOutcome::Success | PassOutcome::Incomplete => None,
    };
    json!({
        "trigger": pass.trigger.name(),
        "began": timestamp(pass.began),
        "seconds": pass.took.as_secs_f64(),
        "outcome": pass.outcome.name(),
        "error": error,
        "published": pass.published,
        "retired": pass.retired,
        "troubled": pass.troubled,
    })
}

fn target(target: &TargetStatus) -> Value {
    json!({
        "group": target.destination.group,
        "project": target.destination.project,
        "branch": target.destination.branch,
        "source_project": target.source.as_ref().map(|source| &source.project),
        "source_branch": target.source.as_ref().map(|source| &source.branch),
        "state": target.state.name(),
        "since": timestamp(target.since),
        "commit": target.commit,
        "bytes": target.bytes,
        "published": target.published.and_then(timestamp),
        "pending": target.pending,
        "cause": target.trouble.as_ref().map(|trouble| trouble.cause.name()),
        "error": target.trouble.as_ref().map(|trouble| &trouble.error),
        "error_seen": target.trouble.as_ref().and_then(|trouble| timestamp(trouble.seen)),
    })
}
