//! Plans, passes and errors for people, and as JSON for programs.
//!
//! Invariant: names from the target list or the bucket reach a terminal with control characters escaped.

use std::error::Error;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::apply::{Done, Failure, Outcome};
use crate::key::{ArchiveFormat, CommitId, Destination};
use crate::plan::{Action, Plan};
use crate::publish::{PublishError, Rewrite};
use crate::terminal::{Paint, Style};

/// Digits of a commit id that people are shown.
const SHORT_COMMIT_DIGITS: usize = 10;

/// An error with its causes, each said once, on one line.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut chain = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !chain.contains(&text) {
            chain.push_str(": ");
            chain.push_str(&text);
        }
        cause = error.source();
    }
    printable(&chain)
}

/// The text with everything escaped that could act on a terminal instead of being shown: control characters and those
/// that turn the direction of writing.
pub fn printable(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() || turns(c) {
            out.extend(c.escape_unicode())
        } else {
            out.push(c)
        }
        out
    })
}

/// The first digits of a commit id, or of whatever an older program wrote in its place.
pub fn short_commit(commit: &str) -> String {
    printable(&commit.chars().take(SHORT_COMMIT_DIGITS).collect::<String>())
}

/// A size for people: `512 B`, `1.5 MiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in UNITS {
        // 1023.95 would be shown as 1024.0.
        if value < 1023.95 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A time span for people, in its two largest units: `3 d 4 h`, `12 s`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(largest) = units.iter().position(|(size, _)| seconds >= *size) else { return "0 s".to_owned() };
    let mut rest = seconds;
    let mut parts = vec![];
    for (size, unit) in units.iter().skip(largest).take(2) {
        if rest / size > 0 {
            parts.push(format!("{} {unit}", rest / size));
        }
        rest %= size;
    }
    parts.join(" ")
}

/// A time as RFC 3339 has it, in UTC, for programs.
pub fn timestamp(time: SystemTime) -> Option<String> {
    DateTime::from(time).fmt(DateTimeFormat::DateTime).ok()
}

/// Rows as aligned columns, two spaces apart, each line after `indent`. Every cell is made [`printable`].
pub fn table(indent: &str, rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::from(indent);
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.width() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A plan for people to read before it is carried out.
pub fn plan_text(plan: &Plan, foreign: usize, paint: Paint) -> String {
    let mut sections: [(&str, Vec<Vec<String>>); 4] =
        [("Will publish", vec![]), ("Will retire", vec![]), ("Will sweep", vec![]), ("Blocked", vec![])];
    for action in &plan.actions {
        let Destination { branch, .. } = action.destination();
        let mut row = vec![action.destination().path(), branch.clone()];
        let section = match action {
            Action::Publish(publish) => {
                let new = short_commit(&publish.commit.to_string());
                let change =
                    publish.old_commit().map_or_else(|| new.clone(), |old| format!("{} → {new}", short_commit(old)));
                row.extend([change, publish.reason.to_string()]);
                0
            }
            Action::Retire(retire) => {
                row.extend([objects(retire.keys.len()), retire.reason.to_string()]);
                1
            }
            Action::Sweep(sweep) => {
                row.extend([objects(sweep.keys.len()), sweep.reason.to_string()]);
                2
            }
        };
        sections[section].1.push(row);
    }
    let blocked = plan.blocked.iter().map(|blocked| {
        vec![blocked.destination.path(), blocked.destination.branch.clone(), blocked.blocker.to_string()]
    });
    sections[3].1.extend(blocked);

    let mut text = String::new();
    let styles = [Style::Green, Style::Yellow, Style::Dim, Style::Red];
    for ((title, rows), style) in sections.iter().zip(styles).filter(|((_, rows), _)| !rows.is_empty()) {
        let title = paint.text(style, &format!("{title} ({}):", rows.len()));
        text += &format!("{title}\n{}\n", table("  ", rows));
    }
    if let Some(guard) = &plan.guard {
        text += &format!("{} {guard}.\n\n", paint.text(Style::Red, "Retire guard:"));
    }
    let [publish, retire, sweep, blocked] = sections.map(|(_, rows)| rows.len());
    let unchanged = plan.unchanged.len();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} {publish} to publish, {retire} to retire, {sweep} to sweep, {blocked} blocked, {unchanged} unchanged",
        paint.text(Style::Bold, &format!("Plan ({}):", plan.format))
    );
    if foreign > 0 {
        let _ = writeln!(text, "{} with foreign names left alone", objects(foreign));
    }
    text
}

