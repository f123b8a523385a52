//! What a terminal is shown besides the text itself: colour, and how far the work is.
//!
//! Invariant: nothing but a terminal ever gets an escape sequence, and none where `NO_COLOR` is set.

mod board;

use std::env;
use std::io::IsTerminal;

pub use self::board::{AtWork, Board, Scene};

/// Whether what is written to `stream` may have colour (<https://no-color.org>).
pub fn takes_colour(stream: &impl IsTerminal) -> bool {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    stream.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// How a word stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// It is good.
    Green,
    /// It is worth a look.
    Yellow,
    /// It is bad.
    Red,
    /// It is a heading.
    Bold,
    /// It matters less.
    Dim,
}

/// Puts colour on text, or leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    colour: bool,
}

impl Paint {
    /// For text that is written to `stream`.
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
