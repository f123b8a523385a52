//! /metrics: the names that dashboards know, this program's own, and Prometheus's verdict on them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use testbed::graphql::SyncTarget;
use testbed::world::World;

use crate::site::{get, pass_now, sample};
use crate::support::{Daemon, program, wait_until, zip_key};

const OURS: [(&str, &str); 2] = [("shard_id", "gov-1"), ("integration", "git-partition-sync-producer")];

/// A world with one good and one unreadable target, and a daemon in it after its first pass.
fn with_trouble() -> (World, Daemon) {
    let world = World::builder().sleep("1h").setting("INSTANCE_SHARD", "gov-1").start().unwrap();
    world.project("near/p").unwrap();
    world.sync("near/p", "main", "far/p", "main").unwrap();
    world.sync("near/gone", "main", "far/gone", "main").unwrap();
    world.s3().put("notes.txt", "foreign");
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    wait_until("the pass is over", || sample(&get(&daemon, "/metrics").body, LAST_STATUS, &OURS).is_some());
    (world, daemon)
}

const LAST_STATUS: &str = "qontract_reconcile_last_run_status";
const EXECUTIONS: &str = "qontract_reconcile_execution_counter_total";
const LAST_SECONDS: &str = "qontract_reconcile_last_run_seconds";

#[test]
fn dashboards_of_the_go_program_find_their_metrics() {
    let (world, daemon) = with_trouble();
    let metrics = get(&daemon, "/metrics");
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert_eq!(sample(&metrics.body, LAST_STATUS, &OURS), Some(1.0));
    assert_eq!(sample(&metrics.body, EXECUTIONS, &OURS), Some(0.0));
    assert!(sample(&metrics.body, LAST_SECONDS, &OURS).unwrap() > 0.0);
    assert!(metrics.body.contains(&format!("# TYPE {EXECUTIONS} counter\n")));
    assert!(metrics.body.contains(&format!("# TYPE {LAST_STATUS} gauge\n")));

    world.unsync("far/gone", "main");
    pass_now(&daemon);
    let metrics = get(&daemon, "/metrics").body;
    assert_eq!(sample(&metrics, LAST_STATUS, &OURS), Some(0.0));
    assert_eq!(sample(&metrics, EXECUTIONS, &OURS), Some(1.0));
}

