//! The last passes, as a chart and a list.
//!
//! Invariant: colour alone never carries information.

use std::time::SystemTime;

use super::figures::{Time, grouped, precise};
use super::words::Words;
use crate::status::{PassOutcome, PassRecord, Snapshot, Trigger};
use crate::text::printable;

/// Passes in the list below the chart.
const LISTED_PASSES: usize = 12;
/// The chart in its own units: the distance between bars, its height, and the heights of the longest and the shortest bar.
/// The shortest must stay visible next to the longest, with two stripes. `LEAST_BARS` is the number of bars that fit at
/// least.
const BAR_STEP: usize = 10;
const CHART_HEIGHT: f64 = 60.0;
const LONGEST_BAR: f64 = 52.0;
const SHORTEST_BAR: f64 = 8.0;
const LEAST_BARS: usize = 40;

pub(super) struct Chart {
    pub(super) label: String,
    pub(super) longest: String,
    pub(super) width: usize,
    pub(super) bars: Vec<Bar>,
    pub(super) legend: Vec<(&'static str, String)>,
    pub(super) list: Vec<PassRow>,
}

pub(super) struct Bar {
    pub(super) x: usize,
    pub(super) y: String,
    pub(super) class: &'static str,
    pub(super) flagged: bool,
    pub(super) title: String,
}

pub(super) struct PassRow {
    pub(super) class: &'static str,
    pub(super) outcome: &'static str,
    pub(super) began: Time,
    pub(super) took: String,
    pub(super) trigger: &'static str,
    pub(super) detail: String,
}

/// The chart, once a pass has ended.
pub(super) fn chart(now: &Snapshot, words: &Words) -> Option<Chart> {
    let longest = now.history.iter().map(|pass| pass.took).max()?;
    let bar = |(at, pass): (usize, &PassRecord)| {
        let share = pass.took.as_secs_f64() / longest.as_secs_f64().max(f64::MIN_POSITIVE);
        let began = Time::new(pass.began, now.now);
        Bar {
            x: at * BAR_STEP + BAR_STEP / 2,
            y: format!("{:.1}", CHART_HEIGHT - (share * LONGEST_BAR).max(SHORTEST_BAR)),
            class: pass.outcome.name(),
            flagged: matches!(pass.outcome, PassOutcome::Failed(_)),
            title: format!("{}: {}, {}", began.exact, outcome_name(&pass.outcome), precise(pass.took)),
        }
    };
    let of = |name: &str| now.history.iter().filter(|pass| pass.outcome.name() == name).count();
    let [success, incomplete, failed] = PassOutcome::NAMES.map(of);
    let counts = [format!("{success} succeeded"), format!("{incomplete} incomplete"), format!("{failed} failed")];
    let which = match now.history.len() {
        1 => "One pass".to_owned(),
        passes => format!("The last {passes} passes, the oldest on the left"),
    };
    Some(Chart {
        label: format!("{which}: {}; the longest took {}", counts.join(", "), precise(longest)),
        longest: precise(longest),
        width: now.history.len().max(LEAST_BARS) * BAR_STEP,
        bars: now.history.iter().enumerate().map(bar).collect(),
        legend: PassOutcome::NAMES.into_iter().zip(counts).collect(),
        list: now.history.iter().rev().take(LISTED_PASSES).map(|pass| pass_row(pass, now.now, words)).collect(),
    })
}

fn pass_row(pass: &PassRecord, now: SystemTime, words: &Words) -> PassRow {
    let detail = match &pass.outcome {
        PassOutcome::Failed(failure) => printable(&failure.error),
        PassOutcome::Success | PassOutcome::Incomplete => {
            let parts =
                [(pass.transferred, words.transferred), (pass.retired, "retired"), (pass.troubled, "in trouble")];
            let parts = parts.iter().filter(|(number, _)| *number > 0);
            let parts: Vec<_> = parts.map(|(number, what)| format!("{} {what}", grouped(*number))).collect();
            if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") }
        }
    };
    PassRow {
        class: pass.outcome.name(),
        outcome: outcome_name(&pass.outcome),
        began: Time::new(pass.began, now),
        took: precise(pass.took),
        trigger: match pass.trigger {
            Trigger::Schedule => "on schedule",
            Trigger::Signal => "on demand",
            Trigger::Push => "after a push",
            Trigger::Event => "after a change of the bucket",
        },
        detail,
    }
}

fn outcome_name(outcome: &PassOutcome) -> &'static str {
    match outcome {
        PassOutcome::Success => "succeeded",
        PassOutcome::Incomplete | PassOutcome::Failed(_) => outcome.name(),
    }
}
