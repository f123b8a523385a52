//! What is deployed beside the programs: alerts and a dashboard, over metrics that the programs really have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::world::World;

use crate::docs::source_of;
use crate::documents::read;
use crate::metrics::promtool;
use crate::site::get;
use crate::support::{Daemon, consumer, program, wait_until};

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The producer's rules, and the consumer's.
const RULES: [&str; 2] = ["deploy/prometheus-rules.yaml", "deploy/prometheus-rules-consumer.yaml"];
const DASHBOARD: &str = "deploy/grafana-dashboard.json";

/// The names of the alerts in a file.
fn alerts(rules: &str) -> Vec<String> {
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let names: Vec<_> = names.map(str::to_owned).collect();
    assert!(names.len() >= 8, "{names:?}");
    names
}

/// The metrics of the producer and of the consumer, each after its first pass.
fn pages() -> [String; 2] {
    let world = World::builder().sleep("1h").start().unwrap();
    [program(&world, &[]), consumer(&world, &[])].map(|command| {
        let daemon = Daemon::spawn(command);
        let page = || get(&daemon, "/metrics").body;
        wait_until("a pass has succeeded", || page().contains("_last_success_timestamp_seconds{"));
        page()
    })
}

/// What is deployed, and the metrics it is about.
fn deployed() -> [(&'static str, String); 3] {
    let [producer, consumer] = pages();
    let both = format!("{producer}{consumer}");
    [(RULES[0], producer), (RULES[1], consumer), (DASHBOARD, both)]
}

/// Every metric's name in a text: whatever has one of the two prefixes.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|next: char| !(next.is_ascii_alphanumeric() || next == '_'));
    words.filter(|word| word.starts_with("git_partition_sync_") || word.starts_with("qontract_reconcile_")).collect()
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    for arguments in
        [["check", "rules", RULES[0]], ["check", "rules", RULES[1]], ["test", "rules", "tests/alerts.yaml"]]
    {
        let output = Command::new(promtool()).args(arguments).current_dir(in_repository(".")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}\n{}", String::from_utf8_lossy(&output.stdout));
    }
    let tests = read("tests/alerts.yaml");
    for alert in RULES.iter().flat_map(|rules| alerts(&read(rules))) {
        assert!(tests.contains(&format!("alertname: {alert}, exp_alerts: []")), "{alert} is never silent");
        assert!(tests.contains(&format!("alertname: {alert}\n        exp_alerts:\n")), "{alert} never fires");
    }
}

/// Where each alert leads: the address is a placeholder's, which `scripts/render-rules`, the chart and the kustomize components
/// replace.
const RUNBOOK: &str = concat!(
    "runbook_url: https://github.com/OWNER/git-partition-sync-producer/blob/v",
    env!("CARGO_PKG_VERSION"),
    "/docs/operations.md#"
);

/// What the example in an alert's section shows, without what varies, and the module that says it.
const LOGGED: [(&str, &str, &str); 23] = [
    ("Absent", "config", "is still the example's replace-me"),
    ("ShardAbsent", "workdir", "WORKDIR: another process is using"),
    ("Stuck", "status", "no progress for "),
    ("PassesFail", "git", "GitLab refuses the login"),
    ("HalfTargetsInTrouble", "model", "the Git server is unreachable: not tried"),
    ("UploadsFail", "passes", " more for the same reason"),
    ("TargetsInTrouble", "reconcile", "blocked: "),
    ("TargetOutOfSync", "publish", "not finished within TARGET_TIMEOUT ("),
    ("RetireGuard", "plan", "destinations held are no longer wanted and MAX_RETIRE allows"),
    ("WorkdirSpace", "git", "cannot store the pack"),
    ("WebhooksRefused", "server", "the secret token is not WEBHOOK_SECRET"),
    ("ConsumerAbsent", "artifact", "it holds no secret key"),
    ("ConsumerShardAbsent", "workdir", "WORKDIR: another process is using"),
    ("ConsumerStuck", "status", "no progress for "),
    ("ConsumerPassesFail", "passes", "the pass failed and nothing was changed"),
    ("ConsumerHalfDestinationsInTrouble", "model", "the far GitLab is unreachable: not tried"),
    ("ConsumerDownloadsFail", "bucket", "read an object"),
    ("ConsumerDestinationsInTrouble", "git", "the Git server refuses the push: "),
    ("ConsumerDestinationOutOfSync", "deliver", "not finished within TARGET_TIMEOUT ("),
    ("ConsumerPushForbidden", "model", "the far GitLab refuses a push: "),
    ("ConsumerObjectsRefused", "deliver", "its object cannot be used"),
    ("ConsumerWebhooksRefused", "server", "the secret token is not WEBHOOK_SECRET"),
    ("ConsumerWorkdirSpace", "deliver", "cannot use WORKDIR for its object"),
];

