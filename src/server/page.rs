//! The status page: what the template shows, in words and figures for people.
//!
//! Invariant: it shows only the snapshot and the address's filter, and the template escapes both.

mod cards;
mod chart;
mod figures;
mod filter;
mod header;
mod links;
mod rows;
mod strip;
mod words;

use askama::Template;
use url::Url;

use self::cards::{Card, Guard, cards, guard};
use self::chart::{Chart, chart};
use self::figures::Time;
pub(super) use self::filter::Filter;
use self::filter::{Chip, Only};
use self::header::{PassView, RunningView, Verdict, facts, pass_view, running_view, verdict};
use self::links::Links;
use self::rows::{List, list};
use self::words::Words;
use crate::model::manifest::Origin;
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
    guard: Option<Guard>,
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

pub(super) fn html(
    now: &Snapshot,
    shard: Option<&str>,
    gitlab: &Url,
    filter: &Filter,
) -> Result<String, askama::Error> {
    let words = Words::of(now.program);
    let links = Links { program: now.program, gitlab };
    let page = Page {
        words,
        shard,
        version: env!("CARGO_PKG_VERSION"),
        now: Time::new(now.now, now.now),
        refresh: if now.passes.is_empty() { QUIET_REFRESH } else { BUSY_REFRESH },
        dry_run: now.dry_run,
        verdict: verdict(now, words),
        facts: facts(now, words),
        guard: now.guard.as_ref().map(guard),
        passes: now.passes.iter().map(|pass| pass_view(pass, now.now, words)).collect(),
        running: now.running.iter().map(running_view).collect(),
        cards: cards(now, &links, words),
        chart: chart(now, words),
        chips: filter.chips(now),
        filter,
        only: filter.only(),
        any: !now.targets.is_empty(),
        list: list(now, filter, &links, words),
    };
    page.render()
}

