//! How the story looks: headings, prose, tables, what programs print.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::logs::{is_of_settings_or_totals, shortened};
use crate::programs::Side;

/// Widest line shown if the terminal's width is not known, in columns.
const COLUMNS: usize = 150;

/// Narrowest terminal that lines are cut for, in columns.
const LEAST_COLUMNS: usize = 60;

/// Widest line of prose, in columns.
const PROSE_COLUMNS: usize = 96;

/// What a command's output begins with.
const MARGIN: &str = "  │ ";

/// What a line with advice begins with.
const ADVICE: &str = "→ ";

/// What a wrapped line has before its second row and the next ones.
const HANGING: &str = "  ";

/// Most long lines of one output that are wrapped. If there are more, they are alike.
const WRAPPED_LINES: usize = 8;

/// Prints, in colour on a terminal.
pub struct Story {
    colour: bool,
    columns: usize,
    step: Cell<usize>,
}

impl Story {
    pub fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(COLUMNS);
        Self {
            colour: wanted && std::io::stdout().is_terminal(),
            columns: columns.max(LEAST_COLUMNS),
            step: Cell::new(0),
        }
    }

    pub fn line(&self, style: &str, text: impl Display) {
        let mut out = std::io::stdout().lock();
        // If the reader has closed the other end, the checks still continue.
        let _ = if self.colour && !style.is_empty() {
            writeln!(out, "\x1b[{style}m{text}\x1b[0m")
        } else {
            writeln!(out, "{text}")
        };
    }

    pub fn title(&self, steps: usize) {
        self.line("", "");
        self.line("1", format!("Git partition sync: a tour in {steps} steps"));
    }

    pub fn step(&self, title: &str) {
        self.step.set(self.step.get() + 1);
        self.heading(&format!("{}. {title}", self.step.get()));
    }

    pub fn heading(&self, title: &str) {
        let title = format!("━━ {title} ");
        let rule = "━".repeat(self.columns.min(PROSE_COLUMNS).saturating_sub(title.width()));
        self.line("", "");
        self.line("1;36", title + &rule);
    }

    /// Prose, wrapped.
    pub fn say(&self, text: &str) {
        self.line("", "");
        for line in wrapped(text, self.columns.min(PROSE_COLUMNS)) {
            self.line("", line);
        }
    }

    pub fn bullet(&self, text: &str) {
        self.line("", format!("  • {text}"));
    }

    pub fn table<const N: usize, T: AsRef<str>>(&self, rows: &[[T; N]]) {
        let widest = |column: usize| rows.iter().map(|row| row[column].as_ref().width()).max().unwrap_or_default();
        for row in rows {
            let mut line = String::from("  ");
            for (column, cell) in row.iter().enumerate() {
                let cell = cell.as_ref();
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', widest(column) - cell.width() + 2));
            }
            self.line("", line.trim_end());
        }
    }

    /// A command on one of the two sides.
    pub fn command(&self, side: Side, command: &str) {
        self.commands([(side, command.to_owned())]);
    }

    pub fn commands<const N: usize>(&self, commands: [(Side, String); N]) {
        self.line("", "");
        for (side, command) in commands {
            self.line("1", format!("  {side:4} $ {command}"));
        }
    }

    /// What a command printed.
    pub fn output(&self, text: &str) {
        let lines = || text.trim_end().lines();
        let long = lines().filter(|line| shortened(line).width() > self.width(MARGIN)).count();
        for line in lines() {
            self.shown(MARGIN, line, long <= WRAPPED_LINES);
        }
    }

    /// The same, and only the first lines of many that are alike.
    pub fn first_lines(&self, lines: &[String], most: usize) {
        for line in lines.iter().take(most) {
            self.shown(MARGIN, line, false);
        }
        if let Some(rest) = lines.len().checked_sub(most).filter(|rest| *rest > 0) {
            self.line("2", format!("{MARGIN}… and {rest} more lines like these"));
        }
    }

    /// What a program in the background has logged.
    pub fn logged(&self, side: Side, line: &str) {
        self.shown(&format!("  {side:4} │ "), line, true);
    }

    /// How many columns are beside a margin. One is left for the sign that a line was cut.
    fn width(&self, margin: &str) -> usize {
        self.columns.saturating_sub(margin.width() + 1)
    }

    /// One line in small print. If it is long, it is cut at the edge of the screen or, with `wrap`, goes on below; settings and
    /// totals are always cut, errors and advice never.
    fn shown(&self, margin: &str, line: &str, wrap: bool) {
        let (line, width) = (shortened(line), self.width(margin));
        let text = line.trim_start();
        let wrap = line.contains(" ERROR ") || text.starts_with(ADVICE) || wrap && !is_of_settings_or_totals(&line);
        let mut rows = vec![line.clone()];
        if wrap && line.width() > width {
            let indent = &line[..line.len() - text.len()];
            let own = wrapped(text, width.saturating_sub(indent.len() + HANGING.len()));
            let hanging = std::iter::once("").chain(std::iter::repeat(HANGING));
            rows = own.iter().zip(hanging).map(|(row, hanging)| format!("{indent}{hanging}{row}")).collect();
        }
        for row in rows {
            let (shown, rest) = split_at_width(&row, width);
            let cut = if rest.is_empty() { "" } else { "…" };
            self.line("2", format!("{margin}{shown}{cut}").trim_end());
        }
    }

    /// What a page shows, wrapped.
    pub fn page(&self, text: &str) {
        for line in wrapped(text, self.columns.min(PROSE_COLUMNS).saturating_sub(MARGIN.width())) {
            self.line("2", format!("{MARGIN}{line}"));
        }
    }

    pub fn checked(&self, what: &str, holds: bool) {
        let (style, mark) = if holds { ("32", "✓") } else { ("1;31", "✗") };
        for (index, line) in wrapped(what, self.columns.saturating_sub(5)).iter().enumerate() {
            self.line(style, format!("  {} {line}", if index == 0 { mark } else { " " }));
        }
    }

    pub fn proves(&self, what: &str) {
        self.line("1", format!("  Proves: {what}"));
    }

    pub fn failed(&self, why: &str) {
        self.line("", "");
        self.line("1;31", format!("The demo failed: {why}"));
    }

    pub fn end(&self, took: Duration) {
        self.line("", "");
        self.line("1;32", format!("All checks passed ({} s).", took.as_secs()));
    }
}

/// Lines of at most so many columns. A word that is longer has a line of its own.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|line| line.is_empty() || line.width() + 1 + word.width() <= columns);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => *line += &format!(" {word}"),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// As much of a line as fits into so many columns, and the rest.
fn split_at_width(line: &str, columns: usize) -> (&str, &str) {
    let mut width = 0;
    let end = line.char_indices().find(|(_, c)| {
        width += c.width().unwrap_or_default();
        width > columns
    });
    line.split_at(end.map_or(line.len(), |(index, _)| index))
}
