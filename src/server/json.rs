//! The status as JSON; `docs/contract.md` describes it.
//!
//! Invariant: it is written as a stream, target by target.

use std::io::{self, Write};

use serde::{Serialize, Serializer};

use crate::model::manifest::{KeyId, Origin};
use crate::model::program::Program;
use crate::progress::ProgressView;
use crate::status::{PassOutcome, PassRecord, RunningPass, Signatures, Snapshot, TargetState, TargetStatus};
use crate::text::timestamp;

/// Most targets on a page.
const MOST_PER_PAGE: usize = 10_000;

/// A page of the targets: `?limit=…&page=…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// How many targets a page has; above zero.
    limit: usize,
    /// Counted from 1.
    page: usize,
}

impl Page {
    /// `None` without a page. An error says what is wrong.
    pub(super) fn asked(get: impl Fn(&'static str) -> Option<String>) -> Result<Option<Self>, String> {
        let number = |name: &'static str, most: usize| {
            let Some(text) = get(name) else { return Ok(None) };
            let number = text.parse().ok().filter(|number| (1..=most).contains(number));
            number.map(Some).ok_or_else(|| format!("{name} is not a number from 1 to {most}\n"))
        };
        let (limit, page) = (number("limit", MOST_PER_PAGE)?, number("page", usize::MAX)?);
        let asked = limit.is_some() || page.is_some();
        Ok(asked.then(|| Self { limit: limit.unwrap_or(MOST_PER_PAGE), page: page.unwrap_or(1) }))
    }
}

/// Writes the status with all targets, or with one page of them.
pub(super) fn write(to: impl Write, now: &Snapshot, shard: Option<&str>, page: Option<Page>) -> io::Result<()> {
    let count = |state| now.targets.iter().filter(|target| target.state == state).count();
    let counts = TargetState::ALL.map(|state| (state.name(), count(state)));
    let all = now.targets.len();
    let begin = page.map_or(0, |Page { limit, page }| limit.saturating_mul(page - 1).min(all));
    let end = page.map_or(all, |Page { limit, .. }| begin.saturating_add(limit).min(all));
    let document = Document {
        program: now.program.name(),
        version: env!("CARGO_PKG_VERSION"),
        shard,
        now: timestamp(now.now),
        started: timestamp(now.started),
        dry_run: now.dry_run,
        next_pass: now.next_pass.and_then(timestamp),
        last_success: now.last_success.and_then(timestamp),
        stalled: now.stalled.as_deref(),
        retire_guard: now.guard.as_ref().map(|guarded| guarded.guard.to_string()),
        retired_24h: now.budget.map(|budget| budget.retired),
        retire_limit_24h: now.budget.and_then(|budget| budget.limit),
        bucket: now.bucket.map(|bucket| Bucket { objects: bucket.objects, foreign: bucket.foreign }),
        signing_key: match &now.signatures {
            Some(Signatures::Made(key)) => Some(*key),
            Some(Signatures::Wanted(_)) | None => None,
        },
        trusted_keys: match &now.signatures {
            Some(Signatures::Wanted(keys)) => Some(keys.as_deref()),
            Some(Signatures::Made(_)) | None => None,
        },
        disk: now.disk.map(|disk| Disk { mirror_bytes: disk.mirror_bytes, available_bytes: disk.available_bytes }),
        counts: Map(&counts),
        passes: List(now.passes.iter().map(Passing::new)),
        running: List(now.running.iter().map(Running::new)),
        history: List(now.history.iter().map(|pass| Past::new(pass, now.program))),
        page: page.map(|page| page.page),
        pages: page.map(|page| all.div_ceil(page.limit)),
        targets: List(now.targets[begin..end].iter().map(|target| Target::new(target))),
    };
    serde_json::to_writer(to, &document).map_err(io::Error::from)
}

#[derive(Serialize)]
struct Document<'a, P: Serialize, R: Serialize, H: Serialize, T: Serialize> {
    program: &'static str,
    version: &'static str,
    shard: Option<&'a str>,
    now: Option<String>,
    started: Option<String>,
    dry_run: bool,
    next_pass: Option<String>,
    last_success: Option<String>,
    stalled: Option<&'a str>,
    retire_guard: Option<String>,
    retired_24h: Option<usize>,
    retire_limit_24h: Option<usize>,
    bucket: Option<Bucket>,
    /// Of the producer alone; null if it does not sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_key: Option<Option<KeyId>>,
    /// Of the consumer alone; null if it takes unsigned objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_keys: Option<Option<&'a [KeyId]>>,
    disk: Option<Disk>,
    counts: Map<'a>,
    passes: P,
    running: R,
    history: H,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<usize>,
    targets: T,
}

