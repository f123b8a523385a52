//! One check: its verdict, and its text for people and as JSON.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use serde::Serialize;

use super::super::{exit_if_written, pretty, print};
use crate::config::OutputFormat;
use crate::terminal::{self, Board, Paint, Scene, Style};
use crate::text::{counted, printable};

/// How many names are shown of many with the same problem.
pub(super) const NAMES_SHOWN: usize = 10;
/// Width of the longest name of a check.
const NAME_COLUMN: usize = 15;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It works.
    Passed,
    /// It works, but an operator should know something.
    Warning,
    /// A pass would fail, entirely or for a target.
    Failed,
    /// Not tried: there was nothing to try, or an earlier check failed.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    name: &'static str,
    verdict: Verdict,
    finding: String,
    /// The single problems, if there are several.
    details: Vec<String>,
    advice: Option<String>,
}

impl Check {
    /// The settings were read before any check, with these warnings.
    pub(super) fn settings(warnings: &[String]) -> Self {
        const NAME: &str = "settings";
        match warnings.len() {
            0 => Self::passed(NAME, "complete, and each value makes sense"),
            count => {
                let finding = format!("complete, but {} set and without a meaning", is_or_are(count, "variable"));
                Self::warning(NAME, finding).details(warnings.to_vec()).advice("Rename or remove what is misspelt.")
            }
        }
    }

    pub(super) fn passed(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Passed, finding: finding.into(), details: vec![], advice: None }
    }

    pub(super) fn warning(name: &'static str, finding: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, ..Self::passed(name, finding) }
    }

    pub(super) fn failed(name: &'static str, finding: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed, ..Self::passed(name, finding) }
    }

    pub(super) fn skipped(name: &'static str, why: &str) -> Self {
        Self { verdict: Verdict::Skipped, ..Self::passed(name, format!("cannot be tried {why}")) }
    }

    pub(super) fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    pub(super) fn details(self, details: Vec<String>) -> Self {
        Self { details, ..self }
    }

    /// For people: a line, with details and advice below.
    fn text(&self, paint: Paint) -> String {
        let (style, mark) = match self.verdict {
            Verdict::Passed => (Style::Green, "✓"),
            Verdict::Warning => (Style::Yellow, "!"),
            Verdict::Failed => (Style::Red, "✗"),
            Verdict::Skipped => (Style::Dim, "-"),
        };
        let mut text =
            format!("{} {:NAME_COLUMN$}  {}\n", paint.text(style, mark), self.name, printable(&self.finding));
        let indent = " ".repeat(2 + NAME_COLUMN + 2);
        for detail in &self.details {
            text += &format!("{indent}  {}\n", printable(detail));
        }
        if let Some(advice) = &self.advice {
            text += &format!("{indent}{} {}\n", paint.text(Style::Bold, "→"), printable(advice));
        }
        text
    }
}

/// The checks so far. For people, each is shown when it is done.
pub(super) struct Checks<'a> {
    output: OutputFormat,
    board: &'a Board,
    paint: Paint,
    done: Vec<Check>,
    /// What a text could not be written for. It is said at the end.
    unwritten: Option<io::Error>,
}

impl<'a> Checks<'a> {
    pub(super) fn new(output: OutputFormat, board: &'a Board) -> Self {
        Self { output, board, paint: Paint::on(&io::stdout()), done: vec![], unwritten: None }
    }

    /// Does some work, and meanwhile shows on a terminal which check it is for.
    pub(super) async fn during<T>(&self, name: &str, work: impl Future<Output = T>) -> T {
        // Boxed, because the compiler limits how deeply futures are nested.
        self.board.during(|| Scene::new(name), Box::pin(work)).await
    }

    pub(super) fn add(&mut self, checks: impl IntoIterator<Item = Check>) {
        for check in checks {
            if self.output == OutputFormat::Text && self.unwritten.is_none() {
                self.unwritten = terminal::print(&check.text(self.paint)).err();
            }
            self.done.push(check);
        }
    }

    /// Shows the result, and returns the exit status. `complete` is false if the program was asked to stop.
    pub(super) fn end(self, complete: bool) -> ExitCode {
        if !complete {
            tracing::warn!("stopped before every check was done");
        }
        if let Some(error) = self.unwritten {
            return exit_if_written(Err(error), ExitCode::FAILURE);
        }
        if !complete {
            return ExitCode::FAILURE;
        }
        let text = match self.output {
            OutputFormat::Text => summary(&self.done),
            OutputFormat::Json => pretty(&json(&self.done)),
        };
        print(&text, is_good(&self.done))
    }
}

/// Whether a pass can be expected to work for all targets.
fn is_good(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.verdict != Verdict::Failed)
}

/// The last line, for people.
fn summary(checks: &[Check]) -> String {
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let [failed, skipped, warnings] = [Verdict::Failed, Verdict::Skipped, Verdict::Warning].map(count);
    if !is_good(checks) {
        let skipped = if skipped > 0 { format!(", {skipped} could not be tried") } else { String::new() };
        return format!("\n{failed} of {} checks failed{skipped}.\n", checks.len());
    }
    let warnings = match warnings {
        0 => "Everything works.".to_owned(),
        1 => "It works, with 1 warning.".to_owned(),
        more => format!("It works, with {more} warnings."),
    };
    format!("\n{warnings} `-dry-run -run-once` shows what the first pass would do.\n")
}

/// The checks as JSON; `docs/contract.md` describes the object.
fn json(checks: &[Check]) -> serde_json::Value {
    serde_json::json!({ "good": is_good(checks), "checks": checks })
}

fn is_or_are(count: usize, what: &str) -> String {
    format!("{} {}", counted(count, what), if count == 1 { "is" } else { "are" })
}

/// Groups names by reason, the most frequent reason first; of each group at most [`NAMES_SHOWN`] names.
pub(super) fn by_reason(troubles: Vec<(String, String)>) -> Vec<String> {
    let mut grouped: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, reason) in troubles {
        grouped.entry(reason).or_default().push(name);
    }
    let mut grouped: Vec<_> = grouped.into_iter().collect();
    grouped.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    let lines = grouped.into_iter().flat_map(|(reason, names)| {
        let shown = names.len().min(NAMES_SHOWN);
        let rest = (names.len() > shown).then(|| format!("and {} more: {reason}", names.len() - shown));
        let named = names.into_iter().take(shown).map(move |name| format!("{name}: {reason}"));
        named.chain(rest).collect::<Vec<_>>()
    });
    lines.collect()
}
