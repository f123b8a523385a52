//! The program without a subcommand: the daemon, one pass, or a dry run.

use std::process::ExitCode;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{pretty, print, show, signals};
use crate::config::{self, OutputFormat};
use crate::net::tls::TrustRoots;
use crate::progress::ProgressView;
use crate::reconcile::{Reconciler, Triggers, is_concerned, log_failed_pass};
use crate::server::{Server, Site};
use crate::status::{Status, Trigger};
use crate::terminal::{AtWork, Board, Paint, Scene};

/// Synchronises: once, or until a signal.
pub(super) async fn run(settings: config::Run, roots: &TrustRoots, board: &Board) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_on_signals()?;
    let (dry_run, run_once, output) = (settings.dry_run, settings.run_once, settings.output);
    // Unheard, the signal would end the program.
    let triggers = Arc::new(Triggers::default());
    signals::full_pass_on_signal(&triggers)?;
    let (webhook_secret, shard) = (settings.webhook_secret.clone(), settings.instance.clone());
    let pr_check = settings.pr_check.clone();
    let (address, port) = (settings.metrics_address, settings.metrics_port);
    let reconciler = Reconciler::new(settings, roots, Arc::clone(&triggers)).await?;
    match is_concerned(reconciler.clients(), pr_check.as_ref(), &stop).await {
        Ok(true) => {}
        Ok(false) => return Ok(ExitCode::SUCCESS),
        Err(error) => {
            log_failed_pass(&error);
            return Ok(ExitCode::FAILURE);
        }
    }
    // Kubernetes asks a dry run that goes on, too, whether it is well; there is nothing for a push to hurry.
    let webhook_secret = webhook_secret.filter(|_| !dry_run);
    let serving = match run_once {
        true => None,
        false => {
            let site = Site { status: reconciler.status(), triggers: Arc::clone(&triggers), webhook_secret, shard };
            Some(tokio::spawn(Server::bind(address, port).await?.serve(site, stop.clone())))
        }
    };
    if dry_run {
        let mut trigger = Trigger::Schedule;
        loop {
            let exit = preview(&reconciler, (trigger, output), board, &stop).await;
            if run_once {
                return Ok(exit);
            }
            match reconciler.wait(&stop).await {
                Some(next) => trigger = next,
                None => return Ok(ExitCode::SUCCESS),
            }
        }
    }
    let publisher = reconciler.publisher()?;
    if let Some(serving) = serving {
        reconciler.run(&publisher, &stop).await;
        serving.abort();
        tracing::info!("stopped");
        return Ok(ExitCode::SUCCESS);
    }
    let status = reconciler.status();
    let passing = reconciler.pass(&publisher, Trigger::Schedule, &stop);
    Ok(match board.during(|| pass_scene(&status), passing).await {
        Ok(report) => {
            let text = match output {
                OutputFormat::Text => String::new(),
                OutputFormat::Json => pretty(&serde_json::json!(report)),
            };
            print(&text, report.is_success())
        }
        Err(error) => {
            log_failed_pass(&error);
            ExitCode::FAILURE
        }
    })
}

/// Prints what a pass would do.
async fn preview(
    reconciler: &Reconciler,
    (trigger, output): (Trigger, OutputFormat),
    board: &Board,
    stop: &CancellationToken,
) -> ExitCode {
    let status = reconciler.status();
    match board.during(|| pass_scene(&status), reconciler.preview(trigger, stop)).await {
        Ok((plan, foreign)) => {
            let text = match output {
                OutputFormat::Text => show::plan_text(&plan, foreign, Paint::on(&std::io::stdout())),
                OutputFormat::Json => pretty(&show::plan_json(&plan, foreign)),
            };
            print(&text, plan.is_clean())
        }
        Err(error) => {
            log_failed_pass(&error);
            ExitCode::FAILURE
        }
    }
}

/// A pass under way.
fn pass_scene(status: &Status) -> Scene {
    let (actions, running) = status.at_work();
    let Some((all, done)) = actions else { return Scene::new("looking at targets, branches and bucket") };
    let done = Some((done as u64, all as u64));
    let at_work = running.into_iter().map(at_work).collect();
    Scene { title: "destinations".to_owned(), done, at_work }
}

fn at_work(ProgressView { destination, stage, bytes, of, bytes_per_second, .. }: ProgressView) -> AtWork {
    AtWork { name: destination.to_string(), stage: stage.name(), bytes, of, bytes_per_second }
}
