//! Logging of the program and its libraries, to standard error; standard output is for data.
//!
//! Invariant: messages read well alone and carry their values as fields too.

mod folding;
mod logfmt;

use std::io::{self, Write};
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use self::folding::{Folded, Folds};
use self::logfmt::Logfmt;
use crate::terminal::{Board, takes_colour};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people, with fields as logfmt readers take them.
    Text,
    /// One JSON object per line.
    Json,
}

/// The log, until it is dropped.
#[must_use = "its last lines are written when it is dropped"]
pub struct Log {
    folds: Arc<Folds>,
    board: Board,
}

/// Starts logging at `RUST_LOG`'s levels or `info`, above what is drawn on the board. A second call changes nothing.
pub fn start(format: LogFormat, board: Board) -> Log {
    // The AWS SDK warns about every source that has no region or credentials, and prints an error that ours replaces; ours
    // says enough.
    let directives = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|directives| !directives.is_empty());
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    let filter =
        filter.parse_lossy(directives.as_deref().unwrap_or("info,aws_config=error,aws_smithy_runtime_api=off"));
    let folds = Arc::new(Folds::new(format));
    let folded = Arc::clone(&folds);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(board.clone());
    // A log that cannot be written (a full disk, a reader that is gone) must not end the program. Saying so there would panic.
    let builder = builder.log_internal_errors(false);
    let started = match format {
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(false);
            builder.map_event_format(|inner| Folded { inner, folds: folded }).try_init()
        }
        LogFormat::Text => {
            let builder = builder.with_ansi(takes_colour(&io::stderr())).with_target(false).fmt_fields(Logfmt);
            builder.map_event_format(|inner| Folded { inner, folds: folded }).try_init()
        }
    };
    // This fails only if there is a subscriber already, which then stays.
    drop(started);
    Log { folds, board }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(line) = self.folds.end() {
            // Nothing is left to do if standard error is closed.
            drop(self.board.make_writer().write_all(line.as_bytes()));
        }
    }
}
