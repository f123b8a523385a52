//! The settings of the producer, in sections: flags, help and the man page are made from them, and the README's table is
//! checked against them. Those that the consumer has too are in its own sections as well.
//!
//! Invariant: a setting that is not listed has no flag and is not read.

use std::fmt;

use Fallback::{Found, Required, Unset, Value};

use crate::status::metrics::DEFAULT_SHARD;

/// One setting, as help and the README show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Its environment variable.
    pub variable: &'static str,
    /// Variables to read if that one is unset; the first that is set counts.
    pub also: &'static [&'static str],
    /// Its flag, without dashes; none for a secret.
    pub flag: Option<&'static str>,
    /// The kind of its value.
    pub kind: Kind,
    /// What applies if it is unset.
    pub default: Fallback,
    /// What it is for, in a few words.
    pub meaning: &'static str,
}

/// The kind of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text, with a check of its own.
    Text,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// True or false.
    Switch,
    /// Never shown, never a flag.
    Secret,
    /// Read by a library; only described here.
    Library,
}

/// What applies if a setting is unset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Nothing: synchronising needs it.
    Required,
    /// Nothing, and nothing is needed.
    Unset,
    /// This value, checked like a given one.
    Value(&'static str),
    /// A value the program finds out, as described here.
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

pub(super) const fn text(
    flag: &'static str,
    variable: &'static str,
    default: Fallback,
    meaning: &'static str,
) -> Setting {
    Setting { variable, also: &[], flag: Some(flag), kind: Kind::Text, default, meaning }
}

pub(super) const fn choice(
    flag: &'static str,
    variable: &'static str,
    choices: &'static [&'static str],
    default: Fallback,
    meaning: &'static str,
) -> Setting {
    Setting { kind: Kind::Choice(choices), ..text(flag, variable, default, meaning) }
}

pub(super) const fn switch(
    flag: &'static str,
    variable: &'static str,
    default: Fallback,
    meaning: &'static str,
) -> Setting {
    Setting { kind: Kind::Switch, ..text(flag, variable, default, meaning) }
}

pub(super) const fn secret(variable: &'static str, default: Fallback, meaning: &'static str) -> Setting {
    Setting { variable, also: &[], flag: None, kind: Kind::Secret, default, meaning }
}

