//! Times, counts and sentences for people.

use std::time::{Duration, SystemTime};

use crate::text::{human_duration, printable, since, timestamp};

/// A moment, for people and for programs.
pub(super) struct Time {
    pub(super) ago: String,
    pub(super) exact: String,
    pub(super) machine: String,
}

impl Time {
    pub(super) fn new(time: SystemTime, now: SystemTime) -> Self {
        let machine = timestamp(time).unwrap_or_default();
        let seconds = machine.split('.').next().unwrap_or_default().trim_end_matches('Z');
        let ago = if time > now {
            format!("in {}", coarse(since(now, time)))
        } else {
            format!("{} ago", coarse(since(time, now)))
        };
        Self { ago, exact: format!("{} UTC", seconds.replace('T', " ")), machine: format!("{seconds}Z") }
    }
}

/// A time span; without seconds if it is longer than a minute, because they would flicker.
pub(super) fn coarse(span: Duration) -> String {
    let seconds = span.as_secs();
    human_duration(Duration::from_secs(if seconds < 60 { seconds } else { seconds / 60 * 60 }))
}

/// A time span; with fractions if it is short.
pub(super) fn precise(span: Duration) -> String {
    if span < Duration::from_secs(10) { format!("{:.1} s", span.as_secs_f64()) } else { human_duration(span) }
}

/// `1,204`.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 target`, `1,204 targets`.
pub(super) fn count(number: usize, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// The parts of a text, and whether each is between backticks.
pub(super) fn marked(text: &str) -> impl Iterator<Item = (bool, &str)> {
    text.split('`').enumerate().map(|(at, part)| (at % 2 == 1, part))
}

/// The text with a full stop at its end, unless it ends a sentence already.
pub(super) fn full_stop(text: String) -> String {
    if text.trim_end_matches(')').ends_with(['.', '?', '!']) { text } else { text + "." }
}

/// The text with a capital letter in front and no full stop at the end.
pub(super) fn sentence(text: &str) -> String {
    let text = printable(text.trim_end_matches('.'));
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
