//! Variables that are set and mean nothing, because their names are nearly those of settings, or the other program's keys.
//!
//! Invariant: only names are read here. A variable of another program is left alone unless its name is one edit away from a
//! setting's, is a known other name for one, or begins as only settings do.

use std::collections::BTreeSet;

use super::manual::Manual;
use crate::model::program::Program;
use crate::text::printable;

/// Settings that decide what is deleted or written, and who can read or send it: a misspelt one ends the program.
const DECISIVE: &[&str] = &[
    "ARCHIVE_FORMAT",
    "CROSSING",
    "DRY_RUN",
    "MAX_INCREMENTS",
    "MAX_RETIRE",
    "ON_REWRITE",
    "PUBLIC_KEY",
    "REPUBLISH",
    "SHARD_COUNT",
    "SIGNING_KEY_FILE",
    "TRUSTED_KEYS",
    "TRUSTED_KEYS_FILE",
];

/// Names by which people and other programs call a setting. They count only if the setting itself is not given.
const OTHER_NAMES: &[(&str, &[&str])] = &[
    ("AWS_ACCESS_KEY_ID", &["AWS_ACCESS_KEY"]),
    (
        "AWS_ENDPOINT_URL_S3",
        &["AWS_ENDPOINT", "AWS_S3_ENDPOINT", "AWS_S3_ENDPOINT_URL", "S3_ENDPOINT", "S3_ENDPOINT_URL"],
    ),
    ("AWS_REGION", &["AWS_S3_REGION", "S3_REGION"]),
    (
        "AWS_S3_BUCKET",
        &["AWS_BUCKET", "AWS_BUCKET_NAME", "AWS_S3_BUCKET_NAME", "BUCKET_NAME", "S3_BUCKET", "S3_BUCKET_NAME"],
    ),
    ("AWS_SECRET_ACCESS_KEY", &["AWS_SECRET_KEY"]),
    ("GITLAB_BASE_URL", &["GITLAB_HOST", "GITLAB_SERVER", "GITLAB_URL"]),
    ("GITLAB_TOKEN", &["GITLAB_ACCESS_TOKEN", "GITLAB_PASSWORD", "GITLAB_PRIVATE_TOKEN"]),
    ("GITLAB_USERNAME", &["GITLAB_USER"]),
    ("GRAPHQL_SERVER", &["GRAPHQL_ENDPOINT", "GRAPHQL_URL"]),
    ("GRAPHQL_USERNAME", &["GRAPHQL_USER"]),
    ("MAX_RETIRE", &["MAX_RETIREMENT", "MAX_RETIREMENTS", "MAX_RETIRE_PERCENT"]),
    ("METRICS_SERVER_PORT", &["METRICS_PORT"]),
    ("PRIVATE_KEY", &["AGE_IDENTITY", "AGE_PRIVATE_KEY", "AGE_SECRET_KEY"]),
    ("PRIVATE_KEY_FILE", &["AGE_IDENTITY_FILE", "AGE_PRIVATE_KEY_FILE"]),
    ("PUBLIC_KEY", &["AGE_PUBLIC_KEY", "AGE_RECIPIENT", "AGE_RECIPIENTS"]),
    ("RECONCILE_SLEEP_TIME", &["RECONCILE_INTERVAL", "SLEEP_TIME"]),
    ("SHARD_INDEX", &["SHARD_ID"]),
    ("SIGNING_KEY_FILE", &["SIGNING_KEY"]),
    ("TARGETS_FILE", &["TARGET_LIST", "TARGET_LIST_FILE"]),
    ("TRUSTED_KEYS", &["TRUST_KEYS"]),
];

/// The other side's keys, which nobody else should have.
const fn keys_of_the_other_side(program: Program) -> &'static [&'static str] {
    match program {
        Program::Producer => &["PRIVATE_KEY", "PRIVATE_KEY_FILE"],
        Program::Consumer => &["SIGNING_KEY_FILE"],
    }
}

