//! The program: settings, logging, runtime, exit status.

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use git_partition_sync_producer::config::{self, EXIT_SETTINGS};
use git_partition_sync_producer::terminal::Board;
use git_partition_sync_producer::text::error_chain;
use git_partition_sync_producer::{commands, telemetry};

/// How long threads that are still running are waited for at the end.
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
    let exit = runtime.block_on(commands::run(settings.command, &board)).unwrap_or_else(|error| unusable(&error));
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    exit
}

/// Reports that the program cannot work with what it was given.
fn unusable(error: &anyhow::Error) -> ExitCode {
    eprintln!("{}", error_chain(error.as_ref()));
    ExitCode::from(EXIT_SETTINGS)
}
