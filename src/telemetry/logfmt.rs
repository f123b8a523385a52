//! The fields of a line as logfmt readers take them: `key=value`, and in quotes what a bare value cannot hold.
//!
//! Invariant: an event is one line, and nothing in it acts on a terminal.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::text::{is_deceptive, printable};

/// Writes fields as logfmt.
#[derive(Debug)]
pub(super) struct Logfmt;

impl<'writer> FormatFields<'writer> for Logfmt {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Visitor { writer, is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    fn write(&mut self, field: &Field, value: &str) -> fmt::Result {
        let gap = if std::mem::take(&mut self.is_first) { "" } else { " " };
        let name = field.name();
        if name == "message" {
            return write!(self.writer, "{gap}{}", printable(value));
        }
        let (name, value) = (name.strip_prefix("r#").unwrap_or(name), quoted(value));
        if self.writer.has_ansi_escapes() {
            write!(self.writer, "{gap}\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{value}")
        } else {
            write!(self.writer, "{gap}{name}={value}")
        }
    }
}

impl Visit for Visitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        // What `log` says about its own lines is in the line already.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = self.write(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Of a value that is recorded for its `Display`, this is the `Display`.
        self.record_str(field, &format!("{value:?}"));
    }
}

/// A value, in quotes if it is empty or holds what ends a bare one. In quotes it is escaped as in JSON.
fn quoted(value: &str) -> String {
    let acts = |c: char| c.is_control() || is_deceptive(c);
    if !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || matches!(c, '=' | '"') || acts(c)) {
        return value.to_owned();
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            _ if acts(c) => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_a_bare_value_cannot_hold_is_in_quotes() {
        for (value, shown) in [
            ("zip", "zip"),
            ("mirror/platform@main", "mirror/platform@main"),
            ("50%", "50%"),
            ("ünï/日本", "ünï/日本"),
            ("", r#""""#),
            ("the source branch has a new commit", r#""the source branch has a new commit""#),
            ("SHARD_COUNT=3", r#""SHARD_COUNT=3""#),
            (r#"is "x""#, r#""is \"x\"""#),
            (r"a \u{1b} b", r#""a \\u{1b} b""#),
            ("a\u{1b}[2J\u{202e}\n", r#""a\u001b[2J\u202e\n""#),
        ] {
            assert_eq!(quoted(value), shown);
        }
    }

    proptest! {
        #[test]
        fn what_is_in_quotes_is_a_json_string_of_one_line(value: String) {
            let shown = quoted(&value);
            prop_assert!(!shown.contains(|c: char| c.is_control()));
            if shown.starts_with('"') {
                prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), value);
            } else {
                prop_assert!(!shown.contains([' ', '=', '"']));
                prop_assert_eq!(shown, value);
            }
        }
    }
}
