//! The consumer's `check`: what a pass on the far side needs.
//!
//! Invariant: nothing changes on either side. GitLab creates a missing project when it is asked for the right to push to it,
//! so only projects that exist are asked about.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::finding::{Check, Checks};
use super::{ATTEMPTS, far, here, objects};
use crate::bucket::Bucket;
use crate::commands::signals;
use crate::config;
use crate::model::program::Program;
use crate::net::http;
use crate::net::http::upload::Uploads;
use crate::net::tls::TrustRoots;
use crate::terminal::Board;

/// Tries everything that a pass needs, and prints each check when it is done.
pub(in crate::commands) async fn command(
    settings: config::Consume,
    warnings: &[String],
    roots: &TrustRoots,
    board: &Board,
) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_on_signals()?;
    let bucket = Bucket::connect(&settings.common.s3, settings.common.timeouts, roots).await?.with_attempts(ATTEMPTS);
    let http = http::client(roots, settings.common.timeouts, 1)?;
    let uploads = Uploads::new(roots, settings.common.timeouts, 1)?;
    let mut checks = Checks::new(settings.common.output, board);
    let complete = run((&settings, warnings), &bucket, (&http, &uploads), &stop, &mut checks).await.is_some();
    Ok(checks.end(complete))
}

/// Tries everything. `None` if the program is asked to stop.
async fn run(
    (settings, warnings): (&config::Consume, &[String]),
    bucket: &Bucket,
    (http, uploads): (&reqwest::Client, &Uploads),
    stop: &CancellationToken,
    checks: &mut Checks<'_>,
) -> Option<()> {
    checks.add([Check::settings(warnings)]);
    let identities = settings.keys.identities();
    checks.add([here::identities(identities.as_ref()), here::trusted_keys(settings.keys.trusted_keys())]);
    checks.add([here::workdir(Program::Consumer, &settings.common.workdir)]);
    checks
        .add(settings.common.webhook_secret.as_ref().map(|secret| here::webhook(secret, settings.common.metrics_port)));
    let listing = stop.run_until_cancelled(objects::listing(bucket, settings));
    let (check, held) = checks.during("bucket: list", listing).await?;
    checks.add([check]);
    let reading = stop.run_until_cancelled(objects::reading(bucket, settings, &held, identities.ok()));
    let check = checks.during("bucket: read", reading).await?;
    checks.add([check]);
    let asking = stop.run_until_cancelled(far::gitlab(settings, http, uploads, &held));
    let found = checks.during("GitLab and the right to push", asking).await?;
    checks.add(found);
    (!stop.is_cancelled()).then_some(())
}
