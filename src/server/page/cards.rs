//! The cards: targets in trouble by cause, what concerns many of them first.
//!
//! Invariant: an error that several targets have is on a card once.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::figures::{count, full_stop, grouped};
use super::links::Links;
use super::needs_attention;
use super::rows::{Row, reason, row};
use super::words::Words;
use crate::plan::Cause;
use crate::status::{Guarded, Snapshot, TargetStatus};
use crate::text::printable;

/// Targets named for one error.
const NAMED_TARGETS: usize = 5;
/// Errors on one card.
const SHOWN_ERRORS: usize = 3;
/// From so many targets on, a cause that half of all targets have is probably one for all of them.
const LEAST_OF_MANY: usize = 3;

/// Targets with the same trouble.
pub(super) struct Card {
    pub(super) cause: Cause,
    pub(super) advice: &'static str,
    pub(super) count: String,
    /// Said if there is probably one reason for many targets.
    pub(super) reach: Option<String>,
    pub(super) errors: Vec<Alike>,
    /// How many targets are not named.
    pub(super) rest: Option<String>,
}

/// Targets with the same error.
pub(super) struct Alike {
    pub(super) error: String,
    pub(super) targets: Vec<Row>,
}

/// What the retire guard holds back.
pub(super) struct Guard {
    pub(super) message: String,
    pub(super) names: Vec<String>,
    pub(super) rest: Option<String>,
    pub(super) figures: [(&'static str, String); 3],
}

pub(super) fn guard(Guarded { guard, first }: &Guarded) -> Guard {
    let rest = guard.would_retire.saturating_sub(first.len());
    Guard {
        message: guard.to_string(),
        names: first.iter().map(|destination| printable(&destination.to_string())).collect(),
        rest: (rest > 0).then(|| format!("and {} more", grouped(rest))),
        figures: [
            ("Would be retired", format!("{} of {}", grouped(guard.would_retire), grouped(guard.held))),
            ("Allowed in 24 h", grouped(guard.limit)),
            ("Used of that", grouped(guard.used)),
        ],
    }
}

pub(super) fn cards(now: &Snapshot, links: &Links<'_>, words: &Words) -> Vec<Card> {
    let mut by_cause: BTreeMap<Cause, Vec<&TargetStatus>> = BTreeMap::new();
    for target in now.targets.iter().filter(|target| needs_attention(target)) {
        if let Some(trouble) = &target.trouble {
            by_cause.entry(trouble.cause).or_default().push(target);
        }
    }
    let all = now.targets.len();
    let reaches_most = |reach: usize| reach >= LEAST_OF_MANY && reach * 2 >= all;
    let mut by_cause: Vec<_> = by_cause.into_iter().collect();
    by_cause.sort_by_key(|(cause, targets)| {
        (!(cause.is_systemic() || reaches_most(targets.len())), Reverse(targets.len()), *cause)
    });
    let card = |(cause, targets): (Cause, Vec<&TargetStatus>)| {
        let reach = targets.len();
        let errors = alike(targets, now, links);
        let named: usize = errors.iter().map(|alike| alike.targets.len()).sum();
        Card {
            cause,
            advice: cause.advice(now.program),
            count: count(reach, words.target),
            reach: reaches_most(reach).then(|| {
                format!(
                    "That is {} of {}: look for one reason for all of them.",
                    grouped(reach),
                    count(all, words.target)
                )
            }),
            errors,
            rest: (reach > named).then(|| grouped(reach - named)),
        }
    };
    by_cause.into_iter().map(card).collect()
}

/// The most frequent errors, each with the targets that have had it for longest.
fn alike(targets: Vec<&TargetStatus>, now: &Snapshot, links: &Links<'_>) -> Vec<Alike> {
    let mut by_reason: BTreeMap<String, Vec<&TargetStatus>> = BTreeMap::new();
    for target in targets {
        by_reason.entry(reason(target).unwrap_or_default()).or_default().push(target);
    }
    let mut by_reason: Vec<_> = by_reason.into_iter().collect();
    by_reason.sort_by_key(|(_, targets)| Reverse(targets.len()));
    by_reason.truncate(SHOWN_ERRORS);
    let alike = |(reason, mut targets): (String, Vec<&TargetStatus>)| {
        targets.sort_by_key(|target| target.since);
        let rows: Vec<_> = targets.iter().take(NAMED_TARGETS).map(|target| row(target, now.now, links, None)).collect();
        let error = match rows.as_slice() {
            [only] => only.note.clone(),
            _ => reason,
        };
        Alike { error: full_stop(error), targets: rows }
    };
    by_reason.into_iter().map(alike).collect()
}
