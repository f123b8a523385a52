//! Text for people: escaping, error chains, sizes, times, tables.
//!
//! Invariant: names and messages from outside reach a terminal only through [`printable`], and messages without the secrets
//! that this process knows.

pub mod json;
mod secrets;

use std::error::Error;
use std::time::{Duration, SystemTime};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub use self::secrets::hide;
use self::secrets::{LONGEST_FORM_BYTES, without_secrets};

/// How much of a server's text is shown, in characters.
pub const REMOTE_TEXT_LIMIT_CHARS: usize = 300;
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
    printable(&String::from_utf8_lossy(&without_secrets(chain.as_bytes(), false)))
}

/// The text with everything escaped that could act on a terminal or deceive its reader: control characters, and those that change
/// the direction of writing, end a line or have no width.
pub fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() || is_deceptive(c) {
            out.extend(c.escape_unicode())
        } else {
            out.push(c)
        }
        out
    })
}

/// Whether a character changes the direction of writing, ends a line, or has no width.
pub fn is_deceptive(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

/// The first digits of a commit id, or of the name an older program wrote in its place.
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
    let counts =
        [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let largest = counts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = counts[largest..].iter().take(2).enumerate().filter(|(at, (count, _))| *at == 0 || *count > 0);
    shown.map(|(_, (count, unit))| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

/// The same in its largest unit alone: `3 d`, `12 s`.
pub fn rough_duration(duration: Duration) -> String {
    let whole = human_duration(duration);
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A time in RFC 3339, UTC, for programs, to the microsecond: some readers refuse more digits. `None` outside of the
/// years -9999 to 9999.
pub fn timestamp(time: SystemTime) -> Option<String> {
    let micros = jiff::Timestamp::try_from(time).ok()?.as_microsecond();
    jiff::Timestamp::from_microsecond(micros).ok().map(|time| time.to_string())
}

/// Time from `then` to `now`; zero if a clock went back.
pub fn since(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
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

/// The text in at most this many columns: without its start, which says least of a name, if it is wider.
pub fn shortened(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let fits = |letter: &char| {
        let width = letter.width().unwrap_or_default();
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    };
    let end: Vec<char> = text.chars().rev().take_while(fits).collect();
    format!("…{}", end.iter().rev().collect::<String>())
}

/// How many objects, in words: `1 object`, `2 objects`.
pub fn objects(count: usize) -> String {
    counted(count, "object")
}

/// How many of these, in words: `1 target`, `2 targets`.
pub fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// A server's text, cut, without known secrets, and made [`printable`].
pub fn remote_text(text: &[u8]) -> String {
    // Bytes first, so that most of a long text is never decoded. What may be part of a secret is cut off from the end.
    let start = &text[..text.len().min(4 * REMOTE_TEXT_LIMIT_CHARS + LONGEST_FORM_BYTES)];
    let shown = without_secrets(start, start.len() < text.len());
    let text: String = String::from_utf8_lossy(&shown).trim().chars().take(REMOTE_TEXT_LIMIT_CHARS).collect();
    printable(&text)
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
        assert_eq!(
            [0, 3_661, 90_000].map(|seconds| rough_duration(Duration::from_secs(seconds))),
            ["0 s", "1 h", "1 d"]
        );
    }

    #[test]
    fn times_have_six_digits_after_the_point_at_most() {
        let shown = |nanos| timestamp(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
        assert_eq!(shown(1_700_000_000_123_456_789).as_deref(), Some("2023-11-14T22:13:20.123456Z"));
        assert_eq!(shown(1_700_000_000_000_000_000).as_deref(), Some("2023-11-14T22:13:20Z"));
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

    #[test]
    fn a_server_s_text_is_short_and_cannot_act_on_the_terminal() {
        assert_eq!(remote_text(b"no \x1b[31mred\x07\n"), "no \\u{1b}[31mred\\u{7}");
        assert_eq!(remote_text(&b"x".repeat(1 << 20)).len(), REMOTE_TEXT_LIMIT_CHARS);
    }
}
