//! Logging of the program and its libraries, to standard error; standard output is for data.
//!
//! Invariant: messages read well alone and carry their values as fields too.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::terminal::{Board, takes_colour};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging at `RUST_LOG`'s levels or `info`, above what is drawn on the board. A second call changes nothing.
pub fn start(format: LogFormat, board: Board) {
    // The AWS SDK warns about every source that has no region or credentials, and prints an error that ours replaces; ours
    // says enough.
    let directives = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|directives| !directives.is_empty());
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    let filter =
        filter.parse_lossy(directives.as_deref().unwrap_or("info,aws_config=error,aws_smithy_runtime_api=off"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(board);
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text => builder.with_ansi(takes_colour(&io::stderr())).with_target(false).try_init(),
    };
    // This fails only if there is a subscriber already, which then stays.
    drop(started);
}
