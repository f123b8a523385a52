//! The one list of settings, and the help pages made from it. Flags and the README's table come from it too.
//!
//! Invariant: a setting that is not listed here has no flag and is not read.

use std::fmt;

use Fallback::{Found, Required, Unset, Value};

/// One setting, as help and the README show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its environment variable.
    pub variable: &'static str,
    /// Other variables it is read from where that one is unset, the first that is set.
    pub also: &'static [&'static str],
    /// Its flag, without dashes; none for a secret.
    pub flag: Option<&'static str>,
    /// What kind of value it has.
    pub kind: Kind,
    /// What holds where it is unset.
    pub default: Fallback,
    /// What it is for, in a few words.
    pub meaning: &'static str,
}

/// What kind of value a setting has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text, with a check of its own.
    Text,
    /// True or false.
    Switch,
    /// Never shown, never a flag.
    Secret,
    /// Understood by a library the program is made with; only described here.
    Library,
}

/// What holds where a setting is unset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Nothing: synchronising needs it.
    Required,
    /// Nothing, and nothing is needed.
    Unset,
    /// This value, read like one that was given.
    Value(&'static str),
    /// What the program finds out as described here.
    Found(&'static str),
}

/// Settings that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Its settings, in the order they are shown.
    pub settings: &'static [Setting],
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::Unset => "",
            Self::Value(text) | Self::Found(text) => text,
        })
    }
}

/// Every setting there is, in sections.
pub fn reference() -> &'static [Section] {
    SECTIONS
}

pub(super) fn all_settings() -> impl Iterator<Item = &'static Setting> {
    SECTIONS.iter().flat_map(|section| section.settings)
}

const fn text(flag: &'static str, variable: &'static str, default: Fallback, meaning: &'static str) -> Setting {
    Setting { variable, also: &[], flag: Some(flag), kind: Kind::Text, default, meaning }
}

const fn switch(flag: &'static str, variable: &'static str, default: Fallback, meaning: &'static str) -> Setting {
    Setting { kind: Kind::Switch, ..text(flag, variable, default, meaning) }
}

const fn secret(variable: &'static str, default: Fallback, meaning: &'static str) -> Setting {
    Setting { variable, also: &[], flag: None, kind: Kind::Secret, default, meaning }
}

const fn library(variable: &'static str, meaning: &'static str) -> Setting {
    Setting { kind: Kind::Library, ..secret(variable, Fallback::Unset, meaning) }
}

pub(super) const AWS_S3_BUCKET: Setting = Setting {
    also: &["AWS_GIT_SYNC_BUCKET"],
    ..text("aws-s3-bucket", "AWS_S3_BUCKET", Required, "bucket: name or access point ARN")
};
pub(super) const GITLAB_BASE_URL: Setting =
    text("gitlab-base-url", "GITLAB_BASE_URL", Required, "source GitLab, https://HOST");
pub(super) const GITLAB_USERNAME: Setting =
    text("gitlab-username", "GITLAB_USERNAME", Required, "user the token belongs to");
pub(super) const GRAPHQL_SERVER: Setting =
    text("graphql-server", "GRAPHQL_SERVER", Required, "target list, https://HOST/graphql");
pub(super) const PUBLIC_KEY: Setting = text("public-key", "PUBLIC_KEY", Required, "age recipients, comma-separated");

pub(super) const GITLAB_TOKEN_FILE: Setting =
    text("gitlab-token-file", "GITLAB_TOKEN_FILE", Unset, "file with the token, read anew at each pass");
pub(super) const ALLOW_INSECURE_HTTP: Setting =
    switch("allow-insecure-http", "ALLOW_INSECURE_HTTP", Value("false"), "send credentials over http:// too");

pub(super) const GRAPHQL_QUERY_FILE: Setting = Setting {
    also: &["GRAPHQL_GLSYNC_QUERY_FILE"],
    ..text("graphql-query-file", "GRAPHQL_QUERY_FILE", Found("/query.graphql, or built in"), "the query")
};
/// The query file where none is named. It may be absent.
pub(super) const DEFAULT_QUERY_FILE: &str = "/query.graphql";
pub(super) const GRAPHQL_USERNAME: Setting =
    text("graphql-username", "GRAPHQL_USERNAME", Unset, "user for HTTP Basic; dev/dev means no login");
