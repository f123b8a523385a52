//! The consumer without a subcommand: the daemon, one pass, or a dry run.

mod deliverer;

use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

// THE LEAD'S PLACE: `crate::deliver::Deliverer` takes the place of the stand-in here, whose shape is what this file expects.
use self::deliverer::Deliverer;
use super::{failed, pass_scene, pretty, print, signals};
use crate::config::{self, OutputFormat};
use crate::net::tls::TrustRoots;
use crate::server::{Server, Site};
use crate::status::Trigger;
use crate::terminal::Board;

/// Delivers: once, or until a signal.
pub(super) async fn run(settings: config::Consume, roots: &TrustRoots, board: &Board) -> anyhow::Result<ExitCode> {
    let stop = signals::stop_on_signals()?;
    // Without a handler, the signal would end the program.
    let requested = Arc::new(Notify::new());
    let on_signal = Arc::clone(&requested);
    signals::full_pass_on_signal(move || on_signal.notify_one())?;
    let deliverer = Deliverer::new(settings.clone(), roots, requested).await?;
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
    deliverer.open()?;
    if let Some(serving) = serving {
        deliverer.run(&stop).await;
        serving.abort();
        tracing::info!("stopped");
        return Ok(ExitCode::SUCCESS);
    }
    let status = deliverer.status();
    let passing = deliverer.pass(Trigger::Schedule, &stop);
    Ok(match board.during(|| pass_scene(&status), passing).await {
        Ok(report) => {
            let text = match settings.output {
                OutputFormat::Text => String::new(),
                OutputFormat::Json => pretty(&serde_json::json!(report)),
            };
            print(&text, report.is_success())
        }
        Err(error) => failed(&error),
    })
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
            Ok(plan) => {
                let text = match settings.output {
                    OutputFormat::Text => plan.text(),
                    OutputFormat::Json => pretty(&serde_json::json!(plan)),
                };
                print(&text, plan.is_clean())
            }
            Err(error) => failed(&error),
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