/// What begins like this is meant for these programs.
const OUR_PREFIXES: &[&str] = &["GIT_PARTITION_", "GRAPHQL_", "METRICS_SERVER_", "MIRROR_CACHE_", "RECONCILE_"];
/// What Kubernetes adds to the name of a Service.
const SERVICE_LINKS: &[&str] = &["_SERVICE_HOST", "_SERVICE_PORT", "_SCTP", "_TCP", "_UDP"];
/// Names that are near to ours and have a meaning elsewhere: GitLab CI sets it in each job.
const ELSEWHERE: &[&str] = &["GITLAB_USER_NAME"];
/// The shortest name of a setting, without underscores, that is compared letter by letter.
const LEAST_LETTERS: usize = 6;
/// How many variables are named.
const MOST_NAMED: usize = 20;

/// What was found, a line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// The likely setting decides too much to go on without it.
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Looks through the names of all variables that are set to something. `asked` has the settings that the command reads, and
/// `given` those of them that have a value.
pub(super) fn misspelt<'a>(
    manual: &Manual,
    asked: &BTreeSet<&'static str>,
    given: &BTreeSet<&'static str>,
    set: impl Iterator<Item = &'a str>,
) -> Findings {
    let known: BTreeSet<&str> = Manual::ALL
        .iter()
        .flat_map(Manual::settings)
        .flat_map(|setting| [setting.variable].into_iter().chain(setting.also.iter().copied()))
        .chain(ELSEWHERE.iter().copied())
        .collect();
    let set: BTreeSet<&str> = set.collect();
    let unknown = set.iter().copied().filter(|name| !known.contains(name) && !is_link(&set, name));
    let mut findings = Findings::default();
    for name in
        keys_of_the_other_side(manual.program).iter().filter(|name| set.contains(*name) && !asked.contains(*name))
    {
        findings
            .warnings
            .push(format!("{name} is set and means nothing here: it is the other side's key, so remove it"));
    }
    for name in unknown {
        let likely = near(asked, name).or_else(|| other_name(asked, given, name));
        let means_nothing = format!("{} is set and means nothing", printable(name));
        match likely {
            Some(setting) if DECISIVE.contains(&setting) => findings.problems.push(format!(
                "{means_nothing}: did you mean {setting}? That decides what is written or deleted, so rename the \
                 variable or remove it"
            )),
            Some(setting) => findings.warnings.push(format!("{means_nothing}: did you mean {setting}?")),
            None if is_ours(asked, name) => {
                findings.warnings.push(format!("{means_nothing}: `{} -help` has all settings", manual.program.name()));
            }
            None => {}
        }
    }
    findings.problems.truncate(MOST_NAMED);
    findings.warnings.truncate(MOST_NAMED);
    findings
}

/// Whether Kubernetes has made it up, for a Service that has this name or one that begins like it.
fn is_link(set: &BTreeSet<&str>, name: &str) -> bool {
    let has_host = |service: &str| set.contains(format!("{service}_SERVICE_HOST").as_str());
    SERVICE_LINKS.iter().any(|part| name.contains(part)) || name.strip_suffix("_PORT").is_some_and(has_host)
}

/// The setting whose name differs by one letter, by two that changed places, or by case and underscores alone.
fn near(asked: &BTreeSet<&'static str>, name: &str) -> Option<&'static str> {
    let plain = letters(name);
    let same = asked.iter().find(|setting| letters(setting) == plain);
    let almost = || {
        asked.iter().find(|setting| letters(setting).len() >= LEAST_LETTERS && is_one_edit(&letters(setting), &plain))
    };
    same.or_else(almost).copied()
}

fn letters(name: &str) -> Vec<u8> {
    name.bytes().filter(u8::is_ascii_alphanumeric).map(|letter| letter.to_ascii_uppercase()).collect()
}

/// Whether one letter more, less or another, or two neighbours in the other order, make one of the other.
fn is_one_edit(a: &[u8], b: &[u8]) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let start = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    let (short, long) = (&short[start..], &long[start..]);
    match (short, long) {
        (_, [_, rest @ ..]) if rest == short => true,
        ([_, short @ ..], [_, long @ ..]) if short == long => true,
        ([a, b, short @ ..], [c, d, long @ ..]) => (a, b) == (d, c) && short == long,
        _ => false,
    }
}

