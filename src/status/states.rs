//! The names of target states, pass outcomes and triggers, on the page, in metrics and in JSON.

use std::fmt;

use super::PassFailure;
use crate::model::program::Program;

/// Whether a target is in sync, the most urgent state first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetState {
    /// An action for it failed; the next pass tries again.
    Failing,
    /// Nothing can be done for it until somebody acts.
    Blocked,
    /// The bucket does not have the source's newest commit yet, or the far branch not the bucket's.
    Behind,
    /// The bucket has the source's newest commit, or the far branch the bucket's.
    InSync,
}

impl TargetState {
    /// All states, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Failing, Self::Blocked, Self::Behind, Self::InSync];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Blocked => "blocked",
            Self::Behind => "behind",
            Self::InSync => "in_sync",
        }
    }
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().replace('_', " "))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassOutcome {
    Success,
    /// Something is blocked, failed or was held back.
    Incomplete,
    /// Nothing was changed, for this reason.
    Failed(PassFailure),
}

impl PassOutcome {
    pub const NAMES: [&str; 3] = ["success", "incomplete", "failed"];

    pub fn name(&self) -> &'static str {
        let [success, incomplete, failed] = Self::NAMES;
        match self {
            Self::Success => success,
            Self::Incomplete => incomplete,
            Self::Failed(_) => failed,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Schedule,
    Signal,
    /// GitLab reported pushes: a pass for their targets only.
    Push,
    /// The bucket reported changes, or a newer object came while an older one was delivered.
    Event,
}

impl Trigger {
    /// What starts passes of one program.
    pub const fn of(program: Program) -> &'static [Self] {
        match program {
            Program::Producer => &[Self::Schedule, Self::Signal, Self::Push],
            Program::Consumer => &[Self::Schedule, Self::Signal, Self::Event],
        }
    }

    pub const fn is_full(self) -> bool {
        match self {
            Self::Schedule | Self::Signal | Self::Event => true,
            Self::Push => false,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Signal => "signal",
            Self::Push => "push",
            Self::Event => "event",
        }
    }
}
