//! How both programs start and end: panics, settings, logging, files and core dumps, the runtime, exit statuses.

use std::env::ArgsOs;
use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::config::{EXIT_INTERNAL, Exit, Settings, exit_if_unusable};
use crate::telemetry;
use crate::terminal::Board;
use crate::text::{error_chain, remote_text};
use crate::threads;

/// How long threads that are still running are waited for at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a program from its start to its end, and returns the exit status. `parse` reads its settings from the command line
/// and the environment, and `run` carries out its command, and is told the warnings about its settings.
pub fn start<C>(
    parse: impl FnOnce(ArgsOs, &dyn Fn(&str) -> Option<OsString>, &[OsString]) -> Result<Settings<C>, Exit>,
    run: impl AsyncFnOnce(C, &[String], &Board) -> anyhow::Result<ExitCode>,
) -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    or_internal_error(|| {
        let names: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
        let variable = |name: &str| std::env::var_os(name);
        let status = exit_if_unusable(std::env::args_os(), &variable);
        match parse(std::env::args_os(), &variable, &names) {
            Ok(settings) => run_with(settings, status, run),
            Err(exit) => exit.print(status),
        }
    })
}

/// `status` is the exit status if the program cannot work with what it was given.
fn run_with<C>(
    settings: Settings<C>,
    status: u8,
    run: impl AsyncFnOnce(C, &[String], &Board) -> anyhow::Result<ExitCode>,
) -> ExitCode {
    let board = Board::new(settings.shows_progress());
    let _log = telemetry::start(settings.log_format, board.clone());
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    // Files made here, by whichever library, are for this user only.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Neither secrets nor plaintext belong into a core dump.
    let no_core_dump = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, no_core_dump) {
        tracing::debug!(%error, "cannot switch core dumps off");
    }
    let unusable = |error: &anyhow::Error| {
        // If nobody reads it, the status stays the same.
        drop(writeln!(std::io::stderr(), "{}", error_chain(error.as_ref())));
        ExitCode::from(status)
    };
    if let Err(error) = threads::enough() {
        return unusable(&error.into());
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return unusable(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    // Caught here, because the runtime would wait for its threads if the panic dropped it.
    let exit = or_internal_error(|| {
        runtime.block_on(run(settings.command, &settings.warnings, &board)).unwrap_or_else(|error| unusable(&error))
    });
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    exit
}

/// The exit status of `work`, also if it panics. The hook has said why.
fn or_internal_error(work: impl FnOnce() -> ExitCode) -> ExitCode {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or(ExitCode::from(EXIT_INTERNAL))
}

/// Says what went wrong in one sentence. A backtrace would help nobody: a release has no names for it.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let sentence = sentence(&place, panic.payload_as_str());
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{sentence}");
    } else {
        // Nothing is left to do if standard error is closed.
        drop(writeln!(std::io::stderr(), "{sentence}"));
    }
}

fn sentence(place: &str, what: Option<&str>) -> String {
    let what = what.map_or_else(String::new, |what| format!(": {}", remote_text(what.as_bytes())));
    format!("internal error at {place}{what}: this is a bug in the program: please report this line")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_has_an_exit_status_of_its_own() {
        let shown = |exit: ExitCode| format!("{exit:?}");
        assert_eq!(shown(or_internal_error(|| panic!("a test"))), shown(ExitCode::from(EXIT_INTERNAL)));
        assert_eq!(shown(or_internal_error(|| ExitCode::SUCCESS)), shown(ExitCode::SUCCESS));
    }

    #[test]
    fn a_panic_is_one_sentence() {
        assert_eq!(
            sentence("src/a.rs:1:2", Some("called on\nNone")),
            "internal error at src/a.rs:1:2: called on\\u{a}None: this is a bug in the program: please report this line"
        );
        assert!(sentence("src/a.rs:1:2", None).starts_with("internal error at src/a.rs:1:2: this is"));
    }
}
