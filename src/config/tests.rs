//! Command lines and environments in, settings or the message out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::help::*;
use super::reference::*;
use super::values::*;
use super::*;
use crate::artifact::fixture::Keys;
use crate::model::key::{ArchiveFormat, Destination};
use crate::model::program::Program;
use crate::secret::{SecretError, without_line_end};

const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
const TOKEN: &str = "glpat-hunter2";

/// Everything that is required, and nothing else.
fn complete() -> BTreeMap<&'static str, OsString> {
    let required = [
        ("AWS_S3_BUCKET", "partition"),
        ("GITLAB_BASE_URL", "https://gitlab.example.com"),
        ("GITLAB_USERNAME", "sync"),
        ("GITLAB_TOKEN", TOKEN),
        ("GRAPHQL_SERVER", "https://qontract.example.com/graphql"),
        ("PUBLIC_KEY", RECIPIENT),
    ];
    required.map(|(variable, value)| (variable, value.into())).into()
}

fn parse_in(environment: &BTreeMap<&str, OsString>, arguments: &[&str]) -> Result<Settings, Exit> {
    let words = ["git-partition-sync-producer"].iter().chain(arguments).map(OsString::from);
    parse(words, &|variable| environment.get(variable).cloned(), &names(environment))
}

fn names(environment: &BTreeMap<&str, OsString>) -> Vec<OsString> {
    environment.keys().map(OsString::from).collect()
}

