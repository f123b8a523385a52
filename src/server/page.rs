//! The status page: what the template shows, in words and figures for people.
//!
//! Invariant: it shows the snapshot and the address's filter, and everything of either is escaped by the template.

mod chart;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use askama::Template;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use self::chart::{Chart, chart};
use crate::plan::Cause;
use crate::progress::ProgressView;
use crate::status::Trigger;
use crate::status::{PassOutcome, PassRecord, RunningPass, Snapshot, TargetState, TargetStatus};
use crate::text::since;
use crate::text::{human_bytes, human_duration, printable, short_commit, timestamp};

/// Rows of the table on one page.
const PAGE_ROWS: usize = 200;
/// Targets that a card names.
const CARD_TARGETS: usize = 5;
/// Seconds between two updates, while a pass is under way and otherwise.
const BUSY_REFRESH: u32 = 2;
const QUIET_REFRESH: u32 = 5;

/// What the address asks for: `?q=&state=&cause=&page=`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    q: String,
    state: String,
    cause: String,
    page: String,
}

#[derive(Template)]
#[template(path = "status.html")]
struct Page<'a> {
    shard: &'a str,
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
    rows: Vec<Row>,
    found: String,
    pager: Option<Pager>,
}

/// The one line on top. While its name stays the same only figures in it change.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    name: &'static str,
    level: &'static str,
    title: String,
    detail: String,
}

/// A moment, for people and for programs.
struct Time {
    ago: String,
    exact: String,
    machine: String,
}

struct PassView {
    title: String,
    detail: String,
    share: Option<(usize, usize)>,
}

struct RunningView {
    name: String,
    stage: &'static str,
    detail: String,
    share: Option<(u64, u64)>,
}

/// One kind of trouble.
struct Card {
    name: &'static str,
    title: &'static str,
    count: String,
    advice: &'static str,
    targets: Vec<CardTarget>,
    rest: Option<(String, String)>,
}

struct CardTarget {
    name: String,
    error: String,
    since: Time,
    lasts: String,
    seen: Option<Time>,
}

struct Chip {
    label: &'static str,
    class: &'static str,
    count: String,
    href: String,
    current: bool,
}

/// What else the list is narrowed down to, and where it is not.
struct Only {
    what: String,
    all: String,
}

struct Row {
    key: String,
    class: &'static str,
    state: String,
    group: String,
    project: String,
    branch: String,
    source: String,
    commit: Option<(String, String)>,
    size: String,
    published: Option<Time>,
    since: Time,
    lasts: String,
    note: String,
    seen: Option<Time>,
}

struct Pager {
    text: String,
    previous: Option<String>,
    next: Option<String>,
}

/// The page.
///
/// # Errors
/// None that writing to a `String` can have.
pub(super) fn html(now: &Snapshot, shard: &str, filter: &Filter) -> Result<String, askama::Error> {
    page(now, shard, filter).render()
}

fn page<'a>(now: &'a Snapshot, shard: &'a str, filter: &'a Filter) -> Page<'a> {
    let mut chosen: Vec<_> = now.targets.iter().filter(|target| filter.matches(target)).collect();
    chosen.sort_by(|a, b| (a.state, &a.destination).cmp(&(b.state, &b.destination)));
    let pages = chosen.len().div_ceil(PAGE_ROWS).max(1);
    let page = filter.page.parse().unwrap_or(1).clamp(1, pages);
    let rows = chosen.iter().skip((page - 1) * PAGE_ROWS).take(PAGE_ROWS);
    Page {
        shard,
        version: env!("CARGO_PKG_VERSION"),
        now: Time::new(now.now, now.now),
        refresh: if now.passes.is_empty() { QUIET_REFRESH } else { BUSY_REFRESH },
        dry_run: now.dry_run,
        verdict: verdict(now),
        facts: facts(now),
        guard: now.guard.as_deref(),
        passes: now.passes.iter().map(|pass| pass_view(pass, now.now)).collect(),
        running: now.running.iter().map(running_view).collect(),
        cards: cards(now),
        chart: chart(now),
        chips: chips(now, filter),
        filter,
        only: filter.only(),
        any: !now.targets.is_empty(),
        rows: rows.map(|target| row(target, now.now)).collect(),
        found: match chosen.len() {
            0 if now.targets.is_empty() => "No targets".to_owned(),
            all if all == now.targets.len() => format!("{}, trouble first", count(all, "target")),
            some => format!("{} of {}", grouped(some), count(now.targets.len(), "target")),
        },
        pager: (pages > 1).then(|| Pager {
            text: format!("Page {page} of {pages}"),
            previous: (page > 1).then(|| filter.href(None, page - 1)),
            next: (page < pages).then(|| filter.href(None, page + 1)),
        }),
    }
}

