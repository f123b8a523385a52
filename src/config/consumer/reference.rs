//! The list of the consumer's settings: flags, help and the man page are made from it, and the table in `docs/consumer.md`
//! is checked against it.

use super::super::reference::Fallback::{Found, Required, Unset};
use super::super::reference::*;

pub(in super::super) const PRIVATE_KEY: Setting = secret("PRIVATE_KEY", Required, "age identities, one a line");
pub(in super::super) const PRIVATE_KEY_FILE: Setting =
    text("private-key-file", "PRIVATE_KEY_FILE", Unset, "file with the identities, read at each pass");

/// Every setting of the consumer.
pub(in super::super) const SECTIONS: &[Section] = &[
    Section {
        title: "Required",
        settings: &[
            AWS_S3_BUCKET,
            Setting { meaning: "destination GitLab, https://HOST", ..GITLAB_BASE_URL },
            GITLAB_USERNAME,
        ],
    },
    Section {
        title: "Secrets (environment or file: no flag holds one, as process lists show flags)",
        settings: &[
            Setting { meaning: "token, scope write_repository", ..GITLAB_TOKEN },
            PRIVATE_KEY,
            PRIVATE_KEY_FILE,
            AWS_ACCESS_KEY_ID,
            AWS_SECRET_ACCESS_KEY,
            AWS_SESSION_TOKEN,
            Setting { meaning: "token of the bucket's webhook", ..WEBHOOK_SECRET },
        ],
    },
    Section { title: "Destination", settings: &[GITLAB_TOKEN_FILE, ALLOW_INSECURE_HTTP, ON_REWRITE] },
    Section {
        title: "Bucket",
        settings: &[
            TRUSTED_KEYS,
            TRUSTED_KEYS_FILE,
            AWS_REGION,
            AWS_ENDPOINT_URL,
            AWS_S3_FORCE_PATH_STYLE,
            AWS_USE_FIPS_ENDPOINT,
        ],
    },
    Section {
        title: "Behaviour",
        settings: &[
            DRY_RUN,
            RUN_ONCE,
            DETAILED_EXITCODE,
            Setting {
                default: Found("10s; 5m if >1,000 objects"),
                meaning: "pause after a pass",
                ..RECONCILE_SLEEP_TIME
            },
            Setting { meaning: "folder for objects on their way", ..WORKDIR },
            Setting { meaning: "destinations delivered at once", ..SYNC_CONCURRENCY },
            PROBE_CONCURRENCY,
            Setting { meaning: "time limit for one destination", ..TARGET_TIMEOUT },
            CONNECT_TIMEOUT,
            IDLE_TIMEOUT,
            MAX_REPOSITORY_BYTES,
            MEMORY_BUDGET_BYTES,
            SHARD_COUNT,
            SHARD_INDEX,
        ],
    },
    Section { title: "Output", settings: &[OUTPUT, LOG_FORMAT, PROGRESS] },
    Section {
        title: "Metrics, health, status page, webhook",
        settings: &[
            METRICS_SERVER_PORT,
            METRICS_SERVER_ADDRESS,
            INSTANCE_SHARD,
            STALL_TIMEOUT,
            Setting { meaning: "file with the secret, read each time", ..WEBHOOK_SECRET_FILE },
        ],
    },
    Section {
        title: "Also understood (environment only)",
        settings: &[
            HTTPS_PROXY,
            NO_PROXY,
            SSL_CERT_FILE,
            library("INTERNAL_GIT_CA_PATH", "another PEM bundle to trust"),
            HOSTNAME,
            RUST_LOG,
        ],
    },
];