pub(super) const GRAPHQL_PASSWORD_FILE: Setting =
    text("graphql-password-file", "GRAPHQL_PASSWORD_FILE", Unset, "file with the password, read at each pass");

pub(super) const PREVIOUS_BUNDLE_SHA: Setting =
    text("previous-bundle-sha", "PREVIOUS_BUNDLE_SHA", Unset, "exit where nothing changed since this bundle");
pub(super) const GRAPHQL_PRCHECK_QUERY_FILE: Setting = Setting {
    // With a flag it would be the widest row of the help by far.
    flag: None,
    ..text("", "GRAPHQL_PRCHECK_QUERY_FILE", Found("/queries/prCheck.graphql, or built in"), "query")
};
/// The query file of the pull-request check where none is named. It may be absent.
pub(super) const DEFAULT_PRCHECK_QUERY_FILE: &str = "/queries/prCheck.graphql";
pub(super) const GIT_PARTITION_SAAS_NAME: Setting =
    text("git-partition-saas-name", "GIT_PARTITION_SAAS_NAME", Value("saas-git-partition-sync-producer"), "SaaS file");

pub(super) const AWS_REGION: Setting =
    text("aws-region", "AWS_REGION", Found("as the AWS SDK finds it"), "the bucket's region");
pub(super) const AWS_ENDPOINT_URL: Setting = Setting {
    also: &["AWS_ENDPOINT_URL"],
    ..text("aws-endpoint-url", "AWS_ENDPOINT_URL_S3", Found("AWS's own"), "another S3 server")
};
pub(super) const AWS_S3_FORCE_PATH_STYLE: Setting =
    switch("aws-s3-force-path-style", "AWS_S3_FORCE_PATH_STYLE", Found("true with an endpoint"), "bucket in the path");
pub(super) const AWS_S3_SIGN_PAYLOAD: Setting =
    switch("aws-s3-sign-payload", "AWS_S3_SIGN_PAYLOAD", Found("true over http"), "SHA-256 of parts signed");
pub(super) const AWS_USE_FIPS_ENDPOINT: Setting =
    switch("aws-use-fips-endpoint", "AWS_USE_FIPS_ENDPOINT", Value("false"), "AWS's FIPS endpoint");
pub(super) const ARCHIVE_FORMAT: Setting =
    text("archive-format", "ARCHIVE_FORMAT", Value("auto"), "zip, tar.gz, or auto: as the bucket has");
pub(super) const MAX_RETIRE: Setting =
    text("max-retire", "MAX_RETIRE", Value("50%"), "most to retire per pass: N, or N% of all");
pub(super) const ON_REWRITE: Setting =
    text("on-rewrite", "ON_REWRITE", Value("publish"), "publish or hold rewritten branches");
pub(super) const REPUBLISH: Setting =
    text("republish", "REPUBLISH", Unset, "upload again: all, or GROUP/PROJECT@BRANCH,…");

pub(super) const DRY_RUN: Setting = switch("dry-run", "DRY_RUN", Value("false"), "print the plan, change nothing");
pub(super) const RUN_ONCE: Setting = switch("run-once", "RUN_ONCE", Value("false"), "one pass, then exit");
pub(super) const RECONCILE_SLEEP_TIME: Setting =
    text("reconcile-sleep-time", "RECONCILE_SLEEP_TIME", Value("5m"), "pause after a pass, such as 90s");
pub(super) const WORKDIR: Setting = text("workdir", "WORKDIR", Value("/working"), "folder for Git mirrors");
pub(super) const SYNC_CONCURRENCY: Setting =
    text("sync-concurrency", "SYNC_CONCURRENCY", Found("cores, 4 to 8"), "targets published at once");
pub(super) const PROBE_CONCURRENCY: Setting =
    text("probe-concurrency", "PROBE_CONCURRENCY", Value("32"), "projects looked up at once");
