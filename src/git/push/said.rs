//! What a server says beside its report: the words of its hooks, and warnings of its checks.
//!
//! Invariant: only the beginning and the end are kept, and only whole lines are shown, escaped and without secrets.

use std::collections::VecDeque;

use crate::text::remote_text;

/// How much of the beginning is kept, and how much of the end, in bytes: the checks of an old history warn a hundred times
/// before a hook says why it refuses.
const KEPT_BYTES: usize = 4 << 10;
/// How many lines of the beginning are shown, and how many of the end.
const FIRST_LINES: usize = 2;
const LAST_LINES: usize = 6;

#[derive(Debug, Default)]
pub(super) struct Said {
    start: Vec<u8>,
    end: VecDeque<u8>,
    is_cut: bool,
}

impl Said {
    pub(super) fn add(&mut self, text: &[u8]) {
        let (first, rest) = text.split_at(text.len().min(KEPT_BYTES - self.start.len()));
        self.start.extend_from_slice(first);
        self.end.extend(&rest[rest.len().saturating_sub(KEPT_BYTES)..]);
        let surplus = self.end.len().saturating_sub(KEPT_BYTES);
        self.is_cut |= surplus > 0 || rest.len() > KEPT_BYTES;
        self.end.drain(..surplus);
    }

    /// What is kept, in lines. One that is cut is left out: it could show a part of a secret.
    fn lines(&self) -> Vec<Vec<u8>> {
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let mut text = self.start.clone();
        if self.is_cut {
            text.truncate(text.iter().rposition(is_end).unwrap_or(0));
            text.push(b'\n');
            let whole = self.end.iter().position(is_end).unwrap_or(self.end.len());
            text.extend(self.end.range(whole..));
        } else {
            text.extend(&self.end);
        }
        text.split(is_end).map(|line| line.trim_ascii().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    /// Whether a line contains this, which is in lower case.
    pub(super) fn contains(&self, words: &str) -> bool {
        self.lines().iter().any(|line| String::from_utf8_lossy(line).to_ascii_lowercase().contains(words))
    }

    /// What is worth showing, on one line.
    pub(super) fn shown(&self) -> String {
        let is_rule = |line: &[u8]| line.iter().all(|byte| matches!(byte, b'=' | b'-' | b'*' | b'#'));
        let lines: Vec<_> = self.lines().into_iter().filter(|line| !is_rule(line)).collect();
        let is_warning = |line: &Vec<u8>| line.starts_with(b"warning: ");
        let telling: Vec<_> = lines.iter().filter(|line| !is_warning(line)).collect();
        let lines = if telling.is_empty() { lines.iter().collect() } else { telling };
        let shown = |line: &&Vec<u8>| remote_text(line);
        if lines.len() <= FIRST_LINES + LAST_LINES {
            return lines.iter().map(shown).collect::<Vec<_>>().join("; ");
        }
        let (first, last) = (&lines[..FIRST_LINES], &lines[lines.len() - LAST_LINES..]);
        first.iter().map(shown).chain(["…".to_owned()]).chain(last.iter().map(shown)).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, piece_bytes: usize) -> Said {
        let mut said = Said::default();
        text.as_bytes().chunks(piece_bytes).for_each(|piece| said.add(piece));
        said
    }

    #[test]
    fn what_a_hook_says_after_many_warnings_is_shown() {
        let warnings: String = (0..200).map(|n| format!("warning: object {n:040x}: zeroPaddedFilemode\n")).collect();
        let text = format!("{warnings}\n====\n\nGitLab: You are not allowed to do this.\n\n====\n");
        for piece_bytes in [1, 7, 1_000, 65_000] {
            let said = said(&text, piece_bytes);
            assert_eq!(said.shown(), "GitLab: You are not allowed to do this.");
            assert!(said.contains("not allowed to do") && said.contains(&format!("{:040x}", 0)));
            assert!(said.start.len() <= KEPT_BYTES && said.end.len() <= KEPT_BYTES);
        }
        assert!(said(&warnings, 100).shown().starts_with("warning: object 0000"), "if there is nothing else");
    }

    #[test]
    fn of_many_lines_the_first_and_the_last_are_shown() {
        let text: String = (1..=20).map(|n| format!("line {n}\r\n")).collect();
        assert_eq!(said(&text, 3).shown(), "line 1; line 2; …; line 15; line 16; line 17; line 18; line 19; line 20");
        assert_eq!(said("\u{1b}[31mred\u{7}", 2).shown(), "\\u{1b}[31mred\\u{7}");
        assert_eq!(said("", 1).shown(), "");
    }

    #[test]
    fn a_secret_that_is_cut_is_not_shown_in_part() {
        let secret = "glpat-secret-three-abcdefghijklmnop";
        crate::text::hide(secret);
        for before in (KEPT_BYTES - 60..KEPT_BYTES + 10).chain(2 * KEPT_BYTES - 60..2 * KEPT_BYTES) {
            let text = format!("{}{secret}{}", "x".repeat(before), "y".repeat(3 * KEPT_BYTES - before));
            for text in [text.clone(), format!("{text}\nend {secret}\n"), format!("begin\n{text}")] {
                let shown = said(&text, 50).shown();
                assert!(!shown.contains("glpat") && !shown.contains("mnop"), "{before}: {shown}");
            }
        }
    }
}
