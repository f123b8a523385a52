//! What a plan and its outcomes say about single targets.
//!
//! Invariant: what the plan does not say is kept as it was known before: since when, and the last error.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use super::{Cause, Seen, TargetState, TargetStatus, Trouble};
use crate::apply::{Done, Outcome};
use crate::key::{self, Destination};
use crate::plan::{Action, HeldObject};
use crate::report::error_chain;

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

/// The keys in the bucket, after a full pass has listed it: of destinations that another pass was at meanwhile those
/// known `before`.
pub(super) fn keys_now(Seen { held, moved, .. }: &Seen<'_>, before: HashSet<String>) -> HashSet<String> {
    let listed = held.iter().filter(|object| !moved.contains(&object.name.destination));
    let mut keys: HashSet<_> = listed.map(|object| object.key.clone()).collect();
    if !moved.is_empty() {
        let is_moved = |key: &String| key::decode(key).is_some_and(|name| moved.contains(&name.destination));
        keys.extend(before.into_iter().filter(is_moved));
    }
    keys
}

/// Enters which objects came and went with an action.
pub(super) fn count_objects(keys: &mut HashSet<String>, Outcome { action, result }: &Outcome) {
    let Ok(done) = result else { return };
    let gone = match action {
        Action::Publish(publish) => &publish.supersedes,
        Action::Retire(retire) => &retire.keys,
        Action::Sweep(sweep) => &sweep.keys,
    };
    for key in gone {
        keys.remove(key);
    }
    if let Done::Published(published) = done {
        keys.insert(published.key.clone());
    }
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
        (_, Err(failure)) if failure.is_stop() => {}
        (_, Err(failure)) => {
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
            let cause = Cause::of_failure(failure);
            target.state = if cause == Cause::Held { TargetState::Blocked } else { TargetState::Failing };
            target.trouble = Some(Trouble { cause, error: error_chain(failure), seen: now });
        }
    }
}
