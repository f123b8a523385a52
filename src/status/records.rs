//! What the producer's plans, outcomes and reports say about single targets.
//!
//! Invariant: what the plan does not say stays as it was known before: since when, and the last error.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::metrics::Count;
use super::{
    Arrived, BucketCount, Change, Guarded, HeldIncrements, Increments, Known, PassSummary, Seen, TargetState,
    TargetStatus, TargetTrouble, Targets, What, Whole, increments,
};
use crate::model::key::{self, Destination, HeldObject};
use crate::model::stage::Stage;
use crate::model::target::{Source, Target};
use crate::plan::outcome::{Done, Failure, Outcome};
use crate::plan::report::Report;
use crate::plan::{Action, Cause, Plan, Publish};

/// What a pass of the producer observed and planned.
#[derive(Debug)]
pub struct Planned<'a> {
    pub plan: &'a Plan,
    pub targets: &'a [&'a Target],
    pub held: &'a [HeldObject],
    /// How many foreign objects the bucket holds; `None` for a pass for pushes.
    pub foreign: Option<usize>,
    /// Whether the target list is empty, for all shards.
    pub no_targets: bool,
    /// Destinations that another pass has changed meanwhile: what is known of them is newer than this observation.
    pub moved: &'a BTreeSet<Destination>,
}

impl Planned<'_> {
    /// What is shown of it.
    pub fn seen(&self, known: &Known<'_>) -> Seen {
        let whole = self.foreign.map(|foreign| Whole {
            bucket: BucketCount { objects: self.objects(known), foreign },
            nothing_listed: self.no_targets,
            budget: Some(self.plan.budget),
            guard: self.plan.guard.map(|guard| Guarded { guard, first: self.plan.first_guarded().to_vec() }),
        });
        Seen { records: records(self, known), actions: self.plan.actions.len(), whole }
    }

    /// How many objects the bucket holds. Destinations that another pass has changed meanwhile count as they are known.
    fn objects(&self, known: &Known<'_>) -> usize {
        let listed = self.held.iter().filter(|object| !self.moved.contains(&object.name.destination)).count();
        let has_object =
            |destination: &&Destination| known.targets.get(destination).is_some_and(|target| target.commit.is_some());
        listed + self.moved.iter().filter(has_object).count()
    }
}

/// What a record is made of.
struct Facts<'a> {
    known: &'a Known<'a>,
    newest: HashMap<&'a Destination, &'a HeldObject>,
    sources: HashMap<&'a Destination, &'a Source>,
    increments: HashMap<&'a Destination, HeldIncrements<'a>>,
}

impl<'a> Facts<'a> {
    fn new(known: &'a Known<'a>, Planned { targets, held, .. }: &Planned<'a>) -> Self {
        let mut newest: HashMap<&Destination, &HeldObject> = HashMap::new();
        for object in *held {
            let slot = newest.entry(&object.name.destination).or_insert(object);
            if slot.last_modified <= object.last_modified {
                *slot = object;
            }
        }
        let sources = targets.iter().map(|target| (&target.destination, &target.source)).collect();
        Self { known, newest, sources, increments: increments(held) }
    }

    fn record(&self, destination: &Destination, state: TargetState) -> TargetStatus {
        let increments = self.increments.get(destination);
        let object = increments.map(|held| held.tip).or_else(|| self.newest.get(destination).copied());
        let since = self.known.since(destination, state, object.map(|object| object.last_modified));
        let (count, saved_bytes) = increments.map_or((0, 0), |held| (held.count, held.saved_bytes));
        let before = self.known.targets.get(destination);
        TargetStatus {
            source: self.sources.get(destination).map(|source| (*source).clone()),
            commit: object.map(|object| object.name.commit.clone()),
            bytes: object.map(|object| object.bytes),
            published: object.map(|object| object.last_modified),
            increments: count,
            saved_bytes: before.map_or(saved_bytes, |before| before.saved_bytes),
            outcomes: self.known.outcomes(destination, state),
            ..TargetStatus::new(destination, state, since)
        }
    }

    /// An error of an action stays until another action succeeds.
    fn to_publish(&self, destination: &Destination, publish: &Publish) -> TargetStatus {
        let before = self.known.targets.get(destination);
        let acted_on = |trouble: &TargetTrouble| trouble.cause.is_of_an_action();
        let failing = before.filter(|before| before.trouble.as_ref().is_some_and(acted_on));
        TargetStatus {
            pending: Some(publish.why()),
            trouble: failing.and_then(|failing| failing.trouble.clone()),
            ..self.record(destination, failing.map_or(TargetState::Behind, |failing| failing.state))
        }
    }
}

