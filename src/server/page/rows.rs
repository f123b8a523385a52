//! The list of targets, and the cards: targets in trouble, by cause.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::figures::{Time, coarse, count, grouped, sentence};
use super::filter::Filter;
use super::needs_attention;
use super::words::Words;
use crate::plan::Cause;
use crate::status::{Snapshot, TargetStatus};
use crate::text::{human_bytes, printable, short_commit, since};

/// Rows on one page.
const PAGE_ROWS: usize = 200;
/// Targets on one card.
const CARD_TARGETS: usize = 5;

/// One page of the list.
pub(super) struct List {
    pub(super) rows: Vec<Row>,
    pub(super) found: String,
    pub(super) pager: Option<Pager>,
}

pub(super) struct Pager {
    pub(super) text: String,
    pub(super) previous: Option<String>,
    pub(super) next: Option<String>,
}

/// One target.
pub(super) struct Row {
    pub(super) key: String,
    pub(super) class: &'static str,
    pub(super) state: String,
    pub(super) group: String,
    pub(super) project: String,
    pub(super) branch: String,
    pub(super) source: String,
    /// Commits: the first digits, and all of them.
    pub(super) commit: Option<(String, String)>,
    pub(super) waiting: Option<(String, String)>,
    pub(super) size: String,
    pub(super) published: Option<Time>,
    pub(super) since: Time,
    pub(super) lasts: String,
    pub(super) note: String,
    pub(super) seen: Option<Time>,
}

/// Targets with the same trouble.
pub(super) struct Card {
    pub(super) cause: Cause,
    pub(super) advice: &'static str,
    pub(super) count: String,
    pub(super) targets: Vec<Row>,
    pub(super) rest: Option<String>,
}

pub(super) fn list(now: &Snapshot, filter: &Filter, words: &Words) -> List {
    let mut chosen: Vec<_> = now.targets.iter().filter(|target| filter.matches(target)).collect();
    chosen.sort_by(|a, b| (a.state, &a.destination).cmp(&(b.state, &b.destination)));
    let pages = chosen.len().div_ceil(PAGE_ROWS).max(1);
    let page = filter.page.parse().unwrap_or(1).clamp(1, pages);
    let rows = chosen.iter().skip((page - 1) * PAGE_ROWS).take(PAGE_ROWS);
    List {
        rows: rows.map(|target| row(target, now.now)).collect(),
        found: match chosen.len() {
            0 if now.targets.is_empty() => format!("No {}", words.targets),
            all if all == now.targets.len() => format!("{}, trouble first", count(all, words.target)),
            some => format!("{} of {}", grouped(some), count(now.targets.len(), words.target)),
        },
        pager: (pages > 1).then(|| Pager {
            text: format!("Page {page} of {pages}"),
            previous: (page > 1).then(|| filter.href(None, page - 1)),
            next: (page < pages).then(|| filter.href(None, page + 1)),
        }),
    }
}

pub(super) fn cards(now: &Snapshot, words: &Words) -> Vec<Card> {
    let mut by_cause: BTreeMap<Cause, Vec<&TargetStatus>> = BTreeMap::new();
    for target in now.targets.iter().filter(|target| needs_attention(target)) {
        if let Some(trouble) = &target.trouble {
            by_cause.entry(trouble.cause).or_default().push(target);
        }
    }
    let card = |(cause, mut targets): (Cause, Vec<&TargetStatus>)| {
        targets.sort_by_key(|target| target.since);
        let rest = targets.len().saturating_sub(CARD_TARGETS);
        Card {
            cause,
            advice: cause.advice(now.program),
            count: count(targets.len(), words.target),
            targets: targets.iter().take(CARD_TARGETS).map(|target| row(target, now.now)).collect(),
            rest: (rest > 0).then(|| grouped(rest)),
        }
    };
    by_cause.into_iter().map(card).collect()
}

fn row(target: &TargetStatus, now: SystemTime) -> Row {
    let commit = |commit: &Option<String>| commit.as_deref().map(|commit| (short_commit(commit), printable(commit)));
    let destination = &target.destination;
    let note = match (&target.trouble, &target.pending) {
        (Some(trouble), _) => printable(&trouble.error),
        (None, Some(pending)) => pending.clone(),
        (None, None) => String::new(),
    };
    Row {
        key: printable(&destination.to_string()),
        class: target.state.name(),
        state: sentence(&target.state.to_string()),
        group: printable(&destination.group),
        project: printable(&destination.project),
        branch: printable(&destination.branch),
        source: target.source.as_ref().map(|source| printable(&source.to_string())).unwrap_or_default(),
        commit: commit(&target.commit),
        waiting: commit(&target.waiting),
        size: target.bytes.map(human_bytes).unwrap_or_default(),
        published: target.published.map(|time| Time::new(time, now)),
        since: Time::new(target.since, now),
        lasts: format!("for {}", coarse(since(target.since, now))),
        note,
        seen: target.trouble.as_ref().map(|trouble| Time::new(trouble.seen, now)),
    }
}