fn needs_attention(target: &TargetStatus) -> bool {
    matches!(target.state, TargetState::Failing | TargetState::Blocked)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::model::key::Destination;
    use crate::model::program::Program;
    use crate::model::target::Source;
    use crate::plan::Cause;
    use crate::status::{BucketCount, PassFailure, Seen, Status, TargetTrouble, Trigger, Whole};

    /// A target of a group, whose source has the same names; and what is wrong with it.
    type Told<'a> = (&'a str, &'a str, Option<(Cause, &'a str)>);

    fn status(program: Program, targets: &[Told<'_>]) -> Status {
        let status = Status::new(program, "x", Duration::MAX, false);
        let pass = status.pass_begins(Trigger::Schedule);
        status.seen(pass, |known| {
            let record = |(group, project, trouble): &Told<'_>| {
                let destination = Destination {
                    group: (*group).to_owned(),
                    project: (*project).to_owned(),
                    branch: "main".to_owned(),
                };
                let state = if trouble.is_some() { TargetState::Blocked } else { TargetState::InSync };
                let trouble = trouble.map(|(cause, error)| {
                    let error = error.replace("NAME", &format!("near/{group}/{project}"));
                    TargetTrouble { cause, error, seen: known.now }
                });
                let source = Source { project: format!("near/{group}/{project}"), branch: "main".to_owned() };
                let new = TargetStatus::new(&destination, state, known.now);
                Arc::new(TargetStatus { trouble, source: Some(source), ..new })
            };
            let bucket = BucketCount { objects: targets.len(), foreign: 0 };
            let whole = Whole { bucket, nothing_listed: targets.is_empty(), budget: None, guard: None };
            Seen { records: targets.iter().map(record).collect(), actions: 0, whole: Some(whole) }
        });
        status
    }

    fn page(status: &Status, filter: &[(&str, &str)]) -> String {
        let filter = filter.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let gitlab = "https://gitlab.test/git".parse().unwrap();
        html(&status.snapshot(), None, &gitlab, &Filter::new(filter)).unwrap()
    }

    /// What is between these, in the order of the page.
    fn all<'a>(html: &'a str, before: &str, after: &str) -> Vec<&'a str> {
        html.split(before).skip(1).map(|rest| rest.split(after).next().unwrap()).collect()
    }

    #[test]
    fn a_dry_run_is_told_apart() {
        for dry_run in [false, true] {
            let status = Status::new(Program::Producer, "x", Duration::MAX, dry_run);
            assert_eq!(page(&status, &[]).contains("Dry run"), dry_run);
        }
    }

    #[test]
    fn what_concerns_all_comes_first_and_then_what_concerns_many() {
        let gone = Some((Cause::Unreadable, "cannot read NAME: 404"));
        let one = Some((Cause::Refused, "no"));
        let upload = Some((Cause::Upload, "AccessDenied"));
        let few: Vec<Told<'_>> = vec![
            ("a", "1", one),
            ("a", "2", gone),
            ("a", "3", gone),
            ("a", "4", upload),
            ("a", "5", None),
            ("a", "6", None),
        ];
        let cards = |targets: &[Told<'_>]| {
            let html = page(&status(Program::Producer, targets), &[]);
            all(&html, "data-key=\"card-", "\"").into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(cards(&few), ["upload", "unreadable", "refused"], "a server is everybody's");
        let most = [&few[..], &[("b", "1", gone), ("b", "2", gone), ("b", "3", gone)]].concat();
        assert_eq!(cards(&most), ["unreadable", "upload", "refused"], "and so is what most have");
        let html = page(&status(Program::Producer, &most), &[]);
        assert_eq!(html.matches("That is 5 of 9 targets: look for one reason for all of them.").count(), 1);
    }

    #[test]
    fn equal_errors_are_written_once_and_each_target_has_its_own_in_its_details() {
        let gone = Some((Cause::Unreadable, "cannot read NAME: 404"));
        let other = Some((Cause::Unreadable, "NAME has no branch main"));
        let html = page(&status(Program::Producer, &[("a", "1", gone), ("a", "2", gone), ("b", "3", other)]), &[]);
        assert_eq!(all(&html, "<p class=\"error\">", "</p>"), ["cannot read …: 404.", "near/b/3 has no branch main."]);
        let notes = ["cannot read near/a/1: 404", "the same error", "near/b/3 has no branch main"];
        assert_eq!(all(&html, "data-key=\"note\">", "</span>"), notes);
        assert_eq!(all(&html, "<dt>Error</dt><dd>", "</dd>"), ["cannot read near/a/2: 404"]);
    }

    #[test]
    fn healthy_targets_are_grouped_and_a_group_can_be_shown_alone() {
        let status =
            status(Program::Producer, &[("a/x", "1", None), ("b", "2", None), ("b", "3", Some((Cause::Kept, "no")))]);
        let html = page(&status, &[]);
        assert_eq!(all(&html, "class=\"section\" data-key=\"", "\""), ["trouble", "group a/x", "group b"]);
        assert!(html.contains("href=\"./?group=a%2Fx#targets\">a/x</a> <span class=\"count\">1 in sync</span>"));
        assert!(html.contains("<span class=\"count\">1 of 2 in sync</span>"));
        let html = page(&status, &[("group", "b")]);
        assert_eq!(all(&html, "<tr role=\"row\" class=\"blocked\" data-key=\"", "\""), ["b/3@main"]);
        assert_eq!(all(&html, "<tr role=\"row\" class=\"in_sync\" data-key=\"", "\""), ["b/2@main"]);
        assert!(html.contains("type=\"hidden\" name=\"group\" value=\"b\""), "a search stays in the group");
    }

    #[test]
    fn a_group_s_number_is_that_of_all_its_spellings_as_in_its_filter() {
        let status = status(Program::Producer, &[("a", "1", None), ("A", "2", None), ("a", "3", None)]);
        assert_eq!(page(&status, &[]).matches("<span class=\"count\">3 in sync</span>").count(), 2);
        let html = page(&status, &[("group", "a")]);
        assert_eq!(all(&html, "<tr role=\"row\" class=\"in_sync\" data-key=\"", "\"").len(), 3);
        assert!(html.contains("<span class=\"count\">3 in sync</span>"));
    }

    #[test]
    fn each_program_links_to_its_own_gitlab() {
        let targets: [Told<'_>; 1] = [("a", "1", None)];
        let producer = page(&status(Program::Producer, &targets), &[]);
        assert!(producer.contains("href=\"https://gitlab.test/git/near/a/1/-/tree/main\""));
        assert!(!producer.contains("gitlab.test/git/a/1/"), "the far GitLab is not known");
        let consumer = page(&status(Program::Consumer, &targets), &[]);
        assert!(consumer.contains("href=\"https://gitlab.test/git/a/1/-/tree/main\""));
    }

    #[test]
    fn a_verdict_that_is_not_good_says_what_to_do() {
        for program in Program::ALL {
            let nothing = page(&status(program, &[]), &[]);
            assert!(nothing.contains("class=\"verdict busy\""), "the first pass is not over");
            let status = status(program, &[]);
            let pass = status.pass_begins(Trigger::Schedule);
            let advice = Some("Ask somebody.".to_owned());
            status.pass_ends(pass, Err(PassFailure { error: "the server is away".to_owned(), advice }));
            let failed = page(&status, &[]);
            for part in ["class=\"verdict bad\"", "The server is away.", "<strong>What to do:</strong> Ask somebody."] {
                assert!(failed.contains(part), "{part}");
            }
        }
    }
}