#[derive(Serialize)]
struct Bucket {
    objects: usize,
    foreign: usize,
}

#[derive(Serialize)]
struct Disk {
    #[serde(skip_serializing_if = "Option::is_none")]
    mirror_bytes: Option<u64>,
    available_bytes: u64,
}

/// Serialised as an object.
struct Map<'a>(&'a [(&'static str, usize)]);

impl Serialize for Map<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// Serialised as a list, one element after the other.
struct List<I>(I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for List<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

#[derive(Serialize)]
struct Passing {
    trigger: &'static str,
    began: Option<String>,
    actions: Option<usize>,
    done: Option<usize>,
}

impl Passing {
    fn new(pass: &RunningPass) -> Self {
        Self {
            trigger: pass.trigger.name(),
            began: timestamp(pass.began),
            actions: pass.actions.map(|(all, _)| all),
            done: pass.actions.map(|(_, done)| done),
        }
    }
}

#[derive(Serialize)]
struct Running<'a> {
    group: &'a str,
    project: &'a str,
    branch: &'a str,
    stage: &'static str,
    bytes: u64,
    of: Option<u64>,
    bytes_per_second: u64,
    seconds: f64,
}

impl<'a> Running<'a> {
    fn new(progress: &'a ProgressView) -> Self {
        Self {
            group: &progress.destination.group,
            project: &progress.destination.project,
            branch: &progress.destination.branch,
            stage: progress.stage.name(),
            bytes: progress.bytes,
            of: progress.of,
            bytes_per_second: progress.bytes_per_second,
            seconds: progress.took.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct Past<'a> {
    trigger: &'static str,
    began: Option<String>,
    seconds: f64,
    outcome: &'static str,
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered: Option<usize>,
    troubled: usize,
}

impl<'a> Past<'a> {
    fn new(pass: &'a PassRecord, program: Program) -> Self {
        let of = |wanted: Program, number: usize| (program == wanted).then_some(number);
        let error = match &pass.outcome {
            PassOutcome::Failed(failure) => Some(failure.error.as_str()),
            PassOutcome::Success | PassOutcome::Incomplete => None,
        };
        Self {
            trigger: pass.trigger.name(),
            began: timestamp(pass.began),
            seconds: pass.took.as_secs_f64(),
            outcome: pass.outcome.name(),
            error,
            published: of(Program::Producer, pass.transferred),
            retired: of(Program::Producer, pass.retired),
            delivered: of(Program::Consumer, pass.transferred),
            troubled: pass.troubled,
        }
    }
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

#[derive(Serialize)]
struct Target<'a> {
    group: &'a str,
    project: &'a str,
    branch: &'a str,
    source_project: Option<&'a str>,
    source_branch: Option<&'a str>,
    state: &'static str,
    since: Option<String>,
    commit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<&'a str>,
    bytes: Option<u64>,
    published: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    increments: usize,
    #[serde(skip_serializing_if = "is_zero")]
    saved_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<KeyId>,
    pending: Option<&'a str>,
    cause: Option<&'static str>,
    error: Option<&'a str>,
    error_seen: Option<String>,
}

impl<'a> Target<'a> {
    fn new(target: &'a TargetStatus) -> Self {
        let trouble = target.trouble.as_ref();
        Self {
            group: &target.destination.group,
            project: &target.destination.project,
            branch: &target.destination.branch,
            source_project: target.source.as_ref().map(|source| source.project.as_str()),
            source_branch: target.source.as_ref().map(|source| source.branch.as_str()),
            state: target.state.name(),
            since: timestamp(target.since),
            commit: target.commit.as_deref(),
            waiting: target.waiting.as_deref(),
            bytes: target.bytes,
            published: target.published.and_then(timestamp),
            increments: target.increments,
            saved_bytes: target.saved_bytes,
            origin: target.origin.map(Origin::name),
            signed_by: target.origin.and_then(Origin::key),
            pending: target.pending.as_deref(),
            cause: trouble.map(|trouble| trouble.cause.name()),
            error: trouble.map(|trouble| trouble.error.as_str()),
            error_seen: trouble.and_then(|trouble| timestamp(trouble.seen)),
        }
    }
}