/// How many objects, in words: `1 object`, `2 objects`.
pub fn objects(count: usize) -> String {
    if count == 1 { "1 object".to_owned() } else { format!("{count} objects") }
}

/// A plan as JSON; `docs/contract.md` describes the object.
pub fn plan_json(plan: &Plan, foreign: usize) -> serde_json::Value {
    let mut view = PlanView {
        format: plan.format,
        publish: vec![],
        retire: vec![],
        sweep: vec![],
        blocked: vec![],
        unchanged: plan.unchanged.len(),
        foreign,
        retire_guard: plan.guard.map(|guard| guard.to_string()),
    };
    for action in &plan.actions {
        match action {
            Action::Publish(publish) => view.publish.push(PublishView {
                destination: &publish.target.destination,
                source_project: &publish.target.source.project,
                source_branch: &publish.target.source.branch,
                old_commit: publish.old_commit(),
                commit: publish.commit,
                key: &publish.key,
                supersedes: &publish.supersedes,
                reason: publish.reason.to_string(),
            }),
            Action::Retire(retire) => {
                view.retire.push(DeleteView {
                    destination: &retire.destination,
                    keys: &retire.keys,
                    reason: retire.reason.to_string(),
                });
            }
            Action::Sweep(sweep) => {
                view.sweep.push(DeleteView {
                    destination: &sweep.destination,
                    keys: &sweep.keys,
                    reason: sweep.reason.to_string(),
                });
            }
        }
    }
    view.blocked.extend(
        plan.blocked
            .iter()
            .map(|blocked| BlockedView { destination: &blocked.destination, reason: blocked.blocker.to_string() }),
    );
    serde_json::json!(view)
}

#[derive(Serialize)]
struct PlanView<'a> {
    format: ArchiveFormat,
    publish: Vec<PublishView<'a>>,
    retire: Vec<DeleteView<'a>>,
    sweep: Vec<DeleteView<'a>>,
    blocked: Vec<BlockedView<'a>>,
    unchanged: usize,
    foreign: usize,
    retire_guard: Option<String>,
}

#[derive(Serialize)]
struct PublishView<'a> {
    #[serde(flatten)]
    destination: &'a Destination,
    source_project: &'a str,
    source_branch: &'a str,
    old_commit: Option<&'a str>,
    commit: CommitId,
    key: &'a str,
    supersedes: &'a [String],
    reason: String,
}

#[derive(Serialize)]
struct DeleteView<'a> {
    #[serde(flatten)]
    destination: &'a Destination,
    keys: &'a [String],
    reason: String,
}

#[derive(Serialize)]
struct BlockedView<'a> {
    #[serde(flatten)]
    destination: &'a Destination,
    reason: String,
}

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Destinations whose new object is up.
    pub published: usize,
    /// Destinations whose objects were deleted because no target names them.
    pub retired: usize,
    /// Destinations from which outdated objects were deleted.
    pub swept: usize,
    /// Targets that were in sync already.
    pub unchanged: usize,
    /// Targets that could not be acted on, and why.
    pub blocked: Vec<Trouble>,
    /// Actions that failed, and why.
    pub failed: Vec<Trouble>,
    /// Rewritten branches that were published.
    pub rewritten: Vec<Rewritten>,
    /// Rewritten branches that were not: what is published of them stays.
    pub held: Vec<Rewritten>,
    /// Published commits that use Git LFS.
    pub lfs: Vec<LfsUse>,
    /// Objects whose names do not decode.
    pub foreign: usize,
    /// Bytes of all objects uploaded.
    pub uploaded_bytes: u64,
    /// What the retire guard says, where it held something back.
    pub retire_guard: Option<String>,
    /// How long the pass took, in seconds.
    pub seconds: f64,
}