#[test]
fn what_was_done_and_what_was_not_is_counted() {
    let (world, daemon) = with_trouble();
    let metrics = get(&daemon, "/metrics").body;
    let value = |metrics: &str, name: &str, labels: &[(&str, &str)]| {
        let labels: Vec<_> = OURS.iter().chain(labels).copied().collect();
        sample(metrics, &format!("git_partition_sync_{name}"), &labels)
    };
    assert_eq!(value(&metrics, "targets", &[("state", "in_sync")]), Some(1.0));
    assert_eq!(value(&metrics, "targets", &[("state", "blocked")]), Some(1.0));
    assert_eq!(value(&metrics, "targets", &[("state", "failing")]), Some(0.0));
    assert_eq!(value(&metrics, "troubled_targets", &[("reason", "unreadable")]), Some(1.0));
    assert_eq!(value(&metrics, "troubled_targets", &[("reason", "upload")]), Some(0.0));
    assert_eq!(value(&metrics, "published_total", &[("reason", "new")]), Some(1.0));
    assert_eq!(value(&metrics, "published_total", &[("reason", "new_commit")]), Some(0.0));
    assert_eq!(value(&metrics, "bucket_foreign_objects", &[]), Some(1.0));
    assert_eq!(value(&metrics, "passes_total", &[("trigger", "schedule"), ("outcome", "incomplete")]), Some(1.0));
    assert_eq!(value(&metrics, "stage_duration_seconds_count", &[("stage", "uploading")]), Some(1.0));
    assert_eq!(value(&metrics, "last_success_timestamp_seconds", &[]), None, "there has been none");
    assert_eq!(value(&metrics, "build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    let object: u64 =
        world.s3().objects().iter().filter(|object| object.key != "notes.txt").map(|object| object.size).sum();
    assert_eq!(value(&metrics, "uploaded_bytes_total", &[]), Some(object as f64));
    let fetched = value(&metrics, "fetched_bytes_total", &[]).unwrap();
    assert!(fetched > 0.0 && fetched < object as f64, "{fetched}");
    assert!(value(&metrics, "mirror_bytes", &[]).unwrap() > fetched, "the pack and its index");
    assert!(value(&metrics, "workdir_available_bytes", &[]).unwrap() > 0.0);
    let oldest = value(&metrics, "oldest_out_of_sync_seconds", &[]).unwrap();
    assert!(oldest > 0.0);

    world.source.repo("near/p").unwrap().commits("main", 1).unwrap();
    world.s3().fail("PutObject", "AccessDenied", 1);
    pass_now(&daemon);
    let metrics = get(&daemon, "/metrics").body;
    assert_eq!(value(&metrics, "failed_total", &[("stage", "uploading"), ("reason", "upload")]), Some(1.0));
    assert_eq!(value(&metrics, "targets", &[("state", "failing")]), Some(1.0));
    assert_eq!(value(&metrics, "troubled_targets", &[("reason", "upload")]), Some(1.0));
    assert!(value(&metrics, "oldest_out_of_sync_seconds", &[]).unwrap() > oldest, "it goes on across passes");
    pass_now(&daemon);
    let metrics = get(&daemon, "/metrics").body;
    assert_eq!(value(&metrics, "published_total", &[("reason", "new_commit")]), Some(1.0));
    assert_eq!(value(&metrics, "troubled_targets", &[("reason", "upload")]), Some(0.0));
    assert_eq!(value(&metrics, "failed_total", &[("stage", "uploading"), ("reason", "upload")]), Some(1.0));

    world.graphql.set_targets(vec![]);
    pass_now(&daemon);
    assert_eq!(value(&get(&daemon, "/metrics").body, "retire_guard_held", &[]), Some(1.0));
}

#[test]
fn what_came_and_went_in_the_bucket_and_how_long_that_took_is_counted() {
    let world = World::builder().sleep("1h").setting("INSTANCE_SHARD", "gov-1").start().unwrap();
    for name in ["a", "b", "c", "d"] {
        world.project(&format!("near/{name}")).unwrap();
        world.sync(&format!("near/{name}"), "main", &format!("far/{name}"), "main").unwrap();
    }
    let head = world.source.repo("near/d").unwrap().head("main").unwrap();
    world.s3().put(&zip_key("far/d", "main", &head), "current");
    world.s3().put_at(&zip_key("far/d", "main", &"b".repeat(40)), "outdated", SystemTime::UNIX_EPOCH);
    world.s3().put("notes.txt", "foreign");
    world.s3().put("more notes.txt", "foreign");
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let begun = seconds();
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let labels: Vec<_> = OURS.iter().chain(labels).copied().collect();
        sample(&get(&daemon, "/metrics").body, &format!("git_partition_sync_{name}"), &labels)
    };
    wait_until("the pass is over", || value("last_success_timestamp_seconds", &[]).is_some());
    let first = value("last_success_timestamp_seconds", &[]).unwrap();
    assert!((begun..=seconds()).contains(&first), "{first}");
    assert_eq!(value("swept_total", &[]), Some(1.0));
    assert_eq!(value("retired_total", &[("reason", "no_target")]), Some(0.0));
    assert_eq!(value("bucket_objects", &[]), Some(4.0), "what was swept is gone");
    assert_eq!(value("bucket_foreign_objects", &[]), Some(2.0));
    for stage in ["fetching", "verifying", "uploading", "deleting"] {
        let of = |name: &str| value(&format!("stage_duration_seconds_{name}"), &[("stage", stage)]);
        // Three were published, and one was swept.
        let count = if stage == "deleting" { 4.0 } else { 3.0 };
        assert_eq!(of("count"), Some(count), "{stage}");
        // Side by side.
        let most = count * (seconds() - begun);
        assert!(of("sum").is_some_and(|sum| sum > 0.0 && sum < most), "{stage}: {:?} of {most}", of("sum"));
        let all = [("stage", stage), ("le", "+Inf")];
        assert_eq!(value("stage_duration_seconds_bucket", &all), Some(count), "{stage}");
    }

    world.unsync("far/a", "main");
    world.unsync("far/d", "main");
    world.s3().delete("notes.txt");
    pass_now(&daemon);
    assert_eq!(value("retired_total", &[("reason", "no_target")]), Some(2.0));
    assert_eq!(value("swept_total", &[]), Some(1.0));
    assert_eq!(value("bucket_objects", &[]), Some(2.0));
    assert_eq!(value("bucket_foreign_objects", &[]), Some(1.0));
    assert!(value("last_success_timestamp_seconds", &[]).unwrap() > first);
}

#[test]
fn no_name_that_somebody_chose_becomes_a_label() {
    let world = World::builder().sleep("1h").setting("INSTANCE_SHARD", "gov-1").start().unwrap();
    world.s3().put("hostile.txt", "foreign");
    let branch = "hostile\"}1";
    let repo = world.project("near/hostile-good").unwrap();
    repo.branch_from(branch, "main").unwrap();
    world.sync("near/hostile-good", branch, "far/hostile-good", branch).unwrap();
    let mut targets = world.graphql.targets();
    for name in ["hostile\"} 1\nhostile 1", "hostile\\", "hostile{a=\"b\"}", "hostile-gone"] {
        targets.push(SyncTarget::new(&format!("near/{name}"), "main", &format!("far/{name}"), "main"));
    }
    world.graphql.set_targets(targets);
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let status = crate::site::status(&daemon);
    assert_eq!(status["counts"]["in_sync"], 1, "{status}");
    assert!(status["counts"]["blocked"].as_u64().unwrap() >= 1, "{status}");
    world.s3().fail("PutObject", "AccessDenied", 1);
    repo.commits(branch, 1).unwrap();
    pass_now(&daemon);
    assert_eq!(crate::site::status(&daemon)["counts"]["failing"], 1);
    let metrics = get(&daemon, "/metrics").body;
    assert!(!metrics.to_lowercase().contains("hostile"), "{metrics}");
    assert_eq!(complaints(&metrics), [KNOWN_COMPLAINT]);
}

#[test]
fn the_document_names_every_metric() {
    let (_world, daemon) = with_trouble();
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/watching.md")).unwrap();
    let metrics = get(&daemon, "/metrics").body;
    let names: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in docs/watching.md");
    }
}

