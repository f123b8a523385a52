//! The values of settings in the Helm chart: helm refuses most of what the program would refuse, before
//! anything is applied.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use git_partition_sync_producer::config::{CONSUMER, Fallback, Kind, Manual, PRODUCER};
use serde_json::{Map, Value, json};

use crate::documents::read;

const CHART: &str = "deploy/helm/git-partition-sync";

const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
const PUBLIC_KEY: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

/// Texts that the chart takes as they are: names, paths, and what a library reads.
const FREE: [&str; 17] = [
    "AWS_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "GITLAB_TOKEN_FILE",
    "GIT_PARTITION_SAAS_NAME",
    "GRAPHQL_PASSWORD_FILE",
    "GRAPHQL_PRCHECK_QUERY_FILE",
    "GRAPHQL_QUERY_FILE",
    "HTTPS_PROXY",
    "INTERNAL_GIT_CA_PATH",
    "NO_PROXY",
    "PREVIOUS_BUNDLE_SHA",
    "RUST_LOG",
    "SIGNING_KEY_FILE",
    "SSL_CERT_FILE",
    "TARGETS_FILE",
    "TRUSTED_KEYS_FILE",
    "WEBHOOK_SECRET_FILE",
];

/// Values that both take, the default in addition, and values that both refuse.
fn values_of(manual: &Manual, name: &str) -> (Vec<String>, Vec<&'static str>) {
    const SWITCH: [&str; 3] = ["yes", "2", "tRUE"];
    const DURATION: [&str; 5] = ["5", "0s", "5 m", "1d", "-1m"];
    let is_switch = manual.settings().any(|setting| setting.variable == name && setting.kind == Kind::Switch);
    let two_keys = format!("# the far side\n{RECIPIENT}\n{RECIPIENT}, ");
    let (good, bad): (&[&str], &[&'static str]) = match name {
        "ALLOW_INSECURE_HTTP" if manual.program == CONSUMER.program => {
            (&["true", "gitlab,s3", "s3"], &["graphql", "all", "gitlab;s3"])
        }
        "ALLOW_INSECURE_HTTP" => (&["true", "gitlab,graphql", "graphql, s3"], &["all", "gitlab;s3", "git"]),
        // Not together with an endpoint.
        "AWS_USE_FIPS_ENDPOINT" => (&["false", "F"], &SWITCH),
        _ if is_switch => (&["true", "F", "1"], &SWITCH),
        "RECONCILE_SLEEP_TIME" | "TARGET_TIMEOUT" | "CONNECT_TIMEOUT" | "IDLE_TIMEOUT" | "STALL_TIMEOUT" => {
            (&["90s", "1h30m", "1.5h", ".5s", "100us", "+1m"], &DURATION)
        }
        "MAX_INCREMENTS" | "SYNC_CONCURRENCY" => (&["1", "64", "10", "59"], &["0", "65", "-1", "1.5", "many"]),
        "PROBE_CONCURRENCY" => (&["1", "256", "199", "249", "64"], &["0", "257", "300", "-1", "many"]),
        "MAX_RETIRE" => (&["0", "20", "0%", "100%"], &["101%", "half", "-1", "1.5", "20 %"]),
        "MIRROR_CACHE_BYTES" => (&["0", "1048576", "5GiB", "100Mi"], &["5G", "5 Gi", "1.5Gi", "-1", "much"]),
        "MAX_REPOSITORY_BYTES" => (&["104857600", "5GiB", "1Ti"], &["0", "5G", "1.5Gi", "0Gi", "much"]),
        "MEMORY_BUDGET_BYTES" => (&["104857600", "16Mi"], &["0", "5G", "1.5Gi", "0Gi", "much"]),
        "AWS_S3_BUCKET" => (
            &["git-sync", "arn:aws:s3:us-east-1:123456789012:accesspoint/sync", "A_1.b"],
            &["s3://git-sync", "a", "git sync", "git-sync/prefix"],
        ),
        "GITLAB_BASE_URL" => (
            &["https://gitlab.example.com", "https://example.com:8443/gitlab/", "https://my.git", "https://h/apis"],
            &[
                "gitlab.example.com",
                "https://user:password@gitlab.example.com",
                "https://",
                "https://h/?a=b",
                "ssh://h",
                "https://h/api/v4",
                "https://h/gitlab/api/",
                "https://h/group/project.git",
            ],
        ),
        "AWS_ENDPOINT_URL_S3" => (
            &["https://s3.example.com", "http://127.0.0.1:9000"],
            &["s3.example.com", "https://key:secret@s3.example.com", "https://h/#a", "s3://h"],
        ),
        "GRAPHQL_SERVER" => (
            &["https://qontract.example.com/graphql", "https://h/graphql?a=b"],
            &["qontract/graphql", "https://user:password@h/graphql", "wss://h"],
        ),
        "GITLAB_USERNAME" => (&["git-sync", "a b"], &["user:password", "replace-me"]),
        "GRAPHQL_USERNAME" => (&["reader"], &["user:password", "replace-me"]),
        "INSTANCE_SHARD" => (&["shard-a", "7", "true"], &["replace-me"]),
        "PUBLIC_KEY" => (
            &[RECIPIENT, &two_keys],
            &[
                "replace-me",
                "age1…",
                "AGE-SECRET-KEY-1",
                "ssh-ed25519 AAAA",
                "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujw",
                "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
                "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj # mine",
                "# only a comment",
                "# age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj",
            ],
        ),
        // Of the producer, only `restore` reads it.
        "TRUSTED_KEYS" if manual.program == PRODUCER.program => (&[PUBLIC_KEY], &[]),
        "TRUSTED_KEYS" => (&[PUBLIC_KEY], &["hunter2", "signing.pub"]),
        "ARCHIVE_FORMAT" => (&["zip", "tar.gz"], &["tar", "ZIP"]),
        "CROSSING" => (&["incremental"], &["increment", "Whole"]),
        "ON_REWRITE" => (&["hold"], &["refuse", "Hold"]),
        "REPUBLISH" => (&["all", "on-recipient-change", "mirror/platform/api@main, mirror/a"], &["everything", "api"]),
        "OUTPUT" | "LOG_FORMAT" => (&["json"], &["yaml", "JSON"]),
        "METRICS_SERVER_ADDRESS" => {
            (&["127.0.0.1", "::", "::ffff:127.0.0.1"], &["localhost", "0.0.0.0:9090", "*", "999.1.1.1"])
        }
        other => panic!("{other}: which values does it take? List it in FREE, or give some that are good and bad"),
    };
    let default = manual.settings().find(|setting| setting.variable == name).map(|setting| setting.default);
    let default = default.and_then(|default| if let Fallback::Value(text) = default { Some(text) } else { None });
    (default.into_iter().chain(good.iter().copied()).map(str::to_owned).collect(), bad.to_vec())
}

/// What the program says to these settings, without a request: one more is wrong.
fn said_by(manual: &Manual, settings: &Map<String, Value>) -> String {
    let program = match manual.program == CONSUMER.program {
        true => env!("CARGO_BIN_EXE_git-partition-sync-consumer"),
        false => env!("CARGO_BIN_EXE_git-partition-sync-producer"),
    };
    let mut command = Command::new(program);
    command.args(["-run-once", "-shard-count=none"]).env_clear();
    if settings.contains_key("GRAPHQL_USERNAME") {
        command.env("GRAPHQL_PASSWORD", "its other half");
    }
    command.envs(settings.iter().map(|(name, value)| (name, value.as_str().unwrap())));
    let output = command.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && log.contains("SHARD_COUNT: "), "{log}");
    log
}

