//! What people run: the daemon, `check`, `list`, `restore`.

mod check;
mod list;
mod restore;
mod run;
mod show;
mod signals;

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::Command;
use crate::net::tls::TrustRoots;
use crate::terminal::{Board, Scene};
use crate::text::{error_chain, objects};

/// Runs one command, and says how to leave.
///
/// # Errors
/// If the program cannot work with what it was given.
pub async fn run(command: Command, board: &Board) -> anyhow::Result<ExitCode> {
    let extra = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
    let roots = TrustRoots::load(extra.as_deref().map(Path::new))?;
    match command {
        Command::Run(settings) => run::run(settings, &roots, board).await,
        Command::Check(settings) => check::command(settings, &roots).await,
        Command::List(settings) => list::command(&settings, &roots, board).await,
        Command::Restore(settings) => restore::command(&settings, &roots, board).await,
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    tracing::error!("{}", error_chain(error));
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

/// A listing under way.
fn listing_scene(seen: usize) -> Scene {
    Scene::new(format!("listing the bucket: {}", objects(seen)))
}
