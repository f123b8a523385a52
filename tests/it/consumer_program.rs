//! The consumer as a program like the producer: settings, help, port, page, metrics, signals.

use std::fs;
use std::path::Path;
use std::process::Command;

use testbed::archive::Naming;
use testbed::world::World;

use crate::site::{get, pass_now, sample, status};
use crate::support::{Daemon, Run, consumer, wait_until};

const OURS: [(&str, &str); 2] = [("shard_id", "gov-1"), ("integration", "git-partition-sync-consumer")];

/// A bucket with an object and a foreign one, and a daemon after its first pass.
fn daemon() -> (World, Daemon) {
    let world = World::builder().sleep("1h").consumer_setting("INSTANCE_SHARD", "gov-1").start().unwrap();
    let repo = world.project("near/p").unwrap();
    world.put_head(&repo, "main", "far/p", "main", Naming::Tar).unwrap();
    world.s3().put("notes.txt", "foreign");
    let daemon = Daemon::spawn(consumer(&world, &[]));
    wait_until("the first pass is over", || {
        sample(&get(&daemon, "/metrics").body, "qontract_reconcile_last_run_status", &OURS).is_some()
    });
    (world, daemon)
}

/// The consumer with an empty environment.
fn bare(arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_git-partition-sync-consumer"));
    Run::from(command.env_clear().args(arguments).output().unwrap())
}

#[test]
fn version_help_and_missing_settings_are_the_consumer_s_own() {
    let run = bare(&["-version"]).succeeded();
    assert_eq!(run.out.trim(), concat!("git-partition-sync-consumer ", env!("CARGO_PKG_VERSION")));
    let help = bare(&["-help"]).succeeded().out;
    assert!(help.contains("PRIVATE_KEY") && !help.contains("PUBLIC_KEY"), "{help}");
    let run = bare(&[]).refused();
    let missing = "missing: AWS_S3_BUCKET, GITLAB_BASE_URL, GITLAB_USERNAME, GITLAB_TOKEN or GITLAB_TOKEN_FILE, \
         PRIVATE_KEY or PRIVATE_KEY_FILE";
    assert_eq!(run.log.lines().next(), Some(missing));
    bare(&["-max-retire=1"]).refused().logged("unexpected argument '-max-retire'");
}

#[test]
fn settings_are_checked_before_any_request() {
    let world = World::start().unwrap();
    let run = |variables: &[(&str, &str)]| {
        let mut command = consumer(&world, &["-run-once"]);
        Run::from(command.envs(variables.iter().copied()).output().unwrap())
    };
    run(&[("PRIVATE_KEY", world.recipients()[0])]).refused().logged("PRIVATE_KEY: line 1 holds a recipient");
    let file = world.scratch().unwrap().join("ca.pem");
    fs::write(&file, "no certificate").unwrap();
    for variable in ["INTERNAL_GIT_CA_PATH", "SSL_CERT_FILE"] {
        run(&[(variable, file.to_str().unwrap())]).refused().logged(&format!("{variable}: ")).logged("ca.pem");
        run(&[(variable, "/nowhere")]).refused().logged(&format!("{variable}: cannot read /nowhere"));
    }
    assert_eq!((world.s3().requests().len(), world.destination.requests().len()), (0, 0));
}

#[test]
fn list_shows_the_same_as_the_producer_s() {
    let world = World::start().unwrap();
    let repo = world.project("near/p").unwrap();
    world.put_head(&repo, "main", "far/p", "main", Naming::Zip).unwrap();
    let theirs = crate::support::run(&world, &["list", "-output=json"]).succeeded().json();
    let ours = Run::from(consumer(&world, &["list", "-output=json"]).output().unwrap()).succeeded().json();
    assert_eq!(ours, theirs);
}

#[test]
fn the_page_says_which_program_it_is_of_and_what_waits() {
    let (_world, daemon) = daemon();
    let page = get(&daemon, "/").body;
    for part in [
        "Git partition sync: the far side",
        "Pushes what the bucket holds to the far GitLab.",
        ">Destinations</h2>",
        ">Far branch</th>",
        "far/<b>p</b>",
        "gov-1",
        "1 object, 1 foreign",
    ] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    for other in ["Targets", "Mirrors", "etire"] {
        assert!(!page.contains(other), "{other} is in {page}");
    }
    let status = status(&daemon);
    assert_eq!(status["program"], "git-partition-sync-consumer");
    assert_eq!(status["bucket"]["foreign"], 1);
    assert_eq!(status["targets"].as_array().unwrap().len(), 1);
    assert!(status["history"][0]["delivered"].is_number() && status["history"][0]["published"].is_null(), "{status}");
    assert!(status["disk"]["available_bytes"].is_number() && status["disk"]["mirror_bytes"].is_null(), "{status}");
}

#[test]
fn health_signals_and_stopping_are_as_the_producer_s() {
    let (_world, daemon) = daemon();
    assert_eq!((get(&daemon, "/healthz").status, get(&daemon, "/readyz").status), (200, 200));
    assert_eq!(get(&daemon, "/hooks/gitlab").status, 404);
    pass_now(&daemon);
    daemon.stop().succeeded();
}

#[test]
fn dashboards_of_the_go_consumer_find_their_metrics() {
    let (_world, daemon) = daemon();
    let metrics = get(&daemon, "/metrics").body;
    for name in ["last_run_status", "last_run_seconds", "execution_counter_total"] {
        assert!(sample(&metrics, &format!("qontract_reconcile_{name}"), &OURS).is_some(), "{name} in {metrics}");
    }
    assert_eq!(sample(&metrics, "git_partition_sync_consumer_bucket_objects", &OURS), Some(1.0));
    assert_eq!(sample(&metrics, "git_partition_sync_consumer_bucket_foreign_objects", &OURS), Some(1.0));
}

#[test]
fn the_consumer_s_document_names_every_metric() {
    let (_world, daemon) = daemon();
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/consumer.md")).unwrap();
    let metrics = get(&daemon, "/metrics").body;
    let names: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 12, "{names:?}");
    for name in names {
        assert!(document.contains(&format!("`{name}`")), "{name} is not in docs/consumer.md");
    }
    assert_eq!(crate::metrics::complaints(&metrics), [crate::metrics::KNOWN_COMPLAINT]);
}
