//! What people run: the daemons, `check`, `list`, `restore`, `health`.

mod check;
mod consumer;
mod health;
mod list;
mod passing;
mod restore;
mod run;
mod show;
mod signals;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;

pub use self::start::start;
use crate::config::{Command, ConsumerCommand};
use crate::model::key::Destination;
use crate::model::program::Program;
use crate::net::tls::TrustRoots;
use crate::progress::ProgressView;
use crate::status::Status;
use crate::terminal::{self, AtWork, Board, CANNOT_PRINT, Scene};
use crate::text::{error_chain, objects};

/// A PEM bundle to trust, in addition to the system's.
const SSL_CERT_FILE: &str = "SSL_CERT_FILE";
/// Another one, for the consumer only: the name that the Go program gives it.
const INTERNAL_GIT_CA_PATH: &str = "INTERNAL_GIT_CA_PATH";

/// Runs one command of the producer and returns the exit status. `warnings` were said of its settings.
///
/// # Errors
/// If the settings or the environment are unusable.
pub async fn run(command: Command, warnings: &[String], board: &Board) -> anyhow::Result<ExitCode> {
    let roots = || trust_roots(&[SSL_CERT_FILE]);
    match command {
        // Boxed, because the compiler limits how deeply futures are nested.
        Command::Run(settings) => Box::pin(run::run(settings, &roots()?, board)).await,
        Command::Check(settings) => Box::pin(check::command(settings, warnings, &roots()?, board)).await,
        Command::List(settings) => Box::pin(list::command(&settings, &roots()?, board)).await,
        Command::Restore(settings) => restore::command(&settings, &roots()?, board).await,
        Command::Health(settings) => Ok(health::command(settings, Program::Producer).await),
    }
}

/// Runs one command of the consumer and returns the exit status. `warnings` were said of its settings.
///
/// # Errors
/// If the settings or the environment are unusable.
pub async fn run_consumer(command: ConsumerCommand, warnings: &[String], board: &Board) -> anyhow::Result<ExitCode> {
    let roots = || trust_roots(&[SSL_CERT_FILE, INTERNAL_GIT_CA_PATH]);
    match command {
        ConsumerCommand::Run(settings) => Box::pin(consumer::run(settings, &roots()?, board)).await,
        ConsumerCommand::Check(settings) => {
            Box::pin(check::consumer::command(settings, warnings, &roots()?, board)).await
        }
        ConsumerCommand::List(settings) => Box::pin(list::command(&settings, &roots()?, board)).await,
        ConsumerCommand::Health(settings) => Ok(health::command(settings, Program::Consumer).await),
    }
}

/// The system's authorities, and those in the files that these variables name.
fn trust_roots(variables: &[&'static str]) -> anyhow::Result<TrustRoots> {
    let file = |variable: &&'static str| {
        let path = std::env::var_os(variable).filter(|path| !path.is_empty())?;
        Some((*variable, PathBuf::from(path)))
    };
    TrustRoots::load(&variables.iter().filter_map(file).collect::<Vec<_>>())
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    tracing::error!("{}", error_chain(error));
    ExitCode::FAILURE
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// Writes to standard output and returns the exit status: success if `good` and written.
fn print(text: &str, good: bool) -> ExitCode {
    print_and_exit(text, if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes to standard output and returns this exit status if it is written.
fn print_and_exit(text: &str, exit: ExitCode) -> ExitCode {
    exit_if_written(terminal::print(text), exit)
}

fn exit_if_written(written: std::io::Result<()>, exit: ExitCode) -> ExitCode {
    match terminal::unless_the_reader_is_gone(written) {
        Ok(()) => exit,
        Err(error) => {
            tracing::error!(%error, "{CANNOT_PRINT}");
            ExitCode::FAILURE
        }
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

/// Progress of a pass.
fn pass_scene(status: &Status) -> Scene {
    let (actions, running) = status.at_work();
    let Some((all, done)) = actions else { return Scene::new(format!("reading {}", status.program().observes())) };
    let done = Some((done as u64, all as u64));
    let at_work = running.into_iter().map(at_work).collect();
    Scene { title: "destinations".to_owned(), done, at_work }
}

fn at_work(ProgressView { destination, stage, bytes, of, bytes_per_second, .. }: ProgressView) -> AtWork {
    AtWork { name: destination.to_string(), stage: stage.name(), bytes, of, bytes_per_second }
}