impl Filter {
    /// From the address's names and values. What is not known is nothing to complain about; of two the last counts.
    pub(super) fn new(pairs: Vec<(String, String)>) -> Self {
        let mut filter = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "q" => filter.q = value,
                "state" => filter.state = value,
                "cause" => filter.cause = value,
                "page" => filter.page = value,
                _ => {}
            }
        }
        filter
    }

    /// What narrows the list down besides the words and a state that has a chip.
    fn only(&self) -> Option<Only> {
        let state = match self.state.as_str() {
            "" => None,
            "attention" => Some("failing or blocked".to_owned()),
            name => match TargetState::ALL.into_iter().find(|state| state.name() == name) {
                // Beside a cause no chip is the current one.
                Some(state) => (!self.cause.is_empty()).then(|| state.to_string()),
                None => Some(printable(name)),
            },
        };
        let cause =
            Cause::ALL.into_iter().find(|cause| cause.name() == self.cause).map(|cause| cause.title().to_owned());
        let cause = cause.or_else(|| (!self.cause.is_empty()).then(|| printable(&self.cause)));
        let what: Vec<_> = [cause, state].into_iter().flatten().collect();
        (!what.is_empty()).then(|| Only { what: what.join(", "), all: self.href(Some(""), 1) })
    }

    /// Every word has to be somewhere in the target's names, commit or error.
    fn matches(&self, target: &TargetStatus) -> bool {
        let state = match self.state.as_str() {
            "" => true,
            "attention" => needs_attention(target),
            name => target.state.name() == name,
        };
        let cause = target.trouble.as_ref().map(|trouble| trouble.cause.name());
        let text = || {
            let source = target.source.as_ref().map(ToString::to_string).unwrap_or_default();
            let error = target.trouble.as_ref().map(|trouble| trouble.error.as_str()).unwrap_or_default();
            let commit = target.commit.as_deref().unwrap_or_default();
            format!("{} {source} {commit} {error}", target.destination).to_lowercase()
        };
        let found = || {
            let (text, wanted) = (text(), self.q.to_lowercase());
            wanted.split_whitespace().all(|word| text.contains(word))
        };
        state && (self.cause.is_empty() || cause == Some(self.cause.as_str())) && (self.q.is_empty() || found())
    }

    /// The address of the same search, with another state or on another page.
    fn href(&self, state: Option<&str>, page: usize) -> String {
        let cause = if state.is_some() { "" } else { &self.cause };
        let page = if page > 1 { page.to_string() } else { String::new() };
        let pairs =
            [("q", self.q.as_str()), ("state", state.unwrap_or(&self.state)), ("cause", cause), ("page", &page)];
        let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let pairs: Vec<_> =
            pairs.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))).collect();
        format!("./?{}#targets", pairs.join("&"))
    }
}

impl Time {
    fn new(time: SystemTime, now: SystemTime) -> Self {
        let machine = timestamp(time).unwrap_or_default();
        let seconds = machine.split('.').next().unwrap_or_default().trim_end_matches('Z');
        let ago = match coarse(since(time, now)) {
            _ if time > now => format!("in {}", coarse(since(now, time))),
            ago => format!("{ago} ago"),
        };
        Self { ago, exact: format!("{} UTC", seconds.replace('T', " ")), machine: format!("{seconds}Z") }
    }
}

/// A time span without seconds where it is longer than a minute: they would only flicker.
fn coarse(span: Duration) -> String {
    let seconds = span.as_secs();
    human_duration(Duration::from_secs(if seconds < 60 { seconds } else { seconds / 60 * 60 }))
}

/// A time span with fractions where it is short.
fn precise(span: Duration) -> String {
    if span < Duration::from_secs(10) { format!("{:.1} s", span.as_secs_f64()) } else { human_duration(span) }
}

/// `1,204`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn count(number: usize, thing: &str) -> String {
    format!("{} {thing}{}", grouped(number), if number == 1 { "" } else { "s" })
}

fn needs_attention(target: &TargetStatus) -> bool {
    matches!(target.state, TargetState::Failing | TargetState::Blocked)
}