#[test]
fn a_label_in_the_settings_cannot_break_the_format() {
    let world = World::builder().sleep("1h").setting("INSTANCE_SHARD", "a\"b\\c{}").start().unwrap();
    let daemon = Daemon::spawn(program(&world, &[]));
    daemon.wait_until_logged("pass done", 1);
    let metrics = get(&daemon, "/metrics").body;
    assert!(metrics.contains(r#"shard_id="a\"b\\c{}""#), "{metrics}");
    assert_eq!(complaints(&metrics), [KNOWN_COMPLAINT]);
}

/// The name is what dashboards ask for, so it stays.
pub const KNOWN_COMPLAINT: &str =
    "qontract_reconcile_execution_counter_total metric name should not include type 'counter'";

#[test]
fn prometheus_finds_nothing_wrong_with_our_metrics() {
    let (_world, daemon) = with_trouble();
    assert_eq!(complaints(&get(&daemon, "/metrics").body), [KNOWN_COMPLAINT]);
}

/// Where promtool is.
pub fn promtool() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/prometheus/promtool");
    if ours.exists() { ours } else { "promtool".into() }
}

/// What `promtool check metrics` says of this. A text that it cannot read at all is a complaint too.
#[track_caller]
pub fn complaints(metrics: &str) -> Vec<String> {
    let mut promtool = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("scripts/setup installs promtool");
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect()
}