/// The setting that is not given and that people call by this name.
fn other_name(asked: &BTreeSet<&'static str>, given: &BTreeSet<&'static str>, name: &str) -> Option<&'static str> {
    let (setting, _) = OTHER_NAMES.iter().find(|(_, others)| others.contains(&name))?;
    asked.get(setting).filter(|setting| !given.contains(**setting)).copied()
}

/// Whether the name begins like one of the settings that the command reads.
fn is_ours(asked: &BTreeSet<&'static str>, name: &str) -> bool {
    let begins = |prefix: &&str| name.starts_with(*prefix) && asked.iter().any(|setting| setting.starts_with(*prefix));
    OUR_PREFIXES.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::manual::{CONSUMER, PRODUCER};
    use super::super::reference::Kind;
    use super::*;

    fn found(manual: &Manual, given: &[&'static str], set: &[&str]) -> Findings {
        // What a library reads is never asked for.
        let asked = manual.settings().filter(|setting| setting.kind != Kind::Library);
        let asked = asked.map(|setting| setting.variable).collect();
        misspelt(manual, &asked, &given.iter().copied().collect(), set.iter().copied())
    }

    #[test]
    fn a_misspelt_setting_that_decides_ends_the_program_and_another_is_a_warning() {
        for (name, setting) in [
            ("DRYRUN", "DRY_RUN"),
            ("DRY_RUNS", "DRY_RUN"),
            ("dry_run", "DRY_RUN"),
            ("DYR_RUN", "DRY_RUN"),
            ("DRY_RN", "DRY_RUN"),
            ("SHARDCOUNT", "SHARD_COUNT"),
            ("MAX_RETIRE_PERCENT", "MAX_RETIRE"),
            ("MAX_RETIRES", "MAX_RETIRE"),
            ("MAX_RETIREMENTS", "MAX_RETIRE"),
            ("ON_REWRIT", "ON_REWRITE"),
            ("ARCHIVEFORMAT", "ARCHIVE_FORMAT"),
            ("REPUBLISHS", "REPUBLISH"),
        ] {
            let Findings { problems, warnings } = found(&PRODUCER, &[], &[name]);
            let expected = format!("{name} is set and means nothing: did you mean {setting}? ");
            assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{name}: {problems:?}");
            assert!(warnings.is_empty(), "{warnings:?}");
        }
        for (name, setting) in [
            ("AWS_BUCKET", "AWS_S3_BUCKET"),
            ("AWS_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3"),
            ("GITLAB_URL", "GITLAB_BASE_URL"),
            ("RUNONCE", "RUN_ONCE"),
            ("WORK_DIR", "WORKDIR"),
            ("RECONCILE_SLEEPTIME", "RECONCILE_SLEEP_TIME"),
            ("SYNC_CONCURENCY", "SYNC_CONCURRENCY"),
            ("GITLAB_TOKEN_FILES", "GITLAB_TOKEN_FILE"),
        ] {
            let warnings = vec![format!("{name} is set and means nothing: did you mean {setting}?")];
            assert_eq!(found(&PRODUCER, &[], &[name]), Findings { problems: vec![], warnings });
        }
        let warnings = found(&PRODUCER, &[], &["GRAPHQL_TIMEOUT"]).warnings;
        let help = "`git-partition-sync-producer -help` has all settings";
        assert_eq!(warnings, [format!("GRAPHQL_TIMEOUT is set and means nothing: {help}")]);
    }

    #[test]
    fn what_decides_and_what_has_other_names_is_a_setting() {
        let settings: BTreeSet<&str> =
            Manual::ALL.iter().flat_map(Manual::settings).map(|setting| setting.variable).collect();
        for name in DECISIVE.iter().chain(OTHER_NAMES.iter().map(|(setting, _)| setting)) {
            assert!(settings.contains(name), "{name}");
        }
        assert!(OTHER_NAMES.iter().flat_map(|(_, others)| *others).all(|other| !settings.contains(other)));
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        let others = [
            "PATH",
            "HOME",
            "HOSTTYPE",
            "HOSTNAME",
            "TERM",
            "LANG",
            "LC_ALL",
            "PWD",
            "SHLVL",
            "EDITOR",
            "DEBUG",
            "USER",
            "AWS_PROFILE",
            "AWS_DEFAULT_REGION",
            "AWS_ROLE_ARN",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONFIG_FILE",
            "AWS_ENDPOINT_URL_STS",
            "AWS_SHARED_CREDENTIALS_FILE",
            "AWS_MAX_ATTEMPTS",
            "AWS_SDK_UA_APP_ID",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_EC2_METADATA_DISABLED",
            "AWS_USE_DUALSTACK_ENDPOINT",
            "HTTP_PROXY",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "ALL_PROXY",
            "SSL_CERT_DIR",
            "NO_COLOR",
            "GITHUB_TOKEN",
            "GITHUB_USERNAME",
            "GITLAB_CI",
            "GITLAB_FEATURES",
            "GITLAB_USER_ID",
            "GITLAB_USER_NAME",
            "GITLAB_USER_LOGIN",
            "GIT_SSH",
            "GOPROXY",
            "KUBERNETES_SERVICE_HOST",
            "RUST_BACKTRACE",
            "TZ",
            "TMPDIR",
            "GITLAB_SERVICE_HOST",
            "GITLAB_PORT_443_TCP_ADDR",
            "GRAPHQL_SERVICE_PORT_HTTP",
            "GRAPHQL_PORT",
            "GRAPHQL_SERVICE_HOST",
            "METRICS_PORT",
            "METRICS_SERVICE_HOST",
            "METRICS_SERVER_PORT_443_TCP",
            "METRICS_SERVER_SERVICE_HOST",
            "INPUT",
            "FORMAT",
            "OUTPUT_DIR",
            "XDG_RUNTIME_DIR",
        ];
        for manual in &Manual::ALL {
            assert_eq!(found(manual, &[], &others), Findings::default());
            let ours = Manual::ALL.iter().flat_map(Manual::settings).map(|setting| setting.variable);
            let both = found(manual, &[], &ours.collect::<Vec<_>>());
            assert_eq!(both.problems, [] as [String; 0]);
            let keys = keys_of_the_other_side(manual.program);
            assert!(
                both.warnings.len() == keys.len() && both.warnings.iter().all(|it| it.contains("the other side's key"))
            );
        }
    }

    #[test]
    fn another_name_counts_only_if_the_setting_is_read_and_not_given() {
        assert_eq!(found(&PRODUCER, &["GITLAB_BASE_URL"], &["GITLAB_HOST"]), Findings::default());
        assert_eq!(found(&CONSUMER, &[], &["GRAPHQL_URL", "MAX_RETIRES"]), Findings::default());
        assert_eq!(found(&PRODUCER, &["DRY_RUN"], &["DRYRUN"]).problems.len(), 1, "two that contradict each other");
    }

    #[test]
    fn findings_are_bounded_and_cannot_act_on_a_terminal() {
        let many: Vec<_> = (0..100).map(|n| format!("GRAPHQL_\u{1b}{n}")).collect();
        let found = found(&PRODUCER, &[], &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(found.warnings.len(), MOST_NAMED);
        assert!(found.warnings.iter().all(|warning| !warning.contains('\u{1b}')));
    }

    proptest! {
        #[test]
        fn one_edit_is_found_in_both_directions(name in "[A-Z]{6,12}", at in 0_usize..6, letter in "[A-Z]") {
            let name = name.into_bytes();
            let mut more = name.clone();
            more.insert(at, letter.as_bytes()[0]);
            let mut swapped = name.clone();
            swapped.swap(at, (at + 1).min(5));
            for other in [more, swapped] {
                prop_assert_eq!(is_one_edit(&name, &other), is_one_edit(&other, &name));
                prop_assert!(name == other || is_one_edit(&name, &other));
            }
        }
    }
}
