//! Standard output; colour and progress on a terminal.
//!
//! Invariant: only a terminal gets escape sequences, and only if `NO_COLOR` is not set.

mod board;

use std::env;
use std::io::{self, ErrorKind, IsTerminal, Write};

use rustix::fd::AsFd;
use rustix::termios::tcgetwinsize;

pub use self::board::{AtWork, Board, Scene};

/// The width of a terminal that does not say how wide it is, in columns.
const USUAL_COLUMNS: usize = 80;

/// What is said if standard output takes nothing, for example because its disk is full.
pub const CANNOT_PRINT: &str = "cannot write to standard output";

/// Writes to standard output. A reader that is gone, such as `head`, is not an error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    unless_the_reader_is_gone(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// The result of writing to standard output, unless its reader is gone: that is not an error.
pub fn unless_the_reader_is_gone(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// Whether text for `stream` may have colour (<https://no-color.org>).
pub fn takes_colour(stream: &impl IsTerminal) -> bool {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    stream.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// How many columns `stream` has, if it is a terminal.
pub fn columns(stream: &(impl IsTerminal + AsFd)) -> Option<usize> {
    let told = || tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
    stream.is_terminal().then(|| told().unwrap_or(USUAL_COLUMNS))
}

/// A style for a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Good.
    Green,
    /// A warning.
    Yellow,
    /// Bad.
    Red,
    /// A heading.
    Bold,
    /// Less important.
    Dim,
}

/// Colours text, if the stream takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    colour: bool,
}

impl Paint {
    /// For text on `stream`.
    pub fn on(stream: &impl IsTerminal) -> Self {
        Self { colour: takes_colour(stream) }
    }

    /// The text, in this style.
    pub fn text(self, style: Style, text: &str) -> String {
        let code = match style {
            _ if !self.colour || text.is_empty() => return text.to_owned(),
            Style::Green => "32",
            Style::Yellow => "33",
            Style::Red => "31",
            Style::Bold => "1",
            Style::Dim => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}
