//! The list of targets, in sections: trouble, what is under way, and then group by group.
//!
//! Invariant: what needs attention comes first, and an error that several targets have is written once on a page.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use super::figures::{Time, coarse, count, grouped, sentence};
use super::filter::Filter;
use super::links::Links;
use super::needs_attention;
use super::strip::{Strip, strip};
use super::words::Words;
use crate::model::key::folded_path;
use crate::model::manifest::Origin;
use crate::status::{Snapshot, TargetState, TargetStatus};
use crate::text::{human_bytes, printable, short_commit, since};

/// Rows on one page.
const PAGE_ROWS: usize = 200;
/// Said of a row whose error an earlier row has.
const SAME_ERROR: &str = "the same error";

/// One page of the list.
pub(super) struct List {
    pub(super) sections: Vec<Section>,
    /// Whether there is something to say of who made what was delivered.
    pub(super) has_origins: bool,
    pub(super) found: String,
    pub(super) pager: Option<Pager>,
}

/// Rows that belong together.
pub(super) struct Section {
    pub(super) key: String,
    pub(super) title: String,
    pub(super) detail: String,
    /// All targets of the group.
    pub(super) href: Option<String>,
    pub(super) rows: Vec<Row>,
}

pub(super) struct Pager {
    pub(super) text: String,
    pub(super) previous: Option<String>,
    pub(super) next: Option<String>,
}

/// A branch of a project, and its page in GitLab.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) href: String,
}

/// A commit: the first digits, and all of them.
pub(super) struct Commit {
    pub(super) short: String,
    pub(super) full: String,
}

/// One target.
pub(super) struct Row {
    pub(super) key: String,
    pub(super) class: &'static str,
    pub(super) state: String,
    /// The group with a slash, unless the section's title says it.
    pub(super) group: String,
    pub(super) project: String,
    pub(super) branch: String,
    /// The producer: where it comes from.
    pub(super) source: Option<Place>,
    /// The consumer: its page in the far GitLab.
    pub(super) far: Option<String>,
    pub(super) strip: Option<Strip>,
    pub(super) commit: Option<Commit>,
    pub(super) waiting: Option<Commit>,
    pub(super) size: String,
    /// How many increments the bucket has on top of the whole history, if any.
    pub(super) chain: Option<usize>,
    /// The producer: how much less was uploaded than without increments, if any.
    pub(super) saved: Option<String>,
    /// The consumer: who made what was delivered last, if that is known.
    pub(super) origin: Option<Origin>,
    pub(super) published: Option<Time>,
    pub(super) since: Time,
    pub(super) lasts: String,
    pub(super) note: String,
    /// The error, if `note` only says that it is a known one.
    pub(super) error: Option<String>,
    pub(super) seen: Option<Time>,
}

/// The headings of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heading<'a> {
    Trouble,
    Behind,
    Group(&'a str),
}

impl<'a> Heading<'a> {
    fn of(target: &'a TargetStatus) -> Self {
        match target.state {
            TargetState::Failing | TargetState::Blocked => Self::Trouble,
            TargetState::Behind => Self::Behind,
            TargetState::InSync => Self::Group(&target.destination.group),
        }
    }
}

pub(super) fn list(now: &Snapshot, filter: &Filter, links: &Links<'_>, words: &Words) -> List {
    let matches = filter.matcher();
    let mut chosen: Vec<_> = now.targets.iter().filter(|target| matches(target)).map(|it| &**it).collect();
    chosen.sort_by(|a, b| (a.state, &a.destination).cmp(&(b.state, &b.destination)));
    let pages = chosen.len().div_ceil(PAGE_ROWS).max(1);
    let page = filter.page.parse().unwrap_or(1).clamp(1, pages);
    let begin = (page - 1) * PAGE_ROWS;
    let shown = &chosen[begin.min(chosen.len())..(begin + PAGE_ROWS).min(chosen.len())];
    let groups = groups(now);
    let mut errors = HashSet::new();
    let sections = shown.chunk_by(|a, b| Heading::of(a) == Heading::of(b)).filter_map(|targets| {
        let heading = Heading::of(targets.first()?);
        let rows = targets.iter().map(|target| row(target, now.now, links, Some(&mut errors)));
        let rows = rows.map(|row| match heading {
            Heading::Group(_) => Row { group: String::new(), ..row },
            Heading::Trouble | Heading::Behind => row,
        });
        Some(section(heading, rows.collect(), now, filter, &groups))
    });
    List {
        sections: sections.collect(),
        has_origins: shown.iter().any(|target| target.origin.is_some()),
        found: match chosen.len() {
            0 if now.targets.is_empty() => format!("No {}", words.targets),
            all if all == now.targets.len() => format!("{}, trouble first", count(all, words.target)),
            some => format!("{} of {}", grouped(some), count(now.targets.len(), words.target)),
        },
        pager: (pages > 1).then(|| Pager {
            text: format!("Page {page} of {pages}"),
            previous: (page > 1).then(|| filter.page(page - 1)),
            next: (page < pages).then(|| filter.page(page + 1)),
        }),
    }
}

