//! The strip of a target's last outcomes.
//!
//! Invariant: colour alone never carries information: each outcome has a height of its own.

use crate::status::{Outcome, Outcomes};

/// The strip's height in its own units; its width is one for each outcome.
pub(super) const HEIGHT: f64 = 4.0;

/// A strip, the newest outcome on the right.
pub(super) struct Strip {
    pub(super) label: String,
    pub(super) width: usize,
    pub(super) runs: Vec<Run>,
}

/// Equal outcomes in a row.
pub(super) struct Run {
    pub(super) class: &'static str,
    pub(super) from: usize,
    pub(super) to: usize,
    /// The middle of a line that stands on the ground.
    pub(super) y: String,
    pub(super) height: String,
}

/// Nothing for a target to which nothing has happened since the start.
pub(super) fn strip(outcomes: Outcomes) -> Option<Strip> {
    let outcomes: Vec<_> = outcomes.iter().collect();
    let mut runs: Vec<Run> = vec![];
    let mut at = Outcomes::MOST - outcomes.len();
    for run in outcomes.chunk_by(|a, b| a == b) {
        let (outcome, height) = (*run.first()?, run.first().copied().map_or(HEIGHT, height));
        let (y, to) = (HEIGHT - height / 2.0, at + run.len());
        runs.push(Run { class: outcome.name(), from: at, to, y: format!("{y:.1}"), height: format!("{height:.1}") });
        at = to;
    }
    let of = |outcome: Outcome| outcomes.iter().filter(|it| **it == outcome).count();
    let counts = Outcome::ALL.map(|outcome| (of(outcome), outcome)).into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts.map(|(count, outcome)| format!("{count} {outcome}")).collect();
    let last = outcomes.last()?;
    let label = format!("Last outcomes: {}; the newest: {last}", counts.join(", "));
    Some(Strip { label, width: Outcomes::MOST, runs })
}

const fn height(outcome: Outcome) -> f64 {
    match outcome {
        Outcome::InSync => 1.4,
        Outcome::Blocked => 2.8,
        Outcome::Failed => HEIGHT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_outcomes_are_one_run_and_the_newest_is_on_the_right() {
        assert!(strip(Outcomes::default()).is_none());
        let outcomes = [Outcome::InSync, Outcome::Failed, Outcome::Failed, Outcome::InSync];
        let outcomes = outcomes.into_iter().fold(Outcomes::default(), Outcomes::with);
        let shown = strip(outcomes).map(|strip| {
            let runs: Vec<_> = strip.runs.iter().map(|run| (run.class, run.from, run.to)).collect();
            (strip.label, runs)
        });
        let label = "Last outcomes: 2 in sync, 2 failed; the newest: in sync".to_owned();
        let end = Outcomes::MOST;
        let runs = vec![("in_sync", end - 4, end - 3), ("failing", end - 3, end - 1), ("in_sync", end - 1, end)];
        assert_eq!(shown, Some((label, runs)));
    }
}