#[test]
fn each_alert_is_explained_where_it_says_with_a_line_that_the_program_has() {
    let operations = read("docs/operations.md");
    for rules in RULES.map(read) {
        for alert in alerts(&rules) {
            let (_, section) = operations
                .split_once(&format!("### {alert}\n"))
                .unwrap_or_else(|| panic!("docs/operations.md has no section {alert}"));
            let section = section.split("\n###").next().unwrap();
            let example = section.split("```text\n").nth(1).and_then(|rest| rest.split("```").next());
            let example = example.unwrap_or_else(|| panic!("{alert} has no example"));
            let known = LOGGED.iter().find(|(name, ..)| alert.strip_prefix("GitPartitionSync") == Some(name));
            let (_, module, said) = known.unwrap_or_else(|| panic!("{alert} is not in LOGGED"));
            assert!(example.contains(said), "{alert}: no {said:?} in {example}");
            let source = source_of(module).split("\\\n").map(str::trim_start).collect::<String>();
            assert!(source.contains(said), "{alert}: src/{module} does not say {said:?}");
            let anchor = format!("{RUNBOOK}{}\n", alert.to_lowercase());
            assert!(rules.contains(&anchor), "no {anchor}");
        }
    }
}

/// What may page: it stops everything, or much of it. A single target never does.
#[test]
fn only_what_concerns_many_targets_pages() {
    const PAGES: [&str; 6] = ["Absent", "ShardAbsent", "Stuck", "PassesFail", "InTrouble", "sFail"];
    for rules in RULES.map(read) {
        for rule in rules.split("- alert: ").skip(1) {
            let name = rule.lines().next().unwrap();
            let is_of_many = name.contains("Half") || !name.ends_with("InTrouble");
            let pages = is_of_many && PAGES.iter().any(|end| name.ends_with(end));
            assert_eq!(rule.contains("severity: critical"), pages, "{name}");
            assert_eq!(rule.contains("severity: warning"), !pages, "{name}");
        }
    }
}

#[test]
fn the_address_of_the_runbook_can_be_set_and_the_copies_of_the_rules_are_equal() {
    let script = |arguments: &[&str]| {
        let output = Command::new("python3")
            .arg("scripts/render-rules")
            .args(arguments)
            .current_dir(in_repository("."))
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{out}\n{err}");
        out
    };
    assert_eq!(script(&["--check"]), "");
    for (program, rules) in ["producer", "consumer"].into_iter().zip(RULES) {
        let moved = script(&["--runbook-url", "https://wiki.example.com/sync", program]);
        assert_eq!(moved, read(rules).replace(RUNBOOK, "runbook_url: https://wiki.example.com/sync#"));
        assert!(!moved.lines().any(|line| line.contains("runbook_url: https://github.com")), "{moved}");
    }
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_the_programs_have() {
    for (file, page) in deployed() {
        let exported: BTreeSet<_> = page.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
        let text = read(file);
        let asked = metrics_in(&text);
        assert!(asked.len() >= 8, "{file} asks for {asked:?}");
        let unknown: Vec<_> = asked.difference(&exported).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }
}

#[test]
fn the_values_of_labels_that_alerts_and_dashboard_select_exist() {
    for (file, page) in deployed() {
        let mut selected = 0;
        let text = read(file).replace("\\\"", "\"");
        for label in ["state", "outcome", "trigger", "result", "stage", "reason", "integration"] {
            for operator in ["=", "!=", "=~"] {
                for rest in text.split(&format!("{label}{operator}\"")).skip(1) {
                    let values = rest.split('"').next().unwrap();
                    for value in values.split('|').filter(|value| !value.starts_with('$')) {
                        selected += 1;
                        assert!(page.contains(&format!("{label}=\"{value}\"")), "{file}: no {label}={value}");
                    }
                }
            }
        }
        assert!(selected >= 5, "{file}: {selected}");
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_takes() {
    let dashboard: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    assert_eq!(dashboard["title"], "git-partition-sync-producer");
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is there twice");
        let grid = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(grid[0] + grid[2] <= 24, "{title} is too far to the right");
        for x in grid[0]..grid[0] + grid[2] {
            for y in grid[1]..grid[1] + grid[3] {
                assert!(places.insert((x, y)), "{title} lies over another panel");
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert!(target["expr"].as_str().unwrap().contains(r#"shard_id=~"$shard""#), "{title}: all shards");
        }
    }
}
