//! The words that the page, the metrics and JSON have for states, passes and what began them.

use std::fmt;

/// How a target stands. The order is that of urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetState {
    /// An action for it failed; the next pass tries again.
    Failing,
    /// It cannot be acted on.
    Blocked,
    /// Its source has something that the bucket does not have yet.
    Behind,
    /// The bucket has what the source has.
    InSync,
}

impl TargetState {
    /// All of them, in the order of urgency.
    pub const ALL: [Self; 4] = [Self::Failing, Self::Blocked, Self::Behind, Self::InSync];

    /// Its name, in metrics and addresses.
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
        f.write_str(match self {
            Self::Failing => "failing",
            Self::Blocked => "blocked",
            Self::Behind => "behind",
            Self::InSync => "in sync",
        })
    }
}

/// How a pass ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassOutcome {
    /// It did all it should.
    Success,
    /// Something is blocked, failed or was held back.
    Incomplete,
    /// Nothing was done, for this reason.
    Failed(String),
}

impl PassOutcome {
    /// Their names.
    pub const NAMES: [&str; 3] = ["success", "incomplete", "failed"];

    /// Its name, in metrics.
    pub fn name(&self) -> &'static str {
        let [success, incomplete, failed] = Self::NAMES;
        match self {
            Self::Success => success,
            Self::Incomplete => incomplete,
            Self::Failed(_) => failed,
        }
    }
}

/// Why a pass began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// It was due.
    Schedule,
    /// Somebody sent SIGUSR1.
    Signal,
    /// GitLab reported pushes: a pass for their targets only.
    Push,
}

impl Trigger {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Schedule, Self::Signal, Self::Push];

    /// Whether the pass is about all targets.
    pub const fn is_full(self) -> bool {
        match self {
            Self::Schedule | Self::Signal => true,
            Self::Push => false,
        }
    }

    /// Its name, in metrics and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Signal => "signal",
            Self::Push => "push",
        }
    }
}
