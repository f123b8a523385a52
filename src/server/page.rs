//! The status page: what the template shows, in words and figures for people.
//!
//! Invariant: it shows only the snapshot and the address's filter, and the template escapes both.

mod chart;
mod figures;
mod filter;
mod header;
mod rows;
mod words;

use askama::Template;

use self::chart::{Chart, chart};
use self::figures::Time;
pub(super) use self::filter::Filter;
use self::filter::{Chip, Only};
use self::header::{PassView, RunningView, Verdict, facts, pass_view, running_view, verdict};
use self::rows::{Card, List, cards, list};
use self::words::Words;
use crate::status::{Snapshot, TargetState, TargetStatus};

/// Seconds between two updates, while a pass is under way and otherwise.
const BUSY_REFRESH: u32 = 2;
const QUIET_REFRESH: u32 = 5;

#[derive(Template)]
#[template(path = "status.html")]
struct Page<'a> {
    words: &'static Words,
    shard: Option<&'a str>,
    version: &'static str,
    now: Time,
    refresh: u32,
    dry_run: bool,
    verdict: Verdict,
    facts: Vec<(&'static str, String)>,
    guard: Option<&'a str>,
    passes: Vec<PassView>,
    running: Vec<RunningView>,
    cards: Vec<Card>,
    chart: Option<Chart>,
    chips: Vec<Chip>,
    filter: &'a Filter,
    only: Option<Only>,
    any: bool,
    list: List,
}

pub(super) fn html(now: &Snapshot, shard: Option<&str>, filter: &Filter) -> Result<String, askama::Error> {
    let words = Words::of(now.program);
    let page = Page {
        words,
        shard,
        version: env!("CARGO_PKG_VERSION"),
        now: Time::new(now.now, now.now),
        refresh: if now.passes.is_empty() { QUIET_REFRESH } else { BUSY_REFRESH },
        dry_run: now.dry_run,
        verdict: verdict(now, words),
        facts: facts(now, words),
        guard: now.guard.as_deref(),
        passes: now.passes.iter().map(|pass| pass_view(pass, now.now, words)).collect(),
        running: now.running.iter().map(running_view).collect(),
        cards: cards(now, words),
        chart: chart(now, words),
        chips: filter.chips(now),
        filter,
        only: filter.only(),
        any: !now.targets.is_empty(),
        list: list(now, filter, words),
    };
    page.render()
}

fn needs_attention(target: &TargetStatus) -> bool {
    matches!(target.state, TargetState::Failing | TargetState::Blocked)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::program::Program;
    use crate::status::Status;

    #[test]
    fn a_dry_run_is_told_apart() {
        for dry_run in [false, true] {
            let now = Status::new(Program::Producer, "x", Duration::MAX, dry_run).snapshot();
            assert_eq!(html(&now, None, &Filter::default()).unwrap_or_default().contains("Dry run"), dry_run);
        }
    }
}
