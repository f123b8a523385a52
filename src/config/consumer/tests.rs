//! The consumer's command lines and environments in, settings or the message out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use age::x25519::Identity;
use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::super::{CONSUMER, Exit, OutputFormat, PRODUCER, Settings, parse_consumer};
use super::*;
use crate::artifact::fixture::Keys;
use crate::net::Timeouts;
use crate::plan::OnRewrite;

/// An identity as text.
fn identity() -> String {
    Identity::generate().to_string().expose_secret().to_owned()
}

/// Everything that is required, and nothing else.
fn complete() -> BTreeMap<&'static str, OsString> {
    let required = [
        ("AWS_S3_BUCKET", "partition".to_owned()),
        ("GITLAB_BASE_URL", "https://far.example.com".to_owned()),
        ("GITLAB_USERNAME", "sync".to_owned()),
        ("GITLAB_TOKEN", "glpat-hunter2".to_owned()),
        ("PRIVATE_KEY", identity()),
    ];
    required.map(|(variable, value)| (variable, value.into())).into()
}

fn parse_in(environment: &BTreeMap<&str, OsString>, words: &[&str]) -> Result<Settings<ConsumerCommand>, Exit> {
    let words = ["git-partition-sync-consumer"].iter().chain(words).map(OsString::from);
    let names: Vec<OsString> = environment.keys().map(OsString::from).collect();
    parse_consumer(words, &|variable| environment.get(variable).cloned(), &names)
}

