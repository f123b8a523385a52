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
use crate::model::key::Destination;
use crate::net::tls::TrustRoots;
use crate::terminal::{Board, Scene};
use crate::text::{error_chain, objects};

/// Runs one command and returns the exit status.
///
/// # Errors
/// If the settings or the environment are unusable.
pub async fn run(command: Command, board: &Board) -> anyhow::Result<ExitCode> {
    let extra = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
    let roots = TrustRoots::load(extra.as_deref().map(Path::new))?;
    match command {
        // Boxed, because the compiler limits how deeply futures are nested.
        Command::Run(settings) => Box::pin(run::run(settings, &roots, board)).await,
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

/// Writes to standard output and returns the exit status: success if `good` and written. A reader that is gone, such as
/// `head`, is not an error.
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

/// A JSON object of a destination's fields and these.
fn of_destination(destination: &Destination, fields: serde_json::Value) -> serde_json::Value {
    let mut object = serde_json::json!(destination);
    if let (Some(object), serde_json::Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    object
}

/// Progress of a listing.
fn listing_scene(seen: usize) -> Scene {
    Scene::new(format!("listing the bucket: {}", objects(seen)))
}
