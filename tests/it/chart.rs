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
const RAW_KEY: &str = "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

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

/// Definitions of the schema for numbers and for a few words. Helm's messages repeat these values, so that they help.
const NO_TEXTS: [&str; 15] = [
    "address",
    "archiveFormat",
    "bytes",
    "crossing",
    "duration",
    "insecureHttpConsumer",
    "insecureHttpProducer",
    "limit",
    "memoryBudget",
    "onRewrite",
    "output",
    "someBytes",
    "switch",
    "upTo256",
    "upTo64",
];

/// Values that both take, the default in addition, and values that both refuse.
fn values_of(manual: &Manual, name: &str) -> (Vec<String>, Vec<&'static str>) {
    const SWITCH: [&str; 3] = ["yes", "2", "tRUE"];
    const DURATION: [&str; 8] = ["5", "0s", "5 m", "1d", "-1m", "3000000h", "99999999999s", "0.1ns"];
    const TOO_LARGE: &str = "99999999999999999999";
    let is_switch = manual.settings().any(|setting| setting.variable == name && setting.kind == Kind::Switch);
    let two_keys = format!("# the far side\n{RECIPIENT}\n{RECIPIENT}, ");
    let pem =
        format!("# the near side\n-----BEGIN PUBLIC KEY-----\n{PUBLIC_KEY}\n-----END PUBLIC KEY-----\n{RAW_KEY}, ");
    let (good, bad): (&[&str], &[&'static str]) = match name {
        "ALLOW_INSECURE_HTTP" if manual.program == CONSUMER.program => {
            (&["true", "gitlab,s3", "s3"], &["graphql", "all", "gitlab;s3"])
        }
        "ALLOW_INSECURE_HTTP" => (&["true", "gitlab,graphql", "graphql, s3"], &["all", "gitlab;s3", "git"]),
        // Not together with an endpoint.
        "AWS_USE_FIPS_ENDPOINT" => (&["false", "F"], &SWITCH),
        _ if is_switch => (&["true", "F", "1"], &SWITCH),
        "RECONCILE_SLEEP_TIME" | "TARGET_TIMEOUT" | "CONNECT_TIMEOUT" | "IDLE_TIMEOUT" | "STALL_TIMEOUT" => {
            (&["90s", "1h30m", "1.5h", ".5s", "100us", "+1m", "876000h"], &DURATION)
        }
        "MAX_INCREMENTS" | "SYNC_CONCURRENCY" => (&["1", "64", "10", "59"], &["0", "65", "-1", "1.5", "many"]),
        "PROBE_CONCURRENCY" => (&["1", "256", "199", "249", "64"], &["0", "257", "300", "-1", "many"]),
        "MAX_RETIRE" => (&["0", "20", "0%", "100%"], &["101%", "half", "-1", "1.5", "20 %", TOO_LARGE]),
        "MIRROR_CACHE_BYTES" => (&["0", "1048576", "5GiB", "100Mi"], &["5G", "5 Gi", "1.5Gi", "-1", "much", TOO_LARGE]),
        "MAX_REPOSITORY_BYTES" => (
            &["104857600", "5GiB", "1Ti", "9007199254740991"],
            &["0", "5G", "1.5Gi", "0Gi", "much", TOO_LARGE, "99999999Ti"],
        ),
        "MEMORY_BUDGET_BYTES" => (
            &["104857600", "16777216", "16384KiB", "16Mi", "1Gi"],
            &["0", "5G", "1.5Gi", "0Gi", "much", TOO_LARGE, "16777215", "16383Ki", "15Mi", "9Mi", "1048576"],
        ),
        "AWS_S3_BUCKET" => (
            &["git-sync", "arn:aws:s3:us-east-1:123456789012:accesspoint/sync", "A_1.b"],
            &["s3://git-sync", "a", "git sync", "git-sync/prefix", "https://AKIA:sekret@s3.example.com"],
        ),
        "GITLAB_BASE_URL" => (
            &[
                "https://gitlab.example.com",
                "https://example.com:8443/gitlab/",
                "https://my.git",
                "https://h/apis",
                "HTTPS://gitlab.example.com",
                "https://[::1]:65535",
            ],
            &[
                "gitlab.example.com",
                "https://user:password@gitlab.example.com",
                "https://",
                "https://h/?a=b",
                "ssh://h",
                "https://h:99999",
                "https://h:gitlab",
                "https://h/api/v4",
                "HTTPS://h/api/v4",
                "https://h/gitlab/api/",
                "https://h/group/project.git",
            ],
        ),
        "AWS_ENDPOINT_URL_S3" => (
            &["https://s3.example.com", "http://127.0.0.1:9000", "Https://s3.example.com", ""],
            &["s3.example.com", "https://key:secret@s3.example.com", "https://h/#a", "s3://h", "https://h:65536"],
        ),
        "GRAPHQL_SERVER" => (
            &["https://qontract.example.com/graphql", "https://h/graphql?a=b", "HTTPS://h:4000/graphql"],
            &["qontract/graphql", "https://user:password@h/graphql", "wss://h", "https://h:99999/graphql"],
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
        "TRUSTED_KEYS" if manual.program == PRODUCER.program => (&[PUBLIC_KEY, RAW_KEY, &pem, ""], &[]),
        "TRUSTED_KEYS" => (
            &[PUBLIC_KEY, RAW_KEY, &pem, ""],
            &[
                "hunter2",
                "signing.pub",
                "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE= hunter2",
                "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuF=",
                "# Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=",
                " ",
            ],
        ),
        "ARCHIVE_FORMAT" => (&["zip", "tar.gz"], &["tar", "ZIP"]),
        "CROSSING" => (&["incremental"], &["increment", "Whole"]),
        "ON_REWRITE" => (&["hold"], &["refuse", "Hold"]),
        "REPUBLISH" => {
            (&["all", "on-recipient-change", "mirror/platform/api@main, mirror/a", ""], &["everything", "api"])
        }
        "OUTPUT" | "LOG_FORMAT" => (&["json"], &["yaml", "JSON"]),
        "METRICS_SERVER_ADDRESS" => {
            (&["127.0.0.1", "::", "::ffff:127.0.0.1"], &["localhost", "0.0.0.0:9090", "*", "999.1.1.1", "::1::2"])
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

/// What helm renders of these values, on top of some that are good for a program, or all that it says instead.
fn rendered(program: &str, more: &Value) -> Result<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let values = tempfile::NamedTempFile::new().unwrap();
    fs::write(values.path(), more.to_string()).unwrap();
    let mut helm = Command::new(root.join("target/kubernetes/helm"));
    helm.env_clear().args(["template", "x"]).arg(root.join(CHART));
    helm.arg("--values").arg(root.join(CHART).join(format!("ci/{program}-values.yaml")));
    let output = helm.arg("--values").arg(values.path()).output().expect("scripts/setup installs helm");
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    if output.status.success() { Ok(out) } else { Err(out + &err) }
}

/// The same, of settings alone.
fn rendered_settings(program: &str, settings: &Map<String, Value>) -> Result<String, String> {
    rendered(program, &json!({ program: { "settings": settings } }))
}

/// The settings as YAML has them without quotes: numbers, and true and false, are no texts there. `schema` is theirs.
fn without_quotes(settings: &Map<String, Value>, schema: &Map<String, Value>) -> Map<String, Value> {
    let value = |name: &str, text: &Value| match serde_json::from_str(text.as_str().unwrap()) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) if NO_TEXTS.contains(&definition(&schema[name])) => value,
        _ => text.clone(),
    };
    settings.iter().map(|(name, text)| (name.clone(), value(name, text))).collect()
}

/// The name of the definition that a setting refers to.
fn definition(setting: &Value) -> &str {
    setting["$ref"].as_str().unwrap().rsplit('/').next().unwrap()
}

/// Where the values are that have no parts.
fn places(value: &Value, at: &str) -> Vec<String> {
    match value {
        Value::Object(parts) => parts.iter().flat_map(|(name, part)| places(part, &format!("{at}/{name}"))).collect(),
        Value::Array(parts) => (0..).zip(parts).flat_map(|(n, part)| places(part, &format!("{at}/{n}"))).collect(),
        _ => vec![at.to_owned()],
    }
}

#[test]
fn helm_refuses_the_values_that_the_program_refuses() {
    let schema: Value = serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).unwrap();
    for (program, manual) in [("producer", PRODUCER), ("consumer", CONSUMER)] {
        let settings = schema["properties"][program]["properties"]["settings"]["properties"].as_object().unwrap();
        let (free, checked): (BTreeSet<_>, BTreeSet<_>) =
            settings.keys().map(String::as_str).partition(|name| FREE.contains(name));
        let is_free = |name: &&str| ["text", "file", "region", "proxy"].contains(&definition(&settings[*name]));
        assert!(free.iter().all(is_free), "{free:?}");
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
            for given_to_helm in [&given, &without_quotes(&given, settings)] {
                let rendered = rendered_settings(program, given_to_helm).unwrap();
                for (name, text) in &given {
                    // What is empty counts as unset.
                    let line = if *text == "" { format!("\n  {name}: ") } else { format!("\n  {name}: {text}\n") };
                    assert_eq!(rendered.contains(&line), *text != "", "{name}={text}: {rendered}");
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
            for given_to_helm in [&given, &without_quotes(&given, settings)] {
                let helm = rendered_settings(program, given_to_helm).unwrap_err();
                for (name, text) in &given {
                    assert!(helm.contains(&format!("/{program}/settings/{name}':")), "{name}={text}: {helm}");
                }
                for secret in ["AGE-SECRET-KEY-1", "user:password", "key:secret", "hunter2", "sekret"] {
                    assert!(!helm.contains(secret), "a credential by mistake is repeated: {helm}");
                }
            }
        }
    }
}

/// If a setting is one of a few words, the schema has those that the program's message names.
#[track_caller]
fn assert_same_choices(schema: &Value, setting: &Value, refused: &str) {
    let Some(words) = schema["definitions"][definition(setting)]["enum"].as_array() else { return };
    let words: BTreeSet<_> = words.iter().map(|word| word.as_str().unwrap()).collect();
    let named = refused.rsplit("write ").next().unwrap();
    assert_eq!(words, named.split(", ").flat_map(|part| part.split(" or ")).collect(), "{refused}");
}

#[test]
fn helm_renders_what_was_written_or_nothing() {
    // As YAML reads 010, off, and more digits than a float has.
    let misread = [("AWS_REGION", json!(8)), ("RUST_LOG", json!(false)), ("MAX_REPOSITORY_BYTES", json!(1_u64 << 53))];
    let misread = misread.into_iter().chain([("INSTANCE_SHARD", json!(1e10)), ("AWS_REGION", json!("us east"))]);
    for (name, value) in misread {
        let helm = rendered("consumer", &json!({ "consumer": { "settings": { name: value } } })).unwrap_err();
        assert!(helm.contains(&format!("'/consumer/settings/{name}':")), "{name}={value}: {helm}");
    }
    let emptied = json!({ "AWS_REGION": "", "TRUSTED_KEYS_FILE": "", "RUST_LOG": "" });
    let rendered = rendered_settings("consumer", emptied.as_object().unwrap()).unwrap();
    for name in emptied.as_object().unwrap().keys() {
        assert!(!rendered.contains(name), "{name}: {rendered}");
    }
}

#[test]
fn helm_never_repeats_a_secret_that_is_in_a_wrong_place() {
    let schema: Value = serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).unwrap();
    let identity = format!("AGE-SECRET-KEY-1{}", "SEKRET".repeat(9));
    let secrets = [
        identity.clone(),
        identity.to_lowercase(),
        format!("# created: 2026-11-27T00:00:00Z\n# public key: {RECIPIENT}\n{identity}\n"),
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEISEKRET\n-----END PRIVATE KEY-----\n".to_owned(),
        "glpat-SEKRETSEKRETSEKRET12".to_owned(),
        "https://AKIA:SEKRET@s3.example.com".to_owned(),
    ];
    for (program, secret) in
        ["producer", "consumer"].iter().flat_map(|program| secrets.iter().map(move |it| (*program, it)))
    {
        let settings = schema["properties"][program]["properties"]["settings"]["properties"].as_object().unwrap();
        let texts = settings.iter().filter(|(_, setting)| !NO_TEXTS.contains(&definition(setting)));
        let texts: Map<_, _> = texts.map(|(name, _)| (name.clone(), json!(secret))).collect();
        assert!(texts.len() > 10, "{texts:?}");
        let mut values = json!({
            "image": { "repository": secret, "tag": secret },
            "imagePullSecrets": [{ "name": secret }],
            "alerts": { "runbookUrl": secret },
            program: {
                "settings": texts,
                "existingSecret": secret,
                "ca": { "configMap": secret, "secret": secret },
                "workdir": { "existingClaim": secret },
                "ingress": { "host": secret, "className": secret, "tlsSecret": secret, "annotations": { "a": secret } },
                "podAnnotations": { "a": secret },
                "priorityClassName": secret,
                "volumes": [{ "name": "token", "secret": { "secretName": secret } }],
            },
        });
        if program == "consumer" {
            values["consumer"]["identity"] = json!({ "existingSecret": secret, "key": secret });
        }
        let helm = rendered(program, &values).unwrap_err();
        for place in places(&values, "").iter().filter(|place| !place.ends_with("/volumes/0/name")) {
            assert!(helm.contains(&format!("'{place}':")), "{place} may be {secret}: {helm}");
        }
        let is_repeated = helm.to_lowercase().contains("sekret") || helm.contains("AGE-SECRET-KEY");
        assert!(!is_repeated, "{secret}: {helm}");
    }
}