/// Of each group, by its folded path, how many targets it has, and how many are in sync.
fn groups(now: &Snapshot) -> HashMap<String, (usize, usize)> {
    let mut spellings: HashMap<&str, (usize, usize)> = HashMap::new();
    for target in now.targets.iter() {
        let (all, in_sync) = spellings.entry(&target.destination.group).or_default();
        *all += 1;
        *in_sync += usize::from(target.state == TargetState::InSync);
    }
    let mut groups: HashMap<String, (usize, usize)> = HashMap::new();
    for (group, (all, in_sync)) in spellings {
        let group = groups.entry(folded_path(group)).or_default();
        *group = (group.0 + all, group.1 + in_sync);
    }
    groups
}

fn section(
    heading: Heading<'_>,
    rows: Vec<Row>,
    now: &Snapshot,
    filter: &Filter,
    groups: &HashMap<String, (usize, usize)>,
) -> Section {
    let of = |is: fn(&TargetStatus) -> bool| grouped(now.targets.iter().filter(|target| is(target)).count());
    let (key, title, detail, href) = match heading {
        Heading::Trouble => ("trouble".to_owned(), "Need attention".to_owned(), of(needs_attention), None),
        Heading::Behind => {
            let detail = of(|target| target.state == TargetState::Behind);
            ("behind".to_owned(), "Being brought up to date".to_owned(), detail, None)
        }
        Heading::Group(group) => {
            let (all, in_sync) = groups.get(&folded_path(group)).copied().unwrap_or_default();
            let detail = match all == in_sync {
                true => format!("{} in sync", grouped(all)),
                false => format!("{} of {} in sync", grouped(in_sync), grouped(all)),
            };
            let href = (!filter.has_group(group)).then(|| filter.only_group(group));
            (format!("group {}", printable(group)), printable(group), detail, href)
        }
    };
    Section { key, title, detail, href, rows }
}

/// The row of a target. An error that is in `written` already is only mentioned.
pub(super) fn row(
    target: &TargetStatus,
    now: SystemTime,
    links: &Links<'_>,
    written: Option<&mut HashSet<String>>,
) -> Row {
    let commit = |commit: &Option<String>| {
        let commit = commit.as_deref()?;
        Some(Commit { short: short_commit(commit), full: printable(commit) })
    };
    let destination = &target.destination;
    let error = target.trouble.as_ref().map(|trouble| printable(&trouble.error));
    let is_known = written.is_some_and(|written| reason(target).is_some_and(|reason| !written.insert(reason)));
    let (note, error) = match (error, &target.pending) {
        (Some(error), _) if is_known => (SAME_ERROR.to_owned(), Some(error)),
        (Some(error), _) => (error, None),
        (None, Some(pending)) => (pending.clone(), None),
        (None, None) => (String::new(), None),
    };
    Row {
        key: printable(&destination.to_string()),
        class: target.state.name(),
        state: sentence(&target.state.to_string()),
        group: format!("{}/", printable(&destination.group)),
        project: printable(&destination.project),
        branch: printable(&destination.branch),
        source: target.source.as_ref().map(|source| Place {
            name: printable(&source.to_string()),
            href: links.branch(&source.project, &source.branch),
        }),
        far: links.far(destination),
        strip: strip(target.outcomes),
        commit: commit(&target.commit),
        waiting: commit(&target.waiting),
        size: target.bytes.map(human_bytes).unwrap_or_default(),
        chain: Some(target.increments).filter(|increments| *increments > 0),
        saved: Some(target.saved_bytes).filter(|bytes| *bytes > 0).map(human_bytes),
        origin: target.origin,
        published: target.published.map(|time| Time::new(time, now)),
        since: Time::new(target.since, now),
        lasts: format!("for {}", coarse(since(target.since, now))),
        note,
        error,
        seen: target.trouble.as_ref().map(|trouble| Time::new(trouble.seen, now)),
    }
}

/// The error of a target without its own names, so that equal errors can be told.
pub(super) fn reason(target: &TargetStatus) -> Option<String> {
    let mut text = target.trouble.as_ref()?.error.clone();
    let destination = &target.destination;
    let source = target.source.as_ref();
    let branches = [source.map(|source| source.branch.as_str()), Some(destination.branch.as_str())];
    let names = source.into_iter().flat_map(|source| [source.to_string(), source.project.clone()]);
    let names = names.chain([destination.to_string(), destination.path()]);
    for name in names.chain(branches.into_iter().flatten().map(|branch| format!("branch {branch}"))) {
        let kept = if name.starts_with("branch ") { "branch …" } else { "…" };
        if text.contains(&name) {
            text = text.replace(&name, kept);
        }
    }
    Some(printable(&text))
}