/// A destination that is not as it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trouble {
    /// The destination.
    #[serde(flatten)]
    pub destination: Destination,
    /// Why, in words.
    pub reason: String,
}

/// A branch whose head does not descend from what was published.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rewritten {
    /// The destination.
    #[serde(flatten)]
    pub destination: Destination,
    /// What was published before the branch was rewritten.
    pub old_commit: CommitId,
    /// The head.
    pub commit: CommitId,
}

/// A published commit with content that does not cross.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LfsUse {
    /// The destination.
    #[serde(flatten)]
    pub destination: Destination,
    /// The commit.
    pub commit: CommitId,
    /// How many of its paths are Git LFS pointers.
    pub paths: usize,
}

impl Report {
    /// Sums up a plan and what became of it.
    pub fn new(plan: &Plan, outcomes: &[Outcome], foreign: usize, took: Duration) -> Self {
        let blocked = plan
            .blocked
            .iter()
            .map(|blocked| Trouble { destination: blocked.destination.clone(), reason: blocked.blocker.to_string() });
        let mut report = Self {
            unchanged: plan.unchanged.len(),
            blocked: blocked.collect(),
            foreign,
            retire_guard: plan.guard.map(|guard| guard.to_string()),
            seconds: took.as_secs_f64(),
            ..Self::default()
        };
        for Outcome { action, result } in outcomes {
            let destination = action.destination().clone();
            match (action, result) {
                (_, Ok(Done::Published(published))) => {
                    report.published += 1;
                    report.uploaded_bytes += published.bytes;
                    let (commit, paths) = (published.commit, published.lfs_paths);
                    if let Some(old_commit) = published.rewritten_from {
                        report.rewritten.push(Rewritten { destination: destination.clone(), old_commit, commit });
                    }
                    if paths > 0 {
                        report.lfs.push(LfsUse { destination, commit, paths });
                    }
                }
                (Action::Retire(_), Ok(Done::Deleted(_))) => report.retired += 1,
                (Action::Sweep(_) | Action::Publish(_), Ok(Done::Deleted(_))) => report.swept += 1,
                (_, Err(Failure::Publish(PublishError::Held(Rewrite { from, to })))) => {
                    report.held.push(Rewritten { destination, old_commit: *from, commit: *to });
                }
                (_, Err(failure)) => report.failed.push(Trouble { destination, reason: error_chain(failure) }),
            }
        }
        report
    }

    /// Whether the pass did all that it should.
    pub fn is_success(&self) -> bool {
        self.blocked.is_empty() && self.failed.is_empty() && self.held.is_empty() && self.retire_guard.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let shown = [0, 1023, 1024, 1536, 1 << 20, (1 << 20) - 1, 5 << 40].map(human_bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "5.0 TiB"]);
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let shown = [0, 59, 60, 3_661, 90_000, 86_400].map(|seconds| human_duration(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0 s", "59 s", "1 min", "1 h 1 min", "1 d 1 h", "1 d"]);
    }

    #[test]
    fn names_cannot_act_on_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\n"), "a\\u{1b}[2Jb\\u{202e}c\\u{a}");
        assert_eq!(printable("ünï/日本"), "ünï/日本");
    }

    #[test]
    fn columns_align_whatever_the_script() {
        let rows = [vec!["日本".to_owned(), "x".to_owned()], vec!["abc".to_owned(), "y".to_owned()]];
        assert_eq!(table(" ", &rows), " 日本  x\n abc   y\n");
    }
}