pub(super) const TARGET_TIMEOUT: Setting =
    text("target-timeout", "TARGET_TIMEOUT", Value("1h"), "time limit for one target");
pub(super) const CONNECT_TIMEOUT: Setting =
    text("connect-timeout", "CONNECT_TIMEOUT", Value("10s"), "time limit for a connection");
pub(super) const IDLE_TIMEOUT: Setting =
    text("idle-timeout", "IDLE_TIMEOUT", Value("1m"), "how long a server may stay silent");
pub(super) const MIRROR_CACHE_BYTES: Setting =
    text("mirror-cache-bytes", "MIRROR_CACHE_BYTES", Value("5Gi"), "mirrors kept between passes");
pub(super) const MAX_REPOSITORY_BYTES: Setting =
    text("max-repository-bytes", "MAX_REPOSITORY_BYTES", Value("100Gi"), "larger ones are refused");

pub(super) const SHARD_COUNT: Setting = text("shard-count", "SHARD_COUNT", Value("1"), "replicas that share the work");
pub(super) const SHARD_INDEX: Setting = Setting {
    also: &["JOB_COMPLETION_INDEX"],
    ..text("shard-index", "SHARD_INDEX", Found("the host name's ordinal"), "this one, from 0")
};
/// Where a StatefulSet's pods have their ordinal.
pub(super) const HOSTNAME: Setting = library("HOSTNAME", "name-N, a StatefulSet's pod: N is SHARD_INDEX");

pub(super) const OUTPUT: Setting = text("output", "OUTPUT", Value("text"), "plans, reports, lists: text or json");
pub(super) const LOG_FORMAT: Setting = text("log-format", "LOG_FORMAT", Value("text"), "log lines: text or json");
pub(super) const PROGRESS: Setting =
    switch("progress", "PROGRESS", Value("true"), "on a terminal, show how far the work is");
pub(super) const METRICS_SERVER_PORT: Setting =
    text("metrics-server-port", "METRICS_SERVER_PORT", Value("9090"), "port of metrics and status page");
pub(super) const INSTANCE_SHARD: Setting =
    text("instance-shard", "INSTANCE_SHARD", Value("fedramp"), "shard label of the metrics");

pub(super) const METRICS_SERVER_ADDRESS: Setting =
    text("metrics-server-address", "METRICS_SERVER_ADDRESS", Value("0.0.0.0"), "address to listen on there");
pub(super) const STALL_TIMEOUT: Setting =
    text("stall-timeout", "STALL_TIMEOUT", Found("TARGET_TIMEOUT + 5m"), "not healthy after");
pub(super) const WEBHOOK_SECRET_FILE: Setting =
    text("webhook-secret-file", "WEBHOOK_SECRET_FILE", Unset, "file with the secret, read at each push");

pub(super) const WEBHOOK_SECRET: Setting = secret("WEBHOOK_SECRET", Unset, "token of GitLab's push webhooks");
pub(super) const GITLAB_TOKEN: Setting = secret("GITLAB_TOKEN", Required, "token with the scope read_repository");
pub(super) const GRAPHQL_PASSWORD: Setting = secret("GRAPHQL_PASSWORD", Unset, "password for HTTP Basic");
pub(super) const AWS_ACCESS_KEY_ID: Setting =
    secret("AWS_ACCESS_KEY_ID", Found("as the AWS SDK finds it"), "access key");
pub(super) const AWS_SECRET_ACCESS_KEY: Setting =
    secret("AWS_SECRET_ACCESS_KEY", Found("as the AWS SDK finds it"), "its secret part");
pub(super) const AWS_SESSION_TOKEN: Setting = secret("AWS_SESSION_TOKEN", Unset, "where the key is a temporary one");

