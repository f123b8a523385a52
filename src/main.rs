//! The program: settings, logging, wiring, exit status.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use git_partition_sync_producer::bucket::Bucket;
use git_partition_sync_producer::check::{self, Check};
use git_partition_sync_producer::config::{self, Command, EXIT_SETTINGS, OutputFormat};
use git_partition_sync_producer::encrypt::Identities;
use git_partition_sync_producer::reconcile::{Reconciler, log_failed_pass};
use git_partition_sync_producer::server::{Server, Site};
use git_partition_sync_producer::terminal::{Board, Paint, Scene};
use git_partition_sync_producer::tls::TrustRoots;
use git_partition_sync_producer::trigger::{Trigger, Triggers};
use git_partition_sync_producer::{list, report, restore, telemetry};

/// How long threads that are still at work are waited for at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let settings = match config::parse(std::env::args_os(), &|name| std::env::var_os(name)) {
        Ok(settings) => settings,
        Err(exit) => return exit.print(),
    };
    let board = Board::new(settings.shows_progress());
    telemetry::start(settings.log_format, board.clone());
    // Files made here, by whichever library, are for this user only.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Neither secrets nor plaintext belong into a core dump.
    let no_core_dump = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, no_core_dump) {
        tracing::debug!(%error, "cannot switch core dumps off");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return unusable(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let exit = runtime.block_on(run(settings.command, &board)).unwrap_or_else(|error| unusable(&error));
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    exit
}

/// Reports that the program cannot work with what it was given.
fn unusable(error: &anyhow::Error) -> ExitCode {
    eprintln!("{}", report::error_chain(error.as_ref()));
    ExitCode::from(EXIT_SETTINGS)
}

async fn run(command: Command, board: &Board) -> anyhow::Result<ExitCode> {
    let extra = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
    let roots = TrustRoots::load(extra.as_deref().map(Path::new))?;
    match command {
        Command::Run(settings) => reconcile(settings, &roots, board).await,
        Command::Check(settings) => check_all(settings, &roots).await,
        Command::List(settings) => {
            let bucket = Bucket::connect(&settings.s3, settings.timeouts, &roots).await?;
            let seen = AtomicUsize::new(0);
            let look = || Scene::of_listing(seen.load(Ordering::Relaxed));
            let listing = match board.during(look, bucket.list_counting(&seen)).await {
                Ok(listing) => listing,
                Err(error) => return Ok(failed(&error)),
            };
            let text = match settings.output {
                OutputFormat::Text => list::text(listing, SystemTime::now(), Paint::on(&std::io::stdout())),
                OutputFormat::Json => pretty(&list::json(listing)),
            };
            Ok(print(&text, true))
        }
        Command::Restore(settings) => {
            let stop = stop_on_signals()?;
            let identities = Identities::from_file(&settings.identity)?;
            let bucket = Bucket::connect(&settings.s3, settings.timeouts, &roots).await?;
            let watch = Arc::new(restore::Watch::default());
            let restoring = restore::run(&settings, &bucket, identities, &watch, &stop);
            let verdicts = match board.during(|| watch.scene(), restoring).await {
                Ok(verdicts) => verdicts,
                Err(error) => return Ok(failed(&error)),
            };
            let text = match settings.output {
                OutputFormat::Text => verdicts.text(),
                OutputFormat::Json => pretty(&serde_json::json!(verdicts)),
            };
            Ok(print(&text, verdicts.are_good()))
        }
    }
}

/// Tries everything that a pass needs, and prints each check as it is done.
async fn check_all(settings: config::Run, roots: &TrustRoots) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signals()?;
    let (output, paint) = (settings.output, Paint::on(&std::io::stdout()));
    let reconciler = Reconciler::new(settings, roots, Arc::default()).await?;
    let show = |check: &Check| {
        if output == OutputFormat::Text {
            print(&check.text(paint), true);
        }
    };
    let Some(checks) = check::run(&reconciler, &stop, show).await else {
        tracing::warn!("stopped before every check was done");
        return Ok(ExitCode::FAILURE);
    };
    let text = match output {
        OutputFormat::Text => check::summary(&checks),
        OutputFormat::Json => pretty(&check::json(&checks)),
    };
    Ok(print(&text, check::is_good(&checks)))
}

async fn reconcile(settings: config::Run, roots: &TrustRoots, board: &Board) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signals()?;
    let (dry_run, run_once, output) = (settings.dry_run, settings.run_once, settings.output);
    // Unheard, the signal would end the program.
    let triggers = Arc::new(Triggers::default());
    full_pass_on_signal(&triggers)?;
    let (webhook_secret, shard) = (settings.webhook_secret.clone(), settings.shard.clone());
    let (address, port) = (settings.metrics_address, settings.metrics_port);
    let reconciler = Reconciler::new(settings, roots, Arc::clone(&triggers)).await?;
    match reconciler.is_concerned(&stop).await {
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
    let workshop = reconciler.open_workshop()?;
    if let Some(serving) = serving {
        reconciler.run(&workshop, &stop).await;
        serving.abort();
        tracing::info!("stopped");
        return Ok(ExitCode::SUCCESS);
    }
    let status = reconciler.status();
    let passing = reconciler.pass(&workshop, Trigger::Schedule, &stop);
    Ok(match board.during(|| Scene::of_pass(&status), passing).await {
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
    match board.during(|| Scene::of_pass(&status), reconciler.preview(trigger, stop)).await {
        Ok(observation) => {
            let (plan, foreign) = (&observation.plan, observation.foreign.len());
            let text = match output {
                OutputFormat::Text => report::plan_text(plan, foreign, Paint::on(&std::io::stdout())),
                OutputFormat::Json => pretty(&report::plan_json(plan, foreign)),
            };
            print(&text, plan.is_clean())
        }
        Err(error) => {
            log_failed_pass(&error);
            ExitCode::FAILURE
        }
    }
}

/// Is cancelled by SIGTERM or SIGINT.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("cannot listen for signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}

/// SIGUSR1 asks for a full pass.
fn full_pass_on_signal(triggers: &Arc<Triggers>) -> anyhow::Result<()> {
    let mut signals = signal(SignalKind::user_defined1()).context("cannot listen for signals")?;
    let triggers = Arc::clone(triggers);
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            tracing::info!("a full pass is asked for");
            triggers.full_pass();
        }
    });
    Ok(())
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    tracing::error!("{}", report::error_chain(error));
    ExitCode::FAILURE
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// Writes to standard output and gives the exit status: success where all is `good` and was written. A reader that has
/// gone away, such as `head`, is no error.
fn print(text: &str, good: bool) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            tracing::error!(%error, "cannot write to standard output");
            ExitCode::FAILURE
        }
        _ if good => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
