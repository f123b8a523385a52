//! Passes and previews of either program, as a person at a terminal sees them.

use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{pass_scene, pretty, print, print_and_exit, signals};
use crate::config::{Common, EXIT_CHANGES, OutputFormat};
use crate::passes::Triggers;
use crate::server::{Sender, Server, Site, Webhook};
use crate::status::{Status, Trigger};
use crate::terminal::Board;

/// What asks for passes: signals from now on. Without a handler, SIGUSR1 would end the program.
pub(super) fn triggers() -> anyhow::Result<Arc<Triggers>> {
    let triggers = Arc::new(Triggers::default());
    let on_signal = Arc::clone(&triggers);
    signals::full_pass_on_signal(move || on_signal.full_pass())?;
    Ok(triggers)
}

/// Opens the port and serves it; `None` for one pass. `sender` calls the webhook.
pub(super) async fn serving(
    settings: &Common,
    status: Arc<Status>,
    triggers: Arc<Triggers>,
    sender: Sender,
    stop: &CancellationToken,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    if settings.run_once {
        return Ok(None);
    }
    let server = Server::bind(settings.metrics_address, settings.metrics_port).await?;
    // A dry run does nothing that could be sped up; it is served because Kubernetes asks for its health.
    let secret = settings.webhook_secret.clone().filter(|_| !settings.dry_run);
    let webhook = secret.map(|secret| Webhook { secret, triggers, sender });
    let (shard, gitlab) = (settings.instance.name().map(str::to_owned), settings.gitlab.base_url.clone());
    Ok(Some(tokio::spawn(server.serve(Site { status, shard, gitlab, webhook }, stop.clone()))))
}

/// Waits for one pass, and prints its report. `failed` says why there is none.
pub(super) async fn one_pass<R: Serialize, E>(
    passing: impl Future<Output = Result<R, E>>,
    is_success: fn(&R) -> bool,
    failed: fn(&E) -> ExitCode,
    output: OutputFormat,
    status: &Status,
    board: &Board,
) -> ExitCode {
    match board.during(|| pass_scene(status), passing).await {
        Ok(report) => {
            let text = match output {
                OutputFormat::Text => String::new(),
                OutputFormat::Json => pretty(&serde_json::json!(report)),
            };
            print(&text, is_success(&report))
        }
        Err(error) => failed(&error),
    }
}

/// What a pass would do.
pub(super) struct Preview {
    pub(super) text: String,
    /// Whether it could be planned for everything.
    pub(super) is_good: bool,
    pub(super) has_changes: bool,
}

/// How dry runs end.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    /// After the first one, or with a signal.
    pub(super) once: bool,
    /// Whether the exit status tells if there is something to do.
    pub(super) detailed: bool,
}

/// Prints what a pass would do: once, or again for every pass until `wait` returns `None`.
pub(super) async fn previews<E>(
    preview: impl AsyncFn(Trigger) -> Result<Preview, E>,
    failed: fn(&E) -> ExitCode,
    wait: impl AsyncFn() -> Option<Trigger>,
    Ending { once, detailed }: Ending,
    status: &Status,
    board: &Board,
) -> ExitCode {
    let mut trigger = Trigger::Schedule;
    loop {
        let exit = match board.during(|| pass_scene(status), preview(trigger)).await {
            Ok(Preview { text, is_good: true, has_changes: true }) if detailed => {
                print_and_exit(&text, ExitCode::from(EXIT_CHANGES))
            }
            Ok(Preview { text, is_good, .. }) => print(&text, is_good),
            Err(error) => failed(&error),
        };
        if once {
            return exit;
        }
        match wait().await {
            Some(next) => trigger = next,
            None => return ExitCode::SUCCESS,
        }
    }
}
