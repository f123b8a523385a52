//! What a plan and its outcomes say about single targets.
//!
//! Invariant: what the plan does not say stays as it was known before: since when, and the last error.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::{Seen, TargetState, TargetStatus, TargetTrouble};
use crate::model::key::{Destination, HeldObject};
use crate::model::target::Source;
use crate::plan::outcome::{Done, Failure, Outcome};
use crate::plan::{Action, Cause, PublishReason};

/// What a record is made of.
struct Facts<'a> {
    now: SystemTime,
    before: &'a BTreeMap<Destination, Arc<TargetStatus>>,
    remembered: &'a BTreeMap<Destination, SystemTime>,
    newest: HashMap<&'a Destination, &'a HeldObject>,
    sources: HashMap<&'a Destination, &'a Source>,
}

impl<'a> Facts<'a> {
    fn new(
        before: &'a BTreeMap<Destination, Arc<TargetStatus>>,
        remembered: &'a BTreeMap<Destination, SystemTime>,
        Seen { targets, held, .. }: &Seen<'a>,
    ) -> Self {
        let mut newest: HashMap<&Destination, &HeldObject> = HashMap::new();
        for object in *held {
            let slot = newest.entry(&object.name.destination).or_insert(object);
            if slot.last_modified <= object.last_modified {
                *slot = object;
            }
        }
        let sources = targets.iter().map(|target| (&target.destination, &target.source)).collect();
        Self { now: SystemTime::now(), before, remembered, newest, sources }
    }

    fn record(&self, destination: &Destination, state: TargetState) -> TargetStatus {
        let object = self.newest.get(destination);
        let since = match (self.before.get(destination), state) {
            (Some(before), _) if (before.state == TargetState::InSync) == (state == TargetState::InSync) => {
                before.since
            }
            // If nothing better is known, it has been in sync since its object was written.
            (None, TargetState::InSync) => object.map_or(self.now, |object| object.last_modified),
            (None, _) => self.remembered.get(destination).copied().unwrap_or(self.now),
            (Some(_), _) => self.now,
        };
        TargetStatus {
            source: self.sources.get(destination).map(|source| (*source).clone()),
            commit: object.map(|object| object.name.commit.clone()),
            bytes: object.map(|object| object.bytes),
            published: object.map(|object| object.last_modified),
            ..TargetStatus::new(destination, state, since)
        }
    }

    /// An error of an action stays until another action succeeds.
    fn to_publish(&self, destination: &Destination, reason: &PublishReason) -> TargetStatus {
        let before = self.before.get(destination);
        let acted_on = |trouble: &TargetTrouble| trouble.cause.is_of_an_action();
        let failing = before.filter(|before| before.trouble.as_ref().is_some_and(acted_on));
        TargetStatus {
            pending: Some(reason.to_string()),
            trouble: failing.and_then(|failing| failing.trouble.clone()),
            ..self.record(destination, failing.map_or(TargetState::Behind, |failing| failing.state))
        }
    }
}

