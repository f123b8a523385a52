//! What a plan and its outcomes say about single targets.
//!
//! Invariant: what the plan does not say is kept as it was known before: since when, and the last error.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use super::{Seen, TargetState, TargetStatus, Trouble};
use crate::model::key::Destination;
use crate::model::key::HeldObject;
use crate::plan::Action;
use crate::plan::Cause;
use crate::plan::outcome::Failure;
use crate::plan::outcome::{Done, Outcome};

/// The records of the targets that a pass is about. What was known before is kept where the plan does not say better, and
/// what an earlier process knew where nothing was.
pub(super) fn records(
    before: &BTreeMap<Destination, TargetStatus>,
    remembered: &BTreeMap<Destination, SystemTime>,
    Seen { plan, targets, held, moved, .. }: &Seen<'_>,
) -> BTreeMap<Destination, TargetStatus> {
    let now = SystemTime::now();
    let mut newest: HashMap<&Destination, &HeldObject> = HashMap::new();
    for object in *held {
        let slot = newest.entry(&object.name.destination).or_insert(object);
        if slot.last_modified <= object.last_modified {
            *slot = object;
        }
    }
    let sources: HashMap<_, _> = targets.iter().map(|target| (&target.destination, &target.source)).collect();
    let record = |destination: &Destination, state: TargetState| {
        let (before, object) = (before.get(destination), newest.get(destination));
        let since = match (before, state) {
            (Some(before), _) if (before.state == TargetState::InSync) == (state == TargetState::InSync) => {
                before.since
            }
            // It has been in sync for as long as its object is there, unless it is known better.
            (None, TargetState::InSync) => object.map_or(now, |object| object.last_modified),
            (None, _) => remembered.get(destination).copied().unwrap_or(now),
            (Some(_), _) => now,
        };
        TargetStatus {
            destination: destination.clone(),
            source: sources.get(destination).map(|source| (*source).clone()),
            state,
            commit: object.map(|object| object.name.commit.clone()),
            bytes: object.map(|object| object.bytes),
            published: object.map(|object| object.last_modified),
            since,
            pending: None,
            trouble: None,
        }
    };
    let mut records: BTreeMap<Destination, TargetStatus> = BTreeMap::new();
    for unchanged in &plan.unchanged {
        let destination = &unchanged.target.destination;
        records.insert(destination.clone(), record(destination, TargetState::InSync));
    }
    for action in &plan.actions {
        let destination = action.destination();
        let mut target = match action {
            Action::Publish(publish) => {
                // Whatever failed or was held last time stays so until it has worked.
                let acted_on = |trouble: &Trouble| trouble.cause.is_of_an_action();
                let failing = before.get(destination).filter(|before| before.trouble.as_ref().is_some_and(acted_on));
                let state = failing.map_or(TargetState::Behind, |failing| failing.state);
                let trouble = failing.and_then(|failing| failing.trouble.clone());
                TargetStatus { pending: Some(publish.reason.to_string()), trouble, ..record(destination, state) }
            }
            Action::Sweep(_) => record(destination, TargetState::InSync),
            Action::Retire(_) => continue,
        };
        target.source = target.source.or_else(|| before.get(destination).and_then(|before| before.source.clone()));
        records.insert(destination.clone(), target);
    }
    for blocked in &plan.blocked {
        let cause = Cause::of_blocker(&blocked.blocker);
        let error = blocked.blocker.to_string();
        let target = records
            .entry(blocked.destination.clone())
            .or_insert_with(|| record(&blocked.destination, TargetState::Blocked));
        match &mut target.trouble {
            Some(trouble) => trouble.error = format!("{}; {error}", trouble.error),
            None => target.trouble = Some(Trouble { cause, error, seen: now }),
        }
    }
    for destination in *moved {
        if let Some(known) = before.get(destination) {
            records.insert(destination.clone(), known.clone());
        }
    }
    records
}

/// How many objects the bucket holds after a full pass has listed it. Destinations that another pass was at in the
/// meantime count as they were known `before`.
pub(super) fn objects_now(Seen { held, moved, .. }: &Seen<'_>, before: &BTreeMap<Destination, TargetStatus>) -> usize {
    let listed = held.iter().filter(|object| !moved.contains(&object.name.destination)).count();
    let known =
        moved.iter().filter(|destination| before.get(destination).is_some_and(|target| target.commit.is_some()));
    listed + known.count()
}

/// Enters how many objects came and went with an action.
pub(super) fn count_objects(objects: &mut usize, Outcome { action, result }: &Outcome) {
    if result.is_err() {
        return;
    }
    let (came, gone) = match action {
        Action::Publish(publish) => (1, publish.objects_held()),
        Action::Retire(retire) => (0, retire.keys.len()),
        Action::Sweep(sweep) => (0, sweep.keys.len()),
    };
    *objects = (*objects + came).saturating_sub(gone);
}

/// Enters what became of an action.
pub(super) fn settle(targets: &mut BTreeMap<Destination, TargetStatus>, Outcome { action, result }: &Outcome) {
    let now = SystemTime::now();
    let destination = action.destination();
    let in_sync = |target: &mut TargetStatus| {
        if target.state != TargetState::InSync {
            (target.state, target.since) = (TargetState::InSync, now);
        }
        (target.pending, target.trouble) = (None, None);
    };
    let mut out_of_sync = |state, cause, error: &String| {
        let target = targets.entry(destination.clone()).or_insert_with(|| TargetStatus {
            destination: destination.clone(),
            source: None,
            state: TargetState::InSync,
            commit: None,
            bytes: None,
            published: None,
            since: now,
            pending: None,
            trouble: None,
        });
        if target.state == TargetState::InSync {
            target.since = now;
        }
        target.state = state;
        target.trouble = Some(Trouble { cause, error: error.clone(), seen: now });
    };
    match (action, result) {
        (Action::Retire(_), Ok(_)) => drop(targets.remove(destination)),
        (Action::Publish(_) | Action::Sweep(_), Ok(done)) => {
            let Some(target) = targets.get_mut(destination) else { return };
            in_sync(target);
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