fn verdict(now: &Snapshot) -> Verdict {
    let all = now.targets.len();
    let bad = now.targets.iter().filter(|target| needs_attention(target)).count();
    let behind = now.targets.iter().filter(|target| target.state == TargetState::Behind).count();
    let looked = |pass: &PassRecord| format!("Last look {}.", Time::new(pass.began + pass.took, now.now).ago);
    let last = now.last_full_pass();
    if let Some(stalled) = &now.stalled {
        let detail = format!("{}. Look at the log; a restart does no harm.", sentence(stalled));
        return Verdict { name: "hangs", level: "bad", title: "The program hangs".to_owned(), detail };
    }
    let (name, level, title, detail) = match last {
        Some(PassRecord { outcome: PassOutcome::Failed(why), .. }) => {
            let title = "The last pass failed, and nothing was changed".to_owned();
            ("failed", "bad", title, format!("{}.", sentence(why)))
        }
        _ if bad > 0 => {
            let oldest = now.oldest_out_of_sync().unwrap_or_default();
            let verb = if bad == 1 { "needs" } else { "need" };
            let title = format!("{} of {} {verb} attention", grouped(bad), count(all, "target"));
            ("attention", "bad", title, format!("The oldest has been out of sync for {}.", coarse(oldest)))
        }
        _ if now.guard.is_some() => {
            let title = "The retire guard holds objects back".to_owned();
            ("guard", "bad", title, "Everything else goes on as usual.".to_owned())
        }
        _ if behind > 0 => {
            let verb = if behind == 1 { "is" } else { "are" };
            let title = format!("{} of {} {verb} being brought up to date", grouped(behind), count(all, "target"));
            ("behind", "busy", title, "Nothing needs attention.".to_owned())
        }
        None if all == 0 => {
            let title = "The first pass is under way".to_owned();
            ("first", "busy", title, "Targets appear here when it has a plan.".to_owned())
        }
        _ => {
            let title = match all {
                0 => "There are no targets".to_owned(),
                1 => "The only target is in sync".to_owned(),
                _ => format!("All {} are in sync", count(all, "target")),
            };
            ("in_sync", "good", title, last.map(looked).unwrap_or_default())
        }
    };
    Verdict { name, level, title, detail }
}

/// The text with a capital letter in front, and without a full stop.
fn sentence(text: &str) -> String {
    let text = printable(text.trim_end_matches('.'));
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn facts(now: &Snapshot) -> Vec<(&'static str, String)> {
    let mut facts = vec![];
    if let Some(next) = now.next_pass {
        let due = if next > now.now { Time::new(next, now.now).ago } else { "now".to_owned() };
        facts.push(("Next full pass", due));
    }
    facts.push((
        "Last success",
        now.last_success.map_or_else(|| "none since the start".to_owned(), |time| Time::new(time, now.now).ago),
    ));
    if let Some(bucket) = now.bucket {
        let foreign = if bucket.foreign > 0 { format!(", {} foreign", grouped(bucket.foreign)) } else { String::new() };
        facts.push(("In the bucket", format!("{}{foreign}", count(bucket.objects, "object"))));
    }
    if let Some(disk) = now.disk {
        let (mirrors, free) = (human_bytes(disk.mirror_bytes), human_bytes(disk.available_bytes));
        facts.push(("Mirrors", format!("{mirrors}, {free} free")));
    }
    facts.push(("Running for", coarse(since(now.started, now.now))));
    facts
}

fn pass_view(pass: &RunningPass, now: SystemTime) -> PassView {
    let title = match pass.trigger {
        Trigger::Push => "A pass for pushes is under way",
        Trigger::Schedule | Trigger::Signal => "A full pass is under way",
    };
    let detail = match pass.actions {
        None => "looking at target list, branches and bucket".to_owned(),
        Some((all, done)) => format!("{} of {} done", grouped(done), count(all, "action")),
    };
    let share = pass.actions.filter(|(all, _)| *all > 0).map(|(all, done)| (done, all));
    PassView { title: title.to_owned(), detail: format!("{detail}, for {} now", coarse(since(pass.began, now))), share }
}

fn running_view(progress: &ProgressView) -> RunningView {
    let mut parts = vec![];
    if progress.bytes > 0 {
        let of = progress.of.map(|of| format!(" of {}", human_bytes(of))).unwrap_or_default();
        parts.push(format!("{}{of}", human_bytes(progress.bytes)));
        parts.push(format!("{}/s", human_bytes(progress.bytes_per_second)));
    }
    parts.push(coarse(progress.took));
    RunningView {
        name: printable(&progress.destination.to_string()),
        stage: progress.stage.name(),
        detail: parts.join(" · "),
        share: progress.of.map(|of| (progress.bytes, of)),
    }
}

fn cards(now: &Snapshot) -> Vec<Card> {
    let mut by_cause: BTreeMap<Cause, Vec<&TargetStatus>> = BTreeMap::new();
    for target in &now.targets {
        if let Some(trouble) = target.trouble.as_ref().filter(|_| needs_attention(target)) {
            by_cause.entry(trouble.cause).or_default().push(target);
        }
    }
    let card = |(cause, mut targets): (Cause, Vec<&TargetStatus>)| {
        targets.sort_by_key(|target| target.since);
        let named = targets.iter().take(CARD_TARGETS).map(|target| {
            let error = target.trouble.as_ref().map(|trouble| printable(&trouble.error)).unwrap_or_default();
            CardTarget {
                name: printable(&target.destination.to_string()),
                error,
                since: Time::new(target.since, now.now),
                lasts: format!("for {}", coarse(since(target.since, now.now))),
                seen: target.trouble.as_ref().map(|trouble| Time::new(trouble.seen, now.now)),
            }
        });
        let rest = targets.len().saturating_sub(CARD_TARGETS);
        Card {
            name: cause.name(),
            title: cause.title(),
            count: count(targets.len(), "target"),
            advice: cause.advice(),
            targets: named.collect(),
            rest: (rest > 0).then(|| (format!("{} more", grouped(rest)), format!("./?cause={}#targets", cause.name()))),
        }
    };
    by_cause.into_iter().map(card).collect()
}

fn chips(now: &Snapshot, filter: &Filter) -> Vec<Chip> {
    let chip = |label, name: &'static str, number: usize| Chip {
        label,
        class: name,
        count: grouped(number),
        href: filter.href(Some(name), 1),
        current: filter.state == name && filter.cause.is_empty(),
    };
    let of = |state| now.targets.iter().filter(|target| target.state == state).count();
    vec![
        chip("All", "", now.targets.len()),
        chip("Failing", TargetState::Failing.name(), of(TargetState::Failing)),
        chip("Blocked", TargetState::Blocked.name(), of(TargetState::Blocked)),
        chip("Behind", TargetState::Behind.name(), of(TargetState::Behind)),
        chip("In sync", TargetState::InSync.name(), of(TargetState::InSync)),
    ]
}