const SECTIONS: &[Section] = &[
    Section {
        title: "Required",
        settings: &[AWS_S3_BUCKET, GITLAB_BASE_URL, GITLAB_USERNAME, GRAPHQL_SERVER, PUBLIC_KEY],
    },
    Section {
        title: "Secrets (environment or file: no flag, so that no process list shows them)",
        settings: &[
            GITLAB_TOKEN,
            GRAPHQL_PASSWORD,
            AWS_ACCESS_KEY_ID,
            AWS_SECRET_ACCESS_KEY,
            AWS_SESSION_TOKEN,
            WEBHOOK_SECRET,
        ],
    },
    Section { title: "Source", settings: &[GITLAB_TOKEN_FILE, ALLOW_INSECURE_HTTP] },
    Section { title: "Target list", settings: &[GRAPHQL_QUERY_FILE, GRAPHQL_USERNAME, GRAPHQL_PASSWORD_FILE] },
    Section {
        title: "Check of a pull request against the target list's data",
        settings: &[PREVIOUS_BUNDLE_SHA, GRAPHQL_PRCHECK_QUERY_FILE, GIT_PARTITION_SAAS_NAME],
    },
    Section {
        title: "Bucket",
        settings: &[
            AWS_REGION,
            AWS_ENDPOINT_URL,
            AWS_S3_FORCE_PATH_STYLE,
            AWS_S3_SIGN_PAYLOAD,
            AWS_USE_FIPS_ENDPOINT,
            ARCHIVE_FORMAT,
            MAX_RETIRE,
            ON_REWRITE,
            REPUBLISH,
        ],
    },
    Section {
        title: "Behaviour",
        settings: &[
            DRY_RUN,
            RUN_ONCE,
            RECONCILE_SLEEP_TIME,
            WORKDIR,
            SYNC_CONCURRENCY,
            PROBE_CONCURRENCY,
            TARGET_TIMEOUT,
            CONNECT_TIMEOUT,
            IDLE_TIMEOUT,
            MIRROR_CACHE_BYTES,
            MAX_REPOSITORY_BYTES,
            SHARD_COUNT,
            SHARD_INDEX,
        ],
    },
    Section { title: "Output", settings: &[OUTPUT, LOG_FORMAT, PROGRESS] },
    Section {
        title: "Metrics, health, status page, webhooks",
        settings: &[METRICS_SERVER_PORT, METRICS_SERVER_ADDRESS, INSTANCE_SHARD, STALL_TIMEOUT, WEBHOOK_SECRET_FILE],
    },
    Section {
        title: "Also understood (environment only)",
        settings: &[
            library("HTTPS_PROXY", "proxy for every connection"),
            library("NO_PROXY", "hosts that are reached without it"),
            library("SSL_CERT_FILE", "PEM bundle to trust besides the system's"),
            library("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required, for stores that refuse checksums"),
            HOSTNAME,
            library("RUST_LOG", "log filter, such as debug"),
        ],
    },
];

/// The program's name.
pub const NAME: &str = env!("CARGO_PKG_NAME");
pub(super) const RUN_USAGE: &str = "[SETTING]…";
pub(super) const CHECK_USAGE: &str = "check [SETTING]…";
pub(super) const LIST_USAGE: &str = "list [SETTING]…";
pub(super) const RESTORE_USAGE: &str = "restore -identity FILE [-into DIR] [GROUP/PROJECT[@BRANCH]]…";
/// What there is to do: words behind the program's name, and what they do.
pub const USAGES: [(&str, &str); 4] = [
    (RUN_USAGE, "Publish what is new, retire what is no longer wanted, sleep, begin again."),
    (CHECK_USAGE, "Try every server and every right that this needs, and say what to do about what fails."),
    (LIST_USAGE, "Show what the bucket holds."),
    (RESTORE_USAGE, "Download, decrypt, unpack and verify everything, or what is named."),
];
/// What one wants, and the words for it.
pub const EXAMPLES: [(&str, &str); 4] = [
    ("Does it all work from here? Try everything, change nothing", "check"),
    ("What would a pass do? Print it, change nothing", "-dry-run -run-once"),
    ("What is in the bucket, for a script", "list -output json"),
    ("One branch of one project, back from the bucket", "restore -identity key.txt -into restored platform/tools@main"),
];
/// Exit statuses and their meaning.
pub const EXIT_STATUSES: [(u8, &str); 3] = [
    (0, "all was done, or the daemon was stopped by a signal"),
    (1, "the pass of -run-once failed, wholly or for some target; check, list or restore failed"),
    (2, "settings are missing or wrong, and nothing was done"),
];
/// Width of the widest flag with its dash, and of the widest variable that has a flag.
const FLAG_COLUMN: usize = 24;
const VARIABLE_COLUMN: usize = 23;
pub(super) const NAMES_COLUMN: usize = FLAG_COLUMN + 2 + VARIABLE_COLUMN;