fn parse_with(changes: &[(&'static str, &str)], words: &[&str]) -> Result<Settings<ConsumerCommand>, Exit> {
    let mut environment = complete();
    environment.extend(changes.iter().map(|(variable, value)| (*variable, value.into())));
    parse_in(&environment, words)
}

#[track_caller]
fn consume_with(changes: &[(&'static str, &str)], words: &[&str]) -> Consume {
    match parse_with(changes, words).unwrap().command {
        ConsumerCommand::Run(consume) => consume,
        other => panic!("{other:?}"),
    }
}

/// The line with the problems.
#[track_caller]
fn problem_of(result: Result<Settings<ConsumerCommand>, Exit>) -> String {
    match result.unwrap_err() {
        Exit::Problem(text) => text.lines().next().unwrap().to_owned(),
        Exit::Answer(text) => panic!("{text}"),
    }
}

#[test]
fn what_the_go_consumer_is_given_is_enough() {
    let consume = consume_with(&[], &[]);
    assert_eq!(consume.common.gitlab.base_url.as_str(), "https://far.example.com/");
    assert_eq!(consume.common.s3.bucket, "partition");
    assert_eq!(consume.keys.identities().unwrap().recipients().count(), 1);
    assert_eq!(consume.common.workdir, Path::new("/working"));
    assert_eq!(consume.sleep, None, "it depends on the bucket");
    assert!(consume.common.webhook_secret.is_none());
    assert!(!consume.common.dry_run && !consume.common.run_once && !consume.common.s3.sign_payload);
    assert_eq!(consume.keys.trusted, None);
    assert_eq!(consume.common.on_rewrite, OnRewrite::Publish);
    assert!((4..=8).contains(&consume.common.sync_concurrency.get()) && consume.common.probe_concurrency.get() == 32);
    assert_eq!(consume.common.target_timeout, Duration::from_secs(3600));
    assert_eq!(consume.common.stall_timeout, Duration::from_secs(3900));
    assert_eq!(
        (consume.common.instance.label(), consume.common.instance.name(), consume.common.metrics_port),
        ("fedramp", None, 9090)
    );

    // As its template writes them.
    let words = ["-dry-run=true", "-run-once=false"];
    let consume = consume_with(&[("AWS_S3_BUCKET", ""), ("AWS_GIT_SYNC_BUCKET", "theirs")], &words);
    assert!(consume.common.dry_run && !consume.common.run_once && consume.common.s3.bucket == "theirs");
    let consume = consume_with(&[("RECONCILE_SLEEP_TIME", "15m")], &["-run-once"]);
    assert!(consume.common.run_once && consume.sleep == Some(Duration::from_secs(900)));
}

#[test]
fn every_setting_of_the_consumer_can_be_changed_by_its_variable() {
    let changes = [
        ("AWS_REGION", "us-gov-west-1"),
        ("WORKDIR", "/var/sync"),
        ("OUTPUT", "json"),
        ("ON_REWRITE", "hold"),
        ("SYNC_CONCURRENCY", "64"),
        ("PROBE_CONCURRENCY", "1"),
        ("TARGET_TIMEOUT", "90s"),
        ("CONNECT_TIMEOUT", "3s"),
        ("IDLE_TIMEOUT", "2m"),
        ("MAX_REPOSITORY_BYTES", "2GiB"),
        ("MEMORY_BUDGET_BYTES", "300Mi"),
        ("SHARD_COUNT", "3"),
        ("SHARD_INDEX", "2"),
        ("INSTANCE_SHARD", "gov"),
        ("METRICS_SERVER_PORT", "0"),
        ("METRICS_SERVER_ADDRESS", "::1"),
        ("STALL_TIMEOUT", "20m"),
        ("RECONCILE_SLEEP_TIME", "2s"),
        ("WEBHOOK_SECRET", "open-sesame"),
    ];
    let consume = consume_with(&changes, &[]);
    assert_eq!(consume.common.s3.region.as_deref(), Some("us-gov-west-1"));
    assert_eq!((consume.common.workdir.as_path(), consume.common.output), (Path::new("/var/sync"), OutputFormat::Json));
    assert_eq!(consume.common.on_rewrite, OnRewrite::Hold);
    assert_eq!((consume.common.sync_concurrency.get(), consume.common.probe_concurrency.get()), (64, 1));
    let [connect, idle] = [3, 120].map(Duration::from_secs);
    assert_eq!((consume.common.target_timeout.as_secs(), consume.common.timeouts), (90, Timeouts { connect, idle }));
    assert_eq!((consume.common.max_repository_bytes, consume.common.memory_budget_bytes), (2 << 30, Some(300 << 20)));
    assert_eq!((consume.common.share.index(), consume.common.share.count()), (2, 3));
    assert_eq!(
        (consume.common.instance.label(), consume.common.instance.name(), consume.common.metrics_port),
        ("gov", Some("gov"), 0)
    );
    assert_eq!(
        (consume.common.metrics_address.to_string().as_str(), consume.common.stall_timeout.as_secs()),
        ("::1", 1200)
    );
    assert_eq!(consume.sleep, Some(Duration::from_secs(2)));
    assert_eq!(consume.common.webhook_secret.unwrap().read().unwrap().expose_secret(), "open-sesame");
}

#[test]
fn all_that_is_missing_is_named_at_once() {
    let missing = "missing: AWS_S3_BUCKET, GITLAB_BASE_URL, GITLAB_USERNAME, GITLAB_TOKEN or GITLAB_TOKEN_FILE, \
         PRIVATE_KEY or PRIVATE_KEY_FILE";
    assert_eq!(problem_of(parse_in(&BTreeMap::new(), &[])), missing);
    assert_eq!(problem_of(parse_in(&BTreeMap::new(), &["check"])), missing);
    assert_eq!(problem_of(parse_in(&BTreeMap::new(), &["list"])), "missing: AWS_S3_BUCKET");
    let Err(Exit::Problem(text)) = parse_in(&BTreeMap::new(), &[]) else { panic!("no problem") };
    assert!(text.ends_with("`git-partition-sync-consumer -help` explains every setting."), "{text}");
}

#[test]
fn a_command_of_the_producer_is_named_as_one() {
    let Err(Exit::Problem(text)) = parse_in(&BTreeMap::new(), &["restore"]) else { panic!("no problem") };
    let expected = "restore is a command of git-partition-sync-producer\n\
                    commands: check, list, health, completion, man, version\n";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn settings_that_only_the_producer_has_are_not_read() {
    let only_there = || PRODUCER.settings().filter(|setting| CONSUMER.setting(setting.variable).is_none());
    let mut wrong = complete();
    wrong.extend(only_there().map(|setting| (setting.variable, OsString::from("wrong"))));
    assert!(wrong.contains_key("MAX_RETIRE") && wrong.contains_key("AWS_S3_SIGN_PAYLOAD"));
    assert!(parse_in(&wrong, &[]).is_ok());
    for flag in only_there().filter_map(|setting| setting.flag) {
        let problem = problem_of(parse_with(&[], &[&format!("-{flag}=1")]));
        assert!(problem.contains(&format!("unexpected argument '-{flag}'")), "{problem}");
    }
    let problem = problem_of(parse_with(&[], &["restore"]));
    assert_eq!(problem, "restore is a command of git-partition-sync-producer");
}

#[test]
fn identities_are_one_a_line_and_come_from_the_environment_or_a_file() {
    let [one, two] = [identity(), identity()];
    let several = format!("# of the old near side\n{one}\n\n{two}\n");
    let consume = consume_with(&[("PRIVATE_KEY", &several)], &[]);
    assert_eq!(consume.keys.identities().unwrap().recipients().count(), 2);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identities.txt");
    fs::write(&path, &several).unwrap();
    let path = path.to_str().unwrap();
    for words in [&[][..], &["-private-key-file", path]] {
        let file = if words.is_empty() { path } else { "" };
        let consume = consume_with(&[("PRIVATE_KEY", ""), ("PRIVATE_KEY_FILE", file)], words);
        assert_eq!(consume.keys.identities().unwrap().recipients().count(), 2);
        fs::write(path, &one).unwrap();
        assert_eq!(consume.keys.identities().unwrap().recipients().count(), 1, "it is read again");
        fs::write(path, "nothing").unwrap();
        let error = format!("{:#}", consume.keys.identities().unwrap_err());
        assert_eq!(error, "PRIVATE_KEY_FILE: line 1 is neither a secret key (AGE-SECRET-KEY-1…) nor a comment (#…)");
        fs::write(path, &several).unwrap();
    }
    let twice = problem_of(parse_with(&[("PRIVATE_KEY_FILE", path)], &[]));
    assert_eq!(twice, "PRIVATE_KEY: set together with PRIVATE_KEY_FILE: keep one of the two");
    let nowhere = problem_of(parse_with(&[("PRIVATE_KEY", ""), ("PRIVATE_KEY_FILE", "/nowhere")], &[]));
    assert!(nowhere.starts_with("PRIVATE_KEY_FILE: cannot read /nowhere: "), "{nowhere}");
}

#[test]
fn what_is_not_an_identity_is_explained_and_not_shown() {
    let recipient = Identity::generate().to_public().to_string();
    let broken = identity().replacen("KEY-1", "KEY-1X", 1);
    for (text, explanation) in [
        (recipient.clone(), "PRIVATE_KEY: line 1 holds a recipient (a public key, age1…)"),
        (
            format!("{}\n{broken}", identity()),
            "PRIVATE_KEY: line 2 begins with AGE-SECRET-KEY-1, but has a typing error",
        ),
        ("# nothing".to_owned(), "PRIVATE_KEY: it holds no secret key"),
        (" ".to_owned(), "PRIVATE_KEY: is blank"),
    ] {
        let problem = problem_of(parse_with(&[("PRIVATE_KEY", &text)], &[]));
        assert!(problem.starts_with(explanation), "{problem}");
        assert!(!problem.contains(&broken) && !problem.contains(&recipient), "{problem}");
    }
    let secret = identity();
    let shown = format!("{:?}", parse_with(&[("PRIVATE_KEY", &secret)], &[]).unwrap());
    assert!(!shown.contains(&secret) && !shown.contains("glpat-hunter2"), "{shown}");
    let echoed = std::io::Error::other(format!("the server says {secret}"));
    assert_eq!(error_chain(&echoed), "the server says [secret]");
}

#[test]
fn trusted_keys_come_from_the_environment_or_a_file_that_is_read_again() {
    let [one, two] = [Keys::new(), Keys::new()];
    let ids = |consume: &Consume| consume.keys.trusted_keys().unwrap().unwrap().ids().collect::<Vec<_>>();
    assert_eq!(consume_with(&[], &[]).keys.trusted_keys().unwrap(), None);
    let both = one.public_pem() + &two.public_pem();
    assert_eq!(ids(&consume_with(&[("TRUSTED_KEYS", &both)], &[])), [one.signing().id(), two.signing().id()]);
    let path = one.dir.path().join("trusted");
    fs::write(&path, one.public_pem()).unwrap();
    let path = path.to_str().unwrap();
    for (file, words) in [(path, &[][..]), ("", &["-trusted-keys-file", path])] {
        let consume = consume_with(&[("TRUSTED_KEYS_FILE", file)], words);
        assert_eq!(ids(&consume), [one.signing().id()]);
        fs::write(path, &both).unwrap();
        assert_eq!(ids(&consume), [one.signing().id(), two.signing().id()]);
        fs::remove_file(path).unwrap();
        let error = format!("{:#}", consume.keys.trusted_keys().unwrap_err());
        assert!(error.starts_with(&format!("TRUSTED_KEYS_FILE: {path}: cannot be read: ")), "{error}");
        fs::write(path, one.public_pem()).unwrap();
    }
    let problem = problem_of(parse_with(&[("TRUSTED_KEYS", "hunter2")], &[]));
    assert!(
        problem.starts_with("TRUSTED_KEYS: line 1 is neither a public key") && !problem.contains("hunter2"),
        "{problem}"
    );
}

#[test]
fn progress_is_shown_for_what_ends() {
    let shows = |words: &[&str]| parse_with(&[], words).unwrap().shows_progress();
    assert!(shows(&["-run-once"]) && shows(&["list"]) && shows(&["check"]));
    assert!(!shows(&[]) && !shows(&["-run-once", "-progress=false"]));
}

#[test]
fn help_and_version_name_the_consumer() {
    let answer = |words: &[&str]| match parse_in(&BTreeMap::new(), words).unwrap_err() {
        Exit::Answer(text) => text,
        Exit::Problem(text) => panic!("{text}"),
    };
    assert_eq!(answer(&["-version"]), concat!("git-partition-sync-consumer ", env!("CARGO_PKG_VERSION")));
    for words in [&["-help"][..], &["check", "-help"], &["list", "-h"], &["health", "-h"], &["man", "-h"]] {
        let help = answer(words);
        assert!(help.contains("\n  git-partition-sync-consumer "), "{help}");
        assert!(!help.contains("GraphQL") && !help.contains("restore"), "{help}");
    }
}

proptest! {
    #[test]
    fn no_words_and_no_values_make_it_panic(
        words in proptest::collection::vec("-{0,2}(workdir|dry-run|check|list|restore|max-retire|help)?=?\\PC{0,8}", 0..5),
        values in proptest::collection::vec("\\PC{0,20}", CONSUMER.settings().count()),
    ) {
        let variables = CONSUMER.settings().map(|setting| setting.variable);
        let environment: BTreeMap<&str, OsString> = variables.zip(values.iter().map(OsString::from)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let _ = parse_in(&environment, &words);
    }
}