pub(super) const fn library(variable: &'static str, meaning: &'static str) -> Setting {
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
    text("graphql-server", "GRAPHQL_SERVER", Found("or TARGETS_FILE"), "https://HOST/graphql");
pub(super) const TARGETS_FILE: Setting =
    text("targets-file", "TARGETS_FILE", Found("or GRAPHQL_SERVER"), "JSON, read at each pass");
pub(super) const PUBLIC_KEY: Setting = text("public-key", "PUBLIC_KEY", Required, "age recipients, comma-separated");

pub(super) const GITLAB_TOKEN_FILE: Setting =
    text("gitlab-token-file", "GITLAB_TOKEN_FILE", Unset, "file with the token, read again at each pass");
pub(super) const ALLOW_INSECURE_HTTP: Setting = switch(
    "allow-insecure-http",
    "ALLOW_INSECURE_HTTP",
    Value("false"),
    "http:// beyond loopback too: true, or servers",
);

pub(super) const GRAPHQL_QUERY_FILE: Setting = Setting {
    also: &["GRAPHQL_GLSYNC_QUERY_FILE"],
    ..text("graphql-query-file", "GRAPHQL_QUERY_FILE", Found("/query.graphql, or built in"), "the query")
};
/// The query file if none is named. It may be absent.
pub(super) const DEFAULT_QUERY_FILE: &str = "/query.graphql";
pub(super) const GRAPHQL_USERNAME: Setting =
    text("graphql-username", "GRAPHQL_USERNAME", Unset, "user for HTTP Basic; dev/dev means no login");
pub(super) const GRAPHQL_PASSWORD_FILE: Setting =
    text("graphql-password-file", "GRAPHQL_PASSWORD_FILE", Unset, "file with the password, read at each pass");

pub(super) const PREVIOUS_BUNDLE_SHA: Setting =
    text("previous-bundle-sha", "PREVIOUS_BUNDLE_SHA", Unset, "exit if nothing changed since this bundle");
pub(super) const GRAPHQL_PRCHECK_QUERY_FILE: Setting = Setting {
    // A flag would make this by far the widest row of the help.
    flag: None,
    ..text("", "GRAPHQL_PRCHECK_QUERY_FILE", Found("/queries/prCheck.graphql, or built in"), "query")
};
/// The query file of the pull-request check if none is named. It may be absent.
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
pub(super) const ARCHIVE_FORMAT: Setting = choice(
    "archive-format",
    "ARCHIVE_FORMAT",
    &["auto", "zip", "tar.gz"],
    Value("auto"),
    "zip, tar.gz, or auto: as the bucket has",
);
pub(super) const CROSSING: Setting =
    choice("crossing", "CROSSING", &["whole", "incremental"], Value("whole"), "what crosses: whole, or incremental");
pub(super) const MAX_INCREMENTS: Setting =
    text("max-increments", "MAX_INCREMENTS", Value("8"), "most increments in a row");
pub(super) const SIGNING_KEY_FILE: Setting =
    text("signing-key-file", "SIGNING_KEY_FILE", Unset, "Ed25519 key (PEM) that signs objects");
pub(super) const TRUSTED_KEYS: Setting =
    text("trusted-keys", "TRUSTED_KEYS", Unset, "public keys: take only what these signed");
pub(super) const TRUSTED_KEYS_FILE: Setting =
    text("trusted-keys-file", "TRUSTED_KEYS_FILE", Unset, "file with the trusted keys");
pub(super) const MAX_RETIRE: Setting =
    text("max-retire", "MAX_RETIRE", Value("50%"), "most to retire in 24 h: N, or N% of all");
pub(super) const ON_REWRITE: Setting =
    choice("on-rewrite", "ON_REWRITE", &["publish", "hold"], Value("publish"), "publish or hold rewritten branches");
pub(super) const REPUBLISH: Setting =
    text("republish", "REPUBLISH", Unset, "again: all, on-recipient-change, or names");

pub(super) const DRY_RUN: Setting = switch("dry-run", "DRY_RUN", Value("false"), "print the plan, change nothing");
pub(super) const RUN_ONCE: Setting = switch("run-once", "RUN_ONCE", Value("false"), "one pass, then exit");
pub(super) const DETAILED_EXITCODE: Setting =
    switch("detailed-exitcode", "DETAILED_EXITCODE", Value("false"), "dry run: status 2 if there are changes");
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

pub(super) const MEMORY_BUDGET_BYTES: Setting =
    text("memory-budget-bytes", "MEMORY_BUDGET_BYTES", Found("from the memory limit"), "memory for Git objects");

pub(super) const SHARD_COUNT: Setting = text("shard-count", "SHARD_COUNT", Value("1"), "replicas that share the work");
pub(super) const SHARD_INDEX: Setting = Setting {
    also: &["JOB_COMPLETION_INDEX"],
    ..text("shard-index", "SHARD_INDEX", Found("the host name's ordinal"), "this one, from 0")
};
/// A StatefulSet's pod has its ordinal at the end of its host name.
pub(super) const HOSTNAME: Setting = library("HOSTNAME", "name-N, a StatefulSet's pod: N is SHARD_INDEX");

pub(super) const OUTPUT: Setting =
    choice("output", "OUTPUT", &["text", "json"], Value("text"), "plans, reports, lists: text or json");
pub(super) const LOG_FORMAT: Setting =
    choice("log-format", "LOG_FORMAT", &["text", "json"], Value("text"), "log lines: text or json");
pub(super) const PROGRESS: Setting = switch("progress", "PROGRESS", Value("true"), "show progress on a terminal");
pub(super) const METRICS_SERVER_PORT: Setting =
    text("metrics-server-port", "METRICS_SERVER_PORT", Value("9090"), "port of metrics and status page");
pub(super) const INSTANCE_SHARD: Setting =
    text("instance-shard", "INSTANCE_SHARD", Value(DEFAULT_SHARD), "shard label of the metrics");

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
pub(super) const AWS_SESSION_TOKEN: Setting = secret("AWS_SESSION_TOKEN", Unset, "for a temporary access key");

pub(super) const HTTPS_PROXY: Setting = library("HTTPS_PROXY", "proxy for every connection");
pub(super) const NO_PROXY: Setting = library("NO_PROXY", "hosts to reach without it");
pub(super) const SSL_CERT_FILE: Setting = library("SSL_CERT_FILE", "PEM bundle to trust, with the system's");
pub(super) const RUST_LOG: Setting = library("RUST_LOG", "log filter, such as debug");

/// Every setting of the producer.
pub(super) const SECTIONS: &[Section] = &[
    Section { title: "Required", settings: &[AWS_S3_BUCKET, GITLAB_BASE_URL, GITLAB_USERNAME, PUBLIC_KEY] },
    Section {
        title: "Target list, from a GraphQL server or a file: one of the two is required",
        settings: &[GRAPHQL_SERVER, TARGETS_FILE],
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
    Section { title: "GraphQL server", settings: &[GRAPHQL_QUERY_FILE, GRAPHQL_USERNAME, GRAPHQL_PASSWORD_FILE] },
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
            CROSSING,
            MAX_INCREMENTS,
            SIGNING_KEY_FILE,
            MAX_RETIRE,
            ON_REWRITE,
            REPUBLISH,
        ],
    },
    Section { title: "Signatures, for restore", settings: &[TRUSTED_KEYS, TRUSTED_KEYS_FILE] },
    Section {
        title: "Behaviour",
        settings: &[
            DRY_RUN,
            RUN_ONCE,
            DETAILED_EXITCODE,
            RECONCILE_SLEEP_TIME,
            WORKDIR,
            SYNC_CONCURRENCY,
            PROBE_CONCURRENCY,
            TARGET_TIMEOUT,
            CONNECT_TIMEOUT,
            IDLE_TIMEOUT,
            MIRROR_CACHE_BYTES,
            MAX_REPOSITORY_BYTES,
            MEMORY_BUDGET_BYTES,
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
            HTTPS_PROXY,
            NO_PROXY,
            SSL_CERT_FILE,
            library("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required, for stores that refuse checksums"),
            HOSTNAME,
            RUST_LOG,
        ],
    },
];