pub(super) fn usage(arguments: &str) -> String {
    format!("{NAME} {arguments}")
}

pub(super) fn help() -> String {
    let sections: String = SECTIONS.iter().map(help_section).collect();
    let usages: String = USAGES.iter().map(|(usage, what)| format!("  {NAME} {usage}\n      {what}\n")).collect();
    let examples: String = EXAMPLES.iter().map(|(what, words)| format!("  {what}:\n      {NAME} {words}\n")).collect();
    let statuses: String = EXIT_STATUSES.iter().map(|(status, what)| format!("  {status}  {what}\n")).collect();
    format!(
        "\
Copies GitLab projects, encrypted with age, into an S3 bucket, and keeps doing so.

Usage:
{usages}  {NAME} -help | -version

A setting is a flag (-name=value or -name value, with one dash or two; a switch alone means true) or
an environment variable. The flag wins; an empty variable counts as unset.
{sections}{}
Examples:
{examples}
Exit status:
{statuses}",
        other_names()
    )
}

pub(super) fn check_help() -> String {
    format!(
        "\
Tries everything that synchronising needs, one after the other: recipients, WORKDIR, target list,
login, every source branch, and the rights in the bucket. It leaves nothing behind.

Usage:
  {NAME} {CHECK_USAGE}

It takes the settings that synchronising takes; `{NAME} -help` explains them."
    )
}

pub(super) fn list_help() -> String {
    format!(
        "\
Shows what the bucket holds: destination, branch, commit, format, size and time of each object.

Usage:
  {NAME} {LIST_USAGE}
{}",
        bucket_help()
    )
}

pub(super) fn restore_help() -> String {
    format!(
        "\
Downloads, decrypts, unpacks and verifies what the bucket holds: everything, or what is named.

Usage:
  {NAME} {RESTORE_USAGE}

Options:
  -identity FILE  age identities, one of which can decrypt
  -into DIR       where to unpack to
{}",
        bucket_help()
    )
}

/// The settings that `list` and `restore` need.
fn bucket_help() -> String {
    let settings = &[
        AWS_S3_BUCKET,
        AWS_REGION,
        AWS_ENDPOINT_URL,
        AWS_S3_FORCE_PATH_STYLE,
        AWS_USE_FIPS_ENDPOINT,
        AWS_ACCESS_KEY_ID,
        AWS_SECRET_ACCESS_KEY,
        AWS_SESSION_TOKEN,
        CONNECT_TIMEOUT,
        IDLE_TIMEOUT,
        OUTPUT,
        LOG_FORMAT,
        PROGRESS,
    ];
    let section = help_section(&Section { title: "Settings", settings });
    format!("{section}\nOther settings are not looked at. `{NAME} -help` explains all of them.")
}

fn help_section(section: &Section) -> String {
    let rows: String = section.settings.iter().map(help_row).collect();
    format!("\n{}:\n{rows}", section.title)
}

fn help_row(setting: &Setting) -> String {
    let Setting { variable, flag, default, meaning, .. } = setting;
    let names = match flag {
        Some(flag) => format!("{:FLAG_COLUMN$}  {variable:VARIABLE_COLUMN$}", format!("-{flag}")),
        None => format!("{variable:NAMES_COLUMN$}"),
    };
    let default = if *default == Unset { String::new() } else { format!(" [{default}]") };
    format!("  {names}  {meaning}{default}\n")
}

fn other_names() -> String {
    let pairs = all_settings().flat_map(|setting| setting.also.iter().map(move |other| (other, setting.variable)));
    let rows: String = pairs.map(|(other, variable)| format!("  {other:NAMES_COLUMN$}  {variable}\n")).collect();
    format!("\nOther names, used where the variable on the right is unset:\n{rows}")
}
