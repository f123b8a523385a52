//! The last outcomes of a target: what became of each attempt, in a few bits.
//!
//! Invariant: it is an attempt, or a change, that is recorded, not each pass: a target at rest keeps what it has, however often
//! it is looked at.

use std::fmt;

/// Bits of one outcome.
const BITS: u32 = 2;
const MASK: u32 = (1 << BITS) - 1;

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The target was brought up to date, or was found in sync after trouble.
    InSync = 1,
    Failed = 2,
    /// Nothing could be done.
    Blocked = 3,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::InSync, Self::Failed, Self::Blocked];

    pub const fn name(self) -> &'static str {
        match self {
            Self::InSync => "in_sync",
            Self::Failed => "failing",
            Self::Blocked => "blocked",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InSync => "in sync",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
        })
    }
}

/// The last outcomes since the program was started, the newest in the lowest bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes(u32);

impl Outcomes {
    /// How many are kept.
    pub const MOST: usize = (u32::BITS / BITS) as usize;

    /// With the outcome of an attempt.
    #[must_use]
    pub const fn with(self, outcome: Outcome) -> Self {
        Self(self.0 << BITS | outcome as u32)
    }

    /// With what a pass found without an attempt, if that is new. A target that was always in sync has nothing to show.
    #[must_use]
    pub fn found(self, outcome: Outcome) -> Self {
        match self.iter().last() {
            None if outcome == Outcome::InSync => self,
            Some(last) if last == outcome => self,
            _ => self.with(outcome),
        }
    }

    /// The outcomes, the oldest first.
    pub fn iter(self) -> impl Iterator<Item = Outcome> {
        (0..Self::MOST as u32).rev().filter_map(move |at| {
            let bits = self.0 >> (at * BITS) & MASK;
            Outcome::ALL.into_iter().find(|outcome| *outcome as u32 == bits)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(outcomes: Outcomes) -> String {
        outcomes.iter().map(|outcome| outcome.name().chars().next().unwrap_or_default()).collect()
    }

    #[test]
    fn the_newest_outcomes_are_kept_in_their_order() {
        let mut outcomes = Outcomes::default();
        assert_eq!(shown(outcomes), "");
        for _ in 0..3 {
            outcomes = outcomes.with(Outcome::Failed);
        }
        outcomes = outcomes.with(Outcome::Blocked);
        assert_eq!(shown(outcomes), "fffb");
        for _ in 0..Outcomes::MOST - 1 {
            outcomes = outcomes.with(Outcome::InSync);
        }
        assert_eq!(shown(outcomes), format!("b{}", "i".repeat(Outcomes::MOST - 1)));
    }

    #[test]
    fn what_passes_find_again_and_again_is_recorded_once() {
        let at_rest = Outcomes::default().found(Outcome::InSync);
        assert_eq!(at_rest, Outcomes::default());
        let blocked = at_rest.found(Outcome::Blocked).found(Outcome::Blocked);
        assert_eq!(shown(blocked.found(Outcome::InSync).found(Outcome::InSync)), "bi");
        let tried = blocked.with(Outcome::Failed).with(Outcome::Failed).with(Outcome::InSync);
        assert_eq!(shown(tried.found(Outcome::InSync)), "bffi", "attempts count one by one");
    }
}
