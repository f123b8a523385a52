//! The consumer without a subcommand: the daemon, one pass, or a dry run.

mod show;

use std::process::ExitCode;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{pass_scene, pretty, print, signals};
use crate::config::{self, OutputFormat};
use crate::deliver::{Deliverer, PassError, log_failed_pass};
use crate::net::tls::TrustRoots;
use crate::passes::Triggers;
use crate::server::{Server, Site};
use crate::status::Trigger;
use crate::terminal::{Board, Paint};

/// Delivers: once, or until a signal.
pub(super) async fn run(settings: config::Consume, roots: &TrustRoots, board: &Board) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_on_signals()?;
    // Without a handler, the signal would end the program.
    let triggers = Arc::new(Triggers::default());
    let on_signal = Arc::clone(&triggers);
    signals::full_pass_on_signal(move || on_signal.full_pass())?;
    let deliverer = Deliverer::new(settings.clone(), roots, triggers).await?;
    let serving = match settings.run_once {
        true => None,
        false => {
            let server = Server::bind(settings.metrics_address, settings.metrics_port).await?;
            let site = Site { status: deliverer.status(), shard: settings.instance.clone(), webhooks: None };
            Some(tokio::spawn(server.serve(site, stop.clone())))
        }
    };
    if settings.dry_run {
        return Ok(dry_run(&deliverer, &settings, board, &stop).await);
    }
    let courier = deliverer.courier()?;
    if let Some(serving) = serving {
        deliverer.run(&courier, &stop).await;
        serving.abort();
        tracing::info!("stopped");
        return Ok(ExitCode::SUCCESS);
    }
    let status = deliverer.status();
    let passing = deliverer.pass(&courier, Trigger::Schedule, &stop);
    Ok(match board.during(|| pass_scene(&status), passing).await {
        Ok(report) => {
            let text = match settings.output {
                OutputFormat::Text => String::new(),
                OutputFormat::Json => pretty(&serde_json::json!(report)),
            };
            print(&text, report.is_success())
        }
        Err(error) => failed_pass(&error),
    })
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
    let status = deliverer.status();
    let mut trigger = Trigger::Schedule;
    loop {
        let exit = match board.during(|| pass_scene(&status), deliverer.preview(trigger, stop)).await {
            Ok((plan, foreign)) => {
                let text = match settings.output {
                    OutputFormat::Text => show::plan_text(&plan, foreign, Paint::on(&std::io::stdout())),
                    OutputFormat::Json => pretty(&show::plan_json(&plan, foreign)),
                };
                print(&text, plan.blocked.is_empty())
            }
            Err(error) => failed_pass(&error),
        };
        if settings.run_once {
            return exit;
        }
        match deliverer.wait(stop).await {
            Some(next) => trigger = next,
            None => return ExitCode::SUCCESS,
        }
    }
}
