//! The consumer without a subcommand: the daemon, one pass, or a dry run.

mod show;

use std::process::ExitCode;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::passing::{Ending, Preview, one_pass, previews, serving, triggers};
use super::{pretty, signals};
use crate::config::{self, OutputFormat};
use crate::deliver::{Deliverer, PassError, log_failed_pass};
use crate::model::program::Program;
use crate::net::tls::TrustRoots;
use crate::plan::delivery::report::DeliveryReport;
use crate::server::Sender;
use crate::status::Trigger;
use crate::terminal::{Board, Paint};
use crate::text::human_duration;

/// Delivers: once, or until a signal.
pub(super) async fn run(settings: config::Consume, roots: &TrustRoots, board: &Board) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_on_signals()?;
    let triggers = triggers()?;
    let deliverer = Deliverer::new(settings.clone(), roots, Arc::clone(&triggers)).await?;
    log_start(&settings);
    let sender = Sender::Bucket(settings.common.share);
    let serving = serving(&settings.common, deliverer.status(), triggers, sender, &stop).await?;
    // Boxes, because a whole program would be nested too deep for the compiler.
    if settings.common.dry_run {
        return Ok(Box::pin(dry_run(&deliverer, &settings, board, &stop)).await);
    }
    let courier = deliverer.courier()?;
    if let Some(serving) = serving {
        Box::pin(deliverer.run(&courier, &stop)).await;
        serving.abort();
        tracing::info!("stopped");
        return Ok(ExitCode::SUCCESS);
    }
    let passing = Box::pin(deliverer.pass(&courier, Trigger::Schedule, &stop));
    let is_success = DeliveryReport::is_success;
    Ok(one_pass(passing, is_success, failed_pass, settings.common.output, &deliverer.status(), board).await)
}

/// One line that says which program this is, and what it is set to do.
fn log_start(settings: &config::Consume) {
    // A file of keys may be read again at any time; what is wrong with it then, the pass says.
    let keys = settings.keys.trusted_keys().ok().flatten().map_or(0, |keys| keys.ids().count());
    let taken = match &settings.keys.trusted {
        None => "unsigned objects are taken".to_owned(),
        Some(_) => format!("only objects that are signed with one of {keys} trusted key(s) are taken"),
    };
    tracing::info!(
        bucket = settings.common.s3.bucket,
        interval = settings.sleep.map_or_else(|| "by the bucket's size".to_owned(), human_duration),
        dry_run = settings.common.dry_run,
        run_once = settings.common.run_once,
        on_rewrite = %settings.common.on_rewrite,
        trusted_keys = keys,
        shard = %settings.common.share,
        webhook = settings.common.webhook_secret.is_some() && !settings.common.dry_run,
        "{} starts: {taken}",
        Program::Consumer.name_and_version()
    );
}

fn failed_pass(error: &PassError) -> ExitCode {
    log_failed_pass(error);
    ExitCode::FAILURE
}

/// Prints what a pass would do: once, or again for every pass until a signal.
async fn dry_run(
    deliverer: &Deliverer,
    settings: &config::Consume,
    board: &Board,
    stop: &CancellationToken,
) -> ExitCode {
    let preview = async |trigger| {
        let (plan, foreign) = deliverer.preview(trigger, stop).await?;
        let text = match settings.common.output {
            OutputFormat::Text => show::plan_text(&plan, foreign, Paint::on(&std::io::stdout())),
            OutputFormat::Json => pretty(&show::plan_json(&plan, foreign)),
        };
        Ok(Preview { text, is_good: plan.blocked.is_empty(), has_changes: !plan.deliveries.is_empty() })
    };
    let wait = async || deliverer.wait(stop).await;
    let ending = Ending { once: settings.common.run_once, detailed: settings.common.detailed_exitcode };
    previews(preview, failed_pass, wait, ending, &deliverer.status(), board).await
}
