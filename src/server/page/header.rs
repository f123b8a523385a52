//! The top of the page: one line that says how things are, a few facts, and the passes that are running.

use std::time::SystemTime;

use super::figures::{Time, coarse, count, grouped, sentence};
use super::needs_attention;
use super::words::Words;
use crate::model::manifest::KeyId;
use crate::progress::ProgressView;
use crate::status::{PassFailure, PassOutcome, PassRecord, RunningPass, Signatures, Snapshot, TargetState, Trigger};
use crate::text::{human_bytes, printable, since};

/// The headline. While its name stays the same, only figures in it change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) name: &'static str,
    pub(super) level: &'static str,
    pub(super) title: String,
    pub(super) detail: String,
    /// What to do, and where to read more about it.
    pub(super) advice: Option<(String, &'static str)>,
}

impl Verdict {
    fn new(name: &'static str, level: &'static str, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name, level, title: title.into(), detail: detail.into(), advice: None }
    }

    fn advice(self, advice: impl Into<String>, runbook: &'static str) -> Self {
        Self { advice: Some((advice.into(), runbook)), ..self }
    }
}

/// Trusted keys that are named.
const NAMED_KEYS: usize = 3;

pub(super) struct PassView {
    pub(super) name: &'static str,
    pub(super) detail: String,
    pub(super) share: Option<(usize, usize)>,
}

pub(super) struct RunningView {
    pub(super) name: String,
    pub(super) stage: &'static str,
    pub(super) detail: String,
    pub(super) share: Option<(u64, u64)>,
}

pub(super) fn verdict(now: &Snapshot, words: &Words) -> Verdict {
    let all = now.targets.len();
    let bad = now.targets.iter().filter(|target| needs_attention(target)).count();
    let behind = now.targets.iter().filter(|target| target.state == TargetState::Behind).count();
    let some = |number, one, many| {
        let verb = if number == 1 { one } else { many };
        format!("{} of {} {verb}", grouped(number), count(all, words.target))
    };
    let last = now.last_full_pass();
    if let Some(stalled) = &now.stalled {
        return Verdict::new("hangs", "bad", "The program hangs", format!("{}.", sentence(stalled)))
            .advice("Read the log, and restart the program: that is safe at any time.", words.runbook.stuck);
    }
    match last {
        Some(PassRecord { outcome: PassOutcome::Failed(PassFailure { error, advice }), .. }) => {
            let title = "The last pass failed, and nothing was changed";
            let verdict = Verdict::new("failed", "bad", title, format!("{}.", sentence(error)));
            match advice {
                Some(advice) => verdict.advice(advice.as_str(), words.runbook.failed_pass),
                None => verdict,
            }
        }
        _ if bad > 0 => {
            let oldest = coarse(now.oldest_out_of_sync().unwrap_or_default());
            let detail = format!("The oldest has been out of sync for {oldest}.");
            Verdict::new("attention", "bad", some(bad, "needs attention", "need attention"), detail)
        }
        _ if now.guard.is_some() => {
            Verdict::new("guard", "bad", "The retire guard holds objects back", "Everything else continues as usual.")
        }
        _ if behind > 0 => {
            let title = some(behind, "is being brought up to date", "are being brought up to date");
            Verdict::new("behind", "busy", title, "Nothing needs attention.")
        }
        None if all == 0 => {
            let detail = format!("{} appear here once it has a plan.", words.title);
            Verdict::new("first", "busy", "The first pass is under way", detail)
        }
        _ if now.nothing_listed => {
            Verdict::new("nothing", "warn", words.no_targets, "").advice(words.fill, words.runbook.nothing_listed)
        }
        _ => {
            let title = match all {
                0 => format!("No {} is in this shard", words.target),
                1 => format!("The only {} is in sync", words.target),
                _ => format!("All {} are in sync", count(all, words.target)),
            };
            let checked =
                |pass: &PassRecord| format!("Last checked {}.", Time::new(pass.began + pass.took, now.now).ago);
            Verdict::new("in_sync", "good", title, last.map(checked).unwrap_or_default())
        }
    }
}

pub(super) fn facts(now: &Snapshot, words: &Words) -> Vec<(&'static str, String)> {
    let mut facts = vec![];
    if let Some(next) = now.next_pass {
        let due = if next > now.now { Time::new(next, now.now).ago } else { "now".to_owned() };
        facts.push((words.next_pass, due));
    }
    let success = now.last_success.map(|time| Time::new(time, now.now).ago);
    facts.push(("Last success", success.unwrap_or_else(|| "none since the start".to_owned())));
    if let Some(bucket) = now.bucket {
        let foreign = if bucket.foreign > 0 { format!(", {} foreign", grouped(bucket.foreign)) } else { String::new() };
        facts.push(("In the bucket", format!("{}{foreign}", count(bucket.objects, "object"))));
    }
    if let Some(budget) = now.budget.filter(|budget| budget.retired > 0) {
        facts.push(("Retire guard", budget.to_string()));
    }
    if now.saved_bytes() > 0 {
        facts.push(("Saved by increments", human_bytes(now.saved_bytes())));
    }
    facts.extend(now.signatures.as_ref().map(signatures));
    if let Some(disk) = now.disk {
        let free = human_bytes(disk.available_bytes);
        facts.push(match disk.mirror_bytes {
            Some(mirrors) => ("Mirrors", format!("{}, {free} free", human_bytes(mirrors))),
            None => ("WORKDIR", format!("{free} free")),
        });
    }
    facts.push(("Running for", coarse(since(now.started, now.now))));
    facts
}

fn signatures(signatures: &Signatures) -> (&'static str, String) {
    match signatures {
        Signatures::Made(key) => ("Signing key", key.map_or_else(|| "not signed".to_owned(), id)),
        Signatures::Wanted(None) => ("Trusted keys", "none: unsigned objects are taken".to_owned()),
        Signatures::Wanted(Some(keys)) => {
            let named: Vec<_> = keys.iter().take(NAMED_KEYS).copied().map(id).collect();
            let more = match keys.len() - named.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            ("Trusted keys", named.join(", ") + &more)
        }
    }
}

fn id(key: KeyId) -> String {
    key.to_string()
}

pub(super) fn pass_view(pass: &RunningPass, now: SystemTime, words: &Words) -> PassView {
    let name = match pass.trigger {
        Trigger::Push => "A pass for pushes is under way",
        Trigger::Schedule | Trigger::Signal | Trigger::Event => words.a_full_pass,
    };
    let detail = match pass.actions {
        None => format!("reading {}", words.observes),
        Some((all, done)) => format!("{} of {} done", grouped(done), count(all, "action")),
    };
    PassView {
        name,
        detail: format!("{detail}, for {} now", coarse(since(pass.began, now))),
        share: pass.actions.filter(|(all, _)| *all > 0).map(|(all, done)| (done, all)),
    }
}

pub(super) fn running_view(progress: &ProgressView) -> RunningView {
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
        // Before anything has arrived, a bar without a length says more than an empty one: what is sent in one request
        // counts when that is answered.
        share: progress.of.filter(|_| progress.bytes > 0).map(|of| (progress.bytes, of)),
    }
}
