//! Passes and previews of either program, as a person at a terminal sees them.

use std::process::ExitCode;

use serde::Serialize;

use super::{pass_scene, pretty, print};
use crate::config::OutputFormat;
use crate::status::{Status, Trigger};
use crate::terminal::Board;

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

/// Prints what a pass would do: once, or again for every pass until `wait` returns `None`. `preview` returns the text, and
/// whether all is well.
pub(super) async fn previews<E>(
    preview: impl AsyncFn(Trigger) -> Result<(String, bool), E>,
    failed: fn(&E) -> ExitCode,
    wait: impl AsyncFn() -> Option<Trigger>,
    once: bool,
    status: &Status,
    board: &Board,
) -> ExitCode {
    let mut trigger = Trigger::Schedule;
    loop {
        let exit = match board.during(|| pass_scene(status), preview(trigger)).await {
            Ok((text, good)) => print(&text, good),
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