/// What helm renders of these settings, on top of values that are good, or why it does not.
fn rendered(program: &str, settings: &Map<String, Value>) -> Result<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let values = tempfile::NamedTempFile::new().unwrap();
    fs::write(values.path(), json!({ program: { "settings": settings } }).to_string()).unwrap();
    let mut helm = Command::new(root.join("target/kubernetes/helm"));
    helm.env_clear().args(["template", "x"]).arg(root.join(CHART));
    helm.arg("--values").arg(root.join(CHART).join(format!("ci/{program}-values.yaml")));
    let output = helm.arg("--values").arg(values.path()).output().expect("scripts/setup installs helm");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The settings as YAML has them without quotes: numbers, and true and false, are no texts there.
fn without_quotes(settings: &Map<String, Value>) -> Map<String, Value> {
    let value = |text: &Value| match serde_json::from_str(text.as_str().unwrap()) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        _ => text.clone(),
    };
    settings.iter().map(|(name, text)| (name.clone(), value(text))).collect()
}

#[test]
fn helm_refuses_the_values_that_the_program_refuses() {
    let schema: Value = serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).unwrap();
    for (program, manual) in [("producer", PRODUCER), ("consumer", CONSUMER)] {
        let settings = schema["properties"][program]["properties"]["settings"]["properties"].as_object().unwrap();
        let (free, checked): (BTreeSet<_>, BTreeSet<_>) =
            settings.keys().map(String::as_str).partition(|name| FREE.contains(name));
        assert!(free.iter().all(|name| settings[*name]["$ref"] == "#/definitions/setting"), "{free:?}");
        assert!(checked.len() > 15, "{checked:?}");
        let values: Vec<_> = checked.iter().map(|name| (*name, values_of(&manual, name))).collect();

        let most = values.iter().map(|(_, (good, _))| good.len()).max().unwrap();
        for round in 0..most {
            let of = |good: &Vec<String>| good.get(round).map(|it| Value::from(&**it));
            let given = values.iter().filter_map(|(name, (good, _))| Some(((*name).to_owned(), of(good)?))).collect();
            let log = said_by(&manual, &given);
            for name in given.keys() {
                let is_refused = log.lines().any(|line| line.starts_with(&format!("{name}: ")));
                assert!(!is_refused, "the program refuses {name}={}: {log}", given[name]);
            }
            for given_to_helm in [&given, &without_quotes(&given)] {
                let rendered = rendered(program, given_to_helm).unwrap();
                for (name, text) in &given {
                    assert!(rendered.contains(&format!("\n  {name}: {text}\n")), "{name}={text}: {rendered}");
                }
            }
        }
        let most = values.iter().map(|(_, (_, bad))| bad.len()).max().unwrap();
        for round in 0..most {
            let of = |bad: &Vec<&str>| bad.get(round).copied().map(Value::from);
            let given = values.iter().filter_map(|(name, (_, bad))| Some(((*name).to_owned(), of(bad)?))).collect();
            let log = said_by(&manual, &given);
            for name in given.keys() {
                let refused = log.lines().find(|line| line.starts_with(&format!("{name}: ")));
                let refused = refused.unwrap_or_else(|| panic!("the program takes {name}={}: {log}", given[name]));
                assert_same_choices(&schema, &settings[name], refused);
            }
            for given_to_helm in [&given, &without_quotes(&given)] {
                let helm = rendered(program, given_to_helm).unwrap_err();
                for (name, text) in &given {
                    assert!(helm.contains(&format!("/{program}/settings/{name}':")), "{name}={text}: {helm}");
                }
                for secret in ["AGE-SECRET-KEY-1", "user:password", "key:secret", "hunter2"] {
                    assert!(!helm.contains(secret), "a credential by mistake is repeated: {helm}");
                }
            }
        }
    }
}

/// If a setting is one of a few words, the schema has those that the program's message names.
#[track_caller]
fn assert_same_choices(schema: &Value, setting: &Value, refused: &str) {
    let definition = setting["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
    let Some(words) = schema["definitions"][definition]["enum"].as_array() else { return };
    let words: BTreeSet<_> = words.iter().map(|word| word.as_str().unwrap()).collect();
    let named = refused.rsplit("write ").next().unwrap();
    assert_eq!(words, named.split(", ").flat_map(|part| part.split(" or ")).collect(), "{refused}");
}
