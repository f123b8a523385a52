//! The program without a subcommand: the daemon, one pass, or a dry run.

use std::process::ExitCode;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::passing::{Ending, Preview, one_pass, previews, serving, triggers};
use super::{pretty, show, signals};
use crate::config::{self, OutputFormat};
use crate::model::program::Program;
use crate::net::tls::TrustRoots;
use crate::plan::report::Report;
use crate::reconcile::{PassError, Reconciler, is_concerned, log_failed_pass};
use crate::server::Sender;
use crate::status::Trigger;
use crate::terminal::{Board, Paint};
use crate::text::human_duration;

/// Synchronises: once, or until a signal.
pub(super) async fn run(settings: config::Run, roots: &TrustRoots, board: &Board) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_on_signals()?;
    let triggers = triggers()?;
    let reconciler = Reconciler::new(settings.clone(), roots, Arc::clone(&triggers)).await?;
    log_start(&settings);
    match is_concerned(reconciler.clients(), &stop).await {
        Ok(true) => {}
        Ok(false) => return Ok(ExitCode::SUCCESS),
        Err(error) => return Ok(failed_pass(&error)),
    }
    let sender = Sender::GitLab;
    let serving = serving(&settings.common, reconciler.status(), triggers, sender, &stop).await?;
    // Boxes, because a whole program would be nested too deep for the compiler.
    if settings.common.dry_run {
        return Ok(Box::pin(dry_run(&reconciler, &settings, board, &stop)).await);
    }
    let publisher = reconciler.publisher()?;
    if let Some(serving) = serving {
        Box::pin(reconciler.run(&publisher, &stop)).await;
        serving.abort();
        tracing::info!("stopped");
        return Ok(ExitCode::SUCCESS);
    }
    let passing = Box::pin(reconciler.pass(&publisher, Trigger::Schedule, &stop));
    Ok(one_pass(passing, Report::is_success, failed_pass, settings.common.output, &reconciler.status(), board).await)
}

/// One line that says which program this is, and what it is set to do.
fn log_start(settings: &config::Run) {
    tracing::info!(
        bucket = settings.common.s3.bucket,
        interval = human_duration(settings.sleep),
        dry_run = settings.common.dry_run,
        run_once = settings.common.run_once,
        max_retire = %settings.max_retire,
        on_rewrite = %settings.common.on_rewrite,
        archive_format = %settings.archive_format,
        crossing = %settings.crossing,
        signed = settings.signing_key.is_some(),
        shard = %settings.common.share,
        webhooks = settings.common.webhook_secret.is_some() && !settings.common.dry_run,
        "{} starts",
        Program::Producer.name_and_version()
    );
}

fn failed_pass(error: &PassError) -> ExitCode {
    log_failed_pass(error);
    ExitCode::FAILURE
}

/// Prints what a pass would do: once, or again for every pass until a signal.
async fn dry_run(reconciler: &Reconciler, settings: &config::Run, board: &Board, stop: &CancellationToken) -> ExitCode {
    let preview = async |trigger| {
        let (plan, foreign) = reconciler.preview(trigger, stop).await?;
        let text = match settings.common.output {
            OutputFormat::Text => show::plan_text(&plan, foreign, Paint::on(&std::io::stdout())),
            OutputFormat::Json => pretty(&show::plan_json(&plan, foreign)),
        };
        Ok(Preview { text, is_good: plan.is_clean(), has_changes: !plan.actions.is_empty() })
    };
    let wait = async || reconciler.wait(stop).await;
    let ending = Ending { once: settings.common.run_once, detailed: settings.common.detailed_exitcode };
    previews(preview, failed_pass, wait, ending, &reconciler.status(), board).await
}
