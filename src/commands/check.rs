//! `check`: tries every setting and every server that a pass needs, one after the other, and says what to do about each
//! failure. It is the first thing to run in a new place.
//!
//! Invariant: nothing changes that a pass or a consumer could see, and one failure never hides the next.

mod bucket;
pub(super) mod consumer;
mod far;
mod finding;
mod gitlab;
mod here;
mod objects;
mod target_list;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use self::finding::{Check, Checks};
use super::signals;
use crate::config;
use crate::model::program::Program;
use crate::net::tls::TrustRoots;
use crate::reconcile::{Clients, concurrency};
use crate::terminal::Board;

/// How often each request is sent in all. Somebody waits, and can try again.
const ATTEMPTS: usize = 2;

/// Tries everything that a pass needs, and prints each check when it is done.
pub(super) async fn command(
    settings: config::Run,
    warnings: &[String],
    roots: &TrustRoots,
    board: &Board,
) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_on_signals()?;
    let clients = Clients::new(&settings, roots, concurrency(&settings).probe).await?.with_attempts(ATTEMPTS);
    let mut checks = Checks::new(settings.common.output, board);
    let complete = run((&settings, warnings), &clients, &stop, &mut checks).await.is_some();
    Ok(checks.end(complete))
}

/// Tries everything. `None` if the program is asked to stop.
async fn run(
    (settings, warnings): (&config::Run, &[String]),
    clients: &Clients,
    stop: &CancellationToken,
    checks: &mut Checks<'_>,
) -> Option<()> {
    checks.add([Check::settings(warnings)]);
    checks.add([here::recipients(&settings.recipients)]);
    checks.add(settings.signing_key.as_ref().map(here::signing_key));
    checks.add([here::workdir(Program::Producer, &settings.common.workdir)]);
    let listing = stop.run_until_cancelled(target_list::source(clients));
    let (check, targets) = checks.during("target list", listing).await?;
    checks.add([check]);
    checks.add(targets.iter().map(|targets| target_list::targets(targets, &settings.republish)));
    let targets = targets.map(|targets| targets.accepted).unwrap_or_default();
    let reading = stop.run_until_cancelled(gitlab::gitlab(settings, clients, targets));
    let found = checks.during("GitLab and source branches", reading).await?;
    checks.add(found);
    let listing = stop.run_until_cancelled(bucket::listing(&clients.bucket, settings));
    let (check, reached) = checks.during("bucket: list", listing).await?;
    checks.add([check]);
    if !reached {
        checks.add(bucket::not_tried());
        return Some(());
    }
    let check = checks.during("bucket: upload", bucket::uploading(&clients.bucket, stop)).await;
    checks.add([check]);
    let check = checks.during("bucket: delete", bucket::deleting(&clients.bucket, stop)).await;
    checks.add([check]);
    let check = checks.during("bucket: uploads", bucket::unfinished(&clients.bucket, stop)).await;
    checks.add([check]);
    (!stop.is_cancelled()).then_some(())
}