fn row(target: &TargetStatus, now: SystemTime) -> Row {
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
        commit: target.commit.as_deref().map(|commit| (short_commit(commit), printable(commit))),
        size: target.bytes.map(human_bytes).unwrap_or_default(),
        published: target.published.map(|time| Time::new(time, now)),
        since: Time::new(target.since, now),
        lasts: format!("for {}", coarse(since(target.since, now))),
        note,
        seen: target.trouble.as_ref().map(|trouble| Time::new(trouble.seen, now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Status;

    fn filter(pairs: &[(&str, &str)]) -> Filter {
        Filter::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_dry_run_is_told_apart() {
        for dry_run in [false, true] {
            let (now, filter) = (Status::new("x", Duration::MAX, dry_run).snapshot(), Filter::default());
            assert_eq!(page(&now, "x", &filter).render().unwrap_or_default().contains("Dry run"), dry_run);
        }
    }

    #[test]
    fn of_two_values_the_last_counts_and_unknown_names_do_not() {
        let both = filter(&[("q", "a"), ("x", "y"), ("state", "failing"), ("q", "b")]);
        assert_eq!(both, filter(&[("state", "failing"), ("q", "b")]));
    }

    #[test]
    fn what_no_chip_shows_is_named_and_can_be_taken_away() {
        let only = |pairs: &[(&str, &str)]| filter(pairs).only().map(|only| (only.what, only.all));
        assert_eq!(only(&[]), None);
        assert_eq!(only(&[("q", "words"), ("state", "failing")]), None);
        let expected = ("Uploading to S3 fails".to_owned(), "./?q=two%20words#targets".to_owned());
        assert_eq!(only(&[("q", "two words"), ("cause", "upload")]), Some(expected));
        let expected = ("Uploading to S3 fails, failing".to_owned(), "./?#targets".to_owned());
        assert_eq!(only(&[("state", "failing"), ("cause", "upload")]), Some(expected));
        let expected = ("failing or blocked".to_owned(), "./?#targets".to_owned());
        assert_eq!(only(&[("state", "attention")]), Some(expected));
        assert_eq!(only(&[("cause", "nonsense")]).map(|(what, _)| what), Some("nonsense".to_owned()));
    }
}