/// The records of a pass's targets. What the plan does not say comes from what was known.
fn records(planned: &Planned<'_>, known: &Known<'_>) -> Targets {
    let (facts, plan) = (Facts::new(known, planned), planned.plan);
    let (now, before) = (known.now, known.targets);
    let in_sync = plan.unchanged.iter().map(|unchanged| &unchanged.target.destination);
    let mut records: Vec<_> =
        in_sync.map(|destination| before.shared(facts.record(destination, TargetState::InSync))).collect();
    for action in &plan.actions {
        let destination = action.destination();
        let mut target = match action {
            Action::Publish(publish) => facts.to_publish(destination, publish),
            Action::Sweep(_) => facts.record(destination, TargetState::InSync),
            Action::Retire(_) => continue,
        };
        target.source = target.source.or_else(|| before.get(destination).and_then(|before| before.source.clone()));
        records.push(before.shared(target));
    }
    // Sorted by destination, and no action or unchanged target is among them.
    for blocked in plan.blocked.chunk_by(|a, b| a.destination == b.destination) {
        let Some(first) = blocked.first() else { continue };
        let errors: Vec<_> = blocked.iter().map(|blocked| blocked.blocker.to_string()).collect();
        let (cause, error) = (Cause::of_blocker(&first.blocker), errors.join("; "));
        let mut record = facts.record(&first.destination, TargetState::Blocked);
        record.trouble = Some(TargetTrouble { cause, error, seen: now });
        records.push(Arc::new(record));
    }
    for held in &plan.held_retirements {
        let trouble = held.reason.is_trouble();
        let reason = held.reason.to_string();
        let mut record =
            facts.record(&held.destination, if trouble { TargetState::Blocked } else { TargetState::Behind });
        if trouble {
            record.trouble = Some(TargetTrouble { cause: Cause::Kept, error: reason, seen: now });
        } else {
            record.pending = Some(reason);
        }
        records.push(before.shared(record));
    }
    records.extend(planned.moved.iter().filter_map(|destination| before.get(destination)).cloned());
    records.into_iter().collect()
}

impl Change {
    /// What an action of the producer has changed that ended in this stage.
    pub fn of(Outcome { action, result }: &Outcome, at: Stage) -> Self {
        let out_of_sync = |state, cause, stage, error: &String| Self {
            what: What::OutOfSync { state, cause, stage, error: error.clone() },
            ..Self::NONE
        };
        match (action, result) {
            (Action::Publish(publish), Ok(Done::Published(published))) => {
                let overwritten = publish.overwrites && published.key == publish.key;
                let replaced = publish.replaced_by(&published.key).count();
                let (commit, bytes) = (published.commit.to_string(), published.bytes);
                let increments = match published.base {
                    None => Increments::None,
                    Some(_) => Increments::OneMore {
                        gone: publish.replaced_by(&published.key).filter(|key| is_increment(key)).count(),
                    },
                };
                Self {
                    what: What::InSync(Some(Arrived {
                        commit,
                        bytes,
                        published: SystemTime::now(),
                        increments,
                        origin: None,
                    })),
                    objects: (1, replaced + usize::from(overwritten)),
                    count: Some(Count::published(&publish.reason)),
                    saved_bytes: published.saved_bytes,
                }
            }
            (Action::Publish(publish), Ok(Done::Deleted)) => {
                Self { what: What::InSync(None), count: Some(Count::published(&publish.reason)), ..Self::NONE }
            }
            (Action::Retire(retire), Ok(_)) => Self {
                what: What::Removed,
                objects: (0, retire.keys.len()),
                count: Some(Count::retired(retire.reason)),
                saved_bytes: 0,
            },
            (Action::Sweep(sweep), Ok(_)) => {
                let objects = (0, sweep.keys.len());
                Self { what: What::InSync(None), objects, count: Some(Count::Swept), saved_bytes: 0 }
            }
            (_, Err(Failure::Stopped)) => Self::NONE,
            (_, Err(Failure::Held { error, .. })) => out_of_sync(TargetState::Blocked, Cause::Held, at, error),
            (_, Err(Failure::Failed { cause, stage, error })) => {
                out_of_sync(TargetState::Failing, *cause, *stage, error)
            }
        }
    }
}

fn is_increment(key: &str) -> bool {
    key::decode(key).is_some_and(|decoded| decoded.content.format().is_none())
}

impl From<&Report> for PassSummary {
    fn from(report: &Report) -> Self {
        Self {
            success: report.is_success(),
            transferred: report.published,
            retired: report.retired,
            troubled: report.blocked.len() + report.failed.len() + report.held.len(),
        }
    }
}