/// The records of a pass's targets. What the plan does not say comes from the records `before`, else from what an earlier
/// process saved.
pub(super) fn records(
    before: &BTreeMap<Destination, Arc<TargetStatus>>,
    remembered: &BTreeMap<Destination, SystemTime>,
    seen: &Seen<'_>,
) -> BTreeMap<Destination, Arc<TargetStatus>> {
    let (facts, plan) = (Facts::new(before, remembered, seen), seen.plan);
    let in_sync = plan.unchanged.iter().map(|unchanged| &unchanged.target.destination);
    let mut records: BTreeMap<_, _> = in_sync
        .map(|destination| (destination.clone(), Arc::new(facts.record(destination, TargetState::InSync))))
        .collect();
    for action in &plan.actions {
        let destination = action.destination();
        let mut target = match action {
            Action::Publish(publish) => facts.to_publish(destination, &publish.reason),
            Action::Sweep(_) => facts.record(destination, TargetState::InSync),
            Action::Retire(_) => continue,
        };
        target.source = target.source.or_else(|| before.get(destination).and_then(|before| before.source.clone()));
        records.insert(destination.clone(), Arc::new(target));
    }
    for blocked in &plan.blocked {
        let (cause, error) = (Cause::of_blocker(&blocked.blocker), blocked.blocker.to_string());
        let target = records
            .entry(blocked.destination.clone())
            .or_insert_with(|| Arc::new(facts.record(&blocked.destination, TargetState::Blocked)));
        let target = Arc::make_mut(target);
        match &mut target.trouble {
            Some(trouble) => trouble.error = format!("{}; {error}", trouble.error),
            None => target.trouble = Some(TargetTrouble { cause, error, seen: facts.now }),
        }
    }
    for held in &plan.held_retirements {
        let trouble = held.reason.is_trouble();
        let state = if trouble { TargetState::Blocked } else { TargetState::Behind };
        let reason = held.reason.to_string();
        let record =
            records.entry(held.destination.clone()).or_insert_with(|| Arc::new(facts.record(&held.destination, state)));
        let record = Arc::make_mut(record);
        if trouble {
            record.trouble = Some(TargetTrouble { cause: Cause::Kept, error: reason, seen: facts.now });
        } else {
            record.pending = Some(reason);
        }
    }
    let moved = seen.moved.iter().filter_map(|destination| before.get_key_value(destination));
    records.extend(moved.map(|(destination, known)| (destination.clone(), known.clone())));
    records
}

/// How many objects the bucket holds after a full pass has listed it. Destinations that another pass has changed meanwhile
/// count as in the records `before`.
pub(super) fn objects_now(
    Seen { held, moved, .. }: &Seen<'_>,
    before: &BTreeMap<Destination, Arc<TargetStatus>>,
) -> usize {
    let listed = held.iter().filter(|object| !moved.contains(&object.name.destination)).count();
    let known =
        moved.iter().filter(|destination| before.get(destination).is_some_and(|target| target.commit.is_some()));
    listed + known.count()
}

/// Adds the objects that an action created, and subtracts those that it deleted.
pub(super) fn count_objects(objects: &mut usize, Outcome { action, result }: &Outcome) {
    let (came, gone) = match (action, result) {
        (Action::Publish(publish), Ok(Done::Published(published))) => {
            let overwritten = publish.overwrites_key() && published.key == publish.key;
            (1, publish.supersedes.len() + usize::from(overwritten))
        }
        (Action::Retire(retire), Ok(_)) => (0, retire.keys.len()),
        (Action::Sweep(sweep), Ok(_)) => (0, sweep.keys.len()),
        (Action::Publish(_), Ok(Done::Deleted)) | (_, Err(_)) => return,
    };
    *objects = (*objects + came).saturating_sub(gone);
}

/// Records the outcome of an action.
pub(super) fn settle(targets: &mut BTreeMap<Destination, Arc<TargetStatus>>, Outcome { action, result }: &Outcome) {
    let now = SystemTime::now();
    let destination = action.destination();
    let mut out_of_sync = |state, cause, error: &String| {
        let target = targets
            .entry(destination.clone())
            .or_insert_with(|| Arc::new(TargetStatus::new(destination, TargetState::InSync, now)));
        let target = Arc::make_mut(target);
        if target.state == TargetState::InSync {
            target.since = now;
        }
        target.state = state;
        target.trouble = Some(TargetTrouble { cause, error: error.clone(), seen: now });
    };
    match (action, result) {
        (Action::Retire(_), Ok(_)) => drop(targets.remove(destination)),
        (Action::Publish(_) | Action::Sweep(_), Ok(done)) => {
            let Some(target) = targets.get_mut(destination).map(Arc::make_mut) else { return };
            if target.state != TargetState::InSync {
                (target.state, target.since) = (TargetState::InSync, now);
            }
            (target.pending, target.trouble) = (None, None);
            if let Done::Published(published) = done {
                target.commit = Some(published.commit.to_string());
                target.bytes = Some(published.bytes);
                target.published = Some(now);
            }
        }
        (_, Err(Failure::Stopped)) => {}
        (_, Err(Failure::Held { error, .. })) => out_of_sync(TargetState::Blocked, Cause::Held, error),
        (_, Err(Failure::Failed { cause, error, .. })) => out_of_sync(TargetState::Failing, *cause, error),
    }
}