/// The settings of a complete environment with some changes; an empty value takes a variable out.
fn parse_with(changes: &[(&'static str, &str)], arguments: &[&str]) -> Result<Settings, Exit> {
    let mut environment = complete();
    environment.extend(changes.iter().map(|(variable, value)| (*variable, value.into())));
    parse_in(&environment, arguments)
}

#[track_caller]
fn run_with(changes: &[(&'static str, &str)], arguments: &[&str]) -> Run {
    match parse_with(changes, arguments).unwrap().command {
        Command::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn server_of(targets: TargetList) -> Graphql {
    match targets {
        TargetList::Server(graphql) => *graphql,
        TargetList::File(file) => panic!("{file:?}"),
    }
}

/// The lines with the problems.
#[track_caller]
fn problem_of(result: Result<Settings, Exit>) -> String {
    match result.unwrap_err() {
        Exit::Problem(text) => text.rsplit_once('\n').unwrap().0.to_owned(),
        Exit::Answer(text) => panic!("{text}"),
    }
}

#[track_caller]
fn problem_with(changes: &[(&'static str, &str)], arguments: &[&str]) -> String {
    problem_of(parse_with(changes, arguments))
}

#[track_caller]
fn answer_to(arguments: &[&str]) -> String {
    match parse_in(&BTreeMap::new(), arguments).unwrap_err() {
        Exit::Answer(text) => text,
        Exit::Problem(text) => panic!("{text}"),
    }
}

fn file_with(content: impl AsRef<[u8]>) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn the_required_settings_are_enough() {
    let settings = parse_with(&[], &[]).unwrap();
    assert_eq!(settings.log_format, LogFormat::Text);
    let run = run_with(&[], &[]);
    assert_eq!(run.common.gitlab.base_url.as_str(), "https://gitlab.example.com/");
    assert_eq!(run.common.gitlab.username, "sync");
    assert_eq!(run.common.gitlab.token.read().unwrap().expose_secret(), TOKEN);
    let graphql = server_of(run.targets);
    assert_eq!(graphql.server.as_str(), "https://qontract.example.com/graphql");
    assert!(graphql.login.is_none() && graphql.pr_check.is_none());
    let s3 = S3 {
        bucket: "partition".to_owned(),
        region: None,
        endpoint_url: None,
        force_path_style: false,
        sign_payload: false,
        use_fips: false,
    };
    assert_eq!(run.common.s3, s3);
    assert_eq!(run.recipients, [RECIPIENT.parse().unwrap()]);
    assert_eq!(run.common.workdir, Path::new("/working"));
    assert_eq!(run.sleep, Duration::from_secs(300));
    assert!(!run.common.dry_run && !run.common.run_once);
    assert_eq!(run.common.output, OutputFormat::Text);
    assert_eq!(run.archive_format, FormatChoice::Auto);
    assert_eq!((run.crossing, run.max_increments.get()), (Crossing::Whole, 8));
    assert!(run.signing_key.is_none());
    assert_eq!(run.max_retire, MaxRetire::Percent(50));
    assert!((4..=8).contains(&run.common.sync_concurrency.get()));
    assert_eq!(run.common.probe_concurrency.get(), 32);
    assert_eq!(run.common.target_timeout, Duration::from_secs(3600));
    assert_eq!(run.mirror_cache_bytes, 5 << 30);
    assert_eq!(run.common.max_repository_bytes, 100 << 30);
    assert_eq!(run.common.memory_budget_bytes, None);
    assert_eq!((run.common.instance.label(), run.common.instance.name()), ("fedramp", None));
    assert_eq!(run.common.metrics_port, 9090);
    assert_eq!(run.common.metrics_address.to_string(), "0.0.0.0");
    assert_eq!(run.common.stall_timeout, run.common.target_timeout + Duration::from_secs(300));
    assert!(run.common.webhook_secret.is_none());
}

#[test]
fn every_setting_can_be_changed_by_its_variable() {
    let keys = Keys::new();
    let key_file = keys.dir.path().join("signing.pem");
    let changes = [
        ("AWS_REGION", "us-gov-west-1"),
        ("WORKDIR", "/var/sync"),
        ("RECONCILE_SLEEP_TIME", "1h30m"),
        ("DRY_RUN", "T"),
        ("RUN_ONCE", "1"),
        ("OUTPUT", "json"),
        ("LOG_FORMAT", "json"),
        ("ARCHIVE_FORMAT", "tar.gz"),
        ("CROSSING", "incremental"),
        ("MAX_INCREMENTS", "64"),
        ("SIGNING_KEY_FILE", key_file.to_str().unwrap()),
        ("MAX_RETIRE", "7"),
        ("SYNC_CONCURRENCY", "64"),
        ("PROBE_CONCURRENCY", "1"),
        ("TARGET_TIMEOUT", "90s"),
        ("MIRROR_CACHE_BYTES", "0"),
        ("MAX_REPOSITORY_BYTES", "2GiB"),
        ("MEMORY_BUDGET_BYTES", "300Mi"),
        ("INSTANCE_SHARD", "gov"),
        ("METRICS_SERVER_PORT", "0"),
        ("METRICS_SERVER_ADDRESS", "::1"),
        ("STALL_TIMEOUT", "20m"),
        ("WEBHOOK_SECRET", "open sesame"),
    ];
    assert_eq!(parse_with(&changes, &[]).unwrap().log_format, LogFormat::Json);
    let run = run_with(&changes, &[]);
    assert_eq!(run.common.s3.region.as_deref(), Some("us-gov-west-1"));
    assert_eq!(run.common.workdir, Path::new("/var/sync"));
    assert_eq!(run.sleep, Duration::from_secs(5400));
    assert!(run.common.dry_run && run.common.run_once);
    assert_eq!(run.common.output, OutputFormat::Json);
    assert_eq!(run.archive_format, FormatChoice::Only(ArchiveFormat::TarGz));
    assert_eq!((run.crossing, run.max_increments.get()), (Crossing::Incremental, 64));
    assert_eq!(run.signing_key.unwrap().id(), keys.signing().id());
    assert_eq!(run.max_retire, MaxRetire::Count(7));
    assert_eq!(run.common.sync_concurrency.get(), 64);
    assert_eq!(run.common.probe_concurrency.get(), 1);
    assert_eq!(run.common.target_timeout, Duration::from_secs(90));
    assert_eq!(run.mirror_cache_bytes, 0);
    assert_eq!(run.common.max_repository_bytes, 2 << 30);
    assert_eq!(run.common.memory_budget_bytes, Some(300 << 20));
    assert_eq!((run.common.instance.label(), run.common.instance.name()), ("gov", Some("gov")));
    assert_eq!(run.common.metrics_port, 0);
    assert_eq!(run.common.metrics_address.to_string(), "::1");
    assert_eq!(run.common.stall_timeout, Duration::from_secs(1200));
    assert_eq!(run.common.webhook_secret.unwrap().read().unwrap().expose_secret(), "open sesame");
}

#[test]
fn all_that_is_missing_is_named_at_once() {
    let problem = problem_of(parse_in(&BTreeMap::new(), &[]));
    let missing = "missing: AWS_S3_BUCKET, GITLAB_BASE_URL, GITLAB_USERNAME, GITLAB_TOKEN or GITLAB_TOKEN_FILE, \
         GRAPHQL_SERVER or TARGETS_FILE, PUBLIC_KEY";
    assert_eq!(problem, missing);
}

#[test]
fn missing_and_wrong_settings_have_a_line_each_and_the_missing_come_first() {
    let changes = [
        ("AWS_S3_BUCKET", ""),
        ("PUBLIC_KEY", ""),
        ("RECONCILE_SLEEP_TIME", "5x"),
        ("DRY_RUN", "maybe"),
        ("PROBE_CONCURRENCY", "0"),
    ];
    let expected = "missing: AWS_S3_BUCKET, PUBLIC_KEY\n\
         DRY_RUN: \"maybe\" is neither true nor false: write one of these\n\
         PROBE_CONCURRENCY: \"0\" is not a number from 1 to 256\n\
         RECONCILE_SLEEP_TIME: \"5x\" is not a duration: the unit \"x\" is none of h, m, s, ms, us and ns, \
         write for example 90s or 5m";
    assert_eq!(problem_with(&changes, &[]), expected);
}

#[test]
fn every_wrong_setting_is_reported_however_many_there_are() {
    let wrong = [
        ("AWS_S3_BUCKET", "s3://partition"),
        ("AWS_REGION", "us\ngov"),
        ("AWS_ENDPOINT_URL_S3", "s3.example.com"),
        ("AWS_S3_FORCE_PATH_STYLE", "yes"),
        ("AWS_USE_FIPS_ENDPOINT", "on"),
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("ALLOW_INSECURE_HTTP", "perhaps"),
        ("GITLAB_BASE_URL", "gitlab"),
        ("GITLAB_USERNAME", "a:b"),
        ("GITLAB_TOKEN", " "),
        ("GRAPHQL_SERVER", "ftp://x"),
        ("GRAPHQL_QUERY_FILE", "/no/such/file"),
        ("GRAPHQL_USERNAME", "alone"),
        ("PUBLIC_KEY", "key"),
        ("WORKDIR", "/a\tb"),
        ("RECONCILE_SLEEP_TIME", "0"),
        ("DRY_RUN", "y"),
        ("RUN_ONCE", "n"),
        ("OUTPUT", "xml"),
        ("LOG_FORMAT", "xml"),
        ("ARCHIVE_FORMAT", "rar"),
        ("CROSSING", "thin"),
        ("MAX_INCREMENTS", "65"),
        ("SIGNING_KEY_FILE", "/no/such/key"),
        ("MAX_RETIRE", "101%"),
        ("SYNC_CONCURRENCY", "65"),
        ("PROBE_CONCURRENCY", "-1"),
        ("TARGET_TIMEOUT", "-1s"),
        ("MIRROR_CACHE_BYTES", "5G"),
        ("MAX_REPOSITORY_BYTES", "0"),
        ("MEMORY_BUDGET_BYTES", "15Mi"),
        ("INSTANCE_SHARD", "\u{7f}"),
        ("METRICS_SERVER_PORT", "65536"),
    ];
    let problem = problem_with(&wrong, &[]);
    for (variable, _) in wrong {
        assert!(problem.lines().any(|line| line.starts_with(&format!("{variable}: "))), "{variable}");
    }
    assert_eq!(problem.lines().count(), wrong.len(), "{problem}");
    assert!(!problem.contains("missing"), "{problem}");
}

#[test]
fn problems_end_with_the_way_to_help() {
    let Exit::Problem(text) = parse_in(&BTreeMap::new(), &[]).unwrap_err() else { panic!("not a problem") };
    assert_eq!(text.lines().count(), 2);
    assert!(text.ends_with("`git-partition-sync-producer -help` explains every setting."), "{text}");
}

#[test]
fn problems_of_a_command_end_with_the_way_to_its_own_help() {
    let Exit::Problem(text) = parse_in(&BTreeMap::new(), &["restore"]).unwrap_err() else { panic!("not a problem") };
    assert!(text.starts_with("missing: AWS_S3_BUCKET, -identity\n"), "{text}");
    assert!(text.ends_with("`git-partition-sync-producer restore -help` explains its options and settings."), "{text}");
    let Exit::Problem(text) = parse_in(&BTreeMap::new(), &["check"]).unwrap_err() else { panic!("not a problem") };
    assert!(text.ends_with("`git-partition-sync-producer -help` explains every setting."), "{text}");
}

#[test]
fn an_unknown_command_is_answered_with_those_that_there_are() {
    let problem = problem_with(&[], &["chekc"]);
    assert_eq!(problem, "'chekc' is not a command\ncommands: check, list, restore, health, completion, man, version");
    assert!(problem_with(&[], &["\u{1b}[2J"]).starts_with("'\\u{1b}[2J' is not a command\n"));
}

#[test]
fn the_region_that_most_likely_is_missing_is_named_with_other_problems() {
    const SAID: &str = "AWS_REGION is not set either: ";
    let keys = [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let with = |more: &[(&'static str, &str)]| problem_with(&[&keys[..], &[("PUBLIC_KEY", "")], more].concat(), &[]);
    let problem = with(&[]);
    assert!(problem.starts_with("missing: PUBLIC_KEY\n") && problem.contains(SAID), "{problem}");
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".aws")).unwrap();
    fs::write(home.path().join(".aws/config"), "").unwrap();
    for source in [
        ("AWS_REGION", "us-gov-west-1"),
        ("AWS_DEFAULT_REGION", "us-gov-west-1"),
        ("AWS_PROFILE", "sync"),
        ("AWS_CONFIG_FILE", "/etc/aws"),
        ("HOME", home.path().to_str().unwrap()),
        // A role of the machine, which then knows its region.
        ("AWS_ACCESS_KEY_ID", ""),
    ] {
        let more = if source.1.is_empty() { vec![source, ("AWS_SECRET_ACCESS_KEY", "")] } else { vec![source] };
        assert_eq!(with(&more), "missing: PUBLIC_KEY", "{source:?}");
    }
    assert!(parse_with(&keys, &[]).is_ok(), "the SDK may find it");
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    assert_eq!(
        run_with(&[("WORKDIR", ""), ("RUN_ONCE", ""), ("AWS_REGION", "")], &[]).common.workdir,
        Path::new("/working")
    );
    assert_eq!(problem_with(&[("GITLAB_TOKEN", "")], &[]), "missing: GITLAB_TOKEN or GITLAB_TOKEN_FILE");
}

#[test]
fn an_empty_flag_is_a_problem() {
    let problem = problem_with(&[], &["-workdir=", "-dry-run="]);
    assert!(problem.contains("WORKDIR: the flag -workdir is empty"), "{problem}");
    assert!(problem.contains("DRY_RUN: the flag -dry-run is empty"), "{problem}");
}

#[test]
fn a_flag_wins_over_its_variable() {
    let run = run_with(&[("WORKDIR", "/a"), ("DRY_RUN", "true")], &["-workdir=/b", "-dry-run=false"]);
    assert_eq!(run.common.workdir, Path::new("/b"));
    assert!(!run.common.dry_run);
}

#[test]
fn a_flag_hides_a_variable_that_is_wrong() {
    let changes = [("METRICS_SERVER_PORT", "tcp://10.0.0.1:9090")];
    assert_eq!(run_with(&changes, &["-metrics-server-port", "9191"]).common.metrics_port, 9191);
}

#[test]
fn the_last_of_two_equal_flags_wins() {
    assert_eq!(run_with(&[], &["-workdir", "/a", "--workdir=/b"]).common.workdir, Path::new("/b"));
    assert!(!run_with(&[], &["-dry-run", "-dry-run=0"]).common.dry_run);
    let list = parse_with(&[], &["-output=text", "list", "-output=json"]).unwrap().command;
    assert!(matches!(list, Command::List(List { output: OutputFormat::Json, .. })), "{list:?}");
}

#[test]
fn flags_are_spelled_as_in_go() {
    for spelling in [&["-workdir", "/w"][..], &["--workdir", "/w"], &["-workdir=/w"], &["--workdir=/w"]] {
        assert_eq!(run_with(&[], spelling).common.workdir, Path::new("/w"), "{spelling:?}");
    }
    assert_eq!(run_with(&[], &["-workdir=-w"]).common.workdir, Path::new("-w"));
    assert_eq!(run_with(&[], &["-workdir==w"]).common.workdir, Path::new("=w"));
    for spelling in ["-dry-run", "--dry-run", "-dry-run=true", "--dry-run=T"] {
        assert!(run_with(&[], &[spelling, "-run-once=true"]).common.dry_run, "{spelling}");
    }
}

#[test]
fn a_flag_does_not_take_another_flag_for_its_value() {
    let problem = problem_with(&[], &["-workdir", "-dry-run"]);
    assert!(problem.contains("a value is required for '-workdir <VALUE>'"), "{problem}");
}

#[test]
fn a_switch_never_takes_the_next_word() {
    let command = parse_with(&[], &["-dry-run", "list"]).unwrap().command;
    assert!(matches!(command, Command::List(_)), "{command:?}");
    let problem = problem_with(&[], &["-dry-run", "false"]);
    assert!(problem.contains("-dry-run=false"), "{problem}");
}

#[test]
fn switches_take_the_spellings_of_go_and_no_others() {
    for spelling in ["1", "t", "T", "TRUE", "true", "True"] {
        assert_eq!(boolean(spelling), Ok(true), "{spelling}");
    }
    for spelling in ["0", "f", "F", "FALSE", "false", "False"] {
        assert_eq!(boolean(spelling), Ok(false), "{spelling}");
    }
    for spelling in ["", "yes", "no", "on", "off", "tRUE", "fAlse", " true", "2", "01"] {
        assert!(boolean(spelling).is_err(), "{spelling}");
    }
}

#[test]
fn an_unknown_flag_is_a_problem_with_the_nearest_one() {
    let Exit::Problem(text) = parse_with(&[], &["-dryrun"]).unwrap_err() else { panic!("not a problem") };
    assert!(text.contains("unexpected argument '-dryrun' found"), "{text}");
    assert!(text.contains("'-dry-run'"), "{text}");
    assert!(text.contains("Usage: git-partition-sync-producer [SETTING]…"), "{text}");
    let Exit::Problem(text) = parse_with(&[], &["list", "-odd/project"]).unwrap_err() else { panic!("not a problem") };
    assert!(text.contains("unexpected argument '-odd/project' found"), "{text}");
    assert!(text.contains("use '-- -odd/project'"), "{text}");
}

#[test]
fn a_stray_word_is_a_problem() {
    assert!(problem_with(&[], &["lst"]).contains("'lst'"));
    assert!(problem_with(&[], &["check", "more"]).contains("'more'"));
}

#[test]
fn values_that_are_not_utf8_are_a_problem_with_a_name() {
    let bytes = OsString::from_vec(b"/work\xff".to_vec());
    let mut environment = complete();
    environment.insert("WORKDIR", bytes.clone());
    environment.insert("GITLAB_TOKEN", OsString::from_vec(b"hunter2\xff".to_vec()));
    assert_eq!(problem_of(parse_in(&environment, &[])), "GITLAB_TOKEN: is not UTF-8 text\nWORKDIR: is not UTF-8 text");

    let environment = complete();
    let words = ["producer".into(), "-workdir".into(), bytes];
    let result = parse(words, &|variable| environment.get(variable).cloned(), &names(&environment));
    assert_eq!(problem_of(result), "WORKDIR: is not UTF-8 text");
}

#[test]
fn the_names_of_the_go_programs_are_understood_and_ours_win() {
    let (_folder, ours) = file_with("query { a }");
    let (_other_folder, theirs) = file_with("query { b }");
    let go = [("AWS_S3_BUCKET", ""), ("AWS_GIT_SYNC_BUCKET", "theirs"), ("GRAPHQL_GLSYNC_QUERY_FILE", &theirs)];
    let run = run_with(&go, &[]);
    assert_eq!(run.common.s3.bucket, "theirs");
    assert_eq!(server_of(run.targets).query, QuerySource::File(PathBuf::from(&theirs)));

    let both = [&go[1..], &[("AWS_S3_BUCKET", "ours"), ("GRAPHQL_QUERY_FILE", &ours)]].concat();
    let run = run_with(&both, &[]);
    assert_eq!(run.common.s3.bucket, "ours");
    assert_eq!(server_of(run.targets).query, QuerySource::File(PathBuf::from(&ours)));

    let wrong = problem_with(&[("AWS_S3_BUCKET", ""), ("AWS_GIT_SYNC_BUCKET", "a/b")], &[]);
    assert!(wrong.starts_with("AWS_GIT_SYNC_BUCKET: "), "{wrong}");
}

#[test]
fn the_values_that_completions_offer_are_those_that_are_taken() {
    let mut choices = 0;
    for setting in PRODUCER.settings() {
        let Kind::Choice(values) = setting.kind else { continue };
        choices += 1;
        for value in values {
            parse_with(&[(setting.variable, value)], &[]).unwrap();
        }
        let problem = problem_with(&[(setting.variable, "something else")], &[]);
        assert!(problem.starts_with(setting.variable), "{problem}");
        assert!(values.iter().all(|value| problem.contains(value)), "{problem}");
        for shell in ["bash", "fish", "zsh"] {
            let script = answer_to(&["completion", shell]);
            let offered = match shell {
                "bash" => values.join(" "),
                "zsh" => format!("({})", values.join(" ")),
                _ => values.iter().map(|value| format!("{value}\\t''")).collect::<Vec<_>>().join("\n"),
            };
            assert!(script.contains(&offered), "{shell} does not offer {offered}");
        }
    }
    assert_eq!(choices, 5);
}

// Secrets

#[test]
fn secrets_have_no_flag_and_a_try_does_not_show_them() {
    for setting in PRODUCER.settings() {
        assert!(setting.kind != Kind::Secret || setting.flag.is_none(), "{}", setting.variable);
    }
    for arguments in [&["-gitlab-token=hunter2"][..], &["-gitlab-token", "hunter2"], &["-graphql-password=hunter2"]] {
        let Exit::Problem(text) = parse_with(&[], arguments).unwrap_err() else { panic!("not a problem") };
        assert!(text.contains("unexpected argument"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn neither_debug_nor_any_problem_shows_a_secret() {
    let secrets = [
        ("GITLAB_TOKEN", "hunter2-token"),
        ("GRAPHQL_USERNAME", "reader"),
        ("GRAPHQL_PASSWORD", "hunter2-password"),
        ("AWS_ACCESS_KEY_ID", "hunter2-id"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2-key"),
    ];
    let settings = parse_with(&secrets, &[]).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));

    let misplaced = [
        ("GITLAB_TOKEN_FILE", "/some/file"),
        ("AWS_ACCESS_KEY_ID", ""),
        ("GRAPHQL_USERNAME", "oauth2:hunter2"),
        ("GITLAB_USERNAME", "oauth2:hunter2"),
        ("GITLAB_BASE_URL", "https://oauth2:hunter2@gitlab.example.com"),
        ("GRAPHQL_SERVER", "hunter2:hunter2@qontract.example.com/graphql"),
        ("AWS_ENDPOINT_URL_S3", "https://s3.example.com?key=hunter2"),
        ("PUBLIC_KEY", "hunter2"),
    ];
    let problem = problem_with(&[&secrets[..], &misplaced].concat(), &[]);
    assert!(!problem.contains("hunter2"), "{problem}");
    for (variable, _) in &misplaced[2..] {
        assert!(problem.contains(variable), "{variable} in {problem}");
    }
}

#[test]
fn a_secret_from_a_file_is_read_again_each_time_without_its_line_end() {
    let (_folder, path) = file_with("first\n");
    let run = run_with(&[("GITLAB_TOKEN", ""), ("GITLAB_TOKEN_FILE", &path)], &[]);
    assert_eq!(run.common.gitlab.token.read().unwrap().expose_secret(), "first");
    fs::write(&path, "second\r\n").unwrap();
    assert_eq!(run.common.gitlab.token.read().unwrap().expose_secret(), "second");
    fs::write(&path, "\n").unwrap();
    assert!(matches!(run.common.gitlab.token.read(), Err(SecretError::Empty(_))));
    fs::remove_file(&path).unwrap();
    assert!(matches!(run.common.gitlab.token.read(), Err(SecretError::Unreadable { .. })));
}

#[test]
fn a_secret_s_file_can_be_named_by_a_flag() {
    let (_folder, path) = file_with("third");
    let run = run_with(&[("GITLAB_TOKEN", "")], &["-gitlab-token-file", &path]);
    assert_eq!(run.common.gitlab.token.read().unwrap().expose_secret(), "third");
}

#[test]
fn one_line_end_behind_a_secret_is_cut_and_the_rest_is_kept() {
    for (given, expected) in [
        ("a", "a"),
        ("\u{feff}a\n", "a"),
        ("a\n", "a"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        (" a ", " a "),
        ("a\r", "a\r"),
    ] {
        assert_eq!(without_line_end(given).unwrap().expose_secret(), expected, "{given:?}");
    }
    for blank in ["", "\n", "\r\n", " \n"] {
        assert!(without_line_end(blank).is_none(), "{blank:?}");
    }
    let run = run_with(&[("GITLAB_TOKEN", "token\n")], &[]);
    assert_eq!(run.common.gitlab.token.read().unwrap().expose_secret(), "token");
}

#[test]
fn a_secret_given_twice_is_a_problem() {
    let problem = problem_with(&[("GITLAB_TOKEN_FILE", "/file")], &[]);
    assert_eq!(problem, "GITLAB_TOKEN: set together with GITLAB_TOKEN_FILE: keep one of the two");
    let twice = [("GRAPHQL_USERNAME", "u"), ("GRAPHQL_PASSWORD", "p"), ("GRAPHQL_PASSWORD_FILE", "/file")];
    let problem = problem_with(&twice, &[]);
    assert_eq!(problem, "GRAPHQL_PASSWORD: set together with GRAPHQL_PASSWORD_FILE: keep one of the two");
}

#[test]
fn a_secret_s_file_without_a_secret_is_a_problem_at_the_start() {
    let (_folder, path) = file_with("\n");
    let problem = problem_with(&[("GITLAB_TOKEN", ""), ("GITLAB_TOKEN_FILE", &path)], &[]);
    assert_eq!(problem, format!("GITLAB_TOKEN_FILE: {path} is empty"));
    let problem = problem_with(&[("GITLAB_TOKEN", ""), ("GITLAB_TOKEN_FILE", "/no/such/file")], &[]);
    assert!(problem.starts_with("GITLAB_TOKEN_FILE: cannot read /no/such/file: "), "{problem}");
}

// Signatures

#[test]
fn a_signing_key_is_checked_at_the_start_and_never_shown() {
    let keys = Keys::new();
    let file = |name: &str| keys.dir.path().join(name).to_str().unwrap().to_owned();
    let settings = parse_with(&[("SIGNING_KEY_FILE", &file("signing.pem"))], &[]).unwrap();
    let secret = keys.private_pem().lines().nth(1).unwrap().to_owned();
    let shown = format!("{settings:?}");
    assert!(shown.contains(&format!("SigningKey({})", keys.signing().id())) && !shown.contains(&secret), "{shown}");
    let problem = problem_with(&[], &["-signing-key-file", &file("signing.pub")]);
    assert_eq!(
        problem,
        format!(
            "SIGNING_KEY_FILE: {}: it holds the public key; give the private one, which `openssl genpkey -algorithm ed25519` has written",
            file("signing.pub")
        )
    );
}

/// What `restore` is to trust.
fn trusted_by_restore(changes: &[(&'static str, &str)]) -> Result<Option<Trusted>, Exit> {
    let (_folder, identity) = file_with("AGE-SECRET-KEY-1");
    let settings = parse_with(changes, &["restore", "-identity", &identity])?;
    match settings.command {
        Command::Restore(restore) => Ok(restore.trusted),
        other => panic!("{other:?}"),
    }
}

#[test]
fn restore_trusts_the_keys_it_is_given_and_a_file_of_them_is_read_again() {
    let [one, two] = [Keys::new(), Keys::new()];
    let ids = |trusted: &Option<Trusted>| trusted.as_ref().unwrap().keys().unwrap().ids().collect::<Vec<_>>();
    assert_eq!(trusted_by_restore(&[]).unwrap(), None);
    assert_eq!(trusted_by_restore(&[("TRUSTED_KEYS", "")]).unwrap(), None);
    let trusted = trusted_by_restore(&[("TRUSTED_KEYS", &one.public_pem())]).unwrap();
    assert_eq!(ids(&trusted), [one.signing().id()]);
    let (_folder, path) = file_with(one.public_pem());
    let trusted = trusted_by_restore(&[("TRUSTED_KEYS_FILE", &path)]).unwrap();
    fs::write(&path, one.public_pem() + &two.public_pem()).unwrap();
    assert_eq!(ids(&trusted), [one.signing().id(), two.signing().id()]);
    fs::write(&path, "").unwrap();
    let error = format!("{:#}", trusted.unwrap().keys().unwrap_err());
    assert_eq!(
        error,
        format!("TRUSTED_KEYS_FILE: {path}: it holds no key; give what `openssl pkey -in KEY -pubout` prints")
    );

    let problem = |changes: &[(&'static str, &str)]| match trusted_by_restore(changes).unwrap_err() {
        Exit::Problem(text) => text.lines().next().unwrap().to_owned(),
        Exit::Answer(text) => panic!("{text}"),
    };
    assert!(
        problem(&[("TRUSTED_KEYS_FILE", &path)]).starts_with(&format!("TRUSTED_KEYS_FILE: {path}: it holds no key"))
    );
    assert!(
        problem(&[("TRUSTED_KEYS", " ")]).starts_with("TRUSTED_KEYS: it holds no key"),
        "it is never switched off by mistake"
    );
    let twice = problem(&[("TRUSTED_KEYS", &one.public_pem()), ("TRUSTED_KEYS_FILE", &path)]);
    assert_eq!(twice, "TRUSTED_KEYS: set together with TRUSTED_KEYS_FILE: keep one of the two");
    let private = problem(&[("TRUSTED_KEYS", &one.private_pem())]);
    assert!(private.starts_with("TRUSTED_KEYS: line 1 begins a private key"), "{private}");
}

// GraphQL

#[test]
fn graphql_takes_a_user_and_a_password_or_neither() {
    let run = run_with(&[("GRAPHQL_USERNAME", "reader"), ("GRAPHQL_PASSWORD", "p")], &[]);
    let (username, password) = server_of(run.targets).login.unwrap();
    assert_eq!((username.as_str(), password.read().unwrap().expose_secret()), ("reader", "p"));

    let problem = problem_with(&[("GRAPHQL_USERNAME", "reader")], &[]);
    assert!(problem.starts_with("GRAPHQL_USERNAME: set without GRAPHQL_PASSWORD: "), "{problem}");
    let problem = problem_with(&[("GRAPHQL_PASSWORD", "p")], &[]);
    assert!(problem.starts_with("GRAPHQL_PASSWORD: set without GRAPHQL_USERNAME: "), "{problem}");
}

#[test]
fn the_pair_dev_dev_means_no_login() {
    let (_folder, path) = file_with("dev\n");
    let login = |changes: &[(&'static str, &str)]| server_of(run_with(changes, &[]).targets).login;
    assert!(login(&[("GRAPHQL_USERNAME", "dev"), ("GRAPHQL_PASSWORD", "dev")]).is_none());
    assert!(login(&[("GRAPHQL_USERNAME", "dev"), ("GRAPHQL_PASSWORD_FILE", path.as_str())]).is_none());
    assert!(login(&[("GRAPHQL_USERNAME", "dev"), ("GRAPHQL_PASSWORD", "x")]).is_some());
}

#[test]
fn the_built_in_query_stands_in_for_an_absent_default_file_alone() {
    let (folder, path) = file_with("query { apps_v1 { name } }");
    let path = Path::new(&path);
    assert!(GRAPHQL_QUERY_FILE.default.to_string().starts_with(DEFAULT_QUERY_FILE));
    assert_eq!(query_file_or_built_in(&folder.path().join("absent"), "query"), Ok(QuerySource::BuiltIn("query")));
    assert_eq!(query_file_or_built_in(path, "query"), Ok(QuerySource::File(path.to_owned())));
    fs::write(path, " \n").unwrap();
    assert_eq!(
        query_file_or_built_in(path, "query"),
        Err(format!("{} is empty: put the query into it", path.display()))
    );
    // What docker makes of a mount whose source is missing.
    assert!(query_file_or_built_in(folder.path(), "query").unwrap_err().starts_with("cannot read "));
}

#[test]
fn a_query_file_that_was_named_has_to_be_there() {
    let problem = problem_with(&[], &["-graphql-query-file=/no/such/file"]);
    assert!(problem.starts_with("GRAPHQL_QUERY_FILE: cannot read /no/such/file: "), "{problem}");
    let (_folder, path) = file_with("");
    assert!(problem_with(&[("GRAPHQL_QUERY_FILE", &path)], &[]).contains("is empty"));
}

#[test]
fn the_target_list_comes_from_a_server_or_from_a_file() {
    let (folder, path) = file_with("{}");
    let run = run_with(&[("GRAPHQL_SERVER", ""), ("TARGETS_FILE", &path)], &[]);
    assert!(matches!(run.targets, TargetList::File(TargetsFile(found)) if found == Path::new(&path)));
    assert!(matches!(run_with(&[("TARGETS_FILE", "")], &[]).targets, TargetList::Server(_)));

    let both = "TARGETS_FILE: set together with GRAPHQL_SERVER: keep the one that has the target list";
    assert_eq!(problem_with(&[], &[&format!("-targets-file={path}")]), both);
    let neither = problem_with(&[("GRAPHQL_SERVER", "")], &[]);
    assert_eq!(neither, "missing: GRAPHQL_SERVER or TARGETS_FILE");
    for (file, why) in [("/no/such/file", "No such file"), (folder.path().to_str().unwrap(), "not a regular file")] {
        let problem = problem_with(&[("GRAPHQL_SERVER", ""), ("TARGETS_FILE", file)], &[]);
        assert!(
            problem.starts_with(&format!("TARGETS_FILE: cannot read {file}: ")) && problem.contains(why),
            "{problem}"
        );
    }
}

#[test]
fn settings_of_a_graphql_server_beside_a_file_are_named_one_by_one() {
    let (_folder, path) = file_with("{}");
    let of_a_server = [
        ("GRAPHQL_USERNAME", "reader"),
        ("GRAPHQL_PASSWORD", "p"),
        ("GRAPHQL_PASSWORD_FILE", "/p"),
        ("GRAPHQL_GLSYNC_QUERY_FILE", "/q"),
        ("PREVIOUS_BUNDLE_SHA", "0123"),
        ("GRAPHQL_PRCHECK_QUERY_FILE", "/q"),
    ];
    let problem = problem_with(&[&of_a_server[..], &[("GRAPHQL_SERVER", ""), ("TARGETS_FILE", &path)]].concat(), &[]);
    assert_eq!(problem.lines().count(), of_a_server.len(), "{problem}");
    for (name, _) in of_a_server {
        let named = format!("{name}: needs GRAPHQL_SERVER, and the target list is in TARGETS_FILE: leave it out");
        assert!(problem.contains(&named), "{problem}");
    }
}

// Addresses

#[test]
fn addresses_are_http_with_a_host_and_nothing_secret() {
    for good in ["https://example.com", "http://example.com:8080/gitlab/", "https://[::1]/x", "https://@example.com"] {
        assert!(base_url(good).is_ok(), "{good}");
    }
    let bad = [
        "",
        "example.com",
        "/path",
        "https://",
        "https://exa mple.com",
        "ftp://example.com",
        "example.com:443",
        "unix:/socket",
        "https://user@example.com",
        "https://:password@example.com",
        "https://example.com/?a=b",
        "https://example.com/#a",
        "https://example.com:99999",
    ];
    for bad in bad {
        assert!(base_url(bad).is_err(), "{bad}");
    }
    assert!(http_url("https://example.com/graphql?bundle=x").is_ok());
}

#[test]
fn credentials_go_to_https_or_the_same_machine() {
    for local in ["http://localhost:3000", "http://git.localhost", "http://127.0.0.2", "http://[::1]:80", "HTTPS://far"]
    {
        run_with(&[("GITLAB_BASE_URL", local)], &[]);
    }
    let far = ("GITLAB_BASE_URL", "http://gitlab.example.com");
    let problem = problem_with(&[far], &[]);
    assert!(problem.starts_with("GITLAB_BASE_URL: credentials would cross the network in the clear"), "{problem}");
    run_with(&[far], &["-allow-insecure-http"]);
    run_with(&[far, ("ALLOW_INSECURE_HTTP", "true")], &[]);
    for not_local in ["http://localhost.example.com", "http://128.0.0.1", "http://[::2]"] {
        problem_with(&[("GITLAB_BASE_URL", not_local)], &[]);
    }
}

#[test]
fn servers_without_tls_can_be_named_one_by_one() {
    let gitlab = ("GITLAB_BASE_URL", "http://gitlab.example.com");
    let graphql =
        [("GRAPHQL_SERVER", "http://qontract:4000/graphql"), ("GRAPHQL_USERNAME", "u"), ("GRAPHQL_PASSWORD", "p")];
    let s3 = ("AWS_ENDPOINT_URL_S3", "http://minio:9000");
    let allow = |servers| ("ALLOW_INSECURE_HTTP", servers);

    run_with(&[&graphql[..], &[allow("graphql")]].concat(), &[]);
    let problem = problem_with(&[&graphql[..], &[gitlab, allow("graphql")]].concat(), &[]);
    assert!(problem.starts_with("GITLAB_BASE_URL: credentials would cross"), "{problem}");
    assert!(problem.ends_with("name gitlab in ALLOW_INSECURE_HTTP"), "{problem}");
    let problem = problem_with(&[&graphql[..], &[allow("gitlab")]].concat(), &[]);
    assert!(problem.starts_with("GRAPHQL_SERVER: ") && problem.contains("name graphql in"), "{problem}");
    for servers in ["gitlab,graphql,s3", "s3, graphql gitlab", "true"] {
        run_with(&[&graphql[..], &[gitlab, s3, allow(servers)]].concat(), &[]);
        run_with(&[&graphql[..], &[gitlab, s3]].concat(), &[&format!("-allow-insecure-http={servers}")]);
    }

    // Requests to S3 are signed, so only a list closes it.
    run_with(&[s3], &[]);
    run_with(&[s3, allow("false")], &[]);
    for (servers, words) in [("graphql", &[][..]), ("gitlab,graphql", &["list"])] {
        let problem = problem_with(&[s3, allow(servers)], words);
        assert!(problem.starts_with("AWS_ENDPOINT_URL_S3: ") && problem.contains("name s3 in"), "{problem}");
    }
    run_with(&[("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000"), allow("graphql")], &[]);
}

#[test]
fn what_is_not_a_server_is_not_one_without_tls_either() {
    for (text, program, why) in [
        ("git-lab", Program::Producer, "\"git-lab\" is not known: write true, false, or some of gitlab,graphql,s3"),
        ("s3,yes", Program::Producer, "\"yes\" is not known"),
        ("graphql", Program::Consumer, "\"graphql\" is not known: write true, false, or some of gitlab,s3"),
        (",", Program::Producer, "\",\" names no server"),
    ] {
        let problem = insecure_http(program)(text).unwrap_err();
        assert!(problem.starts_with(why), "{problem}");
    }
    let far = InsecureHttp { gitlab: true, graphql: false, s3: true };
    assert_eq!(insecure_http(Program::Consumer)("gitlab,s3"), Ok(far));
}

#[test]
fn placeholders_of_the_examples_are_refused() {
    let changes = [("PUBLIC_KEY", "replace-me"), ("GITLAB_TOKEN", "replace-me\n"), ("AWS_ACCESS_KEY_ID", "replace-me")];
    let problem = problem_with(&changes, &[]);
    for (variable, _) in changes {
        assert!(problem.contains(&format!("{variable}: is still the example's replace-me: ")), "{problem}");
    }
    assert_eq!(problem.lines().count(), changes.len(), "{problem}");
}

#[test]
fn graphql_needs_https_where_there_is_a_login() {
    let far = ("GRAPHQL_SERVER", "http://qontract.example.com/graphql");
    run_with(&[far], &[]);
    run_with(&[far, ("GRAPHQL_USERNAME", "dev"), ("GRAPHQL_PASSWORD", "dev")], &[]);
    let login = [far, ("GRAPHQL_USERNAME", "u"), ("GRAPHQL_PASSWORD", "p")];
    assert!(problem_with(&login, &[]).starts_with("GRAPHQL_SERVER: credentials would cross"));
    run_with(&login, &["-allow-insecure-http=1"]);
}

// Bucket

#[test]
fn buckets_are_names_or_access_points() {
    for good in [
        "abc",
        "my-bucket.1",
        "Old_Bucket",
        "arn:aws-us-gov:s3:us-gov-west-1:123456789012:accesspoint/sync",
        "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-1/accesspoint/sync",
    ] {
        assert!(bucket(good).is_ok(), "{good}");
    }
    let long = "a".repeat(256);
    for bad in ["ab", "s3://bucket", "bucket/prefix", "bucket\n", "bücket", "arn:aws:iam::1:role/x", &long] {
        assert!(bucket(bad).is_err(), "{bad}");
    }
    for login in ["https://AKIA:sekret@s3.example.com/b", "AKIA:sekret", "sekret@bucket"] {
        let error = format!("{:?}", bucket(login).err());
        assert!(error.contains("is not a bucket") && !error.contains("sekret"), "{error}");
    }
}

#[test]
fn an_endpoint_means_path_style_unless_said_otherwise() {
    let s3 = |changes: &[(&'static str, &str)]| run_with(changes, &[]).common.s3;
    let endpoint = ("AWS_ENDPOINT_URL", "http://seaweed:8333");
    assert!(!s3(&[]).force_path_style);
    assert!(s3(&[endpoint]).force_path_style);
    assert!(!s3(&[endpoint, ("AWS_S3_FORCE_PATH_STYLE", "false")]).force_path_style);
    assert!(s3(&[("AWS_S3_FORCE_PATH_STYLE", "true")]).force_path_style);
}

#[test]
fn payloads_are_signed_where_nothing_else_protects_them() {
    let signed = |changes: &[(&'static str, &str)]| run_with(changes, &[]).common.s3.sign_payload;
    assert!(!signed(&[]));
    for (endpoint, needed) in
        [("https://s3.example.com", false), ("http://127.0.0.1:8333", false), ("http://seaweed:8333", true)]
    {
        let endpoint = ("AWS_ENDPOINT_URL", endpoint);
        assert_eq!(signed(&[endpoint]), needed, "{endpoint:?}");
        assert!(signed(&[endpoint, ("AWS_S3_SIGN_PAYLOAD", "true")]));
        assert!(!signed(&[endpoint, ("AWS_S3_SIGN_PAYLOAD", "false")]));
    }
}

#[test]
fn the_endpoint_for_s3_wins_over_the_one_for_everything() {
    let both = [("AWS_ENDPOINT_URL", "https://all.example.com"), ("AWS_ENDPOINT_URL_S3", "https://s3.example.com")];
    let host = |run: Run| run.common.s3.endpoint_url.unwrap().host_str().unwrap().to_owned();
    assert_eq!(host(run_with(&both, &[])), "s3.example.com");
    assert_eq!(host(run_with(&both[..1], &[])), "all.example.com");
    assert_eq!(host(run_with(&both, &["-aws-endpoint-url=https://flag.example.com"])), "flag.example.com");
}

#[test]
fn fips_and_an_endpoint_exclude_each_other() {
    let fips = ("AWS_USE_FIPS_ENDPOINT", "true");
    assert!(run_with(&[fips], &[]).common.s3.use_fips);
    let problem = problem_with(&[fips, ("AWS_ENDPOINT_URL", "https://s3.example.com")], &[]);
    assert!(problem.starts_with("AWS_USE_FIPS_ENDPOINT: "), "{problem}");
}

#[test]
fn half_an_access_key_is_a_problem() {
    run_with(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "key")], &[]);
    let problem = problem_with(&[("AWS_ACCESS_KEY_ID", "id")], &[]);
    assert!(problem.starts_with("AWS_ACCESS_KEY_ID: set without AWS_SECRET_ACCESS_KEY: "), "{problem}");
    let problem = problem_with(&[("AWS_SECRET_ACCESS_KEY", "key")], &["list"]);
    assert!(problem.starts_with("AWS_SECRET_ACCESS_KEY: set without AWS_ACCESS_KEY_ID: "), "{problem}");
}

// Recipients

#[test]
fn recipients_are_separated_by_commas_or_white_space_and_kept_once() {
    let other = age::x25519::Identity::generate().to_public();
    for separator in [",", " ", "\n", ", ", ",\n\t,"] {
        let text = format!("{RECIPIENT}{separator}{other}{separator}{RECIPIENT}{separator}");
        assert_eq!(recipients(&text), Ok(vec![RECIPIENT.parse().unwrap(), other.clone()]), "{separator:?}");
    }
    assert!(recipients(" , ").unwrap_err().starts_with("holds no recipient"));
    let file = format!("\u{feff}# the far side, age1 comes next\r\n{RECIPIENT}\n  # the spare one\n{other}\n");
    assert_eq!(recipients(&file), Ok(vec![RECIPIENT.parse().unwrap(), other]));
    assert!(recipients("# none").unwrap_err().starts_with("holds no recipient"));
}

#[test]
fn the_recipient_in_age_s_documentation_is_refused_by_name() {
    let example = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let problem = problem_with(&[("PUBLIC_KEY", &format!("{RECIPIENT},{example}"))], &[]);
    assert!(problem.starts_with("PUBLIC_KEY: number 2 is the example in age's documentation"), "{problem}");
    assert!(!problem.contains("number 1"), "{problem}");
}

#[test]
fn recipients_of_other_kinds_are_named() {
    for (text, kind) in [
        ("age1pq1qqqqqqqqsecret", "is a post-quantum recipient"),
        ("age1yubikey1qqqqsecret", "is the recipient of an age plugin"),
        ("age1se1qqqqsecret", "is the recipient of an age plugin"),
        ("ssh-ed25519 AAAAsecret me@secret", "is an SSH key"),
        ("age1qqqqsecret", "begins with age1, but has a typing error or is cut short (its checksum does not fit): "),
        ("AGE1QQQQSECRET", "begins with age1, but has a typing error"),
        ("age1…", "is a placeholder: "),
        ("age1...", "is a placeholder: "),
        ("\"age1qqqqsecret\"", "has quotes around it"),
        ("'age1qqqqsecret", "has quotes around it"),
        (
            "Public key: age1qqqqsecret",
            "has `Public key:` in front: give only what follows it, number 2 begins with age1",
        ),
        ("key:secret", "is not an age recipient"),
    ] {
        let problem = problem_with(&[("PUBLIC_KEY", &format!("{RECIPIENT}\n{text}\n{RECIPIENT}"))], &[]);
        assert!(problem.starts_with(&format!("PUBLIC_KEY: number 2 {kind}")), "{problem}");
        assert!(!problem.contains("number 3") && !problem.contains("secret"), "{problem}");
    }
}

#[test]
fn a_letter_that_is_missing_or_another_in_a_recipient_is_a_typing_error() {
    let (start, end) = RECIPIENT.split_at(20);
    for typed in [format!("{start}{}", &end[1..]), format!("{start}1{}", &end[1..]), format!("{start}b{end}")] {
        let problem = problem_with(&[("PUBLIC_KEY", &typed)], &[]);
        let expected = "PUBLIC_KEY: number 1 begins with age1, but has a typing error or is cut short";
        assert!(problem.starts_with(expected) && !problem.contains(&typed), "{problem}");
    }
    assert!(recipients("# public key: age1qqqq").unwrap_err().contains("a line that begins with # is a comment"));
    let printed = format!("Public key: {RECIPIENT}");
    let problem = recipients(&printed).unwrap_err();
    assert_eq!(problem, "number 1 has `Public key:` in front: give only what follows it");
}

#[test]
fn the_base_of_gitlab_is_neither_its_api_nor_a_project() {
    for url in
        ["https://g.test/api/v4", "https://g.test/api/v4/", "https://g.test/sub/api/graphql", "https://g.test/api"]
    {
        assert!(gitlab_url(url).unwrap_err().contains("write the address up to /api"), "{url}");
    }
    assert!(gitlab_url("https://g.test/group/project.git").unwrap_err().contains("a project"));
    for url in ["https://g.test", "https://g.test/sub/", "https://g.test/apis"] {
        assert!(gitlab_url(url).is_ok(), "{url}");
    }
}

#[test]
fn the_value_of_a_switch_apart_from_it_is_a_problem_that_says_what_to_write() {
    for (words, right) in [(&["-dry-run", "true"][..], "-dry-run=true"), (&["check", "--run-once", "0"], "-run-once=0")]
    {
        let problem = problem_of(parse_with(&[], words));
        assert!(problem.ends_with(&format!("write {right}")), "{problem}");
    }
    assert!(run_with(&[], &["-dry-run", "-run-once"]).common.dry_run);
}

#[test]
fn a_secret_key_in_place_of_a_recipient_is_named_by_position_and_not_shown() {
    let identity = age::x25519::Identity::generate().to_string();
    for identity in [identity.expose_secret().to_owned(), identity.expose_secret().to_lowercase()] {
        let problem = problem_with(&[("PUBLIC_KEY", &format!("{RECIPIENT},{identity} nonsense"))], &[]);
        assert!(problem.starts_with("PUBLIC_KEY: number 2 is an identity (secret key): "), "{problem}");
        assert!(problem.contains("number 3 is not an age recipient"), "{problem}");
        assert!(!problem.contains(&identity) && !problem.contains("nonsense"), "{problem}");
    }
}

// Numbers

#[test]
fn sizes_are_bytes_or_binary_multiples() {
    let sizes = [
        ("0", 0),
        ("1", 1),
        ("512B", 512),
        ("1Ki", 1 << 10),
        ("3Mi", 3 << 20),
        ("5Gi", 5 << 30),
        ("5GiB", 5 << 30),
        ("2Ti", 2 << 40),
        ("18446744073709551615", u64::MAX),
    ];
    for (text, bytes) in sizes {
        assert_eq!(byte_size(text), Ok(bytes), "{text}");
    }
    for bad in ["", "Gi", "5G", "5GB", "5gi", "5 Gi", "-1", "1.5Gi", "5BB", "18446744073709551616", "16777216Ti"] {
        assert!(byte_size(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_port_from_kubernetes_service_links_is_explained() {
    let problem = problem_with(&[("METRICS_SERVER_PORT", "tcp://10.0.0.1:9090")], &[]);
    assert!(problem.contains("enableServiceLinks: false"), "{problem}");
}

#[test]
fn times_are_above_zero() {
    for bad in ["0", "-5m", "0.5ns", "five", "300", "1d"] {
        let problem = problem_with(&[("RECONCILE_SLEEP_TIME", bad)], &[]);
        assert!(problem.starts_with("RECONCILE_SLEEP_TIME: ") && problem.contains("90s or 5m"), "{problem}");
    }
}

// list and restore

fn bucket_only() -> BTreeMap<&'static str, OsString> {
    BTreeMap::from([("AWS_S3_BUCKET", "partition".into()), ("RECONCILE_SLEEP_TIME", "wrong".into())])
}

#[test]
fn list_needs_the_bucket_alone() {
    let settings = parse_in(&bucket_only(), &["list", "-output", "json", "-log-format=json"]).unwrap();
    assert_eq!(settings.log_format, LogFormat::Json);
    let Command::List(list) = settings.command else { panic!("{settings:?}") };
    assert_eq!((list.s3.bucket.as_str(), list.output), ("partition", OutputFormat::Json));
    assert_eq!(problem_of(parse_in(&BTreeMap::new(), &["list"])), "missing: AWS_S3_BUCKET");
}

#[test]
fn settings_stand_before_or_behind_the_command() {
    for arguments in [&["-aws-s3-bucket=flagged", "list"][..], &["list", "-aws-s3-bucket", "flagged"]] {
        let Command::List(list) = parse_in(&bucket_only(), arguments).unwrap().command else { panic!("not list") };
        assert_eq!(list.s3.bucket, "flagged", "{arguments:?}");
    }
}

#[test]
fn restore_needs_the_bucket_and_an_identity() {
    let (_folder, identity) = file_with("AGE-SECRET-KEY-…");
    let arguments = ["restore", "-identity", &identity, "-into=out", "g/p@a@b", "g/s/p"];
    let Command::Restore(restore) = parse_in(&bucket_only(), &arguments).unwrap().command else {
        panic!("not restore")
    };
    assert_eq!(restore.identity, Path::new(&identity));
    assert_eq!(restore.into.as_deref(), Some(Path::new("out")));
    let wanted: Vec<String> = restore.wanted.iter().map(Wanted::to_string).collect();
    assert_eq!(wanted, ["g/p@a@b", "g/s/p"]);
    assert_eq!(restore.output, OutputFormat::Text);

    let problem = problem_of(parse_in(&BTreeMap::new(), &["restore", "project@main"]));
    let expected = "missing: AWS_S3_BUCKET, -identity\n\
                    restore: \"project@main\" is not a destination: write GROUP, GROUP/PROJECT or GROUP/PROJECT@BRANCH";
    assert_eq!(problem, expected);
    let problem = problem_of(parse_in(&bucket_only(), &["restore", "-identity=/no/such/file"]));
    assert!(problem.starts_with("-identity: cannot read /no/such/file: "), "{problem}");
}

#[test]
fn words_behind_two_dashes_are_no_flags() {
    let (_folder, identity) = file_with("");
    let arguments = ["restore", "-identity", &identity, "--", "-odd/project"];
    let Command::Restore(restore) = parse_in(&bucket_only(), &arguments).unwrap().command else {
        panic!("not restore")
    };
    assert_eq!(restore.wanted, [Wanted { path: "-odd/project".to_owned(), branch: None }]);
}

#[test]
fn a_wanted_project_means_all_its_branches_a_group_all_below_it_and_a_branch_itself() {
    let means = |wanted: &Wanted, path: &str, branch: &str| {
        let (group, project) = path.rsplit_once('/').unwrap();
        let [group, project, branch] = [group, project, branch].map(str::to_owned);
        wanted.matches(&Destination { group, project, branch })
    };
    let project: Wanted = "g/s/p".parse().unwrap();
    assert!(means(&project, "g/s/p", "main") && means(&project, "g/s/p", "x@y") && means(&project, "g/s/p/q", "main"));
    assert!(
        !means(&project, "g/s", "main") && !means(&project, "g/s/pq", "main") && !means(&project, "x/g/s/p", "main")
    );
    let group: Wanted = "g".parse().unwrap();
    assert!(means(&group, "g/p", "main") && means(&group, "g/s/p", "x") && !means(&group, "gg/p", "main"));
    let branch: Wanted = "g/p@x@y".parse().unwrap();
    assert!(means(&branch, "g/p", "x@y") && !means(&branch, "g/p", "x"));
    assert!(!means(&branch, "g/p/q", "x@y"));
    for bad in ["", "/p", "g/", "g//p", "g/p@", "@main", "p@a/b", "p@main"] {
        assert!(bad.parse::<Wanted>().is_err(), "{bad}");
    }
    assert!(
        "p".parse::<Republish>().is_err() && "al".parse::<Republish>().is_err() && "g/p".parse::<Republish>().is_ok()
    );
}

// Help

#[test]
fn help_and_version_need_no_settings() {
    for spelling in ["-help", "--help", "-h"] {
        assert_eq!(answer_to(&[spelling]), help(&PRODUCER).trim_end());
    }
    for spelling in ["-version", "--version", "-V", "version"] {
        assert_eq!(answer_to(&[spelling]), concat!("git-partition-sync-producer ", env!("CARGO_PKG_VERSION")));
    }
    assert!(answer_to(&["check", "-help"]).starts_with("Tries everything"));
    assert!(answer_to(&["list", "-help"]).starts_with("Shows what the bucket holds"));
    assert!(answer_to(&["restore", "-h"]).contains("-identity FILE"));
    assert!(answer_to(&["health", "-h"]).contains("METRICS_SERVER_PORT"));
    for command in ["completion", "man", "version"] {
        assert!(answer_to(&[command, "-help"]).contains(&format!("\n  git-partition-sync-producer {command}")));
    }
    assert!(answer_to(&["man"]).starts_with(".ie") && answer_to(&["completion", "bash"]).contains("COMPREPLY"));
    assert!(problem_of(parse_in(&BTreeMap::new(), &["completion", "tcsh"])).contains("bash, fish, zsh"));
}

#[test]
fn health_asks_the_port_on_this_machine() {
    let asks = |changes: &[(&'static str, &str)]| {
        let environment = changes.iter().map(|(variable, value)| (*variable, value.into())).collect();
        match parse_in(&environment, &["health"]).map(|settings| settings.command) {
            Ok(Command::Health(health)) => health.address.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asks(&[]), "127.0.0.1:9090");
    assert_eq!(asks(&[("METRICS_SERVER_ADDRESS", "::"), ("METRICS_SERVER_PORT", "1234")]), "[::1]:1234");
    assert_eq!(asks(&[("METRICS_SERVER_ADDRESS", "10.1.2.3")]), "10.1.2.3:9090");
    let problem = problem_of(parse_in(&BTreeMap::new(), &["health", "-metrics-server-port=0"]));
    assert!(problem.starts_with("METRICS_SERVER_PORT: 0 is any free port"), "{problem}");
}

#[test]
fn a_list_takes_names_an_order_and_what_else_to_show() {
    let list = |words: &[&str]| match parse_in(&bucket_only(), words).unwrap().command {
        Command::List(list) => list,
        other => panic!("{other:?}"),
    };
    let plain = list(&["list"]);
    assert!(plain.wanted.is_empty() && plain.sort.is_none() && !(plain.dates || plain.outdated || plain.foreign));
    let all = list(&["list", "-sort", "size", "g", "-dates", "-outdated", "g/p@main", "--foreign", "-output=json"]);
    let wanted: Vec<String> = all.wanted.iter().map(Wanted::to_string).collect();
    assert_eq!((wanted, all.sort), (vec!["g".to_owned(), "g/p@main".to_owned()], Some(Sort::Size)));
    assert!(all.dates && all.outdated && all.foreign && all.output == OutputFormat::Json);
    let problem = problem_of(parse_in(&bucket_only(), &["list", "-sort=colour"]));
    assert!(problem.contains("name, size, age"), "{problem}");
    let problem = problem_of(parse_in(&bucket_only(), &["list", "a//b"]));
    assert!(problem.starts_with("list: \"a//b\" is not a destination"), "{problem}");
}

#[test]
fn a_detailed_exit_status_is_for_a_single_dry_run() {
    assert!(!run_with(&[], &["-dry-run", "-run-once"]).common.detailed_exitcode);
    assert!(run_with(&[("DETAILED_EXITCODE", "true")], &["-dry-run", "-run-once"]).common.detailed_exitcode);
    for words in
        [&["-detailed-exitcode"][..], &["-detailed-exitcode", "-dry-run"], &["-detailed-exitcode", "-run-once"]]
    {
        let problem = problem_of(parse_with(&[], words));
        assert!(problem.starts_with("DETAILED_EXITCODE: is for a single dry run"), "{problem}");
    }
}

#[test]
fn a_variable_that_is_nearly_a_setting_is_found_in_the_environment() {
    let problem = problem_with(&[("DRYRUN", "true")], &[]);
    assert!(problem.starts_with("DRYRUN is set and means nothing: did you mean DRY_RUN?"), "{problem}");
    assert!(parse_with(&[("DRYRUN", ""), ("GITLAB_HOST", "x")], &[]).unwrap().warnings.is_empty());
    let warnings = parse_with(&[("WORK_DIR", "hunter2")], &[]).unwrap().warnings;
    assert_eq!(warnings, ["WORK_DIR is set and means nothing: did you mean WORKDIR?"]);
    // What a command does not read cannot be misspelt for it.
    let mut environment = bucket_only();
    environment.extend([("DRYRUN", "true".into()), ("AWS_REGIONS", "x".into())]);
    let warnings = parse_in(&environment, &["list"]).unwrap().warnings;
    assert_eq!(warnings, ["AWS_REGIONS is set and means nothing: did you mean AWS_REGION?"]);
    let problem = problem_with(&[("AWS_S3_BUCKET", ""), ("AWS_BUCKET", "b"), ("MAX_RETIRES", "9")], &[]);
    let lines: Vec<&str> = problem.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "missing: AWS_S3_BUCKET"), "{problem}");
    assert!(lines[1].starts_with("MAX_RETIRES is set"), "{problem}");
    assert_eq!(lines[2], "AWS_BUCKET is set and means nothing: did you mean AWS_S3_BUCKET?");
}

#[test]
fn help_explains_each_setting_in_lines_of_80_columns() {
    for manual in &Manual::ALL {
        let help = help(manual);
        for setting in manual.settings() {
            let names = match setting.flag {
                Some(flag) => format!("  -{flag}, {}", setting.variable),
                None => format!("  {}", setting.variable),
            };
            let mut lines = help.lines().skip_while(|line| *line != names).skip(1);
            let line = lines.next().unwrap_or_else(|| panic!("{names} is not in the help"));
            assert!(line.starts_with(&format!("      {}", setting.meaning)), "{line}");
            assert!(line.contains(&setting.default.to_string()), "{line}");
        }
        let pages = [
            help,
            check_help(manual),
            list_help(manual),
            restore_help(manual),
            health_help(manual),
            completion_help(manual),
            man_help(manual),
            version_help(manual),
        ];
        let too_long: Vec<&str> =
            pages.iter().flat_map(|page| page.lines()).filter(|line| line.chars().count() > 80).collect();
        assert!(too_long.is_empty(), "{}", too_long.join("\n"));
    }
}

#[test]
fn flags_are_called_like_their_variables_and_each_is_there_once() {
    Manual::ALL.iter().for_each(flags_fit);
}

#[track_caller]
fn flags_fit(manual: &Manual) {
    let settings: Vec<&Setting> = manual.settings().collect();
    let variables: BTreeSet<&str> = settings
        .iter()
        .flat_map(|setting| [setting.variable].into_iter().chain(setting.also.iter().copied()))
        .collect();
    assert_eq!(variables.len(), settings.iter().map(|setting| 1 + setting.also.len()).sum::<usize>());
    for setting in settings.iter().filter(|setting| **setting != &AWS_ENDPOINT_URL) {
        let flag = setting.variable.to_lowercase().replace('_', "-");
        assert!(setting.flag.is_none_or(|known| known == flag), "{}", setting.variable);
    }
    manual.command_line().debug_assert();
}

proptest! {
    #[test]
    fn no_words_and_no_values_make_it_panic(
        words in proptest::collection::vec("-{0,2}(workdir|dry-run|check|list|restore|health|man|version|sort|identity|help)?=?\\PC{0,8}", 0..5),
        values in proptest::collection::vec("\\PC{0,20}", PRODUCER.settings().count()),
    ) {
        let variables = PRODUCER.settings().map(|setting| setting.variable);
        let environment: BTreeMap<&str, OsString> = variables.zip(values.iter().map(OsString::from)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let _ = parse_in(&environment, &words);
    }
}

#[test]
fn waits_have_defaults_and_are_above_zero() {
    let seconds = Duration::from_secs;
    assert_eq!(run_with(&[], &[]).common.timeouts, Timeouts { connect: seconds(10), idle: seconds(60) });
    let given = run_with(&[("CONNECT_TIMEOUT", "3s")], &["-idle-timeout=2m"]).common.timeouts;
    assert_eq!(given, Timeouts { connect: seconds(3), idle: seconds(120) });
    assert_eq!(
        problem_with(&[("CONNECT_TIMEOUT", "0s"), ("IDLE_TIMEOUT", "soon")], &[]),
        "CONNECT_TIMEOUT: \"0s\" is not above zero: write for example 90s or 5m\nIDLE_TIMEOUT: \"soon\" is not a \
         duration: a number is missing, write for example 90s or 5m"
    );
}
